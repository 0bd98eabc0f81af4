"""What must be true, whatever happens: kept outside of the engine, and checked while a history runs.

Everything that an oracle remembers carries the number of commits after which it was so; a loss of power that leads back
to an earlier commit takes away what came later, and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from typing import Any, NamedTuple

from pikkupy.core.machine import FINAL_RUNS
from pikkupy.services import StepContext
from pikkupy.testing.simulation.disk import SimulatedDisk
from pikkupy.testing.simulation.programs import Do

_STEP_AND_RUN = """
SELECT steps.status, runs.status FROM pikkupy_runs AS runs
LEFT JOIN pikkupy_steps AS steps ON steps.run = runs.number AND steps.position = ? AND steps.name = ?
WHERE runs.run_id = ?
"""
_RUNS = "SELECT run_id, status FROM pikkupy_runs"
_EARLY = """
SELECT runs.run_id, steps.name FROM pikkupy_steps AS steps JOIN pikkupy_runs AS runs ON runs.number = steps.run
WHERE steps.kind = 'sleep' AND steps.status = 'succeeded' AND steps.ended_at < steps.wake_at
"""
_OVERRUN = """
SELECT child.run_id FROM pikkupy_runs AS child JOIN pikkupy_runs AS mother ON mother.number = child.parent
WHERE child.ended_at IS NULL AND mother.ended_at IS NOT NULL AND child.alone_since IS NULL
"""
_LEFT = """
SELECT runs.run_id, steps.name, steps.status FROM pikkupy_steps AS steps
JOIN pikkupy_runs AS runs ON runs.number = steps.run
WHERE runs.ended_at IS NOT NULL AND steps.status IN ('pending', 'scheduled', 'running')
"""
_SIGNALS = """
SELECT runs.run_id, count(*) FROM pikkupy_signals AS signals JOIN pikkupy_runs AS runs ON runs.number = signals.run
WHERE signals.name <> '' GROUP BY runs.run_id
"""
_AWAKE = "SELECT run_id FROM pikkupy_runs WHERE ended_at IS NULL AND wakes_at IS NULL AND parked IS NULL"
_FINAL_STEPS = {"succeeded", "failed", "cancelled"}
_FINAL_RUNS = {str(status) for status in FINAL_RUNS}


class Violation(AssertionError):
    """A promise was broken. The first word is its name."""

    @property
    def promise(self) -> str:
        return str(self).split(":", 1)[0]


class _Known(NamedTuple):
    commits: int
    what: Any


class Oracle:
    """Watches one history."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk
        self._seen: dict[str, list[_Known]] = {}
        self._cursors: Counter[str] = Counter()
        self._begun: dict[tuple[str, int, int], _Known] = {}  # attempts: the life in which the body began last
        self._starts: dict[str, int] = {}
        self._cancelled: dict[str, int] = {}
        self._finals: dict[str, _Known] = {}
        self._sent: list[_Known] = []  # acknowledged signals: to which run
        self.retried: set[str] = set()
        self.counts: Counter[str] = Counter()

    # What workflows and steps do

    def saw(self, run_id: str, what: Any) -> None:
        """A workflow has got something from an await: every replay gets the same, in the same order."""
        seen, place = self._seen.setdefault(run_id, []), self._cursors[run_id]
        self._cursors[run_id] += 1
        if place == len(seen):
            seen.append(_Known(self._disk.commits, what))
            self.counts["seen"] += 1
        elif seen[place].what != what:
            raise Violation(f"replay: run {run_id!r} saw {seen[place].what!r} as number {place}, and then {what!r}")
        else:
            self.counts["seen again"] += 1

    def left_memory(self, run_id: str) -> None:
        """The run is replayed from the beginning."""
        self._cursors[run_id] = 0

    def begins(self, node: Do, step: StepContext, life: int) -> None:
        """The body of a step begins."""
        run_id, commits = step.run_id, self._disk.commits
        self.counts["bodies"] += 1
        rows = self._disk.query(_STEP_AND_RUN, step.position, step.step_name, run_id)
        if not rows:
            raise Violation(f"start: a step of run {run_id!r} runs, and the run is not on disk")
        [(of_step, of_run)] = rows
        if of_step in _FINAL_STEPS:
            raise Violation(f"once: step {step.step_name!r} of run {run_id!r} runs and is {of_step} on disk")
        if of_run in _FINAL_RUNS:
            raise Violation(f"end: step {step.step_name!r} runs, and run {run_id!r} is {of_run} on disk")
        if run_id in self._cancelled:
            raise Violation(f"cancel: step {step.step_name!r} of run {run_id!r} begins after cancel() has returned")
        if step.attempt_count > node.retries + 1 and run_id not in self.retried:
            raise Violation(
                f"attempts: step {step.step_name!r} of run {run_id!r} has attempt {step.attempt_count}, "
                f"and {node.retries} retries"
            )
        key = (run_id, step.position, step.attempt_count)
        before = self._begun.get(key)
        if before is not None and node.once:
            raise Violation(
                f"at most once: attempt {step.attempt_count} of {step.step_name!r} of {run_id!r} runs again"
            )
        if before is not None and before.what == life:
            raise Violation(f"attempt: attempt {step.attempt_count} of {step.step_name!r} of {run_id!r} runs twice")
        self._begun[key] = _Known(commits, life)

    # What callers know

    def started(self, run_id: str) -> None:
        """`start` has returned."""
        self._starts.setdefault(run_id, self._disk.commits)

    def sent(self, run_id: str) -> None:
        """`signal` has returned."""
        self._sent.append(_Known(self._disk.commits, run_id))

    def cancelled(self, run_id: str) -> None:
        """`cancel` has returned."""
        self._cancelled[run_id] = self._disk.commits

    def is_retried(self, run_id: str) -> None:
        """`retry` was called: the run and its attempts go on from another point."""
        self.retried.add(run_id)
        self._finals.pop(run_id, None)
        self._seen.pop(run_id, None)

    # Lives

    def restored(self, commits: int) -> None:
        """The process has died, and the disk is what it was after so many commits."""
        self._cursors.clear()
        for known in (self._starts, self._cancelled):
            for run_id in [run_id for run_id, at in known.items() if at > commits]:
                del known[run_id]
        self._sent = [signal for signal in self._sent if signal.commits <= commits]
        for run_id, seen in self._seen.items():
            self._seen[run_id] = [one for one in seen if one.commits <= commits]
        self._finals = {run_id: known for run_id, known in self._finals.items() if known.commits <= commits}
        self._begun = {key: known for key, known in self._begun.items() if known.commits <= commits}

    def look(self) -> None:
        """At the disk, between two lives or at a quiet moment."""
        found = dict(self._disk.query(_RUNS))
        for run_id in self._starts:
            if run_id not in found:
                raise Violation(f"lost: start() of run {run_id!r} had returned, and it is not on disk")
        kept = dict(self._disk.query(_SIGNALS))
        for run_id, count in Counter(signal.what for signal in self._sent).items():
            if kept.get(run_id, 0) < count:
                raise Violation(
                    f"lost: {count} signals to run {run_id!r} were accepted, {kept.get(run_id, 0)} are on disk"
                )
        for run_id, known in self._finals.items():
            if found.get(run_id) != known.what and run_id not in self.retried:
                raise Violation(f"end: run {run_id!r} was {known.what}, and is {found.get(run_id)}")
        for run_id, status in found.items():
            if status in _FINAL_RUNS and run_id not in self._finals:
                self._finals[run_id] = _Known(self._disk.commits, status)
        for run_id in self._cancelled:
            if found[run_id] not in _FINAL_RUNS and run_id not in self.retried:
                raise Violation(f"cancel: cancel() of run {run_id!r} had returned, and it is {found[run_id]}")
        left = self._disk.query(_LEFT)
        if left:
            raise Violation(f"end: step {left[0][1]!r} of run {left[0][0]!r}, which has ended, is {left[0][2]}")
        early = self._disk.query(_EARLY)
        if early:
            raise Violation(f"early: sleep {early[0][1]!r} of run {early[0][0]!r} ended before its time")

    def check_next_moves(self, resident: Container[str]) -> None:
        """At a moment when nothing is on its way: every run that does not wait in the file is in memory."""
        forgotten = [run_id for (run_id,) in self._disk.query(_AWAKE) if run_id not in resident]
        if forgotten:
            raise Violation(f"forgotten: run {forgotten[0]!r} is neither in memory nor waits in the file")
        overrun = self._disk.query(_OVERRUN)
        if overrun:
            raise Violation(f"orphan: child run {overrun[0][0]!r} goes on, and its parent has ended")

    def at_the_end(self) -> None:
        """Every run has ended."""
        self.look()
        overrun = self._disk.query(_OVERRUN)
        if overrun:
            raise Violation(f"orphan: child run {overrun[0][0]!r} goes on, and its parent has ended")
        for check in ("PRAGMA integrity_check", "PRAGMA foreign_key_check"):
            found = self._disk.query(check)
            if found not in ([], [("ok",)]):
                raise Violation(f"file: {check} says {found[:3]}")
        unfinished = [run_id for run_id, status in self._disk.query(_RUNS) if status not in _FINAL_RUNS]
        if unfinished:
            raise Violation(f"stuck: run {unfinished[0]!r} does not end although nothing is in its way any more")
        self._check_signals()

    def _check_signals(self) -> None:
        taken = Counter(
            (run_id, tuple(one.what[1]))
            for run_id, seen in self._seen.items()
            for one in seen
            if isinstance(one.what, list) and isinstance(one.what[1], list) and one.what[0].startswith("s")
        )
        twice = [key for key, count in taken.items() if count > 1]
        if twice:
            raise Violation(f"signal: {twice[0][1]} was taken twice by run {twice[0][0]!r}")
