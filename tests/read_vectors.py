"""The published vectors as a test reads them: from the files, which are all that a second implementation has."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

VECTORS: Final = Path(__file__).parent.parent / "spec" / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def vectors_of(content: Any) -> list[dict[str, Any]]:
    """Return the vectors of a file: some files say first what all of theirs have in common."""
    found: list[dict[str, Any]] = content if isinstance(content, list) else content["vectors"]
    return found


def by_name(name: str) -> pytest.MarkDecorator:
    vectors = vectors_of(load(name))
    return pytest.mark.parametrize("vector", vectors, ids=[each["name"] for each in vectors])


def is_good(vector: dict[str, Any], failure: str) -> bool:
    """Tell whether a vector is to pass; if not, it must be one of this failure."""
    assert vector["result"] in {"ok", failure}
    return bool(vector["result"] == "ok")
