"""The client: everything that a person or a program does at a router, end to end encrypted."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import count
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack
from uuid import UUID, uuid4

import httpx

from blindpost.client.directory import CONTACTS_MAX_BYTES, Directory
from blindpost.client.errors import (
    ClientError,
    KeyChanged,
    LoginRefused,
    NoPrekeys,
    Refused,
    SealedToOldKey,
    UnknownContact,
    Unreachable,
    UntrustedAnswer,
    WrongKeys,
    WrongName,
)
from blindpost.client.history import Changes, Entry, EntryStatus, History
from blindpost.client.identity import Identity, Role
from blindpost.client.inbox import Inbox, NotOpened, Received
from blindpost.client.line import Line, Outlet
from blindpost.client.notices import Notices
from blindpost.client.prekeys import Prekeys
from blindpost.client.retry import TOO_MANY, Retry, is_passing
from blindpost.client.sealer import Sealer
from blindpost.client.session import Session
from blindpost.client.store import Contact, Store, Unsent
from blindpost.client.transport import UNKNOWN, HttpTransport, Transport, parse
from blindpost.protocol import transcripts
from blindpost.protocol.content import Content, Kind
from blindpost.protocol.session import DATA_MAX_BYTES
from blindpost.protocol.session import Session as Ratcheted
from blindpost.services.models.auth import (
    DeleteAccount,
    EcdhUpdate,
    EcdsaUpdate,
    Registered,
    RegisterRequest,
    SessionsEnded,
    SessionSummary,
)
from blindpost.services.models.contacts import Contact as ContactEntry
from blindpost.services.models.contacts import ContactDecision, ContactRequest, Direction, UserSummary
from blindpost.services.models.messages import MessageStatus, PollAnswer, SendRequest

T = TypeVar("T")

CLIENT_ERROR: Final = 400
NOT_FOUND: Final = 404
CONFLICT: Final = 409
JUDGED: Final = frozenset({400, 403, 404, 409, 413, 422})
SERVER_ERROR: Final = 500
STATUS_IDS_MAX: Final = 100
CLOSE_TIMEOUT_S: Final = 3.0
IDLE_PAUSE_S: Final = 1.0
IDLE_PAUSE_MAX_S: Final = 5.0
ASKED_AT_ONCE: Final = 8
LOOK_MAX: Final = 64
"""Keys are looked at ahead for so many: routers limit such questions, and those that a send needs come first."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that the router has on disk."""

    id: UUID
    timestamp: datetime
    client_message_id: UUID


@dataclass(frozen=True, slots=True)
class Delivered:
    """Messages of mine that their recipients acknowledged, by the router's ids."""

    ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class ContactsChanged:
    """A contact, a request or somebody's keys changed: ask again."""


Event = Received | NotOpened | Delivered | ContactsChanged


