"""Wire objects of /keys."""

import re
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, StrictBool

from blindpost.protocol.encoding import b64encode
from blindpost.protocol.kem import PUBLIC_BYTES
from blindpost.protocol.limits import PREKEY_BATCH_MAX
from blindpost.services.models.common import (
    Incoming,
    Outgoing,
    Pem,
    Signature,
    Timestamp,
    base64_schema,
    decoded,
)

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.0+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)


def _written(value: object) -> object:
    """Refuse the other ways to write a time that the library reads: a number, and a time without its zone."""
    if isinstance(value, datetime) or (isinstance(value, str) and _RFC3339.fullmatch(value)):
        return value
    raise ValueError("must be a time in whole seconds, as RFC 3339 has it")


def _whole(value: datetime) -> datetime:
    if value.microsecond:
        raise ValueError("the time must be in whole seconds")
    return value


WholeSeconds = Annotated[Timestamp, BeforeValidator(_written), AfterValidator(_whole)]
"""RFC 3339, UTC: the signature covers whole Unix seconds."""

KemKey = Annotated[
    bytes,
    BeforeValidator(decoded),
    Field(min_length=PUBLIC_BYTES, max_length=PUBLIC_BYTES),
    PlainSerializer(b64encode),
    base64_schema(PUBLIC_BYTES),
]
"""An ML-KEM-1024 encapsulation key; base64 on the wire."""


class SignedPrekey(Incoming):
    """A P-384 key to begin sessions with until it expires."""

    id: UUID
    public_key: Pem
    expires: WholeSeconds
    signature: Signature


class OneTimePrekey(Incoming):
    """A P-384 key to begin one session with."""

    id: UUID
    public_key: Pem
    signature: Signature


class LastResortKemPrekey(Incoming):
    """An ML-KEM-1024 key for when the one-time ones are used up."""

    id: UUID
    public_key: KemKey
    expires: WholeSeconds
    signature: Signature


class OneTimeKemPrekey(Incoming):
    """An ML-KEM-1024 key to begin one session with."""

    id: UUID
    public_key: KemKey
    signature: Signature


class PrekeysUpload(Incoming):
    """What to add. A signed prekey, and a KEM key of last resort, takes the place of the one before."""

    replace: StrictBool = False
    """Whether one-time keys of before are withdrawn first: their owner has lost the private halves."""
    signed_prekey: SignedPrekey | None = None
    last_resort_kem_prekey: LastResortKemPrekey | None = None
    one_time_prekeys: Annotated[list[OneTimePrekey], Field(max_length=PREKEY_BATCH_MAX, default_factory=list)]
    one_time_kem_prekeys: Annotated[list[OneTimeKemPrekey], Field(max_length=PREKEY_BATCH_MAX, default_factory=list)]


class PrekeysStatus(Outgoing):
    """What the router has of the caller's, that has not expired."""

    signed_prekey_id: UUID | None
    signed_prekey_expires: Timestamp | None
    last_resort_kem_prekey_id: UUID | None
    last_resort_kem_prekey_expires: Timestamp | None
    one_time_prekeys: int
    one_time_kem_prekeys: int


class ClaimRequest(Incoming):
    user_id: UUID


class ClaimedPrekey(Outgoing):
    id: UUID
    public_key: str
    expires: Timestamp | None = None
    """Of a signed prekey."""
    signature: Signature


class ClaimedKemPrekey(Outgoing):
    id: UUID
    public_key: KemKey
    expires: Timestamp | None = None
    """Of the key of last resort; a one-time key has none."""
    signature: Signature


class Bundle(Outgoing):
    """What a session with somebody begins with. The one-time keys in it are given to nobody else."""

    user_id: UUID
    signed_prekey: ClaimedPrekey
    one_time_prekey: ClaimedPrekey | None
    kem_prekey: ClaimedKemPrekey
