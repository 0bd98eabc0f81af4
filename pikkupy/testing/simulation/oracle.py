"""What must be true, whatever happens: kept outside of the engine, and checked while a history runs.

Everything that an oracle remembers carries the number of commits after which it was so; a loss of power that leads back
to an earlier commit takes away what came later, and nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import OWN_BITS
from pikkupy.services import StepContext
from pikkupy.store.plan import Kind, Op
from pikkupy.testing.simulation.clock import SimulatedClock
from pikkupy.testing.simulation.disk import SimulatedDisk
from pikkupy.testing.simulation.programs import Do, Leaf, Sleep

_BODY = """
SELECT steps.name, steps.status, steps.attempts, steps.forgiven, steps.wake_at, runs.status, runs.parked, runs.number
FROM pikkupy_runs AS runs LEFT JOIN pikkupy_steps AS steps ON steps.run = runs.number AND steps.position = ?
WHERE runs.run_id = ?
"""
_IS_THERE = "SELECT 1 FROM pikkupy_runs WHERE run_id = ?"
_OUTCOME = """
SELECT steps.seq, steps.status, steps.wake_at, steps.attempts FROM pikkupy_steps AS steps
JOIN pikkupy_runs AS runs ON runs.number = steps.run WHERE steps.position = ? AND runs.run_id = ?
"""
_SHARED = """
SELECT steps.name, steps.status, steps.output, steps.error FROM pikkupy_steps AS steps
JOIN pikkupy_runs AS runs ON runs.number = steps.run
WHERE runs.run_id = ? AND steps.position < ? AND steps.seq IS NOT NULL
"""
_ASIDE = """
SELECT 1 FROM pikkupy_set_aside WHERE run = ? AND name = ? AND seq IS NOT NULL AND kind IN ('inline', 'function')
AND coalesce(target, 'inline') = ?
"""
_KEYED = {Kind.STEP, Kind.ATTEMPT, Kind.TIMER, Kind.SIGNAL, Kind.TAKEN, Kind.CHUNK, Kind.REOPEN, Kind.KEPT, Kind.BACK}
_ALL = {Kind.DELETE, Kind.SWEEP}  # what may be of any runs
MANY = 1_000  # workers: nobody waits for one
MOMENT_S = 1.0  # in which what was due before a jump of the clock still happens
FINAL_STEPS = {"succeeded", "failed", "cancelled"}
ENDED = {str(status) for status in FINAL_RUNS}


class Violation(AssertionError):
    """A promise was broken. The first word is its name; I-numbers are the invariants that hold it."""

    @property
    def promise(self) -> str:
        return str(self).split(":", 1)[0]


class Known(NamedTuple):
    """Something that has become known, and after how many commits."""

    commits: int
    what: Any


class Cursor:
    """How far one execution of a workflow's body is."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.place = 0  # in what was seen
        self.newest = 0  # place in the history of the outcome that it saw last


