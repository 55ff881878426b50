"""The program, run with an empty home."""

import os
import subprocess
from pathlib import Path

import pytest

from terminal import PASSPHRASE, PROGRAM, Run


@pytest.fixture
def blindpost(tmp_path: Path) -> Run:
    """Run the program with an empty home."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BLINDPOST_")}
    environment |= {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "BLINDPOST_PASSPHRASE": PASSPHRASE,
        "COLUMNS": "200",
    }

    def run(*arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (*PROGRAM, *arguments),
            env=environment | more,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
