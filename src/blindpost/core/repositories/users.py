"""Users, their names and keys, and their sessions."""

from collections.abc import Iterable
from datetime import datetime
from hashlib import sha384
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    Uuid,
    any_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import CollectionAggregate

from blindpost.core.schema import names, retired_ecdh_keys, sessions, users


class User(NamedTuple):
    """A row of `users`; keys are canonical SPKI DER."""

    id: UUID
    name: str
    ecdsa_public_key: bytes
    ecdh_public_key: bytes
    ecdh_signature: bytes
    created_at: datetime


class Session(NamedTuple):
    """A row of `sessions`."""

    id: UUID
    created_at: datetime
    expires_at: datetime


class NewUser(NamedTuple):
    """What a registration gives."""

    name: str
    ecdsa_public_key: bytes
    ecdh_public_key: bytes
    ecdh_signature: bytes


_USER = select(*(users.c[field] for field in User._fields))


async def claim_name(tx: AsyncConnection, name: str) -> bool:
    """Claim a name for ever; false if it is, or was, somebody's."""
    statement = upsert(names).values(name_key=name.lower()).on_conflict_do_nothing().returning(names.c.name_key)
    return (await tx.execute(statement)).first() is not None


async def add(tx: AsyncConnection, user: NewUser) -> UUID:
    """Insert a user whose name is claimed; returns the new id."""
    row = {**user._asdict(), "name_key": user.name.lower()}
    user_id: UUID = (await tx.execute(insert(users).values(row).returning(users.c.id))).scalar_one()
    return user_id


async def by_id(tx: AsyncConnection, user_id: UUID) -> User | None:
    return await _one(tx, users.c.id == user_id)


def _by_name_or_statement() -> Select[Any]:
    """Read a user, or else the row that was given: either way one row of the same size comes back."""
    given = select(*(bindparam(field, type_=users.c[field].type).label(field) for field in User._fields)).subquery()
    found = given.outerjoin(users, users.c.name_key == bindparam("name_key"))
    fields = (func.coalesce(users.c[field], given.c[field]).label(field) for field in User._fields)
    return select(*fields, users.c.id.is_not(None).label("is_known")).select_from(found)


_BY_NAME_OR: Final = _by_name_or_statement()


async def by_name(tx: AsyncConnection, name: str) -> User | None:
    return await _one(tx, users.c.name_key == name.lower())


async def by_name_or(tx: AsyncConnection, name: str, otherwise: User) -> tuple[User, bool]:
    """Return the user of a name and True, or `otherwise` and False, at the same cost."""
    row = (await tx.execute(_BY_NAME_OR, {**otherwise._asdict(), "name_key": name.lower()})).one()
    return User(*row[:-1]), row.is_known


async def lock(tx: AsyncConnection, user_ids: Iterable[UUID]) -> dict[UUID, User]:
    """Read users, and keep others from changing them or logging in as them until the transaction ends.

    In the order of the ids, so that two transactions never wait for each other. Messages to and from them still
    pass: a foreign key's check takes a weaker lock, which this one lets be.
    """
    statement = _USER.where(users.c.id == _any(user_ids)).order_by(users.c.id).with_for_update(key_share=True)
    return {row.id: User(*row) for row in await tx.execute(statement)}


async def _one(tx: AsyncConnection, condition: ColumnElement[bool]) -> User | None:
    row = (await tx.execute(_USER.where(condition))).first()
    return User(*row) if row else None


def _any(ids: Iterable[UUID]) -> CollectionAggregate[bool]:
    """One array, however many: a list of parameters ends at 32,767."""
    return any_(literal(list(ids), ARRAY(Uuid)))


async def set_ecdsa_key(tx: AsyncConnection, user_id: UUID, key: bytes, ecdh_signature: bytes) -> None:
    values = {"ecdsa_public_key": key, "ecdh_signature": ecdh_signature}
    await tx.execute(update(users).where(users.c.id == user_id).values(values))


async def set_ecdh_key(tx: AsyncConnection, user_id: UUID, key: bytes, ecdh_signature: bytes) -> None:
    values = {"ecdh_public_key": key, "ecdh_signature": ecdh_signature}
    await tx.execute(update(users).where(users.c.id == user_id).values(values))


