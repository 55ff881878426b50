"""A message that waits is a row that goes when it is acknowledged; what is remembered of it is a row of its own.

Before, an acknowledgement changed the message's row, and each change of a row writes all its indexes again. Foreign
keys went too: they looked up and locked both users for every message, at half of what storing one costs. The writer
locks the contact instead, and a deletion removes messages by itself (docs/decisions/0013-storing-cheaply.md).
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UP = (
    "ALTER TABLE messages RENAME TO before",
    # The names are wanted for the new table.
    """
    ALTER TABLE before DROP CONSTRAINT messages_pkey,
        ALTER id DROP NOT NULL, ALTER sender_id DROP NOT NULL, ALTER timestamp DROP NOT NULL
    """,
    "DROP INDEX messages_inbox_idx",
    """
    CREATE TABLE traces (
        id uuid NOT NULL,
        sender_id uuid NOT NULL,
        client_message_id uuid,
        timestamp timestamptz NOT NULL DEFAULT now()
    )
    """,
    "INSERT INTO traces SELECT id, sender_id, client_message_id, timestamp FROM before ORDER BY id",
    "ALTER TABLE traces ADD CONSTRAINT traces_pkey PRIMARY KEY (id)",
    "CREATE UNIQUE INDEX traces_sender_client_key ON traces (sender_id, client_message_id)",
    """
    CREATE TABLE receipts (
        sender_id uuid NOT NULL,
        message_id uuid NOT NULL,
        CONSTRAINT receipts_pkey PRIMARY KEY (sender_id, message_id)
    )
    """,
    "INSERT INTO receipts SELECT sender_id, id FROM before WHERE receipt_due",
    """
    CREATE TABLE messages (
        id uuid NOT NULL DEFAULT uuidv7(),
        sender_id uuid NOT NULL,
        recipient_id uuid NOT NULL,
        timestamp timestamptz NOT NULL DEFAULT now(),
        message bytea NOT NULL,
        CONSTRAINT messages_size_check CHECK (octet_length(message) BETWEEN 1 AND 65536)
    )
    """,
    # Ciphertext does not compress: trying costs time, and gives nothing.
    "ALTER TABLE messages ALTER COLUMN message SET STORAGE EXTERNAL",
    """
    INSERT INTO messages SELECT id, sender_id, recipient_id, timestamp, message FROM before
    WHERE NOT is_delivered ORDER BY id
    """,
    "ALTER TABLE messages ADD CONSTRAINT messages_pkey PRIMARY KEY (id)",
    "CREATE INDEX messages_inbox_idx ON messages (recipient_id, id)",
    "DROP TABLE before",
)

DOWN = (
    "ALTER TABLE messages RENAME TO waiting",
    """
    ALTER TABLE waiting DROP CONSTRAINT messages_pkey,
        ALTER id DROP NOT NULL, ALTER sender_id DROP NOT NULL, ALTER timestamp DROP NOT NULL
    """,
    "DROP INDEX messages_inbox_idx",
    """
    CREATE TABLE messages (
        id uuid DEFAULT uuidv7() CONSTRAINT messages_pkey PRIMARY KEY,
        sender_id uuid NOT NULL CONSTRAINT messages_sender_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        recipient_id uuid CONSTRAINT messages_recipient_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        message bytea,
        client_message_id uuid,
        timestamp timestamptz NOT NULL DEFAULT now(),
        is_delivered boolean NOT NULL DEFAULT false,
        receipt_due boolean NOT NULL DEFAULT false,
        CONSTRAINT messages_erased_check CHECK (
            CASE WHEN is_delivered THEN message IS NULL AND recipient_id IS NULL
            ELSE message IS NOT NULL AND recipient_id IS NOT NULL AND NOT receipt_due END
        ),
        CONSTRAINT messages_size_check CHECK (octet_length(message) BETWEEN 1 AND 65536)
    )
    """,
    "ALTER TABLE messages ALTER COLUMN message SET STORAGE EXTERNAL",
    """
    INSERT INTO messages
    SELECT t.id, t.sender_id, w.recipient_id, w.message, t.client_message_id, t.timestamp, w.id IS NULL,
        w.id IS NULL AND r.message_id IS NOT NULL
    FROM traces t LEFT JOIN waiting w ON w.id = t.id
    LEFT JOIN receipts r ON r.sender_id = t.sender_id AND r.message_id = t.id
    ORDER BY t.id
    """,
    "CREATE UNIQUE INDEX messages_sender_client_key ON messages (sender_id, client_message_id)",
    "CREATE INDEX messages_inbox_idx ON messages (recipient_id, id) WHERE recipient_id IS NOT NULL",
    "CREATE INDEX messages_receipt_idx ON messages (sender_id) WHERE receipt_due",
    "DROP TABLE waiting",
    "DROP TABLE receipts",
    "DROP TABLE traces",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
