"""The service with one line of an AP script taken away, for controls: ``python broken_ap.py BUILD replicate``."""

from __future__ import annotations

import hashlib
import sys

from holdfast import cli, scripts

#: build -> the script, what is taken out of it, what is put there instead.
BUILDS = {
    "digest_without_values": ("AP_DIGEST", b" .. '\\n' .. value), 1, 16)", b"), 1, 16)"),
    "copies_without_marks": ("AP_SCAN", b"r[4] or ''", b"''"),
}


def break_script(build: str) -> None:
    if build not in BUILDS:
        raise SystemExit(f"unknown build {build!r}: one of {', '.join(BUILDS)}")
    name, old, new = BUILDS[build]
    script: scripts.Script = getattr(scripts, name)
    if script.source.count(old) != 1:
        raise SystemExit(f"{name} does not have this line once: correct broken_ap.py")
    source = script.source.replace(old, new)
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    setattr(scripts, name, scripts.Script(script.name, source, sha))


if __name__ == "__main__":
    break_script(sys.argv[1])
    sys.exit(cli.main(sys.argv[2:]))
