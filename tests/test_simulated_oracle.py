"""The oracle of the simulation by itself: that it would object, and to what it does not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pikkupy.core.model import OWN_BITS
from pikkupy.errors import JournalError, PikkuError, RunStateError
from pikkupy.execution import Decided
from pikkupy.services import StepContext
from pikkupy.store.plan import Kind, Op
from pikkupy.testing.simulation.asked import Known, TakeBack, Violation, unless_refused
from pikkupy.testing.simulation.checks import Checks
from pikkupy.testing.simulation.clock import SimulatedClock
from pikkupy.testing.simulation.disk import SimulatedDisk
from pikkupy.testing.simulation.loop import SimulatedLoop
from pikkupy.testing.simulation.oracle import Cursor, Oracle
from pikkupy.testing.simulation.programs import Child, Do, Gate, Leaf, Sleep, Wait

STEP = Do("charge", retries=3)


class Disk:
    """Answers every question about a step in the same way; run number n is `runs[n]`."""

    runs = ("r0", "r0/child", "r1")

    def __init__(self, *, outcome: tuple[Any, ...] = (1, "succeeded", None, 1, 0), attempts: int = 1) -> None:
        self.commits = 1
        self._outcome = outcome
        self._body: tuple[Any, ...] = (None, None, attempts, 0, None, "running", None, 1, 0)

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        if sql.endswith("WHERE number = ?"):
            return [(self.runs[parameters[0]],)]
        return [self._body if "AS runs LEFT JOIN" in sql else self._outcome]


class Clock(SimulatedClock):
    """Stands still."""

    def now_us(self) -> int:
        return 0


@pytest.fixture
def oracle() -> Oracle:
    return Oracle(cast(SimulatedDisk, Disk()), Clock(), workers=2)


def attempt(number: int, run_id: str = "r0", position: int = 0) -> StepContext:
    return StepContext(run_id, "program", "s", "charge", number, position)


def sees(oracle: Oracle, value: str, run_id: str = "r0", position: int = 0) -> None:
    oracle.saw(Cursor(run_id), position, STEP, value, remembers=False)


def test_a_value_that_no_body_has_returned_is_a_violation(oracle: Oracle) -> None:
    """Also of a step whose bodies never return anything (I4, I-9)."""
    with pytest.raises(Violation, match="value: 7 is seen of step 0 of run 'r0', and attempt 1 has not"):
        sees(oracle, "7")
    oracle.bodies.made(attempt(2), "7")
    with pytest.raises(Violation, match="value"):
        sees(oracle, "7")
    oracle.bodies.made(attempt(1), "7")
    sees(oracle, "7")


def test_an_attempt_behind_the_one_that_counts_is_a_violation(oracle: Oracle) -> None:
    """The outcome is the last attempt's (I-12)."""
    oracle.bodies.made(attempt(1), "7")
    oracle.bodies.begins(STEP, attempt(1), life=1)
    sees(oracle, "7")
    oracle.bodies.begins(STEP, attempt(2), life=2)
    with pytest.raises(Violation, match="is attempt 1's, and another one began"):
        sees(oracle, "7")


def test_more_bodies_at_once_than_there_are_slots_are_a_violation(oracle: Oracle) -> None:
    """Those on the event loop that were not asked to stop (I-37)."""
    for place in range(2):
        oracle.bodies.begins(STEP, attempt(1, position=place), life=1)
    with pytest.raises(Violation, match="limit: attempt 1 of step 'charge' of run 'r0' begins as number 3 of 2"):
        oracle.bodies.begins(STEP, attempt(1, position=2), life=1)
    oracle.bodies.ends(attempt(1, position=0), life=1)
    oracle.bodies.stops(attempt(1, position=1))
    oracle.bodies.begins(STEP, attempt(1, position=3), life=1)


FAILURES = [
    (Do("s", "fail", retries=1), "OSError: attempt 1", True),
    (Do("s", "fail", retries=1), "OSError: attempt 2", False),
    (Do("s", "fail"), "ValueError: attempt 1", False),
    (Do("s", "exit"), "SystemExit: 3", True),
    (Do("s", "huge"), "pikkupy.errors.PayloadError: output of step 's': too large", True),
    (Do("s"), "TimeoutError: step 's' did not end within its timeout of 1 s", False),
    (Do("s", timeout_us=1), "TimeoutError: step 's' did not end within its timeout of 1 s", True),
    (Do("s"), "pikkupy.errors.Interrupted: step 's' is at_most_once", False),
    (Do("s", once=True), "pikkupy.errors.Interrupted: step 's' is at_most_once", True),
]


