"""Lists of runs: every way to them finds the same, and each goes by an index."""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import ErrorInfo, RunFilter, RunRow, RunStatus
from pikkupy.store import listing, reader
from pikkupy.store.queries import QUERIES
from pikkupy.store.rows import run_columns
from tests.store.samples import NOW, a_run, empty_journal, put_run

FILTERS: dict[str, Any] = {
    "workflow": "w1",
    "statuses": (RunStatus.FAILED, RunStatus.RUNNING),
    "tags": (("a", "1"), ("b", "2")),
    "id_prefix": "é\U0010ffff",
    "error": 'no "x" \\ é\n',
    "text": "é\U0010ffff",
    "created_after": NOW + 3,
    "created_before": NOW + 7,
}
COMBINED = [
    RunFilter(**{name: FILTERS[name] for name in names})
    for count in range(len(FILTERS) + 1)
    for names in itertools.combinations(FILTERS, count)
]


CALLED = ("é\U0010ffff", "an é\U0010ffff")  # workflows whose names have the text


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """An empty journal."""
    with empty_journal() as db:
        yield db


def _insert(db: sqlite3.Connection, rows: list[RunRow]) -> None:
    for row in rows:
        put_run(db, run_columns(row))


def _random_run(rng: random.Random, number: int) -> RunRow:
    status = rng.choice(list(RunStatus))
    changes: dict[str, Any] = {}
    if status is RunStatus.COMPLETED:
        changes["output"] = "null"
    if status is RunStatus.FAILED:
        kind, message = rng.choice(
            [("app.Boom", 'no "x" \\ é\n!'), ('no "x" \\ é\n', "hot"), ("app.é\U0010ffff", "no x"), ("app.Error", "é")]
        )
        changes["error"] = ErrorInfo(kind, message, 'no "x" \\ é\n')
    if rng.random() < 0.7:
        changes["tags"] = json.dumps({name: rng.choice("12") for name in "ab" if rng.random() < 0.8})
    prefix = rng.choice(["é\U0010ffff", "é\U0010fffe", "é", "\U0010ffff", "é\U0010ffff\U0010ffff"])
    return a_run(
        number,
        run_id=f"{prefix}{number}",
        workflow=rng.choice(["w1", "w2", "é\U0010ffff", "an é\U0010ffff", "an é\U0010ffff or so"]),
        status=status,
        created_at=NOW + rng.randint(0, 9),  # in no order: clocks go back
        **changes,
    )


def _fits(row: RunRow, which: RunFilter) -> bool:
    tags = set(json.loads(row.tags or "{}").items())
    return (
        which.workflow in {None, row.workflow}
        and (which.statuses is None or row.status in which.statuses)
        and tags >= set(which.tags)
        and row.run_id.startswith(which.id_prefix or "")
        and (
            which.error is None
            or (row.error is not None and (which.error in row.error.type or which.error in row.error.message))
        )
        and (
            which.text is None
            or row.run_id.startswith(which.text)
            or which.text in row.workflow
            or (row.error is not None and (which.text in row.error.type or which.text in row.error.message))
        )
        and (which.created_after is None or row.created_at >= which.created_after)
        and (which.created_before is None or row.created_at < which.created_before)
    )


@pytest.mark.parametrize("seed", range(12))
def test_every_combination_and_every_way_finds_what_fits(db: sqlite3.Connection, seed: int) -> None:
    """Newest first, below the cursor, to the limit, whichever index leads there."""
    rng = random.Random(seed)
    rows = [_random_run(rng, number) for number in range(1, 120)]
    _insert(db, rows)
    for which in COMBINED:
        before, limit = rng.choice([(1 << 62, 500), (60, 500), (60, 2)])
        expected = [row.number for row in reversed(rows) if row.number < before and _fits(row, which)][:limit]
        called = listing.called(db, which)
        parameters = listing.parameters_of(which, limit, before, called)

        assert [row.number for row in reader.page(db, which, limit, before)[0]] == expected
        for way in listing.ways(which, called):
            found = db.execute(listing.statement(way, which), parameters).fetchall()
            assert [number for (number,) in found] == expected, (which, way.kind)


def _plan(db: sqlite3.Connection, text: str, which: RunFilter) -> list[str]:
    parameters = listing.parameters_of(which, 50, 1000, CALLED) | {"most": 10}
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {text}", parameters)]


@pytest.mark.parametrize("which", COMBINED, ids=lambda which: "+".join(msgspec.structs.asdict(which)))
def test_every_way_goes_by_its_index(db: sqlite3.Connection, which: RunFilter) -> None:
    """No walk through a table; nothing is sorted but runs whose ids begin alike: few, or there is no other way."""
    for way in listing.ways(which, CALLED):
        plan = _plan(db, listing.statement(way, which), which)
        walks = [line for line in plan if line.startswith("SCAN") and not line.startswith("SCAN json_each")]

        assert walks == []
        assert any("TEMP B-TREE" in line for line in plan) == (way.kind in ("prefix", "text"))
        for part in way.counted:
            plan = _plan(db, QUERIES["how_many"].replace("{part}", part), which)
            assert all(line.startswith(("SEARCH", "CO-ROUTINE", "SCAN (")) for line in plan)


