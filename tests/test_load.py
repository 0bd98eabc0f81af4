"""`load` says what the workers do, and what their limits are."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pikkupy import EngineClosed, Load, Pikku, Slots, Workflow
from pikkupy.engine.looking import Look


async def test_load_counts_who_works_and_who_waits(db: Path) -> None:
    """By kind of worker, and the same for a client; who only looks at a file can say nothing of it."""
    pikku, leave = Pikku(), asyncio.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("wait", leave.wait)

    async with pikku.open(db, async_workers=2, thread_workers=3, process_workers=1) as engine:
        idle = await engine.load()
        assert idle.workers["async"] == Slots(running=0, waiting=0, limit=2)
        assert idle.resident_runs == 0
        assert (idle.resident_limit, idle.waits_for_disk) == (1_000, None)
        handles = [await engine.start(flow) for _ in range(5)]
        async with pikku.connect(db) as client:
            while (await client.load()).workers["async"].waiting < 3:
                pass
            assert await client.load() == Load(
                workers={
                    "async": Slots(running=2, waiting=3, limit=2),
                    "thread": Slots(running=0, waiting=0, limit=3),
                    "process": Slots(running=0, waiting=0, limit=1),
                },
                resident_runs=5,
                resident_limit=1_000,
                waits_for_disk=None,
            )
        leave.set()
        for handle in handles:
            await handle.result()
        assert await engine.load() == idle
    async with Look(db) as look:
        with pytest.raises(EngineClosed, match="only looked at"):
            await look.load()
