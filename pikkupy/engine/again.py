"""Runs that go on from an earlier point: a failed one is retried, any can be forked. Rows in, changes out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from msgspec import structs

from pikkupy.core.machine import RUN, STEP, RunEvent, StepEvent, advance
from pikkupy.core.model import (
    CODE_ACCEPTED,
    AttemptRow,
    Change,
    ChildLinked,
    ChildRow,
    CodeChange,
    ErrorInfo,
    Recorded,
    RunMove,
    RunRow,
    RunStatus,
    SetAsideTaken,
    SignalRow,
    StepKind,
    StepReopened,
    StepRow,
    StepSetAside,
    StepStatus,
    TimerRow,
)
from pikkupy.core.ports import Values
from pikkupy.engine.inbox import decision_in
from pikkupy.engine.live import only_attempt
from pikkupy.errors import BadValue
from pikkupy.execution import Decided, Expired
from pikkupy.names import some, without_ordinal
from pikkupy.registry import Registry, WorkflowFunction


def retried_children(recorded: Recorded, children: Sequence[ChildRow]) -> list[ChildRow]:
    """The failed children whose failure is that of the run: they are retried with it."""
    return [child for child in _causes(recorded, children) if child.status is RunStatus.FAILED]


def returning_children(recorded: Recorded, children: Sequence[ChildRow]) -> list[ChildRow]:
    """Those that may have been retried by themselves since their failure was that of the run, and have not failed again
    (`alone_since` tells): the run waits for them instead of starting others beside them."""
    going_on = (RunStatus.RUNNING, RunStatus.SUSPENDED, RunStatus.COMPLETED)
    return [child for child in _causes(recorded, children) if child.status in going_on]


def _causes(recorded: Recorded, children: Sequence[ChildRow]) -> Iterator[ChildRow]:
    """The children that were the last attempts of the run's failed steps."""
    failed = {step.position: step.attempts for step in _failed_steps(recorded)}
    return (child for child in children if failed.get(child.position) == child.attempt)


def retry(
    recorded: Recorded,
    attempts: Sequence[AttemptRow],
    children: Sequence[ChildRow],
    returning: Sequence[RunRow],
    now_us: int,
    *,
    alone: bool,
) -> Iterator[Change]:
    """What takes a failed run back to where it can go on; `alone`: it is retried for itself, not along with its parent.

    The failed steps whose errors left the workflow go on, and so do those that its end had cancelled; what is recorded
    of the others stands. A child run that is retried along is the next attempt of its step, and so is one of
    `returning`, which was retried by itself before.
    """
    run = recorded.run
    retried = {child.position for child in retried_children(recorded, children)}
    for child in returning:
        assert child.parent_position is not None and child.parent_attempt is not None
        retried.add(child.parent_position)
        yield ChildLinked(row=structs.replace(child, alone_since=None, parent_attempt=child.parent_attempt + 1))
    for step in _failed_steps(recorded):
        if step.attempts == 1:
            yield only_attempt(step)
        again = _reopened(step)
        yield StepReopened(row=_goes_on(again) if step.position in retried else again)
    for step in recorded.steps:
        if step.status is StepStatus.CANCELLED:
            again = structs.replace(_reopened(step), attempts=_begun(step, attempts, children), error=None)
            yield StepReopened(row=structs.replace(again, forgiven=again.attempts))
    ended = {child.position for child in children if child.status is RunStatus.CANCELLED}
    for step in recorded.set_aside:
        if step.status is StepStatus.RUNNING and step.position in ended:  # its child run was cancelled with the run
            again = _reopened(structs.replace(step, status=advance(STEP, step.status, StepEvent.CANCEL)))
            yield SetAsideTaken(run=run.number, position=step.position)
            yield StepSetAside(row=again)
    if run.parent is not None and run.parent_attempt is not None:
        link = {"alone_since": now_us} if alone else {"alone_since": None, "parent_attempt": run.parent_attempt + 1}
        yield ChildLinked(row=structs.replace(run, **link))
    status = advance(RUN, run.status, RunEvent.RETRY)
    yield RunMove(number=run.number, before=run.status, status=status, at=now_us)


def _begun(step: StepRow, attempts: Sequence[AttemptRow], children: Sequence[ChildRow]) -> int:
    """How many attempts of a step that was cancelled have left something behind, also while it was set aside."""
    begun = [child.attempt for child in children if child.position == step.position]
    for row in attempts:
        known_by = row.position == step.position if row.name is None else row.name == step.name
        if known_by and row.attempt <= step.attempts:
            begun.append(row.attempt)
    return max(begun, default=0)


