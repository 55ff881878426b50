"""The first schema: names, users, sessions, contact requests, messages, keys of the nodes.

Written out in SQL, and never edited once released: the live tables in schema.py will move on.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("secrets", "token_keys", "messages", "contact_requests", "sessions", "retired_ecdh_keys", "users", "names")

STATEMENTS = (
    """
    CREATE TABLE names (
        name_key text COLLATE "C" CONSTRAINT names_pkey PRIMARY KEY,
        CONSTRAINT names_shape_check CHECK (name_key ~ '^[a-z0-9_]{3,50}$')
    )
    """,
    """
    CREATE TABLE users (
        id uuid DEFAULT gen_random_uuid() CONSTRAINT users_pkey PRIMARY KEY,
        name text NOT NULL,
        name_key text COLLATE "C" NOT NULL
            CONSTRAINT users_name_key_key UNIQUE
            CONSTRAINT users_name_key_fkey REFERENCES names (name_key),
        ecdsa_public_key bytea NOT NULL,
        ecdh_public_key bytea NOT NULL,
        ecdh_signature bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        contacts_version bigint NOT NULL DEFAULT 0,
        contacts_told bigint NOT NULL DEFAULT 0,
        CONSTRAINT users_name_key_check CHECK (name_key = lower(name)),
        CONSTRAINT users_key_length_check
            CHECK (octet_length(ecdsa_public_key) = 120 AND octet_length(ecdh_public_key) = 120),
        CONSTRAINT users_keys_differ_check CHECK (ecdsa_public_key <> ecdh_public_key)
    )
    """,
    """
    CREATE TABLE retired_ecdh_keys (
        user_id uuid NOT NULL CONSTRAINT retired_ecdh_keys_user_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        fingerprint bytea NOT NULL,
        CONSTRAINT retired_ecdh_keys_pkey PRIMARY KEY (user_id, fingerprint)
    )
    """,
    """
    CREATE TABLE sessions (
        id uuid CONSTRAINT sessions_pkey PRIMARY KEY,
        user_id uuid NOT NULL CONSTRAINT sessions_user_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        expires_at timestamptz NOT NULL,
        contacts_seen bigint NOT NULL
    )
    """,
    "CREATE INDEX sessions_user_id_idx ON sessions (user_id)",
    """
    CREATE TABLE contact_requests (
        id uuid DEFAULT gen_random_uuid() CONSTRAINT contact_requests_pkey PRIMARY KEY,
        sender_id uuid NOT NULL CONSTRAINT contact_requests_sender_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        receiver_id uuid NOT NULL CONSTRAINT contact_requests_receiver_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        status text NOT NULL DEFAULT 'pending',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT contact_requests_not_self_check CHECK (sender_id <> receiver_id),
        CONSTRAINT contact_requests_status_check CHECK (status IN ('pending', 'accepted', 'rejected'))
    )
    """,
    """
    CREATE UNIQUE INDEX contact_requests_pair_key
        ON contact_requests (LEAST(sender_id, receiver_id), GREATEST(sender_id, receiver_id))
    """,
    "CREATE INDEX contact_requests_sender_id_idx ON contact_requests (sender_id)",
    "CREATE INDEX contact_requests_receiver_id_idx ON contact_requests (receiver_id)",
    """
    CREATE TABLE messages (
        id uuid DEFAULT uuidv7() CONSTRAINT messages_pkey PRIMARY KEY,
        sender_id uuid NOT NULL CONSTRAINT messages_sender_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        recipient_id uuid CONSTRAINT messages_recipient_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        message bytea,
        client_message_id uuid,
        "timestamp" timestamptz NOT NULL DEFAULT now(),
        is_delivered boolean NOT NULL DEFAULT false,
        receipt_due boolean NOT NULL DEFAULT false,
        CONSTRAINT messages_erased_check CHECK (
            CASE WHEN is_delivered THEN message IS NULL AND recipient_id IS NULL
            ELSE message IS NOT NULL AND recipient_id IS NOT NULL AND NOT receipt_due END
        ),
        CONSTRAINT messages_size_check CHECK (octet_length(message) BETWEEN 1 AND 65536)
    )
    """,
    "CREATE UNIQUE INDEX messages_sender_client_key ON messages (sender_id, client_message_id)",
    "CREATE INDEX messages_inbox_idx ON messages (recipient_id, id) WHERE recipient_id IS NOT NULL",
    "CREATE INDEX messages_receipt_idx ON messages (sender_id) WHERE receipt_due",
    # Ciphertext does not compress: trying costs time, and gives nothing.
    "ALTER TABLE messages ALTER COLUMN message SET STORAGE EXTERNAL",
    """
    CREATE TABLE token_keys (
        id text CONSTRAINT token_keys_pkey PRIMARY KEY,
        public_key bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE TABLE secrets (name text CONSTRAINT secrets_pkey PRIMARY KEY, value bytea NOT NULL)",
    # 244 random bits from the server's strong generator, hashed to a key of 32 bytes.
    """
    INSERT INTO secrets
    VALUES ('pseudonyms', sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"DROP TABLE {table}")
