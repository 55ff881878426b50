"""Whether it grows slower as there are more people and messages: a full database and an empty one, in turn."""

from contextlib import AsyncExitStack
from typing import Final

from blindpost.bench.ground import Ground, Row
from blindpost.bench.stream import one_round

CHUNK: Final = 50_000

# Everybody has a session, a contact, and one message that waits. The constraints of the tables are checked as ever; the
# foreign keys are not, because each statement names only people of its own chunk.
_THESE: Final = """
WITH these AS (
    SELECT n, md5('user' || n)::uuid AS id, md5('user' || CASE WHEN n < $2 THEN n + 1 ELSE $1 END)::uuid AS other
    FROM generate_series($1::bigint, $2) AS n
)
"""
_FILL: Final = (
    "INSERT INTO names (name_key) {these} SELECT 'grown_' || n FROM these",
    """
INSERT INTO users (id, name, name_key, ecdsa_public_key, ecdh_public_key, ecdh_signature) {these}
SELECT id, 'grown_' || n, 'grown_' || n, substr(decode(repeat(md5('ecdsa' || n), 8), 'hex'), 1, 120),
    substr(decode(repeat(md5('ecdh' || n), 8), 'hex'), 1, 120), decode(repeat(md5('signature' || n), 6), 'hex')
FROM these
""",
    """
INSERT INTO sessions (id, user_id, expires_at, contacts_seen) {these}
SELECT md5('session' || n)::uuid, id, now() + interval '12 hours', 0 FROM these
""",
    """
INSERT INTO contact_requests (sender_id, receiver_id, status) {these}
SELECT id, other, 'accepted' FROM these
""",
    """
INSERT INTO traces (id, sender_id, client_message_id) {these}
SELECT uuidv7(), id, md5('client' || n)::uuid FROM these
""",
    """
INSERT INTO messages (id, sender_id, recipient_id, message) {these}
SELECT traces.id, these.id, other, decode(repeat(md5('message' || n), 32), 'hex') FROM these
JOIN traces ON traces.sender_id = these.id AND traces.client_message_id = md5('client' || n)::uuid
""",
)


async def measure(ground: Ground) -> list[Row]:
    """Measure each size beside an empty database, both on routers of their own."""
    rows = []
    for users in ground.plan.users:
        async with ground.database("empty") as empty, ground.database("full") as full:
            rows += await _measure_one(ground, {"empty": empty, "full": full}, users)
    return rows


async def _measure_one(ground: Ground, grounds: dict[str, Ground], users: int) -> list[Row]:
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        open_ = stack.enter_async_context
        routers = {name: await open_(each.router()) for name, each in grounds.items()}
        registries = {name: await open_(each.registry()) for name, each in grounds.items()}
        mib = await _fill(grounds["full"], users)
        for number in range(ground.plan.rounds):
            for name in sorted(grounds, reverse=number % 2 == 1):  # A B B A: neither is always the first
                ground.tell(f"{users:,} users, {name} database, round {number + 1} of {ground.plan.rounds}")
                row = await one_round(registries[name], [routers[name]], "websocket", ground.plan.crowd, ground.plan)
                rows.append({"users": users, "database": name, "full_mib": mib, **row})
    return rows


async def _fill(ground: Ground, users: int) -> float:
    """Put so many people and messages into a database; returns its size in MiB."""
    connection = await ground.as_superuser()
    try:
        await connection.execute("SET session_replication_role = replica; SET synchronous_commit = off")
        for first in range(1, users + 1, CHUNK):
            ground.tell(f"filling a database: {first - 1:,} of {users:,} users and messages")
            last = min(first + CHUNK - 1, users)
            async with connection.transaction():
                for statement in _FILL:
                    await connection.execute(statement.format(these=_THESE), first, last)
        ground.tell("filling a database: VACUUM, ANALYZE, CHECKPOINT")
        await connection.execute("VACUUM (ANALYZE)")
        await connection.execute("CHECKPOINT")
        return float(await connection.fetchval("SELECT pg_database_size(current_database())")) / 2**20
    finally:
        await connection.close()
