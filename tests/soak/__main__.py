"""./task soak: write and read for long while everything breaks, and prove that nothing was lost."""

import asyncio
import json
import random
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

from soak.bugs import BUGS
from soak.faults import FAULTS, FULL_DISK
from soak.run import Plan, run

EXAMPLES = """examples:
  ./task soak --seconds 120
  ./task soak --messages 500000 --small-disk --directory ./soak
  ./task soak --seconds 60 --bug wake-before-commit   # must be found
"""


def arguments() -> Namespace:
    parser = ArgumentParser(prog="./task soak", description=__doc__, epilog=EXAMPLES, formatter_class=_Format)
    parser.add_argument("--seconds", type=float, default=120, help="how long people write")
    parser.add_argument("--messages", type=int, help="write so many instead, however long it takes")
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--friends", type=int, default=1, help="friends of each after them in the ring")
    parser.add_argument("--nodes", type=int, default=2, help="routers")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between two messages of a person")
    parser.add_argument("--rest", type=float, default=2.0, help="about how many seconds between two faults")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(2**32)), help="of what breaks, and when")
    parser.add_argument("--bug", choices=BUGS, help="put a fault in that the run must find")
    parser.add_argument("--no-faults", action="store_true", help="break nothing, to see what the machine can do")
    parser.add_argument("--small-disk", action="store_true", help="fill PostgreSQL's disk, too: a tmpfs; needs root")
    parser.add_argument("--directory", type=Path, default=Path("soak"), help="for journal, faults and summary")
    return parser.parse_args()


class _Format(ArgumentDefaultsHelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def main() -> int:
    given = arguments()
    given.directory.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        directory=given.directory.resolve(),
        seed=given.seed,
        seconds=given.seconds,
        people=given.people,
        friends=given.friends,
        nodes=given.nodes,
        pace_s=given.pace,
        rest_s=given.rest,
        bug=given.bug,
        faults=[] if given.no_faults else [each for each in FAULTS if each != FULL_DISK or given.small_disk],
        small_disk=given.small_disk,
    )
    if given.messages is not None:
        plan = replace(plan, messages=given.messages)
    say(f"--seed {plan.seed}")
    outcome = asyncio.run(run(plan, say))
    say(json.dumps(outcome.summary(), indent=2))
    return 0 if outcome.is_clean else 1


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
