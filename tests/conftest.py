"""Real stores and a real router, once per worker; every test makes people of its own."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import settings

from blindpost.app import Running
from blindpost.core.embedded import EmbeddedStores, StoreUrls
from checks import client_of
from support import running_in_thread, settings_for

# How long an example takes is the machine's affair, and no rule of ours.
settings.register_profile("blindpost", deadline=None)
settings.load_profile("blindpost")


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    """A directory whose path is short, as Unix sockets need it, and that goes with the worker."""
    path = Path(tempfile.mkdtemp(prefix="bp-test-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def stores(data_dir: Path) -> Iterator[StoreUrls]:
    with EmbeddedStores(data_dir / "stores") as urls:
        yield urls


@pytest.fixture(scope="session")
def router(stores: StoreUrls, data_dir: Path) -> Iterator[Running]:
    with running_in_thread(settings_for(stores, data_dir / "node")) as running:
        yield running


@pytest.fixture
async def http(router: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the worker's router."""
    async with client_of(router) as client:
        yield client