class Oracle:
    """Watches one history: what its workflows see, what its steps do, what its callers are told."""

    def __init__(self, disk: SimulatedDisk, clock: SimulatedClock, async_workers: int) -> None:
        self.counts: Counter[str] = Counter()
        self.starts: dict[str, int] = {}  # acknowledged, by the commits at that time
        self.cancelled: dict[str, int] = {}
        self.unwanted: set[str] = set()  # runs that somebody wanted to be cancelled, themselves too
        self.deleted: dict[str, int] = {}
        self.finals: dict[str, Known] = {}
        self.sent: list[Known] = []  # acknowledged signals: to which run
        self.offered: Counter[str] = Counter()  # how often each payload was sent, acknowledged or not
        self.seen: dict[str, dict[int, Known]] = {}  # what workflows got from awaits, by number
        self.retried: set[str] = set()
        self.accepted: set[str] = set()  # runs that took changed code
        self.changed: set[str] = (
            set()
        )  # runs whose code was changed: a step may have begun with other retries or durations
        self.forking: dict[str, int] = {}  # runs that are made from others, and before which position
        self.gone: set[str] = set()  # whose deletion was asked for
        self.prunes = 0  # calls of `prune` under way
        self._disk = disk
        self._clock = clock
        self._now_us = clock.now_us
        self._async_workers = async_workers
        self._at_work: set[tuple[str, int, int]] = set()  # attempts on the event loop that nobody has asked to stop
        # Attempts: the life in which the body began last, and whether it was at_most_once.
        self._begun: dict[tuple[str, int, int], Known] = {}
        self._live: dict[tuple[str, int], tuple[int, int]] = {}  # attempt and life of a step's body that has not ended
        self._made: dict[tuple[str, int, int], dict[str, None]] = {}  # values that bodies of an attempt have returned
        self._failed_at: dict[tuple[str, int, int], Known] = {}  # attempts
        self._asked_at: dict[tuple[str, int], Known] = {}  # sleeps

    @property
    def commits(self) -> int:
        """How many there were so far."""
        return self._disk.commits

    # What workflows see

    def begins_again(self, run_id: str) -> Cursor:
        """The body of a run is run from the beginning: a replay, also one that is only a look at what it would do."""
        if self.is_gone(run_id):
            self._forget([run_id])  # perhaps it is another run of the same id
        return Cursor(run_id)

    def asks(self, run_id: str, position: int | None, node: Leaf) -> None:
        """A workflow asks for a step: a sleep counts from the first time."""
        if not isinstance(node, Sleep) or position is None or (run_id, position) in self._asked_at:
            return  # it was asked for before; it may be a look at what the run would do, before that is on disk
        if not self._is_known(run_id, position):
            self._asked_at[run_id, position] = Known(self._disk.commits, (self._now_us(), self._clock.jumps))

    def saw(self, cursor: Cursor, position: int | None, node: Leaf, what: str, *, remembers: bool) -> None:
        """A workflow has got something from an await. `remembers`: every replay gets the same, in the same order."""
        if position is not None:
            self._check_outcome(cursor, position, node, what)
        if remembers:
            self._check_again(cursor, [getattr(node, "name", type(node).__name__), what])

    def _check_outcome(self, cursor: Cursor, position: int, node: Leaf, what: str) -> None:
        run_id = cursor.run_id
        rows = self._disk.query(_OUTCOME, position, run_id)
        if not rows and (run_id in self.forking or (self.is_gone(run_id) and not self._disk.query(_IS_THERE, run_id))):
            return  # it is looked at before it is written, or was deleted since it was read for a look
        if not rows or rows[0][1] not in ("succeeded", "failed"):
            raise Violation(f"durable: run {run_id!r} sees {what} of step {position} before it is on disk (I-10)")
        [(seq, status, wake_at, attempts)] = rows
        if seq <= cursor.newest:
            raise Violation(f"order: run {run_id!r} sees the outcome of step {position} after a later one (I-32)")
        cursor.newest = seq
        if isinstance(node, Sleep):
            asked = self._asked_at.get((run_id, position))
            # From a jump of the clock on it counts from when it was written, which is later.
            since_us = asked.what[0] if asked is not None and asked.what[1] == self._clock.jumps else 0
            if run_id not in self.accepted | self.changed and wake_at < since_us + node.us:
                raise Violation(
                    f"early: the sleep at {position} of run {run_id!r} is shorter than asked for (I7, I-21)"
                )
        if isinstance(node, Do) and not self._is_elsewhere(run_id, position):
            self._check_attempt(f"step {position} of run {run_id!r}", (run_id, position, attempts), status, what)

    def _check_attempt(self, where: str, last: tuple[str, int, int], status: str, what: str) -> None:
        """The outcome of a step is what its last attempt has made of it."""
        *_, attempts = last
        if status == "succeeded" and what not in self._made.get(last, ()):
            raise Violation(f"value: {what} is seen of {where}, and attempt {attempts} has not returned it (I4, I-9)")
        if (*last[:2], attempts + 1) in self._begun:
            raise Violation(f"attempts: the outcome of {where} is attempt {attempts}'s, and another one began (I-12)")

    def _is_known(self, run_id: str, position: int) -> bool:
        """Whether the step is on disk; a fork may have it from the run that it is made from before it is there."""
        run_is_there = bool(self._disk.query(_BODY, position, run_id))
        return bool(self._disk.query(_OUTCOME, position, run_id)) or (run_id in self.forking and not run_is_there)

    def _is_elsewhere(self, run_id: str, position: int) -> bool:
        """Whether what a step did may have happened before a fork, or before changed code was accepted."""
        return position < self.forking.get(run_id, 0) or run_id in self.accepted

    def _check_again(self, cursor: Cursor, what: Any) -> None:
        run_id, place = cursor.run_id, cursor.place
        seen = self.seen.setdefault(run_id, {})
        cursor.place += 1
        if place not in seen:
            seen[place] = Known(self._disk.commits, what)
            self.counts["seen"] += 1
        elif seen[place].what != what:
            raise Violation(
                f"replay: run {run_id!r} saw {seen[place].what!r} as number {place}, then {what!r} (I4, I10)"
            )
        else:
            self.counts["seen again"] += 1

    # What steps do

    def begins(self, node: Do, step: StepContext, life: int) -> None:
        """The body of a step begins."""
        run_id, attempt = step.run_id, step.attempt_count
        where = f"attempt {attempt} of step {step.step_name!r} of run {run_id!r}"
        self.counts["bodies"] += 1
        rows = self._disk.query(_BODY, step.position, run_id)
        if not rows:
            raise Violation(f"start: {where} begins, and the run is not on disk (I5, I-1)")
        [(name, status, attempts, forgiven, wake_at, of_run, parked, number)] = rows
        if status in FINAL_STEPS:
            raise Violation(f"once: {where} begins, and the step is {status} on disk (I2, I-8)")
        if of_run in ENDED:
            raise Violation(f"end: {where} begins, and the run is {of_run} on disk (I3)")
        if name not in (None, step.step_name) or parked is not None:
            raise Violation(f"mismatch: {where} begins; on disk is {name!r}, the run is parked: {parked} (I-33)")
        if run_id in self.accepted and self._disk.query(_ASIDE, number, step.step_name, node.by):
            raise Violation(f"once: {where} begins, and an outcome of that name was set aside (I2)")
        if status == "scheduled" and self._now_us() < wake_at and self._was_due_by_this_clock():
            raise Violation(f"early: {where} begins before its time (I7, I-18)")
        again = name is None and run_id in self.accepted  # its row was set aside, and is on its way back
        if not again and not (attempts or 0) <= attempt <= (attempts or 0) + 1:
            raise Violation(f"attempts: {where} begins after {attempts} on disk (I6, I-15)")
        if attempt - (forgiven or 0) > node.retries + 1 and run_id not in self.accepted | self.changed:
            raise Violation(f"attempts: {where} begins with {node.retries} retries (I6, I-16)")
        self._check_failed(node, step, where)
        self._check_cancelled(run_id, where)
        self._check_alone(node, step, where, life)
        self._check_twice(node, (run_id, step.position, attempt), where, life)
        self._check_limit(node, (run_id, step.position, attempt), where)

    def _was_due_by_this_clock(self) -> bool:
        """Whether what begins now was found to be due by the clock as it is, and did not wait for a slot since then."""
        waits = self._async_workers < MANY
        return self._clock.jumps == 0 if waits else self._clock.is_calm_since(MOMENT_S)

    def _check_failed(self, node: Do, step: StepContext, where: str) -> None:
        before = self._failed_at.get((step.run_id, step.position, step.attempt_count - 1))
        if before is None or step.run_id in self.accepted | self.changed | self.retried:
            return
        failed_us, jumps, final = before.what
        # What it has raised is not known to the engine if its time was up, or if it was cut off and must not run again.
        if final and node.timeout_us is None and not node.once:
            raise Violation(f"attempts: {where} begins after a NonRetryableError (I-19)")
        if jumps == self._clock.jumps and self._now_us() < failed_us + node.delay_us:
            raise Violation(f"early: {where} begins before the delay of its retry has passed (I-18)")

    def _check_cancelled(self, run_id: str, where: str) -> None:
        for cancelled in self.cancelled:
            if run_id == cancelled or (run_id.startswith(f"{cancelled}/") and not self.was_retried(run_id)):
                raise Violation(f"cancel: {where} begins after cancel({cancelled!r}) has returned (I8, I-26)")

    def _check_alone(self, node: Do, step: StepContext, where: str, life: int) -> None:
        run_id, attempt = step.run_id, step.attempt_count
        other, of_life = self._live.get((run_id, step.position), (attempt, life))
        self._live[run_id, step.position] = (attempt, life)
        if of_life != life or other == attempt or node.timeout_us is not None:
            return  # with a time-out one that does not end is left alone
        if run_id not in self.accepted | self.changed and not self.was_retried(run_id):
            raise Violation(f"attempts: {where} begins while attempt {other} is under way (I6, I-20)")

    def _check_twice(self, node: Do, key: tuple[str, int, int], where: str, life: int) -> None:
        last_life, was_once = self._begun[key].what if key in self._begun else (None, False)
        if was_once and node.once:  # changed code may have had another step there, which left no record
            raise Violation(f"at most once: {where} begins again")
        if last_life == life:
            raise Violation(f"attempt: {where} begins twice in one life (I6, I-20)")
        self._begun[key] = Known(self._disk.commits, (life, node.once))

    def _check_limit(self, node: Do, key: tuple[str, int, int], where: str) -> None:
        if node.by == "thread":
            return  # there it is over at once
        self._at_work.add(key)
        if len(self._at_work) > self._async_workers:
            raise Violation(f"limit: {where} begins as number {len(self._at_work)} of {self._async_workers} (I-37)")

    def stops(self, step: StepContext) -> None:
        """The body of a step was asked to stop. What does not stop may be left alone, and its slot be another's."""
        self._at_work.discard((step.run_id, step.position, step.attempt_count))

    def ends(self, step: StepContext, life: int) -> None:
        """The body of a step has ended, however."""
        self.stops(step)
        if self._live.get((step.run_id, step.position)) == (step.attempt_count, life):
            del self._live[step.run_id, step.position]

    def made(self, step: StepContext, value: str) -> None:
        """The body of a step returns that."""
        self._made.setdefault((step.run_id, step.position, step.attempt_count), {})[value] = None

    def failed(self, step: StepContext, *, final: bool = False) -> None:
        """The body of a step raises an error; `final`: one that is not to be retried."""
        now = (self._now_us(), self._clock.jumps, final)
        self._failed_at[step.run_id, step.position, step.attempt_count] = Known(self._disk.commits, now)

    # What callers know

    def started(self, run_id: str) -> None:
        """`start` has returned."""
        self.starts.setdefault(run_id, self._disk.commits)

    def offers(self, payload: str) -> None:
        """`signal` is called."""
        self.offered[payload] += 1

    def accepts(self, run_id: str) -> None:
        """`signal` has returned."""
        self.sent.append(Known(self._disk.commits, run_id))

    def wants_cancelled(self, run_id: str) -> None:
        """`cancel` is called, by somebody or by the workflow itself."""
        self.unwanted.add(run_id)

    def has_cancelled(self, run_id: str) -> None:
        """`cancel` has returned."""
        self.cancelled[run_id] = self._disk.commits

    def is_retried(self, run_id: str) -> None:
        """`retry` was called: the run, and what failed below it, go on from an earlier point."""
        self.retried.add(run_id)
        self._forget(one for one in [*self.finals, *self.seen] if f"{one}/".startswith(f"{run_id}/"))

    def was_retried(self, run_id: str) -> bool:
        """Whether the run goes on from an earlier point: it, or one above it, was retried."""
        return any(f"{run_id}/".startswith(f"{one}/") for one in self.retried)

    def takes_code(self, run_id: str) -> None:
        """Changed code is accepted: what follows is another history."""
        self.accepted.add(run_id)
        self._forget([run_id])

    def _forget(self, runs: Iterable[str]) -> None:
        for run_id in list(runs):
            self.finals.pop(run_id, None)
            self.seen.pop(run_id, None)
            self._begun = {key: known for key, known in self._begun.items() if key[0] != run_id}

    def deletes(self, run_id: str) -> None:
        """`delete_run` or `prune` may take the run away, and all below it."""
        self.gone.add(run_id)

    def writes(self, batch: Iterable[Sequence[Op]]) -> None:
        """A batch is about to be written.

        What `prune` deletes may have ended after it was asked for: long ago, by a clock that was set back meanwhile.
        """
        for ops in batch:
            self._check_family(ops)
        deleted = [op.columns[0] for op in chain.from_iterable(batch) if op.kind is Kind.DELETE] if self.prunes else ()
        for number in deleted:
            for (run_id,) in self._disk.query("SELECT run_id FROM pikkupy_runs WHERE number = ?", number):
                self.deletes(run_id)

    def _check_family(self, ops: Sequence[Op]) -> None:
        """What belongs together is of one run, and of those above and below it."""
        new = {op.columns[0]: op.columns[1] for op in ops if op.kind is Kind.RUN}
        some = [op for op in ops if op.kind not in _ALL]
        numbers = {op.columns[0] >> OWN_BITS if op.kind in _KEYED else op.columns[0] for op in some}
        runs = [new.get(number) or self._run_id(number) for number in numbers]
        families = {run_id.split("/", 1)[0] for run_id in runs if run_id is not None}
        if len(families) > 1:
            raise Violation(f"apart: {', '.join(sorted(families))} change in one piece (I-36)")

    def _run_id(self, number: int) -> str | None:
        rows = self._disk.query("SELECT run_id FROM pikkupy_runs WHERE number = ?", number)
        return rows[0][0] if rows else None

    def has_deleted(self, run_id: str) -> None:
        """`delete_run` has returned."""
        self.deleted[run_id] = self._disk.commits

    def told(self, run_id: str, status: str) -> None:
        """`result` has returned or raised: the run has that status on disk."""
        rows = self._disk.query("SELECT status, output, error FROM pikkupy_runs WHERE run_id = ?", run_id)
        if run_id in self.retried or (not rows and self.is_gone(run_id)):
            return
        if not rows or rows[0][0] != status:
            raise Violation(f"told: the caller of run {run_id!r} was told {status}, on disk is {rows} (I5, I-48)")
        self.finals.setdefault(run_id, Known(self._disk.commits, rows[0]))

    def is_gone(self, run_id: str) -> bool:
        """Whether somebody wanted the run to be deleted, or one above it."""
        return any(f"{run_id}/".startswith(f"{gone}/") for gone in self.gone)

    # Lives

    def restored(self, commits: int) -> None:
        """The process has died, and the disk is what it was after so many commits."""
        self._at_work.clear()
        for known in (self.starts, self.cancelled, self.deleted):
            for run_id in [run_id for run_id, at in known.items() if at > commits]:
                del known[run_id]
        self.sent = [signal for signal in self.sent if signal.commits <= commits]
        for seen in self.seen.values():
            for place in [place for place, one in seen.items() if one.commits > commits]:
                del seen[place]
        self.finals = {run_id: known for run_id, known in self.finals.items() if known.commits <= commits}
        self._begun = {key: known for key, known in self._begun.items() if known.commits <= commits}
        self._failed_at = {key: known for key, known in self._failed_at.items() if known.commits <= commits}
        self._asked_at = {
            key: known for key, known in self._asked_at.items() if known.commits <= commits and self._is_known(*key)
        }

    def check_forked(self, source: str, fork: str, position: int, overrides: dict[str, Any]) -> None:
        """What a fork shares with the run that it was made from is the same, but for the overrides."""
        if not self._disk.query(_IS_THERE, source):
            return  # it was deleted since then
        theirs = {name: rest for name, *rest in self._disk.query(_SHARED, source, position)}
        for name, *rest in self._disk.query(_SHARED, fork, position):
            wanted = ["succeeded", json.dumps(overrides[name]), None] if name in overrides else theirs.get(name)
            if rest != wanted and source not in self.accepted | self.retried:
                raise Violation(f"fork: step {name!r} of {fork!r} is {rest}, and not {wanted}")
