"""Sessions that can be listed, token keys that retire, pseudonyms of a day, the audit chain."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UP = (
    "ALTER TABLE sessions ADD COLUMN created_at timestamptz NOT NULL DEFAULT now()",
    "ALTER TABLE token_keys ADD COLUMN retires_at timestamptz",
    "DROP TABLE secrets",
    """
    CREATE TABLE pseudonym_keys (
        day date CONSTRAINT pseudonym_keys_pkey PRIMARY KEY,
        key bytea NOT NULL,
        CONSTRAINT pseudonym_keys_key_length_check CHECK (octet_length(key) = 32)
    )
    """,
    """
    CREATE TABLE audit (
        id bigint CONSTRAINT audit_pkey PRIMARY KEY,
        at timestamptz NOT NULL,
        event text NOT NULL,
        subject bytea,
        address bytea,
        count bigint NOT NULL,
        previous bytea NOT NULL,
        hash bytea NOT NULL,
        CONSTRAINT audit_event_check CHECK (event ~ '^[a-z_]{1,40}$'),
        CONSTRAINT audit_pseudonyms_check CHECK (octet_length(subject) = 16 AND octet_length(address) = 16),
        CONSTRAINT audit_hashes_check CHECK (octet_length(previous) = 32 AND octet_length(hash) = 32),
        CONSTRAINT audit_count_check CHECK (count > 0)
    )
    """,
    # Whoever owns the table can drop the triggers; the router's own role, if it is not the owner, cannot.
    """
    CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            IF OLD.at < now() - interval '7 days' THEN
                RETURN OLD;
            END IF;
        END IF;
        RAISE EXCEPTION 'the audit is append-only' USING ERRCODE = 'insufficient_privilege';
    END
    $$
    """,
    """
    CREATE TRIGGER audit_rows BEFORE UPDATE OR DELETE ON audit
        FOR EACH ROW EXECUTE FUNCTION audit_is_append_only()
    """,
    """
    CREATE TRIGGER audit_table BEFORE TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()
    """,
)

DOWN = (
    "DROP TABLE audit",
    "DROP FUNCTION audit_is_append_only",
    "DROP TABLE pseudonym_keys",
    "CREATE TABLE secrets (name text CONSTRAINT secrets_pkey PRIMARY KEY, value bytea NOT NULL)",
    """
    INSERT INTO secrets
    VALUES ('pseudonyms', sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))
    """,
    "ALTER TABLE token_keys DROP COLUMN retires_at",
    "ALTER TABLE sessions DROP COLUMN created_at",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
