"""Keys that others begin sessions with while their owner is away."""

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, NoReturn
from uuid import UUID

from blindpost.core.audit import Audit, Event
from blindpost.core.database import Database, Transaction
from blindpost.core.hub import Kind
from blindpost.core.repositories import contacts, messages, prekeys, users
from blindpost.core.repositories.prekeys import Algorithm, LastingPrekey, OneTimePrekey
from blindpost.errors import (
    Conflict,
    InvalidKey,
    InvalidRequest,
    NoPrekeys,
    NotAContact,
    NotAuthenticated,
    TooManyPrekeys,
    TooManyRequests,
)
from blindpost.protocol import transcripts
from blindpost.protocol.kem import KemPublicKey
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.limits import PREKEY_LIFETIME_MAX_S, PREKEYS_LOW, PREKEYS_MAX
from blindpost.services.caller import Caller
from blindpost.services.models.prekeys import Bundle, ClaimedKemPrekey, ClaimedPrekey, PrekeysStatus, PrekeysUpload
from blindpost.services.signed import demand_signature, read_key

ONE_TIME_CLAIMS_MAX: Final = 4
"""Claims of one pair in one day that are given one-time keys: a new device, or a lost answer, and no more."""
CLAIMS_MAX: Final = 40
"""Claims of one pair in one day."""
CLOCK_ALLOWANCE_S: Final = 60
"""By so much the owner's clock may be before ours."""
CHECKS: Final = 1
"""Uploads whose signatures are checked at once: 50 take 30 ms, of which the other requests wait for 5 at most."""


class Offer(NamedTuple):
    """An upload whose keys and signatures were found good."""

    lasting: dict[Algorithm, LastingPrekey]
    one_time: dict[Algorithm, list[OneTimePrekey]]


class PrekeyService:
    """Prekeys: published by their owner, claimed by contacts."""

    def __init__(self, database: Database, audit: Audit, *, require_contact: bool) -> None:
        self._database = database
        self._audit = audit
        self._require_contact = require_contact
        self._checks = asyncio.Semaphore(CHECKS)

    async def publish(self, caller: Caller, upload: PrekeysUpload) -> PrekeysStatus:
        """Add one-time keys and replace those that last, all or nothing; the same upload again changes nothing.

        Raises InvalidRequest (an expiry), InvalidKey, InvalidSignature, TooManyPrekeys, and Conflict: for an id or a
        key that was used otherwise, for a key that expires before the one it would replace, and where the identity key
        was replaced since the signatures were checked.
        """
        for each in (upload.signed_prekey, upload.last_resort_kem_prekey):
            if each is not None:
                _demand_lifetime(each.expires)
        async with self._database.reading() as connection:
            owner = await users.by_id(connection, caller.user_id)
        if owner is None:
            raise NotAuthenticated
        async with self._checks:
            offer = await asyncio.to_thread(_checked, owner, upload)
        async with self._database.transaction() as tx:
            locked = await users.lock(tx, {owner.id})
            if owner.id not in locked:
                raise NotAuthenticated
            if locked[owner.id].ecdsa_public_key != owner.ecdsa_public_key:
                raise Conflict("Your identity key was replaced at the same moment: sign your prekeys with the new one.")
            if upload.replace:
                await prekeys.withdraw_waiting(tx, owner.id)
            await _store(tx, owner.id, offer)
            return await _status(tx, owner.id)

    async def status(self, caller: Caller) -> PrekeysStatus:
        async with self._database.reading() as connection:
            return await _status(connection, caller.user_id)

    async def claim(self, caller: Caller, user_id: UUID) -> Bundle:
        """Take what a session with a contact begins with.

        Raises InvalidRequest (oneself), NotAContact, NoPrekeys, TooManyRequests. The owner's lock makes claims wait
        for each other: so what is left is counted exactly, and the owner is told once.
        """
        if user_id == caller.user_id:
            raise InvalidRequest("You need no prekeys of your own: give somebody else's id.")
        async with self._database.transaction() as tx:
            # Before anybody is locked: a stranger could make people wait, and tell by their own wait who is here.
            if self._require_contact and not await contacts.are_contacts(tx, caller.user_id, user_id):
                raise NotAContact
            if len(await users.lock(tx, {caller.user_id, user_id})) < 2:  # noqa: PLR2004 - one was deleted meanwhile
                raise NotAContact
            number = await prekeys.count_claim(tx, user_id, caller.user_id, CLAIMS_MAX)
            if number is None:
                self._refuse(caller)
            return await _bundle(tx, user_id, with_one_time=number <= ONE_TIME_CLAIMS_MAX)

    def _refuse(self, caller: Caller) -> NoReturn:
        self._audit.note(Event.LIMIT_HIT, subject=str(caller.user_id))
        detail = f"You began {CLAIMS_MAX} sessions with this person today. Wait for the time in Retry-After."
        raise TooManyRequests(detail, retry_after=_until_tomorrow(datetime.now(UTC)))


