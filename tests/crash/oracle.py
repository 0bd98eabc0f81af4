"""What may never be true after a kill. Knows the file and the ledger, and nothing of the engine.

`check_life` compares two moments between lives and what the life between them has done; `check_end` the whole.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pikkupy.core.machine import FINAL_RUNS
from tests.crash.application import NAP_MS, RETRY_MS
from tests.crash.caller import PRUNED
from tests.crash.ledger import KILLED, ROBBED, Line
from tests.kills.facts import Facts, RunFact, StepFact

Key = tuple[str, str]  # run and step

ONCE = "once"  # the step that may run at most once under each number
USE_UP_ATTEMPTS = {ONCE: (KILLED,), "crunch 0": (KILLED, ROBBED), "crunch 1": (KILLED, ROBBED)}
"""Steps of which some ends may take an attempt, one each, and which: no end in good order does, as the body of the step
that runs at most once does not last."""
RETRIED = "broken"
MOVED = "moving"
SLEEPS_US = {"nap": NAP_MS * 1_000}
WAITS_US = {"flaky": RETRY_MS * 1_000}  # between attempts


class Moment(NamedTuple):
    """What there is between two lives."""

    facts: Facts | None
    lines: list[Line]


def check_life(db: Path, before: Moment, after: Moment) -> None:
    """What was true before a life holds after it, and the life has done nothing that it may not. Raises if not so."""
    new = after.lines[len(before.lines) :]
    if after.facts is None:
        assert before.facts is None, "the tables are gone"
        assert not any(line.what in ("begin", "told") for line in new), "something was done without a journal"
        return
    check_file(db)
    asked = {(line.run, line.step) for line in after.lines if line.what == "asked"}
    if before.facts is not None:
        check_runs(before.facts, after.facts, asked)
        check_steps(before.facts, after.facts, asked)
        check_not_again(before.facts, new, asked)
    check_told(after.facts, after.lines, asked)
    check_seen(after.facts, after.lines)
    check_order(after.lines)
    check_attempts(after.facts, after.lines)
    check_attempt_rows(after.facts)
    check_timers(after.facts, after.lines)
    if before.facts is not None:
        check_rows(before.facts, after.facts)
        check_owners(before, after)


def check_file(db: Path) -> None:
    """The file is sound."""
    with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def check_runs(before: Facts, after: Facts, asked: set[Key]) -> None:
    """I3: no run is lost but one whose deletion was asked for; how it began, and once it has ended all of it, stays."""
    for run_id, run in before.runs.items():
        now = after.runs.get(run_id)
        if now is None:
            assert _may_be_deleted(run_id, asked), f"run {run_id} is lost"
            continue
        assert _beginning(now) == _beginning(run), f"{run_id} began as {_beginning(run)}, now {_beginning(now)}"
        if run.status in FINAL_RUNS and not (run.status == "failed" and (run_id, "retry") in asked):
            assert _end(now) == _end(run), f"run {run_id} had ended: {_end(run)}, now {_end(now)}"


def check_steps(before: Facts, after: Facts, asked: set[Key]) -> None:
    """I1: no step is lost, and what was recorded stays as it is, where it is. In a run that has accepted new code it
    may be set aside, or have come back elsewhere; what was cancelled is not kept there."""
    for (run_id, name), step in [*before.steps.items(), *before.aside.items()]:
        if run_id not in after.runs:
            continue
        now = after.steps.get((run_id, name))
        if run_id == MOVED and (MOVED, "accept") in asked:
            now = now or after.aside.get((run_id, name))
            assert now is not None or step.status == "cancelled", f"{run_id} {name} is lost"
            if now is not None and step.seq is not None:
                assert (now.status, now.output) == (step.status, step.output), f"{run_id} {name} was {step}, now {now}"
            continue
        assert now is not None, f"{run_id} {name} is lost"
        if step.over and not (step.status in ("failed", "cancelled") and (run_id, "retry") in asked):
            assert _outcome(now) == _outcome(step), f"{run_id} {name} was {_outcome(step)}, now {_outcome(now)}"


def check_rows(before: Facts, after: Facts) -> None:
    """I1, I5: attempts, timers, signals, changes of the code and chunks stay as they are as long as their run does.

    A retry adds attempts. Accepted code takes away the timers of its run that fired after what it sets aside: `moving`
    has none.
    """
    for what, rows in before.lasting.items():
        for row in sorted(rows - after.lasting[what]):
            run = after.by_number.get(row[0])
            assert run is None, f"{what} of {run and run.run_id} are lost, or other ones: {row}"


def check_owners(before: Moment, after: Moment) -> None:
    """I11: each owner has an epoch of its own, and no number of a run is used again."""
    old, new = before.facts, after.facts
    assert old is not None and new is not None
    assert new.epoch >= old.epoch, f"the epoch fell from {old.epoch} to {new.epoch}"
    assert new.next_number >= old.next_number, f"the next number fell from {old.next_number} to {new.next_number}"
    again = {number for number in new.by_number.keys() - old.by_number.keys() if number < old.next_number}
    assert not again, f"numbers of runs are used again: {again}"
    lives = {line.life for line in after.lines if line.what in ("begin", "told")}
    if lives - {line.life for line in before.lines}:
        assert new.epoch > old.epoch, f"something was done in an epoch of an earlier life, {old.epoch}"


def check_not_again(before: Facts, new: Sequence[Line], asked: set[Key]) -> None:
    """I2, I8: what was recorded before a life does not begin in it, and neither does a step of a run that had ended."""
    for line in new:
        if line.what != "begin":
            continue
        step = before.steps.get((line.run, line.step)) or before.aside.get((line.run, line.step))
        retried = (line.run, "retry") in asked
        if step is not None and step.seq is not None:
            assert step.status == "failed" and retried, f"{line.run} {line.step} was recorded, and has begun again"
        run = before.runs.get(line.run)
        ended = run is not None and run.status in FINAL_RUNS
        assert not ended or retried, f"{line.run} had ended, and {line.step} has begun"


def check_told(facts: Facts, lines: Sequence[Line], asked: set[Key]) -> None:
    """I5: what a caller was told is true from then on, and the end of a run is told in the same way each time."""
    ends: dict[str, Any] = {}
    signals: Counter[str] = Counter()
    for line in lines:
        if line.what != "told":
            continue
        run = facts.runs.get(line.run)
        deleted = _may_be_deleted(line.run, asked)
        match line.step:
            case "start" | "fork":
                assert run is not None or deleted, f"the start of {line.run} is lost"
            case "cancel":
                assert run is not None and run.status == "cancelled", f"the cancel of {line.run} is lost"
            case "delete":
                assert run is None, f"{line.run} was deleted, and is there"
            case "prune":
                assert not facts.runs.keys() & set(PRUNED), "pruned runs are there"
            case "retry" | "accept" | "resume":
                assert run is not None and run.parked is None, f"the {line.step} of {line.run} is lost"
                assert run.status not in ("failed", "suspended"), f"the {line.step} of {line.run} is lost"
            case "approve":
                assert facts.status(line.run, "pay") == "succeeded", "a decision is lost"
            case "signal":
                signals[line.run] += 1
            case "result":
                assert run is not None and run.status == line.value[0], f"{line.run} was told to be {line.value}"
                assert ends.setdefault(line.run, line.value) == line.value, f"two ends of {line.run}"
    sent = Counter(line.run for line in lines if line.what == "asked" and line.step == "signal")
    for run_id in sent:
        assert signals[run_id] <= facts.signals[run_id, "go"] <= sent[run_id], f"signals of {run_id}"


def check_seen(facts: Facts, lines: Sequence[Line]) -> None:
    """I4: no workflow gets a value that is not recorded, or once another one."""
    for line in lines:
        if line.what != "seen" or line.run not in facts.runs:
            continue
        step = facts.steps.get((line.run, line.step)) or facts.aside.get((line.run, line.step))
        assert step is not None and step.seq is not None, f"{line.run} has seen {line.step}, which is not recorded"
        assert _value(step) == line.value, f"{line.run} {line.step}: seen {line.value}, recorded {step.output}"


def check_order(lines: Sequence[Line]) -> None:
    """I2, I6, I8, in the order of the ledger: nothing begins after its value was seen or its run told to have ended,
    once in a life at most, each attempt after the one before."""
    seen: set[Key] = set()
    ended: set[str] = set()
    begun: set[tuple[str, str, int, int]] = set()
    for line in lines:
        key = (line.run, line.step)
        match line.what:
            case "seen":
                seen.add(key)
            case "told" if line.step in ("cancel", "result"):
                ended.add(line.run)
            case "begin":
                assert key not in seen, f"{key} has begun after its value was seen"
                assert line.run not in ended, f"{key} has begun after its run was told to have ended"
                life = 0 if line.step == ONCE else line.life
                assert (*key, line.attempt, life) not in begun, f"{key}: attempt {line.attempt} has begun twice"
                begun.add((*key, line.attempt, life))


def check_attempts(facts: Facts, lines: Sequence[Line]) -> None:
    """I6: attempts are 1, 2, 3 …, each after the failure of the one before, or after an end that may take it; one
    invocation id per step, of its own."""
    ids: defaultdict[Key, set[str]] = defaultdict(set)
    latest: Counter[Key] = Counter()
    failed: dict[Key, Line] = {}
    ends: Counter[str] = Counter()
    for line in lines:
        key = (line.run, line.step)
        if line.what in (KILLED, ROBBED):
            ends[line.what] += 1
        elif line.what == "failed":
            failed[key] = line
        elif line.what == "begin":
            ids[key].add(line.invocation)
            if line.step in USE_UP_ATTEMPTS:
                taken = sum(ends[what] for what in USE_UP_ATTEMPTS[line.step])
                assert latest[key] <= line.attempt <= 1 + taken, (
                    f"{key}: attempt {line.attempt} after {latest[key]}, and {taken} ends"
                )
            else:
                _check_attempt(line, latest[key], failed.get(key))
            latest[key] = line.attempt
    assert all(len(found) == 1 for found in ids.values()), "a step had two invocation ids"
    assert len({next(iter(found)) for found in ids.values()}) == len(ids), "two steps share an invocation id"
    for key, step in facts.steps.items():
        if key in latest and step.seq is not None and step.kind in ("inline", "function") and key[0] != MOVED:
            assert step.attempts == latest[key], f"{key}: {step.attempts} attempts"


def _check_attempt(line: Line, before: int, failed: Line | None) -> None:
    key = (line.run, line.step)
    assert before <= line.attempt <= before + 1, f"{key}: attempt {line.attempt} after {before}"
    if before and line.attempt > before:
        assert failed is not None and failed.attempt == before, f"{key}: attempt {before} had not failed"
        assert line.at >= failed.at + WAITS_US.get(line.step, 0), f"{key}: attempt {line.attempt} is early"


def check_attempt_rows(facts: Facts) -> None:
    """I6: of a step with an outcome all attempts are recorded, once; of its only one there need be no row."""
    twice = [attempt for attempt, count in Counter(map(_number_of, facts.attempts)).items() if count > 1]
    assert not twice, f"attempts that are recorded twice: {twice}"
    recorded: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for attempt in facts.attempts:
        recorded[attempt.run, attempt.position].add(attempt.attempt)
    for (run_id, name), step in facts.steps.items():
        if step.seq is not None and step.attempts > 1 and run_id != MOVED:
            found, all_of_them = recorded[step.run, step.position], set(range(1, step.attempts + 1))
            assert found == all_of_them, f"{run_id} {name}: of {step.attempts} attempts {found} are recorded"


def check_timers(facts: Facts, lines: Sequence[Line]) -> None:
    """I7: no sleep ends, no timer fires, and no delayed run begins, before its time."""
    for (run_id, name), step in facts.steps.items():
        if step.kind == "sleep" and step.status == "succeeded":
            assert step.wake_at is not None and step.started_at is not None and step.ended_at is not None
            assert step.ended_at >= step.wake_at, f"{run_id} {name} has ended early"
            assert step.wake_at >= step.started_at + SLEEPS_US.get(name, 0), f"{run_id} {name} has a short deadline"
    for run, number, due_at, _, fired_at in facts.lasting["timers"]:
        assert fired_at >= due_at, f"timer {number} of run number {run} fired early"
    for line in lines:
        if line.what == "begin" and line.run in facts.runs:
            assert line.at >= facts.runs[line.run].starts_at, f"{line.run} has begun early"


def check_end(db: Path, end: Moment, results: dict[str, Any], expected: dict[str, Any]) -> None:
    """After a life that nothing has disturbed: everything has come to the end to which it comes without kills."""
    assert results == expected, f"other results than without kills: {list(_differences(results, expected))}"
    assert end.facts is not None
    going_on = [run_id for run_id, run in end.facts.runs.items() if run.status not in FINAL_RUNS]
    assert not going_on, f"{going_on} have not ended"
    assert not end.facts.forgotten((), 0), f"steps go on: {end.facts.forgotten((), 0)}"
    check_left(db)
    with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM pikkupy_deleted").fetchone() == (0,), "deleted runs are left"


def check_left(db: Path) -> None:
    """The engine was left in good order: the file says so, and all is in it. (Who only reads makes an empty log.)"""
    log = Path(f"{db}-wal")
    assert not log.exists() or not log.stat().st_size, "the log is left"
    with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT clean FROM pikkupy_journal").fetchone() == (1,), "the file is not clean"


def _may_be_deleted(run_id: str, asked: set[Key]) -> bool:
    return (run_id, "delete") in asked or (run_id in PRUNED and ("", "prune") in asked)


def _beginning(run: RunFact) -> tuple[Any, ...]:
    return run.number, run.workflow, run.input, run.created_at, run.starts_at, run.parent, run.forked_from, run.tags


def _end(run: RunFact) -> tuple[Any, ...]:
    return run.status, run.output, run.error, run.reason


def _outcome(step: StepFact) -> tuple[Any, ...]:
    return step.position, step.kind, step.status, step.output, step.error, step.seq, step.attempts, *_times(step)


def _times(step: StepFact) -> tuple[int | None, ...]:
    return step.started_at, step.wake_at, step.ended_at


def _number_of(attempt: Any) -> tuple[Any, ...]:
    return attempt.run, attempt.position, attempt.attempt, attempt.name


def _value(step: StepFact) -> Any:
    """As a workflow that sees it writes it down."""
    if step.error is not None:
        return [msgspec.json.decode(step.error)["type"], step.attempts]
    return msgspec.json.decode(step.output or "null")


def _differences(results: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    for name in sorted({*results, *expected}):
        if results.get(name) != expected.get(name):
            yield f"{name}: {results.get(name)}, without kills {expected.get(name)}"
