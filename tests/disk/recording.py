"""A life of the canonical workload as a log, with what every commit of it left."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.disk.contents import Key, State, journal_of, tables_of
from tests.disk.images import Image, Moment, image, moments
from tests.disk.life import Life, Way, in_child, last_moment
from tests.disk.records import OPERATIONS, Log, Record, Told, Write, read_log
from tests.disk.workload import LIVES, ONCE


class Commit(NamedTuple):
    """What was in the file from that record of the log on."""

    record: int
    key: Key
    files: Image


class Recording:
    """A log of lives that were led in one way; the commits in it, as a disk that loses nothing would have shown them;
    and what was told when."""

    def __init__(self, records: list[Record], way: Way) -> None:
        self.records, self.way = records, way
        self.moments = moments(records)
        self.commits = list(_commits(self.moments))
        self._begins = [commit.record for commit in self.commits]
        self.states = [State(commit.key[0]) for commit in self.commits]
        self.indices: dict[Key, int] = {commit.key: index for index, commit in enumerate(self.commits)}
        self._needed = self._needed_by_told()
        self.under_way = {index for index, state in enumerate(self.states) if state.is_under_way(ONCE)}
        """The commits with a step that has begun and may not begin again."""
        self._told_at = [at for at, _ in self._needed]
        self._kept = list(self._kept_by_checkpoints())
        self._kept_at = [at for at, _ in self._kept]

    def committed_at(self, record: int) -> int:
        """The number of the last commit that was whole by then."""
        return bisect_right(self._begins, record) - 1

    def until(self, index: int) -> list[Record]:
        """The records of the time before the commit after that one."""
        return self.records[: self._begins[index + 1] - 1 if index + 1 < len(self._begins) else None]

    def needed_at(self, record: int) -> int:
        """The number of the first commit that bears out all that was told by then."""
        found = bisect_right(self._told_at, record) - 1
        return self._needed[found][1] if found >= 0 else 0

    def kept_at(self, record: int) -> int:
        """The number of the commit that the last checkpoint which was over by then has brought into the file itself."""
        found = bisect_right(self._kept_at, record) - 1
        return self._kept[found][1] if found >= 0 else 0

    def _kept_by_checkpoints(self) -> Iterator[tuple[int, int]]:
        """A checkpoint is a row of writes to the file itself. It is over with a sync of it, or when another file is
        written: without the sync it is one that keeps nothing, and that is what is looked for."""
        begun: int | None = None
        for number, record in enumerate(self.records, 1):
            if isinstance(record, Write) and record.file == "":
                begun = begun or number
            elif begun is not None and isinstance(record, OPERATIONS):
                yield number, self.committed_at(begun)
                begun = None

    def _needed_by_told(self) -> list[tuple[int, int]]:
        needed, found = 0, []
        for number, record in enumerate(self.records, 1):
            if isinstance(record, Told):
                needed = max(needed, self._first(record, number))
                found.append((number, needed))
        return found

    def _first(self, told: Told, record: int) -> int:
        """The commit from which on it is borne out until then; if there is none, the first one that does so later."""
        last = self.committed_at(record)
        for index in range(last, -1, -1):
            if self.states[index].bears_out(told):
                while index and self.states[index - 1].bears_out(told):
                    index -= 1
                return index
        later = (index for index in range(last, len(self.states)) if self.states[index].bears_out(told))
        return next(later, len(self.states))


def _commits(found: list[Moment]) -> Iterator[Commit]:
    """Reads the files as a kill at each moment would leave them, where they can have changed what is read."""
    last: Key | None = None
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        for moment in found:
            files = image(moment, "all", None)  # type: ignore[arg-type]
            key = _key(Path(folder), files)
            if key != last:
                yield Commit(moment.record, key, files)
                last = key


def _key(folder: Path, files: Image) -> Key:
    db = write_image(folder / "read", files)
    try:
        with closing(sqlite3.connect(db, isolation_level=None)) as connection:
            return tables_of(connection), journal_of(connection)
    finally:
        shutil.rmtree(db.parent)


def write_image(folder: Path, files: Image) -> Path:
    """The image as files in a new folder; the path of the database."""
    folder.mkdir()
    db = folder / "app.db"
    for name, data in files:
        Path(f"{db}{name}").write_bytes(data)
    return db


def record(folder: Path, way: Way, spoil: Callable[[Life], Any] | None = None) -> Recording:
    """Lead the lives of the workload: the first ends with a kill, the others in good order.

    `spoil` makes something wrong in the process of each life, before it begins.
    """
    db, path = folder / "app.db", folder / "log"

    def live(first: bool) -> int:
        life = Life(db, Log(path), way, begins=last_moment(read_log(path)))
        shim = life.prepare()
        if spoil is not None:
            spoil(life)
        scripts = LIVES[:1] if first else LIVES[1:]
        for script in scripts:
            asyncio.run(life.live(script, dies=first))
        if shim.error is not None:
            raise shim.error
        return 0

    assert in_child(lambda: live(True)) == -signal.SIGKILL
    assert in_child(lambda: live(False)) == 0
    return Recording(read_log(path), way)


@contextmanager
def recorded(way: Way, spoil: Callable[[Life], Any] | None = None) -> Iterator[Recording]:
    """The same, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        yield record(Path(folder), way, spoil)


def memory() -> str | None:
    """A folder in memory, if the system has one: what is written there needs no sync to be read again."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
