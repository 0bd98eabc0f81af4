"""Opening a file with the engine's own recovery, in this thread: no syncs, no waiting."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sqlite3
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pikkupy.config import Config
from pikkupy.core.model import RunFilter, RunStatus
from pikkupy.engine import Engine
from pikkupy.engine.host import Surroundings
from pikkupy.engine.views import Step
from pikkupy.store import Journal, connection
from pikkupy.store.connection import Connection
from pikkupy.testing import VirtualClock
from tests.disk.contents import JOURNAL, Key, Rows, State, standing, tables_of
from tests.disk.contents import Journal as JournalRow
from tests.disk.records import Begun, Record, Told
from tests.disk.workload import ONCE, RESULTS, Caller, World, finish, pikku

T = TypeVar("T")

NOW_US = VirtualClock().now_us()
LATER = datetime(2031, 6, 1, tzinfo=UTC)
ALL_RUNS = "SELECT number, run_id FROM pikkupy_runs ORDER BY number"


class Wrong(AssertionError):
    """A promise was broken. What stands before the colon is its name."""


class Inline:
    """A `Connection` without a thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`."""
        return work(self._db)

    def send(
        self, work: Callable[[sqlite3.Connection], T], done: Callable[[T | None, Exception | None], object]
    ) -> None:
        """Do it now, and tell of it in the next turn of the loop."""
        result, failure = None, None
        try:
            result = work(self._db)
        except Exception as error:
            failure = error
        asyncio.get_running_loop().call_soon(done, result, failure)

    async def close(self) -> None:
        """Close the connection."""
        self._db.close()


def one_connection() -> Callable[[Callable[[], sqlite3.Connection]], Any]:
    """What a journal is opened with here: the connection that it writes with reads as well, which halves the time."""
    made: list[Inline] = []

    async def connect(opener: Callable[[], sqlite3.Connection]) -> Connection:
        if not made:
            made.append(Inline(opener()))
        return made[0]

    return connect


def quiet_process() -> None:
    """No log, and no syncs in `process` durability: nothing here depends on the disk below."""
    logging.getLogger("pikkupy").setLevel(logging.CRITICAL + 1)
    connection._SYNCHRONOUS["process"] = 0


async def open_journal(path: str, **options: Any) -> Journal:
    """What an engine opens here instead of `Journal.open`."""
    return await Journal.open(path, **options, connect=one_connection())


async def key_of(journal: Journal, now_us: int) -> Key:
    """What was in the file before it was opened; a file that was made anew at that time had nothing."""
    tables, row = await journal._writer.run(lambda db: (tables_of(db), db.execute(JOURNAL).fetchone()))
    before = JournalRow(*row)._replace(epoch=journal.epoch - 1, clean=int(journal.clean))
    if before.epoch == 0 and before.created_at == now_us:
        return (), None
    return tables, before


async def check_pages(journal: Journal) -> None:
    """SQLite's own check of everything. Raises `Wrong`."""
    found = await journal._writer.run(lambda db: db.execute("PRAGMA integrity_check").fetchall())
    if found != [("ok",)]:
        raise Wrong(f"integrity: {found[:3]}")


async def read_all(journal: Journal, also: Collection[int] = ()) -> None:
    """Every row through the product's reader, which compares checksums; of runs with these numbers `also`.

    Raises `JournalError` for damage.
    """
    numbers = {number for number, _ in await journal._writer.run(lambda db: db.execute(ALL_RUNS).fetchall())}
    for number in sorted(numbers | set(also)):
        await journal.run_by_number(number)
        await journal.attempts(number)
        await journal.chunks(number, after=-1)
        await journal.recorded(number)


async def list_all(journal: Journal) -> None:
    """The runs as they are listed, by number and by status. Raises `JournalError` for damage."""
    await journal.page(RunFilter(), limit=500)
    for status in RunStatus:
        await journal.page(RunFilter(statuses=(status,)), limit=500)


async def tables_in(db: Path) -> Rows:
    """All rows of a file that a life has left: opened, checked and read to the end by the product's own code. Raises
    `Wrong`."""
    quiet_process()
    journal = await open_journal(str(db), durability="process", now_us=NOW_US)
    try:
        await check_pages(journal)
        await read_all(journal)
        return await journal._writer.run(tables_of)
    finally:
        await journal.close(clean=False)


async def check_end(db: Path, state: State, before: Iterable[Record]) -> None:
    """Let the engine go on with the file to the end of every run, a year later. Raises `Wrong`.

    Steps that have succeeded in `state`, which is what is recorded, are not executed again, runs that have ended stay
    as they are, and the results of all are those that there must be. Steps that may begin once and have begun are not
    begun again. What `before` says that workflows have got, they get again.
    """
    records: list[Record] = []
    clock = VirtualClock(LATER)
    config = Config(durability="process", watchdog_after=None, show_running_after="1h")
    surroundings = Surroundings(open_journal, random.Random(1).randbytes)
    async with Engine(db, pikku, World(records.append), clock, config, surroundings) as engine:
        await finish(Caller(engine, clock, records.append))
        for run in (await engine.list_runs(limit=500)).runs:
            _check_run(run.id, str(run.status), run.output, state.runs)
            for step in await engine.steps(run.id):
                if step.name in ONCE:
                    _check_once(run.id, step, state)
    for begun in records:
        if isinstance(begun, Begun):
            _check_begun(begun, state)
    earlier = [told for told in standing(before, state) if told.what == "seen" and state.bears_out(told)]
    check_values([*earlier, *records])


def _check_run(run_id: str, status: str, output: object, before: dict[str, str]) -> None:
    was = before.get(run_id)
    if was in {"completed", "cancelled"} and status != was:
        raise Wrong(f"end: run {run_id!r} was {was}, and is {status}")
    if run_id in RESULTS and status == "completed" and output != RESULTS[run_id]:
        raise Wrong(f"value: run {run_id!r} has the result {output!r}")
    if run_id in RESULTS and run_id != "endless" and status != "completed":
        raise Wrong(f"end: run {run_id!r} is {status}")


def _check_begun(begun: Begun, before: State) -> None:
    place = (begun.run, begun.step)
    if before.steps.get(place) == "succeeded":
        raise Wrong(f"once: step {begun.step!r} of run {begun.run!r} was recorded, and runs again")
    if begun.step in ONCE and before.attempts.get(place, 0) >= begun.attempt:
        raise Wrong(f"once: step {begun.step!r} of run {begun.run!r} had begun, and begins again")


def _check_once(run_id: str, step: Step, before: State) -> None:
    """One that was under way has been cut off; else it is as it was, or has ended well."""
    was = before.steps.get((run_id, step.name), "pending")
    wanted = {"running": "failed", "pending": "succeeded"}.get(was, was)
    if step.status != wanted:
        raise Wrong(f"once: step {step.name!r} of run {run_id!r} was {was}, and is {step.status}")
    cut_off = step.error is not None and step.error.type.endswith(".Interrupted")
    if not (cut_off if wanted == "failed" else step.output == step.name):
        raise Wrong(f"once: step {step.name!r} of run {run_id!r} has come to {step.output!r}, {step.error!r:.200}")


def check_known(records: Iterable[Record], state: State) -> None:
    """What was told is so in `state`, which is what a kill or an error has left. Raises `Wrong`.

    Steps that may begin once have been told that they are in the file as begun, when they begin.
    """
    for told in standing(records, state):
        if state.bears_out(told):
            continue
        if told.what == "begun":
            raise Wrong(f"once: step {told.name!r} of run {told.run!r} has begun, and the file does not know")
        raise Wrong(f"lost: {told} is not in the file")


def check_values(records: Iterable[Record]) -> None:
    """A workflow gets from a step what it got before."""
    seen: dict[tuple[str, str], object] = {}
    for told in records:
        if not isinstance(told, Told) or told.what != "seen" or told.value is None:
            continue
        if seen.setdefault((told.run, told.name), told.value) != told.value:
            raise Wrong(f"value: run {told.run!r} got {told.value} from {told.name!r}")


def unlink_all(db: Path) -> None:
    """Take away the files of a database."""
    for suffix in ("", "-wal", "-shm", "-journal", ".lock", ".owner"):
        try:
            os.unlink(f"{db}{suffix}")  # noqa: PTH108 - many thousands a minute
        except FileNotFoundError:
            pass
