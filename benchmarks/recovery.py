"""How long it takes after a crash in the middle of much work until all of it is done.

    python benchmarks/recovery.py [--runs 10000] [--steps 5] [--repeat 3] [--json]

A process starts `--runs` runs of `--steps` steps at once, and is killed by SIGKILL when half of the steps have run.
Then a new process opens the file and finishes all runs. Its three moments count from when it was started: it has
imported pikkupy, `open` has returned, and all runs have ended.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import msgspec
from _common import (
    DURABILITIES,
    Durability,
    alternate,
    answer,
    answer_of,
    child_command,
    median,
    parser_for,
    report,
    spread,
    surroundings,
)

from pikkupy import Engine, Pikku, Workflow


class Setting(msgspec.Struct, frozen=True):
    """What three lines of the table measure."""

    durability: Durability
    runs: int
    steps: int  # of each run


class Order(msgspec.Struct):
    """What a process of its own is to do: begin and be killed, or finish."""

    setting: Setting
    path: str
    unfinished: int | None = None  # runs that it is to finish
    begun: float = 0.0  # when it was started, by the monotonic clock, which all processes share


class Finished(msgspec.Struct):
    """Seconds from the start of the process that finishes."""

    imported: float
    opened: float
    ended: float


class Measured(msgspec.Struct):
    """One crash, and what came after it."""

    unfinished: int
    steps_left: int
    finished: Finished


class Line(msgspec.Struct):
    """One line of the table: medians of several crashes."""

    question: str
    durability: str
    runs_left: float | None
    steps_left: float | None
    seconds: float
    least: float
    greatest: float


class Work:
    """The workflow of both processes, which counts."""

    def __init__(self, setting: Setting, steps_until_kill: int | None = None) -> None:
        self.pikku = Pikku()
        self.workflow = self.pikku.workflow(self._work)
        self.returned = 0
        self._setting = setting
        self._steps_until_kill = steps_until_kill

    async def _work(self, workflow: Workflow, number: int) -> int:
        for _ in range(self._setting.steps):
            await workflow.do("step", lambda: self._step(number))
        self.returned += 1
        return number

    def _step(self, number: int) -> int:
        if self._steps_until_kill is not None:
            self._steps_until_kill -= 1
            if self._steps_until_kill <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return number


async def begin(order: Order) -> None:
    """Start all runs, and be killed in the middle."""
    setting = order.setting
    work = Work(setting, steps_until_kill=(setting.runs * setting.steps + 1) // 2)
    async with work.pikku.open(order.path, durability=setting.durability) as engine:
        await asyncio.gather(*(engine.run(work.workflow, number) for number in range(setting.runs)))


async def finish(order: Order) -> Finished:
    """Open the file and wait for the last end."""
    assert order.unfinished is not None
    imported = time.monotonic() - order.begun
    work = Work(order.setting)
    async with work.pikku.open(order.path, durability=order.setting.durability) as engine:
        opened = time.monotonic() - order.begun
        while work.returned < order.unfinished or await any_running(engine):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)
        return Finished(imported, opened, time.monotonic() - order.begun)


async def any_running(engine: Engine) -> bool:
    """Whether a run has not ended on disk."""
    return any("running" in statuses for statuses in (await engine.counts()).values())


def left(path: Path) -> tuple[int, int]:
    """Unfinished runs, and steps that are recorded. Looks at a copy: the file is to be found as the crash left it."""
    folder = path.parent / "copy"
    folder.mkdir()
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", folder)
    with closing(sqlite3.connect(folder / path.name)) as db:
        (unfinished,) = db.execute("SELECT count(*) FROM pikku_runs WHERE ended_at IS NULL").fetchone()
        (recorded,) = db.execute("SELECT count(*) FROM pikku_steps WHERE ended_at IS NOT NULL").fetchone()
    shutil.rmtree(folder)
    return unfinished, recorded


def measure(setting: Setting, path: Path) -> Measured:
    """One crash, in two processes."""
    killed = subprocess.run(child_command(__file__, Order(setting, str(path))), check=False)
    if killed.returncode != -signal.SIGKILL:
        raise SystemExit(f"the first process ended with {killed.returncode} instead of being killed")
    unfinished, recorded = left(path)
    order = Order(setting, str(path), unfinished, begun=time.monotonic())
    finished = answer_of(child_command(__file__, order), Finished)
    return Measured(unfinished, setting.runs * setting.steps - recorded, finished)


def lines_of(setting: Setting, measured: list[Measured]) -> list[Line]:
    """The three moments."""
    moments = {
        "pikkupy is imported": [one.finished.imported for one in measured],
        "`open` has returned": [one.finished.opened for one in measured],
        "all runs have ended": [one.finished.ended for one in measured],
    }
    runs_left = median([one.unfinished for one in measured], 0)
    steps_left = median([one.steps_left for one in measured], 0)
    return [
        Line(question, setting.durability, runs_left, steps_left, *spread(seconds, 3))
        for question, seconds in moments.items()
    ]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="runs, started at once (10000)")
    parser.add_argument("--steps", type=int, default=5, help="steps of each run (5)")
    parser.add_argument("--repeat", type=int, default=3, help="crashes in each durability (3)")
    options = parser.parse_args()
    if options.child is not None:
        order = msgspec.json.decode(options.child, type=Order)
        if order.unfinished is None:
            asyncio.run(begin(order))
        else:
            answer(asyncio.run(finish(order)))
        return
    settings = [Setting(durability, options.runs, options.steps) for durability in DURABILITIES]
    found = alternate(settings, measure, options.repeat)
    lines = [line for setting, measured in found.items() for line in lines_of(setting, measured)]
    about = {**surroundings(), "repeat": options.repeat, "runs": options.runs, "steps_per_run": options.steps}
    report(about, lines, as_json=options.json)


if __name__ == "__main__":
    main()
