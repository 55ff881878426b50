"""Padding hides the length within a bucket, and comes off in one way only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindpost.protocol.limits import MESSAGE_MAX_BYTES
from blindpost.protocol.padding import BUCKETS, bucket_for, pad, unpad


def test_the_buckets_are_eight_powers_of_two() -> None:
    """From 512 bytes to the router's limit."""
    assert BUCKETS == (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
    assert BUCKETS[-1] == MESSAGE_MAX_BYTES


@given(st.binary(max_size=300), st.integers(min_value=1, max_value=300))
def test_round_trip(data: bytes, room: int) -> None:
    """Data that ends in zeros, or in what looks like padding, comes back as it was."""
    padded = pad(data, len(data) + room)
    assert len(padded) == len(data) + room
    assert unpad(padded) == data


@given(st.binary(max_size=300))
def test_what_comes_off_goes_on_again(padded: bytes) -> None:
    """There is one padded form for each length; anything else is a ValueError."""
    try:
        data = unpad(padded)
    except ValueError:
        assert not padded.rstrip(b"\x00").endswith(b"\x80")
        return
    assert pad(data, len(padded)) == padded


@given(st.integers(min_value=0, max_value=MESSAGE_MAX_BYTES))
def test_the_smallest_bucket_is_taken(length: int) -> None:
    """Nothing is padded to more than its bucket, nor cut."""
    size = bucket_for(length)
    assert size >= length
    assert size == BUCKETS[0] or size // 2 < length


def test_refuses_what_does_not_fit() -> None:
    """There is always room for the mark, and no bucket beyond the limit."""
    with pytest.raises(ValueError, match="room"):
        pad(b"ab", 2)
    with pytest.raises(ValueError, match="largest"):
        bucket_for(MESSAGE_MAX_BYTES + 1)


@pytest.mark.parametrize("padded", [b"", b"\x00", b"ab", b"\x80X", b"\x80\x00X", b"\x80\x00\x01"])
def test_refuses_what_is_not_a_mark_and_zeros(padded: bytes) -> None:
    with pytest.raises(ValueError, match="no mark"):
        unpad(padded)


def test_the_mark_may_stand_alone() -> None:
    """Nothing at all has a padded form too."""
    assert pad(b"", 1) == b"\x80"
    assert unpad(b"\x80") == b""
