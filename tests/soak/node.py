"""A router for the harness: its clock can be set, and faults of its own be put in. Run as a program."""

import os
import time
from pathlib import Path

CLOCK = "SOAK_CLOCK"
"""A file with the seconds by which this node's clock is off."""
BUG = "SOAK_BUG"


def set_clock(file: Path) -> None:
    """Have every clock of this process follow the file."""
    real, offset, looked = time.time, 0.0, 0.0

    def shifted() -> float:
        nonlocal offset, looked
        now = real()
        if now - looked > 0.1:
            looked = now
            offset = float(file.read_text() or 0) if file.exists() else 0.0
        return now + offset

    time.time = shifted


def main() -> None:
    if CLOCK in os.environ:
        # Before anything of the router is read: it takes `time` by name.
        set_clock(Path(os.environ[CLOCK]))
    import asyncio  # noqa: PLC0415 - see above
    import signal  # noqa: PLC0415 - see above

    from blindpost.app import running  # noqa: PLC0415 - see above
    from blindpost.config import load_settings  # noqa: PLC0415 - see above
    from soak import bugs  # noqa: PLC0415 - see above

    if BUG in os.environ:
        bugs.BUGS[os.environ[BUG]]()

    async def serve() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with running(load_settings()) as router:
            print(router.origin, router.metrics, flush=True)  # noqa: T201 - whoever started this waits for it
            await stop.wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
