"""Errors of the disk: the n-th operation of a kind fails, once or from then on, in a life of the real engine.

SQLite is told what its unix VFS makes of an errno (os_unix.c): a write that meets ENOSPC is `SQLITE_FULL`, after a part
of it as well; any other errno, EIO and EROFS, is `SQLITE_IOERR_WRITE`. A sync, a truncation or a deletion is
`SQLITE_IOERR_FSYNC`, `_TRUNCATE` or `_DELETE` whatever the errno is. A file that cannot be made on a file system that
is mounted to be read only is `SQLITE_CANTOPEN`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from pikkupy import PikkuError
from tests.disk.contents import State, digest
from tests.disk.life import STOPPED, Life, Way, in_child, lives
from tests.disk.opening import Wrong, check_end, check_known, tables_in
from tests.disk.parallel import Result, in_forks
from tests.disk.recording import memory
from tests.disk.records import (
    Begun,
    Create,
    Kept,
    Log,
    Mark,
    Operation,
    Read,
    Record,
    Rows,
    Sync,
    Told,
    Truncate,
    Unlink,
    Write,
    read_log,
)
from tests.disk.shim import Fault
from tests.disk.workload import LIVES, ONCE, Caller, first_life

LIFTED_AFTER = 3  # refusals for want of space
LEFT = "the journal was closed before that passed"  # who leaves does not wait for space
ENDS = ("JournalError", "RunFailed", "RunCancelled")  # the others are of runs that had ended before
FRAME_HEAD = 24  # bytes, of a page in the log
READS_SHARE = 8  # for one read in so many of a limit there is a case
SHARE_TO_THE_END = 10  # of the files, one in so many is run to the end; and those with a step that may not begin again


Usual = list[Counter[str]]
"""What the first life tells, what the first two do, and so on."""


class Kind(NamedTuple):
    """What fails, and how SQLite is told of it."""

    name: str
    of: type[Operation | Read]
    code: int
    passes: bool = False  # the engine waits until it is over
    short: bool = False  # a part is written


KINDS = (
    Kind("write EIO", Write, sqlite3.SQLITE_IOERR_WRITE),
    Kind("write ENOSPC", Write, sqlite3.SQLITE_FULL, passes=True),
    Kind("write short, ENOSPC", Write, sqlite3.SQLITE_FULL, passes=True, short=True),
    Kind("write short, EIO", Write, sqlite3.SQLITE_IOERR_WRITE, short=True),
    Kind("sync EIO", Sync, sqlite3.SQLITE_IOERR_FSYNC),
    Kind("truncate EIO", Truncate, sqlite3.SQLITE_IOERR_TRUNCATE),
    Kind("unlink EIO", Unlink, sqlite3.SQLITE_IOERR_DELETE),
    Kind("create EROFS", Create, sqlite3.SQLITE_CANTOPEN),
    Kind("read EIO", Read, sqlite3.SQLITE_IOERR_READ),
)


class Case(NamedTuple):
    """One life: the n-th operation of that kind fails, or it and all that follow."""

    kind: Kind
    nth: int
    once: bool

    def __str__(self) -> str:
        return f"{self.kind.name}, number {self.nth}{'' if self.once else ' and all that follow'}"


class Striker:
    """Decides which operations fail."""

    def __init__(self, case: Case, log: Log) -> None:
        self._case = case
        self._log = log
        self._count = self.refused = 0

    def __call__(self, operation: Operation | Read) -> Fault | None:
        kind, nth, once = self._case
        if not isinstance(operation, kind.of):
            return None
        self._count += 1
        lifted = kind.passes and self.refused >= LIFTED_AFTER
        if self._count < nth or lifted or (once and self._count > nth):
            return None
        self.refused += 1
        if self.refused == 1:
            self._log.add(Mark("strikes", str(self._case)))
        written = len(operation.data) // 2 if kind.short and isinstance(operation, Write) else 0
        return Fault(kind.code, written)


def cases(longest: int | None, way: Way) -> list[Case]:
    """All of them, as long as there is something to fail; with a limit, the first so many of each kind, and a share of
    the reads."""
    counts = untouched(way) | {Read: reads(way)}
    return [
        Case(kind, nth, once)
        for kind in KINDS
        for nth in _numbers(kind, counts[kind.of], longest)
        for once in (True, False)
    ]


def _numbers(kind: Kind, count: int, longest: int | None) -> range:
    if kind.of is Read:  # thousands, most of them not in the opening
        return range(1, count + 1, 1 if longest is None else max(1, count * READS_SHARE // longest))
    return range(1, min(count, longest or count) + 1)


def untouched(way: Way) -> Counter[type[Any]]:
    """How many operations of each kind there are in lives that nothing disturbs."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        assert in_child(lambda: lives(Path(folder), way, LIVES)) == 0
        return Counter(type(record) for record in read_log(Path(folder) / "log"))


