"""What all commands share: how they speak, fail, and end."""

import asyncio
import shlex
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import typer
import uvloop
from rich.console import Console
from rich.text import Text

from blindpost.client import ClientError, KeyChanged, LoginRefused, grouped
from blindpost.config import Settings, load_settings, unknown_variables
from blindpost.core.embedded import EmbeddedStores
from blindpost.errors import BlindpostError, ConfigurationError
from blindpost.telemetry import configure_logging

Result = TypeVar("Result")

# No emoji: a fingerprint with :AB: in it, or a message, is shown as it is.
out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)


identity_given: Final[ContextVar[Path | None]] = ContextVar("identity_given", default=None)
"""The identity file that was named in the command that runs."""


def command(words: str) -> str:
    """Return a command to type, for the same identity as this one."""
    given = identity_given.get()
    return f"blindpost {words}" if given is None else f"blindpost {words} -i {shlex.quote(str(given))}"


def fail(message: str, hint: str = "") -> NoReturn:
    """Say what is wrong and what to do, on standard error, and end with 1."""
    err.print(Text.assemble(("blindpost: ", "bold red"), message), soft_wrap=True)
    if hint:
        err.print(Text.assemble(("hint: ", "bold"), hint), soft_wrap=True)
    raise typer.Exit(1)


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn every error that we raise on purpose into a sentence; let faults of ours be seen as such."""
    try:
        yield
    except ConfigurationError as error:
        fail(str(error), error.hint)
    except ClientError as error:
        fail(sentence_for(error), hint_for(error))
    except BlindpostError as error:
        fail(str(error))
    except KeyboardInterrupt:
        err.print("Stopped.")
        raise typer.Exit(130) from None


def sentence_for(error: ClientError) -> str:
    """Say what is wrong to a person: the router's words on a refused login are for who writes a client."""
    if isinstance(error, LoginRefused):
        return "this server does not know this identity, or its key was replaced elsewhere"
    return str(error)


def hint_for(error: ClientError) -> str:
    """Say what to do, with the command to type where there is one."""
    if isinstance(error, KeyChanged):
        return "call them, and compare the new safety number; only if it is the same: " + command(
            f'contacts confirm {error.username} "{grouped(error.new_number)}"'
        )
    return error.hint


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end on a fast event loop. SIGTERM, by which service managers end a program, is like Ctrl-C."""
    with _terminated_as_interrupted(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    # A script that starts a command in the background has it ignore SIGINT, and asyncio would leave it at that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def settings_from(**options: object) -> Settings:
    """Read the settings, and say which variables mean nothing."""
    for name in unknown_variables():
        err.print(f"blindpost: {name} is no setting, and has no effect: see `blindpost serve --help`", markup=False)
    settings = load_settings(**options)
    configure_logging(json=settings.logs_are_json, level=settings.log_level)
    return settings


def say_progress(text: str) -> None:
    """Tell on standard error what takes a while."""
    err.print(text, style="dim", markup=False)


@contextmanager
def stores_for(settings: Settings) -> Iterator[Settings]:
    """Start what the settings do not name, embedded; the settings inside name both stores."""
    with watched_stores_for(settings) as (ready, _):
        yield ready


@contextmanager
def watched_stores_for(settings: Settings) -> Iterator[tuple[Settings, Callable[[], str | None]]]:
    """Do the same, and give a function that names an embedded store that has ended by itself."""
    postgres, redis = settings.database_url is None, settings.redis_url is None
    if not postgres and not redis:
        yield settings, lambda: None
        return
    with terminations_as_exits():
        stores = EmbeddedStores(settings.data_dir, postgres=postgres, redis=redis, progress=say_progress)
        try:
            urls = stores.start()
            ready = load_settings(
                **settings.model_dump(exclude={"database_url", "redis_url"}),
                database_url=urls.database_url or _plain(settings.database_url),
                redis_url=urls.redis_url or _plain(settings.redis_url),
            )
            yield ready, stores.ended
        finally:
            # From here on nothing may interrupt: a second Ctrl-C would leave the stores behind.
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_IGN)
            stores.stop()


def _plain(secret: Any) -> str | None:
    return None if secret is None else secret.get_secret_value()


@contextmanager
def terminations_as_exits() -> Iterator[None]:
    """End by SIGTERM as by Ctrl-C, so that what was started is stopped."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt), signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
