"""What a journal holds at one moment, and what may never be true of it. Read with a connection of its own."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from pikkupy.core.machine import FINAL_RUNS, FINAL_STEPS
from pikkupy.core.model import NO_WAKING
from pikkupy.names import without_ordinal

TABLES = [
    f"pikkupy_{name}" for name in ("runs", "steps", "attempts", "timers", "signals", "changes", "set_aside", "chunks")
]
LASTING = {
    "attempts": "SELECT run, seq, position, attempt, status, error, started_at, ended_at FROM pikkupy_attempts",
    "timers": "SELECT run, number, due_at, seq, fired_at FROM pikkupy_timers",
    "signals": "SELECT run, seq, name, sent_at FROM pikkupy_signals",
    "taken signals": "SELECT run, seq, position FROM pikkupy_signals WHERE position IS NOT NULL",
    "changes": "SELECT run, change_id FROM pikkupy_changes",
    "chunks": 'SELECT run, "offset", since, position, name, attempt, value, at FROM pikkupy_chunks',
}
"""What is written once and stays as long as its run, as far as it never changes; the number of the run comes first."""


class RunFact(msgspec.Struct, frozen=True):
    """One run, as far as kills can spoil it."""

    number: int
    run_id: str
    workflow: str
    input: str
    created_at: int
    forked_from: str | None
    tags: str | None
    status: str
    reason: str | None
    parked: str | None
    wakes_at: int | None
    parent: int | None
    parent_position: int | None
    parent_attempt: int | None
    starts_at: int
    output: str | None
    error: str | None

    @property
    def over(self) -> bool:
        """True if the run has ended."""
        return self.status in FINAL_RUNS


class StepFact(msgspec.Struct, frozen=True):
    """One step, as far as kills can spoil it."""

    run: int
    position: int
    name: str
    kind: str
    status: str
    attempts: int
    wake_at: int | None
    seq: int | None
    output: str | None
    error: str | None
    started_at: int | None
    ended_at: int | None

    @property
    def over(self) -> bool:
        """True if the step goes on no more."""
        return self.status in FINAL_STEPS


class AttemptFact(msgspec.Struct, frozen=True):
    """One finished attempt of a step."""

    run: int
    position: int
    attempt: int
    status: str
    name: str | None


class SignalFact(msgspec.Struct, frozen=True):
    """One signal that was sent, and the place of the step that has taken it."""

    run: int
    name: str
    sent_at: int
    position: int | None


class Facts:
    """Runs by id, steps by run id and name, how many signals of which name a run was sent, and the rows of it all.

    What deleted runs have left is only in the rows.
    """

    def __init__(self, db: Path) -> None:
        with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as connection:
            runs = [RunFact(*row) for row in connection.execute(_query(RunFact, "pikkupy_runs"))]
            steps = [StepFact(*row) for row in connection.execute(_query(StepFact, "pikkupy_steps"))]
            aside = [StepFact(*row) for row in connection.execute(_query(StepFact, "pikkupy_set_aside"))]
            attempts = [AttemptFact(*row) for row in connection.execute(_query(AttemptFact, "pikkupy_attempts"))]
            signals = [SignalFact(*row) for row in connection.execute(_query(SignalFact, "pikkupy_signals"))]
            self.lasting: dict[str, set[tuple[Any, ...]]] = {
                what: set(connection.execute(sql)) for what, sql in LASTING.items()
            }
            [(self.epoch, self.next_number)] = connection.execute("SELECT epoch, next_number FROM pikkupy_journal")
            self.rows = tuple(repr(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in TABLES)
        self.runs = {run.run_id: run for run in runs}
        self.by_number = {run.number: run for run in runs}
        ids = {run.number: run.run_id for run in runs}
        self.steps = {(ids[step.run], step.name): step for step in steps if step.run in ids}
        self.aside = {(ids[step.run], step.name): step for step in aside if step.run in ids}
        self.attempts = [attempt for attempt in attempts if attempt.run in ids]
        self.signals = Counter((ids[signal.run], signal.name) for signal in signals if signal.run in ids)
        self._kept = [signal for signal in signals if signal.position is None]
        self._places = {(step.run, step.position): step for step in (*steps, *aside)}

    def statuses(self) -> dict[str, str]:
        """The status of every run."""
        return {run.run_id: run.status for run in self.runs.values()}

    def status(self, run_id: str, name: str) -> str | None:
        """The status of a step; None if the run has not reached it."""
        step = self.steps.get((run_id, name))
        return None if step is None else step.status

    def below(self, run_id: str) -> list[RunFact]:
        """All runs that descend from that one."""
        children = [run for run in self.runs.values() if run.parent == self.runs[run_id].number]
        return children + [run for child in children for run in self.below(child.run_id)]

    def above(self, run: RunFact) -> Iterator[RunFact]:
        """The runs from which that one descends."""
        while run.parent is not None:
            run = self.by_number[run.parent]
            yield run

    def is_awaited(self, child: RunFact) -> bool:
        """True if the child is what an unfinished step of an unfinished run waits for, also one that was set aside."""
        parent = self.by_number[child.parent or 0]
        step = self._places.get((parent.number, -1 if child.parent_position is None else child.parent_position))
        return (
            not parent.over
            and step is not None
            and step.status == "running"
            and step.attempts == child.parent_attempt
            and (parent.parent is None or self.is_awaited(parent))
        )

    def orphans(self) -> set[str]:
        """Unfinished children that nobody waits for any more."""
        children = [run for run in self.runs.values() if run.parent is not None and not run.over]
        return {child.run_id for child in children if not self.is_awaited(child)}

    def forgotten(self, resident: Container[str], now_us: int) -> set[str]:
        """I9: unfinished runs that nothing brings on, unfinished steps of runs that have ended, and steps that wait for
        a signal that lies there. Of a moment when nothing is on its way: a kill can be before the signal is taken.

        A run that is not in memory, where those in `resident` are, has to have a time at which it comes there, or wait
        for something from outside. One that was started with a delay has a timer of the engine's for that.
        """
        lost = {run.run_id for run in self.runs.values() if run.wakes_at == NO_WAKING and not any(self._hopes(run))}
        lost |= {
            run.run_id
            for run in self.runs.values()
            if not run.over and run.wakes_at is None and run.parked is None and run.starts_at <= now_us
            if run.run_id not in resident
        }
        going_on = {(run_id, name) for (run_id, name), step in self.steps.items() if not step.over}
        lost |= {f"{run_id}: {name}" for run_id, name in going_on if self.runs[run_id].over}
        return lost | {f"{run_id}: {name}, whose signal is not taken" for run_id, name in self._unheard()}

    def _unheard(self) -> Iterator[tuple[str, str]]:
        """Steps for which a signal of their name was there in time. A parked run takes none."""
        for (run_id, name), step in self.steps.items():
            run = self.runs[run_id]
            waits = step.kind == "signal" and not step.over and not run.over and run.parked is None
            if waits and any(_is_for(signal, step) for signal in self._kept):
                yield run_id, name

    def _hopes(self, run: RunFact) -> Iterator[bool]:
        yield run.parked is not None
        for step in self.steps.values():
            if step.run == run.number and not step.over:
                yield step.kind in ("signal", "suspend") and step.wake_at is None
                yield step.kind == "workflow" and any(
                    not child.over
                    for child in self.runs.values()
                    if (child.parent, child.parent_position) == (run.number, step.position)
                )

    def __repr__(self) -> str:
        lines = [
            f"  {run.run_id}: {run.status}, wakes {_moment(run.wakes_at)}"
            + "".join(
                f"\n    {step.name}: {step.status}, attempts {step.attempts}"
                for step in self.steps.values()
                if step.run == run.number
            )
            for run in self.runs.values()
        ]
        return "\n".join(lines)


def _is_for(signal: SignalFact, step: StepFact) -> bool:
    in_time = step.wake_at is None or signal.sent_at < step.wake_at
    return signal.run == step.run and signal.name == without_ordinal(step.name) and in_time


def _query(row: type[msgspec.Struct], table: str) -> str:
    return f"SELECT {', '.join(row.__struct_fields__)} FROM {table} ORDER BY 1, 2"


def _moment(wakes_at: int | None) -> str:
    return {None: "now", NO_WAKING: "when it is told"}.get(wakes_at, str(wakes_at))
