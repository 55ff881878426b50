"""Both embedded stores on one data directory, as one thing to start and to stop."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from blindpost.core.embedded.place import DataDir, Runtime, choose_account, is_ours, remove_tree
from blindpost.core.embedded.postgres_server import PostgresServer, url_of
from blindpost.core.embedded.process import end_leftovers, hint_for
from blindpost.core.embedded.redis_server import RedisServer
from blindpost.errors import StartError


@dataclass(frozen=True, slots=True)
class StoreUrls:
    """Where the stores are. None for one that was not asked for."""

    database_url: str | None
    redis_url: str | None = field(repr=False)
    """Holds this run's password: not for logs."""


def _silent(_: str) -> None:
    pass


def running_database(data_dir: Path) -> str | None:
    """Return the URL of the PostgreSQL that another process of this user has started on a data directory.

    The socket lets in whoever may start it, and nobody else. Its directory must be ours, so that nobody can have put
    a server of theirs where an earlier run had its own.
    """
    earlier = DataDir(data_dir).runtime
    return url_of(Runtime(earlier, None)) if earlier is not None and is_ours(earlier) else None


class EmbeddedStores:
    """PostgreSQL and Redis for one process, with everything that lasts in one directory.

    Start it in the main thread: on Linux the stores end with the thread that started them.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        postgres: bool = True,
        redis: bool = True,
        progress: Callable[[str], None] = _silent,
    ) -> None:
        self._data = DataDir(data_dir)
        self._wanted = (postgres, redis)
        self._progress = progress
        self._runtime: Path | None = None
        self._postgres: PostgresServer | None = None
        self._redis: RedisServer | None = None

    def start(self) -> StoreUrls:
        """Start what is wanted; whatever goes wrong, nothing is left running."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start the stores in the main thread: they end with the thread that started them")
        if self._runtime is not None:
            raise RuntimeError("these stores are started already")
        try:
            self._data.open()
            return self._start()
        except OSError as error:
            self.stop()
            raise self._unusable(error) from error
        except BaseException:
            self.stop()
            raise

    def _start(self) -> StoreUrls:
        if (earlier := self._data.runtime) is not None:
            end_leftovers(earlier)
            remove_tree(earlier)
        runtime = Runtime.make(self._data, choose_account(self._data.cluster))
        self._runtime = runtime.path
        want_postgres, want_redis = self._wanted
        database_url = redis_url = None
        if want_postgres:
            self._postgres = PostgresServer(self._data, runtime, self._progress)
            database_url = self._postgres.start()
        if want_redis:
            self._progress("Starting Redis ...")
            self._redis = RedisServer(self._data, runtime)
            redis_url = self._redis.start()
        return StoreUrls(database_url, redis_url)

    def ended(self) -> str | None:
        """Name a store that was started and does not run any more."""
        for name, store in (("PostgreSQL", self._postgres), ("Redis", self._redis)):
            if store is not None and not store.alive():
                return name
        return None

    def stop(self) -> None:
        """Stop both, remove the sockets, give the directory free. A second call does nothing."""
        if self._redis is not None:
            self._redis.stop()
            self._redis = None
        if self._postgres is not None:
            self._postgres.stop()
            self._postgres = None
        if self._runtime is not None:
            remove_tree(self._runtime)
            self._data.record_runtime(None)
            self._runtime = None
        # Last: who gets the lock next must find everything ended.
        self._data.close()

    def _unusable(self, error: OSError) -> StartError:
        reason = error.strerror or type(error).__name__
        hint = hint_for(reason, self._data.path)
        place = Path(str(error.filename or self._data.path))
        if self._data.path.is_relative_to(place) or place.is_relative_to(self._data.path):
            return StartError(f"The data directory {self._data.path} cannot be used: {reason}", hint)
        return StartError(f"The embedded stores cannot use {place}: {reason}", hint)

    def __enter__(self) -> StoreUrls:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
