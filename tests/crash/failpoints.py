"""Named places at which a process can be killed, all in one table, and what makes a process pass them.

The engine knows nothing of the names. A journal tells by its own failpoint where in a write it is; what is written
there is seen here, and so are the other places, from the outside: functions of the engine are wrapped, in a process
that is there to be killed.
"""

from __future__ import annotations

import os
import signal
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any

from pikkupy.core import model
from pikkupy.core.model import RunStatus, StepKind, StepStatus
from pikkupy.engine import engine, host, residents
from pikkupy.engine.active import ActiveRun
from pikkupy.execution import Execution
from pikkupy.store import journal
from pikkupy.workers.processes import _Worker

CHECKPOINT_PAGES = 20  # so that the log is brought into the file in the middle of lives, too

PLACES = {
    "before_commit": "written, but not committed",
    "after_commit": "committed, and nobody knows",
    "before_release": "committed, and about to be told",
}

# What one logical change of a transaction is, by its rows.
CHANGES = {
    "start": "A run is started",
    "start.delayed": "A run is started that begins later",
    "fork": "A run begins with the history of another one",
    "child.started": "A child run is started, with the step that waits for it",
    "child.outcome": "A step has the outcome of its child run",
    "outcome": "A step has succeeded",
    "outcome.failed": "A step has failed for good",
    "attempt.begun": "An attempt that must not begin twice, or has lasted a moment, has begun",
    "retry.scheduled": "An attempt has failed, and the next one has a time",
    "cut_off.counted": "A start-up has found an attempt that was cut off",
    "step.dropped": "The workflow does not wait for a step any more",
    "sleep.begun": "A sleep has its deadline",
    "sleep.ended": "A sleep is over",
    "timer.fired": "A timer of the run's own event loop has fired",
    "chunk": "A step has emitted",
    "progress": "A run says how far it is",
    "change.passed": "A run has passed changed code the new way",
    "wait.begun": "A run waits for a signal",
    "wait.expired": "No signal came in time",
    "signal.sent": "A signal has come that nobody waits for yet",
    "signal.taken": "A step has its signal",
    "gate.shut": "A run is held at a gate",
    "gate.opened": "A gate is opened",
    "cancel": "A run is cancelled",
    "end.completed": "A run has completed",
    "end.failed": "A run has failed",
    "retry_run": "A failed run goes on from its failed step",
    "park": "A run does not fit its code",
    "unpark": "A run that did not fit goes on",
    "code.accepted": "Steps that do not fit the code are set aside",
    "aside.taken": "A step that was set aside has a place again",
    "child.moved": "A child run has another step that waits for it",
    "rest": "A run waits in the file",
    "wake": "A run does not wait in the file any more",
    "delete": "A run is deleted",
    "sweep": "What deleted runs have left goes",
}

ELSEWHERE = {
    "write.before_begin": "A transaction is about to begin",
    "write.after_begin": "A transaction has begun, and nothing is written",
    "open.before_lock": "The lock of the file is not taken yet",
    "open.after_lock": "The lock is taken, and the file not looked at",
    "open.taken_over": "The file has a new owner",
    "migrate.before": "The tables are not made yet",
    "migrate.after": "The tables are made",
    "recover.begun": "What is unfinished is about to be read",
    "recover.loaded": "Unfinished runs were read, and are not in memory yet",
    "recover.run_started": "One of them is about to be replayed",
    "replay.step": "A replay has been given one recorded outcome",
    "recover.done": "All unfinished runs are in memory",
    "effect.before": "The body of a step has begun",
    "effect.after": "The body of a step has ended",
    "outcome.delivered": "A run in memory is about to see an outcome",
    "call.before_told": "A call of the engine has returned, and the caller has not acted on it",
    "wake.loading": "A run is about to be brought into memory from the file",
    "process.asked": "A worker process is about to be asked",
    "process.answered": "A worker process has answered",
    "close.begun": "The engine is about to be left",
    "close.drained": "Nothing is under way any more, and the file is still open",
    "close.marked": "The file says that it was left in good order",
    "checkpoint.before": "The log is about to be brought into the file",
    "checkpoint.after": "The log is in the file",
    "close.unlocked": "The lock is free again",
}

FAILPOINTS = {
    f"{change}.{place}": f"{what}: {when}." for change, what in CHANGES.items() for place, when in PLACES.items()
} | {name: f"{what}." for name, what in ELSEWHERE.items()}
"""Every name, with what is true there."""


