"""Bare `sqlite3`: the limit for one thread that writes rows.

Durable to loss of power: WAL, `synchronous=FULL`.

- sequential: one INSERT and one COMMIT per step.
- throughput: `executemany` with 1,000 rows per COMMIT.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

from _adapter import STEPS_PER_RUN, Answer, Task, answer

ROWS_PER_COMMIT = 1_000
INSERT = "INSERT INTO steps VALUES (?, ?, ?)"


def opened(task: Task) -> sqlite3.Connection:
    """The connection of this task, with its table."""
    db = sqlite3.connect(task.path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE steps (run INTEGER, position INTEGER, output TEXT, PRIMARY KEY (run, position))")
    return db


def sequential(task: Task) -> Answer:
    """Row by row."""
    with closing(opened(task)) as db:
        begun = time.perf_counter()
        for number in range(task.size):
            db.execute(INSERT, (1, number, str(number)))
        return {"seconds": time.perf_counter() - begun, "steps": task.size}


def throughput(task: Task) -> Answer:
    """In large groups."""
    rows = [(run, number, str(number)) for number in range(STEPS_PER_RUN) for run in range(task.size)]
    with closing(opened(task)) as db:
        begun = time.perf_counter()
        for first in range(0, len(rows), ROWS_PER_COMMIT):
            db.execute("BEGIN IMMEDIATE")
            db.executemany(INSERT, rows[first : first + ROWS_PER_COMMIT])
            db.execute("COMMIT")
        return {"seconds": time.perf_counter() - begun, "steps": len(rows)}


if __name__ == "__main__":
    nothing = "it records rows only"
    answer(
        __doc__,
        {"sequential": sequential, "throughput": throughput},
        cannot=dict.fromkeys(("sleepers", "recovery", "replay", "rpc"), nothing),
    )
