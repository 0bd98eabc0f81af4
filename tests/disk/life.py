"""One life of the real engine in a process of its own, with the layer below SQLite that watches its files.

    python -m tests.disk.life FOLDER [--durability full|process] [--lives N] [--plain]

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
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pikkupy import JournalError
from pikkupy.config import Config
from pikkupy.engine import Engine
from pikkupy.engine.host import Outside
from pikkupy.store import Journal, committer, connection, owner
from pikkupy.store.connection import Connection, Told
from pikkupy.store.threaded import ThreadedConnection
from pikkupy.testing import VirtualClock
from tests.disk.contents import digest_of
from tests.disk.records import Log, Mark, Operation, Record, Rows
from tests.disk.shim import Fault, Shim
from tests.disk.workload import LIVES, Caller, Script, World, pikku

CHECKPOINT_PAGES = 30
PAUSE_S = 0.001
BUSY_S = 0.005
LONGEST_S = 30.0
SEED = 1
STOPPED = 3  # exit code of a life that has got a `JournalError`

T = TypeVar("T")
Strike = Callable[[Operation], Fault | None]


class Recorder:
    """Writes down what SQLite does; `strike` is asked before each operation."""

    def __init__(self, log: Log, strike: Strike | None = None) -> None:
        self._log = log
        self._strike = strike

    def before(self, operation: Operation) -> Fault | None:
        return None if self._strike is None else self._strike(operation)

    def after(self, operation: Operation) -> None:
        self._log.add(operation)


class Steady(ThreadedConnection):
    """A real connection with its real thread; the loop stands still until its work is done.

    After work that has changed something, `committed` is called in the thread.
    """

    committed: Callable[[sqlite3.Connection], None] | None = None

    def send(self, work: Callable[[sqlite3.Connection], T], done: Told[T]) -> None:
        """Call `work` once in the thread while nothing happens in the loop."""
        begins = threading.Event()

        def act(db: sqlite3.Connection) -> T:
            begins.wait()
            before = db.total_changes
            result = work(db)
            if self.committed is not None and db.total_changes != before:
                self.committed(db)
            return result

        super().send(act, done)
        back = self._flying[-1].back

        def hold() -> None:
            begins.set()
            with back:
                pass
            self._land()

        self._loop.call_soon(hold)


class Life:
    """One process. `watches_rows`: each commit, and what was about to be committed, is in the log."""

    def __init__(
        self,
        db: Path,
        log: Log,
        durability: str,
        *,
        strike: Strike | None = None,
        watches_rows: bool = False,
        begins: datetime | None = None,
    ) -> None:
        self.db, self.log, self.durability = db, log, durability
        self._strike = strike
        self._watches_rows = watches_rows
        self._journal: Journal | None = None
        self._last: sqlite3.Connection | None = None
        self.clock = VirtualClock(begins)
        self.rng = random.Random(SEED)

    @property
    def waiting(self) -> str | None:
        """Why the journal pauses."""
        return None if self._journal is None else self._journal.waiting

    def prepare(self, *, plain: bool = False) -> Shim:
        """Change this process for good."""
        logging.getLogger("pikkupy").setLevel(logging.CRITICAL + 1)
        shim = Shim(str(self.db), Recorder(self.log, self._strike), SEED)
        if not plain:
            connection.CHECKPOINT_PAGES = CHECKPOINT_PAGES  # type: ignore[misc]
            connection.BUSY_TIMEOUT_S = BUSY_S  # type: ignore[misc]
            committer.FIRST_PAUSE_S = committer.MAX_PAUSE_S = PAUSE_S  # type: ignore[misc]
            owner.os = _Nobody()  # type: ignore[assignment]
            owner.socket = _Nobody()  # type: ignore[assignment]
        shim.install()
        return shim

    def engine(self, *, plain: bool = False) -> Engine:
        """An engine of this life."""
        config = Config(
            durability=self.durability,  # type: ignore[arg-type]
            watchdog_after=None,
            show_running_after="1h",
            resident_runs=2,
            unload_after=0,
        )
        outside = Outside() if plain else Outside(self._open_journal, self.rng.randbytes)
        engine = Engine(self.db, pikku, World(self.log.add), self.clock, config, outside)
        failed = engine._journal_failed

        def journal_failed(failure: JournalError) -> None:
            self.log.add(Mark("failed", str(failure)))
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
        failpoint = self._passes if self._watches_rows else None  # else it writes as it does in production
        journal = await Journal.open(path, **options, connect=self._connect, failpoint=failpoint)
        self._journal = journal
        writer = journal._writer
        if self._watches_rows and isinstance(writer, Steady):
            writer.committed = self._committed
            await writer.run(self._committed)
        return journal

    async def _connect(self, opener: Callable[[], sqlite3.Connection]) -> Connection:
        return await Steady.open(opener)

    def _committed(self, db: sqlite3.Connection) -> None:
        self._last = db
        if not db.in_transaction:
            self.log.add(Rows(digest_of(db), committed=True))

    def _passes(self, place: str) -> None:
        if place == "before_commit" and self._last is not None:
            self.log.add(Rows(digest_of(self._last), committed=False))


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
    durability: str,
    scripts: Sequence[Script],
    *,
    strike: Strike | None = None,
    plain: bool = False,
    enough: Callable[[], bool] = bool,
) -> int:
    """Lead these lives in this process, one after another, each of which leaves, until it is enough.

    `STOPPED` after a `JournalError`, else 0.
    """
    life = Life(folder / "app.db", Log(folder / "log"), durability, strike=strike, watches_rows=not plain)
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
    parser.add_argument("--lives", type=int, default=len(LIVES))
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    return lives(options.folder, options.durability, LIVES[: options.lives], plain=options.plain)


if __name__ == "__main__":
    sys.exit(main())
