"""The yardstick: a Flask route that does nothing, on the service's own server with the same settings."""

from __future__ import annotations

import os
from typing import Any

from holdfast import server, settings


class _Nothing:
    """Stands for the runtime, of which the server needs the ends."""

    def drain(self) -> None: ...

    def stop(self) -> None: ...


class EmptyServer(server.Server):
    def load(self) -> Any:
        from flask import Flask

        self.runtime = _Nothing()
        app = Flask("empty", static_folder=None)

        @app.get("/empty")
        def empty() -> str:
            return ""

        return app


if __name__ == "__main__":
    server.run(settings.load(os.environ), EmptyServer)
