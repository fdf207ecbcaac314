"""Tags, versions, keys, session tokens: what they accept, refuse and how they compare."""

from __future__ import annotations

import pytest

from holdfast.errors import BadKey, BadValue, TooLarge
from holdfast.hlc import Version
from holdfast.keys import decode_body_value, decode_key, decode_path_value, raw_segments
from holdfast.sessions import Session, decode, encode
from holdfast.tags import NO_TAG, Tag, WriterIds, next_tag

W = "a" * 28


def test_tag_text_order_is_tag_order() -> None:
    tags = [Tag(1, 9, W), Tag(1, 10, "0" * 28), Tag(1, 10, W), Tag(1, 2**60, W), Tag(2, 1, "0" * 28)]
    assert [str(t) for t in tags] == sorted(str(t) for t in tags)
    assert all(Tag.parse(str(t)) == t for t in tags)
    assert str(tags[0]) > NO_TAG


@pytest.mark.parametrize("text", ["", "1.1.1", str(Tag(1, 1, W)).upper(), str(Tag(1, 1, W)) + "0"])
def test_not_a_tag(text: str) -> None:
    with pytest.raises(ValueError, match="not a tag"):
        Tag.parse(text)


def test_a_tag_is_not_below_the_clock_and_still_above_what_was_seen() -> None:
    assert next_tag(NO_TAG, 1, W, 1000) == str(Tag(1, 1000, W))
    assert next_tag(str(Tag(1, 5, "f" * 28)), 1, W, 1000) == str(Tag(1, 1000, W))
    assert next_tag(str(Tag(1, 5000, "f" * 28)), 1, W, 1000) == str(Tag(1, 5001, W))


def test_next_tag_grows_and_never_goes_back_an_epoch() -> None:
    assert next_tag(NO_TAG, 1, W) == str(Tag(1, 1, W))
    assert next_tag(str(Tag(1, 5, "f" * 28)), 2, W) == str(Tag(2, 6, W))
    with pytest.raises(ValueError, match="epoch"):
        next_tag(str(Tag(3, 1, W)), 2, W)


def test_writer_ids_are_unique() -> None:
    ids = WriterIds("0123456789abcdef")
    minted = {ids.next() for _ in range(1000)}
    assert len(minted) == 1000
    assert all(len(i) == 28 for i in minted)


def test_version_round_trip_and_order() -> None:
    older, newer = Version(1, 100, 0, "db_g2"), Version(1, 100, 1, "db_g1")
    assert Version.parse(str(older)) == older
    assert older.order() < newer.order() < Version(2, 1, 0, "db_g1").order()
    assert Version(1, 1, 1, "db_g1").order() < Version(1, 1, 1, "db_g2").order()
    with pytest.raises(ValueError, match="not a version"):
        Version.parse("1.2.x")


@pytest.mark.parametrize(
    ("target", "segments"),
    [
        ("/read/a%2Fb", ["read", "a%2Fb"]),
        ("/write/a/b?x=/y", ["write", "a", "b"]),
        ("http://host/read/k", ["read", "k"]),
        ("/", [""]),
        ("*", [""]),
        ("//read/k", ["", "read", "k"]),
    ],
)
def test_raw_segments(target: str, segments: list[str]) -> None:
    assert raw_segments(target) == segments


@pytest.mark.parametrize(
    ("segment", "key"),
    [("a%2Fb", "a/b"), ("%C3%A9", "é"), ("\xc3\xa9", "é"), ("a+b", "a+b"), ("..", ".."), ("a" * 512, "a" * 512)],
)
def test_good_keys(segment: str, key: str) -> None:
    assert decode_key(segment) == key


@pytest.mark.parametrize(
    "segment",
    ["", "a" * 513, "%C3%A9" * 257, "%00", "a%0Ab", "%7F", "%C2%85", "%zz", "%", "%C3", "%ED%A0%80"],
)
def test_bad_keys(segment: str) -> None:
    with pytest.raises(BadKey):
        decode_key(segment)


def test_values() -> None:
    assert decode_body_value(b"", 10) == ""
    assert decode_body_value("é\n".encode(), 10) == "é\n"
    assert decode_path_value("a%2Fb%0A", 10) == "a/b\n"
    for bad in (b"\xff", b"\xed\xa0\x80"):
        with pytest.raises(BadValue):
            decode_body_value(bad, 10)
    with pytest.raises(BadValue):
        decode_path_value("", 10)
    with pytest.raises(TooLarge):
        decode_body_value(b"x" * 11, 10)
    with pytest.raises(TooLarge):
        decode_path_value("%C3%A9" * 6, 10)


def test_session_tokens_are_signed() -> None:
    key = b"k" * 32
    session = Session().with_write("db_g1", "inc", 5).with_write("db_g2", "other", 1)
    token = encode(session, key)
    assert decode(token, key) == session
    assert decode(token, b"other" * 8) is None
    payload, _, signature = token.partition(".")
    for forged in ("", ".", payload, f"{payload}.", f"{payload[:-2]}AA.{signature}", "é.x", "x" * 5000):
        assert decode(forged, key) is None


def test_session_keeps_the_largest_sequence_of_an_incarnation() -> None:
    session = Session().with_write("db_g1", "inc", 5)
    assert session.with_write("db_g1", "inc", 3).writes["db_g1"] == ("inc", 5)
    assert session.with_write("db_g1", "new", 1).writes["db_g1"] == ("new", 1)
