#!/usr/bin/python
"""Lands gdnsd's configuration, its zone and the region they name as one step: all of it is served afterwards, or what was before."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dns_failover_moves import Held, Refused, Taken, next_held

DOCUMENTATION = """
module: dns_failover_serve
short_description: Serves a zone by gdnsd for the region that is held, or moves it to another region
description:
  - Refuses an epoch below the one held, and another region under the same epoch.
  - Without a move it serves what it holds, unless another name server is known to hold a higher epoch. Then it takes over that one.
  - Files land only after gdnsd has checked them. What gdnsd does not take over is put back.
options:
  domain: {type: str, required: true, description: Name of the zone.}
  config: {type: str, required: true, description: Text of gdnsd's configuration.}
  zone: {type: str, required: true, description: "Text of the zone; @region@ and @epoch@ stand for what is held."}
  region: {type: str, required: true, description: "The region to move to, or the one to begin with."}
  epoch: {type: int, required: true, description: "Its epoch."}
  moves: {type: bool, required: true, description: "Whether to move to region and epoch; else they count only where nothing is held yet."}
  known_region: {type: str, default: "", description: "What a name server answers that may be ahead of this one; empty: nothing is known."}
  known_epoch: {type: int, default: -1, description: "Its epoch."}
author: Holdfast
"""
EXAMPLES = """
- dns_failover_serve:
    domain: kv.example.net
    config: "{{ lookup('ansible.builtin.template', 'config.j2') }}"
    zone: "{{ lookup('ansible.builtin.template', 'zone.j2') }}"
    region: west
    epoch: 4
    moves: true
"""
RETURN = """
region: {type: str, returned: success, description: The region that is held now.}
epoch: {type: int, returned: success, description: Its epoch.}
taken_epoch: {type: int, returned: "when the epoch was refused", description: The one that this server holds; a move needs a higher one.}
"""

GDNSD = Path("/etc/gdnsd")
HELD = Path("/etc/holdfast/dns_failover")
RUNNING, AT_ITS_GATE = ("active", "reloading"), "activating"
SPLIT = f"where the other one is held write it into {HELD}/state.json, then run playbooks/names.yml with --limit for it."


def read_held(path: Path) -> Held | None:
    try:
        held = json.loads(path.read_text())
        return str(held["region"]), int(held["epoch"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise Refused(
            f'{path} is damaged. Write {{"region": "<name>", "epoch": <number>}} into it, with what the other name server '
            "answers for epoch.<domain> (TXT)."
        ) from None


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """One at a time, whoever it is."""
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Landing:
    """New contents of several files: all written beside their places first, then renamed into them, with a way back."""

    def __init__(self, contents: dict[Path, str]) -> None:
        self.before = {path: path.read_text() if path.is_file() else None for path in contents}
        self.changed = {path: text for path, text in contents.items() if text != self.before[path]}

    def _beside(self, path: Path, what: str) -> Path:
        return path.parent / f".{path.name}.{what}"  # gdnsd reads no file that begins with a dot

    def write(self) -> None:
        """Raises OSError, and then nothing is in its place: a full disk shows here."""
        try:
            for path, text in self.changed.items():
                new = self._beside(path, "new")
                with new.open("w") as out:
                    out.write(text)
                    out.flush()
                    os.fsync(out.fileno())
                new.chmod(0o644)
                self._beside(path, "old").unlink(missing_ok=True)
                if path.exists():
                    os.link(path, self._beside(path, "old"))  # the way back takes no room
            for path in self.changed:
                os.replace(self._beside(path, "new"), path)
        except OSError:
            self.put_back()
            raise

    def put_back(self) -> None:
        for path in self.changed:
            old = self._beside(path, "old")
            if old.exists():
                os.replace(old, path)
            elif self.before[path] is None:
                path.unlink(missing_ok=True)
        self.tidy()

    def tidy(self) -> None:
        for path in self.changed:
            for what in ("new", "old"):
                self._beside(path, what).unlink(missing_ok=True)


def run(*command: str) -> str:
    """What it said. Raises Refused with that when it failed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = (done.stderr + done.stdout).strip()
    if done.returncode != 0:
        raise Refused(f"{command[0]} {command[-1]} failed: {said}")
    return said


def unit_state() -> str:
    """As systemd says: active; activating while it waits at its gate, because another name server is ahead."""
    return run("systemctl", "show", "--property=ActiveState", "--value", "gdnsd")


def take_over(state: str, action: str, moves: bool) -> None:
    """Have gdnsd serve the files that are in their places now. Raises Refused, TimeoutExpired."""
    if state in RUNNING:
        run("gdnsdctl", "-t", "20", action)
    elif moves:
        run("systemctl", "restart", "gdnsd")


def check(domain: str, config: str, zone: str) -> None:
    """Raises Refused when gdnsd would not take them."""
    candidate = Path(tempfile.mkdtemp(dir=HELD, prefix=".candidate-"))
    try:
        (candidate / "zones").mkdir()
        (candidate / "config").write_text(config)
        (candidate / "zones" / domain).write_text(zone)
        run("gdnsd", "-c", str(candidate), "-S", "checkconf")
    except Refused as problem:
        raise Refused(f"gdnsd does not take the new files, so nothing was changed. Correct dns_failover_* as it says. {problem}") from None
    finally:
        shutil.rmtree(candidate, ignore_errors=True)


def serve(given: dict[str, Any], check_mode: bool, unit: Callable[[], str] = unit_state) -> dict[str, Any]:
    """Raises Refused, OSError."""
    region, epoch = next_held(read_held(HELD / "state.json"), given, "this server", SPLIT)
    zone = given["zone"].replace("@region@", region).replace("@epoch@", str(epoch))
    config_file, zone_file, state_file = GDNSD / "config", GDNSD / "zones" / given["domain"], HELD / "state.json"
    state = json.dumps({"region": region, "epoch": epoch}) + "\n"
    landing = Landing({state_file: state, config_file: given["config"], zone_file: zone})
    # What gdnsd was last told to load, so that a run that was cut off in between is made good by the next one.
    loaded_file = HELD / "loaded"
    loaded = hashlib.sha256((given["config"] + zone).encode()).hexdigest() + "\n"
    stale = not loaded_file.is_file() or loaded_file.read_text() != loaded
    diff = [
        {"before": landing.before[path] or "", "after": text, "before_header": str(path), "after_header": str(path)}
        for path, text in landing.changed.items()
    ]
    result = {"changed": bool(landing.changed or stale), "region": region, "epoch": epoch, "diff": diff}
    now = unit()
    if given["moves"] and now not in (*RUNNING, AT_ITS_GATE):
        raise Refused(
            "gdnsd does not run on this server, so nobody would see a change. Run `systemctl status gdnsd`; playbooks/names.yml starts it."
        )
    if not result["changed"]:
        return result
    check(given["domain"], given["config"], zone)
    if check_mode:
        return result
    landing.write()
    action = "replace" if config_file in landing.changed or not landing.changed else "reload-zones"
    try:
        take_over(now, action, given["moves"])
        loaded_file.write_text(loaded)
    except (Refused, OSError, subprocess.TimeoutExpired) as problem:
        landing.put_back()
        with contextlib.suppress(Refused, subprocess.TimeoutExpired):
            take_over(now, action, moves=False)
        raise Refused(
            f"{problem}. The files from before are back and the old answer stands. Run `journalctl -u gdnsd`, try again."
        ) from None
    landing.tidy()
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "domain": {"type": "str", "required": True},
            "config": {"type": "str", "required": True},
            "zone": {"type": "str", "required": True},
            "region": {"type": "str", "required": True},
            "epoch": {"type": "int", "required": True},
            "moves": {"type": "bool", "required": True},
            "known_region": {"type": "str", "default": ""},
            "known_epoch": {"type": "int", "default": -1},
        },
        supports_check_mode=True,
    )
    try:
        with alone(HELD):
            result = serve(module.params, module.check_mode)
    except Taken as problem:
        module.fail_json(msg=str(problem), taken_epoch=problem.held)
    except Refused as problem:
        module.fail_json(msg=str(problem))
    except OSError as problem:
        what = f"{problem.filename or f'A file in {GDNSD} or {HELD}'} cannot be written ({problem.strerror}), so nothing was changed."
        module.fail_json(msg=f"{what} Make room (`df -h /etc`), try again.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
