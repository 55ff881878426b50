"""A PostgreSQL that is killed takes no event along, and leaves the chain whole."""

import asyncio
from pathlib import Path

from blindpost.core.audit import Audit, Event, read_heads, verify
from blindpost.core.database import Database
from blindpost.core.pseudonyms import Pseudonyms
from blindpost.core.repositories import audit as repository
from fault.servers import Handmade, eventually, fresh_database

KILLS = 3
NOTES = 40


async def test_every_event_around_a_kill_of_postgresql_is_written_once(servers: Handmade, tmp_path: Path) -> None:
    urls = await fresh_database(servers.urls)
    async with Database(str(urls.database_url), pool_size=2) as database:
        await database.migrate()
        audit = Audit(database, Pseudonyms(database), tmp_path, 90, interval_s=0.01)
        running = asyncio.create_task(audit.run())
        for kill in range(KILLS):
            for number in range(NOTES):
                audit.note(Event.SESSIONS_ENDED, subject=str(number))
                await asyncio.sleep(0.001)
                if number == NOTES // 2 + kill:
                    await asyncio.to_thread(servers.postgres.kill)
            await asyncio.to_thread(servers.up)

        async def all_is_written() -> bool:
            async with database.reading() as connection:
                rows = await repository.after(connection, None, 1_000)
            return sum(row.count for row in rows) == KILLS * NOTES

        await eventually(all_is_written)
        audit.close()
        await running
        assert await all_is_written()
        walk = await verify(database, read_heads(tmp_path))
        assert walk.faults == []
