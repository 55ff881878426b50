"""One worker: `python -m blindpost.workers`, with the supervisor at the other end of its standard input.

It ends by SIGTERM as a router does, and at once, as by kill -9, when the supervisor is gone: the stores may be gone
with it, and whoever starts the router again needs the address.
"""

import asyncio
import ctypes
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any, Final, Self

import uvloop

from blindpost.app import answering, first, spare_the_collector
from blindpost.config import Settings
from blindpost.core.audit import worker_dir
from blindpost.core.embedded.launch import PR_SET_PDEATHSIG
from blindpost.errors import ConfigurationError
from blindpost.telemetry import configure_logging, log_fault
from blindpost.workers.channel import Channel
from blindpost.workers.metrics import families

FAILED: Final = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker is told when it starts."""

    number: int
    listener: int
    """The descriptor of a socket that listens."""
    settings: Settings

    def told(self) -> dict[str, Any]:
        return {"number": self.number, "listener": self.listener, "settings": self.settings.model_dump()}

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        return cls(told["number"], told["listener"], Settings(**told["settings"]))


def main() -> None:
    """Answer until told to stop."""
    _end_with_supervisor()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_work())
    sys.exit(code)


def _end_with_supervisor() -> None:
    """Let Linux kill this process with the supervisor, though it may hang; the channel's end tells the others.

    A supervisor that died before this is noticed by the channel, too.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


async def _work() -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    channel = await Channel.open(socket.socket(fileno=0))
    if (told := await channel.hear()) is None:
        return FAILED
    plan = Plan.of(told)
    configure_logging(json=plan.settings.logs_are_json, level=plan.settings.log_level)
    obeying = asyncio.create_task(_obey(channel))
    try:
        return await _answer(plan, channel, stop)
    except ConfigurationError as error:
        channel.say({"error": str(error), "hint": error.hint})
    except Exception as error:  # noqa: BLE001 - its text may hold names: it goes to the log as any other fault
        log_fault("worker_failed", error)
    finally:
        obeying.cancel()
        await channel.close()
    return FAILED


async def _answer(plan: Plan, channel: Channel, stop: asyncio.Event) -> int:
    listener = socket.socket(fileno=plan.listener)
    node_dir = worker_dir(plan.settings.data_dir, plan.number)
    async with answering(plan.settings, listener, node_dir=node_dir) as node:
        spare_the_collector()
        channel.say({"is_ready": True})
        await first(stop, node.failed)
    return FAILED if node.failed.is_set() else 0


async def _obey(channel: Channel) -> None:
    """Tell the metrics whenever the supervisor asks; end without a word when it is gone."""
    while await channel.hear() is not None:
        channel.say({"metrics": families()})
    os._exit(FAILED)
