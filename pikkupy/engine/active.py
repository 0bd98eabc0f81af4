"""A run in memory: carries out the commands of its execution, and feeds it what came of them once that is on disk."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Protocol

import msgspec
from msgspec import structs

from pikkupy.core.commands import Armed, Cancelled, Commands, Completed, End, Parked, StepCall
from pikkupy.core.decide import Run, Settle, after_failure, next_move
from pikkupy.core.history import Event
from pikkupy.core.machine import FINAL_RUNS, FINAL_STEPS, RUN, STEP, RunEvent, StepEvent, advance
from pikkupy.core.model import (
    FULL,
    MAX_OWN,
    NO_WAKING,
    AttemptRow,
    Change,
    ChildLinked,
    CodeChange,
    Recorded,
    RunMove,
    RunProgress,
    RunRow,
    RunStatus,
    RunWakes,
    SetAsideTaken,
    StepKind,
    StepRow,
    StepsCancelled,
    StepStatus,
    TimerRow,
)
from pikkupy.core.outcomes import OUTCOME, Failed, Outcome, Stopped, Succeeded
from pikkupy.engine import child_steps, gates, signals
from pikkupy.engine.cut_offs import cut_off_row, in_flight
from pikkupy.engine.ends import crash_loop, interrupted, move_of
from pikkupy.engine.events import EventKind
from pikkupy.engine.host import Host
from pikkupy.engine.inbox import Inbox
from pikkupy.engine.live import LiveStep, asked_to_retry, before_its_outcome, context_of, due_at, first_success, latest
from pikkupy.engine.outlet import Outlet
from pikkupy.engine.own_timers import OwnTimers
from pikkupy.engine.resident import Others, Resident, tell_all
from pikkupy.errors import PikkuError
from pikkupy.execution import Execution, without_target
from pikkupy.log import Logger
from pikkupy.progress import Progress
from pikkupy.services import StepContext
from pikkupy.store import Done

MOST_NAMES = 20  # steps that one line of the log names
NO_POSITIONS: frozenset[int] = frozenset()
SPARE = 100_000  # places in a history that are left for what is under way when it is full


class Home(Others, Protocol):
    """Where runs in memory are kept."""

    outlet: Outlet

    def has_ended(self, run: ActiveRun, move: RunMove) -> None:
        """The run's end is on disk."""
        ...

    def may_rest(self, run: ActiveRun) -> None:
        """The run waits; perhaps it need not do so in memory."""
        ...

    def wants_rest(self, run: ActiveRun, wakes_at: int) -> bool:
        """True if a run that only waits until then should leave memory."""
        ...

    def rests(self, run: ActiveRun, wakes_at: int) -> None:
        """It is on disk that the run waits in the file."""
        ...

    def keep_late(self, row: AttemptRow) -> None:
        """Write what came too late for a run that is not in memory, or there again, at its next place."""
        ...


