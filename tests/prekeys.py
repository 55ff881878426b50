"""Uploads of prekeys, made by hand, and wrongly where that is wanted."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey

from blindpost.protocol import transcripts
from blindpost.protocol.kem import KemPublicKey
from support import Person, b64, new_key, public, sign

Body = dict[str, Any]
_later = count()


def new_kem_key() -> KemPublicKey:
    return KemPublicKey(MLKEM1024PrivateKey.generate().public_key().public_bytes_raw())


def in_days(days: float) -> datetime:
    """Return a time in whole seconds, later than any that was returned for as many days."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days, seconds=next(_later))


def written(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def signed_prekey(who: Person, expires: datetime | None = None, key: ec.EllipticCurvePrivateKey | None = None) -> Body:
    prekey_id, expires, given = uuid4(), expires or in_days(30), public(key or new_key())
    signed = transcripts.signed_prekey(UUID(who.id), prekey_id, int(expires.timestamp()), given)
    signature = sign(who.ecdsa, signed)
    return {"id": str(prekey_id), "public_key": given.pem, "expires": written(expires), "signature": signature}


def last_resort(who: Person, expires: datetime | None = None) -> Body:
    prekey_id, expires, given = uuid4(), expires or in_days(30), new_kem_key()
    signed = transcripts.last_resort_kem_prekey(UUID(who.id), prekey_id, int(expires.timestamp()), given)
    signature = sign(who.ecdsa, signed)
    return {"id": str(prekey_id), "public_key": b64(given.raw), "expires": written(expires), "signature": signature}


def one_time(who: Person, prekey_id: UUID | None = None, key: ec.EllipticCurvePrivateKey | None = None) -> Body:
    prekey_id, given = prekey_id or uuid4(), public(key or new_key())
    signature = sign(who.ecdsa, transcripts.one_time_prekey(UUID(who.id), prekey_id, given))
    return {"id": str(prekey_id), "public_key": given.pem, "signature": signature}


def one_time_kem(who: Person, prekey_id: UUID | None = None, key: KemPublicKey | None = None) -> Body:
    prekey_id, given = prekey_id or uuid4(), key or new_kem_key()
    signature = sign(who.ecdsa, transcripts.one_time_kem_prekey(UUID(who.id), prekey_id, given))
    return {"id": str(prekey_id), "public_key": b64(given.raw), "signature": signature}


def upload_of(who: Person, each: int = 1) -> Body:
    """Return a correct body for /keys, with keys that last and some of each sort of one-time keys."""
    return {
        "signed_prekey": signed_prekey(who),
        "last_resort_kem_prekey": last_resort(who),
        "one_time_prekeys": [one_time(who) for _ in range(each)],
        "one_time_kem_prekeys": [one_time_kem(who) for _ in range(each)],
    }
