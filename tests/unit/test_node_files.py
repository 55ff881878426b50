"""The files of a node, written by somebody else: whatever is in them, the program says a sentence."""

from pathlib import Path

import pytest

from blindpost.core import token_key
from blindpost.core.audit import HEAD_FILE, read_head
from blindpost.errors import ConfigurationError
from forgeries import OCTET_STRING, SEQUENCE, der, integer, pem


def test_a_head_from_before_all_time_is_a_sentence(tmp_path: Path) -> None:
    """A time in a zone that puts it before the calendar's beginning."""
    (tmp_path / HEAD_FILE).write_text(f"7 {'0' * 64} 0001-01-01T00:00:00+23:59\n")
    with pytest.raises(ConfigurationError, match="does not hold"):
        read_head(tmp_path)


def test_a_token_key_of_an_unknown_algorithm_is_a_sentence(tmp_path: Path) -> None:
    algorithm = der(SEQUENCE, bytes.fromhex("06032a0304"))
    path = tmp_path / token_key.KEY_FILE
    path.touch(0o600)
    path.write_text(pem(der(SEQUENCE, integer(0), algorithm, der(OCTET_STRING, b"x")), "PRIVATE KEY"))
    with pytest.raises(ConfigurationError, match="not a P-256 private key"):
        token_key.load_or_make(tmp_path)