def test_the_indexes_that_lead_to_runs(db: sqlite3.Connection) -> None:
    """One index each, read alone, within the bounds of the page; times are compared in the index as well."""
    span = {"created_after": NOW, "created_before": NOW}
    for which, lines in (
        (RunFilter(), ["SEARCH listed USING INTEGER PRIMARY KEY (rowid<?)"]),
        (
            RunFilter(workflow="w", statuses=(RunStatus.FAILED,), **span),  # type: ignore[arg-type]
            ["SEARCH listed USING COVERING INDEX pikkupy_runs_by_workflow (workflow=? AND status=? AND number<?)"],
        ),
        (
            RunFilter(statuses=(RunStatus.FAILED,), **span),  # type: ignore[arg-type]
            ["SEARCH listed USING COVERING INDEX pikkupy_runs_by_status (status=? AND number<?)"],
        ),
        (
            RunFilter(tags=(("a", "1"),)),
            [
                "SEARCH tag USING PRIMARY KEY (name=? AND value=? AND run<?)",
                "SEARCH listed USING INTEGER PRIMARY KEY (rowid=?)",
            ],
        ),
        (
            RunFilter(id_prefix="a"),
            [
                "SEARCH listed USING COVERING INDEX sqlite_autoindex_pikkupy_runs_1 (run_id>? AND run_id<?)",
                "USE TEMP B-TREE FOR ORDER BY",
            ],
        ),
    ):
        plan = _plan(db, listing.statement(listing.ways(which)[-1], which), which)
        assert plan[: len(lines)] == lines


def test_all_runs_of_a_workflow_are_its_statuses_merged(db: sqlite3.Connection) -> None:
    """Five ranges of one index, in the order of the numbers already: a page is read, not all of them."""
    which = RunFilter(workflow="w1")
    plan = _plan(db, listing.statement(listing.ways(which)[0], which), which)

    ranges = [line for line in plan if line.startswith("SEARCH")]
    assert len(ranges) == len(RunStatus)
    assert {line.partition(" (")[0] for line in ranges} == {
        "SEARCH listed USING COVERING INDEX pikkupy_runs_by_workflow"
    }
    assert [line for line in plan if line.startswith("MERGE (UNION ALL)")]


def test_the_shortest_way_is_taken(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the arguments that is."""
    rows = [
        a_run(
            number,
            run_id=f"{'rare' if number < 5 else 'often'}:{number}",
            workflow="rare" if number < 4 else "often",
            tags='{"tag":"rare"}' if number < 3 else '{"tag":"often"}',
        )
        for number in range(1, 3 * listing.FEW)
    ]
    _insert(db, rows)

    def way(**which: Any) -> str:
        asked = RunFilter(**which)
        called = listing.called(db, asked)
        parameters = listing.parameters_of(asked, 50, reader.NEWEST, called)
        return listing._shortest(db, listing.ways(asked, called), parameters).kind

    often, rare = (("tag", "often"),), (("tag", "rare"),)
    assert way() == "all"
    assert way(tags=often, id_prefix="rare:") == "prefix"
    assert way(tags=rare, id_prefix="rare:", workflow="rare") == "tags"
    assert way(tags=often, id_prefix="often:", workflow="rare") == "statuses"
    assert way(id_prefix="often:", statuses=(RunStatus.FAILED,)) == "statuses"
    assert way(id_prefix="rare:") == "prefix"
    assert way(text="rare") == "text"
    assert way(text="rare", workflow="rare") == "statuses"
    assert way(text="rare", workflow="often") == "text"
    assert way(text="are") == "text"
    monkeypatch.setattr(listing, "MANY", listing.FEW + 1)  # so many fit that the newest are soon found
    assert way(id_prefix="often:") == way(text="often") == "all"


def test_of_very_many_workflows_that_are_called_so_the_newest_runs_are_soon_found(db: sqlite3.Connection) -> None:
    """Each of them is a part of the statement, and SQLite has a limit of parts; what is found is the same."""
    _insert(db, [a_run(number, workflow=f"order {number}") for number in range(1, listing.MOST_CALLED + 2)])
    which, one_less = RunFilter(text="rder"), RunFilter(text="rder", workflow="order 2")

    assert listing.called(db, which) is None
    assert [way.kind for way in listing.ways(which, None)] == ["all"]
    assert len(reader.page(db, which, 500, None)[0]) == listing.MOST_CALLED + 1
    assert listing.called(db, one_less) == ("order 2",)
    db.execute("DELETE FROM pikkupy_runs WHERE number = 1")
    assert len(listing.called(db, which) or ()) == listing.MOST_CALLED
    assert len(reader.page(db, which, 500, None)[0]) == listing.MOST_CALLED


def test_a_status_that_cannot_have_an_error_finds_nothing(db: sqlite3.Connection) -> None:
    """Only failed runs have one."""
    _insert(db, [a_run(1), a_run(2, status=RunStatus.FAILED, error=ErrorInfo("app.Boom", "hot", ""))])

    def found(*statuses: RunStatus) -> list[int]:
        return [row.number for row in reader.page(db, RunFilter(error="Boom", statuses=statuses), 9, None)[0]]

    assert found(RunStatus.RUNNING) == []
    assert found(*FINAL_RUNS) == found(*RunStatus) == [2]
