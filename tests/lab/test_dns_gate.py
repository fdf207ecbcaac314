"""A name server that was off while the names were moved does not start with the region they left; against name servers of a few lines."""

import importlib.machinery
import importlib.util
import json
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

FILE = str(Path(__file__).parents[2] / "roles/dns_failover/files/dns-failover-gate")
SPEC = importlib.util.spec_from_loader("gate", importlib.machinery.SourceFileLoader("gate", FILE))
assert SPEC
assert SPEC.loader
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)

HERE = "127.0.0.1"


class Other:
    """The other name server: answers ``text`` for epoch.kv.example. With another ``kind`` or ``code`` it does not hold the zone."""

    def __init__(self) -> None:
        self.text, self.kind, self.code, self.asked = "east 1", 16, 0, 0
        self._listening = socket.create_server((HERE, 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listening.accept()
            except OSError:
                return
            with link:
                question = MODULE.receive(link, struct.unpack(">H", MODULE.receive(link, 2))[0])
                assert question[12:].startswith(b"\x05epoch\x02kv\x07example\0")
                self.asked += 1
                link.sendall(self.answer(question))

    def answer(self, question: bytes) -> bytes:
        data = bytes([len(self.text)]) + self.text.encode()
        record = b"\xc0\x0c" + struct.pack(">2HIH", self.kind, 1, 3, len(data)) + data
        packet = question[:2] + struct.pack(">5H", 0x8400 | self.code, 1, 1, 0, 0) + question[12:] + record
        return struct.pack(">H", len(packet)) + packet

    def close(self) -> None:
        if self._listening.fileno() >= 0:
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def other(tmp_path, monkeypatch):
    made = Other()
    state = tmp_path / "state.json"
    state.write_text('{"region": "east", "epoch": 3}')
    monkeypatch.setattr(MODULE, "STATE", state)
    monkeypatch.setattr(MODULE, "PORT", made.port)
    monkeypatch.setattr(MODULE, "PATIENCE_SEC", 10)
    monkeypatch.setattr(MODULE.time, "sleep", lambda _: None)
    yield made
    made.close()


def may_start(*others: str) -> bool:
    return MODULE.main("kv.example", *others) == 0


@pytest.mark.parametrize(("text", "starts"), [("west 4", False), ("west 3", True), ("east 3", True), ("east 2", True)])
def test_only_a_higher_epoch_elsewhere_keeps_it_from_starting(other, text, starts, capsys):
    other.text = text
    assert may_start(HERE) is starts
    assert other.asked == (1 if starts else MODULE.LOOKS)
    if not starts:
        assert "epoch 4, and this server holds region east, epoch 3. Run playbooks/names.yml" in capsys.readouterr().out


def test_who_does_not_answer_forbids_nothing(other):
    other.text = "west 4"
    assert not may_start("127.0.0.2", HERE), "one that is ahead is enough"
    other.close()
    assert may_start(HERE)
    assert may_start()


def test_one_that_accepts_and_says_nothing_forbids_nothing(other, monkeypatch):
    monkeypatch.setattr(MODULE, "PATIENCE_SEC", 0.3)
    with socket.create_server((HERE, 0)) as silent:
        monkeypatch.setattr(MODULE, "PORT", silent.getsockname()[1])
        assert may_start(HERE)


@pytest.mark.parametrize(("field", "value"), [("text", "rubbish"), ("text", "west four"), ("kind", 1), ("code", 5)])
def test_what_is_no_epoch_forbids_nothing(other, field, value):
    other.text = "west 4"
    setattr(other, field, value)
    assert may_start(HERE)


@pytest.mark.parametrize("held", [None, "{", "[]", '{"region": "east"}'])
def test_without_a_state_it_is_gdnsds_own_matter(other, held):
    other.text = "west 4"
    MODULE.STATE.unlink() if held is None else MODULE.STATE.write_text(held)
    assert may_start(HERE)


def test_it_starts_as_soon_as_this_server_has_caught_up(other, monkeypatch):
    other.text = "west 4"
    monkeypatch.setattr(MODULE.time, "sleep", lambda _: MODULE.STATE.write_text(json.dumps({"region": "west", "epoch": 4})))
    assert may_start(HERE)
    assert other.asked == 2


def test_as_the_unit_calls_it(tmp_path):
    """A process of its own, with nobody to ask."""
    assert subprocess.run([sys.executable, "-I", FILE, "kv.example"], cwd=tmp_path).returncode == 0
