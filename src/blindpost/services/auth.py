"""Registration, login by a signed challenge, signed requests, sessions, changes of keys, deletion."""

from datetime import UTC, datetime
from hashlib import sha384
from secrets import token_urlsafe
from time import time
from typing import Final
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric import ec

from blindpost.core.audit import Audit, Event
from blindpost.core.cache import Cache
from blindpost.core.database import Database, Transaction
from blindpost.core.hub import Kind
from blindpost.core.repositories import contacts, messages, prekeys, users
from blindpost.core.tokens import Claims, Tokens
from blindpost.errors import (
    Conflict,
    InvalidKey,
    InvalidProof,
    LoginFailed,
    NotAuthenticated,
    NotFound,
    UsernameTaken,
    UserNotFound,
)
from blindpost.protocol import dpop, transcripts
from blindpost.protocol.challenge import NONCE_BYTES, Challenge
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.limits import CHALLENGE_LIFETIME_S, SIGNATURE_MAX_BYTES
from blindpost.services.caller import Caller, Credentials
from blindpost.services.models.auth import (
    ChallengeAnswer,
    EcdhUpdate,
    EcdsaUpdate,
    LoginRequest,
    Me,
    PublicKeys,
    Registered,
    RegisterRequest,
    Session,
    SessionSummary,
    TicketAnswer,
)
from blindpost.services.signed import demand_signature, read_key

SESSIONS_MAX: Final = 100
"""Of one user; a login beyond ends the oldest. More devices has nobody, and a list of more is of use to nobody."""
TICKET_BYTES: Final = 32
TICKET_LIFETIME_S: Final = 30


