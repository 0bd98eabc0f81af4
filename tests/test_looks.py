"""What `steps` and `history` show while a run works: never a hole, never a step out of order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pikkupy import Pikku, Workflow
from pikkupy.testing import VirtualClock


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


async def test_steps_shows_every_step_that_the_run_has_reached(db: Path) -> None:
    """While outcomes are on their way to the disk, a look sees each step before the last one that it shows."""
    pikku = Pikku()

    @pikku.workflow
    async def many(workflow: Workflow) -> None:
        for number in range(300):
            await workflow.do(f"s{number}", lambda: 1)

    looks = 0
    async with pikku.open(db, durability="process") as engine:
        run = await engine.start(many)
        result = asyncio.create_task(run.result())
        while not result.done():
            names = [step.name for step in await engine.steps(run.id)]
            assert names == [f"s{number}" for number in range(len(names))]
            looks += 1
    assert looks > 3


async def test_history_lists_attempts_without_holes(db: Path) -> None:
    """Steps and attempts are read as of one moment: no later attempt is shown while an earlier one is missing."""
    pikku = Pikku()

    @pikku.workflow
    async def many(workflow: Workflow) -> None:
        for _ in range(60):
            failed: list[int] = []

            def once(failed: list[int] = failed) -> None:
                if not failed:
                    failed.append(1)
                    raise ValueError("once")

            await workflow.do("twice", once, retries=1)
            await workflow.do("once", lambda: 1)

    expected = [
        entry
        for number in range(60)
        for entry in ((_name("twice", number), 1), (_name("twice", number), 2), (_name("once", number), 1))
    ]
    async with pikku.open(db, durability="process") as engine:
        run = await engine.start(many)
        result = asyncio.create_task(run.result())
        while not result.done():
            seen = [(attempt.step_name, attempt.attempt) for attempt in await engine.history(run.id)]
            assert seen == expected[: len(seen)]


def _name(name: str, ordinal: int) -> str:
    return f"{name}#{ordinal}" if ordinal else name


async def test_an_attempt_starts_when_its_body_does() -> None:
    """Not when the run reached the step, which waited for a slot."""
    clock = VirtualClock()
    pikku = Pikku()

    async with pikku.open(":memory:", clock=clock, async_workers=1) as engine:
        release = asyncio.Event()

        @pikku.workflow
        async def queued(workflow: Workflow) -> None:
            async def wait() -> None:
                await release.wait()

            await asyncio.gather(workflow.do("first", wait), workflow.do("second", lambda: 1))

        begun = clock.now()
        run = await engine.start(queued)
        await clock.advance("1h")
        release.set()
        await run.result()
        first, second = await engine.history(run.id)
        steps = {step.name: step for step in await engine.steps(run.id)}

    assert first.started_at == begun
    assert (second.started_at - begun).total_seconds() == 3600
    assert steps["second"].started_at == second.started_at
