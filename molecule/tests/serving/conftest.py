"""The tests of a system that serves ask its hosts hundreds of things, and no host goes away: they share one SSH connection per host."""

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ssh_options() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/tmp") as sockets:  # their path must be short
        shared = f"-o ControlMaster=auto -o ControlPersist=60s -o ControlPath={sockets}/%C"
        yield f"{shared} -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
