"""Rot: single bits that flip, and files that are cut, in a journal that nobody has open. Then all of it is read.

Everything that the engine gives out is what was recorded, or there is an error of pikkupy's. A value may also be left
out: a run that an index does not lead to any more is not found. That is counted, and is no silent change of a value.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from pikkupy import JournalError, PikkuError, RunNotFound
from pikkupy.config import Config
from pikkupy.engine import Engine
from pikkupy.engine.host import Outside
from pikkupy.store import Journal
from pikkupy.store.connection import REFUSALS
from pikkupy.testing import VirtualClock
from tests.disk.contents import Key
from tests.disk.images import Image
from tests.disk.opening import NOW_US, Wrong, key_of, open_journal, quiet_process, unlink_all
from tests.disk.parallel import Result, in_forks
from tests.disk.recording import Recording, memory, write_image
from tests.disk.records import Record, Told
from tests.disk.workload import World, pikku

CUT_SHARE = 0.2  # of the cases are truncations
CHUNK = 20  # cases that a process is asked for at a time

Values = dict[tuple[str, ...], Any]


def spoiled(files: Image, rng: random.Random) -> tuple[str, Image]:
    """What was done to one of the files, and all of them afterwards."""
    candidates = [(name, data) for name, data in files if data]
    name, data = rng.choices(candidates, [len(data) for _, data in candidates])[0]
    if rng.random() < CUT_SHARE:
        size = rng.randrange(len(data))
        what, worse = f"{name or 'file'} cut to {size} bytes", data[:size]
    else:
        bit = rng.randrange(8 * len(data))
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        what, worse = f"bit {bit % 8} of byte {bit // 8} of the {name or 'file'} flipped", bytes(flipped)
    return what, tuple((other, worse if other == name else kept) for other, kept in files)


async def read_out(db: Path, told: list[Record], keys: list[Key]) -> AsyncIterator[tuple[tuple[str, ...], Any]]:
    """Everything that an engine says of the file, each with what was asked; an error in the place of an answer.

    What was in the file when it was opened is added to `keys`.
    """

    async def noted_journal(path: str, **options: Any) -> Journal:
        journal = await open_journal(path, **options)
        with suppress(*REFUSALS):  # whoever reads that will see it, too
            keys.append(await key_of(journal, NOW_US))
        return journal

    clock = VirtualClock()
    config = Config(durability="process", watchdog_after=None, show_running_after="1h")
    outside = Outside(noted_journal, random.Random(1).randbytes)
    engine = Engine(db, pikku, World(told.append), clock, config, outside)
    try:
        await engine.__aenter__()
    except PikkuError as error:
        yield ("open",), error
        return
    try:
        await clock.advance(0)
        ids = list[str]()
        async for question, answer in _listed(engine):
            ids += [question[1]] if question[0] == "listed" else []
            yield question, answer
        for run_id in ids:
            async for question, answer in _of_run(engine, run_id):
                yield question, answer
    finally:
        await engine.__aexit__(None, None, None)


async def _listed(engine: Engine) -> AsyncIterator[tuple[tuple[str, ...], Any]]:
    try:
        page = await engine.list_runs(limit=500)
    except PikkuError as error:
        yield ("list",), error
        return
    for run in page.runs:
        yield ("listed", run.id), run


async def _of_run(engine: Engine, run_id: str) -> AsyncIterator[tuple[tuple[str, ...], Any]]:
    try:
        yield ("run", run_id), await engine.get_run(run_id)
        for step in await engine.steps(run_id):
            yield ("step", run_id, step.name), step
        for attempt in await engine.history(run_id):
            yield ("attempt", run_id, attempt.step_name, str(attempt.attempt)), attempt
        run = await engine.get_run(run_id)
        if run.ended_at is not None:
            async for chunk in engine.stream(run_id):
                yield ("chunk", run_id, str(chunk.offset)), chunk
    except PikkuError as error:
        yield ("part of", run_id), error


async def values_of(db: Path, keys: list[Key]) -> tuple[Values, dict[tuple[str, str], Any]]:
    """What is said of a sound file, and what its workflows are told."""
    records: list[Record] = []
    values = {question: answer async for question, answer in read_out(db, records, keys)}
    return values, _told(records)


def _told(records: list[Record]) -> dict[tuple[str, str], Any]:
    return {(told.run, told.name): told.value for told in records if isinstance(told, Told) and told.what == "seen"}


class Rot:
    """Cases of one file."""

    def __init__(self, recording: Recording, files: Image, seed: int, folder: Path) -> None:
        self._commits = recording.indices
        self._files = files
        self._seed = seed
        self._folder = folder
        self._sound: tuple[Values, dict[tuple[str, str], Any]] | None = None

    async def explore(self, begin: int, end: int) -> Result:
        """The cases of these numbers."""
        result = Result()
        if self._sound is None:
            keys: list[Key] = []
            self._sound = await values_of(self._written(self._files), keys)
            self._key = keys[0]
            unlink_all(self._folder / "db" / "app.db")
        for number in range(begin, end):
            what, files = spoiled(self._files, random.Random(f"{self._seed} flip {number}"))
            db = self._written(files)
            result.counts["cases"] += 1
            try:
                result.counts[await self._judge(db)] += 1
            except Wrong as wrong:
                result.wrong.append(f"seed {self._seed}, case {number}: {what}: {wrong}")
            except Exception as error:
                result.wrong.append(f"seed {self._seed}, case {number}: {what}: foreign: {error!r}")
            finally:
                unlink_all(db)
        return result

    def _written(self, files: Image) -> Path:
        db = self._folder / "db" / "app.db"
        unlink_all(db)
        if db.parent.exists():
            db.parent.rmdir()
        return write_image(db.parent, files)

    async def _judge(self, db: Path) -> str:
        assert self._sound is not None
        sound, told = self._sound
        records: list[Record] = []
        given: Values = {}
        errors: list[PikkuError] = []
        keys: list[Key] = []
        async for question, answer in read_out(db, records, keys):
            if isinstance(answer, PikkuError):
                errors.append(answer)
            elif self._is_earlier(keys):
                continue
            elif question in given or sound.get(question, _NOTHING) != answer:
                raise Wrong(f"value: {question} gives {answer!r:.300}, was {sound.get(question, _NOTHING)!r:.300}")
            else:
                given[question] = answer
        for place, value in _told(records).items():
            if told.get(place, value) != value:
                raise Wrong(f"value: a workflow got {value!r:.200} from {place}")
        if self._is_earlier(keys) and not errors:
            return "exactly an earlier commit"
        return _kind(errors, missing=len(sound.keys() - given.keys()))

    def _is_earlier(self, keys: list[Key]) -> bool:
        """SQLite takes what is damaged in a WAL for the end of it: a loss of power leaves the same."""
        return bool(keys) and keys[0] != self._key and keys[0] in self._commits


_NOTHING = "nothing"


def _kind(errors: list[PikkuError], *, missing: int) -> str:
    if not errors:
        return "something is missing, without an error" if missing else "did not matter"
    first = errors[0]
    if isinstance(first, RunNotFound):
        return "not found"
    by_sqlite = isinstance(first.__cause__, sqlite3.Error) or "damaged when" in str(first)
    if by_sqlite or not isinstance(first, JournalError) or "not an SQLite" in str(first):
        return "noticed by SQLite"
    return "noticed by a checksum" if "what is recorded is not" in str(first) else "refused"


def explore(recording: Recording, seed: int, cases: int, jobs: int) -> Result:
    """So many cases: half of the file with its WAL in the middle of its life, half of the file as it was left."""

    def work(item: int) -> Result:
        if not rots:
            quiet_process()
            whole = write_out(recording)
            for files in (in_the_middle(recording, Path(root)), whole):
                rots.append(Rot(recording, files, seed, Path(tempfile.mkdtemp(dir=root))))
        begin, end = item * CHUNK, min(cases, (item + 1) * CHUNK)
        return asyncio.run(rots[item % 2].explore(begin, end))

    rots: list[Rot] = []
    with tempfile.TemporaryDirectory(dir=memory()) as root:
        return in_forks("bits and cuts", work, range(-(-cases // CHUNK)), jobs, CHUNK)


def in_the_middle(recording: Recording, root: Path) -> Image:
    """The file with its WAL, at a commit after which nothing goes on by itself.

    What is said of a damaged run, which is left alone, is compared with what is said of the sound file.
    """
    for commit in recording.commits[2 * len(recording.commits) // 3 :]:
        db = write_image(Path(tempfile.mkdtemp(dir=root)) / "db", commit.files)
        if asyncio.run(_is_at_rest(db)):
            return commit.files
    raise AssertionError("there is no such commit")


async def _is_at_rest(db: Path) -> bool:
    with closing(sqlite3.connect(db)) as raw:
        recorded = dict(raw.execute("SELECT run_id, status FROM pikkupy_runs"))
    values, _ = await values_of(db, [])
    return recorded == {question[1]: run.status for question, run in values.items() if question[0] == "listed"}


def write_out(recording: Recording) -> Image:
    """The file alone, with everything in it: as the second life of the recording has left it."""
    files = [commit.files for commit in recording.commits if commit.key[1] is not None and commit.key[1].clean]
    return _checkpointed(files[0])


def _checkpointed(files: Image) -> Image:
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        db = write_image(Path(folder) / "db", files)
        connection = sqlite3.connect(db)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return (("", db.read_bytes()),)
