"""One life of the real engine in a process of its own, with the layer below SQLite that watches its files.

    python -m tests.disk.life FOLDER [--durability full|process] [--writer thread|loop] [--lives N] [--plain]

What is changed against an application: the WAL is checkpointed after fewer pages, pauses are short, time is virtual,
process id and host are fixed, and the event loop stands still while a database thread works. So the same life does the
same to the disk each time. `--plain`: without all that but the layer and the time.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pikkupy import JournalError
from pikkupy.config import Config
from pikkupy.engine import Engine
from pikkupy.engine.host import Surroundings
from pikkupy.store import Journal, committer, connection, owner
from pikkupy.store.connection import Connection, Told
from pikkupy.store.journal import Connect
from pikkupy.store.on_loop import LoopConnection
from pikkupy.store.plan import Op, Statement, statements
from pikkupy.store.threaded import ThreadedConnection
from pikkupy.store.writer import Writer
from pikkupy.testing import VirtualClock
from tests.disk.contents import Rows as Tables
from tests.disk.contents import digest, tables_of
from tests.disk.records import Kept, Log, Mark, Operation, Read, Record, Rows
from tests.disk.shim import Fault, Shim
from tests.disk.workload import LIVES, Caller, Script, World, pikku

CHECKPOINT_PAGES, PRODUCTION_PAGES = 30, connection.CHECKPOINT_PAGES
SYNCHRONOUS = connection._SYNCHRONOUS.copy()  # who looks at what lives have left changes it, and may be their parent
PAUSE_S = 0.001
BUSY_S = 0.005
LONGEST_S = 30.0
SEED = 1
STOPPED = 3  # exit code of a life that has got a `JournalError`

T = TypeVar("T")
Strike = Callable[[Operation | Read], Fault | None]


class Way(NamedTuple):
    """How lives are led: what is synced, who writes, and after how many pages there is a checkpoint."""

    durability: str
    writer: str = "thread"  # or "loop"
    checkpoint_pages: int = CHECKPOINT_PAGES

    @property
    def rarely_checkpointed(self) -> Way:
        """As in production: a whole life comes between two checkpoints."""
        return self._replace(checkpoint_pages=PRODUCTION_PAGES)

    def __str__(self) -> str:
        writer = ", loop" if self.writer == "loop" else ""
        rarely = ", rarely checkpointed" if self.checkpoint_pages > CHECKPOINT_PAGES else ""
        return f"{self.durability}{writer}{rarely}"


FULL, PROCESS, LOOP = Way("full"), Way("process"), Way("process", "loop")


class Recorder:
    """Writes down what SQLite does; `strike` is asked before each operation."""

    def __init__(self, log: Log, strike: Strike | None = None) -> None:
        self._log = log
        self._strike = strike

    def before(self, operation: Operation | Read) -> Fault | None:
        return None if self._strike is None else self._strike(operation)

    def after(self, operation: Operation) -> None:
        self._log.add(operation)

    def refused(self, operation: Operation, errno: int) -> None:
        self._log.add(Mark("system", f"{type(operation).__name__} of app.db{operation.file}: {os.strerror(errno)}"))

    def elsewhere(self) -> None:
        self._log.add(Mark("elsewhere"))


class Watched:
    """A connection that calls `committed` after work that has changed something, where that was done."""

    committed: Callable[[sqlite3.Connection], None] | None = None

    def watched(self, work: Callable[[sqlite3.Connection], T]) -> Callable[[sqlite3.Connection], T]:
        """The work, and the call."""

        def act(db: sqlite3.Connection) -> T:
            before = db.total_changes
            result = work(db)
            if self.committed is not None and db.total_changes != before:
                self.committed(db)
            return result

        return act


class OnLoop(Watched, LoopConnection):
    """The real connection of a loop that writes."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, called once."""
        return await super().run(self.watched(work))

    def send(self, work: Callable[[sqlite3.Connection], T], done: Told[T]) -> None:
        """Call `work` once, and tell of it."""
        super().send(self.watched(work), done)


