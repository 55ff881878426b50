"""Who keeps house: one process at a time, of all nodes."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

LOCK: Final = 0x7075726765
"""An advisory lock. Each of several processes would look at the same rows, in vain."""

# A batch is looked up by its keys, always: while a table is small, or its statistics are old, PostgreSQL would rather
# read all of it for each batch.
BEGIN: Final = text("""
SELECT pg_try_advisory_xact_lock(:key), set_config('enable_hashjoin', 'off', true),
    set_config('enable_mergejoin', 'off', true)
""")


async def begin(tx: AsyncConnection) -> bool:
    """Take the lock until the transaction ends; false if another process has it."""
    return bool(await tx.scalar(BEGIN, {"key": LOCK}))
