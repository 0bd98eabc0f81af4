"""Opening: what is refused and how, who owns the file, and how it is left."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import pytest

from pikkupy.errors import JournalError, JournalFormatError, JournalLocked, JournalNotFound
from pikkupy.store import Journal, connection, files
from pikkupy.store import journal as journal_module
from pikkupy.store.files import network_filesystem
from pikkupy.store.migrations import APPLICATION_ID, FORMAT, own_tables
from tests.store.samples import NOW, a_run, a_step, open_journal, raw

pytestmark = pytest.mark.anyio


async def _refused(path: str | Path, kind: type[JournalError] = JournalError) -> str:
    """The message with which opening is refused; nothing stays open, and a file that is there stays as it is."""
    file = Path(path)
    before = file.read_bytes() if file.is_file() else None
    threads = threading.enumerate()
    with pytest.raises(JournalError) as caught:
        await open_journal(str(path))
    assert type(caught.value) is kind
    assert not _threads_since(threads)
    assert (file.read_bytes() if file.is_file() else None) == before
    assert not Path(f"{path}.owner").exists()
    return str(caught.value)


def _threads_since(before: Collection[threading.Thread]) -> list[threading.Thread]:
    """The threads that are not of `before` and go on, once those that are about to end have ended."""
    started = [thread for thread in threading.enumerate() if thread not in before]
    for thread in started:
        thread.join(5)
    return [thread for thread in started if thread.is_alive()]


# New and empty files


async def test_a_new_file_is_a_journal_for_its_owner_alone(journal: Journal, path: str) -> None:
    """Mode 0600, also of the files beside it, and the marks of a journal."""
    await journal.commit([a_run()])

    for suffix in ("", "-wal", "-shm", ".lock", ".owner"):
        assert Path(path + suffix).stat().st_mode & 0o777 == 0o600, suffix
    assert raw(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert raw(path, "PRAGMA user_version") == [(FORMAT,)]
    assert (journal.epoch, journal.clean, journal.next_number) == (1, True, 1)


async def test_an_empty_file_becomes_a_journal(path: str) -> None:
    """Somebody may have made it beforehand, with a mode of his own."""
    Path(path).touch(mode=0o640)
    journal = await open_journal(path)
    await journal.commit([a_run()])
    await journal.close()

    assert Path(path).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["a?b.db", "a#b.db", "a%20b.db", "a b.db", "ä'\".db", "mode=ro&x.db"])
async def test_any_file_name_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    """Nothing in a path is URI syntax."""
    journal = await open_journal(str(tmp_path / name))
    await journal.commit([a_run()])
    assert await journal.run("run-1") == a_run()
    await journal.close()

    assert {file.name for file in tmp_path.iterdir()} == {name, f"{name}.lock"}


async def test_leaving_in_good_order_leaves_one_file(path: str) -> None:
    """The WAL is in the file, the owner's name is gone; only the lock file stays."""
    journal = await open_journal(path)
    await journal.commit([a_run()])
    await journal.close()
    await journal.close()

    assert {file.name for file in Path(path).parent.iterdir()} == {"app.db", "app.db.lock"}
    journal = await open_journal(path)
    assert (journal.epoch, journal.clean) == (2, True)
    assert await journal.run("run-1") == a_run()
    await journal.close(clean=False)
    journal = await open_journal(path)
    assert (journal.epoch, journal.clean) == (3, False)
    await journal.close()


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("process", 1)])
async def test_both_connections_are_set_up_for_safety(
    path: str, durability: connection.Durability, synchronous: int
) -> None:
    """The pragmas hold on the connections themselves."""
    journal = await Journal.open(path, durability=durability, now_us=NOW)
    wanted = {"journal_mode": "wal", "foreign_keys": 1, "trusted_schema": 0, "cell_size_check": 1, "busy_timeout": 5000}

    def ask(db: sqlite3.Connection) -> dict[str, object]:
        names = [*wanted, "synchronous", "query_only", "wal_autocheckpoint", "journal_size_limit"]
        return {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    writer, reader = await journal._writer.run(ask), await journal._reader.run(ask)
    await journal.close()

    assert {name: writer[name] for name in wanted} == {name: reader[name] for name in wanted} == wanted
    assert (writer["synchronous"], writer["query_only"], writer["wal_autocheckpoint"]) == (synchronous, 0, 1000)
    assert writer["journal_size_limit"] == 64 * 1024 * 1024
    assert (reader["query_only"], reader["wal_autocheckpoint"]) == (1, 0)


def test_a_pragma_that_is_not_kept_is_an_error() -> None:
    """What the safety rests on is read back."""
    with closing(sqlite3.connect(":memory:")) as db, pytest.raises(JournalError, match="journal_mode"):
        connection.set_pragmas(db, {"journal_mode": "wal"})


async def test_an_old_sqlite_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """STRICT tables need 3.37."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))

    assert "too old" in await _refused(path)


# Refusals


async def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """It is not made."""
    message = await _refused(tmp_path / "no" / "app.db", JournalNotFound)

    assert "does not exist" in message
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("path", ["", "a\0b"])
async def test_a_path_that_cannot_be_is_refused(path: str) -> None:
    """Empty, or with a NUL."""
    with pytest.raises(JournalError, match="path"):
        await open_journal(path)


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    """A journal is a file."""
    assert "directory" in await _refused(tmp_path, JournalFormatError)


async def test_a_special_file_is_refused(tmp_path: Path) -> None:
    """Opening a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe")

    assert "regular" in await _refused(tmp_path / "pipe", JournalFormatError)


async def test_a_folder_or_file_without_permission_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system says it, which also knows read-only file systems."""
    Path(path).touch()
    monkeypatch.setattr(files.os, "access", lambda place, mode: Path(place) != Path(path))
    assert "cannot be read and written" in await _refused(path)

    monkeypatch.setattr(files.os, "access", lambda place, mode: False)
    assert "folder" in await _refused(path)


async def test_a_lock_file_that_cannot_be_made_is_an_error(path: str) -> None:
    """Without the lock nothing is opened."""
    Path(f"{path}.lock").mkdir()

    assert "lock file" in await _refused(path)
    assert not Path(path).exists()


@pytest.mark.parametrize(
    "content", [b"x", b"hello, I am a text\n" * 100, b"\0" * 4096, b"SQLite format 3\0" + b"\xff" * 5000, b"SQLite"]
)
async def test_a_file_that_is_no_database_is_refused(path: str, content: bytes) -> None:
    """Text, zeros, a damaged header."""
    Path(path).write_bytes(content)

    assert path in await _refused(path, JournalFormatError)


async def test_a_file_that_was_cut_short_is_refused(path: str) -> None:
    """Pages are missing that the header speaks of."""
    await _used(path)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2 - 100])

    assert "damaged" in await _refused(path, JournalFormatError)


async def test_a_backup_beside_the_log_of_the_file_before_it_is_named(path: str) -> None:
    """After a crash the log is still there, and SQLite would read it as the backup's."""
    await _used(path)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2 - 100])
    assert "-wal" not in await _refused(path, JournalFormatError)
    Path(f"{path}-wal").write_bytes(b"frames")

    assert f"{path}-wal belongs to the file that was here before" in await _refused(path, JournalFormatError)


