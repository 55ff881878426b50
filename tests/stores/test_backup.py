"""Backup and restore where one role owns the tables and the router's own does not."""

import io
from pathlib import Path

import pytest
from pydantic import SecretStr

from blindpost.core.backup import make
from blindpost.core.backup_file import Reader
from blindpost.core.database import Database
from blindpost.core.privileges import superfluous_rights
from blindpost.core.restore import restore
from blindpost.errors import StartError
from checks import client_of
from stores.conftest import Roles, execute
from stores.test_privileges import database, migrated
from support import running_in_thread, settings_for
from whole_job import whole_job


async def backup_as(url: str) -> bytes:
    file = io.BytesIO()
    async with database(url) as router:
        await make(router, file, lambda *_: None)
    return file.getvalue()


async def put(data: bytes, router: Database, owner: SecretStr | None, *, replace: bool = False) -> None:
    await restore(router, owner, Reader(io.BytesIO(data)), lambda *_: None, replace=replace)


async def test_the_routers_own_role_is_enough_for_a_backup_and_the_owner_restores_it_for_that_role(
    roles: Roles, tmp_path: Path
) -> None:
    await migrated(roles)
    await execute(roles.owner_url, "INSERT INTO names VALUES ('taken_before')")
    data = await backup_as(roles.router_url)
    owner = SecretStr(roles.owner_url)
    async with database(roles.router_url) as router:
        await put(data, router, owner, replace=True)
        assert await superfluous_rights(router) == []
    assert await execute(roles.router_url, "SELECT name_key FROM names") == "taken_before"
    with running_in_thread(settings_for(roles.stores, tmp_path, rate_limits="on")) as router_again:
        async with client_of(router_again) as http:
            await whole_job(http)


async def test_the_routers_own_role_cannot_restore_and_is_told_which_role_can(roles: Roles) -> None:
    await migrated(roles)
    data = await backup_as(roles.router_url)
    async with database(roles.router_url) as router:
        with pytest.raises(StartError, match="may not") as caught:
            await put(data, router, None)
    assert "BLINDPOST_MIGRATION_DATABASE_URL" in caught.value.hint


async def test_one_role_for_both_restores_as_well(roles: Roles) -> None:
    async with database(roles.owner_url) as router:
        await router.migrate()
        data = await backup_as(roles.owner_url)
        await put(data, router, SecretStr(roles.owner_url))
