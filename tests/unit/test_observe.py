"""What is made of metrics: figures as Prometheus reckons them, and files for its users that name real metrics alone."""

import json
import re
from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml

from blindpost.bench import svg
from blindpost.observe.page import Page
from blindpost.observe.panels import PANELS, Kind, Series, grafana

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "blindpost.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DOCUMENTED = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
PARTS = re.compile(r"_(bucket|sum|count)$")
BEFORE = """\
# TYPE calls_total counter
calls_total{route="/a",status="200",worker="1"} 10
calls_total{route="/a",status="500",worker="1"} 1
calls_total{route="/a",status="200",worker="2"} 70
# TYPE took histogram
took_bucket{route="/a",le="0.1"} 5
took_bucket{route="/a",le="0.2"} 5
took_bucket{route="/a",le="+Inf"} 5
took_sum{route="/a"} 1
took_count{route="/a"} 5
# TYPE wait gauge
wait{worker="1"} 3
wait{worker="2"} 4
"""
AFTER = """\
# TYPE calls_total counter
calls_total{route="/a",status="200",worker="1"} 30
calls_total{route="/a",status="500",worker="1"} 1
calls_total{route="/a",status="200",worker="2"} 6
calls_total{route="/b",status="200",worker="2"} 2
# TYPE took histogram
took_bucket{route="/a",le="0.1"} 55
took_bucket{route="/a",le="0.2"} 105
took_bucket{route="/a",le="+Inf"} 105
took_sum{route="/a"} 11
took_count{route="/a"} 105
# TYPE wait gauge
wait{worker="1"} 5
wait{worker="2"} 5
"""


@pytest.fixture
def pages() -> tuple[Page, Page]:
    return Page.read(BEFORE, 100.0), Page.read(AFTER, 102.0)


def test_rates_are_added_up_over_what_is_not_asked_for(pages: tuple[Page, Page]) -> None:
    since, page = pages
    assert page.rate(since, "calls_total", "route") == {("/a",): 13.0, ("/b",): 1.0}


def test_a_counter_that_began_anew_counts_from_zero(pages: tuple[Page, Page]) -> None:
    since, page = pages
    assert page.increase(since, "calls_total", "worker", "status")["2", "200"] == 8


def test_a_quantile_lies_within_its_bucket_as_if_all_were_spread_evenly(pages: tuple[Page, Page]) -> None:
    since, page = pages
    assert page.quantile(since, 0.5, "took", "route") == {("/a",): pytest.approx(0.1)}
    assert page.quantile(since, 0.75, "took", "route") == {("/a",): pytest.approx(0.15)}
    assert page.quantile(page, 0.5, "took", "route") == {}


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    empty = Page(0, ())
    page = Page.read('# TYPE took histogram\ntook_bucket{le="1"} 1\ntook_bucket{le="+Inf"} 10\n', 1)
    assert page.quantile(empty, 0.99, "took") == {(): 1.0}
    assert inf not in page.quantile(empty, 0.99, "took").values()


def test_means_and_levels(pages: tuple[Page, Page]) -> None:
    since, page = pages
    assert page.mean(since, "took") == {(): pytest.approx(0.1)}
    assert page.level("wait") == {(): 10.0}


def test_what_is_no_page_of_metrics_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid"):
        Page.read("<html> not one", 0)


# Files for Prometheus and Grafana


def named_in(text: str) -> set[str]:
    names = set(re.findall(r"\bblindpost_\w+", text))
    return {name if name in DOCUMENTED else PARTS.sub("", name) for name in names}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_the_dashboard_names_documented_metrics_alone() -> None:
    named = named_in(DASHBOARD.read_text())
    assert len(named) > 15
    assert named <= DOCUMENTED


def test_the_alerts_name_documented_metrics_alone() -> None:
    named = {name for rule in rules() for name in named_in(rule["expr"] + str(rule["annotations"]))}
    assert len(named) > 10
    assert named <= DOCUMENTED


def test_the_dashboard_is_the_one_that_the_panels_make() -> None:
    """./task dashboard writes it anew."""
    assert DASHBOARD.read_text() == grafana()


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_no_panel_lies_on_another() -> None:
    places = [each["gridPos"] for each in json.loads(DASHBOARD.read_text())["panels"]]
    taken = {
        (x, y)
        for each in places
        for x in range(each["x"], each["x"] + each["w"])
        for y in range(each["y"], each["y"] + each["h"])
    }
    assert len(taken) == sum(each["w"] * each["h"] for each in places)
    assert max(x for x, _ in taken) < 24


def test_a_panel_is_asked_of_prometheus_as_it_is_reckoned_here(pages: tuple[Page, Page]) -> None:
    since, page = pages
    rate = Series(Kind.RATE, "calls_total", "route")
    assert rate.query() == 'sum by (route)(rate(calls_total{job=~"$job"}[$__rate_interval]))'
    assert rate.legend == "{{route}}"
    assert rate.figures(page, since) == {"/a": 13.0, "/b": 1.0}
    quantile = Series(Kind.P99, "took", "route", "p99")
    assert quantile.query().startswith("histogram_quantile(0.99, sum by (le, route)(rate(took_bucket{")
    assert quantile.figures(page, since) == {"/a p99": pytest.approx(0.198)}
    assert Series(Kind.LEVEL, "wait", name="all").figures(page, since) == {"all": 10.0}


def test_a_drawing_has_every_panel_and_every_line() -> None:
    drawn = svg.panels("All", [(each.title, each.unit, {"one": [(0, 1), (1, 2)], "two": []}) for each in PANELS])
    assert drawn.count("<polyline") == 2 * len(PANELS)
    for panel in PANELS:
        assert f">{panel.title}, " in drawn


def test_the_picture_in_the_documentation_has_the_panels_of_the_dashboard() -> None:
    picture = (ROOT / "docs" / "dashboard.svg").read_text()
    for panel in PANELS:
        assert f">{panel.title}, " in picture
