"""A login challenge is read only in its one canonical form."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindpost.protocol.challenge import LABEL, Challenge

NONCE = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
GOOD = f"{LABEL}|https://chat.example.org|alice|{NONCE}|1700000000"
PLAIN = st.text(st.characters(exclude_characters="|", codec="utf-8"), max_size=40)


@given(PLAIN, PLAIN, st.binary(min_size=32, max_size=32), st.integers(min_value=0, max_value=9_999_999_999))
def test_round_trip(origin: str, username: str, nonce: bytes, expiry: int) -> None:
    """What is written is read again."""
    written = Challenge(origin, username, base64.urlsafe_b64encode(nonce).decode().rstrip("="), expiry)
    assert Challenge.parse(str(written)) == written


@given(st.text())
def test_text_that_is_read_is_what_would_be_written(text: str) -> None:
    """Any other text is a ValueError."""
    with pytest.raises(ValueError, match="challenge"):
        Challenge.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD + "|",
        GOOD + "\n",
        " " + GOOD,
        GOOD.replace("/v1/", "/v2/"),
        GOOD.replace("login", "register"),
        GOOD.replace("1700000000", "01700000000"),
        GOOD.replace("1700000000", "-1"),
        GOOD.replace("1700000000", "1e9"),
        GOOD.replace("1700000000", "\u0661"),
        GOOD.replace("1700000000", ""),
        GOOD.replace("1700000000", "9" * 5000),
        GOOD.replace(NONCE, NONCE[:-1]),
        GOOD.replace(NONCE, NONCE[:-1] + "9"),
        GOOD.replace(NONCE, "+" + NONCE[1:]),
        GOOD.replace("alice", "alice|mallory"),
        GOOD.replace("alice", "a" * 512),
    ],
)
def test_refuses_other_text(text: str) -> None:
    """Another purpose, another spelling of a number, a nonce that is not 32 bytes, too much of anything."""
    assert Challenge.parse(GOOD).username == "alice"
    with pytest.raises(ValueError, match="challenge"):
        Challenge.parse(text)