async def retire_ecdh_key(tx: AsyncConnection, user_id: UUID, key: bytes) -> None:
    """Remember a replaced key by its SHA-384."""
    row = {"user_id": user_id, "fingerprint": sha384(key).digest()}
    await tx.execute(upsert(retired_ecdh_keys).values(row).on_conflict_do_nothing())


async def is_retired_ecdh_key(tx: AsyncConnection, user_id: UUID, key: bytes) -> bool:
    fingerprints = retired_ecdh_keys.c
    statement = select(fingerprints.user_id).where(
        fingerprints.user_id == user_id, fingerprints.fingerprint == sha384(key).digest()
    )
    return (await tx.execute(statement)).first() is not None


async def remove(tx: AsyncConnection, user_id: UUID) -> None:
    """Delete a user and, by cascade, everything of theirs but messages. The claim on the name stays."""
    await tx.execute(delete(users).where(users.c.id == user_id))


async def touch_contacts(tx: AsyncConnection, user_ids: Iterable[UUID]) -> None:
    """Count a change among the contacts of these users, whom the caller has locked."""
    statement = update(users).where(users.c.id == _any(user_ids))
    await tx.execute(statement.values(contacts_version=users.c.contacts_version + 1))


async def touch_all_contacts(tx: AsyncConnection) -> None:
    """Count a change for everybody that nobody was told of yet: sessions begin with what was told before."""
    newer = func.greatest(users.c.contacts_version, users.c.contacts_told) + 1
    await tx.execute(update(users).values(contacts_version=newer))


async def open_session(
    tx: AsyncConnection, session_id: UUID, user_id: UUID, ecdsa_public_key: bytes, lifetime_s: int
) -> bool:
    """Insert a session, if the key that was checked is the user's still; false if not.

    The share lock makes a concurrent rotation wait: either it ends this session too, or this finds the new key.
    """
    expires = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, lifetime_s)
    user = (
        select(literal(session_id, sessions.c.id.type), users.c.id, expires, users.c.contacts_told)
        .where(users.c.id == user_id, users.c.ecdsa_public_key == ecdsa_public_key)
        .with_for_update(read=True)
    )
    columns = ["id", "user_id", "expires_at", "contacts_seen"]
    statement = insert(sessions).from_select(columns, user).returning(sessions.c.id)
    opened = (await tx.execute(statement)).first() is not None
    await tx.execute(delete(sessions).where(sessions.c.user_id == user_id, sessions.c.expires_at < func.now()))
    return opened


async def session_is_open(tx: AsyncConnection, session_id: UUID, user_id: UUID) -> bool:
    statement = select(sessions.c.id).where(
        sessions.c.id == session_id, sessions.c.user_id == user_id, sessions.c.expires_at > func.now()
    )
    return (await tx.execute(statement)).first() is not None


async def sessions_of(tx: AsyncConnection, user_id: UUID) -> list[Session]:
    """Read the sessions that are open, the oldest first."""
    statement = select(*(sessions.c[field] for field in Session._fields))
    statement = statement.where(sessions.c.user_id == user_id, sessions.c.expires_at > func.now())
    return [Session(*row) for row in await tx.execute(statement.order_by(sessions.c.created_at, sessions.c.id))]


async def sessions_beyond(tx: AsyncConnection, user_id: UUID, most: int) -> list[UUID]:
    """Read which sessions of a user are more than they may have: the oldest."""
    newest = select(sessions.c.id).where(sessions.c.user_id == user_id)
    newest = newest.order_by(sessions.c.created_at.desc(), sessions.c.id).offset(most)
    return list((await tx.execute(newest)).scalars())


async def purge_sessions(tx: AsyncConnection, limit: int) -> int:
    """Delete sessions that expired; returns how many, at most `limit`."""
    over = select(sessions.c.id).where(sessions.c.expires_at < func.now()).limit(limit)
    over = over.with_for_update(skip_locked=True)
    return (await tx.execute(delete(sessions).where(sessions.c.id.in_(over)))).rowcount


async def end_sessions(tx: AsyncConnection, session_ids: Iterable[UUID]) -> None:
    await tx.execute(delete(sessions).where(sessions.c.id == _any(session_ids)))
