"""Signals and decisions on their way to the steps of one run that wait for them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from msgspec import structs

from pikkupy.codec import Outside
from pikkupy.core.commands import StepCall
from pikkupy.core.machine import StepEvent
from pikkupy.core.model import SignalRow, SignalTaken, StepKind
from pikkupy.core.outcomes import Failed, Succeeded
from pikkupy.engine.ends import timed_out
from pikkupy.engine.inbox import decision_in, decision_text
from pikkupy.engine.live import LiveStep, due_at
from pikkupy.engine.resident import Resident
from pikkupy.errors import PayloadError, RunStateError
from pikkupy.execution import decision_type
from pikkupy.failures import describe
from pikkupy.schemas import schema_of
from pikkupy.store import Done


def wait(run: Resident, step: LiveStep) -> None:
    """Give the step the oldest signal of its name that nobody has taken, or let it wait for one."""
    call = step.call
    while (kept := run.inbox.take(call.body, step.wake_at)) is not None:
        outcome = _outcome_of(run, call, kept.payload or "null")
        taken = SignalTaken(run=kept.run, seq=kept.seq, position=call.position)
        if isinstance(outcome, Succeeded) or not call.approval:
            run.next_seq()  # its outcome does not follow on the signal, as that of a step that had waited does
            _take(run, step, outcome, taken)
            return
        # Nobody can be told any more that it does not fit. It is used up, and the step waits for another.
        run.log().warning("decision_refused", step=call.name, error=outcome.error.message)
        run.host.write([taken])
    run.inbox.wait(step)
    if step.recorded and (step.wake_at is not None or call.duration_us is None):
        _await_timeout(run, step)
        return
    step.wake_at = due_at(call, run.host.now_us())
    if step.wake_at is not None:
        step.move(StepEvent.SCHEDULE)
    run.host.write([step.unfinished_row()], partial(_await_timeout, run, step))


def leave(run: Resident, step: LiveStep) -> None:
    """The step does not wait any more, if it has."""
    if step.call.kind is StepKind.SIGNAL:
        run.inbox.leave(step)


def send(run: Resident, name: str, text: str, done: Done) -> None:
    """Take a signal in: `done` is told when it is on disk, with the step that has waited for it, if one has.

    Raises `PayloadError` for a decision that does not fit, and `RunStateError` for one that comes too late.
    """
    step = _first(run, name)
    if step is None and name in run.approvals:
        raise RunStateError(
            f"run {run.run.run_id!r} does not wait for a decision {name!r}: it was made before, or has expired"
        )
    if step is not None and step.call.approval:
        decision, decided_by = decision_in(run.host.values.decode(text, what=f"decision {name!r}"))
        decide(run, name, decision, decided_by, done)
        return
    now_us = run.host.now_us()
    row = SignalRow(run=run.run.number, seq=run.next_seq(), name=name, payload=text, sent_at=now_us)
    done = partial(_is_on_disk, run, row, done)
    if step is None:
        run.inbox.keep(row)
        run.host.journal.submit([row], done)
    else:
        taken = structs.replace(row, payload=None, position=step.call.position)
        _take(run, step, _outcome_of(run, step.call, text), taken, done)


def check(run: Resident, name: str, given: Outside) -> None:
    """Raises for a signal from outside what its sender is to know, before it is taken in.

    `RunStateError` where a decision is waited for: who may send a signal says nobody's name. `PayloadError` if it does
    not fit the type of the step that waits for it.
    """
    step = _first(run, name)
    if step is None:
        return
    if step.call.approval:
        raise made_by_approve(run.run.run_id, name)
    values, what = run.host.values, f"payload of signal {name!r} for run {run.run.run_id!r}"
    value = given.fitting(step.call.result_type, what)
    values.encode(value, step.call.result_type, what=what)


def made_by_approve(run_id: str, name: str) -> RunStateError:
    """What is said of a signal from outside with the name of a decision."""
    return RunStateError(
        f"run {run_id!r} has asked for a decision {name!r}, which no signal makes from outside: decide it with "
        "`approve` (`pikku runs approve`, or POST /api/runs/RUN/approve)"
    )


def decide(run: Resident, name: str, decision: object, decided_by: str | None, done: Done) -> None:
    """Make a decision that the run waits for. Raises as `send` does."""
    step = _first(run, name)
    if step is not None and not step.call.approval:
        raise RunStateError(
            f"run {run.run.run_id!r} waits for a signal {name!r} first (`wait_for_signal`), which is no decision: "
            "send it with `signal`"
        )
    if step is None:
        asked = [repr(step.call.body) for step in run.steps.values() if step.call.approval]
        raise RunStateError(
            f"run {run.run.run_id!r} does not wait for a decision {name!r}: it was made before, has expired, or was "
            f"not asked for yet; just now it waits for {', '.join(asked) or 'no decision'}"
        )
    what = f"decision {name!r} for run {run.run.run_id!r}"
    text = decision_text(run.host.values, decision, decided_by, step.call.result_type, what=what)
    now_us, position = run.host.now_us(), step.call.position
    row = SignalRow(run=run.run.number, seq=run.next_seq(), name=name, payload=None, sent_at=now_us, position=position)
    _take(run, step, Succeeded(text), row, partial(_is_on_disk, run, row, done))


def decisions_of(calls: Iterable[StepCall]) -> dict[str, dict[str, Any]]:
    """The decisions that these steps wait for, and JSON Schema of each."""
    return {call.body: schema_of(decision_type(call.result_type)) for call in _next_served(calls) if call.approval}


def awaited_by(calls: Iterable[StepCall]) -> dict[str, dict[str, Any]]:
    """The signals that these steps wait for and that are no decisions, and JSON Schema of the payload of each."""
    return {call.body: schema_of(call.result_type) for call in _next_served(calls) if not call.approval}


def _next_served(calls: Iterable[StepCall]) -> list[StepCall]:
    """Of those that wait for one name, the first: what comes is for that."""
    found = dict[str, StepCall]()
    for call in calls:
        if call.kind is StepKind.SIGNAL:
            found.setdefault(call.body, call)
    return list(found.values())


def _first(run: Resident, name: str) -> LiveStep | None:
    """The step that has waited longest for that name, and in time: those that are overdue time out first.

    Their timers may not have been called yet, after the loop was blocked or while the run was in the file.
    """
    now_us = run.host.now_us()
    while (step := run.inbox.first(name)) is not None and step.wake_at is not None and step.wake_at <= now_us:
        if step.timer is not None:
            step.timer.cancel()
        _timed_out(run, step)
    return step


def _take(
    run: Resident,
    step: LiveStep,
    outcome: Succeeded | Failed,
    signal: SignalRow | SignalTaken,
    *then: Done,
) -> None:
    """The step's outcome is a signal: both are written together."""
    run.inbox.leave(step)
    if step.timer is not None:
        step.timer.cancel()
    if isinstance(outcome, Failed):
        outcome = run.host.redacted(outcome)
    del run.steps[step.call.position]
    run.land(step.settled_row(outcome, run.next_seq(), run.host.now_us()), (signal,), then)


