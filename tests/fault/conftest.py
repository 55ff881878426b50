"""Stores that a test may break, and routers on databases of their own."""

from collections.abc import Iterator

import pytest

from blindpost.config import WakeUp
from blindpost.core.embedded import StoreUrls
from fault.servers import Handmade, fresh_database, handmade


@pytest.fixture
async def own_database(stores: StoreUrls) -> StoreUrls:
    """The worker's stores, with a database that no other test's router listens in."""
    return await fresh_database(stores)


@pytest.fixture(params=WakeUp)
def bus(request: pytest.FixtureRequest) -> WakeUp:
    """Each wake-up bus: whatever is told of real time holds with both."""
    return WakeUp(request.param)


@pytest.fixture(scope="session")
def breakable() -> Iterator[Handmade]:
    """One pair of servers per worker; whoever uses it asks for `servers`, which brings them back first."""
    with handmade() as both:
        yield both


@pytest.fixture
def servers(breakable: Handmade) -> Iterator[Handmade]:
    breakable.up()
    yield breakable
    breakable.up()
