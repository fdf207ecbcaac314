"""Servers for repositories, on this machine: a real SSH server and a real S3 server, each with keys for the hosts it knows."""

import abc
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".venv/debian/openssh-server"
#: One of Debian's own users. It has no shell, as on a server that gives files and nothing else.
USER = "backup"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_key(path: Path) -> str:
    """Makes a key; returns its public half as in a .pub file."""
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a try", "-f", path], check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


class Server(abc.ABC):
    """What both have: a directory with the repositories, hosts it lets in, and an identity that it can lose."""

    #: What restic says of a server with another identity, and of one that does not know the host.
    stranger = refused = ""
    ca = ""
    #: Of the file that says whom it lets in: where it is, and what it is when that is nobody.
    known: Path
    nobody = ""
    #: Whether restic gives up at once, and does not ask for a quarter of an hour.
    at_once = False

    def __init__(self, address: str) -> None:
        self.address = address
        self.place, self.port = Path(tempfile.mkdtemp(prefix="holdfast-server-")), free_port()
        self.repositories = self.place / "files/bucket/holdfast"
        self.repositories.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def _run(self, command: list[str], **identity: Any) -> None:
        with (self.place / "log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **identity)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert self._process.poll() is None, (self.place / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), timeout=1):
                return
            time.sleep(0.05)
        raise AssertionError((self.place / "log").read_text())

    def stop(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)
            self._process = None

    @contextlib.contextmanager
    def changed(self, *files: Path) -> Iterator[None]:
        """It runs again afterwards as it was, with these files as they were."""
        for path in files:
            shutil.copy(path, f"{path}.kept")
        self.stop()
        try:
            yield
        finally:
            self.stop()
            for path in files:
                os.replace(f"{path}.kept", path)
            self.start()

    @contextlib.contextmanager
    def forgetful(self) -> Iterator[None]:
        with self.changed(self.known):
            self.known.write_text(self.nobody)
            self.start()
            yield

    @abc.abstractmethod
    def start(self) -> None: ...


class Sshd(Server):
    """Debian's SSH server, for files only, as user `backup`: so it can neither chroot nor see what belongs to root."""

    stranger, refused, at_once = "Host key verification failed", "Permission denied", True

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.key, self.known = self.place / "host_key", self.place / "authorized_keys"
        self.public = new_key(self.key)
        self.known.write_text(self.nobody)
        lines = [f"Port {self.port}", f"ListenAddress {address}", f"HostKey {self.key}", f"AuthorizedKeysFile {self.known}"]
        lines += ["StrictModes no", "PidFile none", "PasswordAuthentication no", "KbdInteractiveAuthentication no"]
        lines += ["Subsystem sftp internal-sftp", "ForceCommand internal-sftp"]
        libexec = UNPACKED / "usr/lib/openssh"  # newer releases consist of several programs
        parts = {"SshdSessionPath": libexec / "sshd-session", "SshdAuthPath": libexec / "sshd-auth"}
        lines += [f"{name} {path}" for name, path in parts.items() if path.exists()]
        (self.place / "sshd_config").write_text("\n".join(lines) + "\n")
        self.url = f"sftp://{USER}@{address}:{self.port}/{self.repositories}"

    def let_in(self, place: Path) -> dict[str, Any]:
        """backup_access of a new host, whose own files are in `place`."""
        with self.known.open("a") as known:
            known.write(new_key(place / "key") + "\n")
        return {"ssh_key": (place / "key").read_text(), "host_keys": [self.public]}

    def start(self) -> None:
        owner = pwd.getpwnam(USER)
        for path in [self.place, *self.place.rglob("*")]:
            os.chown(path, owner.pw_uid, owner.pw_gid)
        command = [str(UNPACKED / "usr/sbin/sshd"), "-D", "-e", "-f", str(self.place / "sshd_config")]
        self._run(command, user=owner.pw_uid, group=owner.pw_gid, extra_groups=[])

    @contextlib.contextmanager
    def another(self) -> Iterator[None]:
        with self.changed(self.key):
            new_key(self.key)
            self.start()
            yield


class S3(Server):
    """rclone's S3 server over TLS: a bucket is a directory, and without the right signature there is nothing. It knows no policies."""

    stranger, refused = "certificate signed by unknown authority", "Access Key Id you provided does not exist"
    nobody = "nobody,nothing\n"

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.certificate, self.key, self.known = self.place / "tls.crt", self.place / "tls.key", self.place / "keys"
        self.ca = str(self.place / "ca.pem")
        self._certify()
        shutil.copy(self.certificate, self.ca)
        self.known.write_text(self.nobody)
        self.url = f"s3:https://{address}:{self.port}/bucket/holdfast"

    def _certify(self) -> None:
        asked = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        asked += [
            "-subj",
            f"/CN={self.address}",
            "-addext",
            f"subjectAltName=IP:{self.address}",
            "-keyout",
            str(self.key),
            "-out",
            str(self.certificate),
        ]
        subprocess.run(asked, check=True, capture_output=True)

    def let_in(self, _place: Path) -> dict[str, Any]:
        made = {"s3_key_id": secrets.token_hex(8), "s3_secret_key": secrets.token_hex(20)}
        with self.known.open("a") as known:
            known.write(",".join(made.values()) + "\n")
        self.stop()
        self.start()
        return made

    def start(self) -> None:
        command = [str(ROOT / ".venv/bin/rclone"), "serve", "s3", "--addr", f"{self.address}:{self.port}", "--config", "/dev/null"]
        command += ["--cert", str(self.certificate), "--key", str(self.key)]
        for pair in self.known.read_text().split():
            command += ["--auth-key", pair]
        self._run([*command, str(self.place / "files")])

    @contextlib.contextmanager
    def another(self) -> Iterator[None]:
        with self.changed(self.key, self.certificate):
            self._certify()
            self.start()
            yield


KINDS: dict[str, type[Sshd] | type[S3]] = {"sftp": Sshd, "s3": S3}


@contextlib.contextmanager
def served(kind: str, address: str = "127.0.0.1") -> Iterator[Sshd | S3]:
    server = KINDS[kind](address)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.place, ignore_errors=True)
