"""Who I am: two P-384 key pairs, a name, and the account they belong to."""

import os
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from blindpost.client.errors import DamagedFile, FileError, NotRegistered, WrongServer
from blindpost.client.files import locked
from blindpost.client.vault import STANDARD, Scrypt, Vault
from blindpost.protocol.keys import ECDSA_SHA384, PublicKey
from blindpost.protocol.limits import USERNAME_PATTERN
from blindpost.protocol.transcripts import transcript

ROOT_BYTES: Final = 32
SCALAR_BYTES: Final = 48
RETIRED_MAX: Final = 3
RETIRED_LIFETIME_S: Final = 30 * 24 * 3_600
"""Messages that begin a session with a replaced ECDH key may wait at the router for as long."""


class Role(StrEnum):
    """What a key pair is for. One key never serves both."""

    ECDSA = "ecdsa"
    ECDH = "ecdh"


class _Saved(BaseModel):
    """What an identity file holds, decrypted: scalars and the root are base64url."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    username: str
    origin: str | None
    user_id: UUID | None
    root: bytes
    ecdsa: bytes
    ecdh: bytes
    next_ecdsa: bytes | None = None
    next_ecdh: bytes | None = None
    retired: tuple[tuple[bytes, int], ...] = ()
    """Replaced ECDH keys, each with the Unix second until which a session may still begin with it."""


_SAVED: Final = TypeAdapter(_Saved)
_OTHER_ORIGIN: Final = "Use that address, or make another identity for this one."


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """A private key and its public one."""

    private: ec.EllipticCurvePrivateKey
    public: PublicKey

    @classmethod
    def of(cls, scalar: bytes) -> "KeyPair":
        """Return the pair of a scalar; raises ValueError if it is zero, or not below the group's order."""
        if len(scalar) != SCALAR_BYTES:
            raise ValueError("a private key is 48 bytes")
        private = ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP384R1())
        return cls(private, PublicKey.of(private.public_key()))

    def sign(self, data: bytes) -> bytes:
        """Sign: ECDSA P-384, SHA-384, DER (FIPS 186-5)."""
        return self.private.sign(data, ECDSA_SHA384)


@dataclass(frozen=True, slots=True, repr=False)
class _Keys:
    """Key objects of the current state; derived from it, never stored."""

    ecdsa: KeyPair
    ecdh: KeyPair
    next_ecdsa: KeyPair | None
    next_ecdh: KeyPair | None
    retired: tuple[KeyPair, ...]


