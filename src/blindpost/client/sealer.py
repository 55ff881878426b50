"""End-to-end encryption to a contact and from one, each under the keys that the contact book trusts."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple

from blindpost.client.errors import AlreadyOpened, CannotDecrypt, NoPrekeys, Refused, UntrustedAnswer, WrongKeys
from blindpost.client.identity import Identity
from blindpost.client.prekeys import Prekeys
from blindpost.client.saved import SavedMessage, SavedSession
from blindpost.client.session import Session as Calls
from blindpost.client.store import Contact, Store
from blindpost.client.transport import parse
from blindpost.protocol import session, transcripts
from blindpost.protocol.content import Content, Kind
from blindpost.protocol.handshake import Header, Offer, Offered, OfferedKem, Party
from blindpost.protocol.kem import KemPublicKey
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.session import Session
from blindpost.services.models.prekeys import Bundle, ClaimRequest

NO_PREKEYS: Final = "no_prekeys"
SESSIONS_MAX: Final = 8
"""With one person: both sides may begin at once, and lose what they had. The one used longest ago goes first."""
FORMER_TRIED: Final = 1
"""Replaced keys of a sender: what was begun with one may be on its way. Whoever stole one can begin a session with it,
so the last one counts alone, and only until the identity key is replaced."""
CLOCK_SKEW: Final = timedelta(seconds=120)


class Opened(NamedTuple):
    """A message, and how many of its sender should have come before it and have not."""

    content: Content
    missing: int = 0


class Sealer:
    """Encrypts to a contact and decrypts from one, in sessions (spec/protocol.md, section 9).

    A state is on disk before what it made shows: with the outbox, or with the content that it opened.
    """

    def __init__(
        self,
        calls: Calls,
        identity: Identity,
        store: Store,
        prekeys: Prekeys,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._calls = calls
        self._identity = identity
        self._store = store
        self._prekeys = prekeys
        self._clock = clock

    async def prepare(self, recipient: Contact, *, anew: bool = False) -> Session | None:
        """Begin a session if there is none that may be used, or `anew` if what there is may be of no use to them.

        Raises NoPrekeys, WrongKeys, or what a call raises.
        """
        self._identity.reload()
        if not anew and next(self._usable(recipient), None) is not None:
            return None
        offer = self._checked(recipient, await self._claim(recipient))
        me = Party(self._identity.account, self._identity.ecdsa_key, self._identity.ecdh_key)
        mine = self._identity.reading_keys()[0]
        return session.initiate(me, mine.private, _party(recipient), offer)

    def seal(self, recipient: Contact, content: Content, begun: Session | None) -> bytes:
        """Return the message for the router; raises ValueError if it does not fit.

        Within the `Store.change` that puts it into the outbox: the state that sealed it must not be used again.
        """
        with self._store.change():
            # Another message may have begun one meanwhile: one is enough. Only a notice needs its own.
            saved = None if content.kind is Kind.LOST else next(self._usable(recipient), None)
            state = begun if saved is None else session.decode(saved.state)
            if state is None:
                raise UntrustedAnswer("the session ended while a message was written", "Send it again.")
            if content.kind is not Kind.LOST:
                series, number = self._store.contacts.count(recipient.user_id)
                content = replace(content, series=series, number=number)
            state, message = state.seal(content)
            self._put(recipient, state, None if saved is None else saved.rank)
        return message

    def open(self, sender: Contact, sealed: bytes) -> Opened:
        """Return the content; raises CannotDecrypt for every failure, AlreadyOpened for a repetition."""
        digest = sha256(sealed).digest()
        if (known := self._known(sender, digest)) is not None:
            return known
        self._identity.reload()
        with self._store.change():
            # Again: another process may have opened it while this one waited for its turn to change the store.
            if (known := self._known(sender, digest)) is not None:
                return known
            received = self._open(sender, sealed)
            self._put(sender, received.session, None)
            if received.content.kind is Kind.LOST:
                self._close_others(sender, received.session)
            self._store.mark_seen(sender.user_id, digest)
            content = received.content
            opened = Opened(content, self._missing_before(sender, received))
            kept = SavedMessage(
                client_message_id=content.client_message_id, content=content.encode(), missing=opened.missing
            )
            self._store.opened.put(sender.user_id, digest, kept)
        return opened

    def _missing_before(self, sender: Contact, received: session.Received) -> int:
        """Return how many messages were found missing: by their count, as a router can have a session changed."""
        content = received.content
        if content.kind is Kind.LOST:
            return 0
        missing = self._store.contacts.hear(sender.user_id, content.series, content.number)
        return received.missed if missing is None else missing

    def _known(self, sender: Contact, digest: bytes) -> Opened | None:
        """Return what was opened and not taken yet; raises AlreadyOpened for what was taken."""
        kept = self._store.opened.find(sender.user_id, digest)
        if kept is not None:
            return Opened(Content.decode(kept.content), kept.missing)
        if self._store.seen(sender.user_id, digest):
            raise AlreadyOpened
        return None

    def _open(self, sender: Contact, sealed: bytes) -> session.Received:
        for saved in self._store.sessions.all_of(sender.user_id):
            state = session.decode(saved.state)
            if state.their_ecdsa == sender.ecdsa:
                with suppress(ValueError):
                    return state.open(sealed)
        try:
            header = session.opening_of(sealed)
        except ValueError:
            raise CannotDecrypt from None
        if header is None:
            raise CannotDecrypt
        return self._take_up(sender, header, sealed)

    def _take_up(self, sender: Contact, header: Header, sealed: bytes) -> session.Received:
        """Begin the session that somebody offers. It may have been made with keys that were replaced since."""
        private = self._prekeys.private_of(header)
        # Without one-time keys a handshake could be taken up again, and would put its session back.
        if private is None or self._store.began(sender.user_id, header.encode()):
            raise CannotDecrypt
        for theirs in (sender.ecdh, *sender.former[:FORMER_TRIED]):
            them = Party(sender.user_id, sender.ecdsa, theirs)
            for mine in self._identity.reading_keys():
                me = Party(self._identity.account, self._prekeys.signer_of(header), mine.public)
                with suppress(ValueError):
                    received = session.respond(header, them, me, mine.private, private).open(sealed)
                    self._prekeys.use_up(header)
                    self._store.mark_begun(sender.user_id, header.encode())
                    return received
        raise CannotDecrypt

    def _usable(self, recipient: Contact) -> Iterator[SavedSession]:
        """Return the sessions under both identity keys as trusted now, the one a message opened in last first."""
        for saved in self._store.sessions.all_of(recipient.user_id):
            state = session.decode(saved.state)
            is_theirs = (state.my_ecdsa, state.their_ecdsa) == (self._identity.ecdsa_key, recipient.ecdsa)
            if is_theirs and not saved.is_closed:
                yield saved

    def _put(self, contact: Contact, state: Session, rank: int | None) -> None:
        """Keep a session, as the one used last if no rank is given. A closed one stays so."""
        sessions, kept = self._store.sessions, self._store.sessions.all_of(contact.user_id)
        if rank is None:
            rank = max((each.rank for each in kept), default=0) + 1
        is_closed = any(each.is_closed for each in kept if each.id == state.id)
        encoded = session.encode(state)
        sessions.put(contact.user_id, SavedSession(id=state.id, state=encoded, rank=rank, is_closed=is_closed))
        for oldest in sessions.all_of(contact.user_id)[SESSIONS_MAX:]:
            sessions.remove(contact.user_id, oldest.id)

    def _close_others(self, contact: Contact, state: Session) -> None:
        """Write no more in what the other side lost: a router may hold messages of it back, and give them later."""
        for each in self._store.sessions.all_of(contact.user_id):
            if each.id != state.id:
                self._store.sessions.put(contact.user_id, each.model_copy(update={"is_closed": True}))

    async def _claim(self, recipient: Contact) -> Bundle:
        request = ClaimRequest(user_id=recipient.user_id).model_dump(mode="json")
        try:
            return parse(Bundle, await self._calls.call("POST", "/keys/claim", json=request))
        except Refused as error:
            if error.code == NO_PREKEYS:
                raise NoPrekeys(recipient.username) from None
            raise

    def _checked(self, owner: Contact, bundle: Bundle) -> Offer:
        """Return what was claimed if its owner signed all of it, and it has not expired; raises WrongKeys."""
        try:
            return self._signed_offer(owner, bundle)
        except ValueError:
            raise WrongKeys(f"the server gave prekeys for {owner.username} that their owner did not sign") from None

    def _signed_offer(self, owner: Contact, bundle: Bundle) -> Offer:
        signed, one_time, kem = bundle.signed_prekey, bundle.one_time_prekey, bundle.kem_prekey
        if bundle.user_id != owner.user_id:
            raise ValueError("another user's")
        key = PublicKey.from_pem(signed.public_key)
        expires_s = self._lasting(signed.expires)
        _demand(owner, signed.signature, transcripts.signed_prekey(owner.user_id, signed.id, expires_s, key))
        kem_key = KemPublicKey.from_bytes(kem.public_key)
        if kem.expires is None:
            transcript = transcripts.one_time_kem_prekey(owner.user_id, kem.id, kem_key)
        else:
            kem_expires_s = self._lasting(kem.expires)
            transcript = transcripts.last_resort_kem_prekey(owner.user_id, kem.id, kem_expires_s, kem_key)
        _demand(owner, kem.signature, transcript)
        if one_time is None:
            return Offer(Offered(signed.id, key), None, OfferedKem(kem.id, kem_key))
        once = PublicKey.from_pem(one_time.public_key)
        _demand(owner, one_time.signature, transcripts.one_time_prekey(owner.user_id, one_time.id, once))
        return Offer(Offered(signed.id, key), Offered(one_time.id, once), OfferedKem(kem.id, kem_key))

    def _lasting(self, expires: datetime | None) -> int:
        """Return an expiry in Unix seconds; raises ValueError if it has passed."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        if expires is None or expires.microsecond or expires < now - CLOCK_SKEW:
            raise ValueError("expired")
        return int(expires.timestamp())


def _party(contact: Contact) -> Party:
    return Party(contact.user_id, contact.ecdsa, contact.ecdh)


def _demand(owner: Contact, signature: bytes, transcript: bytes) -> None:
    if not owner.ecdsa.verifies(signature, transcript):
        raise ValueError("not signed by its owner")
