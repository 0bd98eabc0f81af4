"""What happens to runs, as events: live from the engine, and of one run from its beginning, made from what is recorded.

A run's events are numbered by what is recorded of it: how many places of its history are taken, and how many steps it
has reached. Each event raises one of the two, so a number says exactly what a reader has seen, in this life and in the
next; nothing is written for it. Changed code that is accepted takes a place, and from there on steps count anew from
the first that was set aside. Before a delayed run begins signals can come, and the engine can suspend it: a bit of its
numbers says that it has begun. Only a suspension by the engine, progress and the end change nothing, and are told again
to a reader that goes on there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from functools import partial
from operator import attrgetter
from typing import Any
from weakref import ReferenceType, WeakSet, ref

import msgspec
from msgspec import structs

from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import (
    CODE_ACCEPTED,
    MAX_INTEGER,
    AttemptRow,
    AttemptStatus,
    ErrorInfo,
    RunRow,
    RunStatus,
    SignalRow,
    StepKind,
    StepRow,
    StepStatus,
)
from pikkupy.engine.live import only_attempt
from pikkupy.errors import BadType, BadValue, EventsLost
from pikkupy.moments import moment
from pikkupy.names import without_ordinal
from pikkupy.progress import Progress

KEPT = 10_000  # events of an engine that a reader can go back to, once one has listened
TURN = 200  # events of the past that a reader makes in one turn of the loop
BEHIND = 10_000  # events that a reader may be behind before they are read anew, or lost
REACHED = 32  # bits of a number that count steps, but for the first
BEGUN = 1 << REACHED - 1  # that first one: a delayed run has begun
EPOCH = 40  # bits of a number of an engine's event that count within one life


class EventKind(StrEnum):
    """What has happened."""

    RUN_STARTED = "run_started"
    STEP_STARTED = "step_started"
    SLEEPING = "sleeping"  # a sleep was reached; `wake_at`
    ATTEMPT_FAILED = "attempt_failed"  # more may follow; `wake_at`, if it is recorded still
    STEP_RECORDED = "step_recorded"  # a step has its outcome; `status`
    SIGNAL = "signal"  # one was sent; `name`
    SUSPENDED = "suspended"  # by a gate or by the engine; `reason`
    RESUMED = "resumed"  # with the `reason` "retry" it had failed
    PROGRESS = "progress"
    RUN_ENDED = "run_ended"  # `status`


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that has happened to a run."""

    seq: int
    """Never falls from event to event; those that a reader would get again together have the same. Of
    `RunHandle.events` it is the run's own and outlives the process; of `Engine.events` it counts in one life of the
    engine. Neither is of use to the other."""
    kind: EventKind
    run_id: str
    workflow: str
    at: datetime
    step_name: str | None = None
    step_kind: StepKind | None = None
    attempt: int | None = None
    status: str | None = None
    """Of the step or run, once it has ended."""
    error: ErrorInfo | None = None
    wake_at: datetime | None = None
    name: str | None = None
    """Of a signal."""
    reason: str | None = None
    progress: Progress | None = None


LAST = 1 << REACHED  # no step has this position


class _Told(msgspec.Struct, frozen=True, gc=False):
    """An event with its place: of the two counters the one that it raises, if any."""

    event: Event | None  # None: steps from `position` on are set aside, and may be reached again
    place: int = 0  # in the run's history, from 1
    position: int = -1  # of a step that was reached, from 0
    near: int = LAST  # position of the step that it is about
    delayed: bool = False  # it is the beginning of a delayed run


