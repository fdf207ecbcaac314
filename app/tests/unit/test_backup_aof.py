"""Redis's append-only files, byte by byte."""

import io

import pytest

from holdfast.backup import aof_files, moments
from holdfast.backup.aof_files import Listing, parse_manifest, scan
from holdfast.backup.refusals import Damaged, Refused


def command(*words: bytes | str) -> bytes:
    raw = [w if isinstance(w, bytes) else w.encode() for w in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in raw)


def walk(data: bytes, start: int = 0):
    return scan(io.BytesIO(data), start, len(data))


FORGED = b"x\r\n#TS:1\r\n*1\r\n$5\r\nMULTI\r\n"  # a value that looks like more of the file
FILE = b"#TS:100\r\n" + command("SELECT", "0") + command("SET", "a", FORGED) + b"#TS:101\r\n" + command("SET", "b", "2")


def test_marks_stand_before_their_second_and_values_are_not_read_as_commands():
    found = walk(FILE)
    assert (found.end, found.commands, found.unmarked) == (len(FILE), 3, False)
    assert found.marks == ((100, 0), (101, FILE.index(b"#TS:101")))


@pytest.mark.parametrize("block", [128, 131, 200, 1 << 20])
def test_every_cut_ends_after_a_whole_command(block, monkeypatch):
    monkeypatch.setattr(aof_files, "BLOCK", block)
    ends = [0, 9, 9 + len(command("SELECT", "0"))]
    ends += [ends[-1] + len(command("SET", "a", FORGED))]
    ends += [ends[-1] + 9, len(FILE)]
    for size in range(len(FILE) + 1):
        assert walk(FILE[:size]).end == max(e for e in ends if e <= size)


def test_a_transaction_is_never_cut_and_a_mark_in_it_counts_from_its_begin():
    head, inside = command("SET", "a", "1"), command("MULTI") + command("SET", "b", "1")
    data = head + inside + b"#TS:7\r\n" + command("SET", "c", "1") + command("EXEC")
    for size in range(len(head), len(data)):
        assert walk(data[:size]).end == len(head)
        assert walk(data[:size]).marks == ()
    assert walk(data).end == len(data)
    assert walk(data).marks == ((7, len(head)),)


LONG = command("HSET", "cp:key", "v", b"v" * 90)
TAIL = b"#TS:8\r\n" + command("SET", "c", "1")


@pytest.mark.parametrize("block", [16, 17, 23, 64, 128, 200, 1 << 20])
def test_a_transaction_ends_wherever_the_file_is_read_in_two(block, monkeypatch):
    """EXEC that lies across two reads ends its transaction: nothing behind it may count as a part of it."""
    monkeypatch.setattr(aof_files, "BLOCK", block)
    whole = command("MULTI") + command("HSET", "cp:a", "t", "1") + command("HSET", "cp:a", "v", "2") + command("EXEC")
    for before in range(max(block, 130) if block < 1000 else 1):
        head = command("SET", "f", b"y" * before)
        data = head + whole + LONG + whole
        found = walk(data + TAIL)
        assert found.end == len(data + TAIL), before
        assert found.marks == ((8, len(data)),), before
        for size in range(len(head), len(head + whole), 5):
            assert walk(data[:size]).end == len(head), (before, size)


def test_it_goes_on_where_it_stopped():
    first = walk(FILE[:-5])
    second = walk(FILE, first.end)
    assert second.end == len(FILE)
    assert (second.commands, second.unmarked) == (1, True)  # the mark was in the first part


def test_a_value_larger_than_a_block_is_not_read(monkeypatch):
    monkeypatch.setattr(aof_files, "BLOCK", 256)
    data = command("SET", "a", b"v" * 100_000) + command("SET", "b", "1")

    class Counting(io.BytesIO):
        total = 0

        def read(self, size=-1):
            block = super().read(size)
            self.total += len(block)
            return block

    file = Counting(data)
    assert scan(file, 0, len(data)).end == len(data)
    assert file.total < 2_000


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 300,
        b"*1\r\n$x\r\n",
        b"*0\r\n",
        b"*x\r\n",
        b"#TS:x\r\n",
        command("SET", "a", "1")[:-2] + b"xx" + command("PING"),
        b"*2\r\n*1\r\n$1\r\na\r\n",
    ],
)
def test_what_is_no_command_is_damage(data):
    with pytest.raises(Damaged):
        walk(data)


def test_manifest():
    text = (
        "file a.2.base.rdb seq 2 type b\nfile a.1.incr.aof seq 1 type h\nfile a.2.incr.aof seq 2 type i startoffset 5\n"
    )
    assert parse_manifest(text) == Listing("a.2.base.rdb", ("a.2.incr.aof",), ("a.1.incr.aof",))
    assert parse_manifest("# comment\nfile x seq 1 type i\n") == Listing(None, ("x",))
    assert parse_manifest(aof_files.manifest_text("b.rdb", ["i1", "i2"])) == Listing("b.rdb", ("i1", "i2"))


@pytest.mark.parametrize(
    "line",
    ["file ../x seq 1 type i", "file x seq 1", "file x seq 1 type z", "file x seq", "seq 1", "file .x seq 1 type i"],
)
def test_a_manifest_that_is_none_is_damage(line):
    with pytest.raises(Damaged):
        parse_manifest(line + "\n")


HEAD = b"REDIS0010\xfa\x09redis-ver\x067.0.15\xfa\x0aredis-bits\xc0\x40\xfa\x05ctime\xc2"


@pytest.mark.parametrize(
    ("head", "made"),
    [
        (HEAD + (1795878109).to_bytes(4, "little") + b"\xfa\x08used-mem", 1795878109),
        (HEAD[:-1] + b"\x0a3000000000" + b"\xfa\x08used-mem", 3000000000),
        (b"#TS:77\r\n*1\r\n", 77),
        (HEAD[:20], None),
        (b"*1\r\n", None),
        (b"", None),
    ],
)
def test_when_a_base_was_made(head, made):
    assert aof_files.base_made(head) == made


def test_moments():
    assert moments.parse("2026-05-01T10:14:59Z") == moments.parse("2026-05-01 12:14:59.9+02:00") == 1777630499
    assert moments.shown(1777630499.9) == "2026-05-01T10:14:59Z"
    assert moments.from_stamp(moments.stamp(1777630499.125) + "-abcdef") == pytest.approx(1777630499.125)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-05-01", "2026-05-01T10:14:59", "2026-13-01T10:14:59Z", "1777630499"]
)
def test_what_is_no_moment_is_refused_with_an_example(text):
    with pytest.raises(Refused, match="2026-05-01T10:14:59Z"):
        moments.parse(text)
