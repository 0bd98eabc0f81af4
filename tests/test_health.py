"""What `pikku doctor` finds: each finding with its cure, from files that have it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from pikkupy import JournalFormatError, Pikku
from pikkupy.engine.health import Check, Level, checks_of, code_check, examine
from pikkupy.errors import JournalNotFound
from pikkupy.store import Facts, facts, facts_of, owner
from pikkupy.store.records import Records
from tests.journals import application, contents, cut_off, fill

NOW = 2_000_000_000_000_000


async def found(db: Path) -> dict[str, Check]:
    return {check.name: check for check in await examine(str(db))}


def judged(facts: Facts, **changes: object) -> dict[str, Check]:
    changed = msgspec.structs.replace(facts, **changes)
    return {check.name: check for check in checks_of(changed, NOW)}


@pytest.fixture
async def well(db: Path) -> Facts:
    """Facts of a file with which all is well."""
    await fill(db)
    found = facts_of(str(db), NOW, check=None)
    return msgspec.structs.replace(found, sqlite=(3, 51, 3), network=False, filesystem="ext4", free=1 << 40)


async def test_a_sound_file_is_sound_and_is_not_touched(db: Path) -> None:
    """No finding is bad, and each thing is looked at once."""
    await fill(db)
    before = contents(db.parent)

    checks = await examine(str(db))

    assert contents(db.parent) == before
    names = [check.name for check in checks]
    assert names == [
        "file",
        "content",
        "permissions",
        "owner",
        "sqlite",
        "pragmas",
        "file system",
        "space",
        "wal",
        "clock",
        "pages",
        "records",
        "next moves",
        "suspended",
    ]
    assert not [check for check in checks if check.level is Level.BAD]
    assert [check for check in checks if check.level is not Level.OK and check.name not in {"sqlite", "space"}] == []
    assert all((check.cure is None) is (check.level is Level.OK) for check in checks)


async def test_the_owner_is_named(db: Path) -> None:
    """Who holds it now, how the last one left, and that one was cut off."""
    async with application().open(db):
        assert (await found(db))["owner"].finding.startswith(f"held by process {os.getpid()} on ")
    assert "left in good order" in (await found(db))["owner"].finding


async def test_an_owner_that_was_cut_off_is_told_of(db: Path) -> None:
    """With what to do; the lock is not tried for that."""
    cut_off(db)

    check = (await found(db))["owner"]

    assert check.level is Level.WARN
    assert "was cut off: process" in check.finding
    assert "open an engine" in (check.cure or "")


async def test_a_system_that_does_not_tell_of_locks(db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc/locks, and where the last owner was on another host, nothing is claimed."""
    cut_off(db)
    signed = db.with_name("app.db.owner")
    signed.write_text('{"pid":1,"host":"elsewhere.example","started_at":1}')
    assert "does not tell" in (await found(db))["owner"].finding
    monkeypatch.setattr(owner, "_LOCKS", tmp_path / "nowhere")
    signed.unlink()
    assert "does not tell" in (await found(db))["owner"].finding


async def test_what_is_bad_is_bad(well: Facts) -> None:
    """One fact at a time, from files and machines that cannot be had in a test."""
    assert {check.level for check in judged(well).values()} == {Level.OK}
    for name, level, changes in (
        ("sqlite", Level.WARN, {"sqlite": (3, 51, 2)}),
        ("file system", Level.BAD, {"network": True, "filesystem": "nfs4"}),
        ("space", Level.WARN, {"free": 1 << 29}),
        ("space", Level.BAD, {"free": 1 << 20}),
        ("wal", Level.WARN, {"wal_size": 1 << 30}),
        ("clock", Level.WARN, {"newest_at": NOW + 5_000_000}),
        ("clock", Level.BAD, {"newest_at": NOW + 3_600_000_000}),
        ("permissions", Level.WARN, {"mode": 0o640}),
        ("permissions", Level.BAD, {"folder_mode": 0o777}),
        ("links", Level.BAD, {"links": 2}),
        ("pages", Level.BAD, {"findings": ("Tree 5 page 5: btreeInitPage() returns error code 11",)}),
        ("records", Level.BAD, {"records": Records(9, 2, ("step 'Pay' (position 0) of run 'r1'",))}),
        ("next moves", Level.BAD, {"lost": ("r1",)}),
        ("next moves", Level.WARN, {"overdue": 3, "held": True}),
    ):
        assert judged(well, **changes)[name].level is level, name
        assert judged(well, **changes)[name].cure
    assert judged(well, overdue=3)["next moves"].level is Level.OK  # nobody is there to wake them
    assert judged(well, folder_mode=0o1777)["permissions"].level is Level.OK
    assert "--check" in judged(well, findings=None)["pages"].finding
    assert "--check" in judged(well, records=None)["records"].finding


