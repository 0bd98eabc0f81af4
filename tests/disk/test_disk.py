"""Small parts of `python -m tests.disk`, and that it would see what it is there for."""

from __future__ import annotations

import json
import logging
import random
import re
import resource
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from msgspec import structs

from pikkupy.core.model import StepStatus
from pikkupy.engine.active import ActiveRun
from pikkupy.engine.host import Host
from pikkupy.engine.live import LiveStep
from pikkupy.store import Journal, connection, reader, rows, writer
from pikkupy.store.committer import Committer
from pikkupy.store.plan import Op, statements
from pikkupy.store.writer import Writer
from tests.disk import errors, flips, kills, life, power
from tests.disk.errors import FRAME_HEAD
from tests.disk.images import Image, image
from tests.disk.life import CHECKPOINT_PAGES, FULL, LOOP, PROCESS, Life, Way, in_child, lives
from tests.disk.parallel import Result
from tests.disk.recording import recorded, write_image
from tests.disk.records import (
    OPERATIONS,
    Asked,
    Create,
    Log,
    Mark,
    Operation,
    Read,
    Record,
    Sync,
    Told,
    Truncate,
    Unlink,
    Write,
    read_log,
)
from tests.disk.workload import LIVES, ONCE, Caller, Tell, World

ROOT = Path(__file__).parent.parent.parent
SEED = 20261124


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """What looks at files here silences the process, and syncs nothing: other tests come after it."""
    log, synchronous = logging.getLogger("pikkupy"), connection._SYNCHRONOUS.copy()
    level = log.level
    yield
    log.setLevel(level)
    connection._SYNCHRONOUS.update(synchronous)