def reads(way: Way) -> int:
    """How many reads there are in them."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        path, count = Path(folder) / "log", 0

        def counted(operation: Operation | Read) -> None:
            nonlocal count
            count += isinstance(operation, Read)

        def live() -> int:
            code = lives(Path(folder), way, LIVES, strike=counted, reads=True)
            Log(path).add(Mark("reads", str(count)))
            return code

        assert in_child(live) == 0
        return int(
            next(record.note for record in read_log(path) if isinstance(record, Mark) and record.what == "reads")
        )


def suffer(case: Case, number: int, way: Way, usual: Usual | None = None) -> Result:
    """The life of that case, and what it leaves. `usual` is what lives without an error tell, where that is known."""
    result = Result()
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        try:
            known = usual or usually_told(way)
            _suffer(case, way, known, Path(folder), result, to_the_end=number % SHARE_TO_THE_END == 0)
        except (Wrong, AssertionError, PikkuError, sqlite3.Error) as wrong:
            result.wrong.append(f"{way}, {case}: {type(wrong).__name__}: {wrong}")
    return result


def _suffer(case: Case, way: Way, usual: Usual, folder: Path, result: Result, *, to_the_end: bool) -> None:
    def live() -> int:
        striker = Striker(case, Log(folder / "log"))
        reads = case.kind.of is Read
        return lives(folder, way, LIVES, strike=striker, reads=reads, enough=lambda: striker.refused > 0)

    code, records = in_child(live), read_log(folder / "log")
    if not any(map(_strikes, records)):
        raise Wrong(f"harness: the fault did not strike in a life that ended with {code}: {_told_last(records, case)}")
    result.counts["lives"] += 1
    result.counts[case.kind.name] += 1
    check_life(case, code, records, result, way)
    stopped = any(mark.what == "failed" for mark in records if isinstance(mark, Mark))
    if case.kind.of is Read and code == 0 and not stopped:  # a pause changes what rests, and so what is told again
        _check_told(records, usual)
    asyncio.run(_check_file(case, folder / "app.db", records, result, to_the_end=to_the_end))


def check_life(case: Case, code: int, records: Sequence[Record], result: Result, way: Way) -> None:
    """It went on untouched, or waited, or has stopped and told everybody. Raises `Wrong`."""
    marks = [record for record in records if isinstance(record, Mark)]
    opening = [mark.what for mark in marks if mark.what in {"opens", "opened", "strikes"}]
    while_opening = opening[opening.index("strikes") - 1] == "opens"
    failed = [place for place, record in enumerate(records) if isinstance(record, Mark) and record.what == "failed"]
    if any(mark.what == "elsewhere" for mark in marks):
        raise Wrong("elsewhere: SQLite has written a file of which no fault is tried")
    if code not in {0, STOPPED}:
        raise Wrong(f"foreign: the life has ended with {code}")
    is_told = case.kind.of is Read and code == STOPPED  # whoever asked for what could not be read
    if code == STOPPED and not failed and not while_opening and not is_told:
        raise Wrong("foreign: a JournalError, and the journal has not failed")
    if failed and case.kind.passes and LEFT not in str(records[failed[0]]):
        raise Wrong(f"pause: the journal has stopped: {records[failed[0]]}")
    if not case.kind.passes and _in_a_commit(records, way):
        result.counts["within a commit"] += 1
        if not failed:
            raise Wrong("unknown: the journal has not stopped, and nobody knows what is on the disk")
    if failed:
        _check_stop(records[failed[0] :])
        if failed[0] < next(place for place, record in enumerate(records) if _strikes(record)):
            raise Wrong("harness: it failed before the fault")
    told = "refused to open" if while_opening else "told who asked"
    result.counts["stopped" if failed else told if code == STOPPED else "went on"] += 1


def _told_last(records: Sequence[Record], case: Case) -> str:
    """For whoever has to find out why."""
    kinds = Counter(type(record).__name__ for record in records)
    marks = [record for record in records if isinstance(record, Mark)]
    return f"{kinds[case.kind.of.__name__]} of its kind among {len(records)} records, and at last {marks[-4:]}"


def _strikes(record: Record) -> bool:
    return isinstance(record, Mark) and record.what == "strikes"


def _in_a_commit(records: Sequence[Record], way: Way) -> bool:
    """Whether it strikes a transaction that is not whole in the log yet, or has to be synced there and is not.

    What comes after that is a checkpoint, which SQLite gives up without a word.
    """
    log: list[Write | Sync] | None = None  # of the transaction that is under way
    for record in takewhile(lambda record: not _strikes(record), records):
        if isinstance(record, Rows):
            log = None if record.committed else []
        elif log is not None and isinstance(record, Write | Sync) and record.file == "-wal":
            log.append(record)
    if log is None:
        return False
    end = next((place for place, record in enumerate(log) if isinstance(record, Write) and _ends(record)), len(log))
    return len(log[end:]) < (3 if way.durability == "full" else 2)  # its head, its page, a sync


def _ends(write: Write) -> bool:
    """Whether that is the head of the last frame of a transaction; sqlite.org/fileformat2.html#walformat."""
    return len(write.data) == FRAME_HEAD and write.data[4:8] != bytes(4)