async def test_a_schema_that_is_no_text_any_more_is_named_as_damage(path: str) -> None:
    """One bit of it: SQLite quotes the place, and that cannot be decoded."""
    journal = await open_journal(path)
    await journal.close()
    file = Path(path)
    data = bytearray(file.read_bytes())
    data[data.index(b"CREATE TABLE pikkupy_attempts") + 3] ^= 0x80
    file.write_bytes(data)

    assert "damaged" in await _refused(path, JournalFormatError)


async def test_what_sqlite_quotes_of_a_damaged_schema_need_be_no_text(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does so whenever a connection first reads the schema: when it is opened to write, or for a question."""

    def quotes(*_: object) -> sqlite3.Connection:
        b"no such column: e\xf2ror".decode()
        raise AssertionError

    await _used(path)
    journal = await open_journal(path)
    with pytest.raises(JournalError, match="cannot be read"):
        await journal._read(quotes)
    await journal.close()
    monkeypatch.setattr(journal_module, "connect_writer", quotes)
    assert "its schema is no text any more" in await _refused(path, JournalFormatError)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE pikkupy_journal SET format = NULL",
        "UPDATE pikkupy_journal SET format = 'one'",
        "UPDATE pikkupy_journal SET format = 0",
        "UPDATE pikkupy_journal SET clean = NULL",
        "UPDATE pikkupy_journal SET epoch = 'one'",
        "UPDATE pikkupy_journal SET next_number = NULL",
        "INSERT INTO pikkupy_journal SELECT 2, 1, 1, 1, 1, created_at, 0, NULL, 0 FROM pikkupy_journal",
        "DELETE FROM pikkupy_journal",
    ],
)
async def test_a_row_of_the_journal_that_cannot_be_is_named_as_damage(path: str, damage: str) -> None:
    """A page of it that is from another time, say: the rules of the table do not hold for what the disk brings back."""
    await _used(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        [(sql,)] = db.execute("SELECT sql FROM sqlite_master WHERE name = 'pikkupy_journal'")
        loose = re.sub(r"NOT NULL|CHECK \(.*?\)(?= |,)|STRICT|--.*", "", sql.replace("(id = 1)", "(id)"))
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'pikkupy_journal'", (loose,))
        db.execute("PRAGMA writable_schema = RESET")
        db.execute(damage)
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'pikkupy_journal'", (sql,))

    assert "damaged" in await _refused(path, JournalFormatError)


async def test_a_file_of_another_application_is_refused(path: str) -> None:
    """Its application id says so, whatever else is in it."""
    raw(path, "PRAGMA application_id = 0x12345678")

    assert "0x12345678" in await _refused(path, JournalFormatError)


async def test_a_file_of_a_newer_format_is_refused(path: str) -> None:
    """The versions are named."""
    await _used(path)
    raw(path, f"PRAGMA user_version = {FORMAT + 7}")

    assert f"format {FORMAT + 7}" in await _refused(path, JournalFormatError)


async def test_a_newer_format_that_is_still_in_the_wal_is_refused(path: str) -> None:
    """A crash of the newer release leaves its mark beside the file; that stays, too."""
    await _used(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"PRAGMA user_version = {FORMAT + 7}")
        wal = Path(f"{path}-wal").read_bytes()
        assert wal
        await _refused(path, JournalFormatError)
        assert Path(f"{path}-wal").read_bytes() == wal


async def test_damage_after_a_crash_is_found(path: str) -> None:
    """quick_check runs after an unclean end, and not after a clean one."""
    await _used(path)
    with closing(sqlite3.connect(path)) as db:
        [(page,)] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'pikkupy_attempts'")
        [(size,)] = db.execute("PRAGMA page_size")
    content = bytearray(Path(path).read_bytes())
    content[(page - 1) * size : page * size] = b"\x55" * size
    Path(path).write_bytes(content)
    journal = await open_journal(path)
    await journal.close(clean=False)

    assert "damaged" in await _refused(path)


@pytest.mark.parametrize("table", own_tables(FORMAT))
async def test_damage_beside_the_tables_of_an_application_is_found(path: str, table: str) -> None:
    """Its tables are not looked at, and each of ours is."""
    raw(path, "CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    await _used(path, clean=False)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA application_id").fetchall() == [(0,)]
        [(page,)] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
        [(size,)] = db.execute("PRAGMA page_size")
    content = bytearray(Path(path).read_bytes())
    content[(page - 1) * size : page * size] = b"\x55" * size
    Path(path).write_bytes(content)

    assert "damaged" in await _refused(path, JournalError if table != "pikkupy_journal" else JournalFormatError)


async def test_a_large_file_is_not_checked(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start after a crash must not take minutes."""
    monkeypatch.setattr(files, "MAX_QUICK_CHECK", 10)
    monkeypatch.setattr(files, "_check_pages", None)
    await _used(path, clean=False)
    await _used(path)


async def test_a_hard_linked_file_is_refused(path: str) -> None:
    """Two names have two WALs and two locks."""
    await _used(path)
    os.link(path, f"{path}.link")

    assert "hard links" in await _refused(path)


async def test_a_failed_opening_can_be_repeated(path: str) -> None:
    """The lock is free again."""
    Path(path).write_text("not a database, but something of mine")
    await _refused(path, JournalFormatError)
    Path(path).unlink()

    await _used(path)


async def _used(path: str, *, clean: bool = True) -> None:
    """A journal with a run and many steps, closed."""
    journal = await open_journal(path)
    number = journal.next_number
    await journal.commit([a_run(number), *(a_step(number, n) for n in range(200))])
    await journal.close(clean=clean)


# One file for both


async def test_an_application_may_keep_its_tables_in_the_same_file(path: str) -> None:
    """Our tables are added; its own, its user_version and its missing application id stay as they are."""
    raw(path, "CREATE TABLE users (name TEXT)")
    raw(path, "INSERT INTO users VALUES ('Ada')")
    raw(path, "PRAGMA user_version = 42")
    for _ in range(2):
        await _used(path, clean=False)

    assert raw(path, "SELECT name FROM users") == [("Ada",)]
    assert raw(path, "PRAGMA user_version") == [(42,)]
    assert raw(path, "PRAGMA application_id") == [(0,)]
    assert raw(path, "SELECT format FROM pikkupy_journal") == [(FORMAT,)]
    joined = raw(path, "SELECT name, run_id FROM users JOIN pikku_runs ORDER BY 2")
    assert joined == [("Ada", "run-1"), ("Ada", "run-2")]


async def test_a_newer_format_is_seen_in_a_shared_file(path: str) -> None:
    """There our own table tells it."""
    raw(path, "CREATE TABLE users (name TEXT)")
    await _used(path)
    raw(path, f"UPDATE pikkupy_journal SET format = {FORMAT + 1}")

    assert f"format {FORMAT + 1}" in await _refused(path, JournalFormatError)


async def test_a_newer_format_is_seen_in_a_file_without_tables(path: str) -> None:
    """With nobody else in the file, the version can only be ours."""
    raw(path, f"PRAGMA user_version = {FORMAT + 1}")

    await _refused(path, JournalFormatError)


async def test_opening_leaves_locks_of_the_application_alone(path: str) -> None:
    """A failed opening in this process does not let others into a transaction that it has open on the file."""
    raw(path, "CREATE TABLE users (name TEXT)")
    raw(path, "PRAGMA application_id = 7")
    with closing(sqlite3.connect(path, isolation_level=None)) as mine:
        mine.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalFormatError):
            await open_journal(path)
        script = f"import sqlite3; sqlite3.connect({path!r}, timeout=0).execute('BEGIN IMMEDIATE')"
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert "locked" in other.stderr


