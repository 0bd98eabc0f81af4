"""What the bodies of steps do in one history, and when they may."""

from __future__ import annotations

import math
from collections import Counter

from pikkupy.core.machine import FINAL_RUNS
from pikkupy.services import StepContext
from pikkupy.testing.simulation.asked import Asked, Known, Violation
from pikkupy.testing.simulation.clock import SimulatedClock
from pikkupy.testing.simulation.disk import SimulatedDisk
from pikkupy.testing.simulation.programs import Do

_BODY = """
SELECT steps.name, steps.status, steps.attempts, steps.forgiven, steps.wake_at, runs.status, runs.parked, runs.number,
    runs.starts_at > runs.created_at AND runs.starts_at > ?
    AND NOT EXISTS (SELECT 1 FROM pikkupy_steps AS kept WHERE kept.run = runs.number AND kept.seq IS NOT NULL)
    AND NOT EXISTS (SELECT 1 FROM pikkupy_timers AS kept WHERE kept.run = runs.number)
FROM pikkupy_runs AS runs LEFT JOIN pikkupy_steps AS steps ON steps.run = runs.number AND steps.position = ?
WHERE runs.run_id = ?
"""
_STARTS_LATER = "SELECT 1 FROM pikkupy_runs WHERE run_id = ? AND starts_at > created_at AND starts_at > ?"
_ASIDE = """
SELECT 1 FROM pikkupy_set_aside WHERE run = ? AND name = ? AND seq IS NOT NULL AND kind IN ('inline', 'function')
AND coalesce(target, 'inline') = ?
"""
ERRORS = {  # what bodies raise, and the codec for them
    "fail": "OSError: attempt {}",
    "final": "pikkupy.errors.NonRetryableError: attempt {}",
    "huge": "pikkupy.errors.PayloadError: output of step ",
    "unfit": "pikkupy.errors.PayloadError: output of step ",
    "exit": "SystemExit: 3",
}
LONGEST_HANDOVER_US = 50_000  # from the beginning of an attempt to that of its body, if it is later
UNKNOWN = -1  # jumps of the clock before an attempt began: one of them came just before its body did
MANY = 1_000  # workers: nobody waits for one
MOMENT_S = 1.0  # in which what was due before a jump of the clock still happens, and a free slot is taken
SLACK_US = 2_000_000  # of a timer in memory, and of the row that shows the attempt that it has begun
FINAL_STEPS = {"succeeded", "failed", "cancelled"}
ENDED = {str(status) for status in FINAL_RUNS}


