"""A look at a journal without owning it: the same answers as the engine's, and no trace of it in the folder."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pikkupy import JournalError, JournalFormatError, Pikku, PikkuError, RunFailed, RunNotFound
from pikkupy.encryption import AesGcm
from pikkupy.engine.looking import Look
from pikkupy.errors import JournalNotFound
from pikkupy.store import viewing
from pikkupy.store.viewing import View, Way
from pikkupy.testing import VirtualClock
from tests.journals import application, contents, cut_off, fill


async def cut(path: Path) -> None:
    cut_off(path)


async def orphan(path: Path) -> None:
    """A -wal without its -shm, as after a copy."""
    cut_off(path)
    path.with_name("app.db-shm").unlink()


MADE = pytest.mark.parametrize(
    ("make", "way"), [(fill, Way.STILL), (cut, Way.ALONG), (orphan, Way.COPY)], ids=["left", "cut off", "copied"]
)


async def test_a_look_says_what_the_engine_says(db: Path) -> None:
    """While it is open, by the same names: runs, pages and their cursors, counts, steps, attempts."""
    await fill(db)
    async with application().open(db, clock=VirtualClock()) as engine, Look(db) as look:
        for run_id in ("done", "declined", "asleep", "asking", "gated", "mother", "mother/Child", "stopped"):
            assert await look.get_run(run_id) == await engine.get_run(run_id)
            assert await look.steps(run_id) == await engine.steps(run_id)
            assert await look.history(run_id) == await engine.history(run_id)
        assert await look.counts() == await engine.counts()
        page = await look.list_runs(limit=3)
        assert page == await engine.list_runs(limit=3)
        assert await look.list_runs(cursor=page.next_cursor) == await engine.list_runs(cursor=page.next_cursor)
        assert [run.id for run in (await look.list_runs(tags={"customer": "ada"})).runs] == ["done"]
        assert [run.id for run in (await look.list_runs(error="no money")).runs] == ["declined"]
        with pytest.raises(RunNotFound):
            await look.get_run("nobody")
        with pytest.raises(ValueError, match="limit"):
            await look.list_runs(limit=0)


async def test_what_has_happened_to_a_run_is_told_as_the_engine_tells_it(db: Path) -> None:
    """By the same numbers, so that a reader can go on elsewhere; of an unfinished run up to now."""
    await fill(db)
    async with application().open(db) as engine, Look(db) as look:
        for run_id in ("done", "declined", "stopped"):
            told = [event async for event in engine.run_events(run_id)]
            assert [event async for event in look.run_events(run_id)] == told
            assert [event async for event in look.run_events(run_id, after=told[1].seq)] == told[2:]
            assert await look.some_events(run_id) == await engine.some_events(run_id) == told
            assert await look.some_events(run_id, limit=2) == await engine.some_events(run_id, limit=2) == told[:2]
            assert await engine.some_events(run_id, after=told[1].seq) == told[2:]
        kinds = [event.kind async for event in look.run_events("asleep")]
        assert kinds == ["run_started", "step_started", "step_recorded", "sleeping"]
        with pytest.raises(RunNotFound):
            await anext(look.run_events("nobody"))


@MADE
async def test_a_look_leaves_no_trace(db: Path, make: Callable[[Path], object], way: Way) -> None:
    """No file is made, none is changed, whatever lies there."""
    await make(db)
    before = contents(db.parent)

    async with Look(db) as look:
        runs = {run.id for run in (await look.list_runs()).runs}
        steps = await look.steps("asleep")

    assert View(str(db)).state().way is way
    assert runs >= {"done", "asleep"}
    assert [step.name for step in steps] == ["Begin", "nap"]
    assert contents(db.parent) == before


@MADE
async def test_nothing_can_be_written(db: Path, make: Callable[[Path], object], way: Way) -> None:
    """Not even by a statement that tries."""
    await make(db)
    view = View(str(db))
    assert view.state().way is way

    with pytest.raises(JournalError, match="readonly"):
        view.ask(lambda connection: connection.execute("DELETE FROM pikkupy_runs"))
    with pytest.raises(JournalError, match="readonly"):
        view.ask(lambda connection: connection.execute("PRAGMA user_version = 7"))
    view.close()


@MADE
@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it may not")
async def test_a_folder_that_cannot_be_written_can_be_looked_at(
    db: Path, make: Callable[[Path], object], way: Way
) -> None:
    """A backup on a medium of its own."""
    await make(db)
    db.parent.chmod(0o500)
    try:
        async with Look(db) as look:
            assert (await look.get_run("done")).status == "completed"
    finally:
        db.parent.chmod(0o700)


async def test_the_copy_of_a_file_without_its_shared_memory_goes_again(
    db: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made once, in a folder that nobody else can enter, and not if it were too large."""
    await orphan(db)
    place = tmp_path_factory.mktemp("place")
    monkeypatch.setattr(tempfile, "tempdir", str(place))

    async with Look(db) as look:
        await look.list_runs()
        await look.counts()
        [copy] = place.iterdir()
        assert copy.stat().st_mode & 0o777 == 0o700

    assert not list(place.iterdir())
    monkeypatch.setattr(viewing, "MAX_COPY", 1000)
    with pytest.raises(JournalError, match="too many to be copied"):
        async with Look(db):
            pass