async def test_looking_leaves_no_files_behind(tmp_path: Path) -> None:
    """A refused file of another application has nothing new beside it but the lock."""
    path = str(tmp_path / "theirs.db")
    raw(path, "PRAGMA application_id = 7")
    raw(path, "PRAGMA journal_mode = wal")
    await _refused(path, JournalFormatError)

    assert {file.name for file in tmp_path.iterdir()} == {"theirs.db", "theirs.db.lock"}


async def test_a_transaction_that_was_cut_off_before_the_wal_is_rolled_back(path: str) -> None:
    """A kill while the file had a rollback journal, in the very first opening or by an application, is healed."""
    script = f"""
import os, signal, sqlite3
db = sqlite3.connect({path!r}, isolation_level=None)
db.execute("CREATE TABLE theirs (x)")
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.executemany("INSERT INTO theirs VALUES (?)", [("x" * 2000,) for _ in range(200)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert Path(f"{path}-journal").stat().st_size
    await _used(path)

    assert raw(path, "SELECT * FROM theirs") == []
    assert raw(path, "PRAGMA integrity_check") == [("ok",)]


async def test_a_name_of_ours_that_is_taken_is_an_error(path: str) -> None:
    """Nothing of ours is left in the file."""
    raw(path, "CREATE TABLE pikku_runs (mine TEXT)")
    with pytest.raises(JournalError, match="already exists"):
        await open_journal(path)

    assert raw(path, "SELECT name FROM sqlite_master") == [("pikku_runs",)]


# One owner


async def test_a_second_engine_in_the_process_is_locked_out(journal: Journal, path: str) -> None:
    """It is told who holds the file; the first one goes on."""
    for _ in range(2):
        with pytest.raises(JournalLocked) as caught:
            await open_journal(path)
        assert f"process {os.getpid()} (this process)" in str(caught.value)
        assert "2030-03-17 17:46:40" in str(caught.value)
        assert "role=" not in str(caught.value)

    await journal.commit([a_run()])


async def test_a_symbolic_link_leads_to_the_same_lock(journal: Journal, path: str, tmp_path: Path) -> None:
    """The real path is locked, through links to the file and to its folder."""
    (tmp_path / "link.db").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path)

    for other in (tmp_path / "link.db", tmp_path / "folder" / "app.db", tmp_path / ".." / tmp_path.name / "app.db"):
        with pytest.raises(JournalLocked):
            await open_journal(str(other))


async def test_a_lock_without_a_name_is_still_a_lock(journal: Journal, path: str) -> None:
    """The holder's note may be missing or half written."""
    for note in ("", "{", "[]"):
        Path(f"{path}.owner").write_text(note)
        with pytest.raises(JournalLocked, match="another engine"):
            await open_journal(path)