class Bodies:
    """Those of all lives."""

    def __init__(
        self, disk: SimulatedDisk, clock: SimulatedClock, asked: Asked, counts: Counter[str], workers: int
    ) -> None:
        self._disk = disk
        self._clock = clock
        self._now_us = clock.now_us
        self._asked = asked
        self._counts = counts
        self.loop_writes = False  # and stands still meanwhile, also between the beginning of an attempt and of its body
        self._workers = workers  # on the loop, and as many on threads
        self._at_work: set[tuple[str, int, int]] = set()  # attempts on the event loop that nobody has asked to stop
        # Attempts: the life in which the body began last, whether it was at_most_once, when, after how many jumps.
        self._begun: dict[tuple[str, int, int], Known] = {}
        self._live: dict[tuple[str, int], tuple[int, int]] = {}  # attempt and life of a step's body that has not ended
        self._made: dict[tuple[str, int, int], dict[str, None]] = {}  # values that bodies of an attempt have returned
        self._failed_at: dict[tuple[str, int, int], Known] = {}  # attempts
        self._may_begin: dict[str, Known] = {}  # runs whose time was there when their bodies began
        # Of this life, by the loop's time.
        self._begun_at_s: dict[tuple[str, int, int], float] = {}  # attempts
        self._on_loop: set[tuple[str, int, int]] = set()  # attempts whose bodies have not ended
        self._on_threads: list[float] = []  # when bodies end there, with their way back
        self._loop_full_until_s = self._threads_full_until_s = -math.inf  # since then there was a slot

    def may_begin(self, run_id: str) -> None:
        """The body of a workflow begins: if its time has come, steps of it may, whatever the clock is set to."""
        if run_id not in self._may_begin and not self._disk.query(_STARTS_LATER, run_id, self._now_us()):
            self._may_begin[run_id] = Known(self._disk.commits, None)

    def may_wait(self, run_id: str, position: int, attempts: int, by: str) -> bool:
        """Whether the next attempt of a step, after so many, may wait for a slot, or has just got one."""
        for attempt in (attempts, attempts + 1):
            if self._clock.loop_s < self._begun_at_s.get((run_id, position, attempt), -math.inf) + SLACK_US / 1e6:
                return True
        full_until_s = self._threads_full_until_s if by == "thread" else self._loop_full_until_s
        return self._clock.loop_s < full_until_s + MOMENT_S

    def begins(self, node: Do, step: StepContext, life: int, *, stopped: bool = False) -> None:
        """The body of a step begins. `stopped`: the journal has failed."""
        run_id, attempt = step.run_id, step.attempt_count
        where = f"attempt {attempt} of step {step.step_name!r} of run {run_id!r}"
        self._counts["bodies"] += 1
        if stopped:
            raise Violation(f"stopped: {where} begins, and the journal has failed (I12)")
        rows = self._disk.query(_BODY, self._now_us(), step.position, run_id)
        if not rows:
            raise Violation(f"start: {where} begins, and the run is not on disk (I5, I-1)")
        [(name, status, attempts, forgiven, wake_at, of_run, parked, number, is_early)] = rows
        if status in FINAL_STEPS:
            raise Violation(f"once: {where} begins, and the step is {status} on disk (I2, I-8)")
        if of_run in ENDED:
            raise Violation(f"end: {where} begins, and the run is {of_run} on disk (I3)")
        if name not in (None, step.step_name) or parked is not None:
            raise Violation(f"mismatch: {where} begins; on disk is {name!r}, the run is parked: {parked} (I-33)")
        if run_id in self._asked.accepted and self._disk.query(_ASIDE, number, step.step_name, node.by):
            raise Violation(f"once: {where} begins, and an outcome of that name was set aside (I2)")
        if is_early and run_id not in self._may_begin:
            raise Violation(f"early: {where} begins before the run may (I7)")
        if status == "scheduled" and not self._was_due(wake_at, (run_id, step.position, attempt - 1)):
            raise Violation(f"early: {where} begins before its time (I7, I-18)")
        again = name is None and run_id in self._asked.accepted  # its row was set aside, and is on its way back
        if not again and not (attempts or 0) <= attempt <= (attempts or 0) + 1:
            raise Violation(f"attempts: {where} begins after {attempts} on disk (I6, I-15)")
        if attempt - (forgiven or 0) > node.retries + 1 and not self._asked.has_other_code(run_id):
            raise Violation(f"attempts: {where} begins with {node.retries} retries (I6, I-16)")
        self._check_failed(node, step, where)
        self._check_cancelled(run_id, where)
        self._check_alone(node, step, where, life)
        self._check_twice(node, (run_id, step.position, attempt), where, life)
        self._check_limit(node, (run_id, step.position, attempt), where)

    def _was_due(self, wake_at: int, before: tuple[str, int, int]) -> bool:
        """Whether it was so late at some time since the attempt before; that may be long ago if there are few slots."""
        if self._workers == MANY and self._clock.is_calm_since(MOMENT_S):
            return self._now_us() >= wake_at
        if before in self._failed_at:
            return self._clock.has_shown(wake_at, self._failed_at[before].what[1])
        return self._clock.has_shown(wake_at, max(0, self._begun[before].what[3]) if before in self._begun else 0)

    def _check_failed(self, node: Do, step: StepContext, where: str) -> None:
        before = self._failed_at.get((step.run_id, step.position, step.attempt_count - 1))
        if before is None or self._asked.has_other_code(step.run_id) or step.run_id in self._asked.retried:
            return
        failed_us, jumps, final = before.what
        # What it has raised is not known to the engine if its time was up, or if it was cut off and must not run again.
        if final and node.timeout_us is None and not node.once:
            raise Violation(f"attempts: {where} begins after a NonRetryableError (I-19)")
        if jumps == self._clock.jumps and self._now_us() < failed_us + node.delay_us:
            raise Violation(f"early: {where} begins before the delay of its retry has passed (I-18)")

    def _check_cancelled(self, run_id: str, where: str) -> None:
        for cancelled in self._asked.cancelled:
            if run_id == cancelled or (run_id.startswith(f"{cancelled}/") and not self._asked.was_retried(run_id)):
                raise Violation(f"cancel: {where} begins after cancel({cancelled!r}) has returned (I8, I-26)")

    def _check_alone(self, node: Do, step: StepContext, where: str, life: int) -> None:
        run_id, attempt = step.run_id, step.attempt_count
        other, of_life = self._live.get((run_id, step.position), (attempt, life))
        self._live[run_id, step.position] = (attempt, life)
        if of_life != life or other == attempt or node.timeout_us is not None:
            return  # with a time-out one that does not end is left alone
        if not self._asked.has_other_code(run_id) and not self._asked.was_retried(run_id):
            raise Violation(f"attempts: {where} begins while attempt {other} is under way (I6, I-20)")

    def _check_twice(self, node: Do, key: tuple[str, int, int], where: str, life: int) -> None:
        last_life, was_once, *_ = self._begun[key].what if key in self._begun else (None, False)
        if was_once and node.once:  # changed code may have had another step there, which left no record
            raise Violation(f"at most once: {where} begins again")
        if last_life == life:
            raise Violation(f"attempt: {where} begins twice in one life (I6, I-20)")
        known = not self._is_later(node) or self._clock.is_calm_since(LONGEST_HANDOVER_US / 1e6)
        begun = (life, node.once, self._now_us(), self._clock.jumps if known else UNKNOWN)
        self._begun[key] = Known(self._disk.commits, begun)

    def _check_limit(self, node: Do, key: tuple[str, int, int], where: str) -> None:
        self._begun_at_s[key] = now_s = self._clock.loop_s
        if node.by == "thread":  # there the body is over at once, and its result comes later
            self._on_threads.append(now_s + (node.lasts_us + LONGEST_HANDOVER_US) / 1e6)
            self._on_threads.sort()
            if len(self._on_threads) >= self._workers:
                self._threads_full_until_s = self._on_threads[-self._workers]
            return
        self._on_loop.add(key)
        if len(self._on_loop) >= self._workers:
            self._loop_full_until_s = math.inf
        self._at_work.add(key)
        if len(self._at_work) > self._workers:
            raise Violation(f"limit: {where} begins as number {len(self._at_work)} of {self._workers} (I-37)")

    def _is_later(self, node: Do) -> bool:
        """Whether the body begins later than the attempt."""
        return node.by == "thread" or self.loop_writes

    def stops(self, step: StepContext) -> None:
        """The body of a step was asked to stop. What does not stop may be left alone, and its slot be another's."""
        self._at_work.discard((step.run_id, step.position, step.attempt_count))

    def ends(self, step: StepContext, life: int) -> None:
        """The body of a step has ended, however."""
        self.stops(step)
        self._on_loop.discard((step.run_id, step.position, step.attempt_count))
        if self._loop_full_until_s == math.inf and len(self._on_loop) < self._workers:
            self._loop_full_until_s = self._clock.loop_s
        if self._live.get((step.run_id, step.position)) == (step.attempt_count, life):
            del self._live[step.run_id, step.position]

    def made(self, step: StepContext, value: str) -> None:
        """The body of a step returns that."""
        self._made.setdefault((step.run_id, step.position, step.attempt_count), {})[value] = None

    def failed(self, step: StepContext, *, final: bool = False) -> None:
        """The body of a step raises an error; `final`: one that is not to be retried."""
        now = (self._now_us(), self._clock.jumps, final)
        self._failed_at[step.run_id, step.position, step.attempt_count] = Known(self._disk.commits, now)

    def forget(self, run_id: str) -> dict[tuple[str, int, int], Known]:
        """The run goes on from an earlier point, or is another one. What was known, for `remember`."""
        forgotten = {key: known for key, known in self._begun.items() if key[0] == run_id}
        self._begun = {key: known for key, known in self._begun.items() if key[0] != run_id}
        return forgotten

    def remember(self, begun: dict[tuple[str, int, int], Known]) -> None:
        """It does not, after all; what was learnt meanwhile is newer."""
        self._begun = {**begun, **self._begun}

    def restored(self, commits: int) -> None:
        """The process has died, and the disk is what it was after so many commits."""
        self._at_work.clear()
        self._begun_at_s.clear()
        self._on_loop.clear()
        self._on_threads.clear()
        self._loop_full_until_s = self._threads_full_until_s = -math.inf
        self._begun = {key: known for key, known in self._begun.items() if known.commits <= commits}
        self._failed_at = {key: known for key, known in self._failed_at.items() if known.commits <= commits}
        self._may_begin = {run_id: known for run_id, known in self._may_begin.items() if known.commits <= commits}

    # What came of them

    def check_outcome(self, node: Do, where: str, last: tuple[str, int, int], status: str, what: str) -> None:
        """The outcome of a step is what its last attempt has made of it."""
        run_id, position, attempts = last
        if (run_id, position, attempts + 1) in self._begun:
            raise Violation(f"attempts: the outcome of {where} is attempt {attempts}'s, and another one began (I-12)")
        if status == "succeeded" and what not in self._made.get(last, ()):
            raise Violation(f"value: {what} is seen of {where}, and attempt {attempts} has not returned it (I4, I-9)")
        begun = self._begun.get(last)
        own_code = not self._asked.has_other_code(run_id)  # else what came of it may be another step's
        if "TimeoutError: " in what and node.timeout_us is not None and begun is not None and own_code:
            _, _, begun_us, jumps = begun.what
            begun_us -= LONGEST_HANDOVER_US if self._is_later(node) else 0
            if jumps == self._clock.jumps and self._now_us() < begun_us + node.timeout_us:
                raise Violation(f"early: the time of {where} is up, which was not (I7)")
        if status == "failed" and own_code and not _can_fail_so(node, attempts, what):
            raise Violation(f"value: {what} is seen of {where}, which no body of it has raised (I4)")


def _can_fail_so(node: Do, attempts: int, what: str) -> bool:
    """Whether the error is its body's, or one that the engine has of its own for it."""
    said = what.split(" after ", 1)[-1].split(": ", 1)[-1]
    own = ["TimeoutError: "] if node.timeout_us is not None else []
    own += ["pikkupy.errors.Interrupted: "] if node.once else []
    errors = [*own, ERRORS[node.acts].format(attempts)] if node.acts in ERRORS else own
    return any(said.startswith(error) for error in errors)
