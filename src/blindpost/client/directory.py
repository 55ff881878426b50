"""Other people's names and keys, as the router gives them and as far as it can be held to them."""

import re
from time import monotonic
from typing import Final
from uuid import UUID

from blindpost.client.errors import UnknownContact, UntrustedAnswer, WrongKeys, WrongName, WrongServer
from blindpost.client.session import Session
from blindpost.client.store import Contact, Store, UserKeys
from blindpost.client.transport import parse
from blindpost.protocol import transcripts
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.limits import USERNAME_PATTERN
from blindpost.services.models.auth import PublicKeys
from blindpost.services.models.contacts import UserSummary

NAMES_MAX: Final = 100_000
CONTACTS_MAX_BYTES: Final = 16_777_216
FRESH_S: Final = 600
"""For how long keys are taken for current. News of changes comes with polls, and a program that only sends has none."""


class Directory:
    """Looks people up, checks what comes, and pins it in the contact book."""

    def __init__(self, session: Session, store: Store) -> None:
        self._session = session
        self._store = store
        self._names: dict[UUID, str] = {}
        self._fresh: dict[UUID, float] = {}
        """When somebody's keys were asked for."""
        self._expiries = 0
        self._logins = 0

    def expire(self) -> None:
        """Ask for everybody's keys again before their next use."""
        self._fresh.clear()
        self._expiries += 1

    async def search(self, prefix: str) -> list[UserSummary]:
        """Return users whose names begin with a prefix of 3 to 50 characters; raises WrongName for another."""
        if re.fullmatch(USERNAME_PATTERN, prefix) is None:
            raise WrongName("search for at least 3 letters, digits or underscores")
        answer = await self._session.call("GET", "/contacts/search-users", params={"username": prefix})
        return self._checked(parse(list[UserSummary], answer))

    async def by_id(self, user_id: UUID) -> UserSummary | None:
        """Return what the router says of one user, or None if there is none."""
        answer = await self._session.call("GET", "/contacts/users-by-ids", params={"users_ids": str(user_id)})
        users = self._checked(parse(list[UserSummary], answer))
        return next((user for user in users if user.id == user_id), None)

    def _checked(self, users: list[UserSummary]) -> list[UserSummary]:
        for user in users:
            self.check_name(user.id, user.username)
        return users

    def check_name(self, user_id: UUID, username: str) -> None:
        """Hold the router to the name that it gave a user first; raises UntrustedAnswer or WrongServer.

        The user decides by the name shown, so the keys pinned later must be the keys of that name.
        """
        if re.fullmatch(USERNAME_PATTERN, username) is None:
            raise UntrustedAnswer("the server gave a username that nobody can have")
        pinned = self._store.contacts.get(user_id)
        if len(self._names) >= NAMES_MAX:
            self._names.clear()
        if (pinned.username if pinned else self._names.setdefault(user_id, username)) != username:
            raise WrongServer("the server gave one user two names")

    async def contact(self, user_id: UUID, *, keep: bool = False) -> Contact:
        """Return a user with keys that may be used now: pinned, up to date, unchanged or changed by their owner.

        `keep` says that the user chose this person. Raises KeyChanged, UnknownContact, WrongKeys, UntrustedAnswer, or
        what `Session.call` raises.
        """
        if self._logins != self._session.logins:
            # What changed between two sessions was told to neither.
            self._logins = self._session.logins
            self.expire()
        known = self._store.contacts.get(user_id)
        if known is None or not self._is_fresh(user_id) or (keep and not known.kept):
            return await self.refresh(user_id, keep=keep)
        if known.offered is not None:
            raise self._store.contacts.changed(known)
        return known

    def _is_fresh(self, user_id: UUID) -> bool:
        asked = self._fresh.get(user_id)
        return asked is not None and monotonic() - asked < FRESH_S

    async def refresh(self, user_id: UUID, *, keep: bool = False) -> Contact:
        """Ask for a user's keys and take them in; raises as `contact` does."""
        asked, expiries, logins = monotonic(), self._expiries, self._session.logins
        keys = await self._fetch(user_id)
        if (logins, self._session.logins) == (0, 1):
            # This question made the first session, so there was none before it to miss anything in.
            self._logins = 1
        if len(self._fresh) >= NAMES_MAX:
            self._fresh.clear()
        # The answer may be older than news of a change that came while it was on its way.
        if expiries == self._expiries:
            self._fresh[user_id] = asked
        return self._store.contacts.learn(keys, keep=keep)

    async def _fetch(self, user_id: UUID) -> UserKeys:
        username = await self._name(user_id)
        answer = parse(PublicKeys, await self._session.call("GET", f"/auth/public-keys/{user_id}"))
        if answer.user_id != user_id:
            raise WrongKeys("the server answered with another user's keys")
        try:
            ecdsa = PublicKey.from_pem(answer.ecdsa_public_key)
            ecdh = PublicKey.from_pem(answer.ecdh_public_key)
        except ValueError:
            raise WrongKeys(f"the server gave keys for {username} that are not valid") from None
        # The transcript has the name in it: keys that somebody else registered do not pass for this user's.
        signed = transcripts.register(username, ecdsa, ecdh)
        if ecdsa == ecdh or not ecdsa.verifies(answer.ecdh_signature, signed):
            raise WrongKeys(f"the server gave keys for {username} that their owner did not sign")
        return UserKeys(user_id, username, ecdsa, ecdh)

    async def _name(self, user_id: UUID) -> str:
        pinned = self._store.contacts.get(user_id)
        if pinned is not None:
            return pinned.username
        if user_id not in self._names and await self.by_id(user_id) is None:
            raise UnknownContact("the server knows nobody with this id")
        return self._names[user_id]
