"""What is done to a run from outside, in memory or in the file: it is told something, resumed, retried, forked.

Whoever changes a run that is not in memory holds it alone, from the look at the file to the change that follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from msgspec import UNSET

from pikkupy.core.commands import StepCall
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import Change, Recorded, RunRow, RunStatus
from pikkupy.engine import again, aside, gates, signals
from pikkupy.engine.active import ActiveRun
from pikkupy.engine.asking import not_found
from pikkupy.engine.events import EventKind
from pikkupy.engine.host import Host, in_callback
from pikkupy.engine.parts import Parts, encoded_input
from pikkupy.errors import JournalError, PayloadError, RunConflict, RunStateError, WorkflowNotFound
from pikkupy.names import some
from pikkupy.registry import WorkflowFunction
from pikkupy.store import Done, resolve

MOST_RELATIVES = 100  # that an error looks at


async def tell(
    parts: Parts, run_id: str, act: Callable[[ActiveRun, Done], None], keep: Callable[[Recorded], Awaitable[Change]]
) -> None:
    """Let `act` tell the run something, in memory; `keep` says what is written if it cannot come there."""
    host, residents, starts = parts
    await starts.settled(run_id)
    active = residents.active.get(run_id)
    if active is not None and not active.ending:
        await _told(host, partial(act, active))
        return
    if active is not None:
        await asyncio.shield(active.over)  # its end is on disk
    number = (await parts.row(run_id)).number
    await residents.carry_out(_tell_alone(parts, run_id, number, act, keep))


async def _tell_alone(
    parts: Parts,
    run_id: str,
    number: int,
    act: Callable[[ActiveRun, Done], None],
    keep: Callable[[Recorded], Awaitable[Change]],
) -> None:
    host, residents, _ = parts
    async with residents.holds.alone(number):
        active = await residents.load(number)
        if active is not None and not active.ending:
            await _told(host, partial(act, active))
            return
        recorded = await host.journal.recorded(number)
        if recorded is None:
            raise not_found(run_id)
        if recorded.run.status in FINAL_RUNS or active is not None:
            raise RunStateError(
                f"run {run_id!r} is {recorded.run.status}: it takes no signals and no decisions any more"
            )
        await host.journal.commit([await keep(recorded)])


async def check_no_decision(parts: Parts, recorded: Recorded, name: str) -> None:
    """Raises `RunStateError` if a run in the file has asked for a decision of that name, as far as is known."""
    if recorded.run.status is not RunStatus.SUSPENDED:
        return  # it has not begun
    try:
        asked = await in_callback(parts.host.loop, partial(parts.residents.approvals_of, recorded))
    except WorkflowNotFound:
        return
    if name in asked:
        raise signals.made_by_approve(recorded.run.run_id, name)


async def waits_of(parts: Parts, run_id: str) -> list[StepCall]:
    """What the run waits for. It is looked at where it is: it does not come into memory for that."""
    host, residents, starts = parts
    await starts.settled(run_id)
    active = residents.active.get(run_id)
    if active is None:
        recorded = await host.journal.recorded((await parts.row(run_id)).number)
        if recorded is None:
            raise not_found(run_id)
        return await residents.waits_of(recorded)
    return [] if active.ending else [step.call for step in active.steps.values()]


async def resume(parts: Parts, run_id: str, *, accept: bool) -> None:
    """Open the gates of a run, or take it up again after a mend; `accept`: with the code as it is."""
    host, residents, _ = parts
    number = await parts.number(run_id)
    # Who waits here for somebody else means the gates that are shut now, and not those that the run comes to meanwhile.
    meant = await _shut_gates(parts, number) if residents.holds.is_held(number) else None
    async with residents.holds.alone(number):
        if meant is not None and meant.isdisjoint(shut := await _shut_gates(parts, number)) and shut:
            reason = (await parts.row(run_id)).reason
            raise RunStateError(
                f"run {run_id!r} was resumed by somebody else at the same time, and is suspended again: {reason}; "
                "resume it again if that is meant, too"
            )
        active = residents.resident(number)
        recorded = await host.journal.recorded(number) if active is None else None
        found = active if recorded is None else recorded.run
        if found is None:
            raise not_found(run_id)
        if found.status is not RunStatus.SUSPENDED:
            raise RunStateError(
                f"run {run_id!r} is {found.status}, not suspended: there is nothing to resume"
                + await _suspended_below(host, number)
            )
        if recorded is not None and recorded.run.parked is None:
            active = await residents.load(number)  # to its gates; it is parked if it does not fit its code
        if active is not None:
            await _told(host, partial(_open_gates, active))
        elif recorded is not None and (recorded.run.parked is not None or accept):
            if accept:
                recorded = await _accepted(parts, recorded)
            await in_callback(host.loop, partial(residents.resume, recorded))
            await host.journal.commit([])  # the new status is on disk


async def _shut_gates(parts: Parts, number: int) -> frozenset[int]:
    """Positions of the gates at which the run is shut."""
    active = parts.residents.resident(number)
    if active is not None:
        return frozenset(active.gates)
    recorded = await parts.host.journal.recorded(number)
    return frozenset() if recorded is None else frozenset(gate.position for gate in aside.shut_gates(recorded))


async def _suspended_below(host: Host, number: int) -> str:
    """What the caller may have meant: the suspended runs that the run waits for, however deep; a part of very many."""
    family, suspended = [number], list[str]()
    for member in family:  # grows as it goes
        for child in await host.journal.children(member):
            if child.status is RunStatus.SUSPENDED:
                suspended.append(child.run_id)
            elif child.status is RunStatus.RUNNING and len(family) < MOST_RELATIVES:
                family.append(child.number)
    return f". Suspended below it: {some(suspended)}" if suspended else ""


async def _accepted(parts: Parts, recorded: Recorded) -> Recorded:
    """The run without what the present code does not ask for where it is recorded: that is set aside.

    If it was shut at gates, these are open: it was them that the caller saw and meant.
    """
    host, residents, _ = parts
    number, opened = recorded.run.number, aside.opened_gates(recorded, host.now_us())
    while True:
        parked = await in_callback(host.loop, partial(residents.examine, recorded))
        if parked is None or parked.position is None:
            return recorded
        recorded = aside.with_rows(recorded, opened)
        changes = aside.set_aside(recorded, await _children(host, number), parked.position, parked.seq)
        accepted = aside.accepted(recorded, parked.position, host.now_us())
        await host.journal.commit([*opened, *changes, accepted])
        residents.events.set_aside(recorded.run, accepted)
        residents.relink(changes)
        opened = []
        left = await host.journal.recorded(number)
        if left is None:
            return recorded
        if (left.steps, left.timers) == (recorded.steps, recorded.timers):
            return left
        recorded = left


async def _children(host: Host, number: int) -> list[RunRow]:
    children = [child.number for child in await host.journal.children(number)]
    return await host.journal.run_rows(children) if children else []


async def retry(parts: Parts, run_id: str) -> None:
    """Let a failed run go on, and the child runs that have made it fail."""
    host, residents, starts = parts
    await starts.settled(run_id)
    row = await parts.row(run_id)
    numbers, runs, changes = [row.number], list[RunRow](), list[Change]()
    async with AsyncExitStack() as held:
        for number in numbers:  # grows as it goes
            await held.enter_async_context(residents.holds.alone(number))
            recorded = await host.journal.recorded(number)
            if recorded is None:
                raise not_found(run_id)
            active = residents.resident(number)
            status = recorded.run.status if active is None else active.status
            if status is not RunStatus.FAILED or active is not None:
                raise RunStateError(f"run {recorded.run.run_id!r} is {status}: only a failed run can be retried")
            attempts = await host.journal.attempt_rows(number)
            children = await host.journal.children(number)
            runs.append(recorded.run)
            returning = [child.number for child in again.returning_children(recorded, children)]
            for child in returning:
                await held.enter_async_context(residents.holds.alone(child))
            back = [child for child in await host.journal.run_rows(returning) if child.alone_since is not None]
            alone = number == numbers[0]
            reopened = list(again.retry(recorded, attempts, children, back, host.now_us(), alone=alone))
            changes += reopened
            changes += await _without_consequences(parts, recorded, reopened)
            numbers += [child.number for child in again.retried_children(recorded, children)]
        try:
            await host.journal.commit(changes)
        except JournalError:
            if host.journal.failure is None:
                await _check_unchanged(parts, run_id, numbers)
            raise
        host.log.info("run_retried", run_id=run_id, workflow=row.workflow)
        residents.relink(changes)
        if residents.events.listening:
            for run in runs:
                residents.events.moved(run, EventKind.RESUMED, host.now_us(), reason="retry")
        for number in reversed(numbers):
            await residents.load(number, begins=True)


async def _without_consequences(parts: Parts, recorded: Recorded, reopened: Sequence[Change]) -> list[Change]:
    """What takes the steps that a failed run came to because of its failure out of its history, if it is `reopened`.

    Nothing if it did not fit the present code before: then that is to be said.
    """
    host, residents, _ = parts
    changes, now_us = list[Change](), host.now_us()
    if await in_callback(host.loop, partial(residents.examine, recorded)) is not None:
        return changes
    left = aside.after(recorded, reopened)
    while True:
        parked = await in_callback(host.loop, partial(residents.examine, left))
        if parked is None or parked.position is None:
            return changes
        children = aside.relinked(await _children(host, recorded.run.number), [*reopened, *changes])
        cut = aside.set_aside(left, children, parked.position, parked.seq)
        cut.append(aside.accepted(left, parked.position, now_us))
        changes += cut
        left = aside.after(left, cut)


async def _check_unchanged(parts: Parts, run_id: str, numbers: Sequence[int]) -> None:
    """Deletions hold no run: raise what says that one was quicker."""
    await parts.row(run_id)
    if len(await parts.host.journal.run_ids(numbers)) < len(numbers):
        raise RunStateError(f"run {run_id!r}: a child run of it was deleted just now; retry it again")


async def fork(
    parts: Parts, run_id: str, *, at: str, data: Any, overrides: Mapping[str, Any], new_run_id: str | None
) -> str:
    """The id of a new run that begins with the history that the run has before its step `at`."""
    host, residents, _ = parts
    source = await parts.row(run_id)
    workflow: WorkflowFunction[Any, Any] = host.registry.find_workflow(source.workflow)
    text = None if data is UNSET else encoded_input(host, workflow, data)
    new_id = host.ids.uuid7(host.now_us()) if new_run_id is None else new_run_id
    active = residents.resident(source.number)  # is looked at before the file: what it has then is in the one or other
    under_way = {} if active is None else {step.name: step.position for step in active.live_rows()}
    recorded = await host.journal.recorded(source.number)
    if recorded is None:
        raise not_found(run_id)
    attempts = await host.journal.attempt_rows(source.number)
    signals = await host.journal.signals(source.number)
    if await host.journal.run_by_number(source.number) is None:
        raise not_found(run_id)  # deleted meanwhile: what was read may not be all
    row = again.forked_row(source, new_id, host.next_number(), text, workflow, host.now_us())
    approvals = frozenset[str]()
    if overrides or signals:
        approvals = await in_callback(host.loop, partial(residents.approvals_of, recorded))
    changes = again.fork(
        recorded, attempts, signals, at, overrides, row, host.values, host.registry, approvals, under_way
    )
    if overrides:
        unfit = await in_callback(host.loop, partial(residents.examine, again.forked(recorded, row, changes)))
        if unfit is not None and unfit.position is None:
            raise PayloadError(
                f"fork of run {run_id!r} with overrides {', '.join(map(repr, overrides))}: {unfit.reason}"
            )
    async with residents.holds.alone(row.number):
        try:
            await host.journal.commit(changes)
        except JournalError:
            if host.journal.failure is not None or (existing := await host.journal.run(new_id)) is None:
                raise
            there = await host.journal.recorded(existing.number)
            if there is None or not again.is_that_fork(there, recorded, row, changes):
                raise RunConflict(f"run {new_id!r} exists, and is not this fork; give it another id") from None
            return new_id
        host.log.info("run_forked", run_id=new_id, workflow=row.workflow, forked_from=run_id, at=at)
        if residents.events.listening:
            residents.events.started(row)
        await residents.load(row.number)
    return new_id


async def _told(host: Host, act: Callable[[Done], None]) -> None:
    """Return when what `act` has submitted is on disk. Raises what `act` raises, and `JournalError`."""
    told: asyncio.Future[None] = host.loop.create_future()
    act(partial(resolve, told, None))
    await told


def _open_gates(run: ActiveRun, done: Done) -> None:
    if not gates.resume(run, done):
        raise RunStateError(f"run {run.run.run_id!r} is {run.status}, and no gate of it is shut")
