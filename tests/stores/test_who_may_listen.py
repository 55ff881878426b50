"""Whoever may connect to a database may LISTEN to it: the SQL that an operator is told to run lets two roles in."""

import re
import secrets
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from blindpost.core.hub import CHANNEL
from fault.servers import Handmade, connected
from stores.conftest import execute

SETTINGS = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()


async def test_the_documented_sql_lets_the_owner_and_the_router_in_and_no_other_role(servers: Handmade) -> None:
    stem = f"bp_{secrets.token_hex(6)}"
    (sql,) = re.findall(r"```sql\n(CREATE ROLE.*?)```", SETTINGS, re.DOTALL)
    statements = re.sub(r"\s*--.*", "", sql.replace("blindpost", stem)).splitlines()
    parts = urlsplit(servers.postgres.url)

    def url_of(role: str) -> str:
        return parts._replace(netloc=f"{role}@127.0.0.1:{parts.port}", path=f"/{stem}").geturl()

    async with connected(servers.postgres.url) as superuser:
        for statement in (*statements, f"CREATE ROLE {stem}_other LOGIN"):
            await superuser.execute(statement)
        try:
            for role in (stem, f"{stem}_owner"):
                await execute(url_of(role), f"LISTEN {CHANNEL}", "SELECT 1")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await execute(url_of(f"{stem}_other"), f"LISTEN {CHANNEL}", "SELECT 1")
        finally:
            await superuser.execute(f"DROP DATABASE {stem} WITH (FORCE)")
            await superuser.execute(f"DROP ROLE {stem}, {stem}_owner, {stem}_other")
