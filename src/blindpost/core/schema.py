"""The tables. Constraints do the guarding: what must not be is refused here, whatever the code above does.

`names` outlives `users`: a name is claimed once and for ever, so that nobody can take a deleted person's name
and be mistaken for them.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
    }
)

ASCII_ORDER = "C"
NOW = func.now()
WAITS = "claimed_on IS NULL"


def _user(name: str) -> Column[object]:
    return Column(name, Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False)


def _owner() -> Column[object]:
    """Whose a row is, as the beginning of its key."""
    cascade = ForeignKey("users.id", ondelete="CASCADE")
    return Column("user_id", Uuid, cascade, primary_key=True, nullable=False, autoincrement=False)


def _time(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=NOW)


names = Table(
    "names",
    metadata,
    Column("name_key", Text(collation=ASCII_ORDER), primary_key=True),
    CheckConstraint("name_key ~ '^[a-z0-9_]{3,50}$'", name="shape"),
)
"""Every name ever claimed, in lower case."""

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("name", Text, nullable=False),
    Column("name_key", Text(collation=ASCII_ORDER), ForeignKey("names.name_key"), nullable=False, unique=True),
    Column("ecdsa_public_key", LargeBinary, nullable=False),
    Column("ecdh_public_key", LargeBinary, nullable=False),
    Column("ecdh_signature", LargeBinary, nullable=False),
    _time("created_at"),
    Column("contacts_version", BigInteger, nullable=False, server_default=text("0")),
    Column("contacts_told", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("name_key = lower(name)", name="name_key"),
    CheckConstraint("octet_length(ecdsa_public_key) = 120 AND octet_length(ecdh_public_key) = 120", name="key_length"),
    CheckConstraint("ecdsa_public_key <> ecdh_public_key", name="keys_differ"),
)
"""Keys are canonical SPKI DER. Versions count changes among the contacts, so that nobody misses one."""

retired_ecdh_keys = Table(
    "retired_ecdh_keys",
    metadata,
    _owner(),
    Column("fingerprint", LargeBinary, primary_key=True),
)
"""SHA-384 of encryption keys that were replaced. Their signatures are public and stay valid: without this, whoever
has a session could bring a stolen key back."""


def _key_columns(*, nullable: bool) -> tuple[Column[object], ...]:
    return (
        Column("public_key", LargeBinary, nullable=nullable),
        Column("signature", LargeBinary, nullable=nullable),
    )


def _key_shapes() -> tuple[CheckConstraint, ...]:
    return (
        CheckConstraint("algorithm IN ('p384', 'ml-kem-1024')", name="algorithm"),
        CheckConstraint(
            "octet_length(public_key) = CASE algorithm WHEN 'p384' THEN 120 ELSE 1568 END", name="key_length"
        ),
    )


lasting_prekeys = Table(
    "lasting_prekeys",
    metadata,
    _owner(),
    Column("algorithm", Text, primary_key=True),
    Column("id", Uuid, nullable=False),
    *_key_columns(nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    *_key_shapes(),
    Index(None, "expires_at"),
)
"""Keys that many begin with, until they expire: of each algorithm one."""

one_time_prekeys = Table(
    "one_time_prekeys",
    metadata,
    _owner(),
    Column("algorithm", Text, primary_key=True),
    Column("id", Uuid, primary_key=True),
    Column("number", BigInteger, Identity(always=True), nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    *_key_columns(nullable=True),
    Column("claimed_on", Date),
    *_key_shapes(),
    CheckConstraint("octet_length(fingerprint) = 48", name="fingerprint_length"),
    CheckConstraint(
        "(claimed_on IS NULL) = (public_key IS NOT NULL) AND (claimed_on IS NULL) = (signature IS NOT NULL)",
        name="claimed",
    ),
    Index("one_time_prekeys_fingerprint_key", "user_id", "fingerprint", unique=True),
    Index("one_time_prekeys_waiting_idx", "user_id", "algorithm", "number", postgresql_where=text(WAITS)),
    Index("one_time_prekeys_claimed_idx", "claimed_on", postgresql_where=text("claimed_on IS NOT NULL")),
)
"""Keys that one begins with, in the order of their numbers. A claim takes key and signature out, and leaves the id and
the SHA-384 of the key for a while: what is published once more is not given once more."""

prekey_claims = Table(
    "prekey_claims",
    metadata,
    _owner(),
    Column(
        "claimant_id",
        Uuid,
        ForeignKey("users.id", ondelete="CASCADE"),
        primary_key=True,
        nullable=False,
        autoincrement=False,
    ),
    Column("day", Date, nullable=False),
    Column("count", Integer, nullable=False),
    Index(None, "claimant_id"),
    Index(None, "day"),
)
"""How often one claimed the keys of another on the last day on which they did."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    _user("user_id"),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("contacts_seen", BigInteger, nullable=False),
    _time("created_at"),
    Index(None, "user_id"),
    Index(None, "expires_at"),
)
"""The truth about who is logged in; Redis only remembers it for a minute."""