@pytest.mark.parametrize(("step", "error", "sound"), FAILURES)
def test_an_error_that_a_step_cannot_have_is_a_violation(step: Do, error: str, sound: bool) -> None:
    """It is what its body raises in that attempt, or one of the engine's own that fits (I4)."""
    oracle = Oracle(cast(SimulatedDisk, Disk(outcome=(1, "failed", None, 1, 0))), Clock(), 2)
    what = repr(f"failed: step 's' failed after 1 attempt: {error}")
    if sound:
        oracle.saw(Cursor("r0"), 0, step, what, remembers=False)
    else:
        with pytest.raises(Violation, match="which no body of it has raised"):
            oracle.saw(Cursor("r0"), 0, step, what, remembers=False)


class Family(Disk):
    """A run with one child run, or with one gate that is shut."""

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return [("r0/child", 0)] if "AS child" in sql else [("gate",)] if "'suspend'" in sql else self._rows(sql)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return super().query(sql)


@pytest.fixture
def family() -> Oracle:
    return Oracle(cast(SimulatedDisk, Family()), Clock(), 2)


def test_a_result_that_no_child_run_has_returned_is_a_violation(family: Oracle) -> None:
    """I4: nor has anybody else."""
    family.given.returns("r1/child", "7")
    with pytest.raises(Violation, match="which no child run of it has returned"):
        family.saw(Cursor("r0"), 0, Child("child", STEP), "7", remembers=False)
    family.given.returns("r0/child", "7")
    family.saw(Cursor("r0"), 0, Child("child", STEP), "7", remembers=False)


@pytest.mark.parametrize("asked", [None, "r0/child", "r0"])
def test_a_child_run_that_nobody_cancelled_is_not_cancelled(asked: str | None) -> None:
    """I-28: or the run above it was."""
    oracle = Oracle(cast(SimulatedDisk, Family(outcome=(1, "failed", None, 1, 0))), Clock(), 2)
    error = repr(
        "failed: step 'child' failed after 1 attempt: pikkupy.errors.RunCancelled: run 'r0/child' was cancelled"
    )
    if asked is not None:
        oracle.wants_cancelled(asked)
        oracle.given.check(Child("child", STEP), "it", ("r0", 0), "failed", error, 0)
    else:
        with pytest.raises(Violation, match="run 'r0/child' is cancelled, and nobody has asked for it"):
            oracle.given.check(Child("child", STEP), "it", ("r0", 0), "failed", error, 0)


def test_what_nobody_has_given_is_a_violation(family: Oracle) -> None:
    """I4: of signals, decisions and gates. Nor has who gave it to another run, or under another name."""
    signal, decision, gate = Wait("s0"), Wait("a0", approval=True), Gate("g0")
    given: list[tuple[Leaf, str, Callable[[], object]]] = [
        (signal, "[1]", lambda: family.given.offers("r1", "s0", "[1]")),
        (signal, "[1]", lambda: family.given.offers("r0", "s1", "[1]")),
        (signal, "[1]", lambda: family.given.offers("r0", "s0", "[1]")),
        (decision, repr(Decided(1, None)), lambda: family.given.decides("r1", "a0", 1)),
        (decision, repr(Decided(1, None)), lambda: family.given.decides("r0", "a1", 1)),
        (decision, repr(Decided(1, None)), lambda: family.given.decides("r0", "a0", 1)),
        (gate, "None", lambda: family.given.resumes("r0")),
    ]
    for node, what, give in given:
        with pytest.raises(Violation, match="which nobody has given"):
            family.given.check(node, "it", ("r0", 0), "succeeded", what, 0)
        give()
    for node, what, _ in given:
        family.given.check(node, "it", ("r0", 0), "succeeded", what, 0)


