"""Negative control: `holdfast` that takes promoted copies for settled, so that a majority is enough for every read."""

from holdfast import cp_service
from holdfast.cli import main

cp_service.unsettled = lambda _voters: 0

if __name__ == "__main__":
    raise SystemExit(main())
