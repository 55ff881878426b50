"""What the published vectors of logins are made of: challenges as a client meets them, and what it signs."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

from blindpost.protocol import transcripts
from blindpost.protocol.challenge import Challenge
from blindpost.protocol.encoding import b64encode, b64url_encode
from vector_keys import ALICE, PUBLIC, Vector, sign

NOW: Final = 1_767_225_600
ORIGIN: Final = "https://chat.example.org"
NONCE: Final = b64url_encode(bytes(range(32)))
ASKED: Final = Challenge(ORIGIN, "alice", NONCE, NOW + 60)
THUMBPRINT: Final = b64url_encode(sha256(b"the session's key").digest())


def login_file() -> dict[str, Any]:
    """Return what every vector has in common, and the vectors."""
    return {"ecdsa": PUBLIC["alice_ecdsa"].pem, "thumbprint": THUMBPRINT, "vectors": list(logins())}


def logins() -> Iterator[Vector]:
    """A challenge, with whom and when the client thinks it logs in; the bytes that it signs, or why it does not."""
    for name, challenge in {
        "as asked": ASKED,
        "its origin in upper case": replace(ASKED, origin="https://Chat.Example.org"),
        "its origin with the default port": replace(ASKED, origin=f"{ORIGIN}:443"),
        "its origin with a slash": replace(ASKED, origin=f"{ORIGIN}/"),
        "179 seconds ahead": replace(ASKED, expiry=NOW + 179),
        "119 seconds past": replace(ASKED, expiry=NOW - 119),
    }.items():
        yield _good(name, challenge)
    for name, written, origin in (
        ("another port than the default", "https://chat.example.org:8443", "https://chat.example.org:8443"),
        ("on this computer", "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("a host that is not ASCII", "https://bücher.example", "https://xn--bcher-kva.example"),
    ):
        yield _good(name, replace(ASKED, origin=written), origin)
    refused: dict[str, Mapping[str, str | Challenge]] = {
        "invalid_challenge": malformed(),
        "another_origin": of_others(),
        "another_name": for_others(),
        "another_time": of_other_times(),
    }
    for result, bad in refused.items():
        for name, text in bad.items():
            yield _vector(name, str(text), ORIGIN) | {"result": result}


def _vector(name: str, text: str, origin: str) -> Vector:
    return {"name": name, "challenge": text, "origin": origin, "username": "alice", "now": NOW}


def _good(name: str, challenge: Challenge, origin: str = ORIGIN) -> Vector:
    signed = transcripts.login(str(challenge), THUMBPRINT)
    signature = b64encode(sign("alice_ecdsa", signed))
    return _vector(name, str(challenge), origin) | {
        "result": "ok",
        "signed": b64encode(signed),
        "signature": signature,
    }


def malformed() -> dict[str, str | Challenge]:
    """Texts that are no challenge. challenges.json has more."""
    good = str(ASKED)
    return {
        "empty": "",
        "another purpose": good.replace("login", "register"),
        "a transcript": transcripts.delete_account(ALICE).decode("latin-1"),
        "a field too many": f"{good}|",
        "a sign before the expiry": good.replace(f"|{NOW + 60}", f"|+{NOW + 60}"),
        "a nonce of 31 bytes": replace(ASKED, nonce=b64url_encode(bytes(31))),
        "an origin with a path": replace(ASKED, origin=f"{ORIGIN}/chat"),
        "an origin with a user": replace(ASKED, origin="https://alice@chat.example.org"),
        "an origin with a query": replace(ASKED, origin=f"{ORIGIN}?more"),
        "an origin of another kind": replace(ASKED, origin="ftp://chat.example.org"),
        "no origin": replace(ASKED, origin=""),
    }


def of_others() -> dict[str, Challenge]:
    return {
        name: replace(ASKED, origin=origin)
        for name, origin in {
            "another server's": "https://evil.example.org",
            "a longer host's": "https://chat.example.org.evil.example",
            "another port's": "https://chat.example.org:8443",
            "without TLS": "http://chat.example.org",
        }.items()
    } | {"another server's, and another person's, and old": Challenge("https://evil.example.org", "bob", NONCE, 0)}


def for_others() -> dict[str, Challenge]:
    return {
        "another person's": replace(ASKED, username="bob"),
        "the name in another case": replace(ASKED, username="Alice"),
        "no name": replace(ASKED, username=""),
    }


def of_other_times() -> dict[str, Challenge]:
    return {
        "180 seconds ahead": replace(ASKED, expiry=NOW + 180),
        "120 seconds past": replace(ASKED, expiry=NOW - 120),
        "of 1970": replace(ASKED, expiry=0),
        "of the year 2286": replace(ASKED, expiry=9_999_999_999),
    }