class Steady(Watched, ThreadedConnection):
    """A real connection with its real thread; the loop stands still until its work is done."""

    def send(self, work: Callable[[sqlite3.Connection], T], done: Told[T]) -> None:
        """Call `work` once in the thread while nothing happens in the loop."""
        begins, watched = threading.Event(), self.watched(work)

        def act(db: sqlite3.Connection) -> T:
            begins.wait()
            return watched(db)

        super().send(act, done)
        back = self._flying[-1].back

        def hold() -> None:
            begins.set()
            with back:
                pass
            self._land()

        self._loop.call_soon(hold)


class Life:
    """One process. `watches_rows`: each commit, and what was about to be committed, is in the log. `reads`: what
    strikes is asked before these, too."""

    def __init__(
        self,
        db: Path,
        log: Log,
        way: Way = FULL,
        *,
        strike: Strike | None = None,
        watches_rows: bool = False,
        reads: bool = False,
        begins: datetime | None = None,
    ) -> None:
        self.db, self.log, self.way = db, log, way
        self._strike = strike
        self._watches_rows = watches_rows
        self._reads = reads
        self._journal: Journal | None = None
        self._kept: Tables = ()
        self.clock = VirtualClock(begins)
        self.rng = random.Random(SEED)

    @property
    def waiting(self) -> str | None:
        """Why the journal pauses."""
        return None if self._journal is None else self._journal.waiting

    def prepare(self, *, plain: bool = False) -> Shim:
        """Change this process for good."""
        logging.getLogger("pikkupy").setLevel(logging.CRITICAL + 1)
        connection._SYNCHRONOUS.update(SYNCHRONOUS)
        shim = Shim(str(self.db), Recorder(self.log, self._strike), SEED, reads=self._reads)
        if not plain:
            connection.CHECKPOINT_PAGES = self.way.checkpoint_pages  # type: ignore[misc]
            connection.BUSY_TIMEOUT_S = BUSY_S  # type: ignore[misc]
            committer.FIRST_PAUSE_S = committer.MAX_PAUSE_S = PAUSE_S  # type: ignore[misc]
            owner.os = _Nobody()  # type: ignore[assignment]
            owner.socket = _Nobody()  # type: ignore[assignment]
        shim.install()
        return shim

    def engine(self, *, plain: bool = False) -> Engine:
        """An engine of this life."""
        config = Config(
            durability=self.way.durability,  # type: ignore[arg-type]
            database_thread=self.way.writer == "thread",
            watchdog_after=None,
            show_running_after="1h",
            resident_runs=2,
            unload_after=0,
        )
        surroundings = Surroundings() if plain else Surroundings(self._open_journal, self.rng.randbytes)
        engine = Engine(self.db, pikku, World(self.log.add), self.clock, config, surroundings)
        failed = engine._journal_failed

        def journal_failed(failure: JournalError) -> None:
            self.log.add(Mark("failed", str(failure)))
            if self._watches_rows:
                self.log.add(Kept(self._kept))
            failed(failure)

        engine._journal_failed = journal_failed  # type: ignore[method-assign]
        return engine

    async def live(self, script: Script, *, plain: bool = False, dies: bool = False) -> None:
        """Open the file, do what the script says, and leave; or, if it `dies`, do not leave."""
        self.log.add(Mark("opens", self.clock.now().isoformat()))
        engine = self.engine(plain=plain)
        await engine.__aenter__()
        self.log.add(Mark("opened"))
        caller = Caller(engine, self.clock, self.log.add)
        try:
            await script(caller)
        finally:
            self.log.add(Mark("leaves", self.clock.now().isoformat()))
            if not dies:
                await engine.__aexit__(None, None, None)
                for error in await caller.errors():
                    self.log.add(Mark("waiter", error))
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    async def _open_journal(self, path: str, **options: Any) -> Journal:
        connect = _connecting(OnLoop if options["on_loop"] else Steady)
        journal = await Journal.open(path, **options, connect=connect)
        self._journal = journal
        connection = journal._writer
        if self._watches_rows and isinstance(connection, Watched):
            self._tell_before(journal._write_batch.__self__)  # type: ignore[attr-defined]
            connection.committed = self._committed
            await connection.run(self._committed)
        return journal

    def _committed(self, db: sqlite3.Connection) -> None:
        if not db.in_transaction:
            self._kept = tables_of(db)
            self.log.add(Rows(digest(self._kept), committed=True))

    def _tell_before(self, writer: Writer) -> None:
        """What a transaction will leave is in the log before it: its statements are tried, and taken back. Then it goes
        the way that it goes in production, which a failpoint would change."""
        transact = writer._transact

        def transacting(db: sqlite3.Connection, ops: list[Op]) -> None:
            if all(op.error is None for op in ops):
                with suppress(sqlite3.Error):  # the transaction itself will meet it, too
                    self._try(db, statements(ops, writer._epoch))
            transact(db, ops)

        writer._transact = transacting  # type: ignore[method-assign]

    def _try(self, db: sqlite3.Connection, planned: Iterable[Statement]) -> None:
        db.execute("BEGIN IMMEDIATE")
        try:
            for sql, parameters in planned:
                db.execute(sql, parameters)
            self.log.add(Rows(digest(tables_of(db)), committed=False))
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")