contact_requests = Table(
    "contact_requests",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    _user("sender_id"),
    _user("receiver_id"),
    Column("status", Text, nullable=False, server_default=text("'pending'")),
    _time("created_at"),
    _time("updated_at"),
    CheckConstraint("sender_id <> receiver_id", name="not_self"),
    CheckConstraint("status IN ('pending', 'accepted', 'rejected')", name="status"),
    Index(
        "contact_requests_pair_key",
        text("LEAST(sender_id, receiver_id)"),
        text("GREATEST(sender_id, receiver_id)"),
        unique=True,
    ),
    Index(None, "sender_id"),
    Index(None, "receiver_id"),
)
"""One row for two people, whoever asked first."""

messages = Table(
    "messages",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("uuidv7()")),
    Column("sender_id", Uuid, nullable=False),
    Column("recipient_id", Uuid, nullable=False),
    _time("timestamp"),
    Column("message", LargeBinary, nullable=False),
    CheckConstraint("octet_length(message) BETWEEN 1 AND 65536", name="size"),
    Index("messages_inbox_idx", "recipient_id", "id"),
)
"""What waits. An acknowledgement deletes the row: neither ciphertext nor recipient stays. There are no foreign keys,
which cost as much as all the rest of storing: the writer locks what lets the two write to each other."""

traces = Table(
    "traces",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("sender_id", Uuid, nullable=False),
    Column("client_message_id", Uuid),
    _time("timestamp"),
    Column("expired_at", DateTime(timezone=True)),
    Index("traces_sender_client_key", "sender_id", "client_message_id", unique=True),
)
"""What is remembered of every message while it waits and for the retry window: a repeat is answered from it, and
stored once. `expired_at` is when a message went because nobody had acknowledged it."""

receipts = Table(
    "receipts",
    metadata,
    Column("sender_id", Uuid, primary_key=True, autoincrement=False),
    Column("message_id", Uuid, primary_key=True, autoincrement=False),
)
"""Deliveries that the sender was not told of."""

token_keys = Table(
    "token_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    _time("created_at"),
    Column("retires_at", DateTime(timezone=True)),
)
"""Public halves of the keys that the nodes sign tokens with; the private halves never leave their nodes."""

pseudonym_keys = Table(
    "pseudonym_keys",
    metadata,
    Column("day", Date, primary_key=True, autoincrement=False),
    Column("key", LargeBinary, nullable=False),
    CheckConstraint("octet_length(key) = 32", name="key_length"),
)
"""The key of each day's pseudonyms, deleted a day later: from then on nobody can tell whose they were."""

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("event", Text, nullable=False),
    Column("subject", LargeBinary),
    Column("address", LargeBinary),
    Column("count", BigInteger, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    CheckConstraint("event ~ '^[a-z_]{1,40}$'", name="event"),
    CheckConstraint("octet_length(subject) = 16 AND octet_length(address) = 16", name="pseudonyms"),
    CheckConstraint("octet_length(previous) = 32 AND octet_length(hash) = 32", name="hashes"),
    CheckConstraint("count > 0", name="count"),
)
"""Security events, each chained to the one before it by its hash. Triggers refuse to change a row, to delete one
that is younger than a week, and to truncate. Who and from where are pseudonyms of the day; times are whole hours."""
