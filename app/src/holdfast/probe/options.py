"""Settings of the probe: checked before anything is sent; every problem is one line that names cause and cure."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..keys import MAX_KEY_BYTES
from .arguments import DEFAULT_PREFIX
from .client import Url
from .names import Lookup, system_lookup
from .resolver import NameServer, Resolver

MODES = ("cp", "ap")
MAX_RATE = 2000.0
_ZONE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Target:
    """One face of the service as a client in ``zone`` reaches it. Each target has one writer and one reader."""

    zone: str
    mode: str
    url: str

    @property
    def writer(self) -> str:
        return f"{self.zone}-{self.mode}"

    def as_json(self) -> dict[str, str]:
        return {"zone": self.zone, "mode": self.mode, "url": self.url, "writer": self.writer}


@dataclass(frozen=True, slots=True)
class Access:
    """How targets are reached. ``timeout_sec`` bounds a request as a whole, connecting included. Without ``servers``
    the system resolves names."""

    token: str | None
    tls: ssl.SSLContext | None
    timeout_sec: float
    servers: tuple[NameServer, ...] = ()

    def lookup(self) -> Lookup:
        """A new one for each client: it is used in that client's own thread."""
        return Resolver(self.servers) if self.servers else system_lookup


@dataclass(frozen=True, slots=True)
class RunOptions:
    """``rate`` and ``read_rate`` are per second and target; ``duration_sec`` 0 is until a signal; ``realtime``: ask for
    real-time priority."""

    targets: tuple[Target, ...]
    access: Access
    rate: float
    read_rate: float
    duration_sec: float
    prefix: str
    value_bytes: int
    out: Path
    realtime: bool = False


def parse_target(text: str, default_mode: str) -> Target:
    """``zone=url`` or ``zone/mode=url``."""
    name, equals, url = text.partition("=")
    zone, _, mode = name.partition("/")
    if not equals:
        raise SettingsError(f"--target {text!r}: write it as zone=url or zone/mode=url")
    return checked(zone, mode or default_mode, url, f"--target {text!r}")


def read_targets(path: Path) -> list[Target]:
    """A JSON list of ``{"zone", "mode", "url"}``."""
    where = f"--targets {path}"
    try:
        listed: Any = json.loads(path.read_text(encoding="utf-8"))
        return [checked(str(t["zone"]), str(t["mode"]), str(t["url"]), where) for t in listed]
    except OSError as problem:
        raise SettingsError(f"{where}: cannot be read ({problem.strerror}); give the path of a JSON file") from None
    except (ValueError, TypeError, KeyError):
        raise SettingsError(f'{where}: must be a JSON list of {{"zone", "mode", "url"}}') from None


def checked(zone: str, mode: str, url: str, where: str) -> Target:
    if not _ZONE.fullmatch(zone):
        raise SettingsError(f"{where}: the zone {zone!r} may hold letters, digits, '_', '.' and '-' only")
    if mode not in MODES:
        raise SettingsError(f"{where}: the mode is {mode!r}, it must be cp or ap")
    try:
        Url.parse(url)
    except ValueError as problem:
        raise SettingsError(f"{where}: the URL is not usable: {problem}") from None
    return Target(zone, mode, url)


def check_targets(targets: list[Target]) -> tuple[Target, ...]:
    if not targets:
        raise SettingsError("there is no target: give --target zone=url once for each, or --targets FILE")
    names = [t.writer for t in targets]
    double = next((n for n in names if names.count(n) > 1), None)
    if double is not None:
        raise SettingsError(f"the target {double} is given twice: a zone has one URL for each mode")
    return tuple(targets)


def make_access(
    targets: tuple[Target, ...],
    ca_file: Path | None,
    token_file: Path | None,
    timeout: float,
    resolvers: Sequence[str] = (),
) -> Access:
    if not 0.05 <= timeout <= 60:
        raise SettingsError(f"--timeout is {timeout:g}: it must be 0.05 to 60 seconds")
    token = None
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            raise SettingsError(f"--token-file {token_file}: cannot be read; it must hold the token alone") from None
        if not token or not token.isprintable() or " " in token:
            raise SettingsError(f"--token-file {token_file}: it must hold one token and nothing else")
    tls = None
    if any(t.url.startswith("https") for t in targets):
        try:
            tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        except (OSError, ValueError):
            raise SettingsError(f"--ca-file {ca_file}: it must be a PEM file of the authority") from None
    elif ca_file is not None:
        raise SettingsError("--ca-file is given and no target is https: use https:// URLs or leave it out")
    return Access(token, tls, timeout, tuple(parse_server(text) for text in resolvers))


def parse_server(text: str) -> NameServer:
    try:
        return NameServer.parse(text)
    except ValueError:
        raise SettingsError(f"--resolver {text!r}: write the name server's ADDRESS or ADDRESS:PORT") from None


def check_run(options: RunOptions) -> RunOptions:
    for name, rate in (("--rate", options.rate), ("--read-rate", options.read_rate)):
        if not 0 <= rate <= MAX_RATE:
            raise SettingsError(f"{name} is {rate:g}: it must be 0 to {MAX_RATE:g} per second")
    if options.rate == 0:
        raise SettingsError("--rate is 0: without writes there is nothing to read; give a rate above 0")
    if not 0 <= options.duration_sec <= 7 * 86400:
        raise SettingsError(f"--duration is {options.duration_sec:g}: it must be 0 (until a signal) to 604800 seconds")
    if not 0 <= options.value_bytes <= 1048576:
        raise SettingsError(f"--value-bytes is {options.value_bytes}: it must be 0 to 1048576")
    longest = max(len(t.writer) for t in options.targets) + 32
    if not options.prefix or len(options.prefix.encode()) + longest > MAX_KEY_BYTES or not options.prefix.isprintable():
        raise SettingsError("--prefix must be 1 to about 400 printable characters; the default is " + DEFAULT_PREFIX)
    if options.out.exists():
        raise SettingsError(f"--out {options.out} exists: it is not overwritten; give another name")
    if not options.out.absolute().parent.is_dir():
        raise SettingsError(f"--out {options.out}: there is no such directory; make it first")
    return options
