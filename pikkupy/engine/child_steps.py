"""Steps that are child runs: they are begun, awaited and called off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from pikkupy.core.commands import Cancelled
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import Change, RunMove, RunRow, RunWakes
from pikkupy.core.outcomes import Failed
from pikkupy.engine.children import child_at_its_end, child_id, id_is_taken, new_child, other_child_id, outcome_of_child
from pikkupy.engine.live import LiveStep
from pikkupy.engine.resident import Resident
from pikkupy.errors import JournalError
from pikkupy.failures import describe
from pikkupy.store import Done


def begin(run: Resident, step: LiveStep, attempt: int) -> None:
    """Begin an attempt of the step: a child run, which is written with the step."""
    if run.is_live(step):
        run.begun(step, attempt)
        _submit(run, step, child_id(run.run, step.call.name, attempt))


def _submit(run: Resident, step: LiveStep, run_id: str) -> None:
    number, now_us = run.host.next_number(), run.host.now_us()
    child = step.child = new_child(run.run, step.call, step.attempts, run_id, number, now_us)
    run.home.holds.take(number)  # until it is in memory: who finds it in the file before that waits
    run.host.journal.submit([step.unfinished_row(), child], partial(_is_on_disk, run, step, child))


def _is_on_disk(run: Resident, step: LiveStep, child: RunRow, error: Exception | None) -> None:
    run.home.holds.give_back(child.number)  # nobody else comes before this callback is over
    _start(run, step, child, error)


def _start(run: Resident, step: LiveStep, child: RunRow, error: Exception | None) -> None:
    if run.host.journal.failure is not None:
        return
    if error is not None:  # the id is taken; the step's row was refused with the child's
        step.child = None
        if run.is_live(step):
            run.home.ask_for(child.run_id, partial(_id_is_taken, run, step, child))
        return
    step.recorded = True
    if not run.is_live(step):
        return  # cancelled meanwhile, and so is the child
    assert step.call.variables is not None  # only sleeps, signals and gates have none
    run.home.start(child, step.call.body, step.call.variables.copy())
    _watch(run, step, child)


def _id_is_taken(run: Resident, step: LiveStep, child: RunRow, taken_by: RunRow | None) -> None:
    if not run.is_live(step):
        return
    if taken_by is not None and taken_by.parent == run.run.number:
        # By a child of another step: `name`, attempt 2, and `name#2`; or of code that was changed.
        _submit(run, step, other_child_id(child))
    else:
        run.attempt_ended(step, id_is_taken(child.run_id))


def wait(run: Resident, step: LiveStep) -> None:
    """Wait for the child run that an earlier life, or an earlier stay in memory, has begun."""
    child = run.children.pop(step.call.position, None)
    if child is None or child.parent_attempt != step.attempts:
        error = JournalError(f"the child run of step {step.call.name!r}, attempt {step.attempts}, is not recorded")
        run.attempt_ended(step, Failed(describe(error), error, final=False))
        return
    step.child = child
    step.began_at = child.created_at
    if child.status in FINAL_RUNS:
        ended(run, step.call.position, child)
    else:
        _watch(run, step, child)


def _watch(run: Resident, step: LiveStep, child: RunRow) -> None:
    limit_us = step.call.policy.timeout_us
    if limit_us is not None:
        due_us = child.created_at + limit_us
        step.timer = run.host.timers.call_at(due_us, partial(_timed_out, run, step, limit_us))
    run.may_rest()


def _timed_out(run: Resident, step: LiveStep, limit_us: int) -> None:
    step.timer = None
    error = TimeoutError(f"step {step.call.name!r} did not end within its timeout of {limit_us / 1e6:g} s")
    changes: list[Change] = []
    then: list[Done] = []
    cancel(run, step, str(error), changes, then)
    run.fail(step, Failed(describe(error), error, final=False), changes, then)


def ended(run: Resident, position: int, end: RunRow | RunMove) -> None:
    """The end of a child run is on disk."""
    step = run.steps.get(position)
    if position in run.children:  # its step was set aside, and may be asked for again
        run.children[position] = child_at_its_end(run.children[position], end)
    elif position < 0:  # it was asked for again, and the child was read before that
        step = next((one for one in run.steps.values() if one.child and one.child.number == end.number), None)
    if step is None or step.child is None or step.child.number != end.number or run.ending:
        return  # nobody waits for it any more
    child, step.child = step.child, None
    if step.timer is not None:
        step.timer.cancel()
        step.timer = None
    child_type = run.host.result_type_of(child.workflow)
    run.attempt_ended(step, outcome_of_child(run.host.values, step.call, child_type, child.run_id, end))


def cancel(run: Resident, step: LiveStep, reason: str, changes: list[Change], then: list[Done]) -> None:
    """What cancels the child run of a step, if it has one: `changes` are to be written, `then` is to be told.

    A child in the file is cancelled after a crash, too: the start-up looks at runs that do not wait there, and at their
    parents.
    """
    for child in _let_go(run, _child_of(run, step), reason, changes, then):
        child.begin_end(Cancelled(reason), changes, then)


def let_go(
    run: Resident, steps: Iterable[LiveStep], reason: str, changes: list[Change], then: list[Done]
) -> Iterator[Resident]:
    """As `cancel`, for these steps, which are all that the run has, and for those that were set aside.

    The child runs that are in memory are left to the caller.
    """
    for step in steps:
        yield from _let_go(run, _child_of(run, step), reason, changes, then)
    for child in run.children.values():
        yield from _let_go(run, child, reason, changes, then)


def _child_of(run: Resident, step: LiveStep) -> RunRow | None:
    child, step.child = step.child or run.children.pop(step.call.position, None), None
    return child


def _let_go(
    run: Resident, row: RunRow | None, reason: str, changes: list[Change], then: list[Done]
) -> Iterator[Resident]:
    if row is None or row.status in FINAL_RUNS or row.alone_since is not None:
        return
    child = run.home.resident(row.number)
    if child is not None and not child.is_parking:
        yield child
    else:  # also if it is on its way there
        run.home.call_off(row.number)
        changes.append(RunWakes(number=row.number, wakes_at=None))
        then.append(partial(_cancel_in_file, run, row.number, reason))


def _cancel_in_file(run: Resident, number: int, reason: str, error: Exception | None) -> None:
    if run.host.is_written(error):
        run.home.cancel_in_file(number, reason)
