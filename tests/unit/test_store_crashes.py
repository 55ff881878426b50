"""Killed at any moment, a client neither uses a key again nor loses a message."""

import subprocess
import sys
from pathlib import Path

import pytest

import killing


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this ptrace")
@pytest.mark.timeout(600)
def test_a_killed_process_leaves_each_change_whole_or_not_at_all(tmp_path: Path) -> None:
    """At every system call of a change, of making a store and of mending one; and at any time, two at once."""
    done = subprocess.run([sys.executable, killing.__file__, tmp_path], capture_output=True, text=True, check=False)
    if done.returncode == killing.FORBIDDEN:
        pytest.skip("ptrace is forbidden here")
    assert done.returncode == 0, done.stdout + done.stderr