class _Process:
    """This process: what it has passed, and where it is to be killed."""

    reach: Callable[[str], object] | None = None


def reach(name: str) -> None:
    """Pass a failpoint."""
    if _Process.reach is not None:
        _Process.reach(name)


def install(kill_at: str | None, nth: int, *, in_writes: bool) -> Counter[str]:
    """Let this process pass all failpoints, and kill itself when it passes one the `nth` time; what it has passed.

    Not `in_writes`: it passes those within a write no more, and writes as in production, where one statement needs no
    BEGIN and no COMMIT.
    """
    passed: Counter[str] = Counter()

    def passing(name: str) -> None:
        assert name in FAILPOINTS, f"{name} is in no table"
        passed[name] += 1
        if name == kill_at and passed[name] == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    _Process.reach = passing
    _wrap_engine(in_writes)
    return passed


# Writes


class _Writes:
    """Names what each transaction of a journal holds. Changes are told in the order in which they were submitted."""

    def __init__(self, opened: Any) -> None:
        self._submit, self._write = opened.submit, opened._write_batch
        self._queue: deque[list[str]] = deque()
        self._current: list[str] = []
        opened.submit, opened._write_batch = self.submit, self.write

    def submit(self, changes: Sequence[Any], done: Callable[[Exception | None], None]) -> None:
        self._queue.append(names_of(changes))
        self._submit(changes, partial(self._told, done))

    def _told(self, done: Callable[[Exception | None], None], error: Exception | None) -> None:
        self._queue.popleft()
        done(error)

    def write(self, db: Any, batch: Sequence[Any]) -> Any:
        names = [self._queue[number] for number in range(len(batch))]
        self._current = sorted({name for change in names for name in change})
        return self._write(db, batch)

    def at(self, place: str) -> None:
        """The journal's own failpoint."""
        if place in PLACES:
            for name in self._current:
                reach(f"{name}.{place}")
        else:
            reach(f"write.{place}")


def names_of(changes: Sequence[Any]) -> list[str]:
    """What one logical change is."""
    names = dict.fromkeys(name for change in changes for name in _names_of(change))
    return ["fork"] if "fork" in names else list(names)


def _names_of(change: Any) -> Iterator[str]:
    match change:
        case model.RunRow(forked_from=str()):
            yield "fork"
        case model.RunRow(parent=int()):
            yield "child.started"
        case model.RunRow():
            yield "start" if change.starts_at == change.created_at else "start.delayed"
        case model.StepRow():
            yield from _names_of_step(change)
        case model.TimerRow():
            yield "timer.fired"
        case model.SignalRow(name=model.CODE_ACCEPTED) | model.StepsSetAside() | model.StepSetAside():
            yield "code.accepted"
        case model.SignalRow(position=None):
            yield "signal.sent"
        case model.SignalRow() | model.SignalTaken():
            yield "signal.taken"
        case model.ChunkRow():
            yield "chunk"
        case model.CodeChange():
            yield "change.passed"
        case model.RunMove():
            yield _name_of_move(change)
        case model.StepsCancelled():
            yield "cancel"
        case model.RunWakes():
            yield "wake" if change.wakes_at is None else "rest"
        case model.RunProgress():
            yield "progress"
        case model.StepReopened():
            yield "retry_run"
        case model.SetAsideTaken():
            yield "aside.taken"
        case model.ChildLinked():
            yield "child.moved"
        case model.RunDeleted():
            yield "delete"
        case model.DeletedSwept():
            yield "sweep"


def _names_of_step(row: Any) -> Iterator[str]:
    match row.kind, row.status:
        case _, StepStatus.CANCELLED:
            yield "step.dropped"
        case StepKind.SLEEP, StepStatus.SUCCEEDED:
            yield "sleep.ended"
        case StepKind.SLEEP, _:
            yield "sleep.begun"
        case StepKind.SIGNAL, StepStatus.FAILED:
            yield "wait.expired"
        case StepKind.SIGNAL, StepStatus.PENDING | StepStatus.SCHEDULED:
            yield "wait.begun"
        case StepKind.SUSPEND, StepStatus.SUCCEEDED:
            yield "gate.opened"
        case StepKind.WORKFLOW, StepStatus.SUCCEEDED | StepStatus.FAILED:
            yield "child.outcome"
        case StepKind.FUNCTION | StepKind.INLINE, StepStatus.SUCCEEDED:
            yield "outcome"
        case StepKind.FUNCTION | StepKind.INLINE, StepStatus.FAILED:
            yield "outcome.failed"
        case StepKind.FUNCTION | StepKind.INLINE, StepStatus.SCHEDULED if not row.cut_offs:
            yield "retry.scheduled"
        case StepKind.FUNCTION | StepKind.INLINE, _:
            yield "cut_off.counted" if row.cut_offs else "attempt.begun"


