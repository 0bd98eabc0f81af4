"""The schema says the same as the records and the state machine, and the reads use its indexes."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any

import msgspec
import pytest

from pikkupy.core.machine import FINAL_RUNS, FINAL_STEPS
from pikkupy.core.model import (
    AttemptRow,
    AttemptStatus,
    ChunkRow,
    RunRow,
    RunStatus,
    StepKind,
    StepRow,
    StepStatus,
    TimerRow,
)
from pikkupy.store.migrations import APPLICATION_ID, migrate
from pikkupy.store.plan import MAX_ROWS, Kind
from pikkupy.store.queries import QUERIES, WRITING, insert, script
from pikkupy.store.rows import key_of, run_columns, step_columns
from tests.store.samples import a_run, a_step, empty_journal, put_run, put_step, raw

RECORDS: dict[str, type[msgspec.Struct]] = {
    "pikkupy_runs": RunRow,
    "pikkupy_steps": StepRow,
    "pikkupy_attempts": AttemptRow,
    "pikkupy_timers": TimerRow,
    "pikkupy_chunks": ChunkRow,
}


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """An empty journal."""
    with empty_journal() as db:
        yield db


def _cases(table: str, column: str) -> dict[str, str]:
    """What the CHECK of a table demands, by the words of the column."""
    body = script("schema.sql").split(f"CREATE TABLE {table} (")[1].split(") STRICT")[0]
    case = body.split(f"CASE {column}\n")[1].split("END")[0]
    return dict(re.findall(r"WHEN '(\w+)' THEN (.*)", case))


def _demanding(cases: dict[str, str], what: str) -> set[str]:
    return {word for word, demands in cases.items() if what in demands}


def _values(words: Iterable[StrEnum]) -> set[str]:
    return {word.value for word in words}


def test_statuses_in_the_checks_are_those_of_the_model() -> None:
    """Each has its line in the table's CHECK; those that demand an end are the final ones of the state machine."""
    runs, steps = _cases("pikkupy_runs", "status"), _cases("pikkupy_steps", "status")

    assert runs.keys() == _values(RunStatus)
    assert _demanding(runs, "ended_at IS NOT NULL") == _values(FINAL_RUNS)
    assert steps.keys() == _values(StepStatus)
    assert _demanding(steps, "ended_at IS NOT NULL") == _values(FINAL_STEPS)
    assert _demanding(steps, "coalesce(seq, 0) > 0") == {"succeeded", "failed"}  # those with an outcome
    assert _cases("pikkupy_steps", "kind").keys() == _values(StepKind)
    attempts = script("schema.sql").split("CREATE TABLE pikkupy_attempts (")[1]
    [words] = re.findall(r"\bstatus IN \(([^)]*)\)", attempts.split(") STRICT")[0])
    assert set(re.findall(r"\w+", words)) == _values(AttemptStatus)


def test_final_statuses_in_the_queries_are_those_of_the_machine() -> None:
    """What guards final steps, and what counts as unfinished, follows the tables of the state machine."""
    finals = {status.value for status in FINAL_STEPS}
    for name in ("step", "succeeded", "cancel"):
        [words] = re.findall(r"NOT IN \(([^)]*)\)", WRITING[name])
        assert set(re.findall(r"\w+", words)) == finals
    unfinished = {status.value for status in set(RunStatus) - FINAL_RUNS}
    for text in (QUERIES["awake_runs"], script("schema.sql").split("pikkupy_runs_awake ON")[1]):
        words = re.findall(r"status IN \(([^)]*)\)", text)[0]
        assert set(re.findall(r"\w+", words)) == unfinished


def test_columns_are_the_fields_of_the_records(db: sqlite3.Connection) -> None:
    """In the same order, with the checksums last and a key before them: rows are built by position."""
    for table, record in RECORDS.items():
        columns = [row[1] for row in db.execute(f"PRAGMA table_xinfo({table})") if row[1] != "key"]
        fields = list(record.__struct_fields__)
        assert columns[: len(fields)] == fields
        assert all(name.endswith("checksum") for name in columns[len(fields) :])


@pytest.mark.parametrize("status", list(RunStatus))
@pytest.mark.parametrize("column", ["output", "error", "reason", "ended_at"])
def test_an_illegal_run_cannot_be_written(db: sqlite3.Connection, status: RunStatus, column: str) -> None:
    """Output exactly when completed, error exactly when failed, end exactly when final, a reason only with a cause."""
    legal = _legal_run(status)
    put_run(db, legal)
    db.execute("DELETE FROM pikkupy_runs")
    place = RunRow.__struct_fields__.index(column)
    wrong = list(legal)
    wrong[place] = None if legal[place] is not None else (5 if column == "ended_at" else '"x"')

    if column == "reason" and status in {RunStatus.CANCELLED, RunStatus.SUSPENDED}:
        put_run(db, wrong)  # the reason may be missing
        return
    with pytest.raises(sqlite3.IntegrityError):
        put_run(db, wrong)