def _hold(path: str, pipe: Pipe) -> None:
    """A process that opens the journal, writes for ever, and says so."""

    async def main() -> None:
        journal = await open_journal(path)
        pipe.send("open")
        while True:
            number = journal.next_number
            await journal.commit([a_run(number), a_step(number)])
            journal.next_number += 1
            pipe.send(number)

    asyncio.run(main())


@contextmanager
def _other_process(path: str) -> Iterator[tuple[multiprocessing.process.BaseProcess, Pipe]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_hold, args=(path, there))
    process.start()
    there.close()
    try:
        assert here.recv() == "open"
        yield process, here
    finally:
        process.kill()
        process.join()
        here.close()


@pytest.mark.parametrize("enough", [1, 20, 150])
async def test_a_killed_owner_leaves_what_it_acknowledged_and_a_free_lock(path: str, enough: int) -> None:
    """Another process is locked out while it lives; kill -9 frees the file at once and loses nothing."""
    with _other_process(path) as (process, pipe):
        with pytest.raises(JournalLocked, match=rf"process {process.pid} on .*; .* open\(\.\.\., role=\"auto\"\)"):
            await open_journal(path)
        acknowledged = 0
        while acknowledged < enough:
            acknowledged = pipe.recv()
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        while pipe.poll():
            try:
                acknowledged = pipe.recv()
            except EOFError:
                break

    journal = await open_journal(path)
    assert not journal.clean
    assert journal.next_number in {acknowledged + 1, acknowledged + 2}
    recorded = await journal.recorded_runs(await journal.awake(limit=100_000))
    assert [r.run.number for r in recorded] == list(range(1, journal.next_number))
    assert all(len(r.steps) == 1 for r in recorded)
    await journal.close()


