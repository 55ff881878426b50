"""The kept inputs: tests/fuzz/corpus/<target>/, seeds under their names and what was found under its hash."""

from hashlib import sha256
from pathlib import Path
from typing import Final

from fuzz.targets import TARGETS

CORPUS: Final = Path(__file__).parent / "corpus"
HASH_CHARS: Final = 16


def inputs_of(target: str) -> dict[str, bytes]:
    """Read all that is kept for a target, by file name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).iterdir())}


def keep(target: str, data: bytes, name: str | None = None) -> Path:
    path = CORPUS / target / (name or sha256(data).hexdigest()[:HASH_CHARS])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def file_name(seed: str) -> str:
    return seed.replace(" ", "-").replace("+", "plus")


def sow() -> None:
    """Write the seeds that are not there yet; what is there stays, as most of them are random."""
    for target, (_, seeds) in TARGETS.items():
        for seed, make in seeds.items():
            if not (CORPUS / target / file_name(seed)).exists():
                keep(target, make(), file_name(seed))
