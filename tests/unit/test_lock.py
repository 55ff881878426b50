"""The libraries that are installed are none with a known hole that this program would stand in."""

import re
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements.lock"
LOCKED = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([0-9.]+)", LOCK.read_text("utf-8"), re.MULTILINE)
VERSIONS = {name.lower(): tuple(int(part) for part in version.split(".")) for name, version in LOCKED}


def test_pyjwt_is_beyond_its_known_holes() -> None:
    """CVE-2022-29217 (any algorithm with any key) and CVE-2026-48526 are mended in 2.13.0."""
    assert VERSIONS["pyjwt"] >= (2, 13, 0)


def test_libraries_with_holes_that_stay_are_not_installed() -> None:
    """python-jose: CVE-2024-33663, a public key as a secret. python-ecdsa: CVE-2024-23342, times that tell the key."""
    assert not VERSIONS.keys() & {"python-jose", "ecdsa", "python-ecdsa"}


def test_everything_is_pinned_with_its_hash() -> None:
    blocks = re.split(r"\n(?=[A-Za-z0-9])", LOCK.read_text("utf-8"))
    requirements = [block for block in blocks if re.match(r"[A-Za-z0-9]", block)]
    assert len(requirements) > 50
    for each in requirements:
        assert re.match(r"\S+==\S+", each), each.split("\n")[0]
        assert "--hash=sha256:" in each, each.split("\n")[0]
