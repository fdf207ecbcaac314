"""A real browser without a network, driven over a pipe by the DevTools protocol: messages are JSON, ended by NUL."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
TIMEOUT = 30.0
#: The browser reads commands from descriptor 3 and answers on 4, whatever numbers the pipes have here.
BEGIN = "import os; from sys import argv as a; os.dup2(int(a[1]), 3); os.dup2(int(a[2]), 4); os.execv(a[3], a[3:])"


def program() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One tab. ``requests``: all it wanted since the last ``open``; ``refused``: why one of them was kept back."""

    def __init__(self, directory: Path) -> None:
        found = program()
        assert found is not None, "these tests need a browser (Debian: apt-get install chromium-headless-shell)"
        there, ours = os.pipe()
        back, theirs = os.pipe()
        command = [
            found,
            "--headless",
            "--no-sandbox",  # tests may run as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={directory / 'profile'}",
            "--remote-debugging-pipe",
            "about:blank",
        ]
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (there, theirs)]
        begin = [sys.executable, "-c", BEGIN, *map(str, high), *command]
        with (directory / "browser.log").open("wb") as log:
            self._process = subprocess.Popen(begin, pass_fds=high, stdout=log, stderr=log)
        for end in (there, theirs, *high):
            os.close(end)
        self._in, self._out, self._buffer, self._number = ours, back, b"", 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.refused: list[str] = []
        self._loaded: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Accessibility"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def open(self, path: Path, width: int, dark: bool = False) -> None:
        self.requests, self.refused = [], []
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        loader = self.call("Page.navigate", url=path.resolve().as_uri())["loaderId"]
        self._until(lambda: loader in self._loaded)

    def follow(self, link: str) -> None:
        """Clicks what the selector finds and waits for the page it leads to."""
        before = len(self._loaded)
        self.ask(f"document.querySelector({json.dumps(link)}).click()")
        self._until(lambda: len(self._loaded) > before)

    def ask(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def names(self, role: str) -> list[str]:
        """What a screen reader says of the shown parts with this role."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        fitting = [n for n in nodes if not n["ignored"] and n.get("role", {}).get("value") == role]
        return [n.get("name", {}).get("value", "") for n in fitting]

    def picture(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number, message = self._number, {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []
        self._until(lambda: bool(answers), lambda m: answers.append(m) if m.get("id") == number else None)
        assert "error" not in answers[0], answers[0]
        return answers[0]["result"]

    def _until(self, ready: Any, look: Any = None) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not ready():
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self._out], [], [], max(left, 0))
            assert readable, "the browser does not answer"
            data = os.read(self._out, 1 << 20)
            assert data, f"the browser ended with {self._process.wait()}"
            *whole, self._buffer = (self._buffer + data).split(b"\0")
            for message in map(json.loads, whole):
                if message.get("method") == "Page.lifecycleEvent" and message["params"]["name"] == "load":
                    self._loaded.append(message["params"]["loaderId"])
                if message.get("method") == "Network.requestWillBeSent":
                    self.requests.append(message["params"]["request"]["url"])
                if message.get("method") == "Network.loadingFailed" and "blockedReason" in message["params"]:
                    self.refused.append(message["params"]["blockedReason"])
                if look is not None:
                    look(message)