def _legal_run(status: RunStatus) -> list[object]:
    columns = list(run_columns(a_run(status=status)))
    fields = RunRow.__struct_fields__
    if status is RunStatus.COMPLETED:
        columns[fields.index("output")] = "null"
    if status is RunStatus.FAILED:
        columns[fields.index("error")] = "{}"
    if status in {RunStatus.CANCELLED, RunStatus.SUSPENDED}:
        columns[fields.index("reason")] = "why"
    return columns


@pytest.mark.parametrize(
    ("status", "wrong"),
    [
        (StepStatus.SUCCEEDED, {"output": None}),
        (StepStatus.SUCCEEDED, {"seq": None}),
        (StepStatus.SUCCEEDED, {"seq": 0}),
        (StepStatus.SUCCEEDED, {"error": "{}"}),
        (StepStatus.SUCCEEDED, {"ended_at": None}),
        (StepStatus.FAILED, {"error": None}),
        (StepStatus.FAILED, {"output": "1"}),
        (StepStatus.FAILED, {"seq": None}),
        (StepStatus.CANCELLED, {"seq": 3}),
        (StepStatus.CANCELLED, {"output": "1"}),
        (StepStatus.CANCELLED, {"ended_at": None}),
        (StepStatus.RUNNING, {"output": "1"}),
        (StepStatus.RUNNING, {"ended_at": 5}),
        (StepStatus.RUNNING, {"seq": 3}),
        (StepStatus.RUNNING, {"attempts": -1}),
        (StepStatus.RUNNING, {"cut_offs": -1}),
        (StepStatus.RUNNING, {"kind": "dance"}),
        (StepStatus.RUNNING, {"status": "lost"}),
        (StepStatus.RUNNING, {"key": key_of(2, 0)}),
        (StepStatus.RUNNING, {"key": None}),
        (StepStatus.RUNNING, {"key": -1}),
        (StepStatus.RUNNING, {"attempts": "many"}),
    ],
)
def test_an_illegal_step_cannot_be_written(
    db: sqlite3.Connection, status: StepStatus, wrong: dict[str, object]
) -> None:
    """The CHECKs refuse each, though the same row without the fault is accepted."""
    put_run(db, run_columns(a_run()))
    columns = list(step_columns(a_step(status=status)))
    put_step(db, columns)
    db.execute("DELETE FROM pikkupy_steps")
    for name, value in wrong.items():
        columns[0 if name == "key" else StepRow.__struct_fields__.index(name) - 1] = value

    with pytest.raises(sqlite3.IntegrityError):
        put_step(db, columns)


def _body(text: str) -> list[str]:
    """The statements of a trigger."""
    return re.sub(r".*?\bBEGIN\b|\bEND;$", "", text, flags=re.DOTALL).split(";")[:-1] if "BEGIN" in text else []


BY_KEY = [
    "steps",
    "some_steps",
    "steps_with_errors",
    "how_many_steps",
    "attempts_of_steps",
    "steps_after",
    "attempts",
    "steps_of_runs",
    "timers_of_runs",
    "kept_signals",
    "changes_of_runs",
    "set_aside_of_runs",
    "last_places",
    "chunks",
    "next_chunks",
    "last_change",
    "recent_change",
]


EACH = {"counts", "how_much", "how_many_steps_with_errors", "each_run"}  # what counts or compares rows looks at all


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, text in QUERIES.items()
        if text.startswith(("SELECT", "WITH")) and "pikkupy_runs" in text and name not in EACH and "listed" not in name
    ]
    + BY_KEY,
)
def test_a_statement_finds_its_rows_by_an_index(db: sqlite3.Connection, name: str) -> None:
    """No walk through a table and no sorting, except of the few rows that some group. Lists: test_listing.py."""
    names = set(re.findall(r":(\w+)", QUERIES[name]))
    parameters = dict.fromkeys(names, 1) if names else [None] * QUERIES[name].count("?")
    plan = _plan(db, QUERIES[name], parameters)

    assert _walks(plan) == []
    if name not in {"last_change", "last_places", "families"}:
        assert not [line for line in plan if "TEMP B-TREE" in line]


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name in WRITING for number, _ in enumerate(_body(WRITING[name]))]
)
def test_a_trigger_finds_its_rows_by_an_index(db: sqlite3.Connection, name: str, number: int) -> None:
    """The same for each statement of each change that is written."""
    statement = re.sub(r"new\.(\w+)", r":\1", _body(WRITING[name])[number]).replace("raise(ABORT,", "max(1,")
    plan = _plan(db, statement, {"epoch": 1} | {f"c{column}": 1 for column in range(1, 17)})

    assert _walks(plan) == []
    assert not [line for line in plan if "TEMP B-TREE" in line]


def _plan(db: sqlite3.Connection, statement: str, parameters: Any) -> list[str]:
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]


def _walks(plan: Sequence[str]) -> list[str]:
    walks = [line for line in plan if line.startswith("SCAN") and "USING INDEX pikkupy_runs_awake" not in line]
    few = (
        "SCAN json_each",
        "SCAN CONSTANT ROW",
        "SCAN 1 CONSTANT",
        "SCAN (subquery",
        "SCAN pikkupy_journal",  # one row
        "SCAN pikkupy_deleted",  # two hundred of it
        *(f"SCAN {name}" for name in ("wanted", "family", "gone", "found", "known")),
    )
    return [line for line in walks if not line.startswith(few)] + [line for line in plan if _is_open(line)]


def _is_open(line: str) -> bool:
    """A range of keys without one of its ends: it goes on through the rows of other runs."""
    return "INTEGER PRIMARY KEY (rowid>?)" in line or "INTEGER PRIMARY KEY (rowid<?)" in line


def test_counting_reads_an_index_alone(db: sqlite3.Connection) -> None:
    """It has to walk all runs, in the order in which it groups them; the runs themselves are not read."""
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {QUERIES['counts']}")]

    assert plan == ["SCAN pikkupy_runs USING COVERING INDEX pikkupy_runs_by_workflow"]


def test_what_is_pruned_is_found_by_its_end(db: sqlite3.Connection) -> None:
    """Between two ends, in their order."""
    names = set(re.findall(r":(\w+)", QUERIES["ended_runs"]))
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {QUERIES['ended_runs']}", dict.fromkeys(names, 1))]

    assert plan == ["SEARCH pikkupy_runs USING INDEX pikkupy_runs_ended (ended_at>? AND ended_at<?)"]


def test_the_tags_of_a_deleted_run_are_found_by_their_key(db: sqlite3.Connection) -> None:
    """What the trigger does; not by a walk through all tags."""
    [delete] = re.findall(r"DELETE FROM pikkupy_tags .*", script("schema.sql"))
    text = delete.replace("old.number", "1").replace("old.tags", "'{}'")
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {text}")]

    assert plan[0] == "SEARCH pikkupy_tags USING PRIMARY KEY (name=? AND value=? AND run=?)"


def test_runs_for_the_memory_are_found_without_walking_others(db: sqlite3.Connection) -> None:
    """The planner takes the partial indexes, within the bounds of the chunk."""
    for name, index in (
        ("awake_runs", "pikkupy_runs_awake (number>?"),
        ("due_runs", "pikkupy_runs_waking (wakes_at<?"),
        ("next_waking", "pikkupy_runs_waking"),
        ("of_workflow", "pikkupy_runs_by_workflow (workflow=? AND status=? AND number>?)"),
        ("suspended_in_file", "pikkupy_runs_suspended_in_file (workflow=? AND number>?)"),
    ):
        parameters = {"after": 1, "until": 9, "limit": 5, "workflow": "flow", "status": "running"}
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {QUERIES[name]}", parameters)]
        assert any(f"INDEX {index}" in line for line in plan), plan


def test_the_largest_statement_stays_under_the_limit_of_parameters() -> None:
    """SQLite allows 32,766."""
    for usual in (True, False):
        one, most = insert(1, usual=usual), insert(MAX_ROWS, usual=usual)
        assert most.count("?") == MAX_ROWS * one.count("?") <= 32_766


def test_every_kind_of_change_has_its_trigger() -> None:
    """And every trigger but that of the owner a kind."""
    kinds = {name for name, text in WRITING.items() if f"new.kind = {{{name}}}" in text}

    assert kinds == {kind.name.lower() for kind in Kind}
    assert WRITING.keys() - kinds == {"view", "usual_view", "is_prepared", "insert", "insert_usual", "owner"}


def test_every_name_begins_with_the_prefix(db: sqlite3.Connection) -> None:
    """So that they do not meet an application's own; the two views are the only others."""
    names = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")}

    assert {name for name in names if not name.startswith("pikkupy_")} == {"pikku_runs", "pikku_steps"}


def test_the_file_is_marked_as_a_journal(db: sqlite3.Connection) -> None:
    """`file` and other tools can tell; "piku" is the text of the application id."""
    assert APPLICATION_ID.to_bytes(4, "big") == b"piku"
    assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)


def test_the_views_have_readable_columns(db: sqlite3.Connection) -> None:
    """Run ids, ISO times, and errors taken apart."""
    db.execute("PRAGMA trusted_schema = 0")
    put_run(db, run_columns(a_run()))
    put_step(db, step_columns(a_step(status=StepStatus.FAILED)))
    db.row_factory = sqlite3.Row

    run = dict(db.execute("SELECT * FROM pikku_runs").fetchone())
    step = dict(db.execute("SELECT * FROM pikku_steps").fetchone())

    assert run["run_id"] == step["run_id"] == "run-1"
    assert (run["created_at"], run["ended_at"]) == ("2030-03-17T17:46:40.000Z", None)
    assert (step["error_type"], step["error_message"]) == ("app.Boom", "too hot")
    assert {"workflow", "status", "input", "output", "reason"} <= set(run)
    assert {"position", "name", "kind", "attempts", "wake_at", "started_at"} <= set(step)


def test_the_schema_is_sound(tmp_path: object, path: str) -> None:
    """A file made of it passes SQLite's own check."""
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, 0, stamped=True, now_us=0)
    db.close()

    assert raw(path, "PRAGMA integrity_check") == [("ok",)]