class Hub:
    """Tells events to those who listen. Costs nothing while nobody does."""

    def __init__(self, epoch: int) -> None:
        self.listening = False
        self._keeps = False  # what is told to everybody, from the first call of `Engine.events` on
        self._first = self._next = epoch << EPOCH
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._everything: WeakSet[EngineEvents] = WeakSet()
        self._of_runs: dict[int, set[ReferenceType[RunEvents]]] = {}  # by number; those who are gone go
        self._held: dict[int, list[_Told]] = {}  # what is told of a run that is held, by number

    # What is told

    def started(self, run: RunRow) -> None:
        self.tell(run, _started(run))

    def reached(self, run: RunRow, row: StepRow) -> None:
        self.tell(run, _reached(run, row))

    def recorded(self, run: RunRow, row: StepRow) -> None:
        if row.seq is None:
            return
        if row.error is not None and row.attempts:
            self.tell(run, _last_failed(run, row))
        self.tell(run, _recorded(run, row))

    def failed(self, run: RunRow, step_name: str, row: AttemptRow, wake_at: int | None) -> None:
        self.tell(run, _failed(run, step_name, row, wake_at))

    def signalled(self, run: RunRow, row: SignalRow) -> None:
        self.tell(run, _signalled(run, row))

    def moved(self, run: RunRow, kind: EventKind, at: int, **facts: Any) -> None:
        self.tell(run, _told(run, kind, at, **facts))

    def set_aside(self, run: RunRow, row: SignalRow) -> None:
        self.tell(run, _set_aside(row))

    def hold(self, run: RunRow) -> None:
        """Until `release`, what is told of the run is kept back, whoever comes to listen meanwhile."""
        self._held.setdefault(run.number, [])
        self.listening = True

    def release(self, run: RunRow) -> None:
        """Tell what was kept back."""
        for told in self._held.pop(run.number):
            self.tell(run, told)
        self._still_listening()

    def tell(self, run: RunRow, told: _Told) -> None:
        """To everybody who listens."""
        if run.number in self._held:
            self._held[run.number].append(told)
            return
        if self._keeps and told.event is not None:
            self._next += 1
            event = structs.replace(told.event, seq=self._next)
            self._kept.append(event)
            for reader in list(self._everything):
                reader.hear(event)
        for run_reader in self._readers_of(run.number):
            run_reader.hear(told)

    def _readers_of(self, number: int) -> list[RunEvents]:
        readers = [reader() for reader in self._of_runs.get(number, ())]
        return [reader for reader in readers if reader is not None]

    # Who listens

    def add(self, reader: EngineEvents, after: int | None) -> None:
        """From now on, or from after that event on. Raises `EventsLost` if it is not known any more what followed."""
        self.listening = self._keeps = True
        if after is not None:
            oldest = self._kept[0].seq if self._kept else self._next + 1
            if not oldest - 1 <= after <= self._next:
                kept = f"events are kept from {oldest} to {self._next}" if self._kept else "none are kept so far"
                raise EventsLost(
                    f"after={after}: what followed is not known any more ({kept}); look at list_runs, and listen from "
                    "now on"
                )
            for event in self._kept:
                if event.seq > after:
                    reader.hear(event)
        self._everything.add(reader)

    def add_of_run(self, reader: RunEvents, number: int) -> None:
        self.listening = True
        self._of_runs.setdefault(number, set()).add(ref(reader, partial(self._drop, number)))

    def remove_of_run(self, reader: RunEvents, number: int) -> None:
        self._drop(number, ref(reader))

    def _drop(self, number: int, reader: ReferenceType[RunEvents]) -> None:
        """The reader has read all, or nobody holds it any more."""
        readers = self._of_runs.get(number)
        if readers is not None:
            readers.discard(reader)
            if not readers:
                del self._of_runs[number]
        self._still_listening()

    def _still_listening(self) -> None:
        self.listening = self._keeps or bool(self._of_runs) or bool(self._held)

    def close(self, error: Exception) -> None:
        """The engine is left."""
        for reader in list(self._everything):
            reader.end(error)
        for number in list(self._of_runs):
            for run_reader in self._readers_of(number):
                run_reader.end(error)


