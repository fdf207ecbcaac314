"""The stages of bin/test."""

import contextlib
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import machine, paths, site
from .report import Problem, Report, Step, last_lines

PYTHON = f"{paths.VENV}/bin/python"
NAMED = re.compile(r"(FAILED|ERROR) \S+::|E {3}|fatal: |failed: \[")  # how pytest and Ansible begin a line that names a failure
COUNTS = re.compile(r"(\d+ (?:passed|failed|errors?|skipped|successful))")


def tool(name: str, *arguments: str) -> list[str]:
    return [f"{paths.VENV}/bin/{name}", *arguments]


def pytest(*arguments: str) -> list[str]:
    return [PYTHON, "-m", "pytest", "-q", "-ra", "--color=no", "--durations=20", *arguments]


# Two processes, a file of tests to each at a time: most of these tests wait for something. Those that measure run alone.
TWO = ("-n", "2", "--dist", "loadfile")

REDIS_IMAGE = "roles/redis_node/files/image"
SCRIPTS = (f"{REDIS_IMAGE}/redis-node", f"{REDIS_IMAGE}/redis-cli", "roles/backup/files/holdfast-restic", ".ci/run")
STAGES: dict[str, list[list[str]]] = {
    "lint": [
        tool("ansible-lint", "--offline", "-q"),  # the longest first: two of these run at a time
        tool("ruff", "check", "."),
        tool("ruff", "format", "--check", "."),
        tool("yamllint", "--strict", "."),
        tool("shellcheck", *SCRIPTS),
        tool("mypy", "bin/lab_lib"),
        tool("mypy", "--config-file", "app/pyproject.toml", "app/src/holdfast"),
    ],
    "policy": [pytest("tests/policy")],
    "unit": [
        pytest(*TWO, "app/tests/unit"),
        pytest(*TWO, "tests/lab"),
        *(pytest("-n", "2", "-m", "not long", tests) for tests in ("tests/repositories", "tests/restores")),
    ],
    "simulation": [pytest("app/tests/simulation")],
    "integration": [pytest(*TWO, "-m", "not (alone or long)", "app/tests/integration"), pytest("-m", "alone", "app/tests/integration")],
    # Molecule remembers, outside the checkout, that it has made hosts which may be gone since.
    "molecule": [tool("molecule", "reset"), tool("molecule", "test", "--all")],
    # What takes longer than a change should wait for: on a lab that is up, or on one that it makes and leaves.
    "proofs": [
        *(pytest("-m", "long", tests) for tests in ("app/tests/integration", "tests/repositories", "tests/restores")),
        [PYTHON, f"{paths.ROOT}/bin/lab"],
        pytest("--durations=0", "molecule/tests/proofs"),
    ],
}
FAST = ["lint", "policy", "unit", "simulation", "integration"]
ALL = [*FAST, "molecule"]


