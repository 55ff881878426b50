"""Metrics count by route and status, and by nothing that a client can choose; each is documented."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from uuid import uuid4

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from blindpost.app import Running
from blindpost.workers.metrics import AllWorkers, Told
from checks import refusal
from support import contacts, person, unique_name

TABLE = Path(__file__).parents[2].joinpath("docs", "metrics.md").read_text()
ROWS = [line for line in TABLE.splitlines() if line.startswith("| `")]
DOCUMENTED = {row.split("`")[1]: set(re.findall(r"`(\w+)`", row.split(" | ")[1])) for row in ROWS}
"""The labels of each metric in the table."""


async def page_of(router: Running) -> dict[str, Metric]:
    """Return what a router exports, by the names that are asked for."""
    async with httpx.AsyncClient() as scraper:
        return by_name(text_string_to_metric_families((await scraper.get(router.metrics)).text))


def by_name(found: Iterable[Metric]) -> dict[str, Metric]:
    named = {each.name + ("_total" if each.type == "counter" else ""): each for each in found}
    return {name: each for name, each in named.items() if not name.endswith("_created")}


def value(page: dict[str, Metric], name: str, **labels: str) -> float:
    return sum(each.value for each in page[name].samples if each.name == name and each.labels == labels)


async def test_no_label_is_made_of_what_a_client_sends(router: Running, http: httpx.AsyncClient) -> None:
    alice = await person(http)
    invented = uuid4().hex
    await alice.get("/contacts/search-users", username=alice.name)
    await alice.get(f"/auth/public-keys/{alice.id}")
    await http.get(f"/auth/challenge/{unique_name(invented[:8])}")
    await http.get(f"/{invented}?{invented}")
    for method in (invented.upper(), "PROPFIND", "UNLOCK"):
        await http.request(method, "/auth/me", headers={"User-Agent": invented})
    async with httpx.AsyncClient() as scraper:
        text = (await scraper.get(router.metrics)).text.lower()
    assert 'route="/auth/challenge/{username}"' in text
    assert 'method="other"' in text
    for value in (alice.name, alice.id, invented, invented[:8], "propfind", "unlock"):
        assert value.lower() not in text


async def test_every_metric_is_documented_and_every_documented_one_is_there(router: Running) -> None:
    async def nobody() -> Mapping[int, Told]:
        return {}

    supervisors = AllWorkers(nobody)
    of_workers = by_name(await asyncio.to_thread(lambda: list(supervisors.collect())))
    assert sorted(DOCUMENTED) == sorted({*await page_of(router), *of_workers})


async def test_the_labels_of_each_metric_are_the_documented_ones(router: Running, http: httpx.AsyncClient) -> None:
    alice, bob = await contacts(http)
    await alice.send(bob)
    refusal(await http.get("/auth/me"), 401)
    for name, metric in (await page_of(router)).items():
        for sample in metric.samples:
            assert sample.labels.keys() - {"le"} == DOCUMENTED[name], name


async def test_errors_are_counted_by_code_and_flushes_and_the_pool_are_seen(
    router: Running, http: httpx.AsyncClient
) -> None:
    before = await page_of(router)
    alice, bob = await contacts(http)
    await alice.send(bob)
    refusal(await http.get("/auth/me"), 401, "not_authenticated")
    after = await page_of(router)
    code = {"code": "not_authenticated"}
    assert value(after, "blindpost_problems_total", **code) == value(before, "blindpost_problems_total", **code) + 1
    assert value(after, "blindpost_write_queue", kind="send") == 0
    assert 0 <= value(after, "blindpost_pool_in_use") <= value(after, "blindpost_pool_size")
    counts = {each.labels["kind"] for each in after["blindpost_flush_seconds"].samples if each.name.endswith("_count")}
    assert "send" in counts
