"""A journal full of ended runs, and a life that prunes it until it is killed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pikkupy import Pikku
from pikkupy.core.model import Change, RunStatus, StepKind, StepRow, StepStatus
from pikkupy.engine import pruning
from pikkupy.engine.views import moment
from pikkupy.store import Journal
from pikkupy.testing import VirtualClock
from tests.store.samples import NOW, a_run, an_attempt, as_it_went

STEPS = 7  # of every run
CHILDREN = 2  # of every fifth run


async def fill(db: Path, runs: int) -> int:
    """Make the journal; how many runs have no parent: these have the numbers from 1 on, children those after them."""
    changes: list[Change] = []
    child = runs
    for number in range(1, runs + 1):
        changes += run(number)
        if number % 5 == 0:
            for attempt in range(1, CHILDREN + 1):
                child += 1
                changes += run(child, parent=number, parent_position=0, parent_attempt=attempt)
    journal = await Journal.open(str(db), durability="process", now_us=NOW)
    await journal.commit(changes)
    await journal.close()
    return runs


def run(number: int, **changes: object) -> list[Change]:
    """One ended run and all that belongs to it."""
    steps = (
        StepRow(
            run=number,
            position=position,
            name=f"step {position}",
            kind=StepKind.INLINE,
            attempts=2,
            seq=2 * position + 2,
            output="1",
            status=StepStatus.SUCCEEDED,
            ended_at=NOW,
            started_at=NOW,
        )
        for position in range(STEPS)
    )
    tags = f'{{"number":"{number}"}}'
    row = a_run(number, status=RunStatus.CANCELLED, ended_at=NOW + number, tags=tags, **changes)
    return [
        *as_it_went(row),
        *steps,
        *(an_attempt(number, position, seq=2 * position + 1) for position in range(STEPS)),
    ]


def later() -> VirtualClock:
    """A clock by which all of them have ended."""
    return VirtualClock(start=moment(2 * NOW))


def prune_until_killed(db: Path, begun: int) -> None:
    """One life. It says through the pipe `begun` that it prunes, and after every transaction how many runs are gone."""
    pruning.MAX_RUNS = 4

    async def life() -> None:
        async with Pikku().open(db, clock=later()) as engine:
            os.write(begun, b"begun\n")
            await engine.prune(older_than=0, progress=lambda deleted: os.write(begun, f"{deleted}\n".encode()))
            os.write(begun, b"done\n")

    asyncio.run(life())