class _Reader:
    """Something that is heard now and read later."""

    def __init__(self) -> None:
        self.behind: deque[Any] = deque()
        self.lost = False  # something was told after what is behind, and was not heard
        self._error: Exception | None = None
        self._awaited: asyncio.Future[None] | None = None

    def hear(self, told: Any) -> None:
        if self.lost or len(self.behind) >= BEHIND:
            self.lost = True  # from here on: what came later would hide the gap
        else:
            self.behind.append(told)
            self._wake()

    def end(self, error: Exception) -> None:
        self._error = error
        self._wake()

    async def more(self) -> None:
        """Return when something was heard. Raises what `end` was given."""
        if self._error is not None:
            raise self._error
        self._awaited = asyncio.get_running_loop().create_future()
        try:
            await self._awaited
        finally:
            self._awaited = None

    def _wake(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)


class EngineEvents(_Reader, AsyncIterator[Event]):
    """What `Engine.events` returns."""

    def __init__(self, hub: Hub, after: int | None) -> None:
        super().__init__()
        _check_after(after)
        hub.add(self, after)

    async def __anext__(self) -> Event:
        while not self.behind:
            if self.lost:
                self.lost = False
                raise EventsLost(
                    f"the reader was more than {BEHIND:,} events behind; look at list_runs, and listen anew"
                )
            await self.more()
        event: Event = self.behind.popleft()
        return event


class Past(msgspec.Struct, frozen=True):
    """A run up to now: steps by position, as they stand."""

    run: RunRow
    steps: Sequence[StepRow]
    attempts: Sequence[AttemptRow]
    signals: Sequence[SignalRow]
    progress: Progress | None
    begun: bool  # False before its `starts_at`
    place: int = 0  # up to which the reader has seen all; steps of which it has may be left out
    until: int = MAX_INTEGER  # from this place on it is heard, and is not all here


class RunEvents(_Reader, AsyncIterator[Event]):
    """What `Engine.run_events` and `RunHandle.events` return."""

    def __init__(
        self,
        hub: Hub,
        find: Callable[[], Awaitable[int]],
        look: Callable[[int, int], Awaitable[Past]],
        after: int | None,
    ) -> None:
        super().__init__()
        _check_after(after)
        self._hub = hub
        self._find = find  # the number of the run
        self._look = look  # at the run up to now, from places and steps on
        self._past: Iterator[_Told] = iter(())  # made as it is read
        self._made = 0
        self._goes_on = after is not None
        self._place, steps = divmod(after or 0, 1 << REACHED)
        self._begun, self._reached = steps & BEGUN, steps & ~BEGUN
        self._began = steps > 0  # surely; if the run was not delayed, whoever goes on has seen it begin
        self._number: int | None = None
        self._over = False

    async def __anext__(self) -> Event:
        if self._number is None:
            await self._catch_up()
        while True:
            while (told := await self._next()) is not None:
                event = self._seen(told)
                if event is not None:
                    return event
            if self._over:
                raise StopAsyncIteration
            if self.lost:
                self.lost = False
                await self._catch_up()
            else:
                await self.more()

    async def _catch_up(self) -> None:
        """What is recorded comes before what is heard meanwhile; what is told twice is left out in `_seen`."""
        if self._number is None:
            number = await self._find()
            self._number = number
            self._hub.add_of_run(self, number)
        self._past = _events_of(await self._look(self._place, self._reached))

    async def _next(self) -> _Told | None:
        """What is to be told next, seen or not; None if nothing is left."""
        told = next(self._past, None)
        if told is None:
            return self.behind.popleft() if self.behind else None
        self._made += 1
        if self._made % TURN == 0:
            await asyncio.sleep(0)
        return told

    def _seen(self, told: _Told) -> Event | None:
        """The event with its number; None if the reader has seen it."""
        event = told.event
        if event is None or told.place:
            if told.place <= self._place:
                return None
            self._place = told.place
            if event is None:
                self._reached = min(self._reached, told.position)
                return None
        elif told.position >= 0:
            if told.position < self._reached:
                return None
            self._reached = told.position + 1
        elif event.kind is EventKind.RUN_STARTED:
            if self._began or (self._goes_on and not told.delayed):
                return None
            self._began = True
            self._begun = BEGUN if told.delayed else 0
        elif event.kind is EventKind.RUN_ENDED:
            self._over = True
            self.behind.clear()
            self._past = iter(())
            if self._number is not None:
                self._hub.remove_of_run(self, self._number)
        return structs.replace(event, seq=(self._place << REACHED) + self._begun + self._reached)


