"""The journal: what an engine asks of the store."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from pikkupy.core.model import (
    AttemptRow,
    Change,
    Recorded,
    RunRow,
    RunStatus,
)
from pikkupy.errors import JournalError
from pikkupy.log import logger
from pikkupy.payloads import PayloadCodec
from pikkupy.store import reader
from pikkupy.store.committer import Committer, Done, Logical
from pikkupy.store.connection import (
    REFUSALS,
    Connection,
    Durability,
    Told,
    check_library,
    connect_memory,
    connect_reader,
    connect_writer,
    resolve,
)
from pikkupy.store.files import Found, inspect, lost_row, real_path, unreadable
from pikkupy.store.migrations import FORMAT, migrate
from pikkupy.store.named import Name
from pikkupy.store.on_loop import LoopConnection
from pikkupy.store.owner import Lock, Owned, empty_log, leave, take_over
from pikkupy.store.plan import op_of
from pikkupy.store.reading import Reading
from pikkupy.store.sealing import Sealer
from pikkupy.store.threaded import ThreadedConnection
from pikkupy.store.together import Answers, Together
from pikkupy.store.writer import Failpoint, Writer, Written

MEMORY = ":memory:"

Write = Callable[[sqlite3.Connection, Sequence[Sequence[Any]]], Written]
Connect = Callable[[Callable[[], sqlite3.Connection]], Awaitable[Connection]]
T = TypeVar("T")

_log = logger()

_open_ones: WeakSet[Journal] = WeakSet()


def _forked() -> None:
    for journal in list(_open_ones):
        journal.be_copy()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Journal(Reading):
    """One open journal and its only owner. Made by `open`; everything but `open` belongs to the loop's thread.

    Public attributes: `epoch`, raised by one at each open; `clean`, True if the last owner left in good order or the
    file is new; `next_number`, for the next run, to be counted on by who takes it; `on_stop`, called at once when it
    stops for good, in the middle of whatever is under way, and `on_failure`, called on the loop after that;
    `on_release`, called there when everybody was told of a commit; `is_copy`, True in a process that was
    forked from the owner's, where nothing of it is to be used; `damaged`, the errors of the runs that
    `recorded_runs` had to leave out, by number.
    """

    def __init__(
        self,
        path: str,
        real: str | None,
        owned: Owned,
        write: Write,
        writer: Connection,
        reading: Connection,
        lock: Lock | None,
        failpoint: Failpoint | None,
        codec: PayloadCodec | None,
    ) -> None:
        super().__init__(codec)
        self.epoch = owned.epoch
        self.clean = owned.clean
        self.next_number = owned.next_number
        self.on_stop: Callable[[], None] | None = None
        self.on_failure: Callable[[JournalError], None] | None = None
        self.on_release: Callable[[], None] | None = None
        self.damaged: dict[int, JournalError] = {}
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self._reader = reading
        self._lock = lock
        self._sealer = None if codec is None else Sealer(codec)
        self._write_batch = write
        self._runs = Together(self._find_runs)
        self._recorded = Together(self._find_recorded)
        self._committer = Committer(
            self._write, self._loop, self._tell_stop, self._tell_failure, self._tell_release, failpoint
        )
        self._name = None if real is None else Name(path, real, self._loop, self.fail)
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self.is_copy = False
        _open_ones.add(self)

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        durability: Durability,
        now_us: int,
        failpoint: Failpoint | None = None,
        codec: PayloadCodec | None = None,
        on_loop: bool = False,
        connect: Connect | None = None,
        image: bytes | None = None,
    ) -> Journal:
        """Open or make the journal at `path`, or one in memory at `:memory:`, and become its owner.

        Users' values go through `codec` on their way to the file and back; None: they are in it as they are.
        `on_loop`: what is written is written by the loop itself, not by a thread.
        Raises `JournalLocked`, `JournalFormatError` or `JournalError`; then, and when it is cancelled, nothing stays
        open and the lock is free. The rest is for tests and simulations: `failpoint` is called with the names of the
        places that a write passes, where SQLite works, and with `before_release` on the loop; `connect` makes
        both connections, and a journal in memory begins as `image`.
        """
        connects = (
            (LoopConnection.open if on_loop else ThreadedConnection.open, ThreadedConnection.open)
            if connect is None
            else (connect, connect)
        )
        opening = asyncio.ensure_future(_open(path, durability, now_us, failpoint, codec, connects, image))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await _give_up(opening)
            raise

    # Writing

    @property
    def busy(self) -> bool:
        """True while anything is queued or being written."""
        return self._committer.busy

    @property
    def failure(self) -> JournalError | None:
        """Why nothing is written any more, after a fail-stop."""
        return self._committer.failure

    @property
    def waiting(self) -> str | None:
        """Why writing pauses just now: the disk is full, or another program holds the file."""
        return self._committer.waiting

    def submit(self, changes: Sequence[Change], done: Done) -> None:
        """Queue one logical change, atomic in itself.

        `done` is called in the order of submission from a plain callback of the loop, after the commit: with None, or
        with the `JournalError`.
        """
        ops = tuple(map(op_of, changes)) if self._sealer is None else tuple(changes)
        self._committer.submit(Logical(ops, done))

    async def commit(self, changes: Sequence[Change]) -> None:
        """Write one logical change. Cancelling the waiter does not take it back. Raises `JournalError`."""
        written: asyncio.Future[None] = self._loop.create_future()
        self.submit(changes, partial(resolve, written, None))
        await written

    async def idle(self) -> None:
        """Return when nothing is queued and nothing is being written."""
        await self._committer.idle()

    async def settle(self) -> None:
        """Return when nothing is queued any more. From now on a write that would pause is a fail-stop: who leaves
        cannot wait for space on the disk, or for another program."""
        await self._committer.settle()

    def fail(self, failure: JournalError) -> None:
        """Fail-stop from outside: the owner does not trust its own state any more."""
        self._committer.fail(failure)

    # Reading, beside what `Reading` has. A value that the codec cannot decode is refused where the record goes on, to
    # code or to the file again.

    async def run(self, run_id: str) -> RunRow | None:
        """The run of that id. As every read, it raises `JournalError` naming what is damaged."""
        return await self._runs.get(run_id)

    async def has_deleted(self) -> bool:
        """Whether something of deleted runs may be left, which `DeletedSwept` takes away."""
        return await self._read(reader.has_deleted)

    async def unfinished_relative(self, number: int) -> tuple[str, RunStatus, bool] | None:
        """What keeps an ended run from being deleted: id and status of a run, and whether it is the parent."""
        return await self._read(lambda db: reader.unfinished_relative(db, number))

    async def attempt_rows(self, number: int) -> list[AttemptRow]:
        """The finished attempts of one run that have a row, by seq."""
        return await self._read(lambda db: self._opener.strict(db, reader.attempt_rows(db, number)))

    async def recorded(self, number: int) -> Recorded | None:
        """Everything that a replay of one run needs."""
        return await self._recorded.get(number)

    async def awake(self, *, after: int = 0, limit: int = 500) -> list[int]:
        """The next unfinished runs that do not wait in the file, of those with a number above `after`, by number."""
        return await self._read(lambda db: reader.awake(db, after, limit))

    async def workflows(self) -> list[str]:
        """The names of all workflows that there are runs of."""
        return await self._read(reader.workflows)

    async def waiting_of(
        self, workflow: str, status: RunStatus, *, after: int, limit: int
    ) -> tuple[list[int], int | None]:
        """Those of the next `limit` runs of one workflow in one status that wait in the file and are not parked.

        And the number of the last one that was looked at; None: there are no more.
        """
        return await self._read(lambda db: reader.waiting_of(db, workflow, status, after, limit))

    async def suspended_in_file(self, workflow: str, *, after: int, limit: int) -> list[int]:
        """The next runs of one workflow that were suspended because it was gone, and wait in the file, by number."""
        return await self._read(lambda db: reader.suspended_in_file(db, workflow, after, limit))

    async def recorded_runs(self, numbers: Sequence[int], *, are_there: bool = False) -> list[Recorded]:
        """Everything that is needed to bring these runs into memory, by number.

        One that is damaged, or cannot be decoded, does not take the others down: it is logged, kept in `damaged`, and
        left out. With `are_there` nobody can have deleted one of them: one that is gone is damaged as well.
        """
        if not numbers:
            return []
        runs, damaged = await self._read(lambda db: reader.recorded_runs(db, numbers, partial(self._opener.strict, db)))
        if are_there:
            gone = set(numbers) - {one.run.number for one in runs} - damaged.keys()
            damaged |= {number: lost_row(self._path, number) for number in gone}
        for number, error in damaged.items():
            _log.error("run_damaged", path=self._path, number=number, error=str(error))
            self.damaged[number] = error
        return runs

    async def run_by_number(self, number: int) -> RunRow | None:
        """The run of that number."""
        return await self._show(lambda db: reader.run_by_number(db, number))

    async def run_rows(self, numbers: Sequence[int]) -> list[RunRow]:
        """The runs of these numbers that are there, the newest first."""
        return await self._read(lambda db: self._opener.strict(db, reader.run_rows(db, numbers)))

    async def due(self, *, until: int, limit: int) -> list[int]:
        """The first `limit` of the runs that wait in the file and have to be in memory until then, by number.

        Who takes one has to write that it does not wait any more (`RunWakes`), or it is found again.
        """
        return await self._read(lambda db: reader.due(db, until, limit))

    async def next_waking(self) -> int | None:
        """When the first run that waits in the file has to be in memory; None: none has, by itself."""
        return await self._read(reader.next_waking)

    # Closing

    async def close(self, *, clean: bool = True) -> None:
        """Write what is queued and let the file go. Does not hang, and may be called again.

        Changes that still cannot be written are told so. `clean` marks the end as in good order, unless writing failed.
        """
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(clean))
        await asyncio.shield(self._closing)

    async def _close(self, clean: bool) -> None:
        if self.is_copy:
            return
        if self._name is not None:
            self._name.close()
        await self._committer.finish(JournalError(f"{self._path}: the journal is closed"))
        self._closed = True
        try:
            await self._close_connections(clean)
        finally:
            if self._lock is not None:
                self._lock.release()

    async def _close_connections(self, clean: bool) -> None:
        lost = self._name is not None and self._name.lost
        if self.failure is not None and not lost:
            # The reader goes last: a writer that is not the last connection leaves the WAL alone when it closes, and
            # after a failed sync nothing should be moved from there into the file before it is read anew.
            await _all_closed(self._writer, self._reader)
            return
        if self._reader is not self._writer:
            await _all_closed(self._reader)
        if clean or lost:
            try:
                # What stays in the log of a lost file, SQLite would take for that of the file which has its name now.
                await self._writer.run(empty_log if lost else partial(leave, epoch=self.epoch))
            except sqlite3.Error as error:
                _log.warning("journal_left_unclean", path=self._path, error=str(error))
        await _all_closed(self._writer)

    def be_copy(self) -> None:
        """This process was forked from the owner's: lock, connections and threads are the other's."""
        self.is_copy = True
        if self._name is not None:
            self._name.close()
        self._committer.abandon(
            JournalError(
                f"{self._path} belongs to the process that this one was forked from: nothing is written here. Start "
                "processes anew ('spawn', subprocess), or fork before an engine is opened"
            )
        )

    # Inside

    def _write(self, batch: Sequence[Sequence[Any]], done: Told[Written]) -> None:
        """`batch` has `Op`s, or changes if they have to be encoded."""
        sealer = self._sealer
        if sealer is None:
            self._writer.send(lambda db: self._write_batch(db, batch), done)
        else:
            self._writer.send(lambda db: self._write_batch(db, sealer.ops(db, batch)), done)

    def _find_runs(self, run_ids: Sequence[str], told: Told[Answers[str, RunRow]]) -> None:
        self._send(lambda db: reader.runs_by_id(db, run_ids, partial(self._opener.lenient, db)), told)

    def _find_recorded(self, numbers: Sequence[int], told: Told[Answers[int, Recorded]]) -> None:
        def read(db: sqlite3.Connection) -> Mapping[int, Recorded | JournalError]:
            intact, damaged = reader.recorded_runs(db, numbers, partial(self._opener.strict, db))
            return {**damaged, **{one.run.number: one for one in intact}}

        self._send(read, told)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        found: asyncio.Future[T] = self._loop.create_future()
        self._send(work, partial(resolve, found))
        return await found

    def _send(self, work: Callable[[sqlite3.Connection], T], told: Told[T]) -> None:
        if self._closed:
            raise JournalError(f"{self._path}: the journal is closed")
        self._reader.send(work, partial(self._told, told))

    def _told(self, told: Told[T], result: T | None, error: BaseException | None) -> None:
        if isinstance(error, REFUSALS):
            failure = JournalError(f"{self._path}: the journal cannot be read: {error}")
            failure.__cause__, error = error, failure
        told(result, error)

    def _tell_stop(self) -> None:
        if self.on_stop is not None:
            self.on_stop()

    def _tell_failure(self, failure: JournalError) -> None:
        if self.on_failure is not None:
            self.on_failure(failure)

    def _tell_release(self) -> None:
        if self.on_release is not None:
            self.on_release()


async def _open(
    path: str,
    durability: Durability,
    now_us: int,
    failpoint: Failpoint | None,
    codec: PayloadCodec | None,
    connects: tuple[Connect, Connect],
    image: bytes | None,
) -> Journal:
    check_library()
    connect_to_write, connect_to_read = connects
    real = None if path == MEMORY else real_path(path)
    async with AsyncExitStack() as undo:
        lock = None if real is None else Lock.take(path, real, now_us)
        if lock is not None:
            undo.callback(lock.release)
        try:
            writer = await connect_to_write(partial(_prepare, path, real, durability, now_us, image))
            undo.push_async_callback(writer.close)
            owned, write = await writer.run(partial(_own, path, now_us, failpoint))
            reading = writer if real is None else await connect_to_read(partial(connect_reader, real))
        except REFUSALS as error:
            raise unreadable(path, error) from error
        undo.pop_all()
    return Journal(path, real, owned, write, writer, reading, lock, failpoint, codec)


def _prepare(
    path: str, real: str | None, durability: Durability, now_us: int, image: bytes | None
) -> sqlite3.Connection:
    """In a thread: look first, then open to write and bring the tables up to date."""
    if real is None:
        found, db = Found(FORMAT if image else 0), connect_memory(image)
    else:
        found, db = inspect(path, real), connect_writer(real, durability)
    try:
        migrate(db, found.format, stamped=found.stamped, now_us=now_us)
    except BaseException:
        db.close()
        raise
    return db


def _own(path: str, now_us: int, failpoint: Failpoint | None, db: sqlite3.Connection) -> tuple[Owned, Write]:
    owned = take_over(db, now_us)
    writer = Writer(path, owned.epoch, failpoint)
    writer.prepare(db)
    return owned, writer.write


async def _give_up(opening: asyncio.Future[Journal]) -> None:
    """Wait for an opening that nobody wants any more, however often that is cancelled, and undo it."""
    await _ended(opening)
    if not opening.cancelled() and opening.exception() is None:
        journal = opening.result()
        await _ended(asyncio.ensure_future(journal.close(clean=journal.clean)))


async def _ended(future: asyncio.Future[Any]) -> None:
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            pass  # the caller of `_give_up` raises it


async def _all_closed(*connections: Connection) -> None:
    for connection in connections:
        try:
            await connection.close()
        except sqlite3.Error as error:
            _log.warning("journal_left_unclean", error=str(error))
