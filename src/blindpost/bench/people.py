"""People for a benchmark to write between: put into the tables as registrations, contacts and logins would put them.

Their tokens are signed as any node's: with a key of the benchmark's own, whose public half is published. So a crowd is
made in a moment, with all limits on, and a router checks every request of theirs as anybody's.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from time import time
from typing import Any, Final, Self
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from blindpost.core import token_key
from blindpost.core.tokens import ALGORITHM, AUDIENCE, ISSUER, TYPE
from blindpost.protocol.dpop import ProofKey, SignedRequest
from blindpost.protocol.keys import PublicKey

SESSION: Final = timedelta(hours=6)
P256_BYTES: Final = 32
_SIGNATURE: Final = ec.ECDSA(hashes.SHA256())
_numbers: Final = count()


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a session."""

    id: UUID
    name: str
    token: str
    session_key: ec.EllipticCurvePrivateKey
    """Signs their requests."""
    proof_header: str
    """The same in every proof by this key."""

    def signer(self, method: str, url: str) -> "Signer":
        return Signer(self, method, url)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two contacts, one of whom writes to the other."""

    sender: Person
    recipient: Person


class Signer:
    """Writes the head of one kind of request, signed as the SDK signs it, in a tenth of its time.

    All but the proof's id, its time and the digest of the body is the same in every proof, and is written once.
    """

    def __init__(self, person: Person, method: str, url: str) -> None:
        parts = urlsplit(url)
        bare = url.partition("?")[0]
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        self._key = person.session_key
        self._before_claims = f"{person.proof_header}.".encode()
        ath = _b64url(sha256(person.token.encode()).digest()).decode()
        self._claims = f'"htm":"{method}","htu":"{bare}","ath":"{ath}","jti":"{uuid4().hex[:16]}'.encode()
        self._head = (
            f"{method} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: DPoP {person.token}\r\n"
            "Content-Type: application/json\r\nDPoP: "
        ).encode()

    def proof(self, body: bytes = b"") -> bytes:
        """Write a proof, good once and for about a minute."""
        digest = b'","bd":"' + _b64url(sha256(body).digest()) if body else b""
        claims = b'{"iat":%d,%b%x%b"}' % (time(), self._claims, next(_numbers), digest)
        data = self._before_claims + _b64url(claims)
        r, s = decode_dss_signature(self._key.sign(data, _SIGNATURE))
        return data + b"." + _b64url(r.to_bytes(P256_BYTES, "big") + s.to_bytes(P256_BYTES, "big"))

    def request(self, body: bytes = b"", more: bytes = b"") -> bytes:
        """Write a request; `more` is header lines, each with its end."""
        return b"%b%b\r\n%bContent-Length: %d\r\n\r\n%b" % (self._head, self.proof(body), more, len(body), body)


def _b64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class Registry:
    """Puts people into one database."""

    def __init__(self, connection: "asyncpg.Connection[Any]", key: token_key.TokenKey) -> None:
        self._connection = connection
        self._key = key
        self.identity = ec.generate_private_key(ec.SECP384R1())
        """Everybody's, as far as none of their own is given: a router never compares two people's keys."""
        self._ecdh = PublicKey.of(ec.generate_private_key(ec.SECP384R1()).public_key()).der

    @classmethod
    async def open(cls, database_url: str, data_dir: Path) -> Self:
        """Connect, and publish the key; the tables must be there."""
        key = token_key.load_or_make(data_dir)
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            "INSERT INTO token_keys (id, public_key) VALUES ($1, $2) ON CONFLICT DO NOTHING", key.id, key.public
        )
        return cls(connection, key)

    async def close(self) -> None:
        await self._connection.close()

    async def people(self, count: int) -> list[Person]:
        """Register and log in so many."""
        made = [self._person() for _ in range(count)]
        ecdsa = PublicKey.of(self.identity.public_key()).der
        expires_at = datetime.now(UTC) + SESSION
        sessions = [(session_id, person.id, expires_at, 0) for person, session_id in made]
        users = [(each.id, each.name, each.name, ecdsa, self._ecdh, bytes(96)) for each, _ in made]
        columns = ["id", "name", "name_key", "ecdsa_public_key", "ecdh_public_key", "ecdh_signature"]
        copy = self._connection.copy_records_to_table
        async with self._connection.transaction():
            await copy("names", records=[(each.name,) for each, _ in made], columns=["name_key"])
            await copy("users", records=users, columns=columns)
            await copy("sessions", records=sessions, columns=["id", "user_id", "expires_at", "contacts_seen"])
        return [person for person, _ in made]

    def _person(self) -> tuple[Person, UUID]:
        user_id, session_id, key = uuid4(), uuid4(), ec.generate_private_key(ec.SECP256R1())
        shown = ProofKey(key)
        header = shown.prove(SignedRequest("GET", ""), 0).partition(".")[0]
        token = self._token(user_id, session_id, shown.thumbprint)
        return Person(user_id, f"bench_{user_id.hex[:20]}", token, key, header), session_id

    def _token(self, user_id: UUID, session_id: UUID, thumbprint: str) -> str:
        now = int(time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user_id),
            "jti": str(session_id),
            "iat": now,
            "exp": now + int(SESSION.total_seconds()),
            "cnf": {"jkt": thumbprint},
        }
        return jwt.encode(claims, self._key.private, ALGORITHM, headers={"kid": self._key.id, "typ": TYPE})

    async def befriend(self, pairs: Iterable[tuple[Person, Person]]) -> None:
        """Make each two contacts."""
        await self._connection.copy_records_to_table(
            "contact_requests",
            records=[(one.id, other.id, "accepted") for one, other in pairs],
            columns=["sender_id", "receiver_id", "status"],
        )

    async def pairs(self, count: int) -> list[Pair]:
        """Make so many pairs of contacts, of people who are in no other pair."""
        people = await self.people(2 * count)
        pairs = list(zip(people[::2], people[1::2], strict=True))
        await self.befriend(pairs)
        return [Pair(*each) for each in pairs]

    async def waiting(self, people: Sequence[Person]) -> int:
        """Count what waits for these people."""
        ids = [each.id for each in people]
        return int(
            await self._connection.fetchval("SELECT count(*) FROM messages WHERE recipient_id = ANY($1::uuid[])", ids)
        )
