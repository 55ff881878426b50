"""The few steps between our program and a store: `python -I -S launch.py PLAN PROGRAM ARGUMENT...`.

A program of its own, and no `preexec_fn`: code between fork and exec may deadlock where the parent has threads.
It imports the standard library only, because it runs without site-packages.
"""

import ctypes
import json
import os
import resource
import signal
import sys

CANNOT_RUN = 126
"""The exit code that shells use for "found, but cannot be run"."""

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38


def _become(uid: int, gid: int) -> None:
    """Groups first, the user last: afterwards there is no right left to change the others."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _die_with(parent: int, death_signal: int) -> None:
    """Ask Linux to signal this process when our program is gone, by whatever end."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_NO_NEW_PRIVS, 1), (PR_SET_PDEATHSIG, death_signal)):
        if libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3):
            raise OSError(ctypes.get_errno(), "prctl")
    # Had the parent died before the request, the signal would never come.
    if os.getppid() != parent:
        sys.exit(CANNOT_RUN)


def main() -> None:
    """Enter the directory, drop the rights, tie the life to the parent's, become the store."""
    plan, program, *arguments = sys.argv[1:]
    todo = json.loads(plan)
    # Before the rights go: the store may stay in this directory though it could not walk to it.
    os.chdir(todo["cwd"])
    os.umask(0o077)
    # A core dump would be a copy of what the store holds, outside of the data directory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if todo["uid"] is not None:
        _become(todo["uid"], todo["gid"])
    # After the change of user: the kernel forgets the request when credentials change.
    if sys.platform == "linux":
        _die_with(todo["parent"], todo["death_signal"])
    os.execv(program, [program, *arguments])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.stderr.write(f"{error.strerror}: {error.filename or error.args[1]}\n")
        sys.exit(CANNOT_RUN)
