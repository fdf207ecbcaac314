"""The service with one rule of its reads taken away, for negative controls: ``python broken_build.py BUILD serve``.

The pure code is changed in the process that this starts, before the server forks. Production code has no such switch.
"""

from __future__ import annotations

import sys

from holdfast import cli, registers

BUILDS = ("one_node_reads", "no_write_back")


def break_reads(build: str) -> None:
    if build not in BUILDS:
        raise SystemExit(f"unknown build {build!r}: one of {', '.join(BUILDS)}")
    whole = registers.Read.__init__

    def broken(self: registers.Read, nodes: tuple[str, ...], write_back: bool = True, **more: int) -> None:
        whole(self, nodes, write_back and build != "no_write_back", **more)
        if build == "one_node_reads":
            self.majority = 1

    registers.Read.__init__ = broken  # type: ignore[method-assign]


if __name__ == "__main__":
    break_reads(sys.argv[1])
    sys.exit(cli.main(sys.argv[2:]))