def test_a_fork_brings_along_what_its_source_was_sent(family: Oracle) -> None:
    """And nothing that others were."""
    family.given.offers("r0", "s0", "[1]")
    family.given.decides("r0", "a0", 1)
    family.given.forks("r0", "f1")
    for node, what in ((Wait("s0"), "[1]"), (Wait("a0", approval=True), repr(Decided(1, None)))):
        family.given.check(node, "it", ("f1", 3), "succeeded", what, 0)
        with pytest.raises(Violation, match="which nobody has given"):
            family.given.check(node, "it", ("f2", 3), "succeeded", what, 0)


def test_a_signal_that_is_taken_more_often_than_sent_is_a_violation(oracle: Oracle) -> None:
    """I-39: by the run that it was sent to, under its name."""
    checks = Checks(lambda *_: [], oracle)
    for run_id, name in (("r1", "s0"), ("r0", "s1"), ("r0", "s0")):
        oracle.seen["r0"] = {0: Known(0, ["s0", "[1]"])}
        with pytest.raises(Violation, match=r"signal: \[1\] of 's0' was taken 1 times by run 'r0'"):
            checks._taken_signals()
        oracle.given.offers(run_id, name, "[1]")
    checks._taken_signals()


def test_a_gate_that_is_shut_after_resume_is_a_violation(family: Oracle) -> None:
    """I5: the call had returned. But a loss of power may have led back to before that."""
    shut = family.given.shut_gates("r0")
    assert shut == {"gate"}
    family.given.has_resumed("r0", shut)
    with pytest.raises(Violation, match=r"resume\('r0'\) had returned, and \['gate'\] is shut"):
        family.given.check_gates(at_rest=False)
    family.restored(0)
    family.given.check_gates(at_rest=False)


def test_a_result_that_the_run_has_not_returned_is_a_violation(family: Oracle) -> None:
    """I-5: callers get what the workflow gave."""
    oracle = Oracle(cast(SimulatedDisk, Final()), Clock(), 2)
    with pytest.raises(Violation, match="was told 7, which it has not returned"):
        oracle.told("r0", "completed", "7")
    oracle.given.returns("r0", "7")
    oracle.told("r0", "completed", "7")


class Final(Disk):
    """A run that has completed."""

    def query(self, sql: str, *_: Any) -> list[tuple[Any, ...]]:
        return [("completed", "7", None)] if "output" in sql else super().query(sql)


def test_changes_of_two_runs_in_one_piece_are_a_violation(oracle: Oracle) -> None:
    """What one run does changes no other, but of its own family (I-36)."""
    step = Op(Kind.STEP, (1 << OWN_BITS | 5, "name"))
    oracle.writes([[step, Op(Kind.MOVE, (0, "running"))], [Op(Kind.MOVE, (2, "running"))]])
    with pytest.raises(Violation, match="apart: r0, r1 change in one piece"):
        oracle.writes([[step, Op(Kind.MOVE, (2, "running"))]])
    with pytest.raises(Violation, match="apart: r0, r9 change in one piece"):
        oracle.writes([[step, Op(Kind.RUN, (3, "r9"))]])


def test_a_run_that_nobody_cancelled_is_not_cancelled(oracle: Oracle) -> None:
    """Whoever stops waiting for it, and whatever ends (I-28)."""
    checks = Checks(lambda sql, *_: [("r0", "cancelled", None, None)] if "output" in sql else [], oracle)
    with pytest.raises(Violation, match="cancel: run 'r0' is cancelled, and nobody has asked for it"):
        checks.look()
    oracle.wants_cancelled("r0")
    checks.look()


def test_what_is_due_and_not_told_is_a_violation(oracle: Oracle) -> None:
    """Two seconds after its time, unless the clock was set lately (I-22)."""
    asked: list[int] = []

    def query(sql: str, *parameters: Any) -> list[Any]:
        if "steps.wake_at < ?" not in sql:
            return []
        asked.append(parameters[0])
        return [("r0", "nap", 0, 0, 0, "inline")]

    checks = Checks(query, oracle)
    checks.next_moves((), None, 0)
    with pytest.raises(Violation, match="late: 'nap' of run 'r0' is due, and is not told"):
        checks.next_moves((), 5_000_000, 0)
    assert asked == [3_000_000]


