"""Killed anywhere, a client loses no message, shows none twice, and uses no key again."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import crashing
from blindpost.app import Running

STEP = int(os.environ.get("CRASH_STEP", "40"))
"""Of so many points one is tried: 1 tries all of them."""


@pytest.mark.timeout(900)
def test_a_killed_client_loses_and_doubles_nothing(router: Running, tmp_path: Path) -> None:
    first = random.SystemRandom().randrange(STEP)
    command = [sys.executable, crashing.__file__, router.origin, str(tmp_path), str(STEP), str(first)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"step {STEP}, first {first}\n{done.stdout}{done.stderr}"
    assert int(done.stdout) >= 120 // STEP
