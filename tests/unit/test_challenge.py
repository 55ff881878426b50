"""A login challenge is read only in its one canonical form."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindpost.protocol.challenge import LABEL, NONCE_BYTES, Challenge

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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x" * 513, "longer than 512"),
        ("x" * 512, "not a login challenge"),
        (GOOD.replace("login", "other"), "not a login challenge"),
        (GOOD.replace(NONCE, "A" * 42), "not a login challenge"),
        (GOOD.replace(NONCE, "A" * 42 + "B"), "not a login challenge"),
        (GOOD + "|x", "not a login challenge"),
        (GOOD.rpartition("|")[0], "not a login challenge"),
        (GOOD.replace("1700000000", "x"), "not a time"),
        (GOOD.replace("1700000000", ""), "not a time"),
        (GOOD.replace("1700000000", "\u0661" * 10), "not a time"),
        (GOOD.replace("1700000000", "1" * 11), "not a time"),
        (GOOD.replace("1700000000", "0700000000"), "canonical"),
    ],
)
def test_the_refusal_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Challenge.parse(text)


def test_a_challenge_may_have_512_characters() -> None:
    written = Challenge("https://chat.example.org", "a" * (512 - len(GOOD) + len("alice")), NONCE, 1_700_000_000)
    assert len(str(written)) == 512
    assert Challenge.parse(str(written)) == written


def test_a_nonce_has_256_bits() -> None:
    assert NONCE_BYTES == 32
    assert len(base64.urlsafe_b64decode(NONCE + "=")) == NONCE_BYTES
