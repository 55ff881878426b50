"""A router that runs, seen from another terminal by whoever runs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from blindpost.cli import whereabouts
from e2e.test_serve import Served, blindpost


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("operator")
    served = Served(path / "data", path / "errors", waiting_max=100)
    yield served
    served.process.terminate()
    served.process.wait(20)
    served.end()
    assert whereabouts.find(path / "data") is None


@pytest.fixture
def data_dir(served: Served) -> Path:
    return served._log.parent / "data"


def test_the_doctor_looks_at_a_router_while_it_runs_on_embedded_stores(served: Served, data_dir: Path) -> None:
    result = blindpost("doctor", data_dir=data_dir, waiting_max=100)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"answers at {served.origin}, and so do its stores" in result.stdout
    assert "1 of 1 processes hear" in result.stdout
    assert "no message waits" in result.stdout
    assert "the newest" in result.stdout
    assert "not checked" not in result.stdout


def test_top_finds_the_router_of_the_data_directory(served: Served, data_dir: Path) -> None:
    result = blindpost("top", "--once", "--every", "0.5", data_dir=data_dir)
    assert result.returncode == 0, result.stderr
    assert "1 of 1" in result.stdout
    assert served.process.poll() is None
