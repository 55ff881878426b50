"""Where a running router of this data directory is: `serve` notes it there, for `top` and `doctor` to find."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from blindpost.app import Served

FILE: Final = "serving.json"


class Whereabouts(NamedTuple):
    """Its two addresses."""

    origin: str
    metrics: str


@contextmanager
def noted(data_dir: Path, router: Served) -> Iterator[None]:
    """Note it inside the block. A process that is killed leaves the note behind: who reads it must ask there."""
    path = data_dir / FILE
    path.write_text(json.dumps({"origin": router.origin, "metrics": router.metrics}))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find(data_dir: Path) -> Whereabouts | None:
    """Read the note; None if there is none that can be read."""
    try:
        note = json.loads((data_dir / FILE).read_text())
        return Whereabouts(str(note["origin"]), str(note["metrics"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
