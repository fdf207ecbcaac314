"""Negative control: `holdfast` that says of every session it knows that its writes are seen."""

from holdfast import ap_service
from holdfast.cli import main

ap_service.unmet = lambda *_positions: set()

if __name__ == "__main__":
    raise SystemExit(main())
