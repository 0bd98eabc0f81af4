"""The runs that are in memory: how they get in (a start, a start-up, a resume) and how they leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any, NamedTuple, TypeVar

from msgspec import structs

from pikkupy.core.commands import Commands, Parked, StepCall
from pikkupy.core.machine import FINAL_RUNS, FINAL_STEPS, RUN, RunEvent, advance
from pikkupy.core.model import (
    NO_WAKING,
    AttemptRow,
    Change,
    ChildLinked,
    ChildRow,
    ParkedFor,
    Recorded,
    RunMove,
    RunRow,
    RunStatus,
    RunWakes,
    StepRow,
    StepsCancelled,
)
from pikkupy.durations import microseconds
from pikkupy.engine import child_steps
from pikkupy.engine.active import ActiveRun
from pikkupy.engine.ends import move_of
from pikkupy.engine.events import EventKind, Hub, ended
from pikkupy.engine.first_turn import Waits, waits_of
from pikkupy.engine.holds import Holds
from pikkupy.engine.host import Host, in_callback
from pikkupy.engine.outlet import Outlet
from pikkupy.engine.waker import CHUNK, Waker
from pikkupy.errors import JournalError, PikkuError, WorkflowNotFound
from pikkupy.execution import Execution, Workflow
from pikkupy.log import Logger, is_enabled_for_info, logger
from pikkupy.progress import Progress
from pikkupy.registry import WorkflowFunction
from pikkupy.services import enter_run
from pikkupy.store import is_damage

# A run of more than so many steps stays in memory for a moment after it has come back: what has brought it, as the end
# of one of many child runs, may come again at once, and each return is a replay.
LONG = 200
LINGER_S = 1.0  # real time
IN_A_TURN = 100  # outcomes that a run which is only looked at is told in one turn of the loop: a millisecond or two

T = TypeVar("T")


class Begun(NamedTuple):
    """A run that has taken a turn and is not in memory yet."""

    recorded: Recorded
    execution: Execution
    commands: Commands


class Residents:
    """Runs in memory by id and by number, what their steps tell, and who waits for their ends."""

    def __init__(self, host: Host) -> None:
        self.active: dict[str, ActiveRun] = {}
        self.holds = Holds(self._is_free)
        self.waker = Waker(host, self)
        self._by_number: dict[int, ActiveRun] = {}
        self.outlet = Outlet(host, self.active)
        self.outlet.on_progress = self._step_progress
        self.events = Hub(host.journal.epoch)
        self._host = host
        # Of `open`. A run that comes back goes on in a copy of it: who wakes it, perhaps in a request of somebody else,
        # is nothing to the run.
        self._variables = copy_context()
        self._horizon_us = microseconds(host.config.unload_after)
        self._limit = host.config.resident_runs
        self._intruded = self._interfere  # one object for all runs
        self._waiting: dict[str, list[asyncio.Future[RunMove]]] = {}
        self._may_rest: dict[ActiveRun, None] = {}
        self._errands: set[asyncio.Task[Any]] = set()
        self._ends: dict[int, list[tuple[int, RunMove]]] = {}  # of children, by the parent that is brought in for them
        self._ending: set[int] = set()  # runs that are being cancelled in the file
        self._called_off: set[int] = set()  # runs whose parents have let them go, and that are to be cancelled there

    def start(self, row: RunRow, workflow: WorkflowFunction[Any, Any], variables: Context) -> None:
        """Bring a new run into memory, after it is on disk."""
        if self._host.dispatching:  # else it goes on in the next life
            self.go_on(self.begin(row, workflow, variables))

    def begin(self, row: RunRow, workflow: WorkflowFunction[Any, Any], variables: Context) -> Begun:
        """Let a new run take its first turn, which has no effects: nothing that it asks for is carried out."""
        recorded = Recorded(run=row)
        return Begun(recorded, *self._begin(workflow, recorded, variables))

    def go_on(self, begun: Begun) -> None:
        """Bring a run that has taken its first turn into memory, after it is on disk."""
        if not self._host.dispatching:
            begun.execution.tear_down()
            return
        if self.events.listening:
            self.events.started(begun.recorded.run)
        self._add(begun.execution, begun.recorded).carry_out(begun.commands)

    def is_full(self, coming: int) -> bool:
        """True if a new run that only waits should do so in the file; `coming`: others on their way into memory."""
        return len(self.active) + coming >= self._limit

    @property
    def crowded(self) -> bool:
        """True while no run should come into memory before it has to."""
        return len(self.active) > self._limit

    def waits_from_start(self, begun: Begun) -> Waits | None:
        """The waits of a run that has taken its first turn, if it only waits, and for so long that it leaves memory."""
        if begun.execution.told is not None:
            return None
        waits = waits_of(begun.recorded.run.number, begun.commands, self._host.now_us())
        if waits is None or not self._is_far(waits.until):
            return None
        begun.execution.tear_down()
        return waits

    def waits_in_file(self, row: RunRow, waits: Sequence[StepRow]) -> None:
        """It is on disk that a new run waits in the file: in these steps, or for its start if there are none."""
        if waits and self.events.listening:
            self.events.started(row)
            for step in waits:
                self.events.reached(row, step)
        if row.wakes_at is not None:
            self.waker.rests(row.wakes_at)

    async def recover(self, *, clean: bool) -> int:
        """Bring every unfinished run into memory that does not wait in the file; how many there were.

        `clean`: the last owner left in order.
        """
        count = after = 0
        first_new = self._host.journal.next_number  # what runs that go on start meanwhile comes into memory by itself
        while numbers := await self._host.journal.awake(after=after, limit=CHUNK):
            after = numbers[-1]
            known = [number for number in numbers if number < first_new]
            count += await self._bring(known, self._is_awake, clean, are_there=True)
        while self._errands:  # the ends of children that nobody waits for
            await asyncio.wait(set(self._errands))
        return count

    async def bring(self, numbers: Sequence[int]) -> None:
        """Bring those of the runs into memory, together, that are not there and that a time or an open may wake.

        One whose workflow is gone is suspended instead, and goes on waiting in the file.
        """
        await self._bring(numbers, self._is_waiting, clean=True)
        damaged = self._host.journal.damaged.keys() & set(numbers)
        if damaged:  # they wait for ever: nothing else looks for them again and again
            await self._host.journal.commit([RunWakes(number=number, wakes_at=NO_WAKING) for number in damaged])

    async def _bring(
        self, numbers: Sequence[int], wanted: Callable[[Recorded], bool], clean: bool, *, are_there: bool = False
    ) -> int:
        # They are held before they are read: what is read stays true until they are in memory.
        free = self.holds.take_free(number for number in numbers if self.resident(number) is None)
        try:
            found = await self._host.journal.recorded_runs(free, are_there=are_there)
            recorded = [one for one in found if wanted(one)]
            await in_callback(self._host.loop, partial(self._adopt_all, recorded, clean=clean))
            if any(self.resident(one.run.number) is None for one in recorded):
                await self._host.journal.commit([])  # those that are suspended, say: so they are found by the next
        finally:
            for number in free:
                self.holds.give_back(number)
        for number in set(numbers) - set(free):
            await self._load_alone(number)  # whoever holds it may have brought it
        return len(recorded)

    @staticmethod
    def _is_awake(recorded: Recorded) -> bool:
        run = recorded.run
        if run.status in FINAL_RUNS or run.wakes_at is not None:
            return False
        return run.parked is not ParkedFor.CRASHES or _is_left(recorded)

    @staticmethod
    def _is_waiting(recorded: Recorded) -> bool:
        run = recorded.run
        return run.status not in FINAL_RUNS and run.parked in (None, ParkedFor.WORKFLOW)

    async def load(self, number: int, *, begins: bool = False) -> ActiveRun | None:
        """Bring a run that the caller holds into memory; None if it has ended, is parked or has not begun.

        `begins`: its time had come, or it goes on after its end. If the clock was set back since to before its start,
        and no step counts from then, nothing waits for that: it does from now on, as after a crash. If it is parked
        just now, because it does not fit its code, or goes on because its workflow is there again, that is on disk when
        this returns.
        """
        active = self.resident(number)
        if active is not None:
            return active
        recorded = await self._host.journal.recorded(number)
        return None if recorded is None else await self._take_in(recorded, begins=begins)

    async def _take_in(self, recorded: Recorded, *, begins: bool = False) -> ActiveRun | None:
        """As `load`, of a run that was read."""
        if not self._is_waiting(recorded):
            return None
        if self._starts_later(recorded) and not begins:
            return None  # it goes on waiting where it does
        if recorded.run.parked is not None and not self._has_workflow(recorded.run):
            return None
        adopt = partial(self._adopt, recorded, clean=True, changes=[])
        await in_callback(self._host.loop, adopt)
        number = recorded.run.number
        if self.resident(number) is None or recorded.run.parked is not None:
            await self._host.journal.commit([])  # that it is parked, or goes on
        return self.resident(number)

    def _has_workflow(self, run: RunRow) -> bool:
        return isinstance(self._host.registry.find(run.workflow), WorkflowFunction)

    def resume(self, recorded: Recorded) -> None:
        """Take up again a run that was parked."""
        fresh = {
            row.position: structs.replace(row, cut_offs=0)
            for row in recorded.steps
            if row.cut_offs and row.status not in FINAL_STEPS
        }
        steps = tuple(fresh.get(row.position, row) for row in recorded.steps)
        recorded = structs.replace(recorded, steps=steps)
        self._adopt(recorded, clean=True, changes=list(fresh.values()))

    def resident(self, number: int) -> ActiveRun | None:
        """The run of that number, if it is in memory."""
        return self._by_number.get(number)

    def _step_progress(self, run_id: str, step_name: str, attempt: int, progress: Progress) -> None:
        run = self.active.get(run_id)
        if run is not None and self.events.listening:
            facts = {"step_name": step_name, "attempt": attempt, "progress": progress}
            self.events.moved(run.run, EventKind.PROGRESS, self._host.now_us(), **facts)

    def ask_for(self, run_id: str, answer: Callable[[RunRow | None], object]) -> None:
        """Call `answer` with the run of that id, as it is in the file, from a plain callback."""
        self.run_errand(self._ask_for(run_id, answer))

    async def _ask_for(self, run_id: str, answer: Callable[[RunRow | None], object]) -> None:
        row = await self._host.journal.run(run_id)
        await in_callback(self._host.loop, partial(answer, row))

    def examine(self, recorded: Recorded) -> Parked | None:
        """How the present code does not fit what is recorded of the run; None if it does. Nothing is carried out."""
        try:
            workflow: WorkflowFunction[Any, Any] = self._host.registry.find_workflow(recorded.run.workflow)
        except WorkflowNotFound as error:
            return _missing(error)
        _, commands = self._looked_at(workflow, recorded)
        return commands.end if isinstance(commands.end, Parked) else None

    def approvals_of(self, recorded: Recorded) -> frozenset[str]:
        """Names of the decisions that the run has asked for, by the present code. Nothing is carried out."""
        workflow: WorkflowFunction[Any, Any] = self._host.registry.find_workflow(recorded.run.workflow)
        execution, _ = self._looked_at(workflow, recorded)
        return execution.approvals

    async def waits_of(self, recorded: Recorded) -> list[StepCall]:
        """What a run that is not in memory waits for, by the present code. Nothing is carried out."""
        running = recorded.run.status is RunStatus.RUNNING and not self._starts_later(recorded)
        if not running or not self._has_workflow(recorded.run):
            return []
        workflow: WorkflowFunction[Any, Any] = self._host.registry.find_workflow(recorded.run.workflow)
        commands = await self._looked_at_in_turns(workflow, recorded)
        waits = [call for call in commands.calls if call.position not in commands.stopped]
        return waits if commands.end is None else []

    def _looked_at(self, workflow: WorkflowFunction[Any, Any], recorded: Recorded) -> tuple[Execution, Commands]:
        """What the code asks for, of which nothing is carried out; it is gone from memory."""
        execution, commands = self._begin(workflow, recorded, self._variables.copy())
        execution.tear_down()
        return execution, commands

    async def _looked_at_in_turns(self, workflow: WorkflowFunction[Any, Any], recorded: Recorded) -> Commands:
        """As `_looked_at`, for those who only ask: meanwhile others on the loop have their turns."""
        loop, variables = self._host.loop, self._variables.copy()
        execution, context = self._prepared(workflow, recorded, variables)
        try:
            await in_callback(loop, partial(execution.start, context, variables))
            while not await in_callback(loop, partial(execution.replay, IN_A_TURN)):
                pass
            return execution.commands()
        finally:
            await in_callback(loop, execution.tear_down)

    def is_ending(self, number: int) -> bool:
        """True while the end of the run is on its way to the disk."""
        active = self.resident(number)
        return number in self._ending if active is None else active.ending

    # Runs that wait

    def may_rest(self, run: ActiveRun) -> None:
        """The run waits: it is looked at once this turn of the loop is over."""
        if len(self.active) <= self._limit:
            return
        if not self._may_rest:
            self._host.loop.call_soon(self._let_rest)
        self._may_rest[run] = None

    def _let_rest(self) -> None:
        runs, self._may_rest = self._may_rest, {}
        for run in runs:
            wakes_at = run.waits_until()
            if wakes_at is None or not self.wants_rest(run, wakes_at):
                continue
            lingers_s = run.since_s + LINGER_S - self._host.loop.time()
            if run.reached > LONG and lingers_s > 0:
                self._host.loop.call_later(lingers_s, self._linger, run)
            else:
                run.rest(wakes_at)

    def _linger(self, run: ActiveRun) -> None:
        if self.resident(run.run.number) is run:
            self.may_rest(run)

    def wants_rest(self, run: ActiveRun, wakes_at: int) -> bool:
        """True if a run that only waits until then should leave memory."""
        if run.run.number in self._called_off:  # a start-up after a crash would not look for it there
            return False
        if run.run.number in self._ends:  # it is about to be told of them, and nobody would look for it after a crash
            return False
        if self.holds.is_held(run.run.number):  # who has brought it to tell it something finds it there
            return False
        return len(self.active) > self._limit and self._is_far(wakes_at) and self._host.dispatching

    def _is_free(self, number: int) -> None:
        run = self.resident(number)
        if run is not None:
            self.may_rest(run)

    def _is_far(self, wakes_at: int) -> bool:
        return wakes_at > self._host.now_us() + self._horizon_us

    def rests(self, run: ActiveRun, wakes_at: int) -> None:
        """It is on disk that the run waits in the file: it leaves memory."""
        if self._host.dispatching:
            self._remove(run)
            run.leave_memory(None)
            self.waker.rests(wakes_at)

    def call_off(self, number: int) -> None:
        """A run that is not in memory is about to be cancelled: it does not come there before that."""
        self._called_off.add(number)

    def keep_late(self, row: AttemptRow) -> None:
        """Write what came too late for a run that is not in memory, or there again, at its next place."""
        self.run_errand(self._keep_late(row))

    async def _keep_late(self, row: AttemptRow) -> None:
        async with self.holds.alone(row.run):
            active = self.resident(row.run)
            recorded = await self._host.journal.recorded(row.run) if active is None else None
            if active is not None:
                seq = active.next_seq()
            elif recorded is not None:
                seq = recorded.last_seq + 1
            else:
                return  # it was deleted
            await self._host.journal.commit([structs.replace(row, seq=seq)])
            if active is not None:
                active.may_rest()

    def cancel_in_file(self, number: int, reason: str) -> None:
        """Cancel a run that is not in memory, and its children."""
        self.run_errand(self.cancel_by_number(number, reason))

    async def cancel_by_number(self, number: int, reason: str) -> RunMove | None:
        """Cancel a run and then its children, wherever they are; the move, or None if it has ended before."""
        move = await self._cancel_alone(number, reason)
        family = [child.number for child in await self._unfinished_children(number)]
        while family:  # many at a time, so that their ends are written together; and families can be deep
            chunk, family = family[:CHUNK], family[CHUNK:]
            await asyncio.gather(*(self._cancel_alone(child, reason) for child in chunk))
            below = await asyncio.gather(*map(self._unfinished_children, chunk))
            family += [child.number for children in below for child in children]
        return move

    async def _cancel_alone(self, number: int, reason: str) -> RunMove | None:
        async with self.holds.alone(number):
            active = self.resident(number)
            move = None if active is None else await self._cancel_resident(active, reason)
            move = await self._cancel_in_file(number, reason) if move is None else move
            self._called_off.discard(number)
            return move

    async def _unfinished_children(self, number: int) -> list[ChildRow]:
        return [child for child in await self._host.journal.children(number) if child.status not in FINAL_RUNS]

    async def _cancel_in_file(self, number: int, reason: str) -> RunMove | None:
        row = await self._host.journal.run_by_number(number)
        if row is None or row.status in FINAL_RUNS:
            return None
        now_us = self._host.now_us()
        status = advance(RUN, row.status, RunEvent.CANCEL)
        move = RunMove(number=number, before=row.status, status=status, reason=reason, at=now_us)
        changes: list[Change] = [StepsCancelled(run=number, at=now_us), move]
        # After a crash the start-up looks at runs that do not wait in the file.
        children = await self._unfinished_children(number)
        changes += [RunWakes(number=child.number, wakes_at=None) for child in children]
        self._called_off.update(child.number for child in children)
        if row.parent is not None:
            changes.append(RunWakes(number=row.parent, wakes_at=None))
        self._ending.add(number)
        try:
            await self._host.journal.commit(changes)
        finally:
            self._ending.discard(number)
        self._is_over(row, move)
        return move

    async def _cancel_resident(self, active: ActiveRun, reason: str) -> RunMove | None:
        """None if the run was ending already. The caller holds it, so it does not leave memory to wait in the file."""
        over = active.over  # asked for now, while the run is still in memory
        cancelled = await in_callback(self._host.loop, partial(active.cancel, reason))
        move = await asyncio.shield(over)  # its end is on disk
        return move if cancelled else None

    async def carry_out(self, action: Coroutine[Any, Any, T]) -> T:
        """What comes of an action that somebody has asked for. It comes to its end before the engine is left, whatever
        becomes of whoever waits for it: what follows a write belongs to it."""
        task = self._task_of(self._action(action))
        task.add_done_callback(_look_at)
        return await asyncio.shield(task)

    async def _action(self, action: Coroutine[Any, Any, T]) -> T:
        try:
            return await action
        except (JournalError, MemoryError) as error:
            if not is_damage(error):
                self._host.has_failed(error, "what was asked for could not be carried out to its end")
            raise

    def run_errand(self, errand: Coroutine[Any, Any, object]) -> None:
        """Something of the engine's own that nobody waits for; it is over before the engine is left."""
        self._task_of(self._errand(errand))

    def _task_of(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._host.loop.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    async def _errand(self, errand: Coroutine[Any, Any, object]) -> None:
        try:
            await errand
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            if not is_damage(error):
                self._host.has_failed(error, "what a run waits for could not be brought to it")
            elif self._host.goes_on:
                self._host.log.error("run_damaged", error=str(error))  # the others go on

    async def quiet(self) -> None:
        """Return when nothing is on its way into memory or out of it."""
        await self.waker.close()
        while self._errands:
            await asyncio.wait(set(self._errands))

    @property
    def busy(self) -> bool:
        """True while anything is on its way into memory or out of it."""
        return bool(self._errands) or self.waker.busy

    def wait_for(self, run_id: str) -> asyncio.Future[RunMove]:
        """A future that gets the run's end, once that is on disk."""
        future: asyncio.Future[RunMove] = self._host.loop.create_future()
        self._waiting.setdefault(run_id, []).append(future)
        return future

    def wait_no_more(self, run_id: str, future: asyncio.Future[RunMove]) -> None:
        """Take back `wait_for`."""
        waiting = self._waiting.get(run_id)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[run_id]

    def tell(self, run_id: str, end: RunMove) -> None:
        """Wake those who wait for the run: its end is on disk."""
        for future in self._waiting.pop(run_id, ()):
            if not future.done():
                future.set_result(end)

    def _interfere(self, number: int, why: str) -> None:
        """On whatever thread the interference was noticed."""
        with suppress(RuntimeError):  # the loop is closed: the run is not in memory any more
            self._host.loop.call_soon_threadsafe(self._misused, number, why)

    def _misused(self, number: int, why: str) -> None:
        run = self.resident(number)
        if run is not None:
            run.misused(why)

    def refuse(self, run_id: str, error: Exception) -> None:
        """Those who wait for the run wait in vain: its start was not recorded."""
        for future in self._waiting.pop(run_id, ()):
            if not future.done():
                future.set_exception(error)

    def leave(self, error: PikkuError) -> None:
        """Take every run out of memory; those who wait for one get `error`."""
        for run in self.active.values():
            run.leave_memory(error)
        self.active.clear()
        self._by_number.clear()
        self.outlet.close()
        self.events.close(error)
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # somebody may have stopped listening: asyncio need not report it

    def _adopt_all(self, chunk: list[Recorded], *, clean: bool) -> None:
        for recorded in chunk:
            self._adopt(recorded, clean=clean, changes=[])

    def _adopt(self, recorded: Recorded, *, clean: bool, changes: list[Change]) -> None:
        """Bring a run into memory as it is recorded once `changes` are written."""
        if self._host.journal.failure is not None:
            return  # it was read before; those who wait for it hear of the failure when they go on
        run = recorded.run
        awake = [] if run.wakes_at is None else [RunWakes(number=run.number, wakes_at=None)]
        if run.number in self._called_off or _is_left(recorded):
            self._leave_out(recorded, [*awake, *changes])
            return
        try:
            workflow: WorkflowFunction[Any, Any] = self._host.registry.find_workflow(run.workflow)
        except WorkflowNotFound as error:
            if run.wakes_at is not None and self._is_far(run.wakes_at):
                self._park(run, _missing(error), changes, run.wakes_at)
            else:
                self._park(run, _missing(error), [*awake, *changes])
            return
        if self._starts_later(recorded):
            self._wait_for_start(run, changes)
            return
        changes = [*awake, *changes]
        recorded = structs.replace(recorded, run=structs.replace(run, wakes_at=None)) if awake else recorded
        # A copy for each: what one body sets is no other's.
        execution, commands = self._begin(workflow, recorded, self._variables.copy())
        if isinstance(commands.end, Parked):
            execution.tear_down()
            self._park(run, commands.end, changes)
            return
        if changes:
            self._host.write(changes)
        if _is_new(recorded):
            self._host.info("run_started", run_id=run.run_id, workflow=workflow.name)
            if self.events.listening:
                self.events.started(run)
        else:
            self._host.info("run_recovered", run_id=run.run_id, workflow=workflow.name)
        active = self._add(execution, recorded)
        active.since_s = self._host.loop.time()
        active.adopt(commands, cut_off=not clean and run.parked is None)

    def _leave_out(self, recorded: Recorded, changes: Sequence[Change]) -> None:
        """Nobody waits for the run any more. Whoever has let it go will cancel it or did not come to it."""
        if changes:
            self._host.write(changes)
        number = recorded.run.number
        if recorded.parent is not None and number not in self._called_off:
            self.cancel_in_file(number, _why_not_awaited(recorded.parent))

    def _starts_later(self, recorded: Recorded) -> bool:
        return _is_new(recorded) and recorded.run.starts_at > self._host.now_us()

    def _wait_for_start(self, run: RunRow, changes: list[Change]) -> None:
        """In the file, or if that is soon by a timer."""
        starts_at, now_us = run.starts_at, self._host.now_us()
        wakes_at = starts_at if self._is_far(starts_at) else None
        move = None
        if run.parked is not None:  # until now its workflow was gone
            status = advance(RUN, run.status, RunEvent.RESUME)
            move = RunMove(number=run.number, before=run.status, status=status, at=now_us, wakes_at=wakes_at)
        elif run.wakes_at != wakes_at:
            changes.append(RunWakes(number=run.number, wakes_at=wakes_at))
        self._host.write(changes if move is None else [*changes, move], partial(self._waits_for_start, run, move))
        if wakes_at is None:
            self._host.timers.call_at(starts_at, partial(self._begin_delayed, run.number))

    def _waits_for_start(self, run: RunRow, move: RunMove | None) -> None:
        if move is not None and self.events.listening:
            self.events.moved(run, EventKind.RESUMED, move.at)
        if self._is_far(run.starts_at):
            self.waker.rests(run.starts_at)

    def _begin_delayed(self, number: int) -> None:
        self.run_errand(self.bring([number]))  # if the clock was set back meanwhile, it waits again

    async def _load_alone(self, number: int) -> None:
        """Bring it into memory once nobody else holds it. A damaged run is left where it is, as in `bring`."""
        async with self.holds.alone(number):
            if self.resident(number) is None:
                for recorded in await self._host.journal.recorded_runs([number]):
                    await self._take_in(recorded, begins=True)

    def _begin(
        self, workflow: WorkflowFunction[Any, Any], recorded: Recorded, variables: Context
    ) -> tuple[Execution, Commands]:
        execution, context = self._prepared(workflow, recorded, variables)
        return execution, execution.begin(context, variables)

    def _prepared(
        self, workflow: WorkflowFunction[Any, Any], recorded: Recorded, variables: Context
    ) -> tuple[Execution, Workflow]:
        execution = Execution(workflow, recorded, self._host.values, self._intruded)
        variables.run(enter_run, recorded.run.run_id, recorded.run.workflow, self.outlet)
        return execution, Workflow(execution, self._host.registry, self._host.services, _run_logger)

    def _add(self, execution: Execution, recorded: Recorded) -> ActiveRun:
        run = ActiveRun(self._host, execution, recorded, self)
        self.active[recorded.run.run_id] = self._by_number[recorded.run.number] = run
        return run

    def _remove(self, run: ActiveRun) -> None:
        self.active.pop(run.run.run_id, None)
        self._by_number.pop(run.run.number, None)

    def has_ended(self, run: ActiveRun, move: RunMove) -> None:
        """The run's end is on disk: it leaves memory, and those who wait for it are told."""
        self._remove(run)
        failed = move.status is RunStatus.FAILED
        if failed or is_enabled_for_info():
            about = {"run_id": run.run.run_id, "workflow": run.run.workflow, **_about(move)}
            (self._host.log.warning if failed else self._host.log.info)(f"run_{move.status}", **about)
        if move.status is not RunStatus.SUSPENDED:
            self._is_over(run.run, move)
        elif self.events.listening:
            self.events.moved(run.run, EventKind.SUSPENDED, move.at, reason=move.reason)

    def _is_over(self, run: RunRow, move: RunMove) -> None:
        self.tell(run.run_id, move)
        if self.events.listening:
            self.events.tell(run, ended(run, move.status, move.at, move.error, move.reason))
        if run.parent is None or run.parent_position is None:
            return
        if self.resident(run.parent) is not None:
            self._tell_parent(run.parent, run.parent_position, move)
        elif self._host.dispatching:
            ends = self._ends.setdefault(run.parent, [])
            ends.append((run.parent_position, move))
            if len(ends) == 1:
                self.run_errand(self._bring_and_tell(run.parent))

    def relink(self, changes: Sequence[Change]) -> None:
        """It is on disk that child runs belong to other steps: those in memory know it, too."""
        for change in changes:
            if isinstance(change, ChildLinked):
                active = self.resident(change.row.number)
                if active is not None and change.row.parent_position is not None:
                    active.moves_to(change.row.parent_position)

    def _tell_parent(self, number: int, position: int, move: RunMove) -> None:
        parent = self.resident(number)
        if parent is not None:
            child_steps.ended(parent, position, move)

    async def _bring_and_tell(self, number: int) -> None:
        """Bring a parent in for the ends of its children that come until it is there, if it has not ended."""
        try:
            row = await self._host.journal.run_by_number(number)
            if row is not None and row.status not in FINAL_RUNS:
                await self.bring([number])
        except BaseException:
            del self._ends[number]  # the file decides
            raise
        # If somebody else has brought it, what was read then may be older than these ends.
        await in_callback(self._host.loop, partial(self._tell_ends, number))

    def _tell_ends(self, number: int) -> None:
        for position, move in self._ends.pop(number):
            self._tell_parent(number, position, move)
        parent = self.resident(number)
        if parent is not None:
            parent.may_rest()

    def _park(self, run: RunRow, end: Parked, changes: Sequence[Change], wakes_at: int | None = None) -> None:
        """Suspend a run that does not fit the present code; nothing of it has been executed.

        `wakes_at`: it waits in the file until then, and goes on doing so.
        """
        end = self._host.redacted_end(end)
        if run.parked is not end.parked or run.reason != end.reason:
            self._host.log.warning("run_suspended", run_id=run.run_id, workflow=run.workflow, reason=end.reason)
            move = move_of(run, run.status, end, self._host.now_us())
            move = move if wakes_at is None else structs.replace(move, wakes_at=wakes_at)
            self._host.write([*changes, move], partial(self._is_parked, run, move))
        elif changes:
            self._host.write(changes)

    def _is_parked(self, run: RunRow, move: RunMove) -> None:
        """It is on disk: who hears of it may act on it."""
        if self.events.listening:
            self.events.moved(run, EventKind.SUSPENDED, move.at, reason=move.reason)


def _look_at(task: asyncio.Task[Any]) -> None:
    """Whoever was to hear of it may have gone: asyncio need not report it."""
    if not task.cancelled():
        task.exception()


def _is_new(recorded: Recorded) -> bool:
    """True for a run with a later start whose body has not begun, as far as is known."""
    return recorded.run.starts_at > recorded.run.created_at and not (recorded.steps or recorded.timers)


def _is_left(recorded: Recorded) -> bool:
    """True for a child run that nobody waits for any more: it is cancelled."""
    return recorded.parent is not None and not recorded.awaited and recorded.run.alone_since is None


def _missing(error: WorkflowNotFound) -> Parked:
    return Parked(f"WorkflowNotFound: {error}; the run goes on at the next open that has it", ParkedFor.WORKFLOW)


def _run_logger(execution: Execution) -> Logger:
    run = execution.run
    return logger(silent=lambda: execution.replaying).bind(run_id=run.run_id, workflow=run.workflow)


def _why_not_awaited(parent: RunRow) -> str:
    """A crash came between what its parent did and the child's own end."""
    if parent.status in FINAL_RUNS:
        return parent.reason or f"its parent run {parent.run_id!r} has {parent.status}"
    return f"its parent run {parent.run_id!r} does not wait for it any more"


def _about(move: RunMove) -> dict[str, str]:
    if move.error is not None:
        return {"error_type": move.error.type, "error": move.error.message}
    return {} if move.reason is None else {"reason": move.reason}
