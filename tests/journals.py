"""Journal files made by real engines, for those who look at them."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pikkupy import Pikku, Workflow
from pikkupy.testing import VirtualClock

_CUT_OFF = """
import asyncio, os, signal, sys
from tests.journals import application

async def main() -> None:
    async with application().open(sys.argv[1]) as engine:
        await engine.run("echo", {"n": 1}, run_id="done")
        await engine.start("sleeper", run_id="asleep")
        while len(await engine.steps("asleep")) < 2:
            await asyncio.sleep(0)
        await engine.start("gate", run_id="gated")  # what was recorded before this is on disk now
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


class Declined(Exception):
    pass


def application() -> Pikku:
    """One workflow for each thing that there is to see."""
    pikku = Pikku()

    @pikku.workflow
    async def echo(workflow: Workflow, data: Any = None) -> Any:
        return await workflow.do("Say", lambda: data)

    @pikku.workflow
    async def fail(workflow: Workflow, message: str) -> None:
        def declined() -> None:
            raise Declined(message)

        await workflow.do("Charge", declined, retries=2, retry_delay="1m")

    @pikku.workflow
    async def sleeper(workflow: Workflow) -> None:
        await workflow.do("Begin", lambda: None)
        await workflow.sleep("nap", "30d")

    @pikku.workflow
    async def asks(workflow: Workflow) -> Any:
        return await workflow.wait_for_signal("receipt", timeout="2d")

    @pikku.workflow
    async def gate(workflow: Workflow) -> None:
        await workflow.suspend("look at it")

    @pikku.workflow
    async def mother(workflow: Workflow) -> None:
        await workflow.do("Child", "asks")

    return pikku


async def fill(path: Path, *, clock: VirtualClock | None = None) -> None:
    """A journal with a run of each sort, left in good order: done, declined, asleep, asking, gated, mother, stopped."""
    clock = VirtualClock(datetime.now(UTC) - timedelta(hours=1)) if clock is None else clock
    async with application().open(path, clock=clock) as engine:
        await engine.run("echo", {"n": [1, None, "é"]}, run_id="done", tags={"customer": "ada"})
        await engine.start("fail", "no money\nat all", run_id="declined")
        for _ in range(3):
            await clock.advance("1m")
        for workflow, run_id in (("sleeper", "asleep"), ("asks", "asking"), ("gate", "gated"), ("mother", "mother")):
            await engine.start(workflow, run_id=run_id)
        await engine.start("sleeper", run_id="stopped")
        await clock.advance("1s")
        await engine.cancel("stopped", "enough")


def cut_off(path: Path) -> None:
    """A journal whose engine was killed: one run is done, one is asleep; its -wal and -shm are left."""
    done = subprocess.run([sys.executable, "-c", _CUT_OFF, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    """All that is in the folder, but for the marks of readers in the -shm, and what is in no file."""
    return {
        path.name: path.read_bytes() if path.is_file() and not path.name.endswith("-shm") else b""
        for path in folder.iterdir()
    }
