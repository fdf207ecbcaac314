"""TCP between a process and a node: delay and rate can be changed, and the cable cut, while it runs."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass


@dataclass
class Path:
    """From one process to one node. ``delay``: seconds, each way, keeping the order.

    ``cut``: nothing arrives and nothing is closed; what was sent arrives when the cable is whole again, as TCP would
    have it: a late store. ``rate``: bytes a second from the node to the process, 0 for no limit; what does not pass
    waits at the node. ``delayed`` and ``held`` count pieces that were.
    """

    target: int
    delay: float = 0.0
    cut: bool = False
    rate: float = 0.0
    port: int = 0
    delayed: int = 0
    held: int = 0


class Proxies:
    """All paths of a test, in one thread. Ends everything on ``stop``."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def path(self, target: int) -> Path:
        """A path to 127.0.0.1:``target``; its ``port`` is where processes connect."""
        path = Path(target)
        asyncio.run_coroutine_threadsafe(self._listen(path), self._loop).result(5)
        return path

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, path: Path) -> None:
        server = await asyncio.start_server(lambda r, w: self._client(path, r, w), "127.0.0.1", 0)
        path.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)

    async def _client(self, path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", path.target)
        except OSError:
            writer.transport.abort()
            self._tasks.discard(task)
            return
        try:
            await asyncio.gather(
                self._carry(path, reader, far_writer), self._carry(path, far_reader, writer, from_node=True)
            )
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or the test is over
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            far_writer.transport.abort()

    async def _carry(
        self, path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_node: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await queue.get()
                if due > loop.time():
                    path.delayed += 1
                    await asyncio.sleep(due - loop.time())
                path.held += path.cut
                while path.cut:
                    await asyncio.sleep(0.01)
                if not data:
                    writer.close()
                    return
                writer.write(data)

        task = loop.create_task(deliver())
        try:
            while True:
                try:
                    data = await reader.read(1024 if from_node and path.rate else 65536)
                except OSError:
                    data = b""
                if from_node and path.rate:
                    await asyncio.sleep(len(data) / path.rate)
                queue.put_nowait((loop.time() + path.delay, data))
                if not data:
                    await task
                    return
        finally:
            task.cancel()