class Client:
    """One identity at one router. Use it as an async context manager; it logs in by itself when it must.

    Every call raises Unreachable, Refused or UntrustedAnswer (client/errors.py) beside what it names itself. What is
    safe to repeat is repeated: calls that change nothing twice, and the others if they were surely not carried out.

    Args:
        base_url: the router's origin, as https://chat.example.org. Plain http is refused beyond this computer.
        identity: who to be. It may sign for this origin only.
        store: its memory.
        transport: an httpx transport, in place of the network.
        allow_http: permit plain http to anywhere: the network then sees the session's token.
        history: where to keep what was said, such as the store's; None: nowhere.
        retry: how often and when calls are repeated.
        clock: Unix seconds.
    """

    def __init__(
        self,
        base_url: str,
        identity: Identity,
        store: Store,
        *,
        transport: httpx.AsyncBaseTransport | Transport | None = None,
        allow_http: bool = False,
        history: History | None = None,
        retry: Retry | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if transport is None or isinstance(transport, httpx.AsyncBaseTransport):
            transport = HttpTransport(base_url, transport=transport, allow_http=allow_http)
        self.identity = identity
        self._transport = transport
        self._store = store
        self._clock = clock
        self._session = Session(transport, identity, retry or Retry(), clock)
        self._prekeys = Prekeys(self._session, identity, store, clock)
        self._sealer = Sealer(self._session, identity, store, self._prekeys, clock)
        self._directory = Directory(self._session, store)
        self._outlet = Outlet(self._session)
        self._history = history
        self._inbox = Inbox(self._session, store, history, self._directory, self._sealer, self._outlet.acknowledge)
        self._notices = Notices(store, self._directory, self._sealer, self._outlet, clock)
        self._confirmed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Client of {self.identity.username} at {self._transport.origin}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Acknowledge what was taken, if the router answers at once, and close all connections."""
        try:
            if self._inbox.has_done:
                # Without it the messages come again, and are recognised: so no failure here is worth telling.
                with suppress(ClientError, TimeoutError):
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await self._inbox.acknowledge()
        finally:
            try:
                await self._outlet.aclose()
            finally:
                await self._transport.aclose()

    # The account

    async def register(self) -> UUID:
        """Create the account and return its id; raises Refused with `username_taken` if the name is another's.

        Save the identity first: an account whose keys are lost is lost, and its name with it. After a lost answer
        it may be called again. The identity then belongs to this server, unless it is certain that it has no account
        there: nobody was reached, or the server refused.
        """
        identity = self.identity
        is_bound = identity.origin is not None
        # A name that was taken where nobody can log in would be lost.
        await self._session.meet()
        # Before the request leaves: after a crash nobody knows whether it arrived.
        identity.belong_to(self._transport.origin)
        request = RegisterRequest(
            username=identity.username,
            ecdsa_public_key=identity.ecdsa_key.pem,
            ecdh_public_key=identity.ecdh_key.pem,
            ecdh_signature=identity.sign(
                transcripts.register(identity.username, identity.ecdsa_key, identity.ecdh_key)
            ),
        ).model_dump(mode="json")
        try:
            body = await self._session.anonymous("POST", "/auth/register", json=request)
        except (Unreachable, Refused) as error:
            if isinstance(error, Refused) and error.status == CONFLICT and await self._is_mine():
                await self._prekeys.keep_if_possible()
                return identity.account
            if not is_bound and _is_unregistered(error):
                identity.leave(self._transport.origin)
            raise
        answer = parse(Registered, body)
        if answer.username != identity.username:
            raise UntrustedAnswer("the server registered another name than the one asked for")
        identity.belong_to(self._transport.origin, answer.id)
        await self._prekeys.keep_if_possible()
        return answer.id

    async def _is_mine(self) -> bool:
        """Tell whether a taken name is taken by this very identity: then it can log in with its key."""
        try:
            await self._session.login()
        except LoginRefused:
            return False
        return True

    async def login(self) -> None:
        """Log in; raises LoginRefused, WrongServer. Calls do so by themselves when there is no session."""
        await self._session.login()

    async def logout(self) -> None:
        """End the session, here and on every node of the router."""
        await self._session.logout()

    async def sessions(self) -> list[SessionSummary]:
        """Return the account's open sessions, the oldest first."""
        return parse(list[SessionSummary], await self._session.call("GET", "/auth/sessions"))

    async def end_session(self, session_id: UUID) -> None:
        """End one of the account's sessions, such as that of a lost device; raises Refused if it is over."""
        await self._session.call("DELETE", f"/auth/sessions/{session_id}")

    async def end_other_sessions(self) -> int:
        """End all of the account's sessions but this one; returns how many there were."""
        return parse(SessionsEnded, await self._session.call("DELETE", "/auth/sessions")).ended

    async def rotate_ecdsa_key(self) -> None:
        """Replace the identity key. Every contact has to confirm it; every other session of the user ends.

        The new key is in the identity file before the router hears of it. After a lost answer the next login finds
        out which key counts.
        """
        identity = self.identity
        new = identity.begin_rotation(Role.ECDSA)
        transcript = transcripts.rotate_ecdsa(identity.account, identity.ecdsa_key, new)
        binding = transcripts.register(identity.username, new, identity.ecdh_key)
        request = EcdsaUpdate(
            ecdsa_public_key=new.pem,
            ecdh_signature=identity.sign_with_next(binding),
            old_key_signature=identity.sign(transcript),
            new_key_signature=identity.sign_with_next(transcript),
        )
        await self._rotate(Role.ECDSA, "/auth/ecdsa-update-key", request.model_dump(mode="json"))
        # The old key signed those at the router, which has dropped them.
        self._prekeys.expire()
        await self._prekeys.keep_if_possible()

    async def rotate_ecdh_key(self) -> None:
        """Replace the key that sessions begin with. Contacts accept it, as the identity key signs it."""
        identity = self.identity
        new = identity.begin_rotation(Role.ECDH)
        binding = transcripts.register(identity.username, identity.ecdsa_key, new)
        request = EcdhUpdate(ecdh_public_key=new.pem, ecdh_signature=identity.sign(binding))
        await self._rotate(Role.ECDH, "/auth/ecdh-update-key", request.model_dump(mode="json"))

    async def _rotate(self, role: Role, path: str, request: object) -> None:
        new = self.identity.next_key(role)
        try:
            await self._session.call("PUT", path, json=request, repeatable=False)
        except (Unreachable, Refused):
            # Whatever was said or lost, the router's present key tells what happened.
            await self._session.reconcile()
            if new not in {self.identity.ecdsa_key, self.identity.ecdh_key}:
                raise
        else:
            self.identity.finish_rotation(role)

    async def delete_account(self) -> None:
        """Erase the account at the router. The local files stay; the name cannot be taken again."""
        self.identity.reload()
        signature = self.identity.sign(transcripts.delete_account(self.identity.account))
        request = DeleteAccount(signature=signature).model_dump(mode="json")
        try:
            await self._session.call("DELETE", "/auth/me", json=request, repeatable=False)
        except (Unreachable, Refused) as error:
            # If the answer was lost, only the login tells: an erased account has none.
            if not is_passing(error) or await self._is_mine():
                raise
        self._session.forget()

    # People

    async def search(self, prefix: str) -> list[UserSummary]:
        """Return users whose names begin with a prefix; raises WrongName for one that no name has."""
        return await self._directory.search(prefix)

    async def contacts(self) -> list[ContactEntry]:
        """Return the accepted contacts."""
        body = await self._session.call("GET", "/contacts/get-contacts", max_bytes=CONTACTS_MAX_BYTES)
        return self._people(body)

    async def contact_requests(self, direction: Direction = Direction.RECEIVED) -> list[ContactEntry]:
        """Return the pending requests, received or sent."""
        body = await self._session.call(
            "GET",
            "/contacts/get-contact-requests",
            params={"direction": direction.value},
            max_bytes=CONTACTS_MAX_BYTES,
        )
        return self._people(body)

    def _people(self, body: object) -> list[ContactEntry]:
        people = parse(list[ContactEntry], body)
        for person in people:
            self._directory.check_name(person.user_id, person.username)
        return people

    async def request_contact(self, user: UUID | str) -> ContactEntry:
        """Ask a user, by id or name, to be a contact, and keep their keys. A request that stands is returned.

        Raises WrongName, UnknownContact, KeyChanged, WrongKeys.
        """
        self._check_other(user)
        user_id = user if isinstance(user, UUID) else await self._find(user)
        await self._directory.contact(user_id, keep=True)
        request = ContactRequest(receiver_id=user_id).model_dump(mode="json")
        try:
            body = await self._session.call("POST", "/contacts/send-contact-request", json=request)
        except Refused as error:
            # It may be this very request, made before its answer was lost.
            standing = await self._standing(user_id) if error.status == CONFLICT else None
            if standing is None:
                raise
            return standing
        return self._people([body])[0]

    async def accept(self, user: UUID | str) -> ContactEntry:
        """Accept a request received from a user, and keep their keys; raises KeyChanged, WrongKeys."""
        user_id = await self._resolve(user)
        await self._directory.contact(user_id, keep=True)
        return await self._decide("/contacts/accept-contact-request", user_id)

    async def reject(self, user: UUID | str) -> ContactEntry:
        """Reject a request received from a user, and forget them here if they are a stranger."""
        user_id = await self._resolve(user)
        rejected = await self._decide("/contacts/reject-contact-request", user_id)
        self._store.contacts.forget_stranger(user_id)
        return rejected

    def forget(self, user: UUID | str, *, sure: bool = False) -> None:
        """Drop what is remembered here of somebody: name, keys, and which messages were read. The router hears nothing.

        The next keys that the router gives for them are trusted on first use again, and messages read before, if the
        router kept them, would be shown as new. Raises UnknownContact, or StillTrusted unless `sure` where the user
        compared the safety number, or has not confirmed a change of keys.
        """
        known = self._store.contacts.named(user) if isinstance(user, str) else None
        if known is None and isinstance(user, str):
            raise UnknownContact(f"nobody named {user} is remembered here", "There is nothing to forget.")
        self._store.contacts.forget(known.user_id if known else UUID(str(user)), sure=sure)
        self._look_again()

    async def _decide(self, path: str, user_id: UUID) -> ContactEntry:
        request = ContactDecision(sender_id=user_id).model_dump(mode="json")
        return self._people([await self._session.call("PUT", path, json=request)])[0]

    async def _standing(self, user_id: UUID) -> ContactEntry | None:
        sent = await self.contact_requests(Direction.SENT)
        return next((each for each in (*sent, *await self.contacts()) if each.user_id == user_id), None)

    async def _find(self, username: str) -> UUID:
        for user in await self.search(username):
            if user.username.lower() == username.lower():
                return user.id
        raise UnknownContact(f"there is no user named {username}")

    async def _resolve(self, user: UUID | str) -> UUID:
        """Return the id for an id, or for the name of a contact or of somebody who asked to be one."""
        self._check_other(user)
        if isinstance(user, UUID):
            return user
        known = self._store.contacts.named(user)
        if known is not None:
            return known.user_id
        people = (*await self.contacts(), *await self.contact_requests())
        for person in people:
            if person.username.lower() == user.lower():
                return person.user_id
        raise UnknownContact(f"{user} is no contact of yours")

    def _check_other(self, user: UUID | str) -> None:
        is_me = user == self.identity.user_id or str(user).lower() == self.identity.username.lower()
        if is_me:
            raise WrongName("that is you", "Give the name of somebody else.")

    # Trust

    async def safety_number(self, contact: UUID | str) -> str:
        """Return the 60 digits for the identity keys trusted now; raises KeyChanged if others are, or were, offered."""
        return self._store.contacts.number(await self._trusted(contact))

    async def distrusted(self) -> dict[UUID, KeyChanged | UntrustedAnswer]:
        """Return whose keys may not be used now, and why. Call it on ContactsChanged.

        Every call that uses a key asks by itself; this is to tell the user before. At most 64 people are asked for,
        those first whom the user chose; of the others, and where the router limits it, what is known is told.
        """
        found: dict[UUID, KeyChanged | UntrustedAnswer] = {}
        turns = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(contact: Contact) -> None:
            async with turns:
                try:
                    await self._directory.contact(contact.user_id)
                except (KeyChanged, UntrustedAnswer) as problem:
                    found[contact.user_id] = problem
                except Refused as error:
                    # The account is gone, and nobody can be written to there; or these were too many questions.
                    if error.status not in {NOT_FOUND, TOO_MANY}:
                        raise

        people = sorted(self._store.contacts.all(), key=lambda each: not each.kept)
        with _one_error():
            async with asyncio.TaskGroup() as group:
                for contact in people[:LOOK_MAX]:
                    group.create_task(ask(contact))
        for contact in self._store.contacts.all():
            if contact.offered is not None:
                found.setdefault(contact.user_id, self._store.contacts.changed(contact))
        return found

    async def confirm_keys(self, contact: UUID | str, safety_number: str) -> None:
        """Trust a contact's changed keys: those whose safety number (KeyChanged.new_number) the user saw.

        If the router took the change back, they are the ones from before: the user decides that, too.
        Raises KeyChanged if the keys offered are others by now, ValueError if none are offered.
        """
        known = await self._remembered(contact)
        if known.offered is None:
            raise ValueError("this contact's keys have not changed")
        if not self._store.contacts.confirm(known.user_id, _digits(safety_number)):
            raise self._store.contacts.changed(self._store.contacts.get(known.user_id) or known)
        self._look_again()

    def _look_again(self) -> None:
        """Have held messages opened at once: their sender's keys may be settled."""
        self._confirmed.set()
        self._outlet.wake()

    async def mark_verified(self, contact: UUID | str, safety_number: str) -> bool:
        """Note that the user compared the number with the contact; False, and no change, if it is another."""
        known = await self._trusted(contact)
        return self._store.contacts.verify(known.user_id, _digits(safety_number))

    async def is_verified(self, contact: UUID | str) -> bool:
        """Tell whether the user compared the safety number for the keys trusted now, and no change is unconfirmed."""
        known = await self._remembered(contact)
        return known.verified and known.offered is None

    async def _trusted(self, contact: UUID | str) -> Contact:
        return await self._directory.contact(await self._resolve(contact))

    async def _remembered(self, contact: UUID | str) -> Contact:
        known = self._store.contacts.get(await self._resolve(contact))
        if known is None:
            raise UnknownContact("no keys of this person are known yet")
        return known

    # Messages

    async def send(self, contact: UUID | str, message: str | bytes) -> Sent:
        """Encrypt and send a message.

        Raises KeyChanged until changed keys are confirmed, NoPrekeys if the contact left no keys to begin a session
        with, ValueError if the message is too long, OutboxFull. After Unreachable, or Refused with status 503 or 429,
        it waits in the outbox, unless nobody knew yet who the contact is (`unsent` tells): call `flush`, not `send`
        again.
        """
        unsent, content = self._written(await self._resolve(contact), message)
        try:
            recipient, begun = await self._prepared(unsent.recipient_id)
        except (Unreachable, Refused) as error:
            if is_passing(error):
                self._enter(unsent, content)
            raise
        with self._store.change():
            unsent = unsent.sealed(self._sealer.seal(recipient, content, begun), recipient)
            self._enter(unsent, content)
        try:
            return await self._post(unsent)
        except KeyChanged as change:
            # The session ended before the message was taken, and the keys changed meanwhile: as if it had been known.
            self._fail(unsent, change)
            raise

    def enqueue(self, contact_id: UUID, message: str | bytes) -> UUID:
        """Put a message into the outbox, on disk, and return its client message id; nothing is asked of the router.

        It is sealed and sent by `deliver` or `flush`. Raises ValueError if it is too long, OutboxFull.
        """
        unsent, content = self._written(contact_id, message)
        self._enter(unsent, content)
        return unsent.client_message_id

    async def deliver(self, client_message_id: UUID) -> Sent | None:
        """Send a message of the outbox; None if it is not there: another process may have sent it at the same time.

        What was sealed goes as the same bytes under the same id, so the router keeps one of each. After Unreachable, or
        Refused with status 503 or 429, and after KeyChanged or UntrustedAnswer, it stays in the outbox. What the router
        refuses for good is dropped, and so is, after the user confirmed new keys, what was sealed for keys that they
        do not vouch for (SealedToOldKey), and what is for somebody who left no keys (NoPrekeys).
        """
        unsent = self._store.waiting(client_message_id)
        if unsent is None:
            return None
        try:
            sealed = await self._sealed(unsent)
        except (NoPrekeys, Refused) as error:
            if isinstance(error, NoPrekeys) or _is_final(error):
                self._fail(unsent, error)
            raise
        return None if sealed is None else await self._post(sealed)

    async def flush(self) -> list[Sent]:
        """Send what waits in the outbox, as `deliver` does.

        What cannot go for good, or until the user has done something, does not keep the others: the first such error is
        raised once all have had their turn.
        """
        sent: list[Sent] = []
        problems: list[ClientError] = []
        for client_message_id in self.unsent():
            try:
                delivered = await self.deliver(client_message_id)
            except (KeyChanged, UntrustedAnswer, SealedToOldKey, NoPrekeys, Refused) as problem:
                if isinstance(problem, Refused) and not _is_final(problem):
                    raise
                problems.append(problem)
            else:
                sent += [] if delivered is None else [delivered]
        if problems:
            raise problems[0]
        return sent

    def unsent(self) -> dict[UUID, UUID]:
        """Return the client message ids that wait in the outbox, oldest first, and for whom they are."""
        return {unsent.client_message_id: unsent.recipient_id for unsent in self._store.unsent()}

    def _written(self, contact_id: UUID, message: str | bytes) -> tuple[Unsent, Content]:
        content = _content(message, int(self._clock() * 1000))
        plain = content.encode()
        return Unsent(client_message_id=content.client_message_id, recipient_id=contact_id, content=plain), content

    def _enter(self, unsent: Unsent, content: Content) -> None:
        """Put a message into the outbox and the history."""
        with self._store.change():
            self._store.enqueue(unsent)
            if self._history is not None:
                self._history.add(
                    Entry(
                        client_message_id=unsent.client_message_id,
                        contact_id=unsent.recipient_id,
                        is_mine=True,
                        kind=content.kind,
                        data=content.data,
                        sent_at_ms=content.sent_at_ms,
                        message_id=None,
                        status=EntryStatus.WAITING,
                    )
                )

    def _settle(self, unsent: Unsent, **changes: Unpack[Changes]) -> None:
        """Take a message out of the outbox, and note in the history what became of it."""
        with self._store.change():
            self._store.settle(unsent.client_message_id)
            if self._history is not None:
                self._history.update(unsent.recipient_id, True, unsent.client_message_id, **changes)

    def _fail(self, unsent: Unsent, error: ClientError) -> None:
        self._settle(unsent, status=EntryStatus.FAILED, problem=str(error))

    async def _prepared(self, contact_id: UUID) -> tuple[Contact, Ratcheted | None]:
        """Return a recipient as trusted now, and what the sealer needs for them."""
        recipient = await self._directory.contact(contact_id, keep=True)
        try:
            return recipient, await self._sealer.prepare(recipient)
        except WrongKeys:
            # Prekeys that this identity key did not sign: it may have been replaced a moment ago, which is no lie.
            current = await self._directory.refresh(contact_id, keep=True)
            if current.ecdsa == recipient.ecdsa:
                raise
        return current, await self._sealer.prepare(current)

    async def _sealed(self, unsent: Unsent) -> Unsent | None:
        """Seal a message of the outbox unless it is, and return it; None if another process sent it meanwhile."""
        if unsent.message is not None:
            await self._check_recipient(unsent)
            return unsent
        recipient, begun = await self._prepared(unsent.recipient_id)
        with self._store.change():
            waiting = self._store.waiting(unsent.client_message_id)
            if waiting is not None and waiting.content is not None:
                waiting = waiting.sealed(
                    self._sealer.seal(recipient, Content.decode(waiting.content), begun), recipient
                )
                self._store.seal(waiting)
        return waiting

    async def _check_recipient(self, unsent: Unsent) -> None:
        """Let a sealed message pass only while the keys that it was sealed for may be used."""
        try:
            recipient = await self._directory.contact(unsent.recipient_id, keep=True)
        except Refused as error:
            # No such account any more: the router refuses the message, too, and it is dropped then.
            if error.status != NOT_FOUND:
                raise
            return
        if not unsent.may_go_to(recipient):
            problem = SealedToOldKey(recipient.username)
            self._fail(unsent, problem)
            raise problem

    async def _post(self, unsent: Unsent) -> Sent:
        request = SendRequest(**unsent.model_dump(include={"client_message_id", "recipient_id", "message"}))
        try:
            answer = await self._outlet.send(request, partial(self._check_recipient, unsent))
        except Refused as error:
            # After a fault of the router's it is not known what happened: the same bytes may be sent again.
            if _is_final(error):
                self._fail(unsent, error)
            raise
        # A receipt may have been faster than the answer.
        self._settle(unsent, **self._inbox.sent(answer.id, unsent.recipient_id))
        return Sent(answer.id, answer.timestamp, unsent.client_message_id)

    async def messages(self, timeout_s: float = 30.0) -> AsyncGenerator[Received, None]:
        """Yield messages for ever, oldest first, each acknowledged once the next one is asked for, in batches.

        A message that cannot be read has a `problem` and does not end the stream; neither does a router that is away
        for a while. One whose sender has an unconfirmed key is shown as such once, and again when confirmed.
        A message whose turn is left with `break` counts as unread, unless `ack` was called with it.

        They come over a WebSocket, and as long as none can be had by polls, with a `timeout_s` of at most 60. Close it
        (`contextlib.aclosing`) when you leave it before the client, or its connection stays until Python notices.
        """
        async with aclosing(self.events(timeout_s)) as events:
            async for event in events:
                if isinstance(event, Received):
                    yield event

    async def events(self, timeout_s: float = 30.0) -> AsyncGenerator[Event, None]:
        """Yield messages as `messages` does, and news of deliveries and contacts."""
        pause_s = IDLE_PAUSE_S
        async with Line(self._session, self._outlet, self._inbox, self.status) as line:
            while True:
                started = time.monotonic()
                await self._prekeys.keep_if_possible()
                answer = await self._patiently(partial(line.news, timeout_s))
                if answer.contacts_changed:
                    self._prekeys.hint()
                for news in _news(answer):
                    yield news
                for message in answer.messages:
                    opened = await self._patiently(partial(self._inbox.open, message))
                    if opened is not None:
                        yield opened
                    if isinstance(opened, Received):
                        self._inbox.take(opened)
                await self._notices.send()
                done = await self._patiently(self._inbox.acknowledge)
                # Held messages, or a router that does not wait, answer each poll at once.
                is_idle = not (done or line.is_stream) and time.monotonic() - started < IDLE_PAUSE_S
                pause_s = await self._pause(pause_s) if is_idle else IDLE_PAUSE_S

    def on_reach(self, told: Callable[[bool], None]) -> None:
        """Have `told` called after each request: whether the router was reached. It must be quick, and not raise."""
        self._session.on_reach = told

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until the router is back; raises what does not pass by waiting."""
        for attempt in count():
            try:
                return await call()
            except (Unreachable, Refused) as error:
                if not is_passing(error):
                    raise
                await self._session.retry.wait(attempt, error)
        raise AssertionError("counting has no end")

    async def _pause(self, pause_s: float) -> float:
        """Wait, but not longer than until the user confirms a key; return how long to wait the next time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._confirmed.wait()
        self._confirmed.clear()
        return min(pause_s * 2, IDLE_PAUSE_MAX_S)

    async def receive_once(self, timeout_s: float = 0.0) -> list[Received]:
        """Return what has arrived, waiting up to `timeout_s` for it. Call `ack` with what was taken.

        News of deliveries and contacts is passed over; `events_once` has it.
        """
        return [event for event in await self.events_once(timeout_s) if isinstance(event, Received)]

    async def events_once(self, timeout_s: float = 0.0) -> list[Event]:
        """Return what `receive_once` does, and news of deliveries and contacts before it."""
        answer = await self._inbox.poll(timeout_s)
        if answer.contacts_changed:
            self._prekeys.hint()
        await self._prekeys.keep_if_possible()
        received: dict[tuple[UUID, UUID], Received] = {}
        notices: list[NotOpened] = []
        for message in answer.messages:
            opened = await self._inbox.open(message)
            if isinstance(opened, Received):
                received.setdefault((opened.sender_id, opened.key), opened)
            elif opened is not None:
                notices.append(opened)
        await self._notices.send()
        return [*_news(answer), *notices, *received.values()]

    async def ack(self, *received: Received) -> None:
        """Acknowledge messages that were taken; held ones are passed over."""
        for each in received:
            self._inbox.take(each)
        await self._inbox.acknowledge()

    async def status(self, ids: Iterable[UUID]) -> dict[UUID, MessageStatus]:
        """Return what became of messages that I sent, by the router's ids; unknown ones are left out."""
        wanted = list(ids)
        found: dict[UUID, MessageStatus] = {}
        for start in range(0, len(wanted), STATUS_IDS_MAX):
            part = ",".join(str(message_id) for message_id in wanted[start : start + STATUS_IDS_MAX])
            body = await self._session.call("GET", "/messages/status", params={"ids": part})
            found |= parse(dict[UUID, MessageStatus], body)
        return {message_id: found[message_id] for message_id in wanted if message_id in found}


@contextmanager
def _one_error() -> Iterator[None]:
    """Raise the first error of a task group alone: callers know our errors, not groups of them."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def _is_final(error: Refused) -> bool:
    """Tell whether the router judged a message, and will never take it.

    Not if it asks who this is, as in a session that has just ended, and not if it is something else that answers.
    """
    return error.status in JUDGED and error.code != UNKNOWN


def _content(message: str | bytes, sent_at_ms: int) -> Content:
    """Return what a message says; raises ValueError if it is too long."""
    is_text = isinstance(message, str)
    data = message.encode("utf-8") if isinstance(message, str) else message
    if len(data) > DATA_MAX_BYTES:
        raise ValueError(f"a message holds at most {DATA_MAX_BYTES:,} bytes")
    return Content(uuid4(), sent_at_ms, Kind.TEXT if is_text else Kind.BYTES, data)


def _is_unregistered(error: Unreachable | Refused) -> bool:
    """Tell whether the server surely has no account of this identity: it was not reached, or it refused for good."""
    if isinstance(error, Unreachable):
        return not error.sent
    return CLIENT_ERROR <= error.status < SERVER_ERROR and not is_passing(error)


def _digits(number: str) -> str:
    return "".join(number.split())


def _news(answer: PollAnswer) -> Iterator[Event]:
    if answer.delivered:
        yield Delivered(tuple(answer.delivered))
    if answer.contacts_changed:
        yield ContactsChanged()