def main(arguments: list[str], usage: str) -> int:
    """Run the chosen stages; 0 when all passed. A stage that fails does not keep the later ones from running."""
    if {"-h", "--help"} & set(arguments):
        print(usage)
        return 0
    chosen = FAST if arguments == ["--fast"] else arguments or ALL
    if unknown := [name for name in chosen if name not in STAGES]:
        print(f"Cause: bin/test has no stage {unknown[0]!r}\nCure:  choose from {', '.join(STAGES)}, or --fast")
        return 2
    report = Report("test", len(chosen) + 1)
    passed, failed = [], []
    try:
        with report.step("Have what the tests need") as step:
            step.note = _prepare(report)
        ahead = _images_ahead() if "molecule" in chosen else None
        for name in chosen:
            if ahead and name == "molecule":
                ahead.join()
            try:
                with report.step(name) as step:
                    step.note = _run(report, step, name)
                passed.append(name)
            except Problem as problem:
                failed.append(name)
                report.fail(problem)
    except Problem as problem:
        report.fail(problem)
        failed = failed or ["preparation"]
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130
    print(f"\npassed: {', '.join(passed) or 'nothing'}; failed: {', '.join(failed) or 'nothing'}")
    print(f"{len(passed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _prepare(report: Report) -> str:
    note = machine.python_environment(report)
    server = paths.VENV / "bin" / "redis-server"
    packages = [] if shutil.which("wrk") else ["wrk"]  # loads app/benchmarks
    if not any(shutil.which(name) for name in ("chromium-headless-shell", "chromium")):  # opens the reports of drills
        packages += ["chromium-headless-shell", "fonts-dejavu-core"]
    # Debian's redis-server package would also start a service; the same program is in redis-tools.
    links = not shutil.which("redis-server") and not server.exists()
    if links and not Path("/usr/bin/redis-check-rdb").exists():
        packages.append("redis-tools")
    if not list(Path("/usr/lib").glob("*/libwrap.so.0")):  # for the SSH server below
        packages.append("libwrap0")
    if packages:
        machine.install(report, packages)
    machine.unpacked(report, "openssh-server")  # its package would start it
    # The hosts' restic: an older one knows neither --retry-lock nor says by its exit code that there is no repository.
    restic = paths.VENV / "bin" / "restic"
    if not restic.exists():
        restic.symlink_to(machine.unpacked(report, "restic", "trixie") / "usr/bin/restic")
    if links:
        server.symlink_to("/usr/bin/redis-check-rdb")
    _name_server(report)
    return note


def _name_server(report: Report) -> None:
    """The program of Debian's bind9, which some tests send updates to; its package would also start it, on port 53."""
    program = paths.VENV / "bin" / "named"
    with contextlib.suppress(OSError):  # not there yet; another code: its libraries were upgraded since
        if subprocess.run([program, "-v"], capture_output=True).returncode == 0:
            return
    machine.install(report, ["bind9-libs"])
    shutil.rmtree(paths.VENV / "debian" / "bind9", ignore_errors=True)  # of the libraries before these
    shutil.copy(machine.unpacked(report, "bind9") / "usr/sbin/named", program)


def _images_ahead() -> threading.Thread:
    """Have the engine and the images of the lab's hosts meanwhile, which is mostly waiting for packages.

    What fails here fails again, and is told, in the stage that needs them.
    """

    def make() -> None:
        with contextlib.suppress(Problem, OSError):
            machine.check()
            report = Report("images", 1)
            machine.engine(report)
            machine.base_image(report)
            machine.host_image(report)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    return thread


def _run(report: Report, step: Step, name: str) -> str:
    env = site.playbook_environment() | {"PYTHONPATH": f"{paths.ROOT}/app/src", "PY_COLORS": "0", "NO_COLOR": "1"}
    env["ANSIBLE_NOCOLOR"] = "1"

    def run(command: list[str]) -> tuple[list[str], int, list[str]]:
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(line)
            step.say(line.strip()[:60])

        return command, report.stream(command, on_line, cwd=paths.ROOT, env=env, stdin=subprocess.DEVNULL), lines

    ran = ThreadPoolExecutor(2).map(run, STAGES[name]) if name == "lint" else map(run, STAGES[name])
    broken, counts = [], []
    for command, code, lines in ran:
        if name != "lint":
            counts += COUNTS.findall(lines[-1] if lines else "")
        if code != 0:
            shown = " ".join(Path(word).name if word.startswith("/") else word for word in command)
            broken.append(f"$ {shown}   (exit code {code})\n{why(lines)}")
    if broken:
        raise Problem(f"{name}: {len(broken)} of {len(STAGES[name])} commands failed", f"mend it, then bin/test {name}", "\n".join(broken))
    return ", ".join(counts) or "ok"


def why(lines: list[str]) -> str:
    """The lines that name what failed, wherever they stand (Molecule goes on for long after a failure), and the last ones."""
    earlier = [line[:200] for line in lines[:-30] if NAMED.match(line)]
    return "\n".join([*earlier[:30], last_lines("\n".join(lines), 30)])
