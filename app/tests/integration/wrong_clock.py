"""A node whose clock tells another time: a proxy that shifts the clock readings in what it answers and is sent."""

from __future__ import annotations

import contextlib
import re
import socket
import threading

#: A bulk string that is a time in ms since the epoch and nothing else, as the scripts answer it.
_CLOCK = re.compile(rb"\$13\r\n(1\d{12})\r\n")


class WrongClock:
    """Forwards ``port`` (its own) to the node's. ``ahead_ms`` may be changed at any time."""

    def __init__(self, node_port: int, ahead_ms: int = 0) -> None:
        self.ahead_ms, self._node_port = ahead_ms, node_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                node = socket.create_connection(("127.0.0.1", self._node_port))
            except OSError:
                return
            self._sockets += [client, node]
            threading.Thread(target=self._forward, args=(client, node, -1), daemon=True).start()
            threading.Thread(target=self._forward, args=(node, client, 1), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, sign: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                by = sign * self.ahead_ms
                target.sendall(_CLOCK.sub(lambda found, by=by: _shifted(found, by), data) if by else data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _shifted(found: re.Match[bytes], by: int) -> bytes:
    return b"$13\r\n%d\r\n" % (int(found[1]) + by)
