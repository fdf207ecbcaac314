"""Watches, for one zone, how far its node is behind the others, and gives the metrics their values."""

from __future__ import annotations

import math
import threading
import time

from . import scripts
from .ap_service import parse_peers
from .link import Answer
from .metrics import Metrics
from .multiprimary import staleness
from .nodes import Nodes

PERIOD_SEC = 1.0


class StalenessWatch:
    """Asks ``node`` once a second. Between two looks, and when the node is away, the age goes on growing."""

    def __init__(self, nodes: Nodes, node: str, timeout_sec: float) -> None:
        self._nodes, self._node, self._timeout = nodes, node, timeout_sec
        self._lock = threading.Lock()
        self._lags: dict[str, int | None] = {n: None for n in nodes.names if n != node}
        self._looked = time.monotonic()
        self._parked = 0
        self._outbox = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="staleness", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def look(self) -> None:
        keys = [scripts.GUARD, scripts.AP_STATE, scripts.PEERS, scripts.PARKED, scripts.OUTBOX]
        started = time.monotonic()
        result = self._nodes.call(self._node, scripts.AP_STATUS, keys, [], started + self._timeout)
        if not isinstance(result, Answer):
            return
        _guard, now, _seq, parked, outbox, peers = result.value
        lags = staleness(self._node, self._nodes.names, parse_peers(peers), int(now))
        with self._lock:
            self._lags, self._looked = lags, started
            self._parked, self._outbox = int(parked), int(outbox)

    def lags(self) -> dict[str, int | None]:
        """Milliseconds per other node as of now; None is unknown."""
        with self._lock:
            since = int((time.monotonic() - self._looked) * 1000)
            return {n: None if lag is None else lag + since for n, lag in self._lags.items()}

    def expose(self, metrics: Metrics) -> None:
        """Register the series: the lag is NaN while unknown, never 0."""
        metrics.per_node(
            "data_staleness_ms",
            "Time since this zone was last known to be caught up with the node.",
            lambda: {n: math.nan if lag is None else float(lag) for n, lag in self.lags().items()},
        )
        metrics.per_node(
            "data_staleness_known",
            "1 if data_staleness_ms is known.",
            lambda: {n: float(lag is not None) for n, lag in self.lags().items()},
        )
        metrics.computed(
            "ap_parked_entries",
            "Entries whose version is too far in the future, waiting on the zone's node.",
            lambda: float(self._parked),
        )
        metrics.computed("ap_outbox_entries", "Length of the outbox of the zone's node.", lambda: float(self._outbox))

    def _run(self) -> None:
        while True:
            self.look()
            if self._stop.wait(PERIOD_SEC):
                return
