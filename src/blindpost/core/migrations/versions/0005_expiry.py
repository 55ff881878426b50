"""Messages that nobody acknowledges expire, and their traces say so; what is dead is cleaned up soon.

Autovacuum waits for 50 dead rows and a fifth of the table. On a quiet router that is days, and beside a million
messages that wait it is 200,000 rows, all of them ciphertext that was acknowledged. From now on it comes with its next
round (a minute), for ten dead rows and a hundredth of the table (docs/decisions/0019-retention.md).
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = ("messages", "receipts")
TOAST = "toast.autovacuum_vacuum_threshold = 40, toast.autovacuum_vacuum_scale_factor = 0.01"

UP = (
    # Without a default no row is written again.
    "ALTER TABLE traces ADD COLUMN expired_at timestamptz",
    "CREATE INDEX sessions_expires_at_idx ON sessions (expires_at)",
    *(
        f"ALTER TABLE {table} SET (autovacuum_vacuum_threshold = 10, autovacuum_vacuum_scale_factor = 0.01)"
        for table in TABLES
    ),
    # A large message is cut into pieces there.
    f"ALTER TABLE messages SET ({TOAST})",
)

DOWN = (
    "ALTER TABLE messages RESET (toast.autovacuum_vacuum_threshold, toast.autovacuum_vacuum_scale_factor)",
    *(f"ALTER TABLE {table} RESET (autovacuum_vacuum_threshold, autovacuum_vacuum_scale_factor)" for table in TABLES),
    "DROP INDEX sessions_expires_at_idx",
    # The traces stay: without them a repeat would be stored anew. The older program calls those messages delivered.
    "ALTER TABLE traces DROP COLUMN expired_at",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