def _check_told(records: Sequence[Record], usual: Usual) -> None:
    """A life that goes on tells all that it tells without an error, each as often: nothing waits for ever because of
    it."""
    expected, told = usual[_opened(records) - 1], _told(records)
    if told != expected:
        raise Wrong(f"waiting: not told: {[*(expected - told)][:2]}; told instead: {[*(told - expected)][:2]}")


def _opened(records: Sequence[Record]) -> int:
    return sum(isinstance(record, Mark) and record.what == "opens" for record in records)


def _told(records: Iterable[Record]) -> Counter[str]:
    tolds = (record for record in records if isinstance(record, Told))
    return Counter(f"{told.what} {told.run} {told.name} {told.value!s:.40}" for told in tolds)


def usually_told(way: Way) -> Usual:
    """What lives that nothing disturbs have told, by how many of them there were."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        assert in_child(lambda: lives(Path(folder), way, LIVES)) == 0
        records = read_log(Path(folder) / "log")
    ends = [place for place, record in enumerate(records) if isinstance(record, Mark) and record.what == "opens"][1:]
    return [_told(records[:end]) for end in (*ends, None)]


def _check_stop(after: Sequence[Record]) -> None:
    """Nothing begins any more, nothing is written, and nothing is told but what was on disk before.

    Where reads fail that is not known; what was told is compared with the file in any case.
    """
    kept = next((State(record.tables) for record in after if isinstance(record, Kept)), None)
    for record in after:
        if isinstance(record, Begun):
            raise Wrong(f"dispatch: {record} after the journal had failed")
        if isinstance(record, Told) and kept is not None and not kept.bears_out(record):
            raise Wrong(f"told: {record} after the journal had failed")
        if isinstance(record, Rows) and record.committed:
            raise Wrong("write: a commit after the journal had failed")
        if isinstance(record, Write | Truncate) and record.file == "":
            raise Wrong("write: the file was written after the journal had failed")
        if isinstance(record, Mark) and record.what == "waiter" and record.note not in ENDS:
            raise Wrong(f"waiter: who waited for a run got {record.note}")


async def _check_file(case: Case, db: Path, records: Sequence[Record], result: Result, *, to_the_end: bool) -> None:
    """It is what was committed last, or what was about to be, and has all that was told. Raises `Wrong`.

    What is committed can be looked at by reading alone, so where reads fail it is not known.
    """
    tables = await tables_in(db)
    if case.kind.of is not Read:
        _check_exact(digest(tables), records, result)
    check_known(records, State(tables))
    if to_the_end or State(tables).is_under_way(ONCE):
        result.counts["run to the end"] += 1
        await check_end(db, State(tables), records)


def _check_exact(found: str, records: Sequence[Record], result: Result) -> None:
    last, ghosts = "", set[str]()
    for record in records:
        if isinstance(record, Rows) and record.committed:  # after a commit that failed it is the one before
            last, ghosts = record.digest, set() if record.digest != last else ghosts
        elif isinstance(record, Rows):
            ghosts.add(record.digest)
    if found != last and found not in ghosts:
        raise Wrong("atomic: the file is neither what was committed last nor what was about to be")
    result.counts["exactly the last commit" if found == last else "a ghost: the commit that failed"] += 1


def loop(longest: int | None, jobs: int, way: Way) -> Result:
    """All cases, or those with an n of at most `longest`."""
    todo = cases(longest, way)
    usual = usually_told(way)
    what = f"errors of the disk, {way}"
    return in_forks(what, lambda item: suffer(todo[item], item, way, usual), range(len(todo)), jobs)


# A foreign lock


class Holder:
    """Another process, which can hold the lock of a database."""

    def __init__(self, db: Path) -> None:
        ask, self._ask = os.pipe()
        self._answer, answer = os.pipe()
        if os.fork() == 0:
            os.close(self._ask)
            try:
                _hold(db, ask, answer)
            finally:
                os._exit(0)
        os.close(ask)
        os.close(answer)

    def say(self, what: bytes) -> None:
        """`BEGIN IMMEDIATE` or `ROLLBACK`; returns when it is done."""
        os.write(self._ask, what + b"\n")
        assert os.read(self._answer, 1) == b"k"


def _hold(db: Path, ask: int, answer: int) -> None:
    connection: sqlite3.Connection | None = None
    with os.fdopen(ask) as lines:
        for line in lines:
            connection = connection or sqlite3.connect(db, isolation_level=None)
            connection.execute(line)
            os.write(answer, b"k")


class Locked:
    """A caller whose calls find the file locked by another process, until the engine says that it waits."""

    WRITING = ("start", "signal", "cancel", "approve", "resume", "retry", "fork")

    def __init__(self, caller: Caller, life: Life, holder: Holder) -> None:
        self._caller, self._life, self._holder = caller, life, holder
        self.pauses = 0

    def __getattr__(self, name: str) -> Any:
        called = getattr(self._caller, name)
        return self._locked(called) if name in self.WRITING else called

    def _locked(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def locked(*arguments: str) -> None:
            self._holder.say(b"BEGIN IMMEDIATE")
            task = asyncio.ensure_future(call(*arguments))
            while self._life.waiting is None:
                await asyncio.sleep(0)
            if task.done():
                raise Wrong(f"lock: {call.__name__} has returned while the file was locked")
            self._holder.say(b"ROLLBACK")
            await task
            self.pauses += 1

        return locked


def under_foreign_locks(folder: Path) -> int:
    """A life in which each call finds the file locked; how many did. Raises if one is told of an error."""

    def live() -> int:
        holder = Holder(folder / "app.db")
        life = Life(folder / "app.db", Log(folder / "log"))
        shim = life.prepare()

        async def script(caller: Caller) -> None:
            locked = Locked(caller, life, holder)
            await first_life(locked)  # type: ignore[arg-type]
            life.log.add(Mark("pauses", str(locked.pauses)))

        asyncio.run(life.live(script))
        assert shim.error is None
        return 0

    assert in_child(live) == 0
    marks = {record.what: record.note for record in read_log(folder / "log") if isinstance(record, Mark)}
    assert "failed" not in marks
    return int(marks["pauses"])


def without_space_for_ever(folder: Path) -> list[Record]:
    """A life that finds no space while it works, and is left while it waits for some."""

    def live() -> int:
        log = Log(folder / "log")
        full = False

        def strike(operation: Operation) -> Fault | None:
            return Fault(sqlite3.SQLITE_FULL) if full and isinstance(operation, Write) else None

        life = Life(folder / "app.db", log, strike=strike, watches_rows=True)
        life.prepare()

        async def script(caller: Caller) -> None:
            nonlocal full
            await caller.start("o1")
            full = True
            waits = asyncio.ensure_future(caller.start("o2"))
            waits.add_done_callback(lambda task: log.add(Mark("told", type(task.exception()).__name__)))
            while life.waiting is None:
                await asyncio.sleep(0)
            assert not waits.done()

        asyncio.run(life.live(script))
        return 0

    assert in_child(live) == 0
    return read_log(folder / "log")
