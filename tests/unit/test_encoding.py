"""Base64 has one text for one byte string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindpost.protocol.encoding import b64decode, b64encode, b64url_decode, b64url_encode


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


@given(st.binary())
def test_the_round_trip_of_the_url_alphabet(data: bytes) -> None:
    assert b64url_decode(b64url_encode(data)) == data
    assert b64url_encode(data) == b64encode(data).rstrip("=").translate({ord("+"): "-", ord("/"): "_"})


@given(st.text())
def test_only_the_canonical_text_of_the_url_alphabet_is_read(text: str) -> None:
    try:
        data = b64url_decode(text)
    except ValueError:
        return
    assert b64url_encode(data) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A", "not base64url"),
        ("AB", "canonical"),
        ("AAB", "canonical"),
        ("AA==", "not base64url|canonical"),
        ("AA\n", "not base64url|canonical"),
        ("AA+A", "not base64url|canonical"),
        ("AA/A", "not base64url|canonical"),
        ("é", "not base64url"),
    ],
)
def test_refuses_other_spellings_of_the_url_alphabet(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        b64url_decode(text)


@pytest.mark.parametrize("character", "AEIXYZxyz0189-_")
def test_only_the_padding_is_left_out(character: str) -> None:
    """Whatever the last character is."""
    text = f"AAA{character}"
    assert b64url_encode(b64url_decode(text)) == text
