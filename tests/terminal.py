"""The program as somebody at a terminal runs it."""

import subprocess
import sys
from collections.abc import Callable
from typing import Final

PROGRAM: Final = (sys.executable, "-c", "from blindpost.cli import main; main()")
PASSPHRASE: Final = "correct horse battery staple"

Run = Callable[..., subprocess.CompletedProcess[str]]


def good(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """Return the words of a command that failed as it should: a sentence, a hint, and no traceback."""
    assert result.returncode == 1, result.stdout
    assert "blindpost: " in result.stderr
    assert "hint: " in result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr
