"""`pikku runs list` and `show`: on terminals and pipes, by filters, with exit codes."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Pikku, RunFailed, Workflow
from pikkupy.cli.app import run
from pikkupy.engine.looking import Look
from pikkupy.testing import VirtualClock
from tests.cli.shell import Ended, on_terminal, piped, unread
from tests.journals import application, cut_off, fill


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of each sort; nothing here changes it."""
    path = tmp_path_factory.mktemp("journal") / "app.db"
    asyncio.run(fill(path))
    return path


@pytest.fixture
def pikku(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A command in this process, its output captured as by a pipe."""
    for name in ("PIKKU_DB", "COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: object) -> Ended:
        code = run([str(one) for one in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    yield call


def ids(ended: Ended) -> list[str]:
    return [fields[1] for fields in ended.lines]


# Lists


def test_a_list_on_a_pipe_has_a_line_per_run_and_tabs(journal: Path) -> None:
    """Nothing else, and nothing is cut off: status, id, workflow, start, seconds, what it waits for or why it ended."""
    done = piped("runs", "list", journal)

    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    rows = {fields[1]: fields for fields in done.lines}
    assert list(rows) == ["stopped", "mother/Child", "mother", "gated", "asking", "asleep", "declined", "done"]
    assert {len(fields) for fields in rows.values()} == {6}
    assert rows["declined"][0] == "failed" and rows["declined"][4] == "120.000"
    assert rows["declined"][3].endswith("Z")
    assert [rows[run_id][5].split(" until")[0] for run_id in rows] == [
        "enough",
        "waits for the signal or decision receipt",
        "waits for the child run of Child",
        "look at it",
        "waits for the signal or decision receipt",
        "sleeps",
        "tests.journals.Declined: no money",
        "",
    ]


def test_times_on_a_pipe_are_in_utc_wherever_the_machine_is(journal: Path) -> None:
    """Those in what a run waits for as well."""
    rows = {fields[1]: fields for fields in piped("runs", "list", journal, TZ="Asia/Tokyo").lines}
    assert re.search(r" until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*Z \(", rows["asleep"][5])


def test_a_list_on_a_terminal_is_a_table(journal: Path) -> None:
    """With a symbol and a colour for the status, the newest first, and the first line of the error."""
    done = on_terminal("runs", "list", journal, columns=160)

    assert (done.code, done.err) == (0, "")
    assert "\x1b[" in done.out
    lines = done.plain.splitlines()
    assert lines[0].split() == ["status", "id", "workflow", "started", "took"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["∅", "cancelled", "stopped"],
        ["▶", "running", "mother/Child"],
        ["▶", "running", "mother"],
        ["‖", "suspended", "gated"],
        ["▶", "running", "asking"],
        ["▶", "running", "asleep"],
        ["✘", "failed", "declined"],
        ["✔", "completed", "done"],
    ]
    assert "Declined: no money" in lines[7] and "at all" not in done.plain
    assert all(len(line) <= 160 for line in lines)


def test_without_colour_and_without_unicode(journal: Path) -> None:
    """`NO_COLOR` takes the colours away; a terminal that only has ASCII gets ASCII."""
    done = on_terminal("runs", "list", journal, NO_COLOR="1")
    assert not {code for code in range(30, 50) if f"\x1b[{code}m" in done.out or f";{code}m" in done.out}
    assert "✘ failed" in done.plain

    done = on_terminal("runs", "show", journal, "declined", NO_COLOR="1", PYTHONIOENCODING="ascii")
    assert done.plain.isascii()
    assert "x failed  declined" in done.plain
    assert "x failed attempt  . between attempts" in done.plain


def test_an_id_is_shown_to_its_last_character_on_a_narrow_terminal(journal: Path) -> None:
    """It is what people copy."""
    done = on_terminal("runs", "list", journal, "--id-prefix", "mother", columns=40)

    assert done.code == 0
    assert max(map(len, done.plain.splitlines())) <= 40


@pytest.mark.parametrize("columns", [80, 40])
def test_status_and_reason_are_never_left_out(columns: int, db: Path) -> None:
    """Where ids as the engine makes them leave no room for a table, a run has two lines; a step with an error, too."""
    why = "the bank says no to this card, which its owner has reported lost"

    async def make() -> str:
        clock = VirtualClock(autojump=True)
        async with application().open(db, clock=clock) as engine:
            failed = await engine.start("fail", why)
            with suppress(RunFailed):
                await failed.result()
            await engine.start("gate")
            await clock.advance("1s")
            return failed.id

    failed = asyncio.run(make())
    page = on_terminal("runs", "list", db, columns=columns).plain
    shown = on_terminal("runs", "show", db, failed, columns=columns).plain

    assert max(map(len, page.splitlines())) <= columns
    gated, declined = (" ".join(entry.split()) for entry in page.split("✘"))
    assert failed in declined and declined.endswith(f"Declined: {why}")
    assert gated.startswith("‖ suspended" if columns == 80 else "‖ ") and gated.endswith("look at it")
    steps = " ".join(shown.split("pikkupy.errors.StepFailed")[1].split())
    assert f"Declined: {why} " in steps[steps.index("✘ Charge") :]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--status", "failed"], ["declined"]),
        (["--status", "failed", "--status", "completed"], ["declined", "done"]),
        (["--workflow", "asks"], ["mother/Child", "asking"]),
        (["--tag", "customer=ada"], ["done"]),
        (["--tag", "customer=bob"], []),
        (["--id-prefix", "mother"], ["mother/Child", "mother"]),
        (["--error", "no money"], ["declined"]),
        (["--error", "Declined"], ["declined"]),
        (["--since", "1m"], []),
        (["--since", "2h", "--status", "failed"], ["declined"]),
        (["--until", "2h"], []),
        (["--until", "2000-01-01T00:00:00Z"], []),
        (["--since", "2000-01-01", "--status", "completed"], ["done"]),
        (["--status", "running", "--workflow", "sleeper"], ["asleep"]),
    ],
)
def test_filters_are_those_of_list_runs(journal: Path, pikku: Any, filters: list[str], found: list[str]) -> None:
    """All have to fit."""
    done = pikku("runs", "list", journal, *filters)

    assert done.code == 0
    assert ids(done) == found
    assert done.err == ("" if found else "pikku: there are no such runs\n")


def test_pages_follow_each_other(journal: Path, pikku: Any) -> None:
    """The cursor is talk, and so on stderr; in JSON it is data."""
    first = pikku("runs", "list", journal, "--limit", 3)
    cursor = first.err.split("--cursor ")[1].strip()
    second = pikku("runs", "list", journal, "--limit", 3, "--cursor", cursor)
    third = pikku("runs", "list", journal, "--limit", 3, "--cursor", second.err.split("--cursor ")[1].strip())

    assert ids(first) + ids(second) + ids(third) == ids(pikku("runs", "list", journal))
    assert third.err == ""
    assert json.loads(pikku("runs", "list", journal, "--limit", 3, "--json").out)["next_cursor"] == cursor


def test_a_list_as_json(journal: Path, pikku: Any) -> None:
    """One document with all that is known, or a line per run."""
    done = pikku("runs", "list", journal, "--json")
    page = json.loads(done.out)
    lines = [json.loads(line) for line in pikku("runs", "list", journal, "--jsonl").out.splitlines()]

    assert done.err == ""
    assert page["next_cursor"] is None and page["damaged"] == []
    assert [run["id"] for run in page["runs"]] == [run["id"] for run in lines]
    by_id = {run["id"]: run for run in page["runs"]}
    assert by_id["done"]["input"] == by_id["done"]["output"] == {"n": [1, None, "é"]}
    assert by_id["done"]["tags"] == {"customer": "ada"}
    assert by_id["declined"]["error"]["message"] == "no money\nat all"
    assert by_id["asleep"]["open_steps"][0]["name"] == "nap"
    assert by_id["asleep"]["open_steps"][0]["wake_at"].endswith("Z")
    assert by_id["mother/Child"]["parent_run_id"] == "mother"


def test_a_journal_without_runs(db: Path, pikku: Any) -> None:
    """An empty list is no failure, and says that it is empty; JSON is a document all the same."""

    async def make() -> None:
        async with Pikku().open(db):
            pass

    asyncio.run(make())
    assert pikku("runs", "list", db) == (0, "", "pikku: there are no such runs\n")
    assert json.loads(pikku("runs", "list", db, "--json").out)["runs"] == []
    assert pikku("runs", "list", db, "--jsonl").out == ""
    assert on_terminal("runs", "list", db) == (0, "", "pikku: there are no such runs\n")


def test_a_damaged_run_does_not_hide_the_others(db: Path, pikku: Any) -> None:
    """The others are listed, it is named, and the exit code says that something is missing."""
    asyncio.run(fill(db))
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("UPDATE pikkupy_runs SET reason = 'other' WHERE run_id = 'stopped'")

    done = pikku("runs", "list", db)
    assert done.code == 1
    assert len(ids(done)) == 7
    assert "left out: run 'stopped'" in done.err
    assert "stopped" in json.loads(pikku("runs", "list", db, "--json").out)["damaged"][0]
    done = pikku("runs", "show", db, "stopped")
    assert done.code == 1 and "is damaged" in done.err


# One run


def test_a_failed_run_is_shown_with_its_error_its_attempts_and_a_timeline(journal: Path) -> None:
    """Header, values, error with traceback, steps; failed attempts and the waits between them have shapes."""
    done = on_terminal("runs", "show", journal, "declined")

    assert (done.code, done.err) == (0, "")
    for words in (
        "✘ failed  declined  fail",
        'input        "no money\\nat all"',
        "error        tests.journals.Declined: no money",
        "Traceback (most recent call last):",
        "▒ failed attempt  · between attempts",
    ):
        assert words in done.plain
    [step] = [line for line in done.plain.splitlines() if line.startswith("✘  Charge")]
    assert step.split()[:4] == ["✘", "Charge", "inline", "3"]
    [bar] = [line for line in done.plain.splitlines() if line.startswith("Charge ")]
    assert bar.count("▒") == 3 and bar.startswith("Charge ▒··") and bar.rstrip().endswith("··▒")
    assert "now" not in done.plain.splitlines()[-1]


def test_an_unfinished_run_says_what_it_waits_for_and_where_now_is(journal: Path, pikku: Any) -> None:
    """The part to come of a long sleep does not squeeze what was."""
    done = pikku("runs", "show", journal, "asleep")

    assert "▶ running  asleep  sleeper" in done.out
    assert " so far" in done.out
    assert "sleeps until " in done.out
    [bar] = [line for line in done.out.splitlines() if line.startswith("Begin ")]
    assert 0.7 < (bar.index("│") - 6) / (120 - 6) < 0.8
    assert done.out.splitlines()[-1].strip() == "█ attempt  ─ sleep  │ now"


def test_parents_children_tags_and_reasons_are_shown(journal: Path, pikku: Any) -> None:
    """In the header, and with the step."""
    assert "parent       mother\n" in pikku("runs", "show", journal, "mother/Child").out
    assert "run mother/Child" in pikku("runs", "show", journal, "mother").out
    assert "tags         customer=ada\n" in pikku("runs", "show", journal, "done").out
    assert "reason       enough\n" in pikku("runs", "show", journal, "stopped").out
    assert "held by the gate look at it" in pikku("runs", "show", journal, "gated").out


def test_a_run_as_json(journal: Path, pikku: Any) -> None:
    """Run, steps and attempts in one document."""
    shown = json.loads(pikku("runs", "show", journal, "declined", "--json").out)

    assert shown["run"]["id"] == "declined"
    assert [step["name"] for step in shown["steps"]] == ["Charge"]
    assert [attempt["attempt"] for attempt in shown["attempts"]] == [1, 2, 3]
    assert shown["steps_in_all"] == 1


def test_a_long_run_shows_its_last_steps(db: Path, pikku: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how many there are; the others on request, in JSON all. Those that are not shown are not read."""
    pikku_ = Pikku()

    @pikku_.workflow
    async def long(workflow: Workflow) -> None:
        for number in range(130):
            await workflow.do("Step", lambda number=number: number)

    async def make() -> None:
        async with pikku_.open(db) as engine:
            await engine.run(long, run_id="long")

    asyncio.run(make())
    done = pikku("runs", "show", db, "long")
    assert "the last 50 of 130 steps (--last 0 shows all)" in done.out
    assert "Step#129" in done.out and "Step#79 " not in done.out and "Step#80 " in done.out
    assert "Step#1 " in pikku("runs", "show", db, "long", "--last", 0).out
    few = json.loads(pikku("runs", "show", db, "long", "--last", 2, "--json").out)
    assert [step["name"] for step in few["steps"]] == ["Step#128", "Step#129"]
    assert [attempt["step_name"] for attempt in few["attempts"]] == ["Step#128", "Step#129"]
    assert (few["steps_in_all"], len(json.loads(pikku("runs", "show", db, "long", "--json").out)["steps"])) == (
        130,
        130,
    )
    assert pikku("runs", "show", db, "long", "--last", -1).code == 2
    monkeypatch.delattr(Look, "steps")
    monkeypatch.delattr(Look, "history")
    assert pikku("runs", "show", db, "long") == done


def test_a_run_of_a_file_that_is_at_work_and_of_one_that_was_cut_off(db: Path, pikku: Any) -> None:
    """No engine is needed, and none is disturbed."""

    async def work() -> Ended:
        async with application().open(db) as engine:
            await engine.run("echo", 1, run_id="done")
            return await asyncio.to_thread(piped, "runs", "show", db, "done")

    assert asyncio.run(work()).code == 0
    cut = db.with_name("cut.db")
    cut_off(cut)
    assert set(ids(pikku("runs", "list", cut))) == {"done", "asleep", "gated"}


# Which file, and how it ends


def test_the_file_may_be_named_by_the_environment(journal: Path, pikku: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every command; what is on the command line wins."""
    monkeypatch.setenv("PIKKU_DB", str(journal))
    assert len(ids(pikku("runs", "list"))) == 8
    assert "done" in pikku("runs", "show", "done").out
    monkeypatch.setenv("PIKKU_DB", "/nowhere/at.all")
    assert "done" in pikku("runs", "show", journal, "done").out
    assert pikku("runs", "list").code == 4


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["runs", "list"], 2, "set PIKKU_DB"),
        (["runs", "show", "{}"], 2, "give FILE and RUN"),
        (["runs", "list", "/nowhere/app.db"], 4, "does not exist"),
        (["runs", "show", "{}", "nobody"], 4, "nobody"),
        (["runs", "list", "{}", "--status", "dance"], 2, 'Choose from: "running"'),
        (["runs", "list", "{}", "--limit", "0"], 2, '"0" for --limit'),
        (["runs", "list", "{}", "--limit", "many"], 2, "many"),
        (["runs", "list", "{}", "--cursor", "x"], 2, "--cursor='x'"),
        (["runs", "list", "{}", "--since", "soon"], 2, "--since='soon'"),
        (["runs", "list", "{}", "--tag", "customer"], 2, "name=value"),
        (["runs", "list", "{}", "--dance"], 2, "--dance"),
        (["runs", "list", __file__], 1, "not an SQLite database"),
        (["runs", "dance"], 2, "dance"),
    ],
)
def test_what_is_wrong_is_said_on_stderr_with_a_code(
    journal: Path, pikku: Any, arguments: list[str], code: int, words: str
) -> None:
    """Nothing is on stdout then."""
    done = pikku(*(one.replace("{}", str(journal)) for one in arguments))

    assert done.code == code
    assert done.out == ""
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "command", [["runs", "list"], ["runs", "show"], ["counts"], ["doctor"], ["backup"], ["runs"], []]
)
def test_every_command_has_help(pikku: Any, command: list[str]) -> None:
    """With the exit codes."""
    done = pikku(*command, "--help")

    assert (done.code, done.err) == (0, "")
    assert "Usage: pikku" in done.out and "Exit codes: 0 done" in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "list", "app.db"),
        ("runs", "list", "app.db", "--json"),
        ("runs", "show", "app.db", "done"),
        ("counts", "app.db"),
        ("doctor", "app.db"),
        ("runs", "list", "--help"),
        ("--help",),
        ("--version",),
    ],
    ids=" ".join,
)
def test_a_reader_that_has_had_enough_is_no_error(db: Path, arguments: tuple[str, ...]) -> None:
    """As `head` has."""
    asyncio.run(fill(db))
    assert unread(*arguments, cwd=db.parent) == (0, "", "")


def test_a_run_that_waits_for_a_suspended_one_says_so(db: Path) -> None:
    """And why that is suspended: the run itself goes on as soon as that does."""
    pikku = Pikku()

    @pikku.workflow
    async def gate(workflow: Workflow) -> None:
        await workflow.suspend("look at it")

    @pikku.workflow
    async def parent(workflow: Workflow) -> None:
        await workflow.do("Part", gate)

    async def work() -> None:
        clock = VirtualClock()
        async with pikku.open(db, clock=clock) as engine:
            await engine.start(parent, run_id="r")
            await clock.advance(0)

    asyncio.run(work())
    shown = piped("runs", "show", db, "r").out
    assert "waits for the child run of Part; run r/Part is suspended: look at it" in shown


def test_a_run_that_begins_later_says_when(db: Path) -> None:
    """It has not started."""

    async def work() -> None:
        async with application().open(db) as engine:
            await engine.start("echo", run_id="later", delay="1d")

    asyncio.run(work())
    words = [line.split()[0] for line in piped("runs", "show", db, "later").out.splitlines()[1:] if line]
    assert "begins" in words and "created" in words
    assert not {"started", "took"} & set(words)