def test_a_file_that_sqlite_finds_wrong_is_a_violation(oracle: Oracle) -> None:
    """In each life (I-43)."""
    checks = Checks(lambda sql, *_: [("wrong",)] if "integrity" in sql else [("ok",)], oracle)
    with pytest.raises(Violation, match="file: PRAGMA integrity_check says"):
        checks.opened()


def test_only_what_a_fork_shares_may_come_from_elsewhere(oracle: Oracle) -> None:
    """What lies behind the place of the fork it does by itself."""
    oracle.asked.forking["f1"] = 2

    sees(oracle, "7", "f1", 1)
    with pytest.raises(Violation, match="value"):
        sees(oracle, "7", "f1", 2)


def test_two_attempts_at_once_are_a_violation(oracle: Oracle) -> None:
    """The next one waits for the end of the one before (I6, I-20), but in another life."""
    oracle.bodies.begins(STEP, attempt(1), life=1)
    with pytest.raises(Violation, match="begins while attempt 1 is under way"):
        oracle.bodies.begins(STEP, attempt(2), life=1)
    oracle.bodies.begins(STEP, attempt(1), life=2)
    oracle.bodies.ends(attempt(1), life=2)
    oracle.bodies.begins(STEP, attempt(2), life=2)


def test_a_body_that_begins_after_a_failure_is_a_violation(oracle: Oracle) -> None:
    """Its outcome has no place in a journal that has failed (I12)."""
    with pytest.raises(Violation, match="stopped: attempt 1 of step 'charge' of run 'r0' begins, and the journal has"):
        oracle.bodies.begins(STEP, attempt(1), life=1, stopped=True)


def test_a_cancel_holds_below_although_another_run_was_retried(oracle: Oracle) -> None:
    """Only a retry on the way to the child run lets it go on (I8, I-26)."""
    oracle.has_cancelled("r0")
    oracle.is_retried("r9")
    with pytest.raises(Violation, match=r"begins after cancel\('r0'\) has returned"):
        oracle.bodies.begins(STEP, attempt(1, "r0/child"), life=1)
    oracle.is_retried("r0")
    oracle.bodies.begins(STEP, attempt(1, "r0/child"), life=1)


def asked_in_vain(*take_back: TakeBack, error: Exception | None = None) -> None:
    """A call that was refused, or that has ended with another error."""
    with suppress(PikkuError), unless_refused(*take_back):
        raise error or RunStateError("no")


def test_a_refused_retry_excuses_nothing(oracle: Oracle) -> None:
    """What was seen, what was told and the delays of retries hold as before; so do an end and a cancel (I3, I4, I8)."""
    completed, failed = ("completed", "7", None), ("failed", None, "{}")
    checks = Checks(lambda sql, *_: [("r0", *failed)] if "output" in sql else [], oracle)
    oracle.finals["r0"] = Known(0, completed)
    oracle.seen["r0"] = {0: Known(0, ["charge", "7"])}
    oracle.bodies.failed(attempt(1))
    oracle.has_cancelled("r1")
    asked_in_vain(oracle.is_retried("r0"))
    asked_in_vain(oracle.is_retried("r1"))

    with pytest.raises(Violation, match="end: run 'r0' was"):
        checks.look()
    with pytest.raises(Violation, match="replay: run 'r0' saw"):
        oracle.saw(Cursor("r0"), -1, STEP, "8", remembers=True)
    with pytest.raises(Violation, match="told: the caller of run 'r0' was told failed"):
        oracle.told("r0", "failed", "None")
    with pytest.raises(Violation, match="before the delay of its retry has passed"):
        oracle.bodies.begins(Do("charge", retries=3, delay_us=1), attempt(2), life=1)
    with pytest.raises(Violation, match=r"begins after cancel\('r1'\) has returned"):
        oracle.bodies.begins(STEP, attempt(1, "r1/child"), life=1)


def test_attempts_are_remembered_after_a_refusal(oracle: Oracle) -> None:
    """That of `at_most_once` too (I6)."""
    once = Do("charge", once=True, retries=3)
    oracle.bodies.begins(once, attempt(1), life=1)
    oracle.seen["r0"] = {}
    asked_in_vain(oracle.is_retried("r0"))
    with pytest.raises(Violation, match="at most once: attempt 1 of step 'charge' of run 'r0' begins again"):
        oracle.bodies.begins(once, attempt(1), life=2)


