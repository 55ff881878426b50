"""My prekeys: made, kept here, signed, offered at the router, and replaced in time."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey

from blindpost.client.errors import ClientError
from blindpost.client.identity import Identity
from blindpost.client.saved import Prekey, PrekeySort
from blindpost.client.session import Session
from blindpost.client.store import Store
from blindpost.client.transport import parse
from blindpost.protocol import transcripts
from blindpost.protocol.handshake import Header, Private
from blindpost.protocol.kem import KemPublicKey
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.limits import PREKEY_BATCH_MAX, PREKEY_LIFETIME_MAX_S, PREKEYS_LOW, PREKEYS_MAX
from blindpost.protocol.ratchet import new_scalar, private_key
from blindpost.services.models.prekeys import (
    LastResortKemPrekey,
    OneTimeKemPrekey,
    OneTimePrekey,
    PrekeysStatus,
    PrekeysUpload,
    SignedPrekey,
)

DAY_S: Final = 24 * 3_600
RENEW_S: Final = 7 * DAY_S
"""How old lasting prekeys may get: a thief of one reads the openings made with it, and no more."""
KEPT_AFTER_S: Final = 30 * DAY_S
"""Messages that were sealed to a replaced one may wait at the router for as long."""
CLOCK_S: Final = 300
"""The router allows no expiry beyond its bound, by its own clock."""
ONE_TIME_KEPT: Final = 2 * PREKEYS_MAX
"""Of each sort, the newest: a router gives the oldest first, and can say at any time that all are used up."""
ASK_S: Final = DAY_S
RETRY_S: Final = 600
HINT_S: Final = 60
PATIENCE_S: Final = 10.0


class Prekeys:
    """Keeps enough prekeys at the router, and finds their private halves."""

    def __init__(
        self, session: Session, identity: Identity, store: Store, clock: Callable[[], float] = time.time
    ) -> None:
        self._session = session
        self._identity = identity
        self._store = store
        self._clock = clock
        self._asked = self._due = float("-inf")
        """When the router was asked last what it has, and when it is to be asked next."""

    def expire(self) -> None:
        """Ask the router what it has at the next `keep`: the identity key was replaced."""
        self._due = float("-inf")

    def hint(self) -> None:
        """Ask the router as it told of a change: once a minute, as it can say so all the time."""
        self._due = min(self._due, self._asked + HINT_S)

    async def keep_if_possible(self) -> None:
        """See to it as `keep` does, or some minutes later: nothing else of the client waits for prekeys for long."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.keep()
        except (ClientError, TimeoutError):
            # What was made and not offered is offered then.
            self._due = self._clock() + RETRY_S

    async def keep(self) -> None:
        """See to it that people can begin sessions with me; asks the router once a day, and after `expire`.

        Raises what `Session.call` raises. A new key is on disk before the router hears of it, so after a lost answer
        the same ones are offered again.
        """
        now = self._clock()
        if now < self._due:
            return
        self._asked = now
        status = parse(PrekeysStatus, await self._session.call("GET", "/keys/status"))
        upload = self._upload(status, int(now))
        if upload.model_dump(exclude_defaults=True):
            await self._session.call("POST", "/keys", json=upload.model_dump(mode="json"))
            self._published(upload)
        self._due = now + ASK_S

    def private_of(self, header: Header) -> Private | None:
        """Return the private halves of what a handshake was begun with; None if one of them is gone."""
        signed = self._secret(header.signed_id, PrekeySort.SIGNED)
        kem = self._secret(header.kem_id, PrekeySort.KEM_ONE_TIME, PrekeySort.KEM_LAST_RESORT)
        one_time = None if header.one_time_id is None else self._secret(header.one_time_id, PrekeySort.ONE_TIME)
        if signed is None or kem is None or (header.one_time_id is not None and one_time is None):
            return None
        return Private(signed, one_time, kem)

    def signer_of(self, header: Header) -> PublicKey:
        """Return my identity key as the one who began saw it: what they claimed was signed with it."""
        signed = self._store.prekeys.get(header.signed_id)
        return self._identity.ecdsa_key if signed is None else PublicKey.from_der(signed.signer)

    def use_up(self, header: Header) -> None:
        """Drop the one-time halves of a handshake, in the change that keeps its session."""
        for prekey_id in (header.one_time_id, header.kem_id):
            prekey = None if prekey_id is None else self._store.prekeys.get(prekey_id)
            if prekey is not None and prekey.sort in {PrekeySort.ONE_TIME, PrekeySort.KEM_ONE_TIME}:
                self._store.prekeys.remove(prekey.id)

    def _secret(self, prekey_id: UUID, *sorts: PrekeySort) -> bytes | None:
        prekey = self._store.prekeys.get(prekey_id)
        return None if prekey is None or prekey.sort not in sorts else prekey.secret

    def _upload(self, status: PrekeysStatus, now_s: int) -> PrekeysUpload:
        """Make what is missing, and keep it; what was made before and may not have arrived goes first."""
        self._identity.reload()
        # Another computer's, or from before this store was lost: nobody could read what is begun with them.
        is_lost = status.signed_prekey_id is not None and self._store.prekeys.get(status.signed_prekey_id) is None
        with self._store.change():
            self._drop_old(now_s)
            signed = self._lasting(PrekeySort.SIGNED, status.signed_prekey_id, status.signed_prekey_expires, now_s)
            resort = self._lasting(
                PrekeySort.KEM_LAST_RESORT,
                status.last_resort_kem_prekey_id,
                status.last_resort_kem_prekey_expires,
                now_s,
            )
            one_time = self._one_time(PrekeySort.ONE_TIME, 0 if is_lost else status.one_time_prekeys, now_s)
            kem = self._one_time(PrekeySort.KEM_ONE_TIME, 0 if is_lost else status.one_time_kem_prekeys, now_s)
        return PrekeysUpload(
            replace=is_lost,
            signed_prekey=None if signed is None else self._signed(signed),
            last_resort_kem_prekey=None if resort is None else self._last_resort(resort),
            one_time_prekeys=[self._one_time_key(each) for each in one_time],
            one_time_kem_prekeys=[self._one_time_kem(each) for each in kem],
        )

    def _drop_old(self, now_s: int) -> None:
        """Erase what nobody can still write with: whoever steals it later opens nothing with it."""
        for sort in PrekeySort:
            newest_first = sorted(self._all_of(sort), key=lambda each: each.made_at_s, reverse=True)
            is_lasting = sort in {PrekeySort.SIGNED, PrekeySort.KEM_LAST_RESORT}
            for index, prekey in enumerate(newest_first):
                if is_lasting:
                    # From when the next one was made on it was offered to nobody.
                    is_old = index > 0 and newest_first[index - 1].made_at_s + KEPT_AFTER_S < now_s
                else:
                    is_old = index >= ONE_TIME_KEPT
                if is_old:
                    self._store.prekeys.remove(prekey.id)

    def _lasting(self, sort: PrekeySort, at_router: UUID | None, until: datetime | None, now_s: int) -> Prekey | None:
        """Return the lasting prekey to offer, or None if the router has a fresh one, which lasts `until` then."""
        newest = max(self._of(sort), key=lambda each: each.made_at_s, default=None)
        if newest is None or now_s - newest.made_at_s >= RENEW_S or (newest.published and newest.id != at_router):
            expires_s = now_s + PREKEY_LIFETIME_MAX_S - CLOCK_S
            # The router replaces a key only by one that lasts longer: the one there may be as young, if not kept here.
            other_s = 0 if until is None else int(until.timestamp()) + 1
            return self._made(sort, now_s, max(expires_s, min(other_s, expires_s + CLOCK_S)))
        return None if newest.id == at_router else newest

    def _one_time(self, sort: PrekeySort, count: int, now_s: int) -> list[Prekey]:
        waiting = [each for each in self._of(sort) if not each.published]
        if count >= PREKEYS_LOW and not waiting:
            return []
        return [*waiting, *(self._made(sort, now_s) for _ in range(PREKEY_BATCH_MAX))][:PREKEY_BATCH_MAX]

    def _of(self, sort: PrekeySort) -> Iterator[Prekey]:
        """Return those that may be offered: a replaced identity key signs nothing more."""
        signer = self._identity.ecdsa_key.der
        return (each for each in self._all_of(sort) if each.signer == signer)

    def _all_of(self, sort: PrekeySort) -> Iterator[Prekey]:
        return (each for each in self._store.prekeys.all() if each.sort is sort)

    def _made(self, sort: PrekeySort, now_s: int, expires_s: int | None = None) -> Prekey:
        is_kem = sort in {PrekeySort.KEM_ONE_TIME, PrekeySort.KEM_LAST_RESORT}
        secret = MLKEM1024PrivateKey.generate().private_bytes_raw() if is_kem else new_scalar()
        prekey = Prekey(
            id=uuid4(),
            sort=sort,
            secret=secret,
            made_at_s=now_s,
            expires_s=expires_s,
            signer=self._identity.ecdsa_key.der,
            published=False,
        )
        self._store.prekeys.put(prekey)
        return prekey

    def _published(self, upload: PrekeysUpload) -> None:
        with self._store.change():
            for prekey_id in _ids(upload):
                prekey = self._store.prekeys.get(prekey_id)
                if prekey is not None:
                    self._store.prekeys.put(prekey.model_copy(update={"published": True}))

    def _signed(self, prekey: Prekey) -> SignedPrekey:
        key, expires_s = _public(prekey), prekey.expires_s or 0
        signed = transcripts.signed_prekey(self._identity.account, prekey.id, expires_s, key)
        return SignedPrekey(
            id=prekey.id, public_key=key.pem, expires=_time(expires_s), signature=self._identity.sign(signed)
        )

    def _last_resort(self, prekey: Prekey) -> LastResortKemPrekey:
        key, expires_s = _public_kem(prekey), prekey.expires_s or 0
        signed = transcripts.last_resort_kem_prekey(self._identity.account, prekey.id, expires_s, key)
        return LastResortKemPrekey(
            id=prekey.id, public_key=key.raw, expires=_time(expires_s), signature=self._identity.sign(signed)
        )

    def _one_time_key(self, prekey: Prekey) -> OneTimePrekey:
        key = _public(prekey)
        signed = transcripts.one_time_prekey(self._identity.account, prekey.id, key)
        return OneTimePrekey(id=prekey.id, public_key=key.pem, signature=self._identity.sign(signed))

    def _one_time_kem(self, prekey: Prekey) -> OneTimeKemPrekey:
        key = _public_kem(prekey)
        signed = transcripts.one_time_kem_prekey(self._identity.account, prekey.id, key)
        return OneTimeKemPrekey(id=prekey.id, public_key=key.raw, signature=self._identity.sign(signed))


def _ids(upload: PrekeysUpload) -> Iterable[UUID]:
    lasting = (upload.signed_prekey, upload.last_resort_kem_prekey)
    return (each.id for each in (*lasting, *upload.one_time_prekeys, *upload.one_time_kem_prekeys) if each is not None)


def _public(prekey: Prekey) -> PublicKey:
    return PublicKey.of(private_key(prekey.secret).public_key())


def _public_kem(prekey: Prekey) -> KemPublicKey:
    return KemPublicKey(MLKEM1024PrivateKey.from_seed_bytes(prekey.secret).public_key().public_bytes_raw())


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
