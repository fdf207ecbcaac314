"""Progress for people: one line per step with its time, details in a log file, a cause and a cure on failure."""

import contextlib
import datetime
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from . import paths

WIDTH = 58
#: How long a command that was interrupted may take to end by itself.
ENDING_SECONDS = 120


class Problem(Exception):
    """Something the user can act on: what is wrong, and what to do about it, one line each."""

    def __init__(self, cause: str, cure: str, detail: str = "") -> None:
        super().__init__(cause)
        self.cause, self.cure, self.detail = cause, cure, detail


class Report:
    """Prints steps to the terminal and everything else to one log file, named when a step fails."""

    def __init__(self, name: str, total: int, log_dir: Path = paths.LOGS) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        self.log_path = log_dir / f"{stamp}-{name}.log"
        self.log: TextIO = self.log_path.open("a", encoding="utf-8")
        self.total, self.number = total, 0
        self.started = time.monotonic()
        self.live = sys.stdout.isatty()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator["Step"]:
        """One numbered step. Its line ends with `ok`, a note the step gave, or `FAILED`, and the seconds it took."""
        self.number += 1
        head = f"{self.number:2}/{self.total} {title}"
        self.log.write(f"\n===== {head}\n")
        step = Step(self, head)
        if self.live:
            print(f"{head} ...", end="", flush=True)
        try:
            yield step
        except BaseException:
            step.finish("FAILED")
            raise
        step.finish(step.note)

    def command(self, argv: list[str], *, cure: str, cause: str = "", **options: object) -> str:
        """Run a command with its output in the log; returns its standard output, raises Problem when it fails."""
        self.log.write(f"$ {' '.join(argv)}\n")
        self.log.flush()
        done = subprocess.run(argv, text=True, capture_output=True, errors="replace", **options)  # type: ignore[call-overload]
        self.log.write(done.stdout + done.stderr)
        self.log.flush()
        if done.returncode != 0:
            raise Problem(cause or f"`{' '.join(argv[:4])}` failed", cure, last_lines(done.stdout + done.stderr))
        return str(done.stdout)

    def stream(self, argv: list[str], on_line: Callable[[str], None], **options: object) -> int:
        """Run a command, write each line of its output to the log and hand it to `on_line`; returns its exit code."""
        self.log.write(f"$ {' '.join(argv)}\n")
        process = subprocess.Popen(  # type: ignore[call-overload]
            argv, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
        )
        try:
            for line in process.stdout:
                self.log.write(line)
                self.log.flush()
                on_line(line.rstrip("\n"))
            return int(process.wait())
        except KeyboardInterrupt:
            # Ctrl-C at a terminal reaches it as well; what it then puts in order (a drill's client, its record) is waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.log.write(process.communicate(timeout=ENDING_SECONDS)[0] or "")
            raise
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=30)

    def fail(self, problem: Problem) -> None:
        """Print cause, cure and where the details are."""
        if problem.detail:
            print("\n".join("    " + line for line in problem.detail.splitlines()))
        print(f"Cause: {problem.cause}\nCure:  {problem.cure}\nLog:   {self.log_path}")


class Step:
    """A running step: keeps its line alive on a terminal, and prints it once when it is over."""

    def __init__(self, report: Report, head: str) -> None:
        self.report, self.head, self.note = report, head, "ok"
        self.started = time.monotonic()
        self.doing = ""
        self.over = threading.Event()
        self.lock = threading.Lock()
        if report.live:
            threading.Thread(target=self._tick, daemon=True).start()

    def say(self, doing: str) -> None:
        """What the step is doing now; seen on a terminal only."""
        self.doing = doing

    def sub(self, title: str, seconds: float) -> None:
        """A finished part of a long step, on a line of its own."""
        with self.lock:
            print(("\r\033[K" if self.report.live else "") + f"      {title:<{WIDTH - 2}} {seconds:6.1f} s", flush=True)

    def finish(self, verdict: str) -> None:
        self.over.set()
        seconds = time.monotonic() - self.started
        with self.lock:
            lead = "\r\033[K" if self.report.live else ""
            print(f"{lead}{self.head:<{WIDTH}} {verdict:<14} {seconds:6.1f} s", flush=True)
        self.report.log.write(f"===== {verdict} after {seconds:.1f} s\n")

    def _tick(self) -> None:
        while not self.over.wait(1.0):
            with self.lock:
                if not self.over.is_set():
                    seconds = time.monotonic() - self.started
                    print(f"\r\033[K{self.head} ... {seconds:.0f} s  {self.doing[:60]}", end="", flush=True)


def last_lines(text: str, count: int = 6) -> str:
    """The last lines of an output that say something."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