def _outcome_of(run: Resident, call: StepCall, text: str) -> Succeeded | Failed:
    values, what = run.host.values, f"payload of signal {call.body!r}"
    try:
        payload = values.decode(text, what=what)
        if call.approval:
            decision, decided_by = decision_in(payload)
            return Succeeded(decision_text(values, decision, decided_by, call.result_type, what=what))
        return Succeeded(values.encode(payload, call.result_type, what=what))
    except Exception as error:  # noqa: BLE001 - PayloadError, or what the value's own code raises
        unfit = error if isinstance(error, PayloadError) else PayloadError(f"{what}: {error!r}")
        return Failed(describe(unfit), unfit, final=True)


def _await_timeout(run: Resident, step: LiveStep) -> None:
    if not run.is_live(step):
        return
    step.recorded = True
    if step.wake_at is not None:
        step.timer = run.host.timers.call_at(step.wake_at, partial(_timed_out, run, step))
    run.may_rest()


def _timed_out(run: Resident, step: LiveStep) -> None:
    run.inbox.leave(step)
    expired = Succeeded("null") if step.call.approval else Failed(timed_out(step.call), None, final=True)
    run.settle(step, expired)


def _is_on_disk(run: Resident, row: SignalRow, done: Done, error: Exception | None) -> None:
    if error is None:
        if run.home.events.listening:
            run.home.events.signalled(run.run, row)
        if row.position is None:
            run.may_rest()  # it was kept for later
    done(error)
