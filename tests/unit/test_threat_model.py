"""What spec/threat-model.md cites exists, and every line of its last table is held, or says that it is not."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "spec" / "threat-model.md"
TEXT = DOCUMENT.read_text("utf-8")
TABLE = TEXT.partition("\n## Where it is held\n")[2]
# `tests/file.py::name`, a bare file, or `::name`, which is in the file that was cited last.
CITED = re.compile(r"`(tests/[\w/.-]+)?(?:::(\w+))?`")
SOURCE = re.compile(r"`((?:protocol|core|services|routers|client|cli)/[\w/.-]+\.py|(?:app|config|telemetry|tls)\.py)`")


@cache
def names_in(path: Path) -> frozenset[str]:
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def citations() -> list[tuple[str, str | None]]:
    """Return each cited file, with the test in it, if one is named."""
    found: list[tuple[str, str | None]] = []
    for line in TEXT.splitlines():
        file = ""
        for match in CITED.finditer(line):
            if match[1] is None and match[2] is None:
                continue
            file = match[1] or file
            assert file, f"`::{match[2]}` follows no file: {line[:80]}"
            found.append((file, match[2]))
    return found


def rows() -> list[list[str]]:
    lines = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_test_that_is_cited_exists() -> None:
    found = citations()
    assert len(found) > 150
    missing = [file for file, _ in found if not (ROOT / file).is_file()]
    missing += [f"{file}::{name}" for file, name in found if file not in missing and name and not _has(file, name)]
    assert not missing


def _has(file: str, name: str) -> bool:
    return name.startswith("test_") and name in names_in(ROOT / file)


def test_every_source_that_is_cited_exists() -> None:
    found = SOURCE.findall(TEXT)
    assert len(found) > 40
    assert not [file for file in found if not (ROOT / "src" / "blindpost" / file).is_file()]


def test_every_attack_is_shown_to_be_held_or_said_not_to_be() -> None:
    attacks = [row for row in rows() if row[0] != "attack"]
    assert len(attacks) > 60
    for row in attacks:
        assert len(row) == 3, row
        assert all(row), row
        is_shown = CITED.search(row[2]) is not None
        assert is_shown or row[2].startswith("no test: "), row


def test_a_reader_is_told_what_the_words_do_not_mean() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for text in (TEXT, readme):
        words = " ".join(text.split())
        assert "no zero-knowledge proofs" in words
        assert "forward secrecy" in words
        assert "quantum computer" in words
        assert "who writes to whom" in words
    assert "can prove it to nobody" in " ".join(TEXT.split())
