"""Negative control: `holdfast` whose replay takes every key for untouched."""

from holdfast import region_replay
from holdfast.cli import main

region_replay.judge = lambda _line, _present, _epoch: None

if __name__ == "__main__":
    raise SystemExit(main())
