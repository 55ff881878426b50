"""Redis: challenges, proofs seen, what is known of sessions for a minute, rate limits.

Nothing here must survive a loss of it, and nothing here names anybody: keys and values are digests. Redis down means
503 for whatever needs it: a check that cannot be made is a check that failed.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from math import ceil
from time import time
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError

from blindpost.core.group_commit import GroupCommit
from blindpost.core.ids import uuid_of
from blindpost.errors import ConfigurationError, InvalidProof, StartError, Unavailable
from blindpost.protocol import dpop
from blindpost.tracing import traces

SOCKET_TIMEOUT_S: Final = 2
POOL_WAIT_S: Final = 5
GATHER_S: Final = 0.001
"""For proofs to gather, where many come."""
CONNECTIONS_MAX: Final = 16
SESSION_MEMORY_S: Final = 60
"""How long Redis remembers that a session is open, and for longer than any reader needs that it has ended."""
ENDED: Final = b"0"
DIGEST_BYTES: Final = 16
SINCE: Final = b"proof:since"
"""The Unix second before which it is not known which proofs were seen."""
LEADER: Final = b"blindpost:observer"
"""Which process looks at what waits, for the metrics of all."""
RUN: Final = b"proof:run"
"""Which run of Redis wrote it: one that was restored from a snapshot knows what was, and not what was last."""

# For each proof: 1, or 0 for one seen before, -1 for one that may have been; and what is remembered of the session.
# A Redis that lost its memory begins it when no proof that it may have forgotten can be dated any more.
_SINCE: Final = f"""
local now = tonumber(redis.call('TIME')[1])
local since = tonumber(redis.call('GET', KEYS[1]))
if not since then
    since = now + 1 + {dpop.AHEAD_MAX_S}
    redis.call('SET', KEYS[1], since)
end
"""
_ADMIT: Final = f"""{_SINCE}
local answers = {{}}
for n = 1, #ARGV - 1 do
    local state = 1
    if tonumber(ARGV[n + 1]) < since then
        state = -1
    elseif not redis.call('SET', KEYS[2 * n], '', 'NX', 'EX', ARGV[1]) then
        state = 0
    end
    answers[2 * n - 1] = state
    answers[2 * n] = redis.call('GET', KEYS[2 * n + 1])
end
return answers
"""
_WAIT: Final = f"{_SINCE} return since - now"
_RUN: Final = f"""
local before = redis.call('GET', KEYS[2])
if before and before ~= ARGV[1] then
    redis.call('SET', KEYS[1], redis.call('TIME')[1] + 1 + {dpop.AHEAD_MAX_S})
end
redis.call('SET', KEYS[2], ARGV[1])
"""
_LEAD: Final = """
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
_BEGIN: Final = "redis.call('SET', KEYS[1], redis.call('TIME')[1], 'NX')"


_RUN_ID: Final = re.compile(rb"run_id:([0-9a-f]{40})")


class _Shown(NamedTuple):
    """A proof and its session, as the keys of their memories."""

    proof: bytes
    session: bytes
    issued_at: float


