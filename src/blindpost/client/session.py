"""A session with the router: the login, what is checked before a challenge is signed, its own key, its renewal."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from blindpost.client.errors import ClientError, LoginRefused, Refused, Unreachable, UntrustedAnswer, WrongServer
from blindpost.client.identity import Identity, Role
from blindpost.client.retry import Retry
from blindpost.client.transport import ANSWER_MAX_BYTES, TIMEOUT_S, Socket, Transport, origin_of, parse
from blindpost.protocol import dpop, transcripts
from blindpost.protocol.challenge import Challenge
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.limits import CHALLENGE_LIFETIME_S
from blindpost.services.models import auth

CLOCK_SKEW_S: Final = 120
"""How wrong a clock may be. The origin and the single use protect; the time only keeps old challenges out."""
UNAUTHENTICATED: Final = 401
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,8192}")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A token, and the key made for it, which signs every request: the token alone is of no use to a thief."""

    clock: Callable[[], float] = field(repr=False)
    """Unix seconds, as the router counts them."""
    token: str | None = field(default=None, repr=False)
    key: dpop.ProofKey = field(default_factory=dpop.ProofKey)

    def sign(self, method: str, url: str, body: bytes) -> dict[str, str]:
        """Return the headers for one request: the token if there is one yet, and a fresh proof (RFC 9449)."""
        proof = self.key.prove(dpop.SignedRequest(method, url, body, self.token), self.clock())
        headers = {"DPoP": proof}
        if self.token is not None:
            headers["Authorization"] = f"DPoP {self.token}"
        return headers