def test_a_refusal_takes_back_only_its_own(oracle: Oracle) -> None:
    """Somebody else's retry may be under way, or done; and if the journal fails, nobody knows."""
    oracle.finals["r0"] = Known(0, ("failed", None, "{}"))
    first, second = oracle.is_retried("r0"), oracle.is_retried("r0")
    asked_in_vain(first)
    assert oracle.asked.was_retried("r0")
    assert "r0" not in oracle.finals
    oracle.finals["r0"] = Known(0, ("failed", None, "{}"))
    asked_in_vain(oracle.is_retried("r0"))
    assert "r0" not in oracle.finals  # it may be older than the other retry
    asked_in_vain(second, error=JournalError("the disk is gone"))
    assert oracle.asked.was_retried("r0")


def test_what_was_learnt_of_another_past_does_not_come_back(oracle: Oracle) -> None:
    """Changed code was accepted, as far as is known, between a retry and its refusal."""
    oracle.finals["r0"] = Known(0, ("failed", None, "{}"))
    refused = oracle.is_retried("r0")
    oracle.finals["r0"] = Known(0, ("completed", "7", None))
    oracle.takes_code("r0")
    asked_in_vain(refused)
    assert oracle.finals == {}


def test_changed_code_that_was_not_accepted_excuses_nothing(oracle: Oracle) -> None:
    """Every value of the run would have passed."""
    oracle.seen["r0"] = {0: Known(0, ["charge", "7"])}
    asked_in_vain(oracle.takes_code("r0"), oracle.given.resumes("r0"))
    with pytest.raises(Violation, match="value: 7 is seen of step 0 of run 'r0'"):
        sees(oracle, "7")
    with pytest.raises(Violation, match="which nobody has given"):
        oracle.given.check(Gate("g0"), "it", ("r0", 0), "succeeded", "None", 0)
    assert oracle.seen["r0"] == {0: Known(0, ["charge", "7"])}


def test_a_run_that_was_not_deleted_is_to_be_there(oracle: Oracle) -> None:
    """Nor is one cancelled, or told something, because somebody has tried (I5, I-28, I4)."""
    cancelled = ("r1", "cancelled", None, None)
    checks = Checks(lambda sql, *_: [cancelled] if "output" in sql else [], oracle)
    asked_in_vain(oracle.wants_cancelled("r1"))
    with pytest.raises(Violation, match="cancel: run 'r1' is cancelled, and nobody has asked for it"):
        checks.look()
    oracle.started("r0")
    asked_in_vain(oracle.deletes("r0"))
    with pytest.raises(Violation, match=r"lost: start\(\) of run 'r0' had returned"):
        checks.look()
    asked_in_vain(oracle.given.offers("r0", "s0", "[1]"), oracle.given.decides("r0", "a0", 1))
    for node, what in ((Wait("s0"), "[1]"), (Wait("a0", approval=True), repr(Decided(1, None)))):
        with pytest.raises(Violation, match="which nobody has given"):
            oracle.given.check(node, "it", ("r0", 0), "succeeded", what, 0)
    asked_in_vain(oracle.asked.forks("f1", 2))
    with pytest.raises(Violation, match="value: 7 is seen of step 1 of run 'f1'"):
        sees(oracle, "7", "f1", 1)


OWN = Sleep(5, own=True)


def test_a_sleep_of_asyncio_that_is_short_after_a_jump_is_a_violation() -> None:
    """Only one that lasts while the clock is set may be, and one that is seen again later (I7, I-21)."""
    clock = Clock()
    oracle = Oracle(cast(SimulatedDisk, Disk()), clock, 2)
    clock.jumps, cursor = 1, oracle.begins_again("r0")
    oracle.asks(cursor, -1, OWN)
    oracle.asks(cursor, -2, OWN)
    with pytest.raises(Violation, match=r"early: asyncio\.sleep 1 of run 'r0' is too short"):
        oracle.saw(cursor, -1, OWN, "None", remembers=False)
    clock.jumps = 2
    oracle.saw(cursor, -2, OWN, "None", remembers=False)
    oracle.restored(1)
    cursor = oracle.begins_again("r0")
    oracle.asks(cursor, -2, OWN)
    oracle.saw(cursor, -2, OWN, "None", remembers=False)


