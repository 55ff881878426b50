"""Keys to begin sessions with: those that last, those for one session each, and who claimed how many today."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UP = (
    """
    CREATE TABLE lasting_prekeys (
        user_id uuid NOT NULL CONSTRAINT lasting_prekeys_user_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        algorithm text NOT NULL,
        id uuid NOT NULL,
        public_key bytea NOT NULL,
        signature bytea NOT NULL,
        expires_at timestamptz NOT NULL,
        CONSTRAINT lasting_prekeys_pkey PRIMARY KEY (user_id, algorithm),
        CONSTRAINT lasting_prekeys_algorithm_check CHECK (algorithm IN ('p384', 'ml-kem-1024')),
        CONSTRAINT lasting_prekeys_key_length_check CHECK (
            octet_length(public_key) = CASE algorithm WHEN 'p384' THEN 120 ELSE 1568 END
        )
    )
    """,
    "CREATE INDEX lasting_prekeys_expires_at_idx ON lasting_prekeys (expires_at)",
    """
    CREATE TABLE one_time_prekeys (
        user_id uuid NOT NULL CONSTRAINT one_time_prekeys_user_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        algorithm text NOT NULL,
        id uuid NOT NULL,
        number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
        fingerprint bytea NOT NULL,
        public_key bytea,
        signature bytea,
        claimed_on date,
        CONSTRAINT one_time_prekeys_pkey PRIMARY KEY (user_id, algorithm, id),
        CONSTRAINT one_time_prekeys_algorithm_check CHECK (algorithm IN ('p384', 'ml-kem-1024')),
        CONSTRAINT one_time_prekeys_key_length_check CHECK (
            octet_length(public_key) = CASE algorithm WHEN 'p384' THEN 120 ELSE 1568 END
        ),
        CONSTRAINT one_time_prekeys_fingerprint_length_check CHECK (octet_length(fingerprint) = 48),
        CONSTRAINT one_time_prekeys_claimed_check CHECK (
            (claimed_on IS NULL) = (public_key IS NOT NULL) AND (claimed_on IS NULL) = (signature IS NOT NULL)
        )
    )
    """,
    "CREATE UNIQUE INDEX one_time_prekeys_fingerprint_key ON one_time_prekeys (user_id, fingerprint)",
    """
    CREATE INDEX one_time_prekeys_waiting_idx ON one_time_prekeys (user_id, algorithm, number)
    WHERE claimed_on IS NULL
    """,
    "CREATE INDEX one_time_prekeys_claimed_idx ON one_time_prekeys (claimed_on) WHERE claimed_on IS NOT NULL",
    """
    CREATE TABLE prekey_claims (
        user_id uuid NOT NULL CONSTRAINT prekey_claims_user_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        claimant_id uuid NOT NULL CONSTRAINT prekey_claims_claimant_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        day date NOT NULL,
        count integer NOT NULL,
        CONSTRAINT prekey_claims_pkey PRIMARY KEY (user_id, claimant_id)
    )
    """,
    "CREATE INDEX prekey_claims_claimant_id_idx ON prekey_claims (claimant_id)",
    "CREATE INDEX prekey_claims_day_idx ON prekey_claims (day)",
)

DOWN = (
    "DROP TABLE prekey_claims",
    "DROP TABLE one_time_prekeys",
    "DROP TABLE lasting_prekeys",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