class PastEvents(RunEvents):
    """The same, of a run that is only looked at: no more come than are recorded."""

    async def more(self) -> None:
        """Nothing more is heard."""
        raise StopAsyncIteration


class _FailedAttempt(msgspec.Struct, frozen=True, gc=False):
    seq: int
    attempt: AttemptRow
    name: str
    wake_at: int | None


def _events_of(past: Past) -> Iterator[_Told]:
    """The events of a run as far as they are recorded, in the order of their times, each counter in its own order."""
    run = past.run
    placed = _placed(past)
    placed.sort(key=attrgetter("seq"))
    waiting = deque(placed)
    told = _of_place(run, waiting.popleft()) if waiting else None
    if past.begun:
        started = _started(run)
        while started.delayed and told is not None and _came_early(told, started):
            yield told
            told = _of_place(run, waiting.popleft()) if waiting else None
        yield started
    cuts = [row for row in placed if isinstance(row, SignalRow) and row.name == CODE_ACCEPTED]
    for row in past.steps:
        reached = _reached(run, row)
        cut = max((one.seq for one in cuts if (one.position or 0) <= row.position), default=0)
        while told is not None and (told.place <= cut or _was_before(told, reached)):
            yield told
            told = _of_place(run, waiting.popleft()) if waiting else None
        yield reached
    while told is not None:
        yield told
        told = _of_place(run, waiting.popleft()) if waiting else None
    if past.progress is not None:
        yield _told(run, EventKind.PROGRESS, run.updated_at, progress=past.progress)
    if run.parked is not None:
        yield _told(run, EventKind.SUSPENDED, run.updated_at, reason=run.reason)
    if run.status in FINAL_RUNS:
        yield ended(run, run.status, run.ended_at or 0, run.error, run.reason)


def _placed(past: Past) -> list[StepRow | SignalRow | _FailedAttempt]:
    """What takes a place after the one that the reader has seen."""
    steps = {row.position: row for row in past.steps}
    ended = [row for row in past.steps if row.seq is not None and past.place < row.seq < past.until]
    placed: list[StepRow | SignalRow | _FailedAttempt] = [*ended]
    placed += [row for row in past.signals if past.place < row.seq < past.until]
    taken = {row.seq for row in placed}
    for attempt in past.attempts:
        if (
            past.place < attempt.seq < past.until
            and attempt.seq not in taken
            and attempt.status is AttemptStatus.FAILED
        ):
            step = None if attempt.name else steps.get(attempt.position)
            name = attempt.name or (step.name if step else "?")
            placed.append(_FailedAttempt(attempt.seq, attempt, name, _waking_after(attempt, step)))
    taken.update(attempt.seq for attempt in past.attempts)
    for row in ended:
        if row.error is not None and row.attempts == 1:
            seq = (row.seq or 0) - 1
            if seq > past.place and seq not in taken:
                placed.append(_FailedAttempt(seq, structs.replace(only_attempt(row), seq=seq), row.name, None))
    return placed


def _of_place(run: RunRow, row: StepRow | SignalRow | _FailedAttempt) -> _Told:
    if isinstance(row, StepRow):
        return _recorded(run, row)
    return _signalled(run, row) if isinstance(row, SignalRow) else _failed(run, row.name, row.attempt, row.wake_at)


def _waking_after(failed: AttemptRow, step: StepRow | None) -> int | None:
    """When the next attempt was to begin, if that is known: of a step only the latest such time is."""
    if step is None:
        return None
    waits = step.status in (StepStatus.SCHEDULED, StepStatus.PENDING)  # for the attempt after those that have begun
    return step.wake_at if failed.attempt == step.attempts - (not waits) else None


