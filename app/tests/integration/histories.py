"""Clients that write and read many short keys through several instances, and the history of what they were told."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random

from cluster import TOKENS
from linearizability import INFINITY, Op
from zones import violation

AUTHORIZATION = {"Authorization": f"Bearer {TOKENS['boss']}"}


class Histories:
    """``ports``: of the instances. Threads record; read the results after ``stop``."""

    def __init__(self, ports: list[int], key_seconds: float, seed: int) -> None:
        self._ports, self._key_seconds, self._seed = ports, key_seconds, seed
        self.ops: dict[str, list[Op]] = {}
        self.never: dict[str, set[str]] = {}
        self._running: dict[tuple[str, str], float] = {}
        self.outcomes: Counter[str] = Counter()
        #: The only instance whose writers write now; None: all do.
        self.writing: int | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._began = time.monotonic()
        self._threads: list[threading.Thread] = []

    def start(self, writers: int, readers: int) -> None:
        for number in range(writers + readers):
            work = self._writer if number < writers else self._reader
            self._threads.append(threading.Thread(target=self._run, args=(work, number), daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"

    def problem(self) -> str | None:
        """The first key whose answers no order explains, and why."""
        with self._lock:
            for key, done in self.ops.items():
                # A write that is running may have been read already.
                ops = done + [Op(at, INFINITY, "write", v) for (k, v), at in self._running.items() if k == key]
                seen = {op.value for op in ops if op.kind == "read"} & self.never.get(key, set())
                if seen:
                    return f"{key}: {seen} was answered no_quorum and read later"
                found = violation(ops)
                if found:
                    return f"{key}: {found}"
        return None

    def read_all(self, port: int) -> int:
        """One more read of every key; returns how many were answered."""
        connection, answered = Connection(port), 0
        for key in list(self.ops):
            answered += self._read(connection, key)
        return answered

    def _run(self, work: Callable[[Connection, str, Random, int], None], number: int) -> None:
        rnd = Random(f"{self._seed} {number}")
        connection = Connection(self._ports[number % len(self._ports)])
        while not self._over.is_set():
            work(connection, f"k{int((time.monotonic() - self._began) / self._key_seconds)}", rnd, number)
            time.sleep(rnd.uniform(0, 0.01))

    def _writer(self, connection: Connection, key: str, rnd: Random, number: int) -> None:
        if self.writing not in (None, number % len(self._ports)):
            return
        value = f"{number}-{rnd.getrandbits(48):x}"
        began = time.monotonic()
        with self._lock:
            self._running[key, value] = began
        status, _ = connection.ask("POST", f"/write/{key}/{value}")
        ended = time.monotonic()
        with self._lock:
            del self._running[key, value]
            self.outcomes[f"write {status}"] += 1
            if status == 503:
                self.never.setdefault(key, set()).add(value)
            else:
                self._note(key, Op(began, ended if status == 200 else INFINITY, "write", value))

    def _reader(self, connection: Connection, key: str, _rnd: Random, _number: int) -> None:
        self._read(connection, key)

    def _read(self, connection: Connection, key: str) -> bool:
        began = time.monotonic()
        status, body = connection.ask("GET", f"/read/{key}")
        ended = time.monotonic()
        with self._lock:
            self.outcomes[f"read {status}"] += 1
            if status in (200, 404):
                self._note(key, Op(began, ended, "read", body.get("value")))
        return status in (200, 404)

    def _note(self, key: str, op: Op) -> None:
        self.ops.setdefault(key, []).append(op)


class Connection:
    """Kept open; after a failure a new one. Status 0: no whole answer; nothing is sent twice."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._http: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str) -> tuple[int, dict[str, str]]:
        if self._http is None:
            self._http = http.client.HTTPConnection("127.0.0.1", self._port, timeout=8)
        try:
            self._http.request(method, path, headers=AUTHORIZATION)
            response = self._http.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            self._http.close()
            self._http = None
            time.sleep(0.02)
            return 0, {}