def test_a_time_of_a_child_run_that_is_short_after_a_jump_is_a_violation(family: Oracle) -> None:
    """By the clock of the engine, whatever it was set to (I7)."""
    family._clock.jumps = 1
    child, error = Child("child", STEP, timeout_us=5), "failed: step 'child' failed after 1 attempt: TimeoutError: late"
    family.given.check(child, "it", ("r0", 0), "failed", error, 5)
    with pytest.raises(Violation, match="early: the time of it is up, which was not"):
        family.given.check(child, "it", ("r0", 0), "failed", error, 4)


class Scheduled(Disk):
    """Runs that begin later, or with a step that is due at 10."""

    def __init__(self, *, later: bool) -> None:
        super().__init__()
        waits: tuple[Any, ...] = (None, None, 0, 0, None) if later else ("charge", "scheduled", 0, 0, 10)
        self._body = (*waits, "running", None, 1, later)
        self.later = later

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return [(1,)] * self.later if sql.startswith("SELECT 1 FROM pikkupy_runs") else super().query(sql, *parameters)


def test_a_run_that_begins_before_its_time_after_a_jump_is_a_violation() -> None:
    """If its time was there when it began, the clock may be set back (I7)."""
    clock, disk = Clock(), Scheduled(later=True)
    oracle = Oracle(cast(SimulatedDisk, disk), clock, 2)
    clock.jumps = 1
    oracle.begins_again("r0")
    with pytest.raises(Violation, match=r"early: .* begins before the run may"):
        oracle.bodies.begins(STEP, attempt(1), life=1)
    disk.later = False
    oracle.begins_again("r0")
    oracle.bodies.begins(STEP, attempt(1), life=1)


@pytest.mark.parametrize(("shown", "sound"), [([], False), ([9], False), ([10], True)])
def test_a_retry_before_its_time_after_a_jump_is_a_violation(shown: list[int], sound: bool) -> None:
    """With few slots too. It may have waited for one since it was due, and the clock been set back (I-18)."""
    clock = Clock()
    oracle = Oracle(cast(SimulatedDisk, Scheduled(later=False)), clock, 2)
    clock._shown, clock.jumps = [20], 1  # before the attempt that has failed
    oracle.bodies.failed(attempt(0))
    clock._shown, clock.jumps = [20, *shown], 1 + len(shown)
    with nullcontext() if sound else pytest.raises(Violation, match=r"early: .* begins before its time"):
        oracle.bodies.begins(STEP, attempt(1), life=1)


@pytest.mark.parametrize("by", ["inline", "thread"])
def test_a_retry_that_is_overdue_while_there_is_a_slot_is_a_violation(by: str) -> None:
    """Who waits for a slot, or has just got one, is not late (I-22, I-37)."""
    clock = Clock()
    clock.loop = cast(SimulatedLoop, SimpleNamespace(now_s=0.0))
    oracle = Oracle(cast(SimulatedDisk, Disk()), clock, 1)
    late = ("r0", "charge", 1, 7, 1, by)
    checks = Checks(lambda sql, *_: [late] if "steps.wake_at < ?" in sql else [], oracle)
    with pytest.raises(Violation, match="late: 'charge' of run 'r0' is due"):
        checks.next_moves((), 5_000_000, 0)
    oracle.bodies.begins(Do("charge", by=by, lasts_us=4_000_000), attempt(1), life=1)
    clock.loop.now_s = 4.0
    checks.next_moves((), 5_000_000, 0)
    oracle.bodies.ends(attempt(1), life=1)
    clock.loop.now_s = 4.9
    checks.next_moves((), 5_000_000, 0)
    clock.loop.now_s = 5.1
    with pytest.raises(Violation, match="late: 'charge' of run 'r0' is due"):
        checks.next_moves((), 5_000_000, 0)
    oracle.bodies.begins(Do("charge", retries=1, by=by), attempt(2, position=7), life=1)
    oracle.bodies.ends(attempt(2, position=7), life=1)
    clock.loop.now_s = 7.0
    checks.next_moves((), 5_000_000, 0)
    clock.loop.now_s = 7.2
    with pytest.raises(Violation, match="late: 'charge' of run 'r0' is due"):
        checks.next_moves((), 5_000_000, 0)