def _came_early(told: _Told, started: _Told) -> bool:
    """Whether it is a signal that was sent before the run began."""
    if told.event is None or started.event is None:
        return False
    return told.event.kind is EventKind.SIGNAL and told.event.at < started.event.at


def _was_before(told: _Told, reached: _Told) -> bool:
    """Whether it happened before a step was reached. Of one moment what is recorded of earlier steps is the cause."""
    if told.event is None or reached.event is None:
        return False  # steps are before it, but for those that were reached later
    at, then = told.event.at, reached.event.at
    return at < then or (at == then and told.near < reached.position)


def _told(
    run: RunRow, kind: EventKind, at: int, *, place: int = 0, position: int = -1, near: int = LAST, **facts: Any
) -> _Told:
    event = Event(seq=0, kind=kind, run_id=run.run_id, workflow=run.workflow, at=moment(at), **facts)
    return _Told(event, place, position, near)


def _started(run: RunRow) -> _Told:
    told = _told(run, EventKind.RUN_STARTED, max(run.starts_at, run.created_at))  # a fork is younger than its start
    return structs.replace(told, delayed=run.starts_at > run.created_at)


def _reached(run: RunRow, row: StepRow) -> _Told:
    facts: dict[str, Any] = {"position": row.position, "step_name": row.name, "step_kind": row.kind}
    kind = EventKind.STEP_STARTED
    if row.kind is StepKind.SLEEP and row.wake_at is not None:
        kind, facts["wake_at"] = EventKind.SLEEPING, moment(row.wake_at)
    elif row.kind is StepKind.SUSPEND:
        kind, facts["reason"] = EventKind.SUSPENDED, without_ordinal(row.name)  # as `Run.reason` has it
    return _told(run, kind, row.started_at or run.starts_at, **facts)


def _recorded(run: RunRow, row: StepRow) -> _Told:
    gate = row.kind is StepKind.SUSPEND
    return _told(
        run,
        EventKind.RESUMED if gate else EventKind.STEP_RECORDED,
        row.ended_at or 0,
        place=row.seq or 0,
        near=row.position,
        step_name=row.name,
        step_kind=row.kind,
        attempt=row.attempts or None,
        status=row.status.value,
        error=row.error,
    )


def _last_failed(run: RunRow, row: StepRow) -> _Told:
    """The attempt with which a step has failed for good; its place is the one before that of the outcome."""
    return _told(
        run,
        EventKind.ATTEMPT_FAILED,
        row.ended_at or 0,
        place=(row.seq or 0) - 1,
        near=row.position,
        step_name=row.name,
        attempt=row.attempts,
        error=row.error,
    )


def _failed(run: RunRow, step_name: str, row: AttemptRow, wake_at: int | None) -> _Told:
    return _told(
        run,
        EventKind.ATTEMPT_FAILED,
        row.ended_at,
        place=row.seq,
        near=row.position,
        step_name=step_name,
        attempt=row.attempt,
        error=row.error,
        wake_at=None if wake_at is None else moment(wake_at),
    )


def _set_aside(row: SignalRow) -> _Told:
    return _Told(None, row.seq, row.position or 0)


def _signalled(run: RunRow, row: SignalRow) -> _Told:
    if row.name == CODE_ACCEPTED:
        return _set_aside(row)
    near = LAST if row.position is None else row.position
    return _told(run, EventKind.SIGNAL, row.sent_at, place=row.seq, near=near, name=row.name)


def ended(run: RunRow, status: RunStatus, at: int, error: ErrorInfo | None, reason: str | None) -> _Told:
    """The end of a run."""
    return _told(run, EventKind.RUN_ENDED, at, status=status.value, error=error, reason=reason)


def _check_after(after: object) -> None:
    if after is None:
        return
    if not isinstance(after, int) or isinstance(after, bool):
        raise BadType(f"after={after!r}: use the seq of the last event seen, not {type(after).__name__}")
    if not 0 <= after <= MAX_INTEGER:
        raise BadValue(f"after={after!r}: use the seq of the last event seen")
