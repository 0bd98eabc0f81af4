"""`pikku counts`, `doctor`, `backup` and `restore`: what they print, and how they end."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.shell import on_terminal, piped
from tests.journals import application, contents, cut_off, fill


@pytest.fixture
def journal(db: Path) -> Path:
    asyncio.run(fill(db))
    return db


def test_counts_by_workflow_and_status(journal: Path) -> None:
    """A table, lines, or a document."""
    done = piped("counts", journal)
    assert (done.code, done.err) == (0, "")
    assert ["sleeper", "cancelled", "1"] in done.lines and ["sleeper", "running", "1"] in done.lines
    assert json.loads(piped("counts", journal, "--json").out)["sleeper"] == {"cancelled": 1, "running": 1}
    lines = [line.split() for line in on_terminal("counts", journal).plain.splitlines()]
    assert lines[0] == ["workflow", "running", "suspended", "completed", "failed", "cancelled"]
    assert ["sleeper", "1", "1"] in lines


@pytest.mark.parametrize("columns", [50, 20])
def test_counts_on_a_narrow_terminal(journal: Path, columns: int) -> None:
    """Nothing is cut off, and nothing left out."""
    lines = on_terminal("counts", journal, columns=columns).plain.splitlines()
    assert lines[lines.index("fail") + 1].strip() == "1 failed"
    words = " ".join(" ".join(lines).split())
    assert "sleeper 1 running 1 cancelled" in words and "…" not in words


def test_counts_of_nothing(db: Path) -> None:
    """No table, a word about it, an empty document."""

    async def make() -> None:
        async with application().open(db):
            pass

    asyncio.run(make())
    assert piped("counts", db) == (0, "", "pikku: there are no runs\n")
    assert json.loads(piped("counts", db, "--json").out) == {}


def test_doctor_of_a_sound_file(journal: Path) -> None:
    """Exit code 0, each check on a line, or in a document."""
    done = piped("doctor", journal)
    assert (done.code, done.err) == (0, "")
    assert {fields[0] for fields in done.lines} <= {"ok", "warn"}
    assert {"file", "owner", "sqlite", "clock", "next moves"} <= {fields[1] for fields in done.lines}
    shown = json.loads(piped("doctor", journal, "--json").out)
    assert shown["ok"] is True
    assert {check["level"] for check in shown["checks"]} <= {"ok", "warn"}
    assert next(check["finding"] for check in shown["checks"] if check["name"] == "content").startswith(
        "runs: 8; steps: "
    )
    table = on_terminal("doctor", journal).plain
    assert "✔  owner" in table and "nobody; the last one left in good order" in table


def test_doctor_finds_what_is_bad_and_says_so_with_its_code(journal: Path) -> None:
    """Exit code 1, and a cure."""
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        connection.execute("UPDATE pikkupy_runs SET updated_at = 4102444800000000 WHERE run_id = 'stopped'")

    done = piped("doctor", journal)
    assert done.code == 1
    [clock] = [fields for fields in done.lines if fields[1] == "clock"]
    assert clock[0] == "bad" and "2100-01-01" in clock[2] and "set the clock right" in clock[3]
    assert json.loads(piped("doctor", journal, "--json").out)["ok"] is False
    assert "cure: set the clock right" in on_terminal("doctor", journal).plain


def test_doctor_beside_an_engine_and_after_one_that_was_killed(db: Path) -> None:
    """It says who holds the file, and that the last owner was cut off."""

    async def work() -> str:
        async with application().open(db):
            return (await asyncio.to_thread(piped, "doctor", db)).out

    assert "held by process" in asyncio.run(work())
    cut_off(db.with_name("cut.db"))
    assert "was cut off" in piped("doctor", db.with_name("cut.db")).out


def test_a_backup_by_command(journal: Path) -> None:
    """Data on stdout only if asked for; a second one of that name is refused and changes nothing."""
    out = journal.with_name("out.db")
    done = piped("backup", journal, out)
    assert (done.code, done.out) == (0, "")
    assert "8 runs and 10 steps" in done.err
    before = contents(journal.parent)

    again = piped("backup", journal, out)
    assert (again.code, again.out) == (5, "")
    assert "is there already" in again.err
    assert contents(journal.parent) == before

    made = json.loads(piped("backup", "other.db", "--json", cwd=journal.parent, PIKKU_DB="app.db").out)
    assert (made["runs"], made["out"]) == (8, str(journal.with_name("other.db")))
    assert piped("runs", "list", out).out.count("\n") == 8


def test_going_back_to_a_backup_by_command(journal: Path) -> None:
    """Data on stdout only if asked for; what was there is named."""
    out = journal.with_name("out.db")
    assert piped("backup", journal, out).code == 0

    done = piped("restore", out, journal)
    assert (done.code, done.out) == (0, "")
    assert "8 runs and 10 steps as in" in done.err
    assert f"what was there is {journal}.replaced now" in done.err

    made = json.loads(piped("restore", "out.db", "--json", cwd=journal.parent, PIKKU_DB="app.db").out)
    assert (made["runs"], made["replaced"]) == (8, f"{journal}.replaced.2")
    assert piped("runs", "list", journal).out.count("\n") == 8
    assert piped("restore", out, out).code == 2
    assert piped("restore", journal.with_name("nothing.db"), journal).code == 4

    async def while_it_is_open() -> None:
        async with application().open(journal):
            refused = await asyncio.to_thread(piped, "restore", out, journal)
            assert refused.code == 5
            assert "close that engine first" in refused.err

    asyncio.run(while_it_is_open())


def test_a_backup_that_cannot_be_made_leaves_nothing(db: Path) -> None:
    """No file, no folder; the code says why."""
    assert piped("backup", db, db.with_name("out.db")).code == 4
    asyncio.run(fill(db))
    assert piped("backup", db, db.parent / "nowhere" / "out.db").code == 4
    assert piped("backup", db).code == 2
    assert piped("backup", db, "").err == "pikku: OUT is empty: give the name of a new file\n"
    db.write_bytes(db.read_bytes()[:30_000])
    assert piped("backup", db, db.with_name("out.db")).code == 1
    assert sorted(path.name for path in db.parent.iterdir()) == ["app.db", "app.db.lock"]


def test_damaged_rows_are_bad_and_give_no_backup(journal: Path) -> None:
    """They are named with run and step, without code and against it; a copy of them is made if it is asked for."""
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        connection.execute("UPDATE pikkupy_steps SET output = '99' WHERE name = 'Begin'")
    (journal.parent / "shop.py").write_text("from tests.journals import application\npikku = application()\n")
    copy = journal.with_name("copy.db")

    examined = piped("doctor", journal, "shop:pikku", "--app-dir", journal.parent)
    refused = piped("backup", journal, copy)

    found = {fields[1]: fields for fields in examined.lines}
    assert examined.code == 1
    assert found["pages"][0] == "ok"
    assert found["records"][0] == "bad" and "step 'Begin' (position 0) of run 'asleep'" in found["records"][2]
    assert found["code"][0] == "bad" and "1 of 5 unfinished runs cannot be read: run 'asleep'" in found["code"][2]
    assert piped("doctor", journal).code == 1
    assert (refused.code, copy.exists()) == (1, False)
    assert "of run 'asleep'" in refused.err
    made = piped("backup", journal, copy, "--no-check")
    assert (made.code, "pages checked, in" in made.err) == (0, True)
    assert piped("restore", copy, journal).code == 1
    assert piped("restore", copy, journal, "--no-check").code == 0