class Session:
    """Calls in the name of one identity. It logs in when needed, and once again when the session ended."""

    def __init__(
        self, transport: Transport, identity: Identity, retry: Retry, clock: Callable[[], float] = time.time
    ) -> None:
        self.transport = transport
        self.retry = retry
        self._identity = identity
        self._clock = clock
        self._clock_offset_s = 0.0
        self._credentials: Credentials | None = None
        self._login_lock = asyncio.Lock()
        self.logins = 0
        """How many sessions there were: the router tells each of what changes while it lasts."""
        self.on_reach: Callable[[bool], None] = lambda _: None

    async def meet(self) -> None:
        """Raise WrongServer unless the router speaks for the address that it is asked at: else nobody could log in."""
        answer = parse(auth.ChallengeAnswer, await self._repeat("GET", f"/auth/challenge/{self._identity.username}"))
        self._check(answer.challenge)

    async def login(self) -> None:
        """Log in anew; raises LoginRefused, WrongServer, UntrustedAnswer, Unreachable or Refused."""
        async with self._login_lock:
            await self._login()

    async def logout(self) -> None:
        """End the session, here and at the router. One that ended already is no error."""
        credentials, self._credentials = self._credentials, None
        if credentials is None:
            return
        try:
            await self._repeat("POST", "/auth/logout", sign=credentials.sign)
        except Refused as error:
            if error.status != UNAUTHENTICATED:
                raise

    def forget(self) -> None:
        """Drop the session without telling the router."""
        self._credentials = None

    async def anonymous(self, method: str, path: str, *, json: object) -> Any:
        """Make a call without a session; it must be safe to repeat. Raises as `call` does."""
        return await self._repeat(method, path, json=json)

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: dict[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        max_bytes: int = ANSWER_MAX_BYTES,
        repeatable: bool = True,
        renewed: Callable[[], Awaitable[object]] | None = None,
    ) -> Any:
        """Make one call as the user; raises Unreachable, Refused, UntrustedAnswer, or what `login` raises.

        `renewed` is called before the call is made under another session than the caller knew, and may stop it by
        raising: what changed between two sessions was told to neither.
        """
        credentials = self._credentials or await self._renew(None, renewed)
        options = {"json": json, "params": params, "timeout_s": timeout_s, "max_bytes": max_bytes}
        try:
            return await self._repeat(method, path, repeatable=repeatable, sign=credentials.sign, **options)
        except Refused as error:
            if error.status != UNAUTHENTICATED:
                raise
        # A refused session changed nothing, so any call may be made again under a new one: once.
        credentials = await self._renew(credentials, renewed)
        return await self._repeat(method, path, repeatable=repeatable, sign=credentials.sign, **options)

    async def open(self, path: str) -> Socket:
        """Open a WebSocket as the user; raises what `call` raises. It is not tried again."""
        credentials = self._credentials or await self._renew(None, None)
        try:
            socket = await self.transport.open(path, sign=credentials.sign)
        except Refused as error:
            if error.status != UNAUTHENTICATED:
                raise
            credentials = await self._renew(credentials, None)
            socket = await self.transport.open(path, sign=credentials.sign)
        self.on_reach(True)
        return socket

    async def _renew(self, ended: Credentials | None, renewed: Callable[[], Awaitable[object]] | None) -> Credentials:
        """Log in, unless another task did so since the given session was found dead."""
        async with self._login_lock:
            if self._credentials is None or self._credentials is ended:
                self._credentials = None
                await self._login()
            credentials = self._credentials
        if credentials is None:
            raise AssertionError("a login without a token")
        if renewed is not None:
            await renewed()
        return credentials

    async def _repeat(self, method: str, path: str, *, repeatable: bool = True, **options: Any) -> Any:
        return await self.retry.run(lambda: self._once(method, path, **options), repeatable=repeatable)

    async def _once(self, method: str, path: str, **options: Any) -> Any:
        """Make a request, and tell whether there was an answer, a refusal among them."""
        try:
            answer = await self.transport.request(method, path, **options)
        except ClientError as error:
            self.on_reach(not isinstance(error, Unreachable))
            raise
        self.on_reach(True)
        return answer

    async def _login(self) -> None:
        self._identity.belong_to(self.transport.origin)
        tried = self._identity.ecdsa_key
        try:
            self._credentials = await self._answer_challenge(self._identity.sign)
        except LoginRefused:
            # A rotation: finished meanwhile by another process, or the router may know the next key already.
            self._identity.reload()
            is_replaced = self._identity.ecdsa_key != tried
            if not is_replaced and self._identity.next_key(Role.ECDSA) is None:
                raise
            sign = self._identity.sign if is_replaced else self._identity.sign_with_next
            self._credentials = await self._answer_challenge(sign)
        self.logins += 1
        if self._identity.user_id is None or any(self._identity.next_key(role) for role in Role):
            self._take_in(await self._repeat("GET", "/auth/me", sign=self._credentials.sign))

    async def _answer_challenge(self, sign: Callable[[bytes], bytes]) -> Credentials:
        answer = parse(auth.ChallengeAnswer, await self._repeat("GET", f"/auth/challenge/{self._identity.username}"))
        self._check(answer.challenge)
        shown = Credentials(self._router_time)
        login = auth.LoginRequest(
            username=self._identity.username,
            challenge=answer.challenge,
            # With the session's key in it: somebody on the way could show a key of their own in its place.
            signature=sign(transcripts.login(answer.challenge, shown.key.thumbprint)),
            key_bound=True,
        )
        json = login.model_dump(mode="json")
        try:
            # Not repeated: a challenge works once, so a second try could only fail.
            body = await self._repeat("POST", "/auth/login", json=json, sign=shown.sign, repeatable=False)
        except Refused as error:
            if error.status == UNAUTHENTICATED:
                raise LoginRefused(error.status, error.code, error.detail) from None
            raise
        return replace(shown, token=_token(parse(auth.Session, body)))

    def _check(self, text: str) -> None:
        """Let only a challenge through that is for this server, this user and this minute: it is then signed."""
        try:
            challenge = Challenge.parse(text)
            origin = origin_of(challenge.origin)
        except ValueError:
            raise UntrustedAnswer("the server's challenge is not one of this protocol") from None
        if origin != self.transport.origin:
            hint = f"It calls itself {origin}: use that address, if it is the one that you were given."
            raise WrongServer(f"the server at {self.transport.origin} speaks for another address", hint)
        if challenge.username != self._identity.username:
            raise WrongServer("the server's challenge is for another user")
        left = challenge.expiry - self._clock()
        if not -CLOCK_SKEW_S < left < CHALLENGE_LIFETIME_S + CLOCK_SKEW_S:
            raise UntrustedAnswer("the server's challenge is not of this minute", "Check the clock of this computer.")
        # Proofs are dated by the router's clock, as far as it was just believed: a computer's clock may be wrong.
        self._clock_offset_s = left - CHALLENGE_LIFETIME_S

    def _router_time(self) -> float:
        return self._clock() + self._clock_offset_s

    async def reconcile(self) -> None:
        """Find out what became of a rotation whose answer was lost; raises what `call` raises."""
        self._take_in(await self.call("GET", "/auth/me"))

    def _take_in(self, answer: object) -> None:
        """Check whose account this is, and which of our keys the router has; finish what is done of a rotation."""
        me = parse(auth.Me, answer)
        if me.username != self._identity.username:
            raise WrongServer("the server names another user for this identity")
        ecdsa, ecdh = _key(me.ecdsa_public_key), _key(me.ecdh_public_key)
        if not self._are_mine(ecdsa, ecdh):
            # Another process may have replaced a key since the file was read.
            self._identity.reload()
            if not self._are_mine(ecdsa, ecdh):
                raise WrongServer("the server has a key for this account that is not this identity's")
        self._identity.belong_to(self.transport.origin, me.id)
        if ecdsa == self._identity.next_key(Role.ECDSA):
            self._identity.finish_rotation(Role.ECDSA)
        if ecdh == self._identity.next_key(Role.ECDH):
            self._identity.finish_rotation(Role.ECDH)

    def _are_mine(self, ecdsa: PublicKey, ecdh: PublicKey) -> bool:
        mine = self._identity
        is_mine = ecdsa in {mine.ecdsa_key, mine.next_key(Role.ECDSA)}
        return is_mine and ecdh in {mine.ecdh_key, mine.next_key(Role.ECDH)}


def _token(session: auth.Session) -> str:
    # It goes into a header, so it must not be able to begin another one.
    if _TOKEN.fullmatch(session.access_token) is None:
        raise UntrustedAnswer("the server's session has no token that can be sent")
    # A plain token could be used by whoever sees it: somebody on the way may have taken the proof out of the login.
    if session.token_type.lower() != "dpop":
        raise UntrustedAnswer("the server's session is not bound to its key")
    return session.access_token


def _key(pem: str) -> PublicKey:
    try:
        return PublicKey.from_pem(pem)
    except ValueError:
        raise UntrustedAnswer("the server's answer holds a key that is not valid") from None