class ActiveRun:
    """One run in memory, from its start (or the start-up) to its end. Methods run in callbacks of the host loop."""

    __slots__ = (
        "_execution",
        "_firing",
        "_held",
        "_inline",
        "_landing",
        "_over",
        "_own_timers",
        "_rows",
        "_seq",
        "_set_aside",
        "_taken_over",
        "_untold",
        "changed_at",
        "children",
        "ending",
        "gates",
        "home",
        "host",
        "inbox",
        "next_chunk",
        "parked",
        "reason",
        "resting",
        "run",
        "since_s",
        "status",
        "steps",
    )

    def __init__(self, host: Host, execution: Execution, recorded: Recorded, home: Home) -> None:
        self.host = host
        self.run = recorded.run
        self.status = recorded.run.status
        self.steps: dict[int, LiveStep] = {}  # without an outcome, by position
        self._landing: dict[int, StepRow] = {}  # outcomes on their way to the disk, by position
        self.ending = False
        self._over: asyncio.Future[RunMove] | None = None
        self._execution = execution
        # Of a run that has just begun nothing is recorded: it is spared four loops over nothing.
        self._rows = {row.position: row for row in recorded.steps if row.seq is None} if recorded.steps else {}
        self._seq = recorded.last_seq
        self._held = False  # what it asks for waits for a write
        self._firing = 0  # timers of its own loop that have fired, on their way to the disk
        self.home = home
        self._own_timers: OwnTimers | None = None  # most runs have none
        self.gates: dict[int, LiveStep] = {}  # that are shut, by position
        self._untold: tuple[int, ...] = ()  # positions of those that are on their way to the disk
        self.reason = recorded.run.reason
        self.parked = recorded.run.parked
        self.children: dict[int | None, RunRow] = {}  # as recorded; the last attempt counts
        if recorded.children:
            self.children = {row.parent_position: row for row in recorded.children}
        self._set_aside: dict[tuple[str, StepKind, str | None], StepRow] = {}
        if recorded.set_aside:
            self._set_aside = {(row.name, row.kind, row.target): row for row in recorded.set_aside}
        self._taken_over = NO_POSITIONS  # positions of steps that it reaches there for the first time
        self.inbox = Inbox(recorded.signals)
        self.resting: RunWakes | None = None  # that it waits in the file, once this is on disk
        self.since_s = -math.inf  # time of the host loop when it came back into memory
        self.next_chunk = recorded.next_chunk  # offset in the run's stream
        self._inline: StepContext | None = None  # of the step that `_call_inline` is calling
        self.changed_at = latest(recorded)  # µs; what was reached last may be newer

    @property
    def over(self) -> asyncio.Future[RunMove]:
        """Has the end when that is on disk, or with an error if the engine is left before."""
        if self._over is None:
            self._over = self.host.loop.create_future()
        return self._over

    @property
    def approvals(self) -> frozenset[str]:
        """Names of the decisions that the run has asked for, those that were made too."""
        return self._execution.approvals

    @property
    def is_parking(self) -> bool:
        """True while it is on its way to the disk that the engine itself has suspended the run."""
        return self.ending and self.status is RunStatus.SUSPENDED

    @property
    def reached(self) -> int:
        """How many steps the run has reached."""
        return self._execution.reached

    @property
    def told(self) -> int:
        """How many of them may be told of: nobody hears of a gate, and what came after it, before that is on disk."""
        return self._untold[0] if self._untold else self._execution.reached

    # Commands

    def carry_out(self, commands: Commands) -> None:
        """Do what the execution asks for, in the order of the calls."""
        calls, host, now_us = commands.calls, self.host, self.host.now_us()
        if self._execution.told is not None:
            self._tell_progress(now_us)
        if len(calls) == 1 and self._is_simple(commands) and host.dispatching and host.workers.on_loop.has_room:
            self._call_inline(calls[0], now_us)
            return
        self._keep_to_changes(commands)
        steps = self.steps
        self._take_over(calls)
        gate = None
        for call in calls:
            steps[call.position] = step = self._reached(call, now_us)
            if call.kind is StepKind.SUSPEND and gate is None and self._is_new(step):
                gate = call.position
        if commands.end is not None:
            self._end(commands.end)
            return
        if gate is not None:
            self._untold = (*self._untold, gate)
            self.home.events.hold(self.run)
        if self.home.events.listening:
            self._tell_reached(calls, now_us)
        if commands.dropped or commands.armed:
            self._set_timers(commands, now_us)
        for position in commands.stopped:
            self._stop(position)
        self._dispatch_all(calls)
        if self.status is not RunStatus.RUNNING or self.gates:
            gates.show(self)
        elif not calls:
            self.may_rest()
        if gate is not None:
            self.host.write([], self._gate_is_on_disk)

    def _gate_is_on_disk(self) -> None:
        self._untold = self._untold[1:]
        if not self._untold:
            self.home.events.release(self.run)

    def _dispatch_all(self, calls: Sequence[StepCall]) -> None:
        """Give all of these steps that are still asked for their next move: of very many some later."""
        host, fresh = self.host, list[LiveStep]()
        for call in calls:
            step = self.steps.get(call.position)
            if step is None or not host.dispatching:
                continue
            if len(calls) > host.begins_at_once and self._is_fresh(step):
                fresh.append(step)
            else:
                self._dispatch(step)
        if fresh:
            self._begin_some(iter(fresh))

    def _is_fresh(self, step: LiveStep) -> bool:
        """True if it is the body of a step that no life has begun: when it begins changes nothing that is known."""
        return step.call.kind in (StepKind.INLINE, StepKind.FUNCTION) and not (step.recorded or self._set_aside)

    def _begin_some(self, fresh: Iterator[LiveStep]) -> None:
        """Of very many steps begin some in each turn of the host loop, so that others have theirs in between."""
        step = None
        for step in islice(fresh, self.host.begins_at_once):
            if self.is_live(step):
                self._dispatch(step)
        if step is not None and not self.ending:
            self.host.loop.call_soon(self._begin_some, fresh)

    def _keep_to_changes(self, commands: Commands) -> None:
        """Write which changed code the run has passed: before any step that it reaches beyond, or that would say no."""
        if commands.passed:
            self.host.write([CodeChange(run=self.run.number, change_id=change_id) for change_id in commands.passed])
            commands.passed = ()

    def _tell_progress(self, now_us: int) -> None:
        progress, self._execution.told = self._execution.told, None
        text = msgspec.json.encode(progress).decode()
        self.run = structs.replace(self.run, progress=text)
        self.host.write([RunProgress(number=self.run.number, progress=text)])
        if self.home.events.listening:
            self.home.events.moved(self.run, EventKind.PROGRESS, now_us, progress=progress)

    def _tell_reached(self, calls: Sequence[StepCall], now_us: int) -> None:
        for call in calls:
            step = self.steps.get(call.position)
            if step is None or not self._is_new(step):
                continue  # it was told before
            row = step.unfinished_row()
            if call.kind is StepKind.SLEEP and row.wake_at is None:
                row = structs.replace(row, wake_at=due_at(call, now_us))
            self.home.events.reached(self.run, row)

    def _is_new(self, step: LiveStep) -> bool:
        """True if the run has not reached it before, there."""
        return not step.recorded or step.call.position in self._taken_over

    def _reached(self, call: StepCall, now_us: int) -> LiveStep:
        row = self._rows.pop(call.position, None) if self._rows else None
        return LiveStep(self.run.number, call, now_us) if row is None else LiveStep.of(call, row, now_us)

    def _is_simple(self, commands: Commands) -> bool:
        """True if one new inline step is all that is asked for."""
        call = commands.calls[0]
        return (
            call.kind is StepKind.INLINE
            and not (commands.end or commands.stopped or commands.armed or commands.dropped or commands.passed)
            and not (self._rows or self.gates or self._set_aside or self.parked or self.resting is not None)
            and not call.policy.at_most_once
            and call.policy.timeout_us is None
        )

    def _call_inline(self, call: StepCall, now_us: int) -> None:
        """The short way for most steps of most runs: an inline callable that returns a value, at its first attempt.

        It comes to the same as `_dispatch`. With 2,000 runs in flight it saves 3 of 33 µs per step.
        """
        workers = self.host.workers
        if self.home.events.listening:
            self.home.events.reached(self.run, LiveStep(self.run.number, call, now_us).unfinished_row())
        assert call.variables is not None  # only sleeps, signals and gates have none
        context = call.variables.copy() if call.policy.retries else call.variables  # nobody else will need it
        here = self._inline = context_of(self.run, call, 1)
        came = workers.call_inline(call, here, context)
        self._inline = None
        self.home.outlet.flush()
        if isinstance(came, Succeeded):
            self._seq += 1
            self.land(first_success(self.run.number, call, came.output, self._seq, now_us, self.host.now_us()))
            return
        step = self.steps[call.position] = LiveStep(self.run.number, call, now_us)
        step.working = True
        step.context = here
        self.begun(step, 1)
        step.began_at = step.started_at = now_us  # the call has taken its time already
        if isinstance(came, OUTCOME):
            self.attempt_ended(step, came)
        else:
            step.attempt = workers.await_inline(call, here, came, context, partial(self.attempt_ended, step))
            self.host.shown.add(self, step)

    def adopt(self, commands: Commands, *, cut_off: bool) -> None:
        """After a start-up: carry out what a replay left to do; `cut_off` if the last owner did not leave in order."""
        commands.armed = [Armed(armed.number, armed.due_us, 0) for armed in commands.armed]  # set in an earlier life
        if self.parked is not None:
            # That it goes on is on disk before it does: what it does then counts, if that is what kills the process.
            move = self.moved(RunEvent.RESUME, None)
            self._hold(commands, [move], partial(self._told_resumed, move))
            return
        self._keep_to_changes(commands)
        self._take_over(commands.calls)
        flying = in_flight(commands, self._rows, self.host.now_us()) if cut_off and commands.end is None else []
        flying = [call for call in flying if (call.name, call.kind, call.target) not in self._set_aside]
        if not flying:
            self.carry_out(commands)
            return
        now_us = self.host.now_us()
        rows = [cut_off_row(self._reached(call, now_us)) for call in flying]
        self._rows.update({row.position: row for row in rows})
        worst = max(rows, key=lambda row: row.cut_offs)
        if worst.cut_offs > 1:
            self.log().warning("run_cut_off", step=worst.name, times=worst.cut_offs)
        else:  # as all that a crash has met
            run = self.run
            self.host.info("run_cut_off", run_id=run.run_id, workflow=run.workflow, step=worst.name, times=1)
        if worst.cut_offs >= self.host.config.max_cut_offs:
            self._end(crash_loop(worst), rows)
        else:
            self._hold(commands, rows)

    def _hold(self, commands: Commands, changes: Sequence[Change], tell: Callable[[], object] = bool) -> None:
        """When `changes` are on disk, `tell`, and carry out the commands."""
        self._held = True
        self.host.write(changes, partial(self._carry_on, commands, tell))

    def _carry_on(self, commands: Commands, tell: Callable[[], object]) -> None:
        self._held = False
        tell()
        if not self.ending:
            self.carry_out(commands)

    def _told_resumed(self, move: RunMove) -> None:
        if self.home.events.listening:
            self.home.events.moved(self.run, EventKind.RESUMED, move.at)

    # Steps

    def _dispatch(self, step: LiveStep) -> None:
        """Give a step without an outcome its next move."""
        call = step.call
        if self._set_aside and self._take_back(step):
            return
        if call.refused is not None:
            step.attempts = 1
            self.settle(step, Failed(call.refused, None, final=True))
        elif call.kind is StepKind.SLEEP:
            self._sleep(step)
        elif call.kind is StepKind.SIGNAL:
            signals.wait(self, step)
        elif call.kind is StepKind.SUSPEND:
            self.gates[call.position] = step
        elif step.child is None and step.status is StepStatus.RUNNING and call.kind is StepKind.WORKFLOW:
            child_steps.wait(self, step)
        elif step.status is StepStatus.RUNNING and call.policy.at_most_once:
            self.fail(step, Failed(interrupted(call), None, final=False))
        else:
            move = next_move(step.status, step.attempts, step.wake_at)
            if isinstance(move, Run):
                self._begin(step, move.attempt)
            else:
                step.timer = self.host.timers.call_at(move.wake_at_us, partial(self._begin, step, move.attempt))

    def _take_over(self, calls: Sequence[StepCall]) -> None:
        """Let steps that were set aside while they were under way go on where the code asks for them now."""
        for call in calls if self._set_aside else ():
            key = (call.name, call.kind, call.target)
            row = self._set_aside.get(key)
            if row is not None and row.seq is None and call.position not in self._rows:
                del self._set_aside[key]
                self._taken_over |= {call.position}
                self._rows[call.position] = again = structs.replace(row, position=call.position)
                self.host.write([again, *self._taken(row, call.position)])

    def _take_back(self, step: LiveStep) -> bool:
        """Settle the step with the outcome that it had before the code was changed, if there is one."""
        call = step.call
        row = None if step.recorded else self._set_aside.pop((call.name, call.kind, call.target), None)
        if row is None:
            return False
        del self.steps[call.position]
        if row.error is not None:
            self.next_seq()  # as in `settle`
        again = structs.replace(row, position=call.position, seq=self.next_seq())
        self.land(again, self._taken(row, call.position))
        return True

    def _taken(self, row: StepRow, position: int) -> list[Change]:
        """What is written with a step that was set aside when it gets its new place: its child run goes with it."""
        taken: list[Change] = [SetAsideTaken(run=row.run, position=row.position)]
        child = self.children.pop(row.position, None)
        if child is not None:
            child = self.children[position] = structs.replace(child, parent_position=position)
            taken.append(ChildLinked(row=child))
            resident = self.home.resident(child.number)
            if resident is not None:
                resident.moves_to(position)
        return taken

    def moves_to(self, position: int) -> None:
        """The step of the parent that waits for the run has another place."""
        self.run = structs.replace(self.run, parent_position=position)

    def _sleep(self, step: LiveStep) -> None:
        if step.wake_at is not None:
            self._await_waking(step)
            return
        now_us = self.host.now_us()
        step.wake_at = wake_at = due_at(step.call, now_us)
        assert wake_at is not None  # only a signal can be waited for without an end
        step.move(StepEvent.SCHEDULE)
        if wake_at <= now_us:
            self.settle(step, Succeeded("null"))
        elif self.home.wants_rest(self, wake_at) and self._waits_for_this_alone():
            self.resting = rests = RunWakes(number=self.run.number, wakes_at=wake_at)
            self.host.write([step.unfinished_row(), rests], partial(self._rests_or_waits, step, rests))
        else:
            self.host.write([step.unfinished_row()], partial(self._await_waking, step))

    def _waits_for_this_alone(self) -> bool:
        return not (
            len(self.steps) > 1
            or self._landing
            or self._firing
            or self._own_timers
            or self.status is not RunStatus.RUNNING
            or self.gates
            or self.resting is not None
        )

    def _rests_or_waits(self, step: LiveStep, rests: RunWakes) -> None:
        self._rests(rests)
        if self.resting is not rests:  # something came up before it was on disk
            self._await_waking(step)

    def _await_waking(self, step: LiveStep) -> None:
        if self.is_live(step) and step.wake_at is not None:
            step.timer = self.host.timers.call_at(step.wake_at, partial(self.settle, step, Succeeded("null")))
            self.may_rest()

    def _begin(self, step: LiveStep, attempt: int) -> None:
        """Begin an attempt; of an `at_most_once` step after its start is on disk."""
        step.timer = None
        self._stay()
        if self._seq > MAX_OWN - SPARE:
            self.misused(f"{self._seq:,} outcomes, attempts and signals are in its history: {FULL}")
        elif step.call.kind is StepKind.WORKFLOW and isinstance(step.call.body, str):
            if self.is_live(step):
                self._end(without_target(step.call, self.host.registry.not_found("workflow", step.call.body)))
        elif step.call.kind is StepKind.WORKFLOW:
            child_steps.begin(self, step, attempt)
        elif not step.call.policy.at_most_once:
            self._work(step, attempt)
        elif self.is_live(step):
            self.begun(step, attempt)
            self.host.write([step.unfinished_row()], partial(self._is_shown, step, partial(self._work, step, attempt)))

    def _work(self, step: LiveStep, attempt: int) -> None:
        if not self.is_live(step):
            if not self.ending and self.steps.get(step.call.position) is step:
                self._interrupted(step, has_begun=False)
            return
        context = context_of(self.run, step.call, attempt)
        step.working = True
        step.context = context
        working = self.host.workers.begin(
            step.call, context, partial(self.begun, step, attempt), partial(self.attempt_ended, step)
        )
        if step.working:
            step.attempt = working
            if step.status is StepStatus.RUNNING:
                self.host.shown.add(self, step)

    def begun(self, step: LiveStep, attempt: int) -> None:
        """An attempt of the step begins."""
        if step.status is not StepStatus.RUNNING:
            step.status = advance(STEP, step.status, StepEvent.BEGIN)
        step.attempts = attempt
        step.began_at = self.host.now_us()
        if attempt == 1:
            step.started_at = step.began_at
        if step.attempt is not None:  # it has waited for a slot
            self.host.shown.add(self, step)

    def attempt_ended(self, step: LiveStep, outcome: Outcome) -> None:
        """One attempt has ended, or was stopped: this is the whole mapping from outcomes to writes."""
        self.home.outlet.flush()  # what it has emitted is on disk before its outcome
        has_begun = not step.is_to_begin
        step.attempt = step.context = None
        step.working = False
        if isinstance(outcome, Failed):
            outcome = self.host.redacted(outcome)
        if self.ending:
            self._keep_evidence(step, outcome)
        elif isinstance(outcome, Succeeded):
            self.settle(step, outcome)
        elif step.call.position not in self._execution.open:  # the workflow does not wait for it any more
            self._cancelled(step)
        elif isinstance(outcome, Failed):
            self.fail(step, outcome)
        else:
            self._interrupted(step, has_begun)

    def _interrupted(self, step: LiveStep, has_begun: bool) -> None:
        """The engine is being left. The attempt runs again in the next life, but not one that must not run twice."""
        if not step.call.policy.at_most_once or step.status is not StepStatus.RUNNING:
            return
        if has_begun:
            self.fail(step, Failed(interrupted(step.call), None, final=False))
        else:
            step.take_back()
            self.host.write([step.unfinished_row()])

    def fail(self, step: LiveStep, failed: Failed, also: Sequence[Change] = (), then: Sequence[Done] = ()) -> None:
        """An attempt has failed: another follows, or the step fails. `also` is written with that, `then` is told."""
        now_us, failed = self.host.now_us(), self.host.redacted(failed)
        self.log().info(
            "step_attempt_failed",
            step=step.call.name,
            attempt=step.attempts,
            error_type=failed.error.type,
            error=failed.error.message,
        )
        failures = step.attempts - step.forgiven
        verdict = after_failure(step.call.policy, failures, now_us, self.host.jitter.random())
        if not isinstance(verdict, Settle) and not failed.final:
            failed = asked_to_retry(step, failed)
        if isinstance(verdict, Settle) or failed.final:
            self.settle(step, failed, also, then)
            return
        step.cut_offs = 0
        attempt = step.attempt_row(failed, self.next_seq(), now_us)
        step.move(StepEvent.SCHEDULE)
        step.wake_at = verdict.wake_at_us
        step.error = failed.error
        wait = self.host.then(partial(self._await_retry, step, attempt))
        self.host.journal.submit([*also, attempt, step.unfinished_row()], partial(tell_all, [*then, wait]))

    def _await_retry(self, step: LiveStep, failed: AttemptRow) -> None:
        if self.home.events.listening:
            self.home.events.failed(self.run, step.call.name, failed, step.wake_at)
        if self.is_live(step) and step.wake_at is not None:
            self.log().info("step_retry_scheduled", step=step.call.name, attempt=step.attempts + 1)
            step.timer = self.host.timers.call_at(step.wake_at, partial(self._begin, step, step.attempts + 1))
            self.may_rest()

    def settle(
        self, step: LiveStep, outcome: Succeeded | Failed, also: Sequence[Change] = (), then: Sequence[Done] = ()
    ) -> None:
        """Record the step's outcome; as `land`."""
        if isinstance(outcome, Failed):
            outcome = self.host.redacted(outcome)
        del self.steps[step.call.position]
        now_us = self.host.now_us()
        if step.attempts > 1 or (step.attempts and isinstance(outcome, Failed)):
            place = self.next_seq()  # of the attempt: that it has failed is an event of its own
            if step.attempts > 1:
                also = [*also, step.attempt_row(outcome, place, now_us)]
        self.land(step.settled_row(outcome, self.next_seq(), now_us), also, then)

    def land(self, row: StepRow, also: Sequence[Change] = (), then: Sequence[Done] = ()) -> None:
        """Write an outcome, and what belongs to it; the run sees it, and `then` is told, when both are on disk."""
        self._landing[row.position] = row
        landing = _Landing(self, row)
        self.host.journal.submit((*also, row), partial(tell_all, [*then, landing]) if then else landing)

    def land_all(self, rows: list[StepRow], also: Change, done: Done) -> None:
        """As `land`, several outcomes in one write."""
        self._landing.update({row.position: row for row in rows})
        landings = [_Landing(self, row) for row in rows]
        self.host.journal.submit([*rows, also], partial(tell_all, [done, *landings]))

    def deliver(self, row: StepRow) -> None:
        """The step's outcome is on disk: the run may see it."""
        del self._landing[row.position]
        self.changed_at = row.ended_at or 0
        if self.home.events.listening:
            self.home.events.recorded(self.run, row)
        if not self.ending:
            self.carry_out(self._execution.deliver(row))

    def _stop(self, position: int) -> None:
        """The workflow does not wait for the step any more."""
        step = self.steps.get(position)
        if step is None:
            return  # its outcome is on the way to the disk
        if step.status in FINAL_STEPS:
            del self.steps[position]  # an earlier life has recorded it as cancelled
        elif step.attempt is not None:
            step.attempt.late = partial(self._keep_evidence, step)
            step.attempt.stop()
        else:
            self._cancelled(step)

    def _cancelled(self, step: LiveStep) -> None:
        position = step.call.position
        if self.steps.pop(position, None) is None:
            return
        self._stay()
        self.gates.pop(position, None)
        signals.leave(self, step)
        row = self._landing[position] = step.cancelled_row(self.host.now_us())
        changes: list[Change] = [row]
        then: list[Done] = [partial(self._cancel_is_on_disk, position)]
        why = f"its parent run {self.run.run_id!r} does not wait for it any more"
        child_steps.cancel(self, step, why, changes, then)
        self.host.journal.submit(changes, partial(tell_all, then))

    def _cancel_is_on_disk(self, position: int, error: Exception | None) -> None:
        if self.host.is_written(error):
            row = self._landing.pop(position, None)
            if row is not None:
                self.changed_at = row.ended_at or 0
            self.may_rest()

    def _keep_evidence(self, step: LiveStep, outcome: Outcome) -> None:
        """A result that came too late to count: it shows in the history, and changes nothing."""
        if self.status is RunStatus.SUSPENDED:
            return  # the step is not over: its next attempt has this one's number and place
        if not isinstance(outcome, Stopped) and step.attempts:
            if isinstance(outcome, Failed):
                outcome = self.host.redacted(outcome)
            if self.home.resident(self.run.number) is not self:
                # It has ended, or waits in the file: whoever counts the places in its history now, it is not this.
                self.home.keep_late(step.attempt_row(outcome, 0, self.host.now_us()))
                return
            row = step.attempt_row(outcome, self.next_seq(), self.host.now_us())
            self.host.journal.submit([row], self._evidence_is_kept)

    def _evidence_is_kept(self, _: Exception | None) -> None:
        self.may_rest()  # refused if the run was deleted meanwhile, which is fine

    def live_rows(self) -> list[StepRow]:
        """The steps whose end is not on disk, as they stand in memory."""
        landing = [before_its_outcome(row) for row in self._landing.values()]
        return [*landing, *(step.unfinished_row() for step in self.steps.values())]

    def hears(self, step: StepContext) -> bool:
        """Whether what the attempt tells counts."""
        live = self.steps.get(step.position)
        return not self.ending and (step is self._inline or (live is not None and live.context is step))

    def progress(self) -> dict[int, Progress]:
        """What the attempts under way have told last, by position."""
        told = {position: vars(step.context).get("_progress") for position, step in self.steps.items() if step.context}
        return {position: progress for position, progress in told.items() if progress is not None}

    def show_running(self, step: LiveStep) -> None:
        """Write a row for a step whose attempt has lasted a moment, so that other readers of the file see it."""
        if self.is_live(step) and step.status is StepStatus.RUNNING:
            self.host.write([step.unfinished_row()], partial(self._is_shown, step))

    def _is_shown(self, step: LiveStep, then: Callable[[], object] | None = None) -> None:
        """It is on disk that the step is running."""
        self.changed_at = max(self.changed_at, step.began_at)
        if then is not None:
            then()

    def is_live(self, step: LiveStep) -> bool:
        """True if the step still has an outcome to come in this life."""
        return self.host.dispatching and not self.ending and self.steps.get(step.call.position) is step

    def next_seq(self) -> int:
        """The next place in its history. Who takes one keeps the run in memory: in the file it is not known yet."""
        self._stay()
        self._seq += 1
        return self._seq

    def misused(self, why: str) -> None:
        """Code outside of the workflow function has interfered with the run: it fails."""
        if not self.ending:
            self.carry_out(self._execution.misused(why))

    def moved(self, event: RunEvent, reason: str | None) -> RunMove:
        """Change its status, by the table; the change is to be written. It does not wait in the file after that."""
        self.resting = None
        before, self.status = self.status, advance(RUN, self.status, event)
        self.reason, self.parked = reason, None
        return RunMove(number=self.run.number, before=before, status=self.status, reason=reason, at=self.host.now_us())

    # Leaving memory to wait in the file

    def may_rest(self) -> None:
        """Perhaps it only waits now, and need not do so in memory."""
        self.home.may_rest(self)

    def waits_until(self) -> int | None:
        """When the run has to be in memory again if nothing comes from outside; None while it has anything to do."""
        if self.ending or self._held or self._landing or self._firing or self.resting is not None:
            return None
        until = NO_WAKING if self._own_timers is None else self._own_timers.next_due_us(NO_WAKING)
        for step in self.steps.values():
            if step.timer is not None:
                until = min(until, step.timer.due_us)
            elif step.wake_at is not None or not self._waits_for_others(step):
                return None
        return until

    def _waits_for_others(self, step: LiveStep) -> bool:
        if step.child is not None:
            return step.recorded and not self.home.is_ending(step.child.number)
        return step.recorded and step.call.kind in (StepKind.SIGNAL, StepKind.SUSPEND)

    def rest(self, wakes_at: int) -> None:
        """Leave memory as soon as it is on disk that the run waits in the file, unless something comes up before."""
        self.resting = RunWakes(number=self.run.number, wakes_at=wakes_at)
        self.host.write([self.resting], partial(self._rests, self.resting))

    def _rests(self, rests: RunWakes) -> None:
        if self.resting is not rests or self.ending:
            return  # something has come up since; if it is to rest again, that is not on disk yet
        if self.home.holds.is_held(self.run.number):  # by somebody who may have found it here
            self._stay()
        else:
            assert rests.wakes_at is not None
            self.home.rests(self, rests.wakes_at)

    def _stay(self) -> None:
        """Something has come up: the run does not wait in the file."""
        if self.resting is not None:
            self.resting = None
            self.host.write([RunWakes(number=self.run.number, wakes_at=None)])

    # Timers of the run's own loop

    def _set_timers(self, commands: Commands, now_us: int) -> None:
        timers = self._own_timers
        if timers is None:
            timers = self._own_timers = OwnTimers(self.host.timers, self._fire)
        for number in commands.dropped:
            timers.disarm(number)
        for armed in commands.armed:
            timers.arm(armed, now_us)

    def _fire(self, armed: Armed) -> None:
        self._firing += 1
        row = TimerRow(
            run=self.run.number,
            number=armed.number,
            due_at=armed.due_us,
            seq=self.next_seq(),
            fired_at=self.host.now_us(),
        )
        self.host.write([row], partial(self._timer_fired, row))

    def _timer_fired(self, row: TimerRow) -> None:
        self.changed_at = row.fired_at
        self._fired(row)

    def _fired(self, event: Event) -> None:
        self._firing -= 1
        if not self.ending:
            self.carry_out(self._execution.deliver(event))

    # The end

    def cancel(self, reason: str) -> bool:
        """End the run as cancelled, from outside; False if it is ending already."""
        if self.ending:
            return False
        self._end(Cancelled(reason))
        return True

    def leave_memory(self, error: PikkuError | None) -> None:
        """Forget the run without ending it: it goes on when it is brought back. Who waits for its end gets `error`."""
        self.ending = True
        self._drop_timers()
        self._execution.tear_down()
        if error is not None:
            self._has_no_end(error)

    def _end(self, end: End, rows: list[StepRow] | None = None) -> None:
        changes: list[Change] = [*(rows or ())]
        then: list[Done] = []
        self.begin_end(end, changes, then)
        self.host.journal.submit(changes, partial(tell_all, then))

    def begin_end(self, end: End, changes: list[Change], then: list[Done]) -> None:
        """End the run: `changes` get what is to be written for it and for its children, `then` who is to be told."""
        family: list[tuple[Resident, End]] = [(self, end)]
        for run, its_end in family:  # grows as it goes: families can be deep
            if not run.ending:
                family += run.end_itself(its_end, changes, then)

    def end_itself(self, end: End, changes: list[Change], then: list[Done]) -> list[tuple[Resident, End]]:
        """As `begin_end`; the child runs in memory that are to end with it are left to the caller."""
        self.ending = True
        end = self.host.redacted_end(end)
        self.home.outlet.flush()  # readers take the end for the end of the stream
        self._drop_timers()
        steps = list(self.steps.values())
        if isinstance(end, Parked):
            changes.extend(self._interrupt_steps())
        else:
            changes.extend(self._cancel_steps(end))
            if self._rows:  # of steps that it has not come to yet in this life
                changes.append(StepsCancelled(run=self.run.number, at=self.host.now_us()))
        move = move_of(self.run, self.status, end, self.host.now_us())
        self.status = move.status
        changes.append(move)
        if self.run.parent is not None and move.status in FINAL_RUNS:
            changes.append(RunWakes(number=self.run.parent, wakes_at=None))  # whose step has its outcome
        self._execution.tear_down()
        then.append(partial(self._end_is_on_disk, move))
        if isinstance(end, Parked) or not (steps or self.children):
            return []
        why = f"its parent run {self.run.run_id!r} has {move.status} without waiting for it"
        cancelled = Cancelled(end.reason if isinstance(end, Cancelled) else why)
        return [(child, cancelled) for child in child_steps.let_go(self, steps, cancelled.reason, changes, then)]

    def _interrupt_steps(self) -> list[StepRow]:
        """Stop what is under way in a run that is parked: it begins again, under its own number, on resumption.

        Not what must not run twice, and has begun: of that which has not it is written that it has not.
        """
        untouched = [step for step in self.steps.values() if step.is_to_begin]
        for step in self.steps.values():
            if step.attempt is not None:
                step.attempt.stop()
        for step in untouched:
            step.take_back()
        return [step.unfinished_row() for step in untouched]

    def _cancel_steps(self, end: End) -> list[StepRow]:
        """Stop what is under way; every step without an outcome becomes cancelled."""
        steps = [step for step in self.steps.values() if step.status not in FINAL_STEPS]
        self.steps.clear()
        unawaited = [step.call.name for step in steps if step.call.position in self._execution.open]
        if unawaited and isinstance(end, Completed):
            self.log().warning("steps_unawaited", steps=unawaited[:MOST_NAMES], count=len(unawaited))
        for step in steps:
            if step.attempt is not None:
                step.attempt.late = partial(self._keep_evidence, step)
                step.attempt.stop()
        rows = [step.cancelled_row(self.host.now_us()) for step in steps]
        self._landing.update({row.position: row for row in rows})
        return rows

    def _end_is_on_disk(self, move: RunMove, error: Exception | None) -> None:
        if error is not None and not self.host.is_written(error):
            self._has_no_end(error)
            return
        if self._over is not None and not self._over.done():
            self._over.set_result(move)
        self.home.has_ended(self, move)

    def _has_no_end(self, error: Exception) -> None:
        """In this life: those who wait for it get the error."""
        if self._over is not None and not self._over.done():
            self._over.set_exception(error)
            self._over.exception()  # perhaps nobody waits any more, which asyncio need not report

    def _drop_timers(self) -> None:
        if self._own_timers is not None:
            self._own_timers.drop()
            self._own_timers = None
        for step in self.steps.values():
            if step.timer is not None:
                step.timer.cancel()

    def log(self) -> Logger:
        """A logger bound to the run."""
        return self.host.log.bind(run_id=self.run.run_id, workflow=self.run.workflow)


class _Landing(msgspec.Struct, frozen=True, gc=False):
    """What follows the write of an outcome. The most frequent of all callbacks, so one small object."""

    run: ActiveRun
    row: StepRow

    def __call__(self, error: Exception | None) -> None:
        if error is None or self.run.host.is_written(error):
            self.run.deliver(self.row)