async def test_damage_is_found(db: Path) -> None:
    """SQLite's own check; what else can be said is said all the same."""
    await fill(db)
    data = bytearray(db.read_bytes())
    with closing(sqlite3.connect(db)) as connection:
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'pikkupy_steps'").fetchall()
    data[(page - 1) * 8192 : (page - 1) * 8192 + 64] = b"\xff" * 64
    db.write_bytes(data)

    checks = await found(db)

    assert checks["pages"].level is Level.BAD
    assert checks["records"].level is Level.BAD
    assert "left in good order" in checks["owner"].finding


async def test_a_large_file_is_checked_on_request(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take long."""
    await fill(db)
    monkeypatch.setattr(facts, "MAX_QUICK_CHECK", 1)

    for check, looked_at in ((None, False), (True, True), (False, False)):
        found = facts_of(str(db), NOW, check=check)
        assert ((found.findings == ()), (found.records is not None)) == (looked_at, looked_at)


async def test_a_run_that_nothing_can_wake_is_named(db: Path) -> None:
    """Those that wait for a signal, a child, a gate or a time are not."""
    await fill(db)
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE pikkupy_runs SET wakes_at = 1 << 62 WHERE run_id IN ('asking', 'mother', 'asleep', 'gated')"
        )
        assert (await found(db))["next moves"].level is Level.OK
        connection.execute("DELETE FROM pikkupy_steps WHERE name = 'receipt'")

    check = (await found(db))["next moves"]

    assert check.level is Level.BAD
    assert "'asking'" in check.finding and "'gated'" not in check.finding


async def test_runs_that_the_engine_has_suspended_are_counted_and_named(db: Path) -> None:
    """By what has to be done; those that their own code holds are none of them."""
    await fill(db)
    assert (await found(db))["suspended"].level is Level.OK
    async with Pikku().open(db):
        pass

    check = (await found(db))["suspended"]

    assert check.level is Level.WARN
    assert check.finding == (
        "5 suspended runs are of workflows that the application does not have: "
        "'asleep', 'asking', 'gated', 'mother', 'mother/Child'"
    )
    assert "open an engine that has them" in (check.cure or "")


async def test_the_pragmas_are_those_of_the_file(db: Path, well: Facts) -> None:
    finding = (await found(db))["pragmas"].finding

    assert finding.startswith("of the file: journal mode WAL, page size 8 KiB, auto-vacuum none; set by the engine: ")
    assert "a rollback journal" in judged(well, wal_mode=False)["pragmas"].finding


async def test_times_and_names_that_cannot_be_are_no_error(db: Path) -> None:
    """Whoever can write the file chooses them."""
    await fill(db)
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("UPDATE pikkupy_journal SET created_at = 1 << 62, owner_started_at = -(1 << 62)")
        connection.execute("UPDATE pikkupy_journal SET owner_host = NULL, clean = 0")
        connection.execute("UPDATE pikkupy_runs SET updated_at = 1 << 61")

    checks = await found(db)

    assert "no time" in checks["file"].finding
    assert checks["clock"].level is Level.BAD


async def test_a_link_to_the_file_is_the_file(db: Path) -> None:
    """Its size, its folder, its lock."""
    await fill(db)
    elsewhere = db.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(db)

    assert (await found(elsewhere / "link"))["content"] == (await found(db))["content"]


async def test_what_is_no_journal_is_refused(db: Path) -> None:
    """As everywhere."""
    with pytest.raises(JournalNotFound):
        await examine(str(db))
    shutil.copy(__file__, db)
    with pytest.raises(JournalFormatError):
        await examine(str(db))


def test_code_of_which_nothing_is_known_for_a_run_does_not_fit() -> None:
    """What cannot be read is named, some of many."""
    few, many = code_check(3, [], ["run 'a': damaged"]), code_check(0, [], [f"run {number}" for number in range(7)])

    assert (few.level, few.finding) == (Level.BAD, "1 of 4 unfinished runs cannot be read: run 'a': damaged")
    assert many.finding.endswith("run 4; and 2 more")
    assert code_check(3, []).finding == "all 3 unfinished runs fit it"