@pytest.mark.parametrize("place", ["after_begin", "before_commit", "after_commit", "before_release"])
async def test_a_kill_within_a_write_leaves_it_whole_or_away(path: str, place: str) -> None:
    """A run without its step is never found; what was committed but not told may be there."""
    script = f"""
import asyncio, os, signal
from tests.store.samples import a_run, a_step, open_journal

def kill(place):
    if place == {place!r} and armed:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    journal = await open_journal({path!r}, kill)
    await journal.commit([a_run(1), a_step(1)])
    armed.append(True)
    await journal.commit([a_run(2), a_step(2)])

armed = []
asyncio.run(main())
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False, timeout=60)
    assert run.returncode == -signal.SIGKILL

    journal = await open_journal(path)
    recorded = await journal.recorded_runs(await journal.awake())
    await journal.close()
    assert [r.run.number for r in recorded] == ([1] if place in {"after_begin", "before_commit"} else [1, 2])
    assert [len(r.steps) for r in recorded] == [1] * len(recorded)


# Cancelled openings


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_opening_leaves_nothing_open(path: str, turns: int) -> None:
    """Wherever the cancel comes in, the lock is free, no thread goes on, and the next owner finds a clean file."""
    threads = threading.enumerate()
    opening = asyncio.ensure_future(open_journal(path))
    for _ in range(turns):
        await asyncio.sleep(0.0004)
    opening.cancel()
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    if not opening.cancelled():
        await opening.result().close()

    assert not _threads_since(threads)
    journal = await open_journal(path)
    assert journal.clean
    await journal.close()


async def test_an_opening_that_fails_late_leaves_nothing_open(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is closed and the lock is free if the reader cannot be opened."""

    def broken(real: str) -> sqlite3.Connection:
        raise sqlite3.OperationalError("no more descriptors")

    monkeypatch.setattr(journal_module, "connect_reader", broken)
    threads = threading.enumerate()
    with pytest.raises(JournalError, match="no more descriptors"):
        await open_journal(path)
    assert not _threads_since(threads)
    monkeypatch.undo()

    await _used(path)


