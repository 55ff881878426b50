"""Backups, with a real PostgreSQL: what is in one, and what a restore makes of it."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from blindpost.client import Client, Identity, LoginRefused, Store
from blindpost.client.prekeys import HINT_S
from blindpost.core.audit import verify
from blindpost.core.backup import LEFT_OUT, held, make
from blindpost.core.backup_file import Header, Manifest, Reader
from blindpost.core.database import Database, newest_revision
from blindpost.core.embedded import StoreUrls
from blindpost.core.restore import restore
from blindpost.core.schema import metadata
from blindpost.errors import BackupDamaged, ConfigurationError, StartError
from blindpost.protocol.encoding import b64decode
from blindpost.protocol.keys import PublicKey
from checks import client_of, refusal, session_of, success
from every_schema import FILLING, content, fill
from prekeys import Body, upload_of
from support import Person, contacts, running_in_thread, settings_for, unique_name

if TYPE_CHECKING:
    import redis.asyncio

SCHEMAS = tuple(FILLING)


def nothing(_table: str, _size: int) -> None:
    """Take no note of progress."""


@asynccontextmanager
async def fresh_database(database_url: str) -> AsyncIterator[str]:
    name = f"scratch_{uuid4().hex}"
    superuser = await asyncpg.connect(database_url, user="postgres", database="postgres")
    await superuser.execute(f"CREATE DATABASE {name} OWNER blindpost")
    yield urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))
    await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await superuser.close()


@pytest.fixture
async def there(database_url: str) -> AsyncIterator[Database]:
    """The database that a backup is made of."""
    async with fresh_database(database_url) as url, Database(url, pool_size=2) as database:
        yield database


@pytest.fixture
async def here(database_url: str) -> AsyncIterator[Database]:
    """An empty one, to restore into."""
    async with fresh_database(database_url) as url, Database(url, pool_size=2) as database:
        yield database


async def backup_of(database: Database, tell: Callable[[str, int], None] = nothing) -> bytes:
    file = io.BytesIO()
    await make(database, file, tell)
    return file.getvalue()


async def put(data: bytes, database: Database, **how: Any) -> tuple[Header, Manifest]:
    return await restore(database, None, Reader(io.BytesIO(data)), nothing, **how)


async def fetch(database: Database, query: str, *values: object) -> Any:
    raw = await database.connect_raw()
    try:
        return await raw.fetchval(query, *values)
    finally:
        await raw.close()


def stores_on(database: Database, stores: StoreUrls) -> StoreUrls:
    return StoreUrls(database._url, stores.redis_url)


# What is in one


async def test_every_table_of_every_schema_is_in_a_backup_or_left_out_for_a_reason(there: Database) -> None:
    assert set(held()) | LEFT_OUT.keys() >= metadata.tables.keys()
    for revision in SCHEMAS:
        await there.migrate(revision)
        assert (await content(there)).keys() <= {*held(), *LEFT_OUT}, revision


async def test_no_session_key_or_one_time_prekey_is_in_a_backup(
    there: Database, stores: StoreUrls, tmp_path: Path
) -> None:
    """Searched for in the file itself, as bytes and as text."""
    with running_in_thread(settings_for(stores_on(there, stores), tmp_path)) as router:
        async with client_of(router) as http:
            alice, bob = await contacts(http)
            upload = upload_of(alice, 2)
            success(await alice.call("POST", "/keys", upload))
            data = await backup_of(there)
    secrets = [UUID(session_of(each)).bytes for each in (alice, bob)]
    secrets += [PublicKey.from_pem(each["public_key"]).der for each in upload["one_time_prekeys"]]
    secrets += [b64decode(each["public_key"]) for each in upload["one_time_kem_prekeys"]]
    for table, column in (("token_keys", "public_key"), ("pseudonym_keys", "key")):
        if (secret := await fetch(there, f"SELECT {column} FROM {table}")) is not None:
            secrets.append(secret)
    assert len(secrets) >= 7
    assert [secret for secret in secrets if secret in data] == []
    # The search is not blind.
    for each in ("signed_prekey", "one_time_prekeys"):
        one = upload[each][0] if isinstance(upload[each], list) else upload[each]
        assert UUID(one["id"]).bytes in data
    assert PublicKey.from_pem(upload["signed_prekey"]["public_key"]).der in data


async def test_what_is_committed_while_a_backup_is_made_is_not_in_it(there: Database, here: Database) -> None:
    """Between two of its tables, on every table there is: the backup is of one moment."""
    await fill(there, SCHEMAS[-1])
    before = await content(there)
    told: list[str] = []

    def change(table: str, _size: int) -> None:
        if not told:
            thread = Thread(target=lambda: asyncio.run(_change(there)))
            thread.start()
            thread.join()
        told.append(table)

    data = await backup_of(there, change)
    assert len(told) >= len(held()) - 1, "the change came after the first table"
    assert len((await content(there))["names"]) == len(before["names"]) + 1
    await put(data, here)
    restored = await content(here)
    for table in ("names", "contact_requests", "messages", "traces", "receipts", "retired_ecdh_keys"):
        assert restored[table] == before[table], table
    assert [row["id"] for row in restored["users"]] == [row["id"] for row in before["users"]]


async def _change(database: Database) -> None:
    """Write to the tables what people would."""
    raw = await database.connect_raw()
    await raw.execute("""
        INSERT INTO names VALUES ('carol');
        INSERT INTO users (name, name_key, ecdsa_public_key, ecdh_public_key, ecdh_signature)
        SELECT 'carol', 'carol', ecdh_public_key, ecdsa_public_key, 'x' FROM users LIMIT 1;
        INSERT INTO messages SELECT gen_random_uuid(), sender_id, recipient_id, timestamp, message FROM messages;
        DELETE FROM receipts; DELETE FROM traces; DELETE FROM retired_ecdh_keys; DELETE FROM contact_requests;
    """)
    await raw.close()


async def test_under_load_each_backup_holds_what_was_sent_up_to_a_moment_and_nothing_after(
    there: Database, database_url: str, stores: StoreUrls, tmp_path: Path
) -> None:
    """Alice sends in order and Bob acknowledges; of messages and traces, each backup has a beginning."""
    sent: list[UUID] = []
    with running_in_thread(settings_for(stores_on(there, stores), tmp_path)) as router:
        async with client_of(router) as http:
            alice, bob = await contacts(http)

            async def send() -> None:
                while True:
                    sent.append(number := UUID(int=len(sent) + 1))
                    success(await alice.send(bob, client_message_id=str(number)), 201)

            async def take() -> None:
                while True:
                    page = await bob.poll(20)
                    ids = [each["id"] for each in page["messages"]][: len(page["messages"]) // 2]
                    if ids:
                        await bob.post("/messages/ack", message_ids=ids)

            load = [asyncio.create_task(send()), asyncio.create_task(take())]
            backups, known = [], []
            for _ in range(5):
                least = len(sent) + 20
                while len(sent) < least:
                    assert not any(each.done() for each in load)
                    await asyncio.sleep(0)
                before = len(sent) - 1  # the last one may not have been answered
                backups.append(await backup_of(there))
                known.append((before, len(sent)))
            for each in load:
                each.cancel()
            await asyncio.gather(*load, return_exceptions=True)
    for data, (least, most) in zip(backups, known, strict=True):
        async with fresh_database(database_url) as url, Database(url, pool_size=1) as database:
            await put(data, database)
            rows = await content(database)
        numbers = sorted(row["client_message_id"].int for row in rows["traces"])
        assert numbers == list(range(1, len(numbers) + 1))
        assert least <= len(numbers) <= most
        assert {row["id"] for row in rows["messages"]} <= {row["id"] for row in rows["traces"]}


async def test_a_database_without_a_schema_is_nothing_to_back_up(here: Database) -> None:
    with pytest.raises(ConfigurationError, match="nothing to back up"):
        await backup_of(here)


async def test_a_schema_that_is_newer_than_the_program_is_not_backed_up(there: Database) -> None:
    await there.migrate()
    await fetch(there, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartError, match="newer"):
        await backup_of(there)


# What a restore makes of it


@pytest.mark.parametrize("revision", SCHEMAS)
async def test_a_backup_of_any_schema_restores_to_what_migrating_would_have_made(
    there: Database, here: Database, revision: str
) -> None:
    await fill(there, revision)
    header, _ = await put(await backup_of(there), here)
    assert header.revision == revision
    await there.migrate()
    assert (await here.revisions())[0] == SCHEMAS[-1]
    migrated, restored = await content(there), await content(here)
    events = [row["event"] for row in restored.pop("audit")]
    notes = ["database_restored"] if revision == SCHEMAS[-1] else ["schema_migrated", "database_restored"]
    assert sorted(events) == sorted([row["event"] for row in migrated.pop("audit")] + notes)
    walk = await verify(here, ())
    assert (walk.count, walk.faults) == (len(events), [])
    for each in restored["users"]:
        each.pop("contacts_version")
    for each in migrated["users"]:
        each.pop("contacts_version")
    for table in set(held()) - {"audit", "one_time_prekeys"}:
        assert restored[table] == migrated[table], table
    for table in LEFT_OUT.keys() & restored.keys():
        assert restored[table] == [], table
    assert {(row["user_id"], row["id"]) for row in restored["one_time_prekeys"]} == {
        (row["user_id"], row["id"]) for row in migrated["one_time_prekeys"]
    }


async def test_a_number_that_the_database_gives_goes_on_behind_those_of_the_backup(
    there: Database, here: Database
) -> None:
    await fill(there, SCHEMAS[-1])
    await put(await backup_of(there), here)
    last = await fetch(here, "SELECT max(number) FROM one_time_prekeys")
    more = """INSERT INTO one_time_prekeys (user_id, algorithm, id, fingerprint, claimed_on)
        SELECT id, 'p384', gen_random_uuid(), decode(repeat('0a', 48), 'hex'), now() FROM users LIMIT 1
        RETURNING number"""
    assert await fetch(here, more) == last + 1


class Town:
    """Two contacts at a router, its backup, and the router that is made of it on the same port, by the same node."""

    def __init__(self, there: Database, here: Database, stores: StoreUrls, data_dir: Path) -> None:
        self._there, self._here, self._stores, self._data_dir = there, here, stores, data_dir
        self._port = 0

    @asynccontextmanager
    async def before(self) -> AsyncIterator[httpx.AsyncClient]:
        async with self._at(self._there) as http:
            yield http

    @asynccontextmanager
    async def after(self, data: bytes, cache: "redis.asyncio.Redis") -> AsyncIterator[httpx.AsyncClient]:
        await put(data, self._here)
        # What a minute does, for which a restore waits where Redis goes on running.
        for key in [key async for key in cache.scan_iter(b"session:*")]:
            await cache.delete(key)
        async with self._at(self._here) as http:
            yield http

    @asynccontextmanager
    async def _at(self, database: Database) -> AsyncIterator[httpx.AsyncClient]:
        settings = settings_for(stores_on(database, self._stores), self._data_dir, port=self._port)
        with running_in_thread(settings) as router:
            self._port = urlsplit(router.origin).port or 0
            async with client_of(router) as http:
                yield http

    async def backup(self) -> bytes:
        return await backup_of(self._there)


@pytest.fixture
def town(there: Database, here: Database, stores: StoreUrls, tmp_path: Path) -> Town:
    return Town(there, here, stores, tmp_path)


async def test_a_restored_router_serves_what_the_backup_had(town: Town, cache: "redis.asyncio.Redis") -> None:
    async with town.before() as http:
        alice, bob = await contacts(http)
        kept = success(await alice.send(bob, b"kept", client_message_id=str(uuid4())), 201)
        name = {"client_message_id": str(uuid4())}
        repeated = success(await alice.send(bob, b"once", **name), 201)
        data = await town.backup()
        lost = success(await alice.send(bob, b"after the backup"), 201)
        await bob.post("/messages/ack", message_ids=[kept["id"]])
    async with town.after(data, cache) as http:
        alice, bob = await alice.at(http).login(), await bob.at(http).login()
        # What was acknowledged since comes once more; what was accepted since is lost.
        assert [each["id"] for each in (await bob.poll(0))["messages"]] == [kept["id"], repeated["id"]]
        assert lost["id"] not in success(await alice.get("/messages/status", ids=f"{lost['id']},{kept['id']}"))
        # A repeat of what was sent before the backup is recognised.
        assert success(await alice.send(bob, b"once", **name), 201)["id"] == repeated["id"]
        assert len((await bob.poll(0))["messages"]) == 2
        assert success(await alice.send(bob, b"new"), 201)


async def test_no_session_from_before_the_restore_opens_anything(town: Town, cache: "redis.asyncio.Redis") -> None:
    """Neither one that the backup could have had nor a later one, though the node has its token key still."""
    async with town.before() as http:
        alice, bob = await contacts(http)
        data = await town.backup()
        later = await Person(http, bob.name, bob.ecdsa, bob.ecdh, bob.id).login()
        for each in (alice, bob, later):
            success(await each.get("/auth/me"))
    async with town.after(data, cache) as http:
        for each in (alice, bob, later):
            refusal(await each.at(http).get("/auth/me"), 401, "not_authenticated")
            success(await (await each.at(http).login()).get("/auth/me"))


async def claimed(who: Person, owner: Person) -> tuple[str | None, bool]:
    """Claim, and return the one-time key, and whether the KEM key is one too."""
    bundle: Body = success(await who.post("/keys/claim", user_id=owner.id))
    once = bundle["one_time_prekey"]
    return (None if once is None else once["id"]), bundle["kem_prekey"].get("expires") is None


async def test_no_one_time_prekey_of_before_is_ever_given_after_a_restore(
    town: Town, cache: "redis.asyncio.Redis"
) -> None:
    """Not even when its owner, or whoever has the upload, publishes it once more."""
    async with town.before() as http:
        alice, bob = await contacts(http)
        upload = upload_of(alice, 3)
        success(await alice.call("POST", "/keys", upload))
        first = await claimed(bob, alice)
        data = await town.backup()
        second = await claimed(bob, alice)
        assert {first[0], second[0]} == {upload["one_time_prekeys"][0]["id"], upload["one_time_prekeys"][1]["id"]}
    async with town.after(data, cache) as http:
        alice, bob = await alice.at(http).login(), await bob.at(http).login()
        status = success(await alice.get("/keys/status"))
        assert (status["one_time_prekeys"], status["one_time_kem_prekeys"]) == (0, 0)
        assert status["signed_prekey_id"] == upload["signed_prekey"]["id"]
        assert await claimed(bob, alice) == (None, False)
        success(await alice.call("POST", "/keys", upload))
        assert await claimed(bob, alice) == (None, False)
        fresh = upload_of(alice, 1)
        success(await alice.call("POST", "/keys", fresh))
        assert await claimed(bob, alice) == (fresh["one_time_prekeys"][0]["id"], True)


async def test_what_a_backup_withdrew_is_remembered_from_the_restore_on(there: Database, here: Database) -> None:
    """However old it is: housekeeping forgets what was claimed long ago."""
    await fill(there, SCHEMAS[-1])
    await put(await backup_of(there), here)
    query = "SELECT count(*) FROM one_time_prekeys WHERE claimed_on = timezone('UTC', now())::date"
    assert await fetch(here, query) == await fetch(there, "SELECT count(*) FROM one_time_prekeys") == 4
    assert await fetch(here, "SELECT count(*) FROM one_time_prekeys WHERE public_key IS NOT NULL") == 0


async def test_everybody_is_told_to_look_at_contacts_and_keys_again(town: Town, cache: "redis.asyncio.Redis") -> None:
    """Also who was told all there was before the backup."""
    async with town.before() as http:
        people = await contacts(http)
        data = await town.backup()
    async with town.after(data, cache) as http:
        for each in people:
            assert (await (await each.at(http).login()).poll(0))["contacts_changed"]


async def test_a_client_that_went_on_running_publishes_new_prekeys_and_shows_nothing_twice(
    town: Town, cache: "redis.asyncio.Redis"
) -> None:
    async with town.before() as http:
        alice, bob = await _met(http)
        await alice.send(bob.identity.username, "read before the restore")
        data = await town.backup()
        [message] = await bob.receive_once()
        await bob.ack(message)
        offered = {each.id for each in bob._store.prekeys.all()}
    async with town.after(data, cache):
        bob._prekeys._asked -= HINT_S  # a restore takes a while: within a minute of the last time nobody asks again
        assert await bob.receive_once() == []
        assert {each.id for each in bob._store.prekeys.all()} - offered
        status = await bob._session.call("GET", "/keys/status")
        assert isinstance(status, dict)
        assert status["one_time_prekeys"] == status["one_time_kem_prekeys"] > 0
        await alice.send(bob.identity.username, "after it")
        assert [each.text for each in await bob.receive_once()] == ["after it"]
        for each in (alice, bob):
            await each.aclose()


async def _met(http: httpx.AsyncClient) -> tuple[Client, Client]:
    """Return two contacts who use the SDK."""
    origin = str(http.base_url).rstrip("/")
    alice, bob = (
        Client(origin, each, Store.in_memory(each)) for each in (Identity.generate(unique_name()) for _ in range(2))
    )
    for each in (alice, bob):
        await each.register()
    await alice.request_contact(bob.identity.username)
    await bob.accept(alice.identity.username)
    for each in (alice, bob):
        await each.receive_once()
    return alice, bob


async def test_keys_replaced_since_are_the_old_ones_as_the_documentation_says(
    town: Town, cache: "redis.asyncio.Redis"
) -> None:
    """Who has a new encryption key replaces it once more; who has a new identity key cannot log in."""
    async with town.before() as http:
        alice, bob = await _met(http)
        data = await town.backup()
        await bob.rotate_ecdh_key()
        await alice.receive_once()
        await alice.send(bob.identity.username, "to the new key")
        await alice.rotate_ecdsa_key()
    async with town.after(data, cache):
        with pytest.raises(LoginRefused):
            await alice.receive_once()
        await bob.receive_once()
        await bob.rotate_ecdh_key()
        await bob.safety_number(alice.identity.username)
        for each in (alice, bob):
            await each.aclose()


# When it refuses


async def test_a_database_with_somebody_in_it_is_not_overwritten_unless_told_so(
    there: Database, here: Database
) -> None:
    await fill(there, SCHEMAS[-1])
    data = await backup_of(there)
    await here.migrate()
    await fetch(here, "INSERT INTO names VALUES ('somebody_else')")
    with pytest.raises(ConfigurationError, match="not empty: there are rows in names") as caught:
        await put(data, here)
    assert "--replace" in caught.value.hint
    assert [row["name_key"] for row in (await content(here))["names"]] == ["somebody_else"]
    await put(data, here, replace=True)
    assert (await content(here))["names"] == (await content(there))["names"]


async def test_a_database_whose_router_was_only_started_is_empty(
    there: Database, here: Database, stores: StoreUrls, tmp_path: Path
) -> None:
    await fill(there, SCHEMAS[-1])
    with running_in_thread(settings_for(stores_on(here, stores), tmp_path)):
        pass
    await put(await backup_of(there), here)
    assert (await content(here))["names"] == (await content(there))["names"]


@pytest.mark.parametrize("revision", SCHEMAS)
async def test_a_database_of_any_schema_with_rows_everywhere_can_be_replaced(
    there: Database, here: Database, revision: str
) -> None:
    await fill(here, revision)
    await there.migrate()
    await put(await backup_of(there), here, replace=True)
    restored = await content(here)
    assert [row["event"] for row in restored.pop("audit")] == ["database_restored"]
    assert not any(restored.values())


async def test_while_a_router_is_connected_nothing_is_restored(
    there: Database, here: Database, stores: StoreUrls, tmp_path: Path
) -> None:
    await fill(there, SCHEMAS[-1])
    data = await backup_of(there)
    with running_in_thread(settings_for(stores_on(here, stores), tmp_path)) as router:
        with pytest.raises(ConfigurationError, match="somebody is connected"):
            await put(data, here, replace=True)
        async with client_of(router) as http:
            await contacts(http)
    assert len((await content(here))["names"]) == 2


async def test_a_router_that_starts_during_a_restore_waits_and_serves_what_was_restored(
    there: Database, here: Database, stores: StoreUrls, tmp_path: Path
) -> None:
    await fill(there, SCHEMAS[-1])
    data = await backup_of(there)
    starting: list[asyncio.Task[set[str]]] = []

    async def start() -> set[str]:
        def names() -> set[str]:
            with running_in_thread(settings_for(stores_on(here, stores), tmp_path)):
                return asyncio.run(_names(here._url))

        return await asyncio.to_thread(names)

    def say(_: str) -> None:
        starting.append(asyncio.create_task(start()))

    await put(data, here, forgetting_s=1, say=say)
    assert await starting[0] == {"alice", "robert", "somebody_before"}


async def _names(url: str) -> set[str]:
    raw = await asyncpg.connect(url)
    try:
        return {row["name_key"] for row in await raw.fetch("SELECT name_key FROM names")}
    finally:
        await raw.close()


async def test_it_is_committed_only_when_redis_has_forgotten_the_sessions_of_the_last_router(
    there: Database, here: Database
) -> None:
    await there.migrate()
    data = await backup_of(there)
    said: list[str] = []
    began = time.monotonic()
    await put(data, here, forgetting_s=1.5, say=said.append)
    assert time.monotonic() - began >= 1.5
    assert "until Redis has forgotten" in said[0]


async def test_a_backup_of_a_newer_schema_asks_for_a_newer_program(there: Database, here: Database) -> None:
    await there.migrate()
    data = (await backup_of(there)).replace(f'"revision": "{newest_revision()}"'.encode(), b'"revision": "9999"')
    with pytest.raises(ConfigurationError, match="newer schema"):
        await put(data, here)
    assert await content(here) == {}


def cut(data: bytes) -> bytes:
    return data[: len(data) * 3 // 4]


def with_a_bad_sum(data: bytes) -> bytes:
    return data.replace(b"sealed", b"Sealed", 1)


def with_rows_that_are_none(data: bytes) -> bytes:
    place = data.index(b"PGCOPY", data.index(b"contact_requests/000000"))
    return data[: place + 30] + b"\xee" * 20 + data[place + 50 :]


def without_a_table(data: bytes) -> bytes:
    return data.replace(b'"receipts",\n', b'"sessions",\n', 1)


def with_a_table_of_the_servers(data: bytes) -> bytes:
    return data.replace(b'"receipts",\n', b'"pg_authid"\n,', 1).replace(b'"receipts",\n', b'"pg_class",\n', 1)


@pytest.mark.parametrize(
    "spoil", [cut, with_a_bad_sum, with_rows_that_are_none, without_a_table, with_a_table_of_the_servers]
)
@pytest.mark.parametrize("is_filled", [False, True])
async def test_a_damaged_backup_is_refused_and_changes_nothing(
    there: Database, here: Database, spoil: Callable[[bytes], bytes], *, is_filled: bool
) -> None:
    await fill(there, SCHEMAS[-1])
    data = await backup_of(there)
    assert spoil(data) != data
    if is_filled:
        await fill(here, SCHEMAS[-2])
    before = await content(here)
    with pytest.raises(BackupDamaged, match="damaged") as caught:
        await put(spoil(data), here, replace=is_filled)
    assert caught.value.hint
    assert "sealed" not in str(caught.value).lower()
    assert await content(here) == before


async def test_tables_of_somebody_else_in_the_same_place_are_not_touched(there: Database, here: Database) -> None:
    await fill(there, SCHEMAS[-1])
    await fetch(there, "CREATE TABLE notes AS SELECT 1 AS number")
    data = await backup_of(there)
    await fetch(here, "CREATE TABLE notes AS SELECT 2 AS number")
    await put(data, here)
    await put(data, here, replace=True)
    assert await fetch(here, "SELECT number FROM notes") == 2
    await fetch(here, "DROP TABLE messages")
    await fetch(here, "CREATE VIEW messages AS SELECT 1 AS number")
    with pytest.raises(StartError, match="cannot be put"):
        await put(data, here, replace=True)


async def test_a_server_that_goes_away_in_the_middle_is_a_sentence(there: Database, here: Database) -> None:
    await fill(there, SCHEMAS[-1])
    data = await backup_of(there)

    def end(database: Database) -> Callable[[str, int], None]:
        def tell(_table: str, _size: int) -> None:
            thread = Thread(target=lambda: asyncio.run(_end_connections(database)))
            thread.start()
            thread.join()

        return tell

    for work in (
        lambda: backup_of(there, end(there)),
        lambda: restore(here, None, Reader(io.BytesIO(data)), end(here)),
    ):
        await _is_said(work)
    assert await content(here) == {}


async def _is_said(work: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(StartError, match="went away"):
        await work()


async def _end_connections(database: Database) -> None:
    raw = await asyncpg.connect(database._url)
    await raw.execute("""
        SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
    """)
    await raw.close()
