"""The terminal tells of a changed key at once, once, and asks no more than it must."""

import asyncio
from uuid import UUID

import pytest

from blindpost.cli import people
from blindpost.client import Client, KeyChanged
from lying_router import LyingRouter


async def test_a_changed_key_is_told_at_once_and_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Further news within a while makes one look more, later: a stranger's requests must not use up our questions."""
    looks = 0
    change = KeyChanged(UUID(int=2), "bob", old_number="1" * 60, new_number="2" * 60)

    async def distrusted(_: Client) -> dict[UUID, KeyChanged]:
        nonlocal looks
        looks += 1
        return {change.user_id: change}

    monkeypatch.setattr(Client, "distrusted", distrusted)
    monkeypatch.setattr(people, "LOOK_PAUSE_S", 0.05)
    alice, _ = await LyingRouter().account("alice")
    news = people.KeyNews(alice)
    await news.tell()
    assert "identity key of bob changed" in capsys.readouterr().err
    for _ in range(5):
        await news.tell()
    assert (looks, news._later is None) == (1, False)
    assert news._later
    await asyncio.wait_for(news._later, 5)
    assert looks == 2
    assert capsys.readouterr().err == ""
