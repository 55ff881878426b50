"""Floors: what cannot be had for less on this machine, measured in the same run, and the router beside it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import cycle
from time import perf_counter, process_time
from typing import Final
from uuid import UUID

import asyncpg
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from blindpost.bench import login
from blindpost.bench.costs import cpu
from blindpost.bench.ground import Ground, Plan, Row
from blindpost.bench.routers import process
from blindpost.bench.stream import one_round
from blindpost.bench.talks import CREATED, MESSAGE_BYTES
from blindpost.bench.wire import HttpWire, WebSocketWire, frame, handshake

BATCH: Final = 50
"""Rows with one statement and one commit, as many as 50 pairs fill."""
_INSERT: Final = """
INSERT INTO bench_floor (sender_id, recipient_id, message)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bytea[])
"""


async def measure(ground: Ground) -> list[Row]:
    """Measure the floors and the router, in turn."""
    rows: list[Row] = []
    async with (
        ground.router() as router,
        ground.router(trusted_proxies="127.0.0.1") as behind_proxy,
        ground.registry() as registry,
        _bare() as bare,
    ):
        people = cycle(await registry.people(login.PEOPLE))
        for number in range(ground.plan.rounds):
            ground.tell(f"floors, round {number + 1} of {ground.plan.rounds}")
            seconds = ground.plan.seconds
            rows += [
                {"name": "insert", **await _inserts(ground, seconds)},
                {"name": "post", **await _bare_load(bare, _Post, ground.plan)},
                {"name": "echo", **await _bare_load(bare, _Echo, ground.plan)},
                {"name": "verify_p256", **_verifications(ec.SECP256R1(), ec.ECDSA(hashes.SHA256()), seconds / 8)},
                {"name": "verify_p384", **_verifications(ec.SECP384R1(), ec.ECDSA(hashes.SHA384()), seconds / 8)},
                {
                    "name": "websocket",
                    **await one_round(registry, [router], "websocket", ground.plan.crowd, ground.plan),
                },
                {"name": "poll", **await one_round(registry, [router], "poll", ground.plan.crowd, ground.plan)},
                {"name": "login", **await login.one_round(behind_proxy, people, registry.identity, ground.plan)},
            ]
    return rows


async def _inserts(ground: Ground, seconds: float) -> Row:
    """Insert batches, one after the other, into a table with the columns, checks and indexes of `messages`."""
    connection = await asyncpg.connect(ground.database_url)
    columns = _batch()
    try:
        await connection.execute("CREATE TABLE bench_floor (LIKE messages INCLUDING ALL)")
        statement = await connection.prepare(_INSERT)
        count, before, began = 0, cpu(), perf_counter()
        while perf_counter() < began + seconds:
            await statement.fetch(*columns)
            count += BATCH
        took, used = perf_counter() - began, cpu() - before
        return {"count": count, "per_second": count / took, **used.per_1000(count)}
    finally:
        await connection.execute("DROP TABLE IF EXISTS bench_floor")
        await connection.close()


def _batch() -> tuple[list[UUID], list[UUID], list[bytes]]:
    """Make senders, recipients and messages."""
    senders, recipients = ([UUID(bytes=os.urandom(16), version=4) for _ in range(BATCH)] for _ in range(2))
    return senders, recipients, [os.urandom(MESSAGE_BYTES) for _ in range(BATCH)]


class _Bare:
    """The servers that do nothing."""

    def __init__(self, pid: int, post: str, echo: str) -> None:
        self.pid = pid
        self.post = post
        self.echo = echo


@asynccontextmanager
async def _bare() -> AsyncIterator[_Bare]:
    async with process("blindpost.bench.bare", {}) as (pid, (post, echo)):
        yield _Bare(pid, post, echo)


class _Post:
    """One who posts again when the last was answered."""

    def __init__(self) -> None:
        self.count = 0
        body = os.urandom(MESSAGE_BYTES)
        self._request = b"POST /messages/send HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b" % (
            len(body),
            body,
        )
        self._wire: HttpWire

    async def open(self, bare: _Bare) -> None:
        self._wire = await HttpWire.connect(bare.post)
        self._wire.on_answer = self._answered
        self._wire.write(self._request)

    def _answered(self, status: int, _body: bytes) -> None:
        if status == CREATED:
            self.count += 1
            self._wire.write(self._request)

    def close(self) -> None:
        self._wire.close()


class _Echo:
    """One who says something again when it came back."""

    def __init__(self) -> None:
        self.count = 0
        self._frame = frame(os.urandom(MESSAGE_BYTES).hex()[:MESSAGE_BYTES].encode())
        self._wire: WebSocketWire

    async def open(self, bare: _Bare) -> None:
        self._wire = await WebSocketWire.connect(bare.echo)
        self._wire.on_text = self._told
        await self._wire.open(b"GET / HTTP/1.1\r\n" + handshake() + b"\r\n")
        self._wire.write(self._frame)

    def _told(self, _data: bytes, _start: int, _stop: int) -> None:
        self.count += 1
        self._wire.write(self._frame)

    def close(self) -> None:
        self._wire.close()


async def _bare_load(bare: _Bare, make: Callable[[], _Post | _Echo], plan: Plan) -> Row:
    """Let as many as there are pairs ask the servers that do nothing."""
    loads = [make() for _ in range(plan.crowd)]
    try:
        for each in loads:
            await each.open(bare)
        counted, before, began = sum(each.count for each in loads), cpu(bare.pid), perf_counter()
        await asyncio.sleep(plan.seconds)
        took, used, count = perf_counter() - began, cpu(bare.pid) - before, sum(each.count for each in loads) - counted
    finally:
        for each in loads:
            each.close()
    return {"count": count, "per_second": count / took, **used.per_1000(count)}


def _verifications(curve: ec.EllipticCurve, algorithm: ec.ECDSA, seconds: float) -> Row:
    """Verify one signature again and again."""
    key = ec.generate_private_key(curve)
    data = os.urandom(MESSAGE_BYTES)
    signature, public = key.sign(data, algorithm), key.public_key()
    count, began, used = 0, perf_counter(), process_time()
    while (took := perf_counter() - began) < seconds:
        public.verify(signature, data, algorithm)
        count += 1
    return {"count": count, "per_second": count / took, "generator_cpu": (process_time() - used) / count * 1000}
