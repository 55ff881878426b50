"""How the stores do at the moment: their clocks, and how long a message has waited in them."""

from collections.abc import Awaitable, Callable
from time import monotonic, time
from typing import Final

from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from blindpost.core.database import Database
from blindpost.core.observer import find
from blindpost.core.safety import Finding, client_of, fine, note, wrong

APART_MAX_S: Final = 2.0
"""Proofs are dated by clients and remembered by Redis' clock, and sessions end by PostgreSQL's."""
LATE_S: Final = 3_600
"""Housekeeping comes every ten minutes, and a backlog takes it a while."""
NOW: Final = text("SELECT extract(epoch FROM clock_timestamp())")


async def postgres_vitals(database: Database, message_lifetime_s: int) -> list[Finding]:
    """Look at a PostgreSQL whose schema is in order."""
    try:
        return [
            await _clock("PostgreSQL's clock", _ask_postgres(database)),
            await _oldest(database, message_lifetime_s),
        ]
    except DBAPIError:
        return []  # the findings on rights say which is missing


def _ask_postgres(database: Database) -> Callable[[], Awaitable[float]]:
    async def ask() -> float:
        async with database.reading() as connection:
            return float(await connection.scalar(NOW) or 0)

    return ask


async def redis_vitals(url: str) -> list[Finding]:
    """Look at a Redis that answers."""
    async with client_of(url) as client:

        async def ask() -> float:
            seconds, micros = await client.time()
            return seconds + micros / 1e6

        try:
            return [await _clock("Redis' clock", ask)]
        except RedisError:
            return [
                note("Redis' clock", "its user may not ask for the time, as the router must", "ACL SETUSER ... +time")
            ]


async def _clock(what: str, ask: Callable[[], Awaitable[float]]) -> Finding:
    """Compare with this machine's clock, as exactly as the way there and back allows."""
    await ask()  # a connection takes longer to open than a question takes
    before, began = time(), monotonic()
    theirs = await ask()
    way = (monotonic() - began) / 2
    return clock_finding(what, theirs - before - way, way)


def clock_finding(what: str, apart_s: float, doubt_s: float) -> Finding:
    """Judge a difference that may be greater or less by the doubt."""
    if abs(apart_s) - doubt_s <= APART_MAX_S:
        return fine(what, f"{abs(apart_s):.1f} s from this machine's")
    direction = "before" if apart_s > 0 else "behind"
    says = f"{abs(apart_s):.1f} s {direction} this machine's: honest requests can be refused, and old ones believed"
    return wrong(what, says, "let both machines follow the same time servers: timedatectl set-ntp true")


async def _oldest(database: Database, message_lifetime_s: int) -> Finding:
    found = await find(database)
    return oldest_finding(
        int(found["blindpost_queued_messages"]), found["blindpost_oldest_message_seconds"], message_lifetime_s
    )


def oldest_finding(count: int, oldest_s: float, message_lifetime_s: int) -> Finding:
    """Judge how long the oldest message has waited."""
    if not count:
        return fine("queue", "no message waits")
    says = f"{count:,} messages wait, the oldest for {oldest_s / 3_600:,.1f} hours"
    if oldest_s <= message_lifetime_s + LATE_S:
        return fine("queue", says)
    return wrong("queue", f"{says}: it should have been erased", "run `serve`, and look for purge_failed in its log")