class Identity:
    """Two key pairs and an account. Private keys never leave it, except into its own encrypted file.

    Several processes may use one file: each change is made to what the file holds then, under a lock. `reload` takes
    in what others changed; nothing else does while keys are in use, so what belongs together stays together.

    It signs whatever bytes it is given, so only code that built a transcript, or checked a challenge, may ask.
    Python cannot wipe memory: who can read this process's memory has the keys.
    """

    def __init__(self, saved: _Saved, vault: Vault | None = None, clock: Callable[[], float] = time.time) -> None:
        self._saved = saved
        self._keys = _load_keys(saved)
        self._vault = vault
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Identity {self.username}>"

    @classmethod
    def generate(cls, username: str, *, clock: Callable[[], float] = time.time) -> Self:
        """Make new keys; raises ValueError for a name that no server would take. Nothing is saved yet."""
        if re.fullmatch(USERNAME_PATTERN, username) is None:
            raise ValueError("a username is 3 to 50 letters, digits and underscores")
        saved = _Saved(
            username=username, origin=None, user_id=None, root=os.urandom(ROOT_BYTES), ecdsa=_scalar(), ecdh=_scalar()
        )
        return cls(saved, clock=clock)

    @classmethod
    def load(
        cls, path: Path, passphrase: str, *, floor: Scrypt = STANDARD, clock: Callable[[], float] = time.time
    ) -> Self:
        """Read an identity file (spec/protocol.md, "Identity file").

        Raises WrongPassphrase, DamagedFile, ExposedFile, or FileError if there is none. `floor` is the weakest
        passphrase cost accepted; only tests lower it.
        """
        vault, content = Vault.open(path, passphrase, floor)
        try:
            return cls(_SAVED.validate_json(content), vault, clock)
        except (ValidationError, ValueError) as error:
            raise DamagedFile(f"{path} was written by another version of this program") from error

    def save(self, path: Path, passphrase: str, *, kdf: Scrypt = STANDARD) -> None:
        """Write to a new file, or to its own under a new passphrase; later changes follow by themselves.

        Raises FileError if another file is there, or it cannot be written; ValueError for an empty passphrase.
        """
        vault = Vault.create(path, passphrase, kdf)
        with locked(path):
            if path.exists() and (self._vault is None or self._vault.path != path):
                raise FileError(f"{path} exists", "Choose another name: an identity is never overwritten.")
            self.reload()
            vault.write(_SAVED.dump_json(self._saved))
        self._vault = vault

    def reload(self) -> None:
        """Take in what another process changed in the file; raises FileError if that cannot be read."""
        content = None if self._vault is None else self._vault.news()
        if content is None:
            return
        try:
            saved = _SAVED.validate_json(content)
            keys = _load_keys(saved)
        except (ValidationError, ValueError) as error:
            raise DamagedFile(f"{self.path} was written by another version of this program") from error
        if saved.root != self._saved.root:
            raise FileError(f"{self.path} is another identity by now", "Start this program again.")
        self._saved, self._keys = saved, keys

    @property
    def username(self) -> str:
        return self._saved.username

    @property
    def origin(self) -> str | None:
        """The server's origin, once an account was asked for there."""
        return self._saved.origin

    @property
    def user_id(self) -> UUID | None:
        """The account, once registered."""
        return self._saved.user_id

    @property
    def account(self) -> UUID:
        """The account; raises NotRegistered if there is none yet."""
        if self._saved.user_id is None:
            raise NotRegistered
        return self._saved.user_id

    @property
    def path(self) -> Path | None:
        """Its file, if it has one."""
        return None if self._vault is None else self._vault.path

    @property
    def ecdsa_key(self) -> PublicKey:
        """The identity key."""
        return self._keys.ecdsa.public

    @property
    def ecdh_key(self) -> PublicKey:
        """The key that sessions begin with."""
        return self._keys.ecdh.public

    def sign(self, data: bytes) -> bytes:
        """Sign with the identity key: ECDSA P-384, SHA-384, DER (FIPS 186-5)."""
        return self._keys.ecdsa.sign(data)

    def sign_with_next(self, data: bytes) -> bytes:
        """Sign with the identity key of a rotation under way; raises ValueError if there is none."""
        if self._keys.next_ecdsa is None:
            raise ValueError("no rotation of the identity key is under way")
        return self._keys.next_ecdsa.sign(data)

    def reading_keys(self) -> tuple[KeyPair, ...]:
        """Return every ECDH pair that a waiting message may begin a session with, the likeliest first."""
        coming = () if self._keys.next_ecdh is None else (self._keys.next_ecdh,)
        return (self._keys.ecdh, *coming, *self._keys.retired)

    def derive_key(self, label: str, salt: bytes, length: int) -> bytes:
        """Derive key bytes for a file of this identity from its root secret (RFC 5869), which no rotation changes."""
        return HKDF(hashes.SHA384(), length, salt=salt, info=transcript(label)).derive(self._saved.root)

    def belong_to(self, origin: str, user_id: UUID | None = None) -> None:
        """Settle server and account, for good; raises WrongServer if they are others already."""

        def settle(saved: _Saved) -> dict[str, object]:
            if saved.origin not in {None, origin}:
                raise WrongServer(f"this identity belongs to {saved.origin}", _OTHER_ORIGIN)
            if user_id is not None and saved.user_id not in {None, user_id}:
                raise WrongServer("the server names another account for this identity")
            return {"origin": origin, "user_id": user_id or saved.user_id}

        self._update(settle)

    def leave(self, origin: str) -> None:
        """Take `belong_to` back, for a server that surely has no account of this identity."""
        self._update(lambda saved: {"origin": None} if (saved.origin, saved.user_id) == (origin, None) else {})

    def next_key(self, role: Role) -> PublicKey | None:
        """Return the public key of a rotation under way."""
        key = self._keys.next_ecdsa if role is Role.ECDSA else self._keys.next_ecdh
        return None if key is None else key.public

    def begin_rotation(self, role: Role) -> PublicKey:
        """Make the next key, or return the one under way. It is in the file before any server hears of it."""
        field = f"next_{role}"
        self._update(lambda saved: {} if getattr(saved, field) else {field: _scalar()})
        key = self.next_key(role)
        if key is None:
            raise AssertionError("the next key was just made")
        return key

    def finish_rotation(self, role: Role) -> None:
        """Put the next key in the current one's place, if there is one; a replaced ECDH key still takes sessions up.

        A next key is never given up: a request that seemed lost may still take effect, and the account would then
        have a key that nobody has. The next rotation uses it.
        """
        finished: bytes | None = getattr(self._saved, f"next_{role}")

        def finish(saved: _Saved) -> dict[str, object]:
            # Another process may have finished this one, and begun one that no server knows.
            if finished is None or getattr(saved, f"next_{role}") != finished:
                return {}
            if role is Role.ECDSA:
                return {"ecdsa": finished, "next_ecdsa": None}
            return {"ecdh": finished, "next_ecdh": None, "retired": self._retire(saved)}

        self._update(finish)

    def _retire(self, saved: _Saved) -> tuple[tuple[bytes, int], ...]:
        now = int(self._clock())
        alive = tuple((key, until) for key, until in saved.retired if until > now)
        return ((saved.ecdh, now + RETIRED_LIFETIME_S), *alive)[:RETIRED_MAX]

    def _update(self, change: Callable[[_Saved], dict[str, object]]) -> None:
        """Change what the file holds now: in the file first, so that memory never knows more than the disk."""
        self.reload()
        if self._changed(change) == self._saved:
            # Without the lock, so that a file on a disk that is read-only still serves.
            return
        with nullcontext() if self._vault is None else locked(self._vault.path):
            self.reload()
            saved = self._changed(change)
            if self._vault is not None and saved != self._saved:
                self._vault.write(_SAVED.dump_json(saved))
            self._saved, self._keys = saved, _load_keys(saved)

    def _changed(self, change: Callable[[_Saved], dict[str, object]]) -> _Saved:
        return self._saved.model_copy(update=change(self._saved))


def _scalar() -> bytes:
    return ec.generate_private_key(ec.SECP384R1()).private_numbers().private_value.to_bytes(SCALAR_BYTES, "big")


def _load_keys(saved: _Saved) -> _Keys:
    if saved.ecdsa == saved.ecdh or len(saved.root) != ROOT_BYTES:
        raise ValueError("not the secrets of an identity")
    return _Keys(
        ecdsa=KeyPair.of(saved.ecdsa),
        ecdh=KeyPair.of(saved.ecdh),
        next_ecdsa=None if saved.next_ecdsa is None else KeyPair.of(saved.next_ecdsa),
        next_ecdh=None if saved.next_ecdh is None else KeyPair.of(saved.next_ecdh),
        retired=tuple(KeyPair.of(scalar) for scalar, _ in saved.retired),
    )