def _connecting(writer: type[OnLoop | Steady]) -> Connect:
    """Makes first the connection that writes, then the one that reads, which always has a thread."""
    kinds = iter((writer, Steady))

    async def connect(opener: Callable[[], sqlite3.Connection]) -> Connection:
        return await next(kinds).open(opener)

    return connect


class _Nobody:
    """`os` and `socket` with a process id and a host that are the same each time."""

    def getpid(self) -> int:
        return 4711

    def gethostname(self) -> str:
        return "nowhere"

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def in_child(act: Callable[[], int]) -> int:
    """Do it in a fork of this process, whose exit code it gives; negative for a signal.

    One that hangs is killed, and raises.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = act()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return wait_for(pid)


def wait_for(pid: int) -> int:
    """The exit code of a child."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)  # a child is waited for, and has a limit
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"a life hangs: it did not end within {LONGEST_S} s")


def lives(
    folder: Path,
    way: Way,
    scripts: Sequence[Script],
    *,
    strike: Strike | None = None,
    plain: bool = False,
    reads: bool = False,
    enough: Callable[[], bool] = bool,
) -> int:
    """Lead these lives in this process, one after another, each of which leaves, until it is enough.

    `STOPPED` after a `JournalError`, else 0. `reads`: these are struck, and nobody but the engine reads.
    """
    watches_rows = not (plain or reads)
    life = Life(folder / "app.db", Log(folder / "log"), way, strike=strike, watches_rows=watches_rows, reads=reads)
    shim = life.prepare(plain=plain)
    try:
        for script in scripts:
            if not enough():
                asyncio.run(life.live(script, plain=plain))
    except JournalError as error:
        life.log.add(Mark("stopped", str(error)))
        return STOPPED
    finally:
        if shim.error is not None:
            raise shim.error
    return 0


def last_moment(records: Sequence[Record]) -> datetime | None:
    """The virtual time at which the last life was left, or opened the file."""
    times = [record.note for record in records if isinstance(record, Mark) and record.what in {"opens", "leaves"}]
    return datetime.fromisoformat(times[-1]) if times else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--durability", choices=["full", "process"], default="full")
    parser.add_argument("--writer", choices=["thread", "loop"], default="thread")
    parser.add_argument("--lives", type=int, default=len(LIVES))
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    way = Way(options.durability, options.writer)
    return lives(options.folder, way, LIVES[: options.lives], plain=options.plain)


if __name__ == "__main__":
    sys.exit(main())
