"""The key that signs tokens is replaced: nobody notices, or everybody logs in again, as the operator chose."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from blindpost.app import Running
from blindpost.cli import program
from blindpost.core import token_key, tokens
from blindpost.core.embedded import StoreUrls
from blindpost.core.tokens import Tokens
from blindpost.errors import ConfigurationError
from checks import client_of, refusal, success, until
from support import Person, person, running_in_thread, settings_for

if TYPE_CHECKING:
    import asyncpg

HOUR_S = 3_600


@pytest.fixture
def node_dir(tmp_path: Path) -> Path:
    return tmp_path / "node"


@pytest.fixture
def node(stores: StoreUrls, node_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(tokens, "REFRESH_S", 0.05)
    with running_in_thread(settings_for(stores, node_dir)) as running:
        yield running


@pytest.fixture
async def node_http(node: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(node) as client:
        yield client


def key_id_of(someone: Person) -> str:
    return str(jwt.get_unverified_header(someone.token)["kid"])


async def taken(node: Running, key_id: str) -> None:
    """Wait until a node signs with a key."""
    of_node = await node.container.get(Tokens)
    await until(lambda: of_node._key_id == key_id)


async def test_a_rotation_is_taken_by_the_running_router_and_nobody_notices(
    node: Running, node_http: httpx.AsyncClient, node_dir: Path, second_http: httpx.AsyncClient
) -> None:
    before = await person(node_http)
    old = token_key.load_or_make(node_dir)
    new = token_key.rotate(node_dir, HOUR_S)
    assert new.retired.keys() == {old.id}
    await taken(node, new.id)
    after = await person(node_http)
    assert (key_id_of(before), key_id_of(after)) == (old.id, new.id)
    for someone in (before, after):
        success(await someone.get("/auth/me"))
        success(await someone.at(second_http).get("/auth/me"))


async def test_workers_who_share_the_key_file_all_take_the_new_key(
    stores: StoreUrls, node: Running, node_http: httpx.AsyncClient, node_dir: Path
) -> None:
    with running_in_thread(settings_for(stores, node_dir)) as twin:
        async with client_of(twin) as twin_http:
            before = await person(twin_http)
            new = token_key.rotate(node_dir, HOUR_S)
            await taken(node, new.id)
            await taken(twin, new.id)
            after = await person(twin_http)
            assert key_id_of(after) == new.id
            for someone in (before, after):
                success(await someone.get("/auth/me"))
                success(await someone.at(node_http).get("/auth/me"))


async def test_after_the_overlap_tokens_of_the_old_key_are_refused_and_its_public_half_is_gone(
    node: Running, node_http: httpx.AsyncClient, node_dir: Path, database: "asyncpg.Connection[Any]"
) -> None:
    before = await person(node_http)
    success(await before.get("/auth/me"))
    old = token_key.load_or_make(node_dir)
    await taken(node, token_key.rotate(node_dir, 1).id)
    of_node = await node.container.get(Tokens)
    await until(lambda: old.id not in of_node._public_keys)
    refusal(await before.get("/auth/me"), 401, "not_authenticated")
    assert await database.fetchval("SELECT count(*) FROM token_keys WHERE id = $1", old.id) == 0


async def test_a_rotation_at_once_ends_what_the_old_key_signed(
    node: Running, node_http: httpx.AsyncClient, node_dir: Path
) -> None:
    before = await person(node_http)
    success(await before.get("/auth/me"))
    await taken(node, token_key.rotate(node_dir, 0).id)
    refusal(await before.get("/auth/me"), 401, "not_authenticated")
    await before.login()
    success(await before.get("/auth/me"))


async def test_a_key_rotated_while_the_router_was_away_is_retired_when_it_is_back(
    stores: StoreUrls, node_dir: Path, second_http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    with running_in_thread(settings_for(stores, node_dir)) as running:
        async with client_of(running) as http:
            before = await person(http)
    old = token_key.load_or_make(node_dir)
    token_key.rotate(node_dir, HOUR_S)
    token_key.rotate(node_dir, HOUR_S)
    with running_in_thread(settings_for(stores, node_dir)):
        success(await before.at(second_http).get("/auth/me"))
        retires = await database.fetchval("SELECT retires_at FROM token_keys WHERE id = $1", old.id)
        assert abs(retires.timestamp() - time.time() - HOUR_S) < 300


async def test_tokens_of_many_unknown_keys_ask_the_database_once_a_second(
    router: Running, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_node = await router.container.get(Tokens)
    alice = await person(http)
    claims = jwt.decode(alice.token, options={"verify_signature": False})
    reads = 0
    refresh = of_node.refresh

    async def counted() -> None:
        nonlocal reads
        reads += 1
        await refresh()

    monkeypatch.setattr(of_node, "refresh", counted)
    began = time.monotonic()
    forged = [
        jwt.encode(claims, "x" * 32, "HS256", headers={"typ": "at+jwt", "kid": f"{number:032x}"})
        for number in range(50)
    ]
    for answer in await asyncio.gather(*(http.get("/auth/me", headers={"Authorization": f"DPoP {f}"}) for f in forged)):
        refusal(answer, 401, "not_authenticated")
    # Beside those that the node makes by itself.
    assert 1 <= reads <= (time.monotonic() - began) * (1 + 1 / tokens.REFRESH_S) + 2


# The file


def test_the_file_is_the_owners_alone_and_holds_no_old_private_key(tmp_path: Path) -> None:
    old = token_key.load_or_make(tmp_path)
    new = token_key.rotate(tmp_path, HOUR_S)
    path = tmp_path / token_key.KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert token_key.load_or_make(tmp_path).id == new.id != old.id
    assert path.read_text().count("BEGIN PRIVATE KEY") == 1


def test_rotations_are_remembered_in_turn_and_for_as_long_as_a_token_can_live(tmp_path: Path) -> None:
    ids = [token_key.load_or_make(tmp_path).id]
    ids += [token_key.rotate(tmp_path, HOUR_S).id for _ in range(3)]
    assert list(token_key.load_or_make(tmp_path).retired) == ids[:3]
    token_key.rotate(tmp_path, -token_key.REMEMBERED_S)
    last = token_key.rotate(tmp_path, HOUR_S)
    assert ids[3] not in last.retired
    assert set(ids[:3]) < set(last.retired)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o666])
def test_a_key_that_others_can_read_stops_the_start_with_a_sentence(tmp_path: Path, mode: int) -> None:
    token_key.load_or_make(tmp_path)
    (tmp_path / token_key.KEY_FILE).chmod(mode)
    with pytest.raises(ConfigurationError, match="others can read") as caught:
        token_key.load_or_make(tmp_path)
    assert caught.value.hint.startswith("chmod 600 ")


WEAK = {
    "empty": b"",
    "text": b"secret",
    "another curve": ec.generate_private_key(ec.SECP384R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    ),
    "half": ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())[
        :100
    ],
}


@pytest.mark.parametrize("content", WEAK.values(), ids=WEAK)
def test_a_key_that_is_none_stops_the_start_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / token_key.KEY_FILE
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a P-256 private key"):
        token_key.load_or_make(tmp_path)
    assert path.read_bytes() == content


def test_a_key_behind_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    token_key.load_or_make(elsewhere)
    (tmp_path / token_key.KEY_FILE).symlink_to(elsewhere / token_key.KEY_FILE)
    with pytest.raises(ConfigurationError):
        token_key.load_or_make(tmp_path)


def test_the_command_replaces_the_key_and_says_for_how_long_the_old_one_counts(tmp_path: Path) -> None:
    old = token_key.load_or_make(tmp_path)
    for option, says in ((), "12 hours"), (("--at-once",), "refused"):
        result = CliRunner().invoke(program("keys"), ["keys", "rotate", "--data-dir", str(tmp_path), *option])
        assert result.exit_code == 0, result.output
        assert says in result.output
    assert old.id in token_key.load_or_make(tmp_path).retired
