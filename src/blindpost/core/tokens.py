"""Session tokens: JSON Web Tokens (RFC 7519, RFC 9068) signed with a key that never leaves its node.

Each node makes a P-256 key of its own and publishes the public half in PostgreSQL, so that every node can check
every other's tokens while no secret is shared: whoever reads the database can forge nothing.
"""

import asyncio
from pathlib import Path
from time import monotonic, time
from typing import Any, Final, NamedTuple
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from blindpost.core import token_key
from blindpost.core.audit import Audit, Event
from blindpost.core.database import Database
from blindpost.core.ids import uuid_of
from blindpost.core.repositories import token_keys
from blindpost.core.token_key import TokenKey
from blindpost.errors import NotAuthenticated, Unavailable
from blindpost.telemetry import log, log_fault

ALGORITHM: Final = "ES256"
TYPE: Final = "at+jwt"
ISSUER: Final = "blindpost"
AUDIENCE: Final = "blindpost"
TOKEN_MAX_CHARS: Final = 1_024
VERIFIED_MAX: Final = 10_000
REFRESH_S: Final = 5.0
"""After a rotation, all nodes know the new key, and no longer the retired one, within this time."""
REFRESH_AT_MOST_S: Final = 1.0
"""A key id that nobody knows is asked for so often at most, however many tokens name it."""


class Claims(NamedTuple):
    """What a valid token says."""

    user_id: UUID
    session_id: UUID
    expires_at: int
    """Unix seconds."""
    thumbprint: str | None
    """Of the session's own key (RFC 7638); None for a bearer token."""


class Tokens:
    """Signs this node's tokens, and checks every node's."""

    def __init__(self, data_dir: Path, database: Database, audit: Audit) -> None:
        self._data_dir = data_dir
        self._database = database
        self._audit = audit
        token_key.load_or_make(data_dir)
        self._file = token_key.state(data_dir)  # before it is read: a rotation in between is seen at the next look
        self._key = token_key.load_or_make(data_dir)
        self._key_id = self._key.id
        self._public_keys: dict[str, ec.EllipticCurvePublicKey] = {}
        self._verified: dict[str, Claims] = {}
        self._refreshing = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._refreshed_at = float("-inf")

    async def publish(self) -> None:
        """Let the other nodes check what this one signs, and forget what it retired; raises Unavailable."""
        await self._publish(self._key)

    async def _publish(self, key: TokenKey) -> None:
        async with self._database.transaction() as tx:
            await token_keys.publish(tx, key.id, key.public)
            await token_keys.retire(tx, key.retired)
        await self.refresh()

    async def run(self) -> None:
        """Keep up with rotations, here and on other nodes, until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                if token_key.state(self._data_dir) != self._file:
                    await self._take_new_key()
                else:
                    await self.refresh()
            except Unavailable:
                continue  # the store is away: what is known stays known, and sessions are asked for elsewhere
            except Exception as error:  # noqa: BLE001 - a file that is being replaced must not end the process
                log_fault("token_key_not_read", error)

    async def _take_new_key(self) -> None:
        """Sign with a new key, but only once it is published: no node may meet a token that it cannot check."""
        state = token_key.state(self._data_dir)
        key = token_key.load_or_make(self._data_dir)
        await self._publish(key)
        self._key, self._key_id, self._file = key, key.id, state
        self._audit.note(Event.TOKEN_KEY_ROTATED)
        log.info("token_key_taken")

    async def refresh(self) -> None:
        """Read which keys are believed in; tokens of any other are forgotten. Raises Unavailable."""
        async with self._refreshing:
            began_at = monotonic()
            async with self._database.transaction() as tx:
                published = await token_keys.believed(tx)
            self._refreshed_at = began_at
            before = self._public_keys
            self._public_keys = {key_id: key for key_id, der in published.items() if (key := _p256(der)) is not None}
            if not before.keys() <= self._public_keys.keys():
                self._verified.clear()

    def issue(self, user_id: UUID, session_id: UUID, lifetime_s: int, thumbprint: str | None = None) -> str:
        """Sign a token; with a thumbprint it is bound to that key (RFC 9449, section 6.1)."""
        now = int(time())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user_id),
            "jti": str(session_id),
            "iat": now,
            "exp": now + lifetime_s,
        }
        if thumbprint is not None:
            claims["cnf"] = {"jkt": thumbprint}
        return jwt.encode(claims, self._key.private, ALGORITHM, headers={"kid": self._key_id, "typ": TYPE})

    async def check(self, token: str) -> Claims:
        """Return a token's claims; raises NotAuthenticated, or Unavailable where the nodes' keys cannot be read.

        Signatures that were checked are remembered until they expire, or their key is no longer believed in: that a
        session is still open is asked elsewhere, at every request.
        """
        claims = self._verified.get(token)
        if claims is None:
            claims = await self._verify(token)
            if len(self._verified) >= VERIFIED_MAX:
                self._verified.clear()
            self._verified[token] = claims
        if claims.expires_at <= time():
            self._verified.pop(token, None)
            raise NotAuthenticated
        return claims

    async def _verify(self, token: str) -> Claims:
        if len(token) > TOKEN_MAX_CHARS:
            raise NotAuthenticated
        try:
            header = jwt.get_unverified_header(token)
            # Only the key id is taken from the header, and only as a name to look up: never a key or algorithm.
            key_id = header.get("kid")
            if header.get("typ") != TYPE or not isinstance(key_id, str) or len(key_id) != token_key.KEY_ID_CHARS:
                raise NotAuthenticated
            key = await self._public_key(key_id)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": ["iss", "aud", "sub", "jti", "iat", "exp"]},
            )
            thumbprint = claims["cnf"]["jkt"] if "cnf" in claims else None
            return Claims(uuid_of(claims["sub"]), uuid_of(claims["jti"]), int(claims["exp"]), thumbprint)
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise NotAuthenticated from error

    async def _public_key(self, key_id: str) -> ec.EllipticCurvePublicKey:
        """Return a node's key. One that is new may be of a node that started a moment ago: ask, but not too often."""
        asked_at = monotonic()
        if key_id not in self._public_keys:
            async with self._asking:
                if self._refreshed_at < asked_at:  # who waited here with others need not ask again
                    await asyncio.sleep(self._refreshed_at + REFRESH_AT_MOST_S - asked_at)
                    await self.refresh()
        try:
            return self._public_keys[key_id]
        except KeyError:
            raise NotAuthenticated from None


def _p256(der: bytes) -> ec.EllipticCurvePublicKey | None:
    try:
        key = load_der_public_key(der)
    except ValueError:
        return None  # whoever can write to the table must not be able to keep the nodes from starting
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) else None
