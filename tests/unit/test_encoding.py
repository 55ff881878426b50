"""Base64 has one text for one byte string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindpost.protocol.encoding import b64decode, b64encode


@given(st.binary())
def test_round_trip(data: bytes) -> None:
    """Whatever is encoded is decoded again."""
    assert b64decode(b64encode(data)) == data


@given(st.text())
def test_only_the_canonical_text_is_read(text: str) -> None:
    """Text that is read is exactly what would be written; all else is a ValueError."""
    try:
        data = b64decode(text)
    except ValueError:
        return
    assert b64encode(data) == text


@pytest.mark.parametrize("text", ["A", "AA", "AAA", "AB==", "AAB=", "AA==\n", " AA==", "AA==AA==", "-_==", "AA=", "é"])
def test_refuses_other_spellings(text: str) -> None:
    """Missing padding, unused bits, white space and the URL alphabet are refused."""
    with pytest.raises(ValueError, match="base64"):
        b64decode(text)
