"""What a message says has one form, and what no sender writes is refused."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindpost.protocol.content import HEAD_BYTES, SENT_AT_MAX_MS, Content, Kind

HELLO = Content(UUID(int=7), 1_700_000_000_000, Kind.TEXT, b"hello", b"series..", 5)
HEAD = HELLO.encode()[:40]


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        HEAD,
        HEAD[:16] + b"\xff" * 8 + HELLO.encode()[24:],
        HEAD[:32] + b"\xff" * 8 + HELLO.encode()[40:],
        HEAD + b"\x03" + bytes(16),
        HEAD + b"\x00hello",
        HEAD + b"\x03hello",
        HEAD + b"\x04hello",
        HEAD + b"\x01\xff",
        HEAD + b"\x01\xed\xa0\x80",
    ],
)
def test_refuses_content_that_no_sender_writes(encoded: bytes) -> None:
    """A time beyond the calendar, an unknown kind, text that is not UTF-8: a hostile contact crashes nobody."""
    with pytest.raises(ValueError, match=r"\w"):
        Content.decode(encoded)


@given(st.binary(max_size=100))
def test_content_has_one_form(encoded: bytes) -> None:
    """What is read is what would be written."""
    try:
        content = Content.decode(encoded)
    except ValueError:
        return
    assert content.encode() == encoded


@pytest.mark.parametrize(("sent_at_ms", "is_good"), [(-1, False), (0, True), (SENT_AT_MAX_MS, True), (2**63, False)])
def test_a_time_of_sending_is_between_1970_and_the_last_millisecond_of_9999(
    sent_at_ms: int,
    is_good: bool,  # noqa: FBT001
) -> None:
    content = replace(HELLO, sent_at_ms=sent_at_ms)
    if is_good:
        assert Content.decode(content.encode()) == content
    else:
        with pytest.raises(ValueError, match="time of sending"):
            content.encode()


def test_one_millisecond_later_is_no_date() -> None:
    assert SENT_AT_MAX_MS == 253_402_300_799_999
    with pytest.raises(ValueError, match="time of sending"):
        replace(HELLO, sent_at_ms=SENT_AT_MAX_MS + 1).encode()


def test_a_content_without_data_is_one() -> None:
    empty = replace(HELLO, data=b"")
    assert len(empty.encode()) == HEAD_BYTES
    assert Content.decode(empty.encode()) == empty
    with pytest.raises(ValueError, match="too short"):
        Content.decode(empty.encode()[:-1])


def test_text_is_utf_8_and_bytes_are_anything() -> None:
    assert Content.decode(replace(HELLO, kind=Kind.BYTES, data=b"\xff").encode()).data == b"\xff"
    with pytest.raises(ValueError, match="utf-8"):
        replace(HELLO, data=b"\xff").encode()


@pytest.mark.parametrize("place", range(16, 24))
def test_every_byte_of_the_time_of_sending_counts(place: int) -> None:
    encoded = bytearray(HELLO.encode())
    encoded[place] ^= 0x80
    try:
        content = Content.decode(bytes(encoded))
    except ValueError:
        assert place < 19, "it would be a good time"
        return
    assert content.encode() == encoded
    assert content.sent_at_ms != HELLO.sent_at_ms