async def test_an_engine_may_come_and_go_under_a_look(db: Path) -> None:
    """What it has written is seen at the next question, and it leaves the folder as tidy as without."""
    await fill(db)
    async with Look(db) as look:
        assert (await look.counts())["echo"] == {"completed": 1}
        async with application().open(db) as engine:
            await engine.run("echo")
            assert (await look.counts())["echo"] == {"completed": 2}
        assert (await look.counts())["echo"] == {"completed": 2}
    assert sorted(path.name for path in db.parent.iterdir()) == ["app.db", "app.db.lock"]


async def test_what_changes_while_it_is_read_is_read_again(db: Path) -> None:
    """No lock is held where nobody is at work: an answer counts if the file is the same after it."""
    await fill(db)
    asked: list[int] = []

    def question(connection: sqlite3.Connection) -> int:
        asked.append(1)
        with closing(sqlite3.connect(db, isolation_level=None)) as other:
            if len(asked) < 3:
                other.execute("CREATE TABLE IF NOT EXISTS mine (n)")
                other.execute("INSERT INTO mine VALUES (1)")
        [(found,)] = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'mine'").fetchall()
        return int(found)

    assert View(str(db)).ask(question) == 1
    assert len(asked) == 3


async def test_what_never_rests_is_given_up(db: Path) -> None:
    """With an error that says so, instead of an answer that nobody can trust."""
    await fill(db)

    with pytest.raises(JournalError, match="has changed 5 times"):
        View(str(db)).ask(lambda _: os.utime(db))


async def test_a_damaged_row_does_not_hide_the_others(db: Path) -> None:
    """It is left out of lists, and named; asked for alone it is an error."""
    await fill(db)
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("UPDATE pikkupy_runs SET reason = 'other' WHERE run_id = 'stopped'")
        connection.execute("UPDATE pikkupy_steps SET name = 'other' WHERE name = 'Begin'")

    async with Look(db) as look:
        first = await look.list_runs(limit=1)
        rest = await look.list_runs(cursor=first.next_cursor)
        assert first.runs == ()
        assert [run.id for run in rest.runs] == [
            "mother/Child",
            "mother",
            "gated",
            "asking",
            "asleep",
            "declined",
            "done",
        ]
        assert [step.name for step in await look.steps("asleep")] == ["nap"]
        assert [attempt.step_name for attempt in await look.history("asleep")] == []
        assert ["stopped" in text for text in look.damaged] == [True, False]
        with pytest.raises(JournalError, match="'stopped'"):
            await look.get_run("stopped")


async def test_what_is_encoded_is_shown_as_that(db: Path) -> None:
    """Without the key; with it the values are there."""
    codec = AesGcm({"k1": b"1" * 32}, current="k1")
    async with application().open(db, payload_codec=codec) as engine:
        await engine.run("echo", {"secret": 1}, run_id="done")

    async with Look(db) as look, Look(db, payload_codec=codec) as knowing:
        assert "is encoded with key 'k1'" in (await look.get_run("done")).output["why"]
        assert "is encoded with key 'k1'" in (await look.steps("done"))[0].output["why"]
        assert (await knowing.get_run("done")).output == {"secret": 1}


