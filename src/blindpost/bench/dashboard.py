"""The dashboard: written for Grafana, and drawn from half a minute of a real router, without Grafana.

`python -m blindpost.bench.dashboard DOCS DEPLOY` (./task dashboard) writes DOCS/dashboard.svg and
DEPLOY/grafana/blindpost.json.
"""

import asyncio
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Final

import httpx
from pydantic import SecretStr

from blindpost.bench import svg
from blindpost.bench.ground import QUICK, Ground
from blindpost.bench.people import Registry
from blindpost.bench.routers import Process
from blindpost.bench.stream import TRANSPORTS, unless_failed
from blindpost.bench.talks import Talk, Tally
from blindpost.config import Settings
from blindpost.core.embedded import EmbeddedStores
from blindpost.observe.page import Page
from blindpost.observe.panels import PANELS, grafana

STEP_S: Final = 1.0
LOAD: Final = (("poll", 2), ("websocket", 4), ("events", 2), ("websocket", 12))
"""What joins the talk, and how many pairs, one after the other."""
PHASE: Final = 6
"""Pages that are read after each of them."""
UNITS: Final = {"reqps": "per second", "ops": "per second", "s": "seconds", "short": "number", "percentunit": "part"}


async def record(ground: Ground) -> list[Page]:
    """Read a router's metrics every second, while more and more people talk."""
    pages: list[Page] = []
    async with AsyncExitStack() as stack:
        router = await stack.enter_async_context(ground.router())
        registry = await stack.enter_async_context(ground.registry())
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=router.origin))
        tally = Tally()
        talks: list[Talk] = []
        try:
            for transport, count in LOAD:
                talks += await _more_talks(registry, router, tally, transport, count)
                await unless_failed(_watch(router, http, pages), tally)
        finally:
            for talk in talks:
                talk.way.close()
    return pages


async def _more_talks(registry: Registry, router: Process, tally: Tally, transport: str, count: int) -> list[Talk]:
    talks = [Talk(pair, tally, TRANSPORTS[transport]) for pair in await registry.pairs(count)]
    for talk in talks:
        await talk.way.open(router.origin, router.origin)
        talk.start()
    return talks


async def _watch(router: Process, http: httpx.AsyncClient, pages: list[Page]) -> None:
    for _ in range(PHASE):
        pages.append(await read_page(http, router.metrics))
        await http.get("/auth/me")  # a stranger, so that there is an error to be seen
        await asyncio.sleep(STEP_S)


async def read_page(http: httpx.AsyncClient, url: str) -> Page:
    """Read a router's metrics."""
    return Page.read((await http.get(url)).text, monotonic())


def draw(pages: Sequence[Page]) -> str:
    """Draw what the panels show of these pages, one point for each page after the first."""
    found = []
    for panel in PANELS:
        lines: dict[str, list[svg.Point]] = defaultdict(list)
        for since, page in pairwise(pages):
            for series in panel.series:
                for name, value in series.figures(page, since).items():
                    lines[name].append((page.at - pages[0].at, value))
        found.append((panel.title, UNITS[panel.unit], dict(sorted(lines.items()))))
    return svg.panels("The panels of deploy/grafana/blindpost.json, from a short run, drawn without Grafana", found)


def main(docs: Path, deploy: Path) -> None:
    """Write both."""
    (deploy / "grafana" / "blindpost.json").write_text(grafana())
    with tempfile.TemporaryDirectory(prefix="blindpost-") as path, EmbeddedStores(Path(path)) as urls:
        settings = Settings(
            data_dir=Path(path),
            port=0,
            database_url=SecretStr(str(urls.database_url)),
            redis_url=SecretStr(str(urls.redis_url)),
        )
        pages = asyncio.run(record(Ground(settings, QUICK, print)))
    (docs / "dashboard.svg").write_text(draw(pages))


if __name__ == "__main__":
    main(*(Path(each) for each in sys.argv[1:]))
