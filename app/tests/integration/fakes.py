"""A server that speaks the service's contract and can be told to break its promises. The probe must catch it."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote


class FakeService:
    """In memory, in a thread of its own. ``misbehave`` may change or drop (None) what a write stores."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.values: dict[str, tuple[str, str]] = {}
        self.misbehave: Callable[[int, str, str], str | None] = lambda number, key, value: value
        self.answer_read: Callable[[str, tuple[str, str] | None], tuple[str, str] | None] = lambda key, held: held
        self.extra: dict[str, Any] = {}
        self.refuse: tuple[int, bytes] | None = None
        self.hang = False
        self.written = 0
        self.requests = 0
        self.connections = self.most_connections = 0
        self.authorization = ""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._clients: set[asyncio.StreamWriter] = set()
        self._where = (host, port, tls)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)

    @property
    def url(self) -> str:
        return f"{'https' if self._where[2] else 'http'}://{self._where[0]}:{self.port}"

    def stop(self) -> None:
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._close)
            self._thread.join(5)

    def _close(self) -> None:
        self._server.close()
        for client in self._clients:
            client.transport.abort()
        self._loop.call_soon(self._loop.stop)

    def _run(self) -> None:
        host, port, tls = self._where
        self._server = self._loop.run_until_complete(asyncio.start_server(self._client, host, port, ssl=tls))
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._clients.add(writer)
        self.most_connections = max(self.most_connections, len(self._clients))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode().split("\r\n")
                headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests += 1
                self.authorization = headers.get("authorization", "")
                while self.hang:
                    await asyncio.sleep(0.02)
                status, answer = self._answer(first.split(" ")[0], unquote(first.split(" ")[1]), body.decode())
                head_out = f"HTTP/1.1 {status} X\r\nContent-Length: {len(answer)}\r\nX-Session-Token: t{self.requests}"
                writer.write(f"{head_out}\r\n\r\n".encode() + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._clients.discard(writer)
            writer.close()

    def _answer(self, method: str, path: str, body: str) -> tuple[int, bytes]:
        if self.refuse is not None:
            return self.refuse
        key = path.split("/", 2)[2]
        if method == "POST":
            self.written = number = self.written + 1
            version = f"{number:08d}"
            kept = self.misbehave(number, key, body)
            if kept is not None:
                self.values[key] = (kept, version)
            return 200, json.dumps({"status": "SUCCESS", "key": key, "version": version, "acks": ["x"]}).encode()
        held = self.answer_read(key, self.values.get(key))
        if held is None:
            error = {"code": "not_found", "message": ""}
            return 404, json.dumps({"status": "FAILURE", "error": error, **self.extra}).encode()
        return 200, json.dumps(
            {
                "status": "SUCCESS",
                "key": key,
                "value": held[0],
                "version": held[1],
                "stale": False,
                "staleness_ms": 0,
                **self.extra,
            }
        ).encode()
