"""The router's own role: it does the whole job, and can do nothing else."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from blindpost.app import open_components
from blindpost.core import privileges
from blindpost.core.audit import Audit, Event
from blindpost.core.database import Database
from blindpost.core.embedded import StoreUrls
from blindpost.core.privileges import PRIVILEGES, bring_to_head, migrate, missing_rights, superfluous_rights
from blindpost.core.repositories import housekeeping, token_keys
from blindpost.core.schema import metadata
from blindpost.errors import ConfigurationError, StartError
from blindpost.services.housekeeping import kinds
from blindpost.telemetry import FAULTS
from checks import client_of
from fault.servers import Handmade
from stores.conftest import Roles, execute
from support import running_in_thread, settings_for
from whole_job import whole_job


def database(url: str) -> Database:
    return Database(url, pool_size=1)


async def migrated(roles: Roles) -> None:
    async with database(roles.router_url) as router:
        await migrate(router, SecretStr(roles.owner_url))


def test_every_table_has_its_privileges() -> None:
    """A new table needs a line there, or a router of least privilege cannot use it."""
    assert set(PRIVILEGES) == {*metadata.tables, "alembic_version"}


async def test_a_role_that_owns_nothing_does_the_whole_job(roles: Roles, tmp_path: Path) -> None:
    await migrated(roles)
    with running_in_thread(settings_for(roles.stores, tmp_path, rate_limits="on")) as router:
        async with client_of(router) as http:
            await whole_job(http)


REFUSED = (
    "DROP TABLE users",
    "CREATE TABLE mine (x int)",
    "ALTER TABLE audit DISABLE TRIGGER audit_rows",
    "ALTER TABLE messages ADD COLUMN note text",
    "DROP FUNCTION audit_is_append_only CASCADE",
    "UPDATE audit SET event = 'x'",
    "TRUNCATE audit",
    "TRUNCATE messages CASCADE",
    "DELETE FROM names",
    "UPDATE names SET name_key = 'x'",
    "UPDATE alembic_version SET version_num = 'x'",
    "DELETE FROM alembic_version",
    "UPDATE pseudonym_keys SET key = ''",
    "DELETE FROM retired_ecdh_keys",
    "CREATE TRIGGER t BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION audit_is_append_only()",
    "CREATE ROLE more",
    "CREATE DATABASE more",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "ALTER SYSTEM SET fsync = off",
)


@pytest.mark.parametrize("statement", REFUSED)
async def test_it_is_refused_everything_else(roles: Roles, statement: str) -> None:
    await migrated(roles)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(roles.router_url, statement)


async def test_it_has_exactly_what_it_needs_whatever_it_was_given_before(roles: Roles) -> None:
    await migrated(roles)
    await execute(
        roles.owner_url,
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {roles.router}",
        f"GRANT UPDATE (event) ON audit TO {roles.router}",
        f"REVOKE SELECT ON users FROM {roles.router}",
    )
    async with database(roles.router_url) as router:
        assert {"UPDATE on audit", "DELETE on names"} <= set(await superfluous_rights(router))
        assert await missing_rights(router) == ["SELECT on users"]
        await migrate(router, SecretStr(roles.owner_url))
        assert await superfluous_rights(router) == []
        assert await missing_rights(router) == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(roles.router_url, "UPDATE audit SET event = 'x'")


async def test_the_audit_may_expire_under_this_role_and_not_before_a_week(roles: Roles) -> None:
    await migrated(roles)
    row = "INSERT INTO audit VALUES ({}, now() - interval '{} days', 'login', NULL, NULL, 1, {h}, {h})"
    zeros = "decode(repeat('00', 32), 'hex')"
    await execute(roles.router_url, row.format(1, 8, h=zeros), row.format(2, 6, h=zeros))
    await execute(roles.router_url, "DELETE FROM audit WHERE id = 1")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(roles.router_url, "DELETE FROM audit WHERE id = 2")


# Who migrates


async def test_serve_migrates_where_it_is_given_the_owner_and_needs_it_no_more_afterwards(
    roles: Roles, tmp_path: Path
) -> None:
    with running_in_thread(settings_for(roles.stores, tmp_path, migration_database_url=roles.owner_url)):
        pass
    nobody = "postgresql://nobody@127.0.0.1:1/none"
    with running_in_thread(settings_for(roles.stores, tmp_path, migration_database_url=nobody)):
        pass  # at head: it is not even asked


async def test_nodes_that_start_at_once_as_the_owner_all_run(roles: Roles, tmp_path: Path) -> None:
    def start(name: str) -> None:
        with running_in_thread(settings_for(roles.stores, tmp_path / name, migration_database_url=roles.owner_url)):
            pass

    await asyncio.gather(*(asyncio.to_thread(start, str(number)) for number in range(3)))


async def test_where_it_may_not_migrate_the_start_names_the_command(roles: Roles, tmp_path: Path) -> None:
    for prepare in ((), ("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",)):
        if prepare:
            await execute(roles.owner_url, *prepare)
        with pytest.raises(StartError) as caught, running_in_thread(settings_for(roles.stores, tmp_path)):
            pass
        assert "blindpost migrate" in caught.value.hint
        assert "BLINDPOST_MIGRATION_DATABASE_URL" in caught.value.hint


async def test_a_right_that_is_missing_is_named_at_the_start(roles: Roles, tmp_path: Path) -> None:
    await migrated(roles)
    await execute(roles.owner_url, f"REVOKE INSERT ON messages FROM {roles.router}")
    settings = settings_for(roles.stores, tmp_path)
    with pytest.raises(StartError, match="INSERT on messages") as caught, running_in_thread(settings):
        pass
    assert "blindpost migrate" in caught.value.hint


async def test_a_newer_schema_is_said_to_be_newer(roles: Roles, tmp_path: Path) -> None:
    await migrated(roles)
    await execute(roles.owner_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartError, match="newer"), running_in_thread(settings_for(roles.stores, tmp_path)):
        pass


async def test_one_role_for_both_goes_on_as_before(servers: Handmade, roles: Roles, tmp_path: Path) -> None:
    stores = StoreUrls(roles.owner_url, servers.redis.url)
    for owner_url in (None, roles.owner_url):
        with running_in_thread(settings_for(stores, tmp_path, migration_database_url=owner_url)):
            pass
    async with database(roles.owner_url) as router:
        assert "DELETE on names" in await superfluous_rights(router)


async def test_a_router_that_owns_the_tables_itself_is_not_believed_to_be_bounded(roles: Roles) -> None:
    async with database(roles.owner_url) as router:
        await bring_to_head(router, None)
        with pytest.raises(ConfigurationError, match="owns the tables") as caught:
            await migrate(router, SecretStr(roles.superuser_url))
    assert "REASSIGN OWNED" in caught.value.hint


async def test_two_urls_of_different_databases_are_refused(servers: Handmade, roles: Roles) -> None:
    async with database(roles.router_url) as router:
        with pytest.raises(ConfigurationError, match="different databases"):
            await migrate(router, SecretStr(servers.postgres.url))
    assert not await execute(servers.postgres.url, "SELECT to_regclass('public.users')")


async def test_down_to_nothing_as_the_owner_needs_no_grant(roles: Roles) -> None:
    async with database(roles.router_url) as router:
        _, head = await migrate(router, SecretStr(roles.owner_url))
        assert await migrate(router, SecretStr(roles.owner_url), "base") == (head, None)
        assert await migrate(router, SecretStr(roles.owner_url)) == (None, head)


async def test_a_fault_in_a_grant_undoes_the_migration_too(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "PRIVILEGES", {**PRIVILEGES, "no_such_table": ("SELECT",)})
    async with database(roles.router_url) as router:
        with pytest.raises(StartError):
            await migrate(router, SecretStr(roles.owner_url))
    assert not await execute(roles.owner_url, "SELECT to_regclass('public.users')")


async def test_what_runs_behind_the_requests_may_do_its_work_too(roles: Roles, tmp_path: Path) -> None:
    """Its faults are logged and not answered, so a right that is missing there would show nowhere else."""
    await migrated(roles)
    before = faults()
    settings = settings_for(roles.stores, tmp_path)
    async with open_components(settings) as container:
        audit, router = await container.get(Audit), await container.get(Database)
        audit.note(Event.LIMIT_HIT)
        async with router.transaction() as tx:
            await token_keys.retire(tx, {"0" * 32: 0})
            await token_keys.believed(tx)
        for begin in kinds(0, 0).values():
            async with router.transaction() as tx:
                await housekeeping.begin(tx)
                await begin()(tx)
        await audit.expire()
    assert await execute(roles.owner_url, "SELECT count(*) FROM audit") >= 1
    assert faults() == before


def faults() -> float:
    return sum(sample.value for metric in FAULTS.collect() for sample in metric.samples if "total" in sample.name)