def _until_tomorrow(now: datetime) -> int:
    """Return the seconds until days are counted anew."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return int((midnight - now).total_seconds()) + 1


def _demand_lifetime(expires: datetime) -> None:
    left_s = (expires - datetime.now(UTC)).total_seconds()
    if not 0 < left_s <= PREKEY_LIFETIME_MAX_S + CLOCK_ALLOWANCE_S:
        raise InvalidRequest("A prekey's expiry must be in the future, and at most 90 days ahead.")


def _checked(owner: users.User, upload: PrekeysUpload) -> Offer:
    """Read all keys of an upload, and check their signatures; raises InvalidKey, InvalidSignature."""
    lasting = {Algorithm.P384: _signed(owner, upload), Algorithm.ML_KEM_1024: _last_resort(owner, upload)}
    return Offer(
        {algorithm: key for algorithm, key in lasting.items() if key is not None},
        {Algorithm.P384: _one_time(owner, upload), Algorithm.ML_KEM_1024: _one_time_kem(owner, upload)},
    )


def _signed(owner: users.User, upload: PrekeysUpload) -> LastingPrekey | None:
    if (given := upload.signed_prekey) is None:
        return None
    key = _read_prekey(owner, given.public_key)
    transcript = transcripts.signed_prekey(owner.id, given.id, _seconds(given.expires), key)
    _demand_owners(owner, given.signature, transcript)
    return LastingPrekey(given.id, key.der, given.signature, given.expires)


def _last_resort(owner: users.User, upload: PrekeysUpload) -> LastingPrekey | None:
    if (given := upload.last_resort_kem_prekey) is None:
        return None
    key = _read_kem_key(given.public_key)
    transcript = transcripts.last_resort_kem_prekey(owner.id, given.id, _seconds(given.expires), key)
    _demand_owners(owner, given.signature, transcript)
    return LastingPrekey(given.id, key.raw, given.signature, given.expires)


def _one_time(owner: users.User, upload: PrekeysUpload) -> list[OneTimePrekey]:
    read: list[OneTimePrekey] = []
    for given in upload.one_time_prekeys:
        key = _read_prekey(owner, given.public_key)
        _demand_owners(owner, given.signature, transcripts.one_time_prekey(owner.id, given.id, key))
        read.append(OneTimePrekey(given.id, key.der, given.signature))
    return read


def _one_time_kem(owner: users.User, upload: PrekeysUpload) -> list[OneTimePrekey]:
    read: list[OneTimePrekey] = []
    for given in upload.one_time_kem_prekeys:
        key = _read_kem_key(given.public_key)
        _demand_owners(owner, given.signature, transcripts.one_time_kem_prekey(owner.id, given.id, key))
        read.append(OneTimePrekey(given.id, key.raw, given.signature))
    return read


def _read_prekey(owner: users.User, pem: str) -> PublicKey:
    """Read a P-384 key that has no other role; raises InvalidKey."""
    key = read_key(pem)
    if key.der in {owner.ecdsa_public_key, owner.ecdh_public_key}:
        raise InvalidKey("A prekey must differ from the identity key and from the encryption key.")
    return key


def _read_kem_key(raw: bytes) -> KemPublicKey:
    try:
        return KemPublicKey.from_bytes(raw)
    except ValueError as error:
        raise InvalidKey(f"Send ML-KEM-1024 encapsulation keys as FIPS 203 has them. Here, {error}.") from None


def _demand_owners(owner: users.User, signature: bytes, transcript: bytes) -> None:
    demand_signature(PublicKey(owner.ecdsa_public_key), signature, transcript)


def _seconds(time: datetime) -> int:
    return int(time.timestamp())


async def _store(tx: Transaction, owner_id: UUID, offer: Offer) -> None:
    """Store keys of an owner who is locked; raises Conflict, TooManyPrekeys."""
    for algorithm, key in offer.lasting.items():
        if not await prekeys.replace_lasting(tx, owner_id, algorithm, key):
            raise Conflict("A prekey that lasts is replaced only by one that expires later: see GET /keys/status.")
    for algorithm, keys in offer.one_time.items():
        if keys and not await prekeys.add_one_time(tx, owner_id, algorithm, keys):
            raise Conflict("The id of a one-time prekey is another key's, or the key has another id: make a new one.")
    if max((await prekeys.waiting_counts(tx, owner_id)).values(), default=0) > PREKEYS_MAX:
        raise TooManyPrekeys


async def _status(tx: Transaction, owner_id: UUID) -> PrekeysStatus:
    lasting = await prekeys.lasting_of(tx, owner_id)
    waiting = await prekeys.waiting_counts(tx, owner_id)
    signed, last_resort = lasting.get(Algorithm.P384), lasting.get(Algorithm.ML_KEM_1024)
    return PrekeysStatus(
        signed_prekey_id=signed and signed.id,
        signed_prekey_expires=signed and signed.expires_at,
        last_resort_kem_prekey_id=last_resort and last_resort.id,
        last_resort_kem_prekey_expires=last_resort and last_resort.expires_at,
        one_time_prekeys=waiting[Algorithm.P384],
        one_time_kem_prekeys=waiting[Algorithm.ML_KEM_1024],
    )


async def _bundle(tx: Transaction, owner_id: UUID, *, with_one_time: bool) -> Bundle:
    """Put together what a session with a locked owner begins with; raises NoPrekeys, and takes nothing then."""
    lasting = await prekeys.lasting_of(tx, owner_id)
    one_time = await _take(tx, owner_id) if with_one_time else {}
    signed = lasting.get(Algorithm.P384)
    kem = one_time.get(Algorithm.ML_KEM_1024) or lasting.get(Algorithm.ML_KEM_1024)
    if signed is None or kem is None:
        raise NoPrekeys
    await _tell_if_low(tx, owner_id, one_time)
    once = one_time.get(Algorithm.P384)
    return Bundle(
        user_id=owner_id,
        signed_prekey=_claimed(signed),
        one_time_prekey=_claimed(once) if once else None,
        kem_prekey=_claimed_kem(kem),
    )


async def _take(tx: Transaction, owner_id: UUID) -> dict[Algorithm, OneTimePrekey]:
    """Take a one-time key of each algorithm that there is one of."""
    taken = {algorithm: await prekeys.take_one_time(tx, owner_id, algorithm) for algorithm in Algorithm}
    return {algorithm: key for algorithm, key in taken.items() if key is not None}


async def _tell_if_low(tx: Transaction, owner_id: UUID, taken: Collection[Algorithm]) -> None:
    """Hint to the owner, as of a change among the contacts, when few keys are left and when none is: once each."""
    left = await prekeys.waiting_counts(tx, owner_id)
    if any(left[algorithm] in {PREKEYS_LOW - 1, 0} for algorithm in taken):
        await users.touch_contacts(tx, [owner_id])
        messages.hint(tx, Kind.CONTACTS, [owner_id])


def _claimed(key: OneTimePrekey | LastingPrekey) -> ClaimedPrekey:
    expires = key.expires_at if isinstance(key, LastingPrekey) else None
    return ClaimedPrekey(id=key.id, public_key=PublicKey(key.public_key).pem, expires=expires, signature=key.signature)


def _claimed_kem(key: OneTimePrekey | LastingPrekey) -> ClaimedKemPrekey:
    expires = key.expires_at if isinstance(key, LastingPrekey) else None
    return ClaimedKemPrekey(id=key.id, public_key=key.public_key, expires=expires, signature=key.signature)
