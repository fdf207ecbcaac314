"""gunicorn's master process, made to end as it was told to. Imports nothing that the worker patches."""

from __future__ import annotations

import logging
import signal
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger as GunicornLogger


class Logger(GunicornLogger):  # type: ignore[misc]
    """Sends gunicorn's messages into the operational log."""

    def setup(self, _cfg: Any) -> None:
        self.error_log = logging.getLogger("holdfast.server")
        self.error_log.setLevel(logging.NOTSET)
        self.access_log = logging.getLogger("holdfast.server.access")
        self.access_log.disabled = True

    def reopen_files(self) -> None:
        """There are no files."""


class Master(Arbiter):  # type: ignore[misc]
    """Once it is ending, a worker that could not start no longer matters.

    gunicorn raises HaltServer for it, which while it is ending nobody catches: the other workers would be left behind,
    ``on_exit`` not called, and the exit code 1, whatever it was to be (0 after SIGTERM, 3 if workers cannot start).
    """

    _ending = False

    def stop(self, graceful: bool = True) -> None:
        self._ending = True
        super().stop(graceful)

    def reap_workers(self) -> None:
        try:
            super().reap_workers()
        except HaltServer:
            if not self._ending:
                raise


def heed_signals(arbiter: Any, worker: Any) -> None:
    """gunicorn's ``post_fork``: a worker heeds SIGTERM from now on, not only once it has patched the standard library.

    Until now the master's handler, which it inherited, put signals into a queue that nobody reads here.
    """
    signal.signal(signal.SIGTERM, worker.handle_exit)
    while not arbiter.SIG_QUEUE.empty():
        if arbiter.SIG_QUEUE.get() == signal.SIGTERM:
            worker.handle_exit(signal.SIGTERM, None)
