"""What is done at the router reaches the audit, under pseudonyms, and through no other way."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest

from blindpost.app import Running
from blindpost.core.audit import ADDRESS, SUBJECT, Event
from blindpost.core.embedded import StoreUrls
from blindpost.core.pseudonyms import pseudonym
from blindpost.protocol import transcripts
from blindpost.services import prekeys
from checks import PATIENCE_S, another_session, client_of, refusal, session_of, success
from prekeys import upload_of
from support import Person, Signed, b64, contacts, new_key, person, public, running_in_thread, settings_for, sign

if TYPE_CHECKING:
    import asyncpg


@pytest.fixture
def audited(stores: StoreUrls, tmp_path: Path) -> Iterator[Running]:
    with running_in_thread(settings_for(stores, tmp_path / "audited")) as running:
        yield running


@pytest.fixture
async def to_audited(audited: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(audited) as client:
        yield client


class Noted:
    """What a router wrote to the audit."""

    def __init__(self, database: "asyncpg.Connection[Any]") -> None:
        self._database = database

    async def pseudonym(self, *whom: str) -> bytes:
        """Make a pseudonym of today; the router makes the day's key when it first needs it."""
        key = await self._eventually("SELECT key FROM pseudonym_keys ORDER BY day DESC LIMIT 1")
        return pseudonym(key["key"], *whom)

    async def of(self, event: Event, subject: str) -> Any:
        """Wait for the row of an event and a subject: the router writes about once a second."""
        query = "SELECT * FROM audit WHERE event = $1 AND subject = $2"
        return await self._eventually(query, event.value, await self.pseudonym(SUBJECT, subject))

    async def _eventually(self, query: str, *arguments: Any) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while (row := await self._database.fetchrow(query, *arguments)) is None:  # noqa: ASYNC110 - of another thread
                await asyncio.sleep(0.05)
        return row

    async def address(self) -> bytes:
        return await self.pseudonym(ADDRESS, "127.0.0.1")


@pytest.fixture
def noted(database: "asyncpg.Connection[Any]") -> Noted:
    return Noted(database)


async def test_a_failed_login_is_noted_by_name_and_address_known_or_not(
    to_audited: httpx.AsyncClient, noted: Noted
) -> None:
    known, unknown = await Person(to_audited).register(), Person(to_audited)
    for someone in (known, unknown):
        body = {"username": someone.name.upper(), "challenge": "x", "signature": b64(b"x")}
        refusal(await to_audited.post("/auth/login", json=body, auth=Signed()), 401, "login_failed")
        row = await noted.of(Event.LOGIN_FAILED, someone.name.lower())
        assert row["address"] == await noted.address()
        assert row["count"] == 1


async def test_what_changes_an_account_is_noted_by_its_id(to_audited: httpx.AsyncClient, noted: Noted) -> None:
    alice = await person(to_audited)
    key = new_key()
    signature = sign(alice.ecdsa, transcripts.register(alice.name, public(alice.ecdsa), public(key)))
    update = {"ecdh_public_key": public(key).pem, "ecdh_signature": signature}
    success(await alice.put("/auth/ecdh-update-key", **update))
    phone = await another_session(alice)
    success(await alice.call("DELETE", f"/auth/sessions/{session_of(phone)}"))
    deletion = {"signature": sign(alice.ecdsa, transcripts.delete_account(UUID(alice.id)))}
    success(await alice.call("DELETE", "/auth/me", deletion))
    for event in (Event.ENCRYPTION_KEY_CHANGED, Event.SESSIONS_ENDED, Event.ACCOUNT_DELETED):
        row = await noted.of(event, alice.id)
        assert row["at"].minute == row["at"].second == 0


async def test_a_limit_that_is_hit_is_noted(stores: StoreUrls, tmp_path: Path, noted: Noted) -> None:
    with running_in_thread(settings_for(stores, tmp_path / "limited", rate_limits="on")) as limited:
        async with client_of(limited) as http:
            alice = await person(http)
            answers = [await alice.call("DELETE", "/auth/me", {"signature": b64(b"x")}) for _ in range(11)]
        assert answers[-1].status_code == 429
        assert (await noted.of(Event.LIMIT_HIT, alice.id))["count"] >= 1


async def test_a_contact_who_claims_too_many_prekeys_is_noted(
    to_audited: httpx.AsyncClient, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prekeys, "CLAIMS_MAX", 1)
    alice, mallory = await contacts(to_audited)
    success(await alice.call("POST", "/keys", upload_of(alice)))
    success(await mallory.post("/keys/claim", user_id=alice.id))
    refusal(await mallory.post("/keys/claim", user_id=alice.id), 429, "too_many_requests")
    assert (await noted.of(Event.LIMIT_HIT, mallory.id))["count"] == 1