def _failed_steps(recorded: Recorded) -> list[StepRow]:
    """The steps whose errors left the workflow, and those whose failure came too late for it to see."""
    names = () if recorded.run.error is None else recorded.run.error.steps
    seen = max((step.seq or 0 for step in recorded.steps if step.name in names), default=recorded.last_seq)
    return [
        step
        for step in recorded.steps
        if step.status is StepStatus.FAILED and (step.name in names or (step.seq or 0) > seen)
    ]


def _reopened(step: StepRow) -> StepRow:
    """The step without its outcome."""
    return structs.replace(
        step,
        status=advance(STEP, step.status, StepEvent.RETRY),
        forgiven=step.attempts,
        cut_offs=0,
        wake_at=None,
        seq=None,
        output=None,
        ended_at=None,
    )


def _goes_on(step: StepRow) -> StepRow:
    """The step with its next attempt under way."""
    return structs.replace(step, status=advance(STEP, step.status, StepEvent.BEGIN), attempts=step.attempts + 1)


def fork(
    recorded: Recorded,
    attempts: Sequence[AttemptRow],
    signals: Sequence[SignalRow],
    at: str,
    overrides: Mapping[str, Any],
    run: RunRow,
    values: Values,
    registry: Registry,
    approvals: Set[str],
    under_way: Mapping[str, int],
) -> list[Change]:
    """What makes `run`, a new row, begin with the history that the recorded run has before its step `at`.

    `approvals` are the names of the decisions that it has asked for; of use for overrides and signals. `under_way` are
    positions by name of steps that may have no row yet. Raises `BadValue` for names of steps that there are not, and
    `PayloadError` for an override that cannot be kept.
    """
    positions = {**under_way, **{step.name: step.position for step in recorded.steps}}
    if at not in positions:
        raise BadValue(
            f"fork of run {recorded.run.run_id!r}: at={at!r} is no step of it; its steps are {some(positions)}"
        )
    place = positions[at]
    shared = [step for step in recorded.steps if step.position < place and step.seq is not None]
    unknown = overrides.keys() - {step.name for step in shared}
    if unknown:
        raise BadValue(
            f"fork of run {recorded.run.run_id!r}: overrides={min(unknown)!r} is no step with an outcome before "
            f"{at!r}; those are {some([step.name for step in shared])}"
        )
    later = [step.seq for step in recorded.steps if step.position >= place and step.seq is not None]
    cut = min(later, default=recorded.last_seq + 1)
    number = run.number
    changes: list[Change] = [run]
    what = f"fork of run {recorded.run.run_id!r}: override of step"
    for step in shared:
        copied = structs.replace(step, run=number, cut_offs=0)
        if step.name in overrides:
            copied = _overridden(copied, overrides[step.name], values, registry, approvals, what)
        changes.append(copied)
    changes += [
        structs.replace(row, run=number, position=step.position, name=None)
        for step, rows in _attempts_of(shared, attempts)
        for row in rows
    ]
    # What fired later may be another timer in the new run.
    changes += [structs.replace(timer, run=number) for timer in recorded.timers if timer.seq < cut]
    early = _signals_before(recorded, signals, place, cut, values, approvals)
    changes += [structs.replace(signal, run=number) for signal in early]
    changes += [CodeChange(run=number, change_id=change_id) for change_id in sorted(recorded.changes)]
    if not any(isinstance(change, StepRow | TimerRow) for change in changes):
        # Nothing counts from the time at which the other body began, and the clock may have been set back since.
        changes[0] = structs.replace(run, starts_at=min(run.starts_at, run.created_at))
    return changes


def is_that_fork(there: Recorded, source: Recorded, run: RunRow, changes: Iterable[Change]) -> bool:
    """Whether the run that is there began as `changes` would make `run` begin: with the same input, steps and values.

    The source may have gone on since, and what has got its outcome since is no part of either.
    """
    made = there.run
    if (made.forked_from, made.workflow, made.input) != (run.forked_from, run.workflow, run.input):
        return False
    shared = [step for step in changes if isinstance(step, StepRow) and (step.ended_at or 0) <= made.created_at]
    origins = {step.position: step for step in source.steps}
    taken = [step for step in there.steps if _is_copy(step, origins.get(step.position))]
    return [_value_of(step) for step in shared] == [_value_of(step) for step in taken]


def _is_copy(step: StepRow, origin: StepRow | None) -> bool:
    """Whether it was not executed here: then it has the times and the place of the source's, whatever its value."""
    if origin is None or step.seq is None:
        return False
    return (step.name, step.seq, step.started_at, step.ended_at) == (
        origin.name, origin.seq, origin.started_at, origin.ended_at,
    )  # fmt: skip