class AuthService:
    """Accounts and sessions."""

    def __init__(
        self,
        database: Database,
        cache: Cache,
        tokens: Tokens,
        audit: Audit,
        *,
        origin: str,
        session_lifetime_s: int,
        allow_bearer: bool,
    ) -> None:
        self._database = database
        self._cache = cache
        self._tokens = tokens
        self._audit = audit
        self._origin = origin
        self._session_lifetime_s = session_lifetime_s
        self._allow_bearer = allow_bearer
        # Nobody: a login as nobody costs the same reads and the same check as any other.
        key = PublicKey.of(ec.generate_private_key(ec.SECP384R1()).public_key())
        self._nobody = users.User(uuid4(), "nobody", key.der, key.der, bytes(SIGNATURE_MAX_BYTES), datetime.now(UTC))

    async def register(self, request: RegisterRequest) -> Registered:
        """Register a name and two keys; raises InvalidKey, InvalidSignature, UsernameTaken."""
        ecdsa, ecdh = read_key(request.ecdsa_public_key), read_key(request.ecdh_public_key)
        if ecdsa == ecdh:
            raise InvalidKey
        demand_signature(ecdsa, request.ecdh_signature, transcripts.register(request.username, ecdsa, ecdh))
        user = users.NewUser(request.username, ecdsa.der, ecdh.der, request.ecdh_signature)
        async with self._database.transaction() as tx:
            if not await users.claim_name(tx, user.name):
                raise UsernameTaken
            user_id = await users.add(tx, user)
        return Registered(id=user_id, username=user.name)

    async def challenge(self, username: str) -> ChallengeAnswer:
        """Make a challenge, for anybody: whether the name is known is not even looked up."""
        expiry = int(time()) + CHALLENGE_LIFETIME_S
        challenge = str(Challenge(self._origin, username, token_urlsafe(NONCE_BYTES), expiry))
        await self._cache.keep_challenge(_digest(challenge), CHALLENGE_LIFETIME_S)
        return ChallengeAnswer(challenge=challenge, expires=datetime.fromtimestamp(expiry, UTC))

    async def login(self, request: LoginRequest, credentials: Credentials) -> Session:
        """Open a session for a signed challenge; raises LoginFailed, whatever the reason."""
        try:
            return await self._login(request, credentials)
        except LoginFailed:
            self._audit.note(Event.LOGIN_FAILED, subject=request.username.lower(), address=credentials.address)
            raise

    async def _login(self, request: LoginRequest, credentials: Credentials) -> Session:
        """Do it.

        The proof shows the session's own key, to which the token is then bound. It is checked first: so a client that
        signs it wrongly loses no challenge. It needs no memory of its own, as the challenge works once.
        """
        thumbprint = self._shown_key(credentials)
        await self._redeem(request)
        async with self._database.reading() as connection:
            user, is_known = await users.by_name_or(connection, request.username, self._nobody)
        key = PublicKey(user.ecdsa_public_key)
        if not key.verifies(request.signature, _signed_at_login(request, thumbprint)) or not is_known:
            raise LoginFailed
        session_id = uuid4()
        async with self._database.transaction() as tx:
            if not await users.open_session(tx, session_id, user.id, key.der, self._session_lifetime_s):
                raise LoginFailed
            if oldest := await users.sessions_beyond(tx, user.id, SESSIONS_MAX):
                await self._end(tx, user.id, oldest)
        token = self._tokens.issue(user.id, session_id, self._session_lifetime_s, thumbprint)
        token_type = "Bearer" if thumbprint is None else "DPoP"
        return Session(access_token=token, token_type=token_type, expires_in=self._session_lifetime_s)

    def _shown_key(self, credentials: Credentials) -> str | None:
        """Return the thumbprint of the key that a login shows; None where it shows none and need not."""
        if credentials.proof is None:
            if self._allow_bearer:
                return None
            raise LoginFailed("Show the session's key with a proof in the DPoP header (RFC 9449).")
        try:
            return self._check_proof(credentials, credentials.proof, token=None).thumbprint
        except dpop.InvalidProof as error:
            raise LoginFailed(f"The proof in the DPoP header is not valid: {error}.") from None

    def _check_proof(self, credentials: Credentials, proof: str, token: str | None) -> dpop.Proof:
        url = self._origin + credentials.path
        request = dpop.SignedRequest(credentials.method, url, credentials.body, token)
        return dpop.check(proof, request, time())

    async def _redeem(self, request: LoginRequest) -> None:
        """Use up the challenge, whatever comes of it; raises LoginFailed if it is not this user's, or is used up."""
        try:
            challenge = Challenge.parse(request.challenge)
            digest = _digest(request.challenge)
        except ValueError:
            raise LoginFailed from None
        issued = await self._cache.take_challenge(digest)
        if not issued or challenge.username != request.username or challenge.expiry <= time():
            raise LoginFailed

    async def authenticate(self, credentials: Credentials) -> Caller:
        """Return who acts; raises NotAuthenticated, InvalidProof. A session that ended, on any node, is refused."""
        if credentials.token is None:
            raise NotAuthenticated
        claims = await self._tokens.check(credentials.token)
        proof = self._proof_of(credentials, claims)
        if proof is None:
            is_open = await self._cache.session_is_open(claims.session_id, claims.user_id)
        else:
            is_open = await self._cache.admit(claims.session_id, claims.user_id, proof)
        caller = Caller(claims.user_id, claims.session_id)
        if not await self._is_open(caller, is_open):
            raise NotAuthenticated
        return caller

    async def ticket(self, caller: Caller) -> TicketAnswer:
        """Make a ticket that stands for the caller's session once, where a client cannot send headers."""
        ticket = token_urlsafe(TICKET_BYTES)
        await self._cache.keep_ticket(ticket, caller.session_id, caller.user_id, TICKET_LIFETIME_S)
        return TicketAnswer(ticket=ticket, expires_in=TICKET_LIFETIME_S)

    async def redeem(self, ticket: str) -> Caller:
        """Use up a ticket, and return whose it was; raises NotAuthenticated."""
        owner = await self._cache.take_ticket(ticket)
        if owner is None:
            raise NotAuthenticated
        caller = Caller(session_id=owner[0], user_id=owner[1])
        if not await self._is_open(caller, await self._cache.session_is_open(caller.session_id, caller.user_id)):
            raise NotAuthenticated
        return caller

    async def _is_open(self, caller: Caller, remembered: bool | None) -> bool:  # noqa: FBT001 - what Redis knows
        """Tell whether a session goes on; where nothing is remembered of it, by asking PostgreSQL."""
        if remembered is not None:
            return remembered
        async with self._database.reading() as connection:
            is_open = await users.session_is_open(connection, caller.session_id, caller.user_id)
        if is_open:
            await self._cache.remember_open(caller.session_id, caller.user_id)
        return is_open

    def _proof_of(self, credentials: Credentials, claims: Claims) -> dpop.Proof | None:
        """Check the proof that must come with this token; None for a bearer token, where those are allowed.

        A bound token is never taken as a plain one, nor the other way round: neither can be passed off as the other.
        """
        if credentials.is_bound != (claims.thumbprint is not None):
            raise NotAuthenticated
        if not credentials.is_bound:
            if not self._allow_bearer:
                raise NotAuthenticated
            return None
        if credentials.proof is None:
            raise InvalidProof
        try:
            proof = self._check_proof(credentials, credentials.proof, credentials.token)
        except dpop.InvalidProof as error:
            raise InvalidProof(f"The proof in the DPoP header is not valid: {error}.") from None
        if proof.thumbprint != claims.thumbprint:
            raise InvalidProof("The proof is by another key than the session's.")
        return proof

    async def logout(self, caller: Caller) -> None:
        """End the session, at once and everywhere."""
        async with self._database.transaction() as tx:
            await self._end(tx, caller.user_id, [caller.session_id])

    async def sessions(self, caller: Caller) -> list[SessionSummary]:
        """List the user's sessions that are open, the oldest first."""
        async with self._database.reading() as connection:
            found = await users.sessions_of(connection, caller.user_id)
        return [SessionSummary(**each._asdict(), is_current=each.id == caller.session_id) for each in found]

    async def end_session(self, caller: Caller, session_id: UUID) -> None:
        """End one of the user's sessions; raises NotFound for one that is over, or was never theirs."""
        async with self._database.transaction() as tx:
            if session_id not in {each.id for each in await users.sessions_of(tx, caller.user_id)}:
                raise NotFound("You have no session with this id that is open.")
            await self._end(tx, caller.user_id, [session_id])
        self._audit.note(Event.SESSIONS_ENDED, subject=str(caller.user_id))

    async def end_other_sessions(self, caller: Caller) -> int:
        """End all sessions of the user but this one; returns how many."""
        async with self._database.transaction() as tx:
            ended = await self._end_others(tx, caller)
        self._audit.note(Event.SESSIONS_ENDED, subject=str(caller.user_id))
        return ended

    async def _end_others(self, tx: Transaction, caller: Caller) -> int:
        others = [each.id for each in await users.sessions_of(tx, caller.user_id) if each.id != caller.session_id]
        await self._end(tx, caller.user_id, others)
        return len(others)

    async def _end(self, tx: Transaction, user_id: UUID, session_ids: list[UUID]) -> None:
        """End sessions at once and everywhere: Redis first, so that no node remembers them as open meanwhile."""
        await self._cache.remember_ended(session_ids)
        await users.end_sessions(tx, session_ids)
        messages.hint(tx, Kind.SESSIONS, [user_id])

    async def me(self, caller: Caller) -> Me:
        user = await self._user(caller.user_id)
        if user is None:
            raise NotAuthenticated
        keys = _public_keys(user)
        return Me(
            id=user.id,
            username=user.name,
            created_at=user.created_at,
            **keys.model_dump(include={"ecdsa_public_key", "ecdh_public_key"}),
            ecdh_signature=user.ecdh_signature,
        )

    async def public_keys(self, user_id: UUID) -> PublicKeys:
        """Return a user's keys; raises UserNotFound."""
        user = await self._user(user_id)
        if user is None:
            raise UserNotFound
        return _public_keys(user)

    async def _user(self, user_id: UUID) -> users.User | None:
        async with self._database.reading() as connection:
            return await users.by_id(connection, user_id)

    async def update_ecdsa_key(self, caller: Caller, request: EcdsaUpdate) -> None:
        """Replace the identity key: the old and the new one sign it. Ends the user's other sessions.

        Their prekeys go: the old key signed them.

        A token alone must not be enough, or whoever steals one takes the account over.
        Raises InvalidKey, InvalidSignature, Conflict.
        """
        new = read_key(request.ecdsa_public_key)
        user = await self._acting(caller)
        old, ecdh = PublicKey(user.ecdsa_public_key), PublicKey(user.ecdh_public_key)
        if new in {old, ecdh}:
            raise InvalidKey("The new key must differ from both of the present ones.")
        rotation = transcripts.rotate_ecdsa(caller.user_id, old, new)
        demand_signature(old, request.old_key_signature, rotation)
        demand_signature(new, request.new_key_signature, rotation)
        demand_signature(new, request.ecdh_signature, transcripts.register(user.name, new, ecdh))
        async with self._database.transaction() as tx:
            told = await self._lock_unchanged(tx, user)
            await users.set_ecdsa_key(tx, caller.user_id, new.der, request.ecdh_signature)
            await prekeys.remove_all_of(tx, caller.user_id)
            await self._end_others(tx, caller)
            await _tell(tx, told)
        self._audit.note(Event.IDENTITY_KEY_CHANGED, subject=str(caller.user_id))

    async def update_ecdh_key(self, caller: Caller, request: EcdhUpdate) -> None:
        """Replace the encryption key, signed by the identity key; raises InvalidKey, InvalidSignature, Conflict.

        A key that was replaced never comes back: its signature is public, and would let a session alone bring back
        a key that was given up because it was stolen.
        """
        new = read_key(request.ecdh_public_key)
        user = await self._acting(caller)
        ecdsa = PublicKey(user.ecdsa_public_key)
        if new == ecdsa:
            raise InvalidKey
        demand_signature(ecdsa, request.ecdh_signature, transcripts.register(user.name, ecdsa, new))
        async with self._database.transaction() as tx:
            told = await self._lock_unchanged(tx, user)
            if await users.is_retired_ecdh_key(tx, caller.user_id, new.der):
                raise InvalidKey("This key was yours before: make a new one.")
            if new.der != user.ecdh_public_key:
                await users.retire_ecdh_key(tx, caller.user_id, user.ecdh_public_key)
            await users.set_ecdh_key(tx, caller.user_id, new.der, request.ecdh_signature)
            await _tell(tx, told)
        self._audit.note(Event.ENCRYPTION_KEY_CHANGED, subject=str(caller.user_id))

    async def delete(self, caller: Caller, signature: bytes) -> None:
        """Erase the account and all that is its own, but the claim on its name; raises InvalidSignature, Conflict."""
        user = await self._acting(caller)
        demand_signature(PublicKey(user.ecdsa_public_key), signature, transcripts.delete_account(caller.user_id))
        # The bulk first, while nobody's sends wait for locks of ours; what comes meanwhile goes with the account.
        async with self._database.transaction() as tx:
            await messages.remove_all_of(tx, caller.user_id)
        async with self._database.transaction() as tx:
            told = await self._lock_unchanged(tx, user, accepted_only=False)
            await self._cache.remember_ended(each.id for each in await users.sessions_of(tx, caller.user_id))
            await users.remove(tx, caller.user_id)
            await messages.remove_all_of(tx, caller.user_id)
            messages.hint(tx, Kind.SESSIONS, [caller.user_id])
            await _tell(tx, told)
        self._audit.note(Event.ACCOUNT_DELETED, subject=str(caller.user_id))

    async def _acting(self, caller: Caller) -> users.User:
        user = await self._user(caller.user_id)
        if user is None:
            raise NotAuthenticated
        return user

    @staticmethod
    async def _lock_unchanged(tx: Transaction, user: users.User, *, accepted_only: bool = True) -> list[UUID]:
        """Lock a user, if still as when the signatures were checked, and their contacts; return the contacts' ids.

        Nobody is locked before the signatures were found good. Raises Conflict if another change came
        first, NotAuthenticated if it was a deletion.
        """
        contact_ids = await contacts.contact_ids(tx, user.id, accepted_only=accepted_only)
        locked = await users.lock(tx, {user.id, *contact_ids})
        if user.id not in locked:
            raise NotAuthenticated
        if locked[user.id] != user:
            raise Conflict("Your account was changed at the same moment: look at it, and try again.")
        return [each for each in contact_ids if each in locked]


async def _tell(tx: Transaction, contact_ids: list[UUID]) -> None:
    """Count a change for locked contacts, and hint at it when the transaction commits."""
    await users.touch_contacts(tx, contact_ids)
    messages.hint(tx, Kind.CONTACTS, contact_ids)


def _signed_at_login(request: LoginRequest, thumbprint: str | None) -> bytes:
    """Return what the identity key signed: the client chose, so nobody on the way can make it mean less."""
    if request.key_bound:
        return transcripts.login(request.challenge, thumbprint or "")
    return request.challenge.encode()


def _digest(challenge: str) -> bytes:
    return sha384(challenge.encode()).digest()


def _public_keys(user: users.User) -> PublicKeys:
    return PublicKeys(
        user_id=user.id,
        ecdsa_public_key=PublicKey(user.ecdsa_public_key).pem,
        ecdh_public_key=PublicKey(user.ecdh_public_key).pem,
        ecdh_signature=user.ecdh_signature,
    )
