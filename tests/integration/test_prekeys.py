"""/keys: what sessions begin with while their owner is away."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest

from blindpost.app import Running
from blindpost.core.embedded import StoreUrls
from blindpost.protocol import transcripts
from blindpost.protocol.encoding import b64decode
from blindpost.protocol.kem import PUBLIC_BYTES, KemPublicKey
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.limits import PREKEY_BATCH_MAX, PREKEY_LIFETIME_MAX_S, PREKEYS_LOW, PREKEYS_MAX
from blindpost.services import prekeys as service
from blindpost.services.prekeys import CLAIMS_MAX, ONE_TIME_CLAIMS_MAX
from checks import Waiting, client_of, refusal, said_by, success
from forgeries import BAD_KEYS
from prekeys import Body, in_days, last_resort, one_time, one_time_kem, signed_prekey, upload_of, written
from support import Person, b64, contacts, new_key, person, public, running_in_thread, settings_for, sign

if TYPE_CHECKING:
    import asyncpg

DAYS_MAX = PREKEY_LIFETIME_MAX_S / 86_400


async def publish(who: Person, upload: Body) -> httpx.Response:
    return await who.call("POST", "/keys", upload)


async def status_of(who: Person) -> Body:
    status: Body = success(await who.get("/keys/status"))
    return status


async def waiting_of(who: Person) -> tuple[int, int]:
    status = await status_of(who)
    return status["one_time_prekeys"], status["one_time_kem_prekeys"]


async def claim(who: Person, owner: Person) -> httpx.Response:
    return await who.post("/keys/claim", user_id=owner.id)


async def stocked(owner: Person, each: int) -> list[Body]:
    """Publish so many one-time keys of each sort, in order, and keys that last; return the uploads."""
    uploads: list[Body] = [{"signed_prekey": signed_prekey(owner), "last_resort_kem_prekey": last_resort(owner)}]
    for start in range(0, each, PREKEY_BATCH_MAX):
        size = min(PREKEY_BATCH_MAX, each - start)
        once, kem = [one_time(owner) for _ in range(size)], [one_time_kem(owner) for _ in range(size)]
        uploads.append({"one_time_prekeys": once, "one_time_kem_prekeys": kem})
    for upload in uploads:
        success(await publish(owner, upload))
    return uploads


def ids(uploads: list[Body], name: str) -> list[str]:
    return [each["id"] for upload in uploads for each in upload.get(name, [])]


async def rotate(someone: Person) -> Person:
    """Replace somebody's identity key."""
    new = new_key()
    rotation = transcripts.rotate_ecdsa(UUID(someone.id), public(someone.ecdsa), public(new))
    body = {
        "ecdsa_public_key": public(new).pem,
        "ecdh_signature": sign(new, transcripts.register(someone.name, public(new), public(someone.ecdh))),
        "old_key_signature": sign(someone.ecdsa, rotation),
        "new_key_signature": sign(new, rotation),
    }
    success(await someone.put("/auth/ecdsa-update-key", **body))
    someone.ecdsa = new
    return someone


async def rows_of(database: "asyncpg.Connection[Any]", who: Person) -> dict[str, int]:
    """Count what the tables hold of somebody's prekeys."""
    counts = {}
    for table in ("lasting_prekeys", "one_time_prekeys", "prekey_claims"):
        counts[table] = await database.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", UUID(who.id))
    return counts


NOTHING = {"lasting_prekeys": 0, "one_time_prekeys": 0, "prekey_claims": 0}


@pytest.fixture(scope="module")
def open_nodes(stores: StoreUrls, data_dir: Path) -> Iterator[list[Running]]:
    """Two routers on the same stores at which anybody can write to anybody."""
    settings = [settings_for(stores, data_dir / f"open-{number}", require_contact=False) for number in range(2)]
    with running_in_thread(settings[0]) as one, running_in_thread(settings[1]) as other:
        yield [one, other]


