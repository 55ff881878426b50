"""Two roles: one owns the tables and migrates, the router's own may do to each table what the router does, no more.

Then whoever takes the router over cannot drop a table, change the audit, or free a name that was somebody's.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from blindpost.core.database import LOSSES, Database
from blindpost.errors import ConfigurationError, StartError, Unavailable

SELECT, INSERT, UPDATE, DELETE = "SELECT", "INSERT", "UPDATE", "DELETE"
PRIVILEGES: Final[Mapping[str, tuple[str, ...]]] = {
    "alembic_version": (SELECT,),
    # Events are added, and go when they expire; a trigger bounds that. Nothing changes one.
    "audit": (SELECT, INSERT, DELETE),
    "contact_requests": (SELECT, INSERT, UPDATE, DELETE),
    "lasting_prekeys": (SELECT, INSERT, UPDATE, DELETE),
    "messages": (SELECT, INSERT, UPDATE, DELETE),
    # A name is claimed for ever.
    "names": (SELECT, INSERT),
    "one_time_prekeys": (SELECT, INSERT, UPDATE, DELETE),
    "prekey_claims": (SELECT, INSERT, UPDATE, DELETE),
    "pseudonym_keys": (SELECT, INSERT, DELETE),
    "receipts": (SELECT, INSERT, UPDATE, DELETE),
    "retired_ecdh_keys": (SELECT, INSERT),
    "sessions": (SELECT, INSERT, UPDATE, DELETE),
    "token_keys": (SELECT, INSERT, UPDATE, DELETE),
    "traces": (SELECT, INSERT, UPDATE, DELETE),
    "users": (SELECT, INSERT, UPDATE, DELETE),
}
"""Rows that go with their user need no right here: PostgreSQL deletes them in the name of the tables' owner."""
ALL: Final = (SELECT, INSERT, UPDATE, DELETE, "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
MIGRATE: Final = "run `blindpost migrate` with BLINDPOST_MIGRATION_DATABASE_URL set to the role that owns the tables"

_HAS: Final = text("""
SELECT t, p, has_table_privilege(t, p) FROM unnest(CAST(:tables AS text[]), CAST(:privileges AS text[])) AS each (t, p)
""")
_SAME: Final = text("SELECT current_database(), pg_postmaster_start_time()")
_OWNED: Final = text("""
SELECT relname FROM pg_class
WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relname = ANY(:tables)
AND pg_has_role(CAST(:role AS name), relowner, 'MEMBER')
AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = CAST(:role AS name))
""")


async def bring_to_head(router: Database, owner_url: SecretStr | None) -> tuple[str | None, str | None]:
    """See that the schema is at head and open to the router's role; migrate if it is not. Raises ConfigurationError.

    Returns the revisions before and after. Where all is in order no statement but reads is run: the role of the
    router needs no right to change anything.
    """
    if await _is_in_order(router):
        return await router.revisions()
    revisions = await migrate(router, owner_url)
    if missing := await missing_rights(router):
        raise StartError(f"the router's role lacks rights that it needs: {', '.join(missing)}", MIGRATE)
    return revisions


async def migrate(
    router: Database, owner_url: SecretStr | None, revision: str = "head"
) -> tuple[str | None, str | None]:
    """Bring the schema to a revision as its owner, and let the router's role do its work; see Database.migrate."""
    async with as_owner(router, owner_url) as (owner, grant):
        return await owner.migrate(revision, then=grant)


@asynccontextmanager
async def as_owner(
    router: Database, owner_url: SecretStr | None
) -> AsyncIterator[tuple[Database, Callable[[Connection], None]]]:
    """Give the database as the owner of its tables, and what lets the router's role do its work in a new schema.

    Raises ConfigurationError where the two URLs name different databases.
    """
    if owner_url is None:
        yield router, lambda _: None
        return
    async with _owners(owner_url) as owner:
        await owner.check_server()
        if await _ask(router, _SAME) != await _ask(owner, _SAME):
            raise ConfigurationError(
                "BLINDPOST_MIGRATION_DATABASE_URL and BLINDPOST_DATABASE_URL name different databases",
                "give the same host and database in both, and different roles",
            )
        ((role,),) = await _ask(router, text("SELECT CAST(current_user AS text)"))
        yield owner, partial(_grant, role=role)


def _owners(url: SecretStr) -> Database:
    return Database(url.get_secret_value(), pool_size=1, variable="BLINDPOST_MIGRATION_DATABASE_URL")


async def missing_rights(router: Database) -> list[str]:
    """Name what the router needs and its role may not, as 'INSERT on users'."""
    return [f"{right} on {table}" for table, right, has in await _rights(router, PRIVILEGES) if not has]


async def superfluous_rights(router: Database) -> list[str]:
    """Name what the router's role may and the router does not need."""
    others = {table: tuple(each for each in ALL if each not in needed) for table, needed in PRIVILEGES.items()}
    return [f"{right} on {table}" for table, right, has in await _rights(router, others) if has]


async def _is_in_order(router: Database) -> bool:
    try:
        present, newest = await router.revisions()
        return present == newest and not await missing_rights(router)
    except (DBAPIError, Unavailable, *LOSSES):
        return False  # it may not even read the revision, or it is gone: whoever migrates says why


async def _rights(router: Database, wanted: Mapping[str, tuple[str, ...]]) -> list[tuple[str, str, bool]]:
    pairs = [(table, right) for table, rights in wanted.items() for right in rights]
    parameters = {"tables": [table for table, _ in pairs], "privileges": [right for _, right in pairs]}
    return [(row[0], row[1], row[2]) for row in await _ask(router, _HAS, **parameters)]


async def _ask(database: Database, query: Any, **parameters: object) -> list[tuple[Any, ...]]:
    async with database.reading() as connection:
        return [tuple(row) for row in await connection.execute(query, parameters)]


def _grant(connection: Connection, role: str) -> None:
    """Give the router's role what it needs and take the rest, in the transaction of the migration."""
    if role == connection.scalar(text("SELECT CAST(current_user AS text)")):
        return
    if owned := connection.scalars(_OWNED, {"tables": list(PRIVILEGES), "role": role}).all():
        raise ConfigurationError(
            f"the router's role owns the tables itself, {owned[0]} for one: no grant can bound what an owner does",
            "as a superuser, in this database: REASSIGN OWNED BY router_role TO owner_role",
        )
    for table, rights in PRIVILEGES.items():
        for words in ("REVOKE ALL ON TABLE %I FROM %I", f"GRANT {', '.join(rights)} ON TABLE %I TO %I"):
            # Names are quoted by the server itself: a role may be called anything.
            query = text("SELECT format(:words, CAST(:table AS text), CAST(:role AS text))")
            statement = connection.scalar(query, {"words": words, "table": table, "role": role})
            connection.exec_driver_sql(str(statement))
