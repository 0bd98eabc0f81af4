"""Bare `aiosqlite`: the limit for an event loop that waits for the database's thread with each step.

Durable to loss of power: WAL, `synchronous=FULL`.

- sequential: one `await` of one INSERT per step, which commits by itself.
"""

from __future__ import annotations

import asyncio
import time

import aiosqlite
from _adapter import Answer, Task, answer


async def measure(task: Task) -> float:
    """Row by row."""
    async with aiosqlite.connect(task.path, isolation_level=None) as db:
        await db.execute("PRAGMA journal_mode=WAL")
        await db.execute("PRAGMA synchronous=FULL")
        await db.execute("CREATE TABLE steps (position INTEGER PRIMARY KEY, output TEXT)")
        begun = time.perf_counter()
        for number in range(task.size):
            await db.execute_insert("INSERT INTO steps VALUES (?, ?)", (number, str(number)))
        return time.perf_counter() - begun


def sequential(task: Task) -> Answer:
    """One run."""
    return {"seconds": asyncio.run(measure(task)), "steps": task.size}


if __name__ == "__main__":
    nothing = "it records rows only, one after another"
    answer(
        __doc__,
        {"sequential": sequential},
        cannot=dict.fromkeys(("throughput", "sleepers", "recovery", "replay", "rpc"), nothing),
    )
