"""The vectors under a second implementation, which was written from the specification alone."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from read_vectors import vectors_of

SPEC = Path(__file__).parents[2] / "spec"
OLDEST_NODE = (20, 19)


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("spec")
    version = run("node", "--version", folder=folder).stdout.strip()
    if tuple(int(part) for part in version.removeprefix("v").split(".")[:2]) < OLDEST_NODE:
        pytest.skip(f"node {version} is older than {'.'.join(map(str, OLDEST_NODE))}")
    shutil.copytree(SPEC / "checker", folder / "checker", ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(SPEC / "vectors", folder / "vectors")
    installed = run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", folder=folder / "checker")
    if installed.returncode:
        said = installed.stderr
        if any(code in said for code in ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH")):
            pytest.skip(f"no network to install from: {said.splitlines()[0]}")
        pytest.fail(said)
    return folder


def files() -> list[Path]:
    return sorted((SPEC / "vectors").glob("*.json"))


def check(spec: Path, vectors: Path) -> subprocess.CompletedProcess[str]:
    return run("node", "check.mjs", str(vectors), folder=spec / "checker")


def texts(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str, tuple[str | int, ...]]]:
    """Each text in a vector, with where it stands."""
    if isinstance(value, str):
        return [(value, path)] if path[-1] not in {"name", "result"} else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [text for key, each in inner for text in texts(each, (*path, key))]


def spoil(vector: dict[str, Any]) -> None:
    """Changes one character in the middle of the longest text."""
    text, (*way, last) = max(texts(vector), key=lambda found: len(found[0]))
    middle = len(text) // 2
    other = "1" if text[middle] == "0" else "0"
    holder: Any = vector
    for key in way:
        holder = holder[key]
    holder[last] = text[:middle] + other + text[middle + 1 :]


def test_each_vector_holds_in_an_implementation_that_was_written_from_the_specification(spec: Path) -> None:
    result = check(spec, spec / "vectors")

    assert result.returncode == 0, result.stderr
    for path in files():
        count = len(vectors_of(json.loads(path.read_text())))
        assert f"{path.name}: {count} vectors" in result.stdout


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_a_good_vector_that_was_altered_does_not_hold(path: Path, spec: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text())
    vectors = vectors_of(content)
    position, good = next(each for each in enumerate(vectors, 1) if each[1].get("result", "ok") == "ok")
    spoil(good)
    (tmp_path / path.name).write_text(json.dumps(content))

    result = check(spec, tmp_path)

    assert result.returncode == 1, result.stdout
    assert f"{path.name}: {position} ({good['name']})" in result.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [("unheard_of.json", '[{"name": "x"}]'), ("keys.json", "[]"), ("keys.json", ""), ("keys.txt", "[]")],
)
def test_a_file_that_cannot_be_checked_is_a_fault(name: str, content: str, spec: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)

    result = check(spec, tmp_path)

    assert result.returncode == 1
    assert name in result.stderr


def test_no_vectors_at_all_are_a_fault(spec: Path, tmp_path: Path) -> None:
    assert check(spec, tmp_path).returncode == 1
