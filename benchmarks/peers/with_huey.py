"""Huey with `SqliteHuey`: a task queue; it has no workflows.

Durable to loss of power: WAL and `fsync=True`, which is `synchronous=FULL`.

- throughput: a run is a pipeline of tasks, each of which gets the result of the one before; all are enqueued at once,
  and a consumer with two threads in the same process executes them. Results are stored.
- rpc: a task is enqueued, and its result waited for. The consumer and the one who waits look every millisecond.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from _adapter import STEPS_PER_RUN, WARM_UP, Answer, Task, answer, round_trips
from huey import SqliteHuey

WORKERS = 2  # more wait for each other's transactions
LOOK_S = 0.001

Add = Callable[[int, int], int]


def add(total: int, number: int) -> int:
    """The step."""
    return total + number


@contextmanager
def opened(task: Task) -> Iterator[tuple[SqliteHuey, Add]]:
    """The queue of this task with a consumer at work, and the task that it knows."""
    logging.getLogger("huey").setLevel(logging.ERROR)
    queue = SqliteHuey(filename=str(task.path), fsync=True)
    step = queue.task()(add)
    consumer = queue.create_consumer(
        workers=WORKERS, periodic=False, initial_delay=LOOK_S, backoff=1.0, max_delay=LOOK_S, check_worker_health=False
    )
    consumer.start()
    try:
        yield queue, step
    finally:
        consumer.stop(graceful=True)


def throughput(task: Task) -> Answer:
    """Many pipelines."""

    def measure(queue: SqliteHuey, step: Add, runs: int) -> list[int]:
        groups = []
        for _ in range(runs):
            pipeline = step.s(0, 0)  # type: ignore[attr-defined]
            for number in range(1, STEPS_PER_RUN):
                pipeline = pipeline.then(step, number)
            groups.append(queue.enqueue(pipeline))
        looked = [results.get(blocking=True, backoff=1.0, max_delay=10 * LOOK_S, preserve=True) for results in groups]
        return [totals[-1] for totals in looked]

    with opened(task) as (queue, step):
        measure(queue, step, 1)
        begun = time.perf_counter()
        totals = measure(queue, step, task.size)
        seconds = time.perf_counter() - begun
    assert totals == [sum(range(STEPS_PER_RUN))] * task.size
    return {"seconds": seconds, "steps": task.size * STEPS_PER_RUN}


def rpc(task: Task) -> Answer:
    """One task after another."""
    waits_s = []
    with opened(task) as (_, step):
        for number in range(WARM_UP + task.size):
            asked = time.perf_counter()
            result = step(number, 1)
            assert result.get(blocking=True, backoff=1.0, max_delay=LOOK_S) == number + 1  # type: ignore[attr-defined]
            waits_s.append(time.perf_counter() - asked)
    return round_trips(waits_s[WARM_UP:])


if __name__ == "__main__":
    nothing = "it is a task queue without workflows"
    answer(
        __doc__,
        {"throughput": throughput, "rpc": rpc},
        cannot=dict.fromkeys(("sequential", "sleepers", "recovery", "replay"), nothing),
    )