@pytest.fixture
async def open_http(open_nodes: list[Running]) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with client_of(open_nodes[0]) as one, client_of(open_nodes[1]) as other:
        yield [one, other]


# Publishing


async def test_the_status_says_what_was_published(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    empty = await status_of(alice)
    assert set(empty.values()) == {None, 0}
    upload = upload_of(alice, 3)
    published = success(await publish(alice, upload))
    assert published == await status_of(alice)
    for name in ("signed_prekey", "last_resort_kem_prekey"):
        assert published[f"{name}_id"] == upload[name]["id"]
        assert datetime.fromisoformat(published[f"{name}_expires"]) == datetime.fromisoformat(upload[name]["expires"])
    assert (published["one_time_prekeys"], published["one_time_kem_prekeys"]) == (3, 3)


async def test_a_bundle_holds_what_its_owner_signed(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    upload = upload_of(alice)
    success(await publish(alice, upload))
    bundle = success(await claim(bob, alice))
    assert bundle["user_id"] == alice.id
    assert {**bundle["signed_prekey"], "expires": upload["signed_prekey"]["expires"]} == upload["signed_prekey"]
    assert bundle["one_time_prekey"] == upload["one_time_prekeys"][0] | {"expires": None}
    assert bundle["kem_prekey"] == upload["one_time_kem_prekeys"][0] | {"expires": None}
    demand_signed(bundle, alice)


def demand_signed(bundle: Body, owner: Person) -> None:
    """Check a bundle as a client does: each signature by the owner's identity key, over its own transcript."""
    user_id, identity = UUID(bundle["user_id"]), public(owner.ecdsa)
    signed, once, kem = bundle["signed_prekey"], bundle["one_time_prekey"], bundle["kem_prekey"]
    key = PublicKey.from_pem(signed["public_key"])
    transcript = transcripts.signed_prekey(user_id, UUID(signed["id"]), seconds(signed["expires"]), key)
    assert identity.verifies(b64decode(signed["signature"]), transcript)
    if once is not None:
        key = PublicKey.from_pem(once["public_key"])
        transcript = transcripts.one_time_prekey(user_id, UUID(once["id"]), key)
        assert identity.verifies(b64decode(once["signature"]), transcript)
    kem_key = KemPublicKey.from_bytes(b64decode(kem["public_key"]))
    if kem["expires"] is None:
        transcript = transcripts.one_time_kem_prekey(user_id, UUID(kem["id"]), kem_key)
    else:
        transcript = transcripts.last_resort_kem_prekey(user_id, UUID(kem["id"]), seconds(kem["expires"]), kem_key)
    assert identity.verifies(b64decode(kem["signature"]), transcript)


def seconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp())


async def test_a_key_that_lasts_takes_the_place_of_the_one_before(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    success(await publish(alice, upload_of(alice)))
    later = {"signed_prekey": signed_prekey(alice), "last_resort_kem_prekey": last_resort(alice)}
    success(await publish(alice, later))
    assert (await rows_of(database, alice))["lasting_prekeys"] == 2
    for _ in range(2):
        bundle = success(await claim(bob, alice))
    assert bundle["signed_prekey"]["id"] == later["signed_prekey"]["id"]
    assert bundle["kem_prekey"]["id"] == later["last_resort_kem_prekey"]["id"]
    demand_signed(bundle, alice)


async def test_a_key_that_was_replaced_is_not_brought_back(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    old = upload_of(alice, 0)
    success(await publish(alice, old))
    success(await publish(alice, upload_of(alice, 0)))
    status = await status_of(alice)
    refusal(await publish(alice, {"signed_prekey": old["signed_prekey"]}), 409, "conflict")
    refusal(await publish(alice, {"last_resort_kem_prekey": old["last_resort_kem_prekey"]}), 409, "conflict")
    assert await status_of(alice) == status


async def test_another_key_with_the_same_expiry_is_refused(http: httpx.AsyncClient) -> None:
    alice, expires = await person(http), in_days(5)
    success(await publish(alice, {"signed_prekey": signed_prekey(alice, expires)}))
    refusal(await publish(alice, {"signed_prekey": signed_prekey(alice, expires)}), 409, "conflict")


async def test_an_upload_is_taken_whole_or_not_at_all(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    success(await publish(alice, upload_of(alice)))
    status = await status_of(alice)
    upload = upload_of(alice, 2)
    upload["one_time_kem_prekeys"][1] = one_time_kem(alice, UUID(upload["one_time_kem_prekeys"][0]["id"]))
    refusal(await publish(alice, upload), 409, "conflict")
    assert await status_of(alice) == status


async def test_no_more_one_time_keys_wait_than_may(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    await stocked(alice, PREKEYS_MAX)
    for more in ({"one_time_prekeys": [one_time(alice)]}, {"one_time_kem_prekeys": [one_time_kem(alice)]}):
        refusal(await publish(alice, more), 409, "too_many_prekeys")
    assert await waiting_of(alice) == (PREKEYS_MAX, PREKEYS_MAX)
    success(await claim(bob, alice))
    success(await publish(alice, {"one_time_prekeys": [one_time(alice)]}))
    assert await waiting_of(alice) == (PREKEYS_MAX, PREKEYS_MAX - 1)


async def test_at_the_same_moment_not_one_more_waits(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    await stocked(alice, PREKEYS_MAX - 2)
    answers = await asyncio.gather(*(publish(alice, {"one_time_prekeys": [one_time(alice)]}) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [409] * 3
    assert (await waiting_of(alice))[0] == PREKEYS_MAX


async def test_more_keys_than_one_call_takes_are_refused(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    keys = [one_time(alice) for _ in range(PREKEY_BATCH_MAX + 1)]
    refusal(await publish(alice, {"one_time_prekeys": keys}), 400, "invalid_request")
    success(await publish(alice, upload_of(alice, PREKEY_BATCH_MAX)))


# Publishing again


async def test_an_upload_whose_answer_was_lost_can_be_repeated(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    upload = upload_of(alice, 3)
    first = success(await publish(alice, upload))
    assert success(await publish(alice, upload)) == first
    again = await asyncio.gather(*(publish(alice, upload) for _ in range(4)))
    assert all(success(answer) == first for answer in again)


async def test_a_key_that_was_claimed_is_not_given_again_when_it_is_published_again(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    upload = upload_of(alice, 2)
    success(await publish(alice, upload))
    given = [success(await claim(bob, alice))]
    assert success(await publish(alice, upload))["one_time_prekeys"] == 1
    given += [success(await claim(bob, alice)) for _ in range(2)]
    assert [each["one_time_prekey"] and each["one_time_prekey"]["id"] for each in given] == [
        *ids([upload], "one_time_prekeys"),
        None,
    ]
    assert [each["kem_prekey"]["id"] for each in given] == [
        *ids([upload], "one_time_kem_prekeys"),
        upload["last_resort_kem_prekey"]["id"],
    ]


@pytest.mark.parametrize("is_claimed", [False, True])
@pytest.mark.parametrize(("name", "make"), [("one_time_prekeys", one_time), ("one_time_kem_prekeys", one_time_kem)])
async def test_an_id_names_one_key_for_as_long_as_it_is_remembered(
    http: httpx.AsyncClient, name: str, make: Any, *, is_claimed: bool
) -> None:
    alice, bob = await contacts(http)
    upload = upload_of(alice)
    success(await publish(alice, upload))
    if is_claimed:
        success(await claim(bob, alice))
    before = await status_of(alice)
    other = make(alice, UUID(upload[name][0]["id"]))
    refusal(await publish(alice, {name: [other]}), 409, "conflict")
    assert await status_of(alice) == before


async def test_a_key_waits_under_one_id_alone(http: httpx.AsyncClient) -> None:
    alice, key = await person(http), new_key()
    success(await publish(alice, {"one_time_prekeys": [one_time(alice, key=key)]}))
    refusal(await publish(alice, {"one_time_prekeys": [one_time(alice, key=key)]}), 409, "conflict")
    twice = new_key()
    keys = [one_time(alice, key=twice), one_time(alice, key=twice)]
    refusal(await publish(alice, {"one_time_prekeys": keys}), 409, "conflict")
    assert await waiting_of(alice) == (1, 0)


async def test_two_people_may_use_the_same_id(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    prekey_id = uuid4()
    for each in (alice, bob):
        success(await publish(each, {"one_time_prekeys": [one_time(each, prekey_id)]}))
        assert await waiting_of(each) == (1, 0)


# Keys and signatures


@pytest.mark.parametrize("kind", BAD_KEYS)
async def test_a_prekey_is_one_canonical_key_or_refused(http: httpx.AsyncClient, kind: str) -> None:
    alice, bad = await person(http), BAD_KEYS[kind]()
    for upload in (
        {"one_time_prekeys": [one_time(alice) | {"public_key": bad}]},
        {"signed_prekey": signed_prekey(alice) | {"public_key": bad}},
    ):
        refusal(await publish(alice, upload), 400, "invalid_key")
    assert await waiting_of(alice) == (0, 0)


async def test_a_kem_key_with_a_coefficient_out_of_range_is_refused(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    bad = KemPublicKey(b"\xff" * PUBLIC_BYTES)
    lasting = last_resort(alice) | {"public_key": b64(bad.raw)}
    refusal(await publish(alice, {"one_time_kem_prekeys": [one_time_kem(alice, key=bad)]}), 400, "invalid_key")
    refusal(await publish(alice, {"last_resort_kem_prekey": lasting}), 400, "invalid_key")


@pytest.mark.parametrize("size", [0, 1, 1_184, PUBLIC_BYTES - 1, PUBLIC_BYTES + 1])
async def test_a_kem_key_of_another_length_is_refused(http: httpx.AsyncClient, size: int) -> None:
    alice = await person(http)
    bad = one_time_kem(alice, key=KemPublicKey(bytes(size)))
    refusal(await publish(alice, {"one_time_kem_prekeys": [bad]}), 400, "invalid_request")


async def test_a_prekey_is_neither_the_identity_key_nor_the_encryption_key(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    for key in (alice.ecdsa, alice.ecdh):
        refusal(await publish(alice, {"one_time_prekeys": [one_time(alice, key=key)]}), 400, "invalid_key")
        refusal(await publish(alice, {"signed_prekey": signed_prekey(alice, key=key)}), 400, "invalid_key")


PARTS = ("signed_prekey", "last_resort_kem_prekey", "one_time_prekeys", "one_time_kem_prekeys")


def part_of(upload: Body, name: str) -> Body:
    part: Body = upload[name][0] if isinstance(upload[name], list) else upload[name]
    return part


@pytest.mark.parametrize("name", PARTS)
async def test_every_prekey_is_signed_by_the_owners_identity_key_for_this_owner(
    http: httpx.AsyncClient, name: str
) -> None:
    alice, mallory = await person(http), await person(http)
    forged = Person(http, id=alice.id)
    for stranger in (forged, mallory, Person(http, ecdsa=alice.ecdsa, id=mallory.id)):
        upload = {name: upload_of(stranger)[name]}
        refusal(await publish(alice, upload), 400, "invalid_signature")
    assert set((await status_of(alice)).values()) == {None, 0}


@pytest.mark.parametrize("name", PARTS)
async def test_a_signature_covers_id_key_and_expiry_and_serves_one_sort(http: httpx.AsyncClient, name: str) -> None:
    alice = await person(http)
    part, other = part_of(upload_of(alice), name), part_of(upload_of(alice), name)
    changes = [{"id": str(uuid4())}, {"public_key": other["public_key"]}, {"signature": other["signature"]}]
    if "expires" in part:
        later = datetime.fromisoformat(part["expires"]) + timedelta(seconds=1)
        changes.append({"expires": written(later)})
    for change in changes:
        given = part | change
        upload = {name: [given] if name.startswith("one_time") else given}
        refusal(await publish(alice, upload), 400, "invalid_signature")


async def test_a_signature_for_one_sort_of_prekey_serves_no_other(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    once = one_time(alice)
    as_lasting = once | {"expires": written(in_days(5))}
    refusal(await publish(alice, {"signed_prekey": as_lasting}), 400, "invalid_signature")
    signed = {name: value for name, value in signed_prekey(alice).items() if name != "expires"}
    refusal(await publish(alice, {"one_time_prekeys": [signed]}), 400, "invalid_signature")


# Expiry


@pytest.mark.parametrize("make", [signed_prekey, last_resort])
@pytest.mark.parametrize("days", [-30_000, -1, 0, DAYS_MAX + 0.1, 365_000])
async def test_an_expiry_is_ahead_and_not_too_far(http: httpx.AsyncClient, make: Any, days: float) -> None:
    alice = await person(http)
    name = "signed_prekey" if make is signed_prekey else "last_resort_kem_prekey"
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    given = make(alice, max(expires, datetime(1970, 1, 1, tzinfo=UTC))) | {"expires": written(expires)}
    refusal(await publish(alice, {name: given}), 400, "invalid_request")


async def test_the_longest_lifetime_is_taken(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    success(await publish(alice, {"signed_prekey": signed_prekey(alice, in_days(DAYS_MAX - 0.1))}))


@pytest.mark.parametrize(
    "expires", ["2040-01-01T00:00:00", "2040-01-01T00:00:00.5Z", "2040-01-01", 2_208_988_800, "2208988800", None, ""]
)
async def test_an_expiry_has_one_reading(http: httpx.AsyncClient, expires: object) -> None:
    alice = await person(http)
    refusal(
        await publish(alice, {"signed_prekey": signed_prekey(alice) | {"expires": expires}}), 400, "invalid_request"
    )


async def expire(database: "asyncpg.Connection[Any]", owner: Person, algorithm: str) -> None:
    sql = "UPDATE lasting_prekeys SET expires_at = now() - interval '1 s' WHERE user_id = $1 AND algorithm = $2"
    assert await database.execute(sql, UUID(owner.id), algorithm) == "UPDATE 1"


async def test_an_expired_signed_prekey_is_none(http: httpx.AsyncClient, database: "asyncpg.Connection[Any]") -> None:
    alice, bob = await contacts(http)
    success(await publish(alice, upload_of(alice)))
    await expire(database, alice, "p384")
    refusal(await claim(bob, alice), 404, "no_prekeys")
    status = await status_of(alice)
    assert (status["signed_prekey_id"], status["signed_prekey_expires"]) == (None, None)
    assert await waiting_of(alice) == (1, 1), "a refusal takes nothing"
    success(await publish(alice, {"signed_prekey": signed_prekey(alice, in_days(1))}))
    success(await claim(bob, alice))


async def test_without_the_key_of_last_resort_a_session_begins_while_there_are_one_time_ones(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    success(await publish(alice, upload_of(alice)))
    await expire(database, alice, "ml-kem-1024")
    success(await publish(alice, {"one_time_prekeys": [one_time(alice)]}))
    demand_signed(success(await claim(bob, alice)), alice)
    refusal(await claim(bob, alice), 404, "no_prekeys")
    assert await waiting_of(alice) == (1, 0), "a refusal takes nothing"


# Claiming


async def test_one_time_keys_are_given_the_oldest_first_and_then_the_last_resort(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    uploads = await stocked(alice, 3)
    bundles = [success(await claim(bob, alice)) for _ in range(4)]
    assert [each["one_time_prekey"]["id"] for each in bundles[:3]] == ids(uploads, "one_time_prekeys")
    assert [each["kem_prekey"]["id"] for each in bundles[:3]] == ids(uploads, "one_time_kem_prekeys")
    assert bundles[3]["one_time_prekey"] is None
    assert bundles[3]["kem_prekey"]["id"] == uploads[0]["last_resort_kem_prekey"]["id"]
    assert bundles[3]["kem_prekey"]["expires"] is not None


async def test_only_contacts_claim_and_all_refusals_are_alike(http: httpx.AsyncClient) -> None:
    alice, mallory, asked = [await person(http) for _ in range(3)]
    success(await publish(alice, upload_of(alice)))
    success(await mallory.post("/contacts/send-contact-request", receiver_id=asked.id), 201)
    success(await publish(asked, upload_of(asked)))
    nobody = Person(http, id=str(uuid4()))
    answers = [await claim(mallory, each) for each in (alice, asked, nobody)]
    for answer in answers:
        refusal(answer, 403, "not_a_contact")
    assert len({said_by(answer) for answer in answers}) == 1
    assert said_by(answers[0]) == said_by(await mallory.send(alice))
    assert await waiting_of(alice) == (1, 1)


async def test_a_strangers_try_waits_for_nobody(http: httpx.AsyncClient, database: "asyncpg.Connection[Any]") -> None:
    alice, mallory = await person(http), await person(http)
    async with database.transaction():
        await database.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", UUID(alice.id))
        # Whoever waits for the lock is answered 503 in the end.
        refusal(await claim(mallory, alice), 403, "not_a_contact")


async def test_where_anybody_may_write_anybody_may_claim(open_http: list[httpx.AsyncClient]) -> None:
    alice, bob = await person(open_http[0]), await person(open_http[1])
    success(await publish(alice, upload_of(alice)))
    success(await claim(bob, alice))
    refusal(await claim(bob, Person(open_http[0], id=str(uuid4()))), 403, "not_a_contact")


async def test_nobody_claims_their_own(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    success(await publish(alice, upload_of(alice)))
    refusal(await claim(alice, alice), 400, "invalid_request")
    assert await waiting_of(alice) == (1, 1)


async def test_a_contact_without_prekeys_is_said_to_have_none(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    refusal(await claim(bob, alice), 404, "no_prekeys")
    success(await publish(alice, {"signed_prekey": signed_prekey(alice)}))
    refusal(await claim(bob, alice), 404, "no_prekeys")


# How many


async def test_a_thousand_claims_at_once_on_two_nodes_never_get_one_key_twice(
    open_http: list[httpx.AsyncClient],
) -> None:
    """250 people claim four times each, of 100 keys of each sort, and each key goes to one of them."""
    alice = await person(open_http[0])
    uploads = await stocked(alice, PREKEYS_MAX)
    claimants = [await person(open_http[number % 2]) for number in range(250)]
    places = asyncio.Semaphore(64)

    async def one_claim(who: Person, node: httpx.AsyncClient) -> Body:
        async with places:
            bundle: Body = success(await who.at(node).post("/keys/claim", user_id=alice.id))
            return bundle

    nodes = count()
    calls = [one_claim(each, open_http[next(nodes) % 2]) for _ in range(ONE_TIME_CLAIMS_MAX) for each in claimants]
    bundles = await asyncio.gather(*calls)
    assert len(bundles) == 1_000
    given = [bundle["one_time_prekey"]["id"] for bundle in bundles if bundle["one_time_prekey"]]
    given_kem = [bundle["kem_prekey"]["id"] for bundle in bundles if bundle["kem_prekey"]["expires"] is None]
    assert len(given) == len(given_kem) == PREKEYS_MAX
    assert set(given) == set(ids(uploads, "one_time_prekeys"))
    assert set(given_kem) == set(ids(uploads, "one_time_kem_prekeys"))
    rest = {bundle["kem_prekey"]["id"] for bundle in bundles if bundle["kem_prekey"]["expires"]}
    assert rest == {uploads[0]["last_resort_kem_prekey"]["id"]}
    assert await waiting_of(alice) == (0, 0)


async def test_claims_at_once_take_the_oldest_and_leave_the_rest(open_http: list[httpx.AsyncClient]) -> None:
    alice = await person(open_http[0])
    uploads = await stocked(alice, 20)
    claimants = [await person(open_http[number % 2]) for number in range(12)]
    bundles = [success(answer) for answer in await asyncio.gather(*(claim(each, alice) for each in claimants))]
    for name, given in (
        ("one_time_prekeys", {bundle["one_time_prekey"]["id"] for bundle in bundles}),
        ("one_time_kem_prekeys", {bundle["kem_prekey"]["id"] for bundle in bundles}),
    ):
        assert given == set(ids(uploads, name)[:12])
    assert await waiting_of(alice) == (8, 8)


async def test_one_contact_drains_four_keys_a_day_and_then_waits(http: httpx.AsyncClient) -> None:
    alice, mallory = await contacts(http)
    await stocked(alice, 30)
    bundles = [success(await claim(mallory, alice)) for _ in range(CLAIMS_MAX)]
    assert [bundle["one_time_prekey"] is not None for bundle in bundles] == [True] * 4 + [False] * 36
    assert [bundle["kem_prekey"]["expires"] is None for bundle in bundles] == [True] * 4 + [False] * 36
    answer = await claim(mallory, alice)
    refusal(answer, 429, "too_many_requests")
    assert 0 < int(answer.headers["Retry-After"]) <= 86_401
    assert await waiting_of(alice) == (26, 26)


async def test_the_limit_of_a_pair_is_one_over_all_nodes_and_at_the_same_moment(
    http: httpx.AsyncClient, second_http: httpx.AsyncClient
) -> None:
    alice, mallory = await contacts(http)
    await stocked(alice, 10)
    calls = [claim(mallory.at((http, second_http)[number % 2]), alice) for number in range(CLAIMS_MAX + 10)]
    answers = await asyncio.gather(*calls)
    assert sorted(answer.status_code for answer in answers) == [200] * CLAIMS_MAX + [429] * 10
    given = [answer.json()["one_time_prekey"] for answer in answers if answer.status_code == 200]
    assert sum(each is not None for each in given) == ONE_TIME_CLAIMS_MAX
    assert await waiting_of(alice) == (6, 6)


async def test_every_pair_has_a_budget_of_its_own(http: httpx.AsyncClient) -> None:
    """So those who work together drain four each; whoever comes after them still begins a session."""
    alice = await person(http)
    await stocked(alice, 8)
    for number in range(3):
        each = await person(http)
        await alice.befriend(each)
        for _ in range(ONE_TIME_CLAIMS_MAX):
            bundle = success(await claim(each, alice))
            assert (bundle["one_time_prekey"] is not None) == (number < 2)
            demand_signed(bundle, alice)


async def test_the_budget_is_of_a_day(http: httpx.AsyncClient, database: "asyncpg.Connection[Any]") -> None:
    alice, bob = await contacts(http)
    await stocked(alice, 8)
    for _ in range(CLAIMS_MAX):
        success(await claim(bob, alice))
    refusal(await claim(bob, alice), 429, "too_many_requests")
    yesterday = "UPDATE prekey_claims SET day = day - 1 WHERE user_id = $1"
    assert await database.execute(yesterday, UUID(alice.id)) == "UPDATE 1"
    bundles = [success(await claim(bob, alice)) for _ in range(5)]
    assert [bundle["one_time_prekey"] is not None for bundle in bundles] == [True] * 4 + [False]


async def test_a_refused_claim_costs_nothing_of_the_budget(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    for _ in range(ONE_TIME_CLAIMS_MAX):
        refusal(await claim(bob, alice), 404, "no_prekeys")
    await stocked(alice, 1)
    assert success(await claim(bob, alice))["one_time_prekey"] is not None


# News


async def test_the_owner_is_told_when_few_are_left_and_when_none_is(http: httpx.AsyncClient, waiting: Waiting) -> None:
    alice, bob = await contacts(http)
    await stocked(alice, PREKEYS_LOW)
    poll = await waiting.one_poll(alice)
    success(await claim(bob, alice))
    assert success(await poll)["contacts_changed"]
    assert await waiting_of(alice) == (PREKEYS_LOW - 1, PREKEYS_LOW - 1)
    success(await claim(bob, alice))
    assert not (await alice.poll(0))["contacts_changed"]


async def test_the_owner_is_told_of_the_last_one_of_either_sort(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    await stocked(alice, 0)
    success(await publish(alice, {"one_time_kem_prekeys": [one_time_kem(alice) for _ in range(2)]}))
    success(await claim(bob, alice))
    assert not (await alice.poll(0))["contacts_changed"]
    success(await claim(bob, alice))
    assert (await alice.poll(0))["contacts_changed"]
    success(await claim(bob, alice))
    assert not (await alice.poll(0))["contacts_changed"]


async def test_claims_at_once_tell_the_owner_all_the_same(open_http: list[httpx.AsyncClient]) -> None:
    alice = await person(open_http[0])
    await stocked(alice, PREKEYS_LOW + 2)
    await alice.drain()
    claimants = [await person(open_http[number % 2]) for number in range(6)]
    for answer in await asyncio.gather(*(claim(each, alice) for each in claimants)):
        success(answer)
    assert (await alice.poll(0))["contacts_changed"]


# What ends them


async def test_a_new_identity_key_leaves_no_prekey_of_the_old_one(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    old = upload_of(alice, 3)
    success(await publish(alice, old))
    success(await claim(bob, alice))
    await rotate(alice)
    assert await rows_of(database, alice) == NOTHING | {"prekey_claims": 1}
    refusal(await claim(bob, alice), 404, "no_prekeys")
    refusal(await publish(alice, old), 400, "invalid_signature")
    success(await publish(alice, upload_of(alice)))
    demand_signed(success(await claim(bob, alice)), alice)


async def test_prekeys_checked_under_an_identity_key_that_is_replaced_meanwhile_are_not_stored(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await person(http)
    checked, rotated, check = threading.Event(), threading.Event(), service._checked

    def check_and_wait(*given: Any) -> Any:
        offer = check(*given)
        checked.set()
        assert rotated.wait(30)
        return offer

    monkeypatch.setattr(service, "_checked", check_and_wait)
    publishing = asyncio.create_task(publish(alice, upload_of(alice, 2)))
    assert await asyncio.to_thread(checked.wait, 30)
    await rotate(alice)
    rotated.set()
    refusal(await publishing, 409, "conflict")
    assert await rows_of(database, alice) == NOTHING


async def test_rotations_and_uploads_at_once_leave_no_foreign_signature(http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    for _ in range(5):
        await asyncio.gather(publish(alice, upload_of(alice)), rotate(alice))
        answer = await claim(bob, alice)
        if answer.status_code != 404:
            demand_signed(success(answer), alice)


async def test_a_deleted_account_leaves_no_prekeys_and_no_counts(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    for one, other in ((alice, bob), (bob, alice)):
        success(await publish(one, upload_of(one, 2)))
        success(await claim(other, one))
    signature = sign(alice.ecdsa, transcripts.delete_account(UUID(alice.id)))
    success(await alice.call("DELETE", "/auth/me", {"signature": signature}))
    assert await rows_of(database, alice) == NOTHING
    assert (await rows_of(database, bob))["prekey_claims"] == 0
    refusal(await claim(bob, alice), 403, "not_a_contact")


async def test_a_claim_takes_the_key_itself_out_of_the_table(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    success(await publish(alice, upload_of(alice)))
    success(await claim(bob, alice))
    rows = await database.fetch("SELECT * FROM one_time_prekeys WHERE user_id = $1", UUID(alice.id))
    assert len(rows) == 2
    assert {(row["public_key"], row["signature"]) for row in rows} == {(None, None)}
