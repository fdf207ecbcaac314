"""All settings, read once from the environment and from secret files into frozen dataclasses.

Every bad or missing one stops the start with one line that names it and the cure (``SettingsError``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .addresses import Address as Address
from .addresses import parse_address, parse_nodes, parse_peers
from .errors import SettingsError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_PLACEHOLDER = re.compile(r"<.*>|(change[-_ ]?me|secret|password|example|default|test|todo|x+)[0-9!]*", re.I)
ROLES = ("read", "write", "admin")
MIN_SECRET_KEY = 32
MIN_PASSWORD = 16
TOMBSTONE_GRACE_SEC = 86_400
DEFAULT_LISTEN = "0.0.0.0:8000"


@dataclass(frozen=True, slots=True)
class Token:
    """An API token as configured: only its SHA-256 is known. ``rate_limit`` None means the default."""

    name: str
    role: str
    sha256: str
    rate_limit: str | None


@dataclass(frozen=True, slots=True)
class RedisAccess:
    """How every node is reached. ``tls`` off is for a single machine's private network only."""

    username: str
    password: str
    tls: bool
    ca_file: str
    cert_file: str
    key_file: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Times end in their unit. ``local_node`` is empty for CP when not given."""

    mode: str
    listen: Address
    region: str
    zone: str
    nodes: Mapping[str, Address]
    local_node: str
    network_timeout_sec: float
    max_staleness_ms: int
    max_value_bytes: int
    max_clock_drift_ms: int
    log_level: str
    breaker_threshold: int
    breaker_window_sec: float
    breaker_probe_sec: float
    rate_limits: str
    trusted_proxy_count: int
    workers: int
    requests_at_once: int
    drain_sec: float
    audit_pseudonymise: bool
    outbox_max_entries: int
    outbox_max_bytes: int
    divergence_check_sec: float
    tombstone_grace_sec: float
    redis: RedisAccess
    secret_key: str
    tokens: tuple[Token, ...]
    secret_key_previous: str = ""
    session_ttl_sec: int = 3600
    peers: Mapping[str, Address] = field(default_factory=dict)

    @property
    def secret_keys(self) -> tuple[str, ...]:
        """The one that signs first, then one whose signatures are still accepted."""
        return (self.secret_key, self.secret_key_previous) if self.secret_key_previous else (self.secret_key,)

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(self.nodes)


class _Env:
    """Typed access to the environment; collects nothing, fails at the first problem."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def text(self, name: str, default: str | None = None, cure: str = "") -> str:
        value = self._env.get(name, "").strip()
        if value:
            return value
        if default is None:
            raise SettingsError(f"{name} is not set: {cure}")
        return default

    def choice(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(name, default, f"set it to one of {', '.join(choices)}")
        if value not in choices:
            raise SettingsError(f"{name} is {value!r}: set it to one of {', '.join(choices)}")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        raw = self.text(name, str(default))
        try:
            value = float(raw)
        except ValueError:
            raise SettingsError(f"{name} is {raw!r}: set it to a number from {low:g} to {high:g}") from None
        if not low <= value <= high:
            raise SettingsError(f"{name} is {raw}: set it to a number from {low:g} to {high:g}")
        return value

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self.number(name, default, low, high)
        if value != int(value):
            raise SettingsError(f"{name} is {value:g}: set it to a whole number from {low} to {high}")
        return int(value)

    def switch(self, name: str, default: str) -> bool:
        return self.choice(name, ("on", "off"), default) == "on"

    def name(self, name: str) -> str:
        value = self.text(name, None, "set it to the name this deployment gives it, for example the inventory's")
        if not _NAME.fullmatch(value):
            raise SettingsError(f"{name} is {value!r}: use letters, digits, '.', '_' and '-', at most 63")
        return value

    def address(self, name: str, default: str) -> Address:
        return parse_address(name, self.text(name, default))


def read_secret(directory: str, name: str, min_length: int, cure: str) -> str:
    """The content of a secret file, stripped of its final newline. Never shows the content in an error."""
    path = Path(directory) / name
    try:
        value = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise SettingsError(f"secret {name} is missing: put it into {path}; {cure}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise SettingsError(
            f"secret {name} cannot be read ({type(problem).__name__}): make {path} readable text "
            "for the user this process runs as"
        ) from None
    if not value:
        raise SettingsError(f"secret {name} is empty: {cure}")
    if _PLACEHOLDER.fullmatch(value):
        raise SettingsError(f"secret {name} is a placeholder: {cure}")
    if len(value) < min_length:
        raise SettingsError(f"secret {name} is shorter than {min_length} characters: {cure}")
    return value


def read_previous_key(directory: str) -> str:
    """The key before the last rotation, whose signatures are still accepted; "" if there is no such file."""
    if not (Path(directory) / "secret_key_previous").exists():
        return ""
    return read_secret(directory, "secret_key_previous", MIN_SECRET_KEY, "put the old secret_key here, or remove it")


def parse_tokens(text: str) -> tuple[Token, ...]:
    cure = "write a JSON list of {name, role, sha256}; `holdfast hash-token` makes the sha256"
    try:
        items: Any = json.loads(text)
    except ValueError:
        raise SettingsError(f"secret api_tokens is not JSON: {cure}") from None
    if not isinstance(items, list) or not items:
        raise SettingsError(f"secret api_tokens holds no token: {cure}")
    tokens: list[Token] = []
    for number, item in enumerate(items, 1):
        where = f"secret api_tokens, entry {number}"
        if not isinstance(item, dict):
            raise SettingsError(f"{where} is not an object: {cure}")
        unknown = set(item) - {"name", "role", "sha256", "rate_limit"}
        if unknown:
            raise SettingsError(f"{where} has the unknown field {sorted(unknown)[0]!r}: {cure}")
        name, role, digest = item.get("name"), item.get("role"), item.get("sha256")
        rate = item.get("rate_limit")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SettingsError(f"{where} has no usable name: use letters, digits, '.', '_' and '-'")
        if role not in ROLES:
            raise SettingsError(f"{where} ({name}) has the role {role!r}: use one of {', '.join(ROLES)}")
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise SettingsError(f"{where} ({name}) has no sha256 of 64 hex digits: `holdfast hash-token` makes it")
        if rate is not None:
            check_rate_limits(where, rate)
        if any(t.name == name or t.sha256 == digest for t in tokens):
            raise SettingsError(f"{where} ({name}) repeats the name or the token of another entry: make them distinct")
        tokens.append(Token(name, role, digest, rate))
    return tuple(tokens)


def check_rate_limits(where: str, text: object) -> str:
    """``unlimited``, or limits such as "1000 per hour;100 per minute"."""
    one = r"\s*[1-9][0-9]*\s+per\s+(?:[1-9][0-9]*\s+)?(?:second|minute|hour|day)s?\s*"
    if isinstance(text, str) and (text == "unlimited" or re.fullmatch(rf"{one}(?:;{one})*", text)):
        return text
    raise SettingsError(f"{where} has the rate limit {text!r}: write 'unlimited' or '1000 per hour;100 per minute'")


def _readable_file(env: _Env, name: str) -> str:
    path = env.text(name, None, "point it at the PEM file, or set REDIS_TLS=off on a single machine's private network")
    try:
        Path(path).read_bytes()
    except OSError as problem:
        raise SettingsError(
            f"{name} points at {path}, which cannot be read ({type(problem).__name__}): "
            "mount the file readable for the user this process runs as"
        ) from None
    return path


def load_redis(environ: Mapping[str, str]) -> RedisAccess:
    env = _Env(environ)
    tls = env.switch("REDIS_TLS", "on")
    password = read_secret(
        env.text("SECRETS_DIR", "/run/secrets"),
        "redis_password",
        MIN_PASSWORD,
        "generate one with: openssl rand -hex 32",
    )
    files = [_readable_file(env, f"REDIS_TLS_{part}_FILE") if tls else "" for part in ("CA", "CERT", "KEY")]
    return RedisAccess(env.text("REDIS_USERNAME", "service"), password, tls, *files)


def load(environ: Mapping[str, str]) -> Settings:
    """Everything `serve` and `replicate` need. Raises SettingsError."""
    env = _Env(environ)
    mode = env.choice("APP_MODE", ("cp", "ap"))
    nodes = parse_nodes(env.text("NODES", None, "list every node of the region as name=host:port,..."))
    local = env.text("LOCAL_NODE", "" if mode == "cp" else None, "in AP mode name the zone's own node")
    if local and local not in nodes:
        raise SettingsError(f"LOCAL_NODE is {local!r}, which NODES does not list: use one of {', '.join(nodes)}")
    secrets_dir = env.text("SECRETS_DIR", "/run/secrets")
    return Settings(
        mode=mode,
        listen=env.address("LISTEN", DEFAULT_LISTEN),
        region=env.name("REGION"),
        zone=env.name("ZONE"),
        nodes=nodes,
        local_node=local,
        network_timeout_sec=env.number("NETWORK_TIMEOUT_SEC", 1.0, 0.05, 60),
        max_staleness_ms=env.whole("MAX_STALENESS_MS", 5000, 1, 86_400_000),
        max_value_bytes=env.whole("MAX_VALUE_BYTES", 1_048_576, 1, 67_108_864),
        max_clock_drift_ms=env.whole("MAX_CLOCK_DRIFT_MS", 500, 1, 3_600_000),
        log_level=env.choice("LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "INFO"),
        breaker_threshold=env.whole("CIRCUIT_BREAKER_THRESHOLD", 5, 1, 10_000),
        breaker_window_sec=env.number("CIRCUIT_BREAKER_WINDOW_SEC", 10, 0.1, 3600),
        breaker_probe_sec=env.number("CIRCUIT_BREAKER_PROBE_SEC", 2, 0.05, 3600),
        rate_limits=check_rate_limits("RATE_LIMITS", env.text("RATE_LIMITS", "1000 per hour;100 per minute")),
        trusted_proxy_count=env.whole("TRUSTED_PROXY_COUNT", 1, 0, 10),
        workers=env.whole("WORKERS", 1, 1, 32),
        requests_at_once=env.whole("REQUESTS_AT_ONCE", 64, 1, 4096),
        drain_sec=env.number("DRAIN_SEC", 5, 0, 600),
        audit_pseudonymise=env.switch("AUDIT_PSEUDONYMISE", "off"),
        tombstone_grace_sec=_tombstone_grace(env),
        outbox_max_entries=env.whole("OUTBOX_MAX_ENTRIES", 1_000_000, 1, 1_000_000_000),
        outbox_max_bytes=env.whole("OUTBOX_MAX_BYTES", 268_435_456, 65_536, 1 << 50),
        divergence_check_sec=env.number("DIVERGENCE_CHECK_SEC", 60, 0.5, 86_400),
        redis=load_redis(environ),
        secret_key=read_secret(secrets_dir, "secret_key", MIN_SECRET_KEY, "generate one with: openssl rand -hex 32"),
        tokens=parse_tokens(read_secret(secrets_dir, "api_tokens", 2, "write a JSON list of {name, role, sha256}")),
        secret_key_previous=read_previous_key(secrets_dir),
        session_ttl_sec=env.whole("SESSION_TTL_SEC", 3600, 60, 86_400),
        peers=parse_peers(env.text("PEER_NODES", ""), nodes),
    )


@dataclass(frozen=True, slots=True)
class BootstrapSettings:
    """The little `bootstrap`, `repair` and `region` need."""

    region: str
    nodes: Mapping[str, Address]
    network_timeout_sec: float
    max_clock_drift_ms: int
    redis: RedisAccess
    peers: Mapping[str, Address] = field(default_factory=dict)
    tombstone_grace_sec: float = TOMBSTONE_GRACE_SEC


def _tombstone_grace(env: _Env) -> float:
    return env.number("TOMBSTONE_GRACE_SEC", TOMBSTONE_GRACE_SEC, 0.1, 31_536_000)


def load_bootstrap(environ: Mapping[str, str]) -> BootstrapSettings:
    env = _Env(environ)
    nodes = parse_nodes(env.text("NODES", None, "list every node of the region as name=host:port,..."))
    return BootstrapSettings(
        region=env.name("REGION"),
        nodes=nodes,
        peers=parse_peers(env.text("PEER_NODES", ""), nodes),
        network_timeout_sec=env.number("NETWORK_TIMEOUT_SEC", 1.0, 0.05, 60),
        max_clock_drift_ms=env.whole("MAX_CLOCK_DRIFT_MS", 500, 1, 3_600_000),
        redis=load_redis(environ),
        tombstone_grace_sec=_tombstone_grace(env),
    )


def load_listen(environ: Mapping[str, str]) -> Address:
    """Where the instance of the same container listens."""
    return _Env(environ).address("LISTEN", DEFAULT_LISTEN)


def load_pseudonymise(environ: Mapping[str, str]) -> bool:
    """Whether a command that writes no audit log shows pseudonyms of keys all the same."""
    return _Env(environ).switch("AUDIT_PSEUDONYMISE", "off")


def load_audit(environ: Mapping[str, str]) -> tuple[str, bool]:
    """(secret key, whether to pseudonymise) for a command that writes the audit log."""
    env = _Env(environ)
    directory, cure = env.text("SECRETS_DIR", "/run/secrets"), "generate one with: openssl rand -hex 32"
    return read_secret(directory, "secret_key", MIN_SECRET_KEY, cure), env.switch("AUDIT_PSEUDONYMISE", "off")