async def test_what_would_be_pruned_is_what_is_pruned(db: Path) -> None:
    """Runs without parents, in the statuses that are asked for."""
    await fill(db)
    async with application().open(db) as engine, Look(db) as look:
        await engine.cancel("mother", "enough")
        counted, told = list[tuple[int, int]](), list[int]()
        counted.append((await look.prunable(older_than="1d"), await engine.prune(older_than="1d")))
        counted.append((await look.prunable(older_than=0, keep=3), await engine.prune(older_than=0, keep=3)))
        for statuses in (["failed"], None):
            found = await look.prunable(older_than=0, statuses=statuses, progress=told.append)
            counted.append((found, await engine.prune(older_than=0, statuses=statuses)))
        assert [run.id for run in (await look.list_runs()).runs] == ["gated", "asking", "asleep"]

    assert counted == [(0, 0), (1, 1), (1, 1), (2, 2)]
    assert told == [1, 2]


async def test_what_a_run_waits_for_is_its_steps_without_an_outcome(db: Path) -> None:
    """Of those runs that have any."""
    await fill(db)
    async with Look(db) as look:
        found = await look.open_steps(["asleep", "done", "asking", "nobody"])

    assert {run_id: [step.name for step in steps] for run_id, steps in found.items()} == {
        "asleep": ["nap"],
        "asking": ["receipt"],
    }
    assert found["asleep"][0].wake_at is not None


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA application_id = 0x70696B75")
        connection.execute("PRAGMA user_version = 99")


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA application_id = 77")
        connection.execute("CREATE TABLE t (a)")


def other(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (a)")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), "holds no journal"),
        (lambda path: path.write_text("x"), "not an SQLite database"),
        (lambda path: path.write_text("x" * 9000), "not an SQLite database"),
        (lambda path: path.mkdir(), "not a regular file"),
        (newer, "format 99"),
        (foreign, "another application"),
        (other, "holds no journal"),
    ],
    ids=["empty", "a letter", "text", "folder", "newer", "foreign", "without a journal"],
)
async def test_what_is_no_journal_is_refused(db: Path, make: Callable[[Path], object], words: str) -> None:
    """It is left as it was."""
    make(db)
    before = sorted(path.name for path in db.parent.iterdir())

    with pytest.raises(JournalFormatError, match=words):
        async with Look(db):
            pass

    assert sorted(path.name for path in db.parent.iterdir()) == before


async def test_what_is_not_there_is_not_made(db: Path) -> None:
    """Neither the file nor one that a link points to."""
    db.with_name("link").symlink_to(db)
    for path in (db, db.with_name("link"), db / "below", ":memory:"):
        with pytest.raises(JournalNotFound, match="does not exist"):
            async with Look(path):
                pass
    assert [path.name for path in db.parent.iterdir()] == ["link"]


async def test_a_file_whose_maker_was_cut_off_is_left_to_an_engine(db: Path) -> None:
    """What a rollback journal holds belongs into the file; who looks does not put it there."""
    await fill(db)
    db.with_name("app.db-journal").write_bytes(b"x" * 512)

    with pytest.raises(JournalError, match="let an engine open it once"):
        async with Look(db):
            pass


async def test_a_look_that_is_over_answers_nothing(db: Path) -> None:
    """Nor one that has not begun."""
    async with Pikku().open(db):
        pass
    look = Look(db)
    with pytest.raises(PikkuError, match="has not begun"):
        await look.counts()
    async with look:
        assert await look.counts() == {}
        with pytest.raises(PikkuError, match="under way"):
            await look.__aenter__()
    with pytest.raises(PikkuError, match="over"):
        await look.counts()


async def test_the_past_of_a_run_with_encoded_errors_is_told(db: Path) -> None:
    """An engine without the codec refuses it, since what it reads may go on; who only looks is told what is there."""
    codec = AesGcm({"k1": b"1" * 32}, current="k1")
    clock = VirtualClock(autojump=True)
    async with application().open(db, payload_codec=codec, clock=clock) as engine:
        with pytest.raises(RunFailed):
            await engine.run("fail", "secret", run_id="declined")

    async with Look(db) as look:
        told = [event async for event in look.run_events("declined")]

    assert [event.attempt for event in told if event.kind == "attempt_failed"] == [1, 2, 3]
    assert all("is encoded with key 'k1'" in event.error.message for event in told if event.error is not None)


async def test_an_error_beside_a_busy_engine_is_told_at_once(db: Path) -> None:
    """There the file changes all the time, and what SQLite says holds all the same."""
    async with application().open(db) as engine:
        view, asked = View(str(db)), list[int]()

        def question(connection: sqlite3.Connection) -> None:
            asked.append(1)
            os.utime(db)
            connection.execute("SELECT a FROM nowhere")

        with pytest.raises(JournalError, match="no such table"):
            view.ask(question)
        assert len(asked) == 1
        assert await engine.counts() == {}