class Cache:
    """One Redis, as one process sees it."""

    def __init__(self, url: str) -> None:
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS_MAX,
                timeout=POOL_WAIT_S,
                socket_timeout=SOCKET_TIMEOUT_S,
                socket_connect_timeout=SOCKET_TIMEOUT_S,
                # One repeat, for a connection that the server closed while it was idle.
                retry=Retry(NoBackoff(), 1),
                redis_connect_func=self._connected,
            )
        except ValueError:
            raise ConfigurationError(
                "BLINDPOST_REDIS_URL is not a Redis URL", "write it as redis://:password@host:6379/0"
            ) from None
        self._run = b""
        self._redis: Redis = Redis.from_pool(pool)
        self._admit = self._redis.register_script(_ADMIT)
        self._admissions: GroupCommit[_Shown, tuple[int, bytes | None]] = GroupCommit(
            self._flush_admissions, gather_s=GATHER_S
        )
        self._wait = self._redis.register_script(_WAIT)
        storage = RedisStorage("async+redis://", implementation="redispy", connection_pool=cast("str", pool))
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    async def _connected(self, connection: Any) -> None:
        """Learn, on each new connection, whether this Redis ran all the time; if not, its memory is not believed."""
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        found = _RUN_ID.search(await connection.read_response())
        if found is None:
            raise ConnectionError("Redis does not say which run this is")
        await connection.send_command("EVAL", _RUN, 2, SINCE, RUN, found[1])
        await connection.read_response()
        self._run = found[1]

    async def close(self) -> None:
        self._admissions.close()
        await self._redis.aclose()

    async def ping(self) -> None:
        """Raise Unavailable unless the server answers, and knows which proofs it has seen."""
        with _failing_closed():
            wait_s = await self._wait(keys=[SINCE])
        if wait_s > 0:
            raise Unavailable(retry_after=wait_s)

    async def check_server(self) -> None:
        """Raise StartError, in one line, unless Redis answers."""
        try:
            await self._redis.ping()
        except (AuthenticationError, AuthorizationError):
            raise StartError("Redis refuses this user or password", "check those in BLINDPOST_REDIS_URL") from None
        except (RedisError, OSError) as error:
            raise StartError(
                f"Redis does not answer: {type(error).__name__}", "check BLINDPOST_REDIS_URL, and that the server runs"
            ) from None

    async def begin(self) -> None:
        """Let a Redis that remembers nothing begin to: nobody was answered yet whose proof it could have forgotten."""
        with _failing_closed():
            await self._redis.eval(_BEGIN, 1, SINCE)

    async def keep_challenge(self, digest: bytes, lifetime_s: int) -> None:
        """Remember a challenge by its SHA-384 digest. Each has a key of its own: none evicts another."""
        with _failing_closed():
            await self._redis.set(b"challenge:" + digest, b"", ex=lifetime_s)

    async def take_challenge(self, digest: bytes) -> bool:
        """Forget a challenge, and tell whether it was there: true for one caller only, whoever races."""
        with _failing_closed():
            return await self._redis.getdel(b"challenge:" + digest) is not None

    async def keep_ticket(self, ticket: str, session_id: UUID, user_id: UUID, lifetime_s: int) -> None:
        """Remember whose a ticket is: under its digest, and readable by whoever has the ticket alone."""
        owner = _masked(session_id.bytes + user_id.bytes, ticket)
        with _failing_closed():
            await self._redis.set(b"ticket:" + _digest(ticket.encode()), owner, ex=lifetime_s)

    async def take_ticket(self, ticket: str) -> tuple[UUID, UUID] | None:
        """Forget a ticket, and return the session and the user whose it was: for one caller only, whoever races."""
        with _failing_closed():
            owner: Any = await self._redis.getdel(b"ticket:" + _digest(ticket.encode()))
        if owner is None:
            return None
        ids = _masked(owner, ticket)
        return uuid_of(ids[:16].hex()), uuid_of(ids[16:].hex())

    async def session_is_open(self, session_id: UUID, user_id: UUID) -> bool | None:
        """Tell what is remembered of a session: open and this user's, not so, or nothing."""
        with _failing_closed():
            state: Any = await self._redis.get(self._session(session_id))
        return _is_open(state, session_id, user_id)

    async def admit(self, session_id: UUID, user_id: UUID, proof: dpop.Proof) -> bool | None:
        """Take a proof, once, on whatever node; then tell what is remembered of its session, as session_is_open does.

        Raises InvalidProof for one that was seen, Unavailable for one that a Redis which lost its memory may have seen.
        """
        key = b"proof:" + _digest(proof.thumbprint.encode(), proof.id.encode())
        taken, state = await self._admissions.submit(_Shown(key, self._session(session_id), proof.issued_at))
        if taken < 0:
            raise Unavailable(retry_after=dpop.AHEAD_MAX_S)
        if taken == 0:
            raise InvalidProof("This proof was used before: sign each request anew.")
        return _is_open(state, session_id, user_id)

    async def run(self) -> None:
        """Ask for admission, of many requests at once, until closed."""
        await self._admissions.run()

    async def _flush_admissions(self, batch: Sequence[_Shown]) -> Sequence[tuple[int, bytes | None]]:
        keys = [SINCE, *(key for each in batch for key in (each.proof, each.session))]
        with _failing_closed(), traces.timed("redis admit"):
            answers = await self._admit(keys=keys, args=[dpop.REMEMBERED_S, *(each.issued_at for each in batch)])
        return list(zip(answers[::2], answers[1::2], strict=True))

    def _session(self, session_id: UUID) -> bytes:
        """Name the memory of a session in this run of Redis: what another run remembers may be old."""
        return b"session:" + _digest(session_id.bytes, self._run)

    async def remember_open(self, session_id: UUID, user_id: UUID) -> None:
        """Remember that PostgreSQL has the session of this user; never over a memory that it ended (NX)."""
        with _failing_closed():
            await self._redis.set(self._session(session_id), _owner(session_id, user_id), ex=SESSION_MEMORY_S, nx=True)

    async def remember_ended(self, session_ids: Iterable[UUID]) -> None:
        """Remember that sessions ended, for longer than a reader who saw them open can take to say so."""
        with _failing_closed():
            async with self._redis.pipeline(transaction=False) as pipe:
                for session_id in session_ids:
                    pipe.set(self._session(session_id), ENDED, ex=2 * SESSION_MEMORY_S)
                await pipe.execute()

    async def lead(self, name: bytes, lifetime_s: int) -> bool:
        """Be the one process that does something, for a while or for a while longer; false if another is it."""
        with _failing_closed():
            return bool(await self._redis.eval(_LEAD, 1, LEADER, name, lifetime_s))

    async def hit(self, limit: RateLimitItem, *whom: str, cost: int = 1) -> int | None:
        """Count against a limit; returns None, or after how many seconds there may be room again."""
        with _failing_closed(), traces.timed("redis count"):
            if await self._limiter.hit(limit, *whom, cost=cost):
                return None
            freed_at = (await self._limiter.get_window_stats(limit, *whom)).reset_time
            return min(max(1, ceil(freed_at - time())), limit.get_expiry())


def _masked(ids: bytes, ticket: str) -> bytes:
    """Mask two ids with what follows from the ticket alone, or unmask them; a ticket is random, and masks once."""
    mask = blake2b(ticket.encode(), digest_size=32, person=b"ticket owner").digest()
    return bytes(a ^ b for a, b in zip(ids, mask, strict=True))


def _owner(session_id: UUID, user_id: UUID) -> bytes:
    # Under the session's id, which is random and not stored here: so it says nothing about the user.
    return _digest(session_id.bytes, user_id.bytes)


def _is_open(state: bytes | None, session_id: UUID, user_id: UUID) -> bool | None:
    return None if state is None else state == _owner(session_id, user_id)


def _digest(*parts: bytes) -> bytes:
    return blake2b(b"\x00".join(parts), digest_size=DIGEST_BYTES).digest()


@contextmanager
def _failing_closed() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable from error