# Network file systems

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 27 0:40 / /mnt/nas rw,relatime - nfs4 nas:/vol rw
32 31 0:41 / /mnt/nas/local rw,relatime - ext4 /dev/vdb rw
33 27 0:42 / /mnt/with\040space rw,relatime shared:9 master:2 - cifs //srv/share rw
34 27 0:43 / /mnt/wsl rw - 9p drvfs rw
35 27 0:44 / /home/me/far rw - fuse.sshfs me@far: rw
36 27 0:45 / /home/me/pool rw - fuse.mergerfs a:b rw
37 27 0:46 / /twice rw - nfs nas:/a rw
38 37 0:47 / /twice rw - tmpfs tmpfs rw
broken line
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", None),
        ("/home/me", None),
        ("/mnt/nas", "nfs4"),
        ("/mnt/nas/deep/er", "nfs4"),
        ("/mnt/nas/local/x", None),
        ("/mnt/nas2", None),
        ("/mnt/with space/x", "cifs"),
        ("/mnt/wsl/c", "9p"),
        ("/home/me/far/x", "fuse.sshfs"),
        ("/home/me/pool/x", None),
        ("/twice/x", None),
    ],
)
def test_the_mount_that_holds_a_folder_tells_its_kind(folder: str, kind: str | None) -> None:
    """The longest mount point counts, and of two equal ones the later."""
    assert network_filesystem(MOUNTS, folder) == kind


async def test_a_network_file_system_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The WAL needs memory that all its readers share."""
    monkeypatch.setattr(files, "_read_mounts", lambda: f"27 1 254:0 / {Path(path).parent} rw - nfs4 nas:/vol rw\n")

    message = await _refused(path)
    assert "nfs4" in message
    assert "local disk" in message
    assert not Path(path).exists()


async def test_a_system_without_mount_table_is_taken_as_local(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has none."""
    monkeypatch.setattr(files, "_MOUNTS", Path("/nowhere/at/all"))

    await _used(path)
