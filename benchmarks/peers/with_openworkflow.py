"""OpenWorkflow with its SQLite backend, on Node.js; the questions are asked in `openworkflow_node.mjs`.

Durable to loss of power: the backend sets WAL and leaves SQLite's default, `synchronous=FULL`.

- A step is a `step.run`. One worker with 100 runs in hand looks for work, in the process that starts the runs.
- A run may have 1,000 steps at most: larger sizes of sequential, replay and rpc are refused.
- sleepers: `step.sleep`. The worker looks for due runs every 0.1 to 1 s.
- recovery: a run goes on when the lease of the killed worker, 30 s, is over. replay: the run waits in `waitForSignal`;
  the second process sends at once.
- rpc: functions are not registered, so it is the median of `sequential`.
"""

from __future__ import annotations

from _adapter import Answer, Task, answer, lives, refuse
from _node import ask, node

PROGRAM = "openworkflow_node.mjs"
STEP_LIMIT = 1_000


def one_run(task: Task) -> Answer:
    """A question with one run, and one process."""
    in_limit(task.size)
    return ask(PROGRAM, task)


def many_runs(task: Task) -> Answer:
    """A question with many, and one process."""
    return ask(PROGRAM, task)


def recovery(task: Task) -> Answer:
    """Many runs, killed in the middle."""
    return lives(task, node(PROGRAM))


def replay(task: Task) -> Answer:
    """A run that waits after many steps."""
    in_limit(task.size + 2)  # the wait, and what comes after it
    return lives(task, node(PROGRAM))


def in_limit(steps: int) -> None:
    """Refuse more steps than a run may have."""
    if steps > STEP_LIMIT:
        refuse(f"a run may have at most {STEP_LIMIT:,} steps")


if __name__ == "__main__":
    answer(
        __doc__,
        {
            "sequential": one_run,
            "throughput": many_runs,
            "sleepers": many_runs,
            "recovery": recovery,
            "replay": replay,
            "rpc": one_run,
        },
    )
