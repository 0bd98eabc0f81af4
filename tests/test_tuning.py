"""`tune_process`: what it sets, and that an engine gives the garbage collector nothing to do."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import pytest

from pikkupy import tune_process

TUNED = """
import gc, sys
from pikkupy import tune_process
before = sys.getswitchinterval()
tune_process()
assert gc.isenabled() and gc.get_threshold() == (10_000, 20, 20), gc.get_threshold()
assert gc.get_freeze_count() > 10_000 > len(gc.get_objects()), (gc.get_freeze_count(), len(gc.get_objects()))
assert sys.getswitchinterval() == before
tune_process(switch_interval=0.0005)
assert abs(sys.getswitchinterval() - 0.0005) < 1e-6
"""


def test_it_sets_the_collector_and_the_interval() -> None:
    """In a process of its own: the settings stay."""
    subprocess.run([sys.executable, "-c", TUNED], check=True)


@pytest.mark.parametrize(
    ("interval", "error"), [("5ms", TypeError), (True, TypeError), (0, ValueError), (-1.0, ValueError), (2, ValueError)]
)
def test_an_interval_that_makes_no_sense_is_refused_before_anything_is_set(interval: Any, error: type) -> None:
    before = gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()
    with pytest.raises(error, match="switch_interval"):
        tune_process(switch_interval=interval)
    assert (gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()) == before


LEFT = """
import asyncio, gc
from pikkupy import Pikku, Workflow

pikku, runs = Pikku(), 200

@pikku.workflow
async def parts(workflow: Workflow, number: int) -> int:
    return await workflow.do("part", lambda: number)

@pikku.workflow
async def flow(workflow: Workflow, number: int) -> int:
    first = await workflow.do("first", lambda: number)
    both = await asyncio.gather(workflow.do("left", lambda: first), workflow.do("right", lambda: 1))
    await workflow.sleep("nap", 1)
    async with asyncio.timeout(60):
        child = await workflow.do("child", parts, number)
    await workflow.wait_for_signal("go")
    return child + sum(both)

async def main():
    async with pikku.open(":memory:") as engine:

        async def one(number):
            run = await engine.start(flow, number)
            await run.signal("go")
            assert await run.result() == 2 * number + 1

        await asyncio.gather(*map(one, range(10)))  # what stays is made now
        gc.collect()
        gc.disable()
        await asyncio.gather(*map(one, range(runs)))
        found = gc.collect()
        assert found < runs / 10, found

asyncio.run(main())
"""


def test_runs_leave_nothing_for_the_garbage_collector() -> None:
    """Else a collector that looks less often would let the memory grow. In a process without anybody else's garbage."""
    subprocess.run([sys.executable, "-c", LEFT], check=True)
