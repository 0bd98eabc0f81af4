"""The service that Restate calls in `with_restate.py`; a program of its own.

python restate_service.py PORT FOLDER
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import hypercorn.asyncio
import restate
from _adapter import NAP_S, STEPS_PER_RUN

folder = Path(sys.argv[2])
peer = restate.Service("peer")
ran = 0  # steps of the questions with two lives, in this process


@peer.handler()
async def chain(ctx: restate.Context, steps: int) -> int:
    """One step after another."""
    total = 0
    for number in range(steps):
        total += await ctx.run_typed("step", lambda number=number: number)
    return total


@peer.handler()
async def echo(ctx: restate.Context, number: int) -> int:  # noqa: ARG001 - every handler has it
    """What is called from a step."""
    return number


@peer.handler()
async def caller(ctx: restate.Context, steps: int) -> list[float]:
    """Calls it, one time after another."""
    waits_s = []
    for number in range(steps):
        asked = time.perf_counter()
        assert await ctx.service_call(echo, number) == number
        waits_s.append(time.perf_counter() - asked)
    return waits_s


asked_at: dict[int, float] = {}


@peer.handler()
async def nap(ctx: restate.Context, number: int) -> float:
    """Sleeps, and tells how late it woke."""
    due = asked_at.setdefault(number, time.time()) + NAP_S
    await ctx.sleep(timedelta(seconds=NAP_S))
    late_s: float = await ctx.run_typed("woken", lambda: time.time() - due)
    return late_s


async def counted(number: int) -> int:
    """A step that waits for all starts, is counted, and may be the one in the middle."""
    global ran  # noqa: PLW0603 - the service is this process
    while not (folder / "gate").exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)
    ran += 1
    middle = folder / "middle"
    if middle.exists() and ran == int(middle.read_text(encoding="ascii")):
        os.kill(int((folder / "server").read_text(encoding="ascii")), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@peer.handler()
async def interrupted(ctx: restate.Context) -> int:
    """A run of `recovery`."""
    return sum([await ctx.run_typed("step", counted, restate.RunOptions(), n) for n in range(STEPS_PER_RUN)])


@peer.handler()
async def waiting(ctx: restate.Context, steps: int) -> None:
    """The run of `replay`."""
    for number in range(steps):
        await ctx.run_typed("step", counted, restate.RunOptions(), number)
    name, signalled = ctx.awakeable()
    await ctx.run_typed("name", lambda: (folder / "awakeable").write_text(name, encoding="ascii"))
    await signalled
    await ctx.run_typed("gone on", counted, restate.RunOptions(), 0)


@peer.handler()
async def count(ctx: restate.Context) -> int:  # noqa: ARG001
    """How many steps were counted."""
    return ran


if __name__ == "__main__":
    config = hypercorn.Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    asyncio.run(hypercorn.asyncio.serve(restate.app([peer]), config))
