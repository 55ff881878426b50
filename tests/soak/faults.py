"""What breaks. Each fault lasts some moments, and heals itself; several may come together."""

import asyncio
import errno
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Final

from fault.servers import Server
from soak.journal import Journal
from soak.stage import Harm, Stage

CLOCK_S: Final = 50.0
"""A step is at most so long: a proof counts for a minute."""
BALLAST: Final = 1 << 20


async def kill_node(stage: Stage) -> None:
    node = stage.chance.choice(stage.nodes)
    await node.end(SIGKILL)
    await asyncio.sleep(stage.chance.uniform(0, 2))
    await node.start()


async def restart_node(stage: Stage) -> None:
    """End one in order."""
    node = stage.chance.choice(stage.nodes)
    await node.end(SIGTERM)
    await node.start()


async def freeze_node(stage: Stage) -> None:
    node = stage.chance.choice(stage.nodes)
    node.send(SIGSTOP)
    await asyncio.sleep(stage.chance.uniform(0.2, 6))
    node.send(SIGCONT)


async def _kill(stage: Stage, server: Server) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(stage.chance.uniform(0, 1))
    await asyncio.to_thread(stage.stores.up)


async def _freeze(stage: Stage, server: Server) -> None:
    await asyncio.to_thread(server.freeze)
    await asyncio.sleep(stage.chance.uniform(0.2, 6))
    await asyncio.to_thread(server.thaw)


async def kill_postgres(stage: Stage) -> None:
    await _kill(stage, stage.stores.postgres)


async def kill_redis(stage: Stage) -> None:
    await _kill(stage, stage.stores.redis)


async def freeze_postgres(stage: Stage) -> None:
    await _freeze(stage, stage.stores.postgres)


async def freeze_redis(stage: Stage) -> None:
    await _freeze(stage, stage.stores.redis)


async def cut_connections(stage: Stage) -> None:
    stage.balancer.cut()


async def delay_connections(stage: Stage) -> None:
    stage.balancer.delay_s = stage.chance.uniform(0.05, 0.5)
    await asyncio.sleep(stage.chance.uniform(1, 4))
    stage.balancer.delay_s = 0.0


async def lose_answers(stage: Stage) -> None:
    """What was asked is done, and nobody hears of it."""
    stage.balancer.loses_answers = stage.chance.uniform(0.05, 0.5)
    await asyncio.sleep(stage.chance.uniform(1, 4))
    stage.balancer.loses_answers = 0.0


async def step_clock(stage: Stage) -> None:
    """Have the routers' clocks jump, and back."""
    stage.clock.write_text(str(stage.chance.uniform(-CLOCK_S, CLOCK_S)))
    await asyncio.sleep(stage.chance.uniform(2, 8))
    stage.clock.write_text("0")


async def fill_disk(stage: Stage) -> None:
    """Take all room that PostgreSQL's file system has."""
    disk = stage.stores.postgres.data.parent
    assert disk.is_mount(), "no other disk may be filled"
    ballast = disk / "ballast"
    try:
        await asyncio.to_thread(_fill, ballast)
        await asyncio.sleep(stage.chance.uniform(0.5, 3))
    finally:
        ballast.unlink(missing_ok=True)
    await asyncio.to_thread(stage.stores.up)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(BALLAST))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


Told = tuple[float, float, str]
"""When a fault began and ended, and its name."""
FULL_DISK: Final = "fill the disk"
"""Only where PostgreSQL has a small one of its own."""
KILLED_POSTGRES: Final = "kill -9 PostgreSQL"
FAULTS: Final[dict[str, Harm]] = {
    "kill -9 a router": kill_node,
    "restart a router": restart_node,
    "freeze a router": freeze_node,
    KILLED_POSTGRES: kill_postgres,
    "freeze PostgreSQL": freeze_postgres,
    "kill -9 Redis": kill_redis,
    "freeze Redis": freeze_redis,
    "cut all connections": cut_connections,
    "delay connections": delay_connections,
    "lose answers": lose_answers,
    "step the clocks": step_clock,
    FULL_DISK: fill_disk,
}


async def trouble(
    stage: Stage, journal: Journal, names: Sequence[str], rest_s: float, told: list[Told], stop: asyncio.Event
) -> None:
    """Do harm until told to stop, one fault after the other, and heal. Each is noted with when it began and ended."""
    left: list[str] = []
    while not await _stopped(stop, stage.chance.uniform(0.2, 2 * rest_s)):
        if not left:
            # In rounds: a short run sees each at least once.
            left = list(names)
            stage.chance.shuffle(left)
        name = left.pop()
        began = journal.now
        try:
            await FAULTS[name](stage)
        finally:
            told.append((round(began, 3), round(journal.now, 3), name))
        await stage.heal()


async def _stopped(stop: asyncio.Event, within_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await stop.wait()
    return stop.is_set()


def counted(told: list[Told]) -> Counter[str]:
    """Return how often each fault was injected."""
    return Counter(name for _, _, name in told)
