"""AP sessions while the standby region takes over as planned: a read has the session's write, or says that it may not.

The probe judges the same answers and must agree with what they say.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import App, wait_for
from regions import NAMES, Regions
from test_probe import token
from test_probe_faults import lines, report, start

HERE = Path(__file__).resolve().parent
TOKEN = "X-Session-Token"


class Sessions:
    """One client for each two zones of a region: it writes in the one and reads that at once in the other.

    ``grown``: it keeps one session, as a client does that was there before the promotion; otherwise each write begins
    one. ``seen`` counts answers by (promised, found), ``lies`` are the promises that were not kept. ``apps`` may be
    replaced.
    """

    def __init__(self, apps: dict[str, App]) -> None:
        self.apps, self.seen, self.lies = apps, {True: Counter(), False: Counter()}, []
        self._keys, self._stop = itertools.count(), threading.Event()

    @contextmanager
    def going(self) -> Iterator[None]:
        pairs = list(itertools.permutations(NAMES, 2))
        each = [(self._client, (*pair, number % 2 == 0)) for number, pair in enumerate(pairs)]
        threads = [threading.Thread(target=work, args=args) for work, args in each]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _client(self, writes: str, reads: str, grown: bool) -> None:
        session = ""
        while not self._stop.wait(0.01):
            apps, key = self.apps, f"key{next(self._keys)}"
            try:
                written = apps[writes].write(key, "mine", headers={TOKEN: session})
                if written.status != 200:
                    continue
                answer = apps[reads].read(key, headers={TOKEN: written.headers[TOKEN]})
            except OSError:  # it is being stopped
                continue
            session = written.headers[TOKEN] if grown else ""
            if answer.code in (None, "not_found"):
                promised, found = answer.json["read_your_writes"], answer.json.get("value") == "mine"
                self.seen[grown][promised, found] += 1
                if promised and not found:
                    self.lies.append((writes, reads, written.json, answer.json))


def west_serves(regions: Regions) -> dict[str, App]:
    for name in NAMES:
        regions.west.run("replicate", "ap", local=name)
    return {name: regions.west.run("serve", "ap", local=name) for name in NAMES}


def east_waits(regions: Regions, launch: tuple[str, ...] = ("-m", "holdfast")) -> dict[str, App]:
    for name in NAMES:
        regions.east.run("replicate", "ap", local=name)
    return {name: regions.east.run("serve", "ap", local=name, launch=launch) for name in NAMES}


def close_west(regions: Regions) -> None:
    """Nothing is written there from now on, and east gets all that was."""
    code, told, words = regions.west.region("fence", "--epoch", "2", "--reason", "a planned move")
    assert code == 0, (told, words)
    regions.in_step()


def around_a_promotion(
    regions: Regions, enough: Callable[[Sessions], bool], launch: tuple[str, ...] = ("-m", "holdfast")
) -> Sessions:
    sessions, east = Sessions(west_serves(regions)), east_waits(regions, launch)
    with sessions.going():
        wait_for("sessions in west", lambda: sessions.seen[True].total() > 20)
        close_west(regions)
        sessions.apps, sessions.seen = east, {True: Counter(), False: Counter()}
        regions.fail_over()
        wait_for("settled", lambda: regions.east.states() == ["member"] * 3)
        wait_for("enough answers", lambda: enough(sessions))
    return sessions


def test_a_promotion_makes_no_session_read_say_what_is_not_so(regions: Regions) -> None:
    def enough(sessions: Sessions) -> bool:
        """A session of after the promotion is honoured; one of before is not, and its write may not be there yet."""
        return sessions.seen[False][True, True] > 100 and sessions.seen[True][False, False] > 0

    assert not around_a_promotion(regions, enough).lies


def test_control_promises_that_are_not_looked_into_are_found(regions: Regions) -> None:
    around_a_promotion(regions, lambda sessions: bool(sessions.lies), (str(HERE / "broken_sessions.py"),))


def early(out: Path) -> list[dict[str, Any]]:
    """What the probe noted of reads that found nothing of their session's write."""
    return [r for r in lines(out) if r.get("op") == "session_read" and r.get("seen") == 0]


def test_the_probe_takes_an_honest_not_found_after_a_promotion_for_one(regions: Regions, tmp_path: Path) -> None:
    west, east, out = west_serves(regions), east_waits(regions), tmp_path / "probe.jsonl"
    names = {n: regions.proxies.path(west[n].port) for n in NAMES}
    targets = [f"--target={n}/ap=http://127.0.0.1:{name.port}" for n, name in names.items()]
    probe = start(out, *targets, *token(tmp_path), "--rate=15", "--read-rate=60", "--duration=0")
    wait_for("it reads", lambda: out.exists() and out.read_text().count('"session_read"') > 20)
    close_west(regions)
    for node, name in names.items():
        name.target = east[node].port
        west[node].stop()
    regions.fail_over()
    wait_for("settled", lambda: regions.east.states() == ["member"] * 3)
    wait_for("somebody reads a write before it is there", lambda: early(out), pause=0.5)
    time.sleep(2)
    probe.terminate()
    assert probe.wait(60) == 0
    ap = report(out)["modes"]["ap"]
    assert ap["violations"] == 0, ap["examples"]
    assert {r["read_your_writes"] for r in early(out)} == {False}
    assert ap["reads"]["session_declined"] >= len(early(out))