def run(*options: str) -> dict[str, Any]:
    """What the command says, once nothing is wrong."""
    command = [sys.executable, "-m", "tests.disk", *options, "--seed", f"{SEED}", "--jobs", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    found: dict[str, Any] = json.loads(done.stdout)
    return {name: part["counts"] for name, part in found.items()}


@pytest.mark.timeout(300)
def test_losses_of_power_lose_nothing_that_was_told() -> None:
    """In `full`; what is there is exactly what some commit had left."""
    counts = run("--images", "5000", "--durability", "full")["power, full"]

    assert counts["images"] == 5_000
    assert "told, and gone" not in counts
    assert counts["run to the end"] >= 50
    assert counts["in a step that may begin once"] >= 200


@pytest.mark.timeout(300)
def test_losses_of_power_come_to_an_earlier_commit() -> None:
    """In `process`, also where many commits have come since a checkpoint."""
    found = run("--images", "5000", "--durability", "process")
    near, far = found["power, process"], found["power, process, rarely checkpointed"]

    assert near["images"] == 4_500
    assert near["told, and gone"] > 0
    assert near["run to the end"] >= 45
    assert near["in a step that may begin once"] >= 200
    assert far["images"] == 500
    assert far["most commits gone"] > 30


def test_losses_of_power_while_the_loop_writes() -> None:
    """With `database_thread=False`."""
    found = run("--images", "400", "--writer", "loop")

    assert [part["images"] for part in found.values()] == [360, 40]


def test_a_disk_that_ignores_syncs_changes_no_value() -> None:
    """F12: it is noticed, or the rows are what they once were."""
    counts = run("--lying", "500")["power, syncs ignored"]

    assert counts["images"] == 500
    assert counts["detected"] > 0


@pytest.mark.timeout(300)
def test_errors_of_the_disk() -> None:
    """The n-th write, sync, truncation, deletion or creation fails, once or from then on."""
    counts = run("--errors", "--n", "100")["errors, full"]

    assert counts["lives"] > 600
    assert counts["went on"] > 0
    assert counts["stopped"] > 0
    assert counts["within a commit"] > 0
    assert counts["told who asked"] > 0
    assert counts["a ghost: the commit that failed"] > 0


def test_errors_of_the_disk_while_the_loop_writes() -> None:
    """They are seen where it writes: it stops in order as well."""
    counts = run("--errors", "--n", "5", "--writer", "loop")["errors, process, loop"]

    assert counts["lives"] > 60
    assert counts["went on"] > 0


def test_bits_that_flip() -> None:
    """And files that are cut: nothing is given out that was not recorded."""
    counts = run("--flips", "400")["flips"]

    assert counts["noticed by SQLite"] > 0
    assert counts["noticed by a checksum"] > 0


def test_the_files_that_rot_have_something_in_them(tmp_path: Path) -> None:
    """Both: the one in the middle of its life, and the one that was left."""
    with recorded(FULL) as recording:
        for number, files in enumerate((flips.in_the_middle(recording, tmp_path), flips.write_out(recording))):
            db = write_image(tmp_path / f"{number}", files)
            with closing(sqlite3.connect(db)) as raw:
                kinds = "SELECT (SELECT count(*) FROM pikkupy_steps), (SELECT count(*) FROM pikkupy_attempts)"
                [(steps, attempts)] = raw.execute(kinds).fetchall()

            assert (steps > 20, attempts > 5) == (True, True)


def test_kills_before_operations() -> None:
    """A share of them; all of them are in the long form."""
    assert run("--kills", "--points", "40")["kills, full"]["run to the end"] == 40
    assert run("--kills", "--points", "10", "--writer", "loop")["kills, process, loop"]["run to the end"] == 10


def test_foreign_locks_are_waited_for(tmp_path: Path) -> None:
    """Each call finds the file locked by another process; nobody is told of an error."""
    assert errors.under_foreign_locks(tmp_path) >= 6


def test_an_engine_is_left_while_there_is_no_space(tmp_path: Path) -> None:
    """Those who wait are told."""
    marks = [record for record in errors.without_space_for_ever(tmp_path) if isinstance(record, Mark)]

    assert [mark.note for mark in marks if mark.what == "told"] == ["JournalError"]


@pytest.mark.skipif(not kills.has_strace(), reason="there is no strace that may trace")
def test_the_layer_sees_what_the_system_sees(tmp_path: Path) -> None:
    """Writes, truncations and deletions of each file, and syncs of all of them."""
    calls, records = kills.traced(tmp_path)
    seen: Counter[tuple[str, str]] = Counter()
    names = {Write: "pwrite64", Truncate: "ftruncate", Unlink: "unlink"}
    for record in records:
        if isinstance(record, Write | Truncate | Unlink):
            seen[names[type(record)], record.file] += 1
    syncs = Counter(record.file for record in records if isinstance(record, Sync))
    assert seen.total() > 500
    assert {call: count for call, count in calls.items() if call[0] in names.values()} == dict(seen)
    by_system = Counter[str]()
    for (call, file), count in calls.items():
        by_system[file] += count if call in {"fsync", "fdatasync"} else 0
    assert +by_system == syncs
    assert any(isinstance(record, Create) for record in records)


def test_what_the_system_itself_refuses_is_in_the_log(tmp_path: Path) -> None:
    """With the reason, so that it is not taken for a fault of ours."""
    path = tmp_path / "log"

    def live() -> int:
        Life(db, Log(path), FULL).prepare()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the log of it is not so long
        with closing(sqlite3.connect(db)) as connection:
            connection.execute("INSERT INTO t VALUES (zeroblob(10000))")
            connection.commit()
        return 0

    db = tmp_path / "app.db"
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("CREATE TABLE t AS SELECT zeroblob(300000)")
    assert in_child(live) == 1
    marks = [record.note for record in read_log(path) if isinstance(record, Mark) and record.what == "system"]
    assert set(marks) == {"Write of app.db: File too large"}


@pytest.mark.parametrize("way", [FULL, LOOP])
def test_nothing_is_written_anywhere_else(way: Way, tmp_path: Path) -> None:
    """Not to a directory for temporary files either, which may be full, or not to be written."""
    assert in_child(lambda: lives(tmp_path, way, LIVES)) == 0
    assert Mark("elsewhere") not in read_log(tmp_path / "log")


def test_a_file_elsewhere_is_seen(tmp_path: Path) -> None:
    """Here SQLite sorts in one."""
    path = tmp_path / "log"

    def live() -> int:
        Life(tmp_path / "app.db", Log(path)).prepare()
        with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
            connection.execute("PRAGMA cache_size = 1")
            many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
            connection.execute(f"{many} SELECT randomblob(1000) AS text FROM n ORDER BY text").fetchone()
        return 0

    assert in_child(live) == 0
    assert Mark("elsewhere") in read_log(path)


def test_the_same_life_does_the_same_to_the_disk() -> None:
    """Or a seed would say nothing."""
    for way in (FULL, LOOP):
        with recorded(way) as one, recorded(way) as other:
            assert one.records == other.records


# That it would be seen


def explored(spoil: Any, images: int = 1_000) -> Result:
    """Images of lives in which something is wrong."""
    with recorded(FULL, spoil) as recording:
        return power.explore(recording, SEED, images, 2)


def test_a_life_without_syncs_is_seen_to_lose() -> None:
    """With `synchronous = OFF` instead of `FULL`."""

    def spoil(_life: Life) -> None:
        connection._SYNCHRONOUS["full"] = 0

    assert any("lost: " in wrong for wrong in explored(spoil).wrong)


def test_a_checkpoint_that_keeps_nothing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """In `process`, where what was told may be gone, but not what was in the file itself: here nothing is synced, and
    each image is exactly an earlier commit."""

    def spoil(_life: Life) -> None:
        connection._SYNCHRONOUS["process"] = 0

    monkeypatch.setattr(power, "image", lambda moment, _mode, rng: image(moment, "none", rng))

    with recorded(PROCESS, spoil) as recording:
        wrong = power.explore(recording, SEED, 600, 2).wrong

    assert {each.split(": ")[1] for each in wrong} == {"checkpoint"}


@pytest.mark.parametrize("way", [FULL, PROCESS, LOOP])
def test_the_log_is_checkpointed_in_time(way: Way) -> None:
    """It is longer than it may be by one transaction at most: as much as `process` can lose."""
    with recorded(way) as recording:
        page = FRAME_HEAD + connection.PAGE_SIZE
        writes = [write for write in recording.records if isinstance(write, Write) and write.file == "-wal"]

    assert max(write.offset + len(write.data) for write in writes) // page < 2 * CHECKPOINT_PAGES


def test_telling_before_the_commit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """`start` is told while it is not on disk yet."""
    start = Caller.start

    async def early(caller: Caller, run_id: str) -> None:
        caller.tell(Told("started", run_id))
        await start(caller, run_id)

    monkeypatch.setattr(Caller, "start", early)

    assert any("lost: " in wrong for wrong in explored(None).wrong)


def telling_early(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These calls are told while what they ask for is not on disk yet."""
    start, signal, cancel = Caller.start, Caller.signal, Caller.cancel

    async def early_start(caller: Caller, run_id: str) -> None:
        caller.tell(Told("started", run_id))
        await start(caller, run_id)

    async def early_signal(caller: Caller, run_id: str) -> None:
        caller.tell(Told("signalled", run_id, "paid", 1))
        await signal(caller, run_id)

    async def early_cancel(caller: Caller, run_id: str) -> None:
        caller.tell(Told("ended", run_id, "cancelled"))
        await cancel(caller, run_id)

    early = {"start": early_start, "signal": early_signal, "cancel": early_cancel}
    for name in names:
        monkeypatch.setattr(Caller, name, early[name])


EARLY = {
    "start": Told("started", "o1"),
    "signal": Told("signalled", "o1", "paid", 1),
    "cancel": Told("ended", "endless", "cancelled"),
}
"""What these calls tell."""


def number_after(record: Record, kinds: type[Any] | tuple[type[Any], ...], folder: Path, way: Way = FULL) -> int:
    """Of the first operation of these kinds after that record."""
    assert in_child(lambda: lives(folder, way, LIVES)) == 0
    records = read_log(folder / "log")
    return 1 + sum(isinstance(before, kinds) for before in records[: records.index(record)])


@pytest.mark.parametrize("name", EARLY)
def test_telling_before_the_commit_is_seen_by_kills(monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path) -> None:
    """The file that a kill leaves is compared with what a caller was told."""
    telling_early(monkeypatch, name)
    nth = number_after(EARLY[name], OPERATIONS, tmp_path)

    assert ["lost: " in wrong for wrong in kills.killed(FULL, nth).wrong] == [True]


@pytest.mark.parametrize("name", EARLY)
def test_telling_before_the_commit_is_seen_by_errors(
    monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    """The same of the file that an error leaves."""
    telling_early(monkeypatch, name)
    case = errors.Case(errors.KINDS[0], number_after(EARLY[name], Write, tmp_path), once=True)

    assert ["lost: " in wrong for wrong in errors.suffer(case, 1, FULL).wrong] == [True]


def test_telling_of_success_after_the_journal_has_failed_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An unknown commit is a failure for everybody; here it is a success, and in this file it is not."""
    case = errors.Case(errors.KINDS[0], number_after(Asked("delete", "endless"), Write, tmp_path), once=True)
    assert errors.suffer(case, 1, FULL).wrong == []

    monkeypatch.setattr(Committer, "_refuse_all", tell_success)

    assert ["told: " in wrong for wrong in errors.suffer(case, 1, FULL).wrong] == [True]


@pytest.mark.parametrize(("way", "kind"), [(FULL, "sync EIO"), (FULL, "write short, EIO"), (LOOP, "write EIO")])
def test_an_error_that_is_taken_for_a_pause_is_seen(
    monkeypatch: pytest.MonkeyPatch, way: Way, kind: str, tmp_path: Path
) -> None:
    """The same batch is written again, and all goes well; after a failed sync that proves nothing."""
    [found] = [each for each in errors.KINDS if each.name == kind]
    case = errors.Case(found, number_after(EARLY["signal"], found.of, tmp_path, way), once=True)
    told = errors.suffer(case, 1, way)
    assert (told.wrong, told.counts["within a commit"]) == ([], 1)

    monkeypatch.setattr(writer, "_PAUSE", writer._PAUSE | {sqlite3.SQLITE_IOERR})

    assert ["unknown: " in wrong for wrong in errors.suffer(case, 1, way).wrong] == [True]


def reads_within(name: str, folder: Path) -> list[int]:
    """The numbers of the reads that a life has within this call of its journals."""
    called, path = getattr(Journal, name), folder / "numbers"
    count, inside, found = 0, False, list[int]()

    async def calling(*arguments: Any, **options: Any) -> Any:
        nonlocal inside
        inside = True
        try:
            return await called(*arguments, **options)
        finally:
            inside = False

    def counted(operation: Operation | Read) -> None:
        nonlocal count
        count += isinstance(operation, Read)
        if inside and isinstance(operation, Read):
            found.append(count)

    def live() -> int:
        setattr(Journal, name, calling)
        lives(folder, FULL, LIVES, strike=counted, reads=True)
        path.write_text(json.dumps(found))
        return 0

    assert in_child(live) == 0
    numbers: list[int] = json.loads(path.read_text())
    return numbers


def test_a_failed_read_that_the_engine_forgets_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It goes on, and runs that are to come into memory wait until something else wakes them."""
    [kind] = [each for each in errors.KINDS if each.of is Read]
    cases = [errors.Case(kind, nth, once=True) for nth in reads_within("recorded_runs", tmp_path)[::6]]
    usual = errors.usually_told(FULL)
    assert [errors.suffer(case, 1, FULL, usual).wrong for case in cases] == [[]] * len(cases)

    monkeypatch.setattr(Host, "has_failed", lambda *_: None)

    wrong = [each for case in cases for each in errors.suffer(case, 1, FULL, usual).wrong]
    assert [each for each in wrong if "waiting: " in each]


def tell_success(committer: Committer) -> None:
    """Instead of refusing what is queued."""
    while committer._queue:
        committer._queue.popleft().done(None)


@pytest.mark.parametrize("way", [FULL, LOOP])
def test_success_where_one_statement_has_failed_is_seen(
    monkeypatch: pytest.MonkeyPatch, way: Way, tmp_path: Path
) -> None:
    """One statement is a transaction by itself: lives with errors and kills go that way as well."""
    transact = Writer._transact

    def careless(writer: Writer, db: sqlite3.Connection, ops: list[Op]) -> None:
        goes_alone = len(list(statements(ops, writer._epoch))) == 1 and writer._reach is None
        with suppress(sqlite3.OperationalError) if goes_alone else nullcontext():
            transact(writer, db, ops)

    case = errors.Case(errors.KINDS[0], number_after(EARLY["signal"], Write, tmp_path, way), once=True)
    assert errors.suffer(case, 1, way).wrong == []

    monkeypatch.setattr(Writer, "_transact", careless)

    assert errors.suffer(case, 1, way).wrong != []


def test_a_value_that_is_another_one_after_a_kill_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a workflow got before the kill is compared with what it gets afterwards."""

    class Spoiling(World):
        def __init__(self, tell: Tell) -> None:
            def other(record: Record) -> None:
                is_value = isinstance(record, Told) and record.what == "seen" and record.value is not None
                tell(structs.replace(record, value="something else") if is_value else record)

            super().__init__(other)

    monkeypatch.setattr(life, "World", Spoiling)  # of the life that is killed, and not of who looks at its file

    assert any("value: " in wrong for wrong in kills.explore(20, SEED, 2, FULL).wrong)


def test_a_step_that_begins_before_that_is_on_disk_is_seen() -> None:
    """One that may begin once."""

    begin = ActiveRun._begin

    def early(run: ActiveRun, step: LiveStep, attempt: int) -> None:
        if step.call.name in ONCE:
            run._work(step, attempt)
        else:
            begin(run, step, attempt)

    def spoil(_life: Life) -> None:
        ActiveRun._begin = early  # type: ignore[method-assign]

    assert any("lost: " in wrong for wrong in explored(spoil).wrong)


def test_a_step_that_begins_again_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that may begin once, and has: in each whole image of a commit that says so."""
    dispatch = ActiveRun._dispatch

    def again(run: ActiveRun, step: LiveStep) -> None:
        if step.status is StepStatus.RUNNING and step.call.name in ONCE:
            run._work(step, step.attempts)
        else:
            dispatch(run, step)

    monkeypatch.setattr(ActiveRun, "_dispatch", again)

    assert any("was running, and is succeeded" in wrong for wrong in explored(None, 2_100).wrong)


def test_rot_without_checksums_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values change, and nobody says so."""
    with recorded(FULL) as recording:
        monkeypatch.setattr(rows, "crc32", lambda data: 0)
        recorded_before = rows._record

        def trusting(kind: Any, columns: Any, checksum: object, compute: Any, what: str) -> Any:
            return recorded_before(kind, columns, None, lambda _: None, what)

        monkeypatch.setattr(rows, "_record", trusting)
        result = flips.explore(recording, SEED, 600, 2)

    assert any("value: " in wrong for wrong in result.wrong)


def test_rot_that_takes_something_away_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged steps are left out, and nobody says so: they would be run again."""
    intact = reader._intact

    def in_an_output(files: Image, rng: random.Random) -> tuple[str, Image]:
        (name, data), *others = files
        places = [found.start() for found in re.finditer(b'receipt":', data)]
        place = rng.choice(places)
        return "an output", ((name, data[:place] + data[place : place + 1].upper() + data[place + 1 :]), *others)

    def silent(found: Any, decode: Any, _damaged: object) -> Any:
        return intact(found, decode, lambda _error: None)

    with recorded(FULL) as recording:
        monkeypatch.setattr(flips, "spoiled", in_an_output)
        assert flips.explore(recording, SEED, 40, 2).wrong == []

        monkeypatch.setattr(reader, "_intact", silent)
        result = flips.explore(recording, SEED, 40, 2)

    assert any("missing: " in wrong for wrong in result.wrong)


def test_an_unfinished_run_that_lacks_a_step_is_parked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of it begins again: what was recorded after that step does not fit."""

    def without_a_step(files: Image, _rng: random.Random) -> tuple[str, Image]:
        with TemporaryDirectory(dir=tmp_path) as folder:
            db = write_image(Path(folder) / "db", files)
            with closing(sqlite3.connect(db, isolation_level=None)) as raw:
                o2 = "SELECT number FROM pikkupy_runs WHERE run_id = 'o2'"
                assert raw.execute(f"DELETE FROM pikkupy_steps WHERE name = 'left' AND run = ({o2})").rowcount == 1
            return "a step is gone", (("", db.read_bytes()),)

    monkeypatch.setattr(flips, "spoiled", without_a_step)
    with recorded(FULL) as recording:
        result = flips.explore(recording, SEED, 40, 2)

    assert (result.counts["noticed by a replay"], result.wrong) == (40, [])


def test_an_error_in_the_layer_is_kept(tmp_path: Path) -> None:
    """It is an error of the disk for SQLite, and does not get lost."""

    def wrong(_operation: object) -> None:
        raise ZeroDivisionError

    def live() -> int:
        try:
            lives(tmp_path, FULL, LIVES[:1], strike=wrong)
        except ZeroDivisionError:
            return 7
        return 0

    assert in_child(live) == 7