def _value_of(step: StepRow) -> tuple[int, StepStatus, str | None, ErrorInfo | None]:
    return step.position, step.status, step.output, step.error


def _attempts_of(
    steps: Sequence[StepRow], attempts: Sequence[AttemptRow]
) -> Iterator[tuple[StepRow, Iterable[AttemptRow]]]:
    """Each step with its recorded attempts, also those from before it had its place: `accept="new"` moves steps on."""
    here: defaultdict[int, dict[int, AttemptRow]] = defaultdict(dict)
    before: defaultdict[str, list[AttemptRow]] = defaultdict(list)
    for row in attempts:
        if row.name is None:
            here[row.position][row.attempt] = row
        else:
            before[row.name].append(row)
    for step in steps:
        earlier = {
            row.attempt: row
            for row in before.get(step.name, ())
            if row.attempt < step.attempts and row.seq < (step.seq or 0)
        }
        yield step, (earlier | here.get(step.position, {})).values()


def _signals_before(
    recorded: Recorded, signals: Sequence[SignalRow], place: int, cut: int, values: Values, approvals: Set[str]
) -> Iterator[SignalRow]:
    """What was sent before the place `cut` and kept, and that no step before `place` has taken."""
    yield from (signal for signal in recorded.signals if signal.seq < cut)
    taken = {
        row.position: row for row in signals if row.name != CODE_ACCEPTED
    }  # the last: decisions before it did not fit
    for step in recorded.steps:
        signal = taken.get(step.position)
        if signal is None or step.position < place or step.output is None:
            continue
        waited = step.seq == signal.seq + 1  # times do not tell: clocks stand still, and are set back
        if signal.seq < cut and not waited:
            payload = _payload_of(step, step.output, values, approvals)
            if payload is not None:
                yield structs.replace(signal, payload=payload, position=None)


def _payload_of(step: StepRow, output: str, values: Values, approvals: Set[str]) -> str | None:
    """What the signal carried that the step has taken; None if it was a decision that did not fit."""
    if without_ordinal(step.name) not in approvals:
        return output
    what = "output of step"
    recorded = values.decode(output, what=what, name=step.name)
    if recorded is None:  # it has expired
        return None
    decision, decided_by = recorded
    return values.encode({"decision": decision, "decided_by": decided_by}, what=what, name=step.name)


def forked(recorded: Recorded, run: RunRow, changes: Sequence[Change]) -> Recorded:
    """The new run as it is once its `changes` are written, as far as its outcomes go."""
    steps = tuple(row for row in changes if isinstance(row, StepRow))
    timers = tuple(row for row in changes if isinstance(row, TimerRow))
    return Recorded(run=run, steps=steps, timers=timers, changes=recorded.changes)


def _overridden(
    step: StepRow, value: Any, values: Values, registry: Registry, approvals: Set[str], what: str
) -> StepRow:
    declared = None if step.target is None else registry.find(step.target)
    annotation = Any if declared is None else declared.result_type
    if step.kind in (StepKind.SLEEP, StepKind.SUSPEND):
        raise BadValue(f"{what} {step.name!r}: it is a {step.kind}, which has no value")
    if step.kind is StepKind.SIGNAL:
        approval = without_ordinal(step.name) in approvals
        if isinstance(value, Decided | Expired) and not approval:
            raise BadValue(f"{what} {step.name!r}: it is no approval by the present code; give the payload itself")
        value = _recorded_decision(value) if approval else value
    output = values.encode(value, annotation, what=what, name=step.name)
    return structs.replace(step, status=StepStatus.SUCCEEDED, output=output, error=None)


def _recorded_decision(value: Any) -> tuple[Any, str | None] | None:
    """What is recorded for it: the pair of it and who has decided, None if it has expired."""
    if isinstance(value, Expired):
        return None
    return (value.decision, value.decided_by) if isinstance(value, Decided) else decision_in(value)


def forked_row(
    source: RunRow, run_id: str, number: int, text: str | None, workflow: WorkflowFunction[Any, Any], now_us: int
) -> RunRow:
    """The row of a fork. It keeps the time at which the body began: recorded timers count from it."""
    return RunRow(
        number=number,
        run_id=run_id,
        workflow=workflow.name,
        status=RunStatus.RUNNING,
        input=source.input if text is None else text,
        created_at=now_us,
        updated_at=now_us,
        starts_at=source.starts_at,
        forked_from=source.run_id,
        tags=source.tags,
    )