def _name_of_move(move: Any) -> str:
    match move.status, move.before:
        case RunStatus.SUSPENDED, _:
            return "gate.shut" if move.parked is None else "park"
        case RunStatus.RUNNING, RunStatus.FAILED:
            return "retry_run"
        case RunStatus.RUNNING, _:
            return "unpark"
        case RunStatus.CANCELLED, _:
            return "cancel"
    return f"end.{move.status}"


# Everything else


def _wrap_engine(in_writes: bool) -> None:
    _wrap_opening()
    if in_writes:
        _wrap_writes()
    _around(residents.Residents, "recover", "recover.begun", "recover.done")
    _around(residents.Residents, "bring", "wake.loading", None)
    _around(residents.Residents, "_adopt", "recover.run_started", None)
    _around(ActiveRun, "deliver", "outcome.delivered", None)
    _around(engine.Engine, "_leave", "close.begun", None)
    _around(host.Host, "close", "close.drained", None)
    _around(_Worker, "ask", "process.asked", "process.answered")
    _wrap_replay()


def _wrap_opening() -> None:
    """From the lock to the last connection that is closed."""
    _around(journal.Lock, "release", None, "close.unlocked")
    take, migrate, take_over, leave = journal.Lock.take, journal.migrate, journal.take_over, journal.leave
    connect_writer = journal.connect_writer

    def taking(*arguments: Any) -> Any:
        reach("open.before_lock")
        lock = take(*arguments)
        reach("open.after_lock")
        return lock

    def migrating(db: Any, found: int, **options: Any) -> None:
        if found < journal.FORMAT:
            reach("migrate.before")
        migrate(db, found, **options)
        if found < journal.FORMAT:
            reach("migrate.after")

    def taking_over(*arguments: Any) -> Any:
        owned = take_over(*arguments)
        reach("open.taken_over")
        return owned

    def connecting(*arguments: Any) -> Any:
        db = connect_writer(*arguments)
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}").fetchall()
        return db

    journal.connect_writer = connecting
    journal.Lock.take, journal.migrate, journal.take_over = taking, migrating, taking_over
    journal.leave = lambda db, epoch: leave(_Checkpointing(db), epoch)


def _wrap_writes() -> None:
    """What a journal tells of its writes, and what it reads."""

    class Named(journal.Journal):  # type: ignore[misc, name-defined]
        """A journal that passes failpoints."""

        @classmethod
        async def open(cls, path: str, **options: Any) -> Any:
            writes: list[_Writes] = []
            opened = await journal.Journal.open(path, **options, failpoint=lambda place: writes[0].at(place))
            writes.append(_Writes(opened))
            _tell_of_reads(opened)
            return opened

    host.Journal = Named


def _tell_of_reads(opened: Any) -> None:
    recorded_runs = opened.recorded_runs

    async def reading(numbers: Sequence[int], **options: Any) -> Any:
        found = await recorded_runs(numbers, **options)
        if found:
            reach("recover.loaded")
        return found

    opened.recorded_runs = reading


class _Checkpointing:
    """The connection of a journal that is left."""

    def __init__(self, db: Any) -> None:
        self._db = db

    def execute(self, sql: str, *parameters: Any) -> Any:
        if "wal_checkpoint" not in sql:
            return self._db.execute(sql, *parameters)
        reach("close.marked")
        reach("checkpoint.before")
        result = self._db.execute(sql, *parameters)
        reach("checkpoint.after")
        return result


def _wrap_replay() -> None:
    apply = Execution._apply

    def applying(self: Any, row: Any) -> None:
        apply(self, row)
        if self.replaying:
            reach("replay.step")

    Execution._apply = applying  # type: ignore[method-assign]


def _around(owner: Any, name: str, before: str | None, after: str | None) -> None:
    """Let calls of a method pass failpoints."""
    method = getattr(owner, name)

    @wraps(method)
    def calling(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            reach(before)
        result = method(*arguments, **options)
        if after is None:
            return result
        if isinstance(result, Awaitable):
            return _then(result, after)
        reach(after)
        return result

    setattr(owner, name, calling)


async def _then(result: Awaitable[Any], after: str) -> Any:
    value = await result
    reach(after)
    return value
