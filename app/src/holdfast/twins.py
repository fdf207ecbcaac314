"""AP: two contents under one version. Must never happen; counted and told, since only a person can find the cause.

A version is minted once, so this is a rotten bit, a file that was restored while the node served, or a bug. Which of
the two was right cannot be told. ``rank`` in lua/_ap.lua decides which one stays, on every node alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from .audit import Audit
from .logs import LOG, event
from .metrics import Metrics


class Twins:
    def __init__(self, metrics: Metrics, origins: tuple[str, ...], audit: Audit) -> None:
        self._audit = audit
        self.found = metrics.counter(
            "ap_two_values_total", "Entries held with another content under the node's version.", {"node": origins}
        )

    def note(self, node: str, flat: Sequence[bytes]) -> int:
        """``flat``: key, version, ... of what came from ``node`` and was held here with another content.

        Returns how many. The keys are in the audit log only, which knows pseudonyms.
        """
        count = len(flat) // 2
        if count:
            self.found.labels(node).inc(count)
            event(
                LOG,
                40,
                "TWO_VALUES_ONE_VERSION",
                node=node,
                entries=count,
                then="all nodes keep the same one; look for the cause on both: disk, memory, a restored file",
            )
        for key, version in zip(flat[::2], flat[1::2], strict=True):
            self._audit.record("TWO_VALUES_ONE_VERSION", key=key.decode(), version=version.decode(), node=node)
        return count
