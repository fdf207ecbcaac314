"""What the lab needs of this machine: root, room, a Python environment, a container engine and a Debian base image."""

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from . import paths
from .report import Problem, Report

BASE_IMAGE = "debian:trixie-slim"
ROOM_BYTES = 10 * 1024**3
ENGINE_PID = paths.STATE / "dockerd.pid"
ENGINE_LOG = paths.STATE / "dockerd.log"
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR_CURE = "check that this machine reaches its Debian mirror (apt-get update), then run the same command again"


def check() -> None:
    """Refuse early, before anything is touched."""
    if os.geteuid() != 0:
        raise Problem("bin/lab makes containers that act as hosts, and that needs root", "sudo bin/lab")
    if not Path("/etc/debian_version").exists():
        raise Problem("this machine is not Debian", "use a Debian 12 or 13 machine, virtual or not")
    for place in (paths.ROOT, Path("/var/lib")):
        free = shutil.disk_usage(place).free
        if free < ROOM_BYTES:
            raise Problem(
                f"{place} has {free / 1e9:.1f} GB free and the lab needs {ROOM_BYTES / 1e9:.0f}",
                "free some room (docker system prune removes unused images), then run the same command again",
            )


def install(report: Report, packages: list[str]) -> None:
    """Install Debian packages without starting their services' dialogs."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    cause = f"Debian packages could not be installed: {' '.join(packages)}"
    apt = ["apt-get", "-q", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=120"]
    report.command([*apt, "update"], cause=cause, cure=MIRROR_CURE, env=env)
    report.command([*apt, "install", "-y", "--no-install-recommends", *packages], cause=cause, cure=MIRROR_CURE, env=env)


def unpacked(report: Report, package: str, suite: str = "") -> Path:
    """Where the files of a Debian package are that is not installed: its service must not start here, or it is of another release."""
    place = paths.VENV / "debian" / package
    if place.exists():
        return place
    cause = f"Debian's package {package} could not be fetched"
    with tempfile.TemporaryDirectory() as draft:
        Path(draft, "lists/partial").mkdir(parents=True)
        apt = ["apt-get", "-q", "-o", "Acquire::Retries=3", "-o", f"Dir::State::Lists={draft}/lists", "-o", "APT::Sandbox::User=root"]
        if suite:
            mirrors = report.command(
                ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"], cause=cause, cure=MIRROR_CURE
            )
            mirror = next((line for line in mirrors.splitlines() if "security" not in line), "")
            Path(draft, "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
            apt += ["-o", f"Dir::Etc::SourceList={draft}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null"]
        report.command([*apt, "update"], cause=cause, cure=MIRROR_CURE)
        report.command([*apt, "download", package], cause=cause, cure=MIRROR_CURE, cwd=Path(draft))
        [archive] = Path(draft).glob("*.deb")
        report.command(["dpkg-deb", "--extract", str(archive), f"{draft}/files"], cause=cause, cure=MIRROR_CURE)
        place.parent.mkdir(exist_ok=True)
        shutil.copytree(f"{draft}/files", place, symlinks=True)
    return place


def python_environment(report: Report) -> str:
    """Make `.venv` from requirements.txt (pinned and hashed); returns a note for the step's line."""
    stamp, digest = paths.VENV / ".requirements", hashlib.sha256((paths.ROOT / "requirements.txt").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return "there"
    needed = [] if subprocess.run(["python3", "-c", "import ensurepip, venv"], capture_output=True).returncode == 0 else ["python3-venv"]
    needed += [] if shutil.which("ssh") else ["openssh-client"]
    if needed:
        install(report, needed)
    pip_cure = "check that this machine reaches its Python package index (pip config list), then run the same command again"
    stamp.unlink(missing_ok=True)
    report.command(["python3", "-m", "venv", str(paths.VENV)], cure="remove .venv, then run the same command again")
    report.command(
        [f"{paths.VENV}/bin/pip", "install", "--disable-pip-version-check", "--require-hashes", "-r", f"{paths.ROOT}/requirements.txt"],
        cause="the Python requirements could not be installed",
        cure=pip_cure,
    )
    stamp.write_text(digest)
    return "installed"


def engine_answers() -> bool:
    return bool(shutil.which("docker")) and subprocess.run(["docker", "version"], capture_output=True).returncode == 0


def engine(report: Report) -> str:
    """Have a running Docker Engine: use the one that is there, else Debian's; returns a note."""
    if engine_answers():
        return "there"
    note = "started"
    if not shutil.which("dockerd"):
        install(report, ["docker.io", "iptables"])
        note = "installed"
    if Path("/run/systemd/system").is_dir():
        report.command(["systemctl", "start", "docker"], cure="see why: journalctl -u docker; then run the same command again")
    else:
        with ENGINE_LOG.open("ab") as log:
            process = subprocess.Popen(["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        ENGINE_PID.write_text(str(process.pid))
    for _ in range(120):
        if engine_answers():
            return note
        time.sleep(0.5)
    raise Problem(
        "the Docker Engine does not answer after 60 s",
        f"see why in {ENGINE_LOG} or `journalctl -u docker`, then run the same command again",
    )


def stop_own_engine(report: Report) -> str:
    """Stop the engine if the lab started it and nothing else runs on it; returns a note."""
    if not ENGINE_PID.exists():
        return "not ours"
    pid = int(ENGINE_PID.read_text())
    command = Path(f"/proc/{pid}/cmdline")
    if command.exists() and b"dockerd" in command.read_bytes():
        if subprocess.run(["docker", "ps", "-q"], capture_output=True, text=True).stdout.strip():
            return "kept, in use"
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            if not command.exists() or b"dockerd" not in command.read_bytes():
                break
            time.sleep(0.2)
    ENGINE_PID.unlink()
    return "stopped"


def keep_overcommit() -> None:
    """The hosts share this machine's kernel, and a playbook sets vm.overcommit_memory; remember what it was."""
    kept = paths.STATE / "vm.overcommit_memory"
    if not kept.exists():
        kept.write_text(OVERCOMMIT.read_text())


def restore_overcommit() -> None:
    kept = paths.STATE / "vm.overcommit_memory"
    if kept.exists():
        OVERCOMMIT.write_text(kept.read_text())


def has_image(name: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", name], capture_output=True).returncode == 0


def base_image(report: Report) -> str:
    """Have the Debian base image: there already, pulled, or built from Debian's packages; returns a note."""
    if has_image(BASE_IMAGE):
        return "there"
    if subprocess.run(["timeout", "60", "docker", "pull", "-q", BASE_IMAGE], capture_output=True).returncode == 0:
        return "pulled"
    if not shutil.which("mmdebstrap"):
        install(report, ["mmdebstrap"])
    archive = paths.STATE / "base.tar"
    try:
        report.command(
            ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", "trixie", str(archive)],
            cause="the Debian base image could not be pulled, nor built from packages",
            cure=MIRROR_CURE,
        )
        report.command(["docker", "import", "-c", 'CMD ["bash"]', str(archive), BASE_IMAGE], cure=MIRROR_CURE)
    finally:
        archive.unlink(missing_ok=True)
    return "built"


def host_image(report: Report) -> tuple[str, str]:
    """Build the image of a lab host, named by the hash of what it is made from; returns (image, note)."""
    packages = (paths.HOST_IMAGE / "cached-packages.txt").read_text().split()
    base = report.command(["docker", "image", "inspect", "-f", "{{.Id}}", BASE_IMAGE], cure="run the same command again").strip()
    made_from = base + " ".join(packages) + (paths.HOST_IMAGE / "Dockerfile").read_text()
    name = "holdfast-lab-host:" + hashlib.sha256(made_from.encode()).hexdigest()[:12]
    if has_image(name):
        return name, "there"
    report.command(
        ["docker", "build", "-t", name, "--build-arg", f"BASE_IMAGE={BASE_IMAGE}",
         "--build-arg", f"CACHED_PACKAGES={' '.join(packages)}", str(paths.HOST_IMAGE)],
        cause="the image of the lab's hosts could not be built",
        cure=MIRROR_CURE,
    )  # fmt: skip
    return name, "built"
