"""Session tokens: JSON Web Tokens (RFC 7519, RFC 9068) signed with a key that never leaves its node.

Each node makes a P-256 key of its own and publishes the public half in PostgreSQL, so that every node can check
every other's tokens while no secret is shared: whoever reads the database can forge nothing.
"""

import os
import stat
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any, Final, NamedTuple
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from blindpost.core.database import Database
from blindpost.core.repositories import users
from blindpost.errors import ConfigurationError, NotAuthenticated

ALGORITHM: Final = "ES256"
TYPE: Final = "at+jwt"
ISSUER: Final = "blindpost"
AUDIENCE: Final = "blindpost"
TOKEN_MAX_CHARS: Final = 1_024
KEY_FILE: Final = "token-key.pem"
KEY_ID_CHARS: Final = 32
VERIFIED_MAX: Final = 10_000
KEYS_MAX: Final = 1_000


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

    def __init__(self, key: ec.EllipticCurvePrivateKey, database: Database) -> None:
        self._key = key
        self._database = database
        self._public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._key_id = _key_id(self._public)
        self._public_keys: dict[str, ec.EllipticCurvePublicKey] = {}
        self._verified: dict[str, Claims] = {}

    async def publish(self) -> None:
        """Let the other nodes check what this one signs."""
        async with self._database.transaction() as tx:
            await users.publish_token_key(tx, self._key_id, self._public)

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
        return jwt.encode(claims, self._key, ALGORITHM, headers={"kid": self._key_id, "typ": TYPE})

    async def check(self, token: str) -> Claims:
        """Return a token's claims; raises NotAuthenticated, or Unavailable where a node's key cannot be read.

        Signatures that were checked are remembered until they expire: that a session is still open is asked
        elsewhere, at every request.
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
            if header.get("typ") != TYPE or not isinstance(key_id, str) or len(key_id) != KEY_ID_CHARS:
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
            return Claims(UUID(claims["sub"]), UUID(claims["jti"]), int(claims["exp"]), thumbprint)
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise NotAuthenticated from error

    async def _public_key(self, key_id: str) -> ec.EllipticCurvePublicKey:
        if key_id not in self._public_keys:
            if not key_id.isascii() or not key_id.isalnum():
                raise NotAuthenticated
            async with self._database.reading() as connection:
                der = await users.token_key(connection, key_id)
            if der is None:
                raise NotAuthenticated
            key = load_der_public_key(der)
            if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
                raise NotAuthenticated
            if len(self._public_keys) >= KEYS_MAX:
                self._public_keys.clear()
            self._public_keys[key_id] = key
        return self._public_keys[key_id]


def load_or_make_key(data_dir: Path) -> ec.EllipticCurvePrivateKey:
    """Read the node's key, or make one at the first start; raises ConfigurationError if others could read it."""
    path = data_dir / KEY_FILE
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make_key(path)
        return _read_key(path)
    except OSError as error:
        raise ConfigurationError(
            f"the token key {path} cannot be read or written: {error.strerror}", "set BLINDPOST_DATA_DIR"
        ) from None


def _make_key(path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # Written whole under another name and linked: a crash leaves no half key, and of two nodes that start
    # together on one directory the first one's key stays.
    temporary = path.with_name(f".{KEY_FILE}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        pem = file.read()
    if status.st_uid != os.geteuid():
        raise ConfigurationError(f"the token key {path} is somebody else's", f"chown it, or delete it: {path}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigurationError(f"others can read the token key {path}", f"chmod 600 {path}")
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError(
            f"the token key {path} is not a P-256 private key", "delete it: a new one is made, and people log in again"
        )
    return key


def _key_id(public_key: bytes) -> str:
    return sha256(public_key).hexdigest()[:KEY_ID_CHARS]
