"""Rows in every table of every schema that there was: for upgrades, downgrades, and restores of old backups."""

from typing import TYPE_CHECKING, Any, Final

from blindpost.core.audit_chain import BEGINNING, EPOCH, Entry, Row, link
from blindpost.core.database import Database

if TYPE_CHECKING:
    import asyncpg

FILLING: Final = {
    "0001": """
        INSERT INTO names VALUES ('alice'), ('robert'), ('somebody_before');
        INSERT INTO users (id, name, name_key, ecdsa_public_key, ecdh_public_key, ecdh_signature, contacts_version)
        VALUES
        ('00000000-0000-4000-8000-000000000001', 'Alice', 'alice', decode(repeat('00', 120), 'hex'),
            decode(repeat('01', 120), 'hex'), 'x', 3),
        ('00000000-0000-4000-8000-000000000002', 'robert', 'robert', decode(repeat('02', 120), 'hex'),
            decode(repeat('03', 120), 'hex'), 'x', 0);
        INSERT INTO retired_ecdh_keys SELECT id, decode(repeat('04', 48), 'hex') FROM users;
        INSERT INTO sessions (id, user_id, expires_at, contacts_seen)
        SELECT gen_random_uuid(), id, now() + interval '1 hour', 0 FROM users;
        INSERT INTO contact_requests (sender_id, receiver_id, status)
        SELECT a.id, b.id, 'accepted' FROM users a, users b WHERE a.id < b.id;
        INSERT INTO token_keys (id, public_key) VALUES (repeat('0', 32), 'public');
        INSERT INTO messages (sender_id, recipient_id, message, client_message_id, is_delivered, receipt_due)
        SELECT '00000000-0000-4000-8000-000000000001',
            CASE WHEN n < 5 THEN '00000000-0000-4000-8000-000000000002'::uuid END,
            CASE WHEN n < 5 THEN 'sealed'::bytea END, CASE WHEN n % 2 = 0 THEN gen_random_uuid() END, n >= 5, n >= 8
        FROM generate_series(1, 10) AS n;
    """,
    "0002": "INSERT INTO pseudonym_keys VALUES (current_date, decode(repeat('06', 32), 'hex'));",
    "0003": "",  # its tables are filled out of the messages of the first one
    "0004": """
        INSERT INTO lasting_prekeys SELECT id, 'p384', id, decode(repeat('07', 120), 'hex'), 'x', now() FROM users;
        INSERT INTO one_time_prekeys (user_id, algorithm, id, fingerprint, public_key, signature)
        SELECT id, 'ml-kem-1024', id, decode(repeat('08', 48), 'hex'), decode(repeat('08', 1568), 'hex'), 'x'
        FROM users;
        INSERT INTO one_time_prekeys (user_id, algorithm, id, fingerprint, claimed_on)
        SELECT id, 'p384', id, decode(repeat('09', 48), 'hex'), '2020-01-01' FROM users;
        INSERT INTO prekey_claims SELECT a.id, b.id, now(), 4 FROM users a, users b WHERE a.id <> b.id;
    """,
    "0005": """
        UPDATE traces SET expired_at = timestamp WHERE id = (SELECT min(id::text)::uuid FROM traces WHERE NOT EXISTS
            (SELECT FROM messages WHERE messages.id = traces.id));
    """,
}
"""What each schema is filled with when it is reached: rows of the tables that it added."""

Content = dict[str, list[dict[str, Any]]]


async def fill(database: Database, last: str) -> None:
    """Bring an empty database up to a schema, and fill each on the way."""
    raw = await database.connect_raw()
    for revision, statements in FILLING.items():
        if revision <= last:
            await database.migrate(revision)
            if statements:
                await raw.execute(statements)
            if revision == "0002":
                rows = link(BEGINNING, [Entry(EPOCH, "limit_hit", None, None, 1)] * 3)
                await raw.copy_records_to_table("audit", records=rows, columns=Row._fields)
    await raw.close()


async def content(database: Database) -> Content:
    """Read all rows of all tables, in an order that is theirs."""
    raw = await database.connect_raw()
    try:
        tables = await raw.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        return {table: await _rows(raw, table) for (table,) in tables if table != "alembic_version"}
    finally:
        await raw.close()


async def _rows(raw: "asyncpg.Connection[Any]", table: str) -> list[dict[str, Any]]:
    return sorted((dict(row) for row in await raw.fetch(f"SELECT * FROM {table}")), key=str)
