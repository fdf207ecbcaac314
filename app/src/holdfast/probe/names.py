"""The addresses behind a host name, looked up again every second, as a client of a public name must."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable

PERIOD_SEC = 1.0
Lookup = Callable[[str, int], list[str]]


def system_lookup(host: str, port: int) -> list[str]:
    """Raises OSError (socket.gaierror) when the name cannot be resolved."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Names:
    """Addresses of one host. A slow resolver blocks only this object's own thread, which does not hold up the exit.

    ``moved`` is called in the event loop when a lookup *succeeded* with other addresses. While lookups fail there are
    no addresses for new connections; those that are open go on, as in any client.
    """

    def __init__(self, host: str, port: int, moved: Callable[[], None], lookup: Lookup = system_lookup) -> None:
        self._host, self._port, self._moved, self._lookup = host, port, moved, lookup
        self._addresses: list[str] = []
        self._stop = threading.Event()
        self._known: asyncio.Event = asyncio.Event()
        self._fixed = _is_address(host)

    def start(self) -> None:
        """In the running event loop."""
        if self._fixed:
            self._addresses = [self._host]
            self._known.set()
            return
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, args=(loop,), name=f"names {self._host}", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    async def addresses(self) -> list[str]:
        """As of the last lookup, at most about a second old; waits for the first one. Empty: cannot be resolved."""
        await self._known.wait()
        return self._addresses

    @property
    def current(self) -> list[str]:
        return self._addresses

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            try:
                found = self._lookup(self._host, self._port)
            except OSError:
                found = []
            try:
                loop.call_soon_threadsafe(self._learn, found)
            except RuntimeError:  # the loop has ended
                return
            self._stop.wait(PERIOD_SEC)

    def _learn(self, found: list[str]) -> None:
        before, self._addresses = self._addresses, found
        self._known.set()
        if found and set(found) != set(before):
            self._moved()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
