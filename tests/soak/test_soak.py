"""People write while routers, PostgreSQL, Redis and connections break: nothing is lost, doubled or out of order.

SOAK_SECONDS=600 for a longer run, SOAK_SEED=... for one that failed: it is printed. ./task soak does the same by hand.
"""

import os
import random
from pathlib import Path

import pytest

from fault.servers import tell
from soak.bugs import BUGS
from soak.faults import FAULTS, FULL_DISK, KILLED_POSTGRES
from soak.run import Plan, run

SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))
SEED = os.environ.get("SOAK_SEED") or str(random.SystemRandom().randrange(2**32))


@pytest.mark.timeout(2 * SECONDS + 400)
async def test_nothing_is_lost_doubled_or_reordered_whatever_breaks(tmp_path: Path) -> None:
    tell(f"SOAK_SEED={SEED} SOAK_SECONDS={SECONDS:g}")
    names = [each for each in FAULTS if each != FULL_DISK]
    # What is lost never comes: how long the rest takes on a slow machine is another question.
    plan = Plan(tmp_path, SEED, SECONDS, people=8, pace_s=0.1, rest_s=1.0, faults=names, grace_s=150)
    outcome = await run(plan, tell)
    assert outcome.is_clean, outcome.summary()
    assert outcome.findings.received > SECONDS
    assert {name for _, _, name in outcome.faults} == set(names)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("bug", BUGS)
async def test_a_router_with_a_fault_put_in_is_found_out(bug: str, tmp_path: Path) -> None:
    plan = Plan(tmp_path, SEED, 8, people=4, pace_s=0.02, rest_s=1.0, faults=[KILLED_POSTGRES], bug=bug, grace_s=8)
    outcome = await run(plan, tell)
    assert outcome.findings.lost, outcome.summary()
