"""Rot: single bits that flip, and files that are cut, in a journal that nobody has open. Then all of it is read.

Everything that the engine gives out is what was recorded, or there is an error of pikkupy's. Nothing is left out
without an error, either, but for steps and attempts of runs that had ended, where SQLite looks for rows on a damaged
page and does not find them: that is counted, and nothing can run again. Of an unfinished run, the time of its last
change may be another one as long as there is an error of the step that it is taken from.
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

from msgspec import structs

from pikkupy import Attempt, JournalError, PikkuError, ReplayMismatch, Run, RunNotFound
from pikkupy.config import Config
from pikkupy.engine import Engine
from pikkupy.engine.host import Surroundings
from pikkupy.store import Journal
from pikkupy.store.connection import REFUSALS
from pikkupy.testing import VirtualClock
from tests.disk.contents import Journal as JournalRow
from tests.disk.contents import Key
from tests.disk.images import Image
from tests.disk.opening import NOW_US, Wrong, key_of, open_journal, quiet_process, unlink_all
from tests.disk.parallel import Result, in_forks
from tests.disk.recording import Recording, memory, write_image
from tests.disk.records import Record, Told
from tests.disk.workload import World, pikku

CUT_SHARE = 0.2  # of the cases are truncations
CHUNK = 20  # cases that a process is asked for at a time

Question = tuple[str, ...]
Values = dict[Question, Any]


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


async def read_out(db: Path, told: list[Record], keys: list[Key]) -> AsyncIterator[tuple[Question, Any]]:
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
    surroundings = Surroundings(noted_journal, random.Random(1).randbytes)
    engine = Engine(db, pikku, World(told.append), clock, config, surroundings)
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


async def _listed(engine: Engine) -> AsyncIterator[tuple[Question, Any]]:
    try:
        page = await engine.list_runs(limit=500)
    except PikkuError as error:
        yield ("list",), error
        return
    for run in page.runs:
        yield ("listed", run.id), run


async def _of_run(engine: Engine, run_id: str) -> AsyncIterator[tuple[Question, Any]]:
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
        answers = Answers(sound)
        keys: list[Key] = []
        async for question, answer in read_out(db, records, keys):
            if isinstance(answer, PikkuError) or not self._is_earlier(keys):
                answers.add(question, answer)
        for place, value in _told(records).items():
            if told.get(place, value) != value:
                raise Wrong(f"value: a workflow got {value!r:.200} from {place}")
        if self._is_earlier(keys):
            return _kind(answers.errors) if answers.errors else "exactly an earlier commit"
        lost = answers.unexplained()
        if lost and is_whole(db):
            raise Wrong(f"missing: {lost[0]} gives nothing, and no error either")
        return "rows of a run that had ended are not found" if lost else _kind(answers.errors)

    def _is_earlier(self, keys: list[Key]) -> bool:
        """SQLite takes what is damaged in a WAL for the end of it: a loss of power leaves the same."""
        return bool(keys) and keys[0] != self._key and keys[0] in self._commits


_NOTHING = "nothing"


class Answers:
    """What an engine says of a damaged file, compared with what it says of the sound one."""

    def __init__(self, sound: Values) -> None:
        self.errors: Values = {}
        self._sound = sound
        self._given: Values = {}
        self._changed = set[str]()  # unfinished runs with another time of the last change

    def add(self, question: Question, answer: Any) -> None:
        """One more. Raises `Wrong` for a value that is another one."""
        was = self._sound.get(question, _NOTHING)
        if isinstance(answer, PikkuError):
            self.errors[question] = answer
        elif isinstance(answer, Run) and str(answer.reason).startswith("ReplayMismatch: "):
            self.errors[_part(question)] = ReplayMismatch(answer.reason)  # something is gone, and nothing begins again
        elif isinstance(answer, Attempt) and answer.step_name == "?":
            return  # its step is missing
        elif question in self._given or (was != answer and not self._is_changed(was, answer)):
            raise Wrong(f"value: {question} gives {answer!r:.300}, was {was!r:.300}")
        self._given[question] = answer

    def _is_changed(self, was: Any, answer: Any) -> bool:
        """The time of the last change of an unfinished run is that of a step; its checksum is not looked at for it."""
        changed = isinstance(was, Run) and was.ended_at is None and isinstance(answer, Run)
        if changed and structs.replace(answer, updated_at=was.updated_at) == was:
            self._changed.add(was.id)
            return True
        return False

    def unexplained(self) -> list[Question]:
        """What is missing of runs that had ended, and no error tells of. Raises `Wrong` if it is of others, or a run.

        A step that is not there would run again, and a run could be started again.
        """
        lost = [question for question in self._sound.keys() - self._given.keys() if not self._is_explained(question)]
        for question in lost:
            ended = question[0] != "listed" and self._sound["listed", question[1]].ended_at is not None
            if not ended or question[0] == "run":
                raise Wrong(f"missing: {question} gives nothing, and no error either")
        for run_id in self._changed:
            if not self._is_explained(("run", run_id)):
                raise Wrong(f"value: run {run_id!r} has changed at another time")
        return sorted(lost)

    def _is_explained(self, question: Question) -> bool:
        """By an error of its run, of the list of runs, or of the file."""
        return not self.errors.keys().isdisjoint({("open",), ("list",), _part(question)})


def _part(question: Question) -> Question:
    return ("part of", question[1])


def is_whole(db: Path) -> bool:
    """Whether SQLite says that each row is where it looks for it: then all of them were found."""
    with closing(sqlite3.connect(db)) as raw:
        try:
            return raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        except sqlite3.Error:
            return False


def _kind(errors: Values) -> str:
    if not errors:
        return "did not matter"
    first = next(iter(errors.values()))
    if isinstance(first, RunNotFound):
        return "not found"
    if isinstance(first, ReplayMismatch):
        return "noticed by a replay"
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
    left = [commit.files for commit in recording.commits if _is_left(commit.key[1])]
    return _checkpointed(left[0])


def _is_left(journal: JournalRow | None) -> bool:
    """In good order; a file that nobody has opened yet is as well, and is empty."""
    return journal is not None and bool(journal.clean) and journal.epoch > 0


def _checkpointed(files: Image) -> Image:
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        db = write_image(Path(folder) / "db", files)
        connection = sqlite3.connect(db)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return (("", db.read_bytes()),)
