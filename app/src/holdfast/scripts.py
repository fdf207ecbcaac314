"""The Lua scripts: loaded from ``lua/*.lua`` at import, with the parts they include, and their SHA-1."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

_DIRECTORY = Path(__file__).with_name("lua")
_INCLUDE = re.compile(r"^-- include (\w+)\n", re.M)


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    source: bytes
    sha: bytes


def _read(name: str) -> str:
    return (_DIRECTORY / f"{name}.lua").read_text(encoding="utf-8")


def load(name: str) -> Script:
    """The script ``lua/<name>.lua`` with each line ``-- include x`` replaced by ``lua/x.lua``."""
    source = _INCLUDE.sub(lambda m: _read(m[1]), _read(name)).encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


GUARD_READ = load("guard_read")
CP_QUERY = load("cp_query")
CP_STORE = load("cp_store")
CP_COLLECT_SCAN = load("cp_collect_scan")
CP_COLLECT_LOCK = load("cp_collect_lock")
CP_COLLECT_HELD = load("cp_collect_held")
CP_COLLECT_DROP = load("cp_collect_drop")
AP_WRITE = load("ap_write")
AP_READ = load("ap_read")
AP_STATUS = load("ap_status")
AP_PULL = load("ap_pull")
AP_SCAN = load("ap_scan")
AP_PARKED = load("ap_parked")
AP_APPLY = load("ap_apply")
AP_REPLAY = load("ap_replay")
AP_DIGEST = load("ap_digest")
AP_DIGEST_PUT = load("ap_digest_put")
AP_DIGEST_GET = load("ap_digest_get")
AP_SOME = load("ap_some")
AP_FUTURE = load("ap_future")
AP_RESTAMP = load("ap_restamp")
AP_UNPARK = load("ap_unpark")
AP_TRIM = load("ap_trim")
AP_MARKS = load("ap_marks")
AP_COLLECT_SCAN = load("ap_collect_scan")
AP_COLLECT_LOOK = load("ap_collect_look")
AP_COLLECT_MARK = load("ap_collect_mark")
AP_COLLECT_DROP = load("ap_collect_drop")
CLOCK_READ = load("clock_read")
LEASE = load("lease")
LIMIT_COUNT = load("limit_count")
SESSION_READ = load("session_read")
BOOTSTRAP_STAMP = load("bootstrap_stamp")
REGION_MOVE = load("region_move")
REGION_HEARTBEAT = load("region_heartbeat")
REGION_COMPARE_PAGE = load("region_compare_page")
REGION_COMPARE_SOME = load("region_compare_some")
REPAIR_FLOOR = load("repair_floor")
REPAIR_LOOK = load("repair_look")
REPAIR_MOVE = load("repair_move")
REPAIR_PAGE = load("repair_page")
REPAIR_OLDER = load("repair_older")
REPAIR_AP_PURGE = load("repair_ap_purge")
REPAIR_AP_MARKS = load("repair_ap_marks")

# Every key Holdfast uses. The ACL of the user `service` allows these patterns and nothing else.
GUARD = "holdfast:guard"
OUTBOX = "holdfast:outbox"
AP_STATE = "holdfast:ap"
PEERS = "holdfast:peers"
PARKED = "holdfast:parked"
DIGESTS = "holdfast:digest"
LEASE_KEY = "holdfast:lease"
COLLECTOR_KEY = "holdfast:collector"
CP_STATE = "holdfast:cp"
HEARTBEAT = "holdfast:heartbeat"


def cp_key(key: str) -> str:
    return f"cp:{key}"


def ap_key(key: str) -> str:
    return f"ap:{key}"


def limit_key(counter: str) -> str:
    """One window of one client's rate limit."""
    return f"holdfast:limit:{counter}"


def session_key(identity: str) -> str:
    """The record of one session, on its home node."""
    return f"holdfast:session:{identity}"
