"""The questions that the journal answers, each one function of a connection: one hop, no cursor left open."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from operator import itemgetter
from typing import Any, TypeVar

from pikkupy.core.model import (
    CODE_ACCEPTED,
    MAX_INTEGER,
    NO_WAKING,
    AttemptRow,
    ChildRow,
    ChunkRow,
    EndedRun,
    Recorded,
    RunFilter,
    RunRow,
    RunStatus,
    SignalRow,
    StepRow,
)
from pikkupy.errors import JournalError
from pikkupy.store import listing
from pikkupy.store.queries import QUERIES
from pikkupy.store.rows import (
    Columns,
    attempt_of,
    chunk_of,
    damage,
    run_of,
    signal_of,
    step_of,
    step_without_output,
    timer_of,
)

NEWEST = MAX_INTEGER  # no run has this number
PAGE = 256  # chunks of a stream that are read at once
PAGE_BYTES = 1_000_000  # of their values, after which a page ends early
_PARENT = RunRow.__struct_fields__.index("parent")

T = TypeVar("T")

Damaged = Callable[[JournalError], object]
"""Who is told of a damaged row; it is left out then, unless that raises."""


def refuse(error: JournalError) -> None:
    """As `Damaged` for those who want all or nothing."""
    raise error


def runs_by_id(
    db: sqlite3.Connection, run_ids: Sequence[str], opened: Callable[[RunRow], RunRow]
) -> dict[str, RunRow | JournalError]:
    """The runs of these ids that are there, or what is wrong with them, by id. `opened`: as in `recorded_runs`."""
    runs: dict[str, RunRow | JournalError] = {}
    for row in db.execute(QUERIES["runs_by_id"], {"run_ids": json.dumps(run_ids)}).fetchall():
        try:
            runs[row[1]] = opened(run_of(row))
        except JournalError as error:
            runs[row[1]] = error
    return runs


def page(
    db: sqlite3.Connection, which: RunFilter, limit: int, before: int | None, damaged: Damaged = refuse
) -> tuple[list[RunRow], int | None]:
    """A page of runs, newest first, and the number before which the next one begins; None: there are no more."""
    with _moment(db):
        found = listing.numbers(db, which, limit + 1, NEWEST if before is None else before)
        rows = run_rows(db, found[:limit], damaged)
    return rows, found[limit - 1] if len(found) > limit else None


def counts(db: sqlite3.Connection) -> list[tuple[str, RunStatus, int]]:
    """How many runs there are of each workflow in each status that has some."""
    return [(workflow, RunStatus(status), count) for workflow, status, count in db.execute(QUERIES["counts"])]


def last_kept(db: sqlite3.Connection, statuses: Sequence[RunStatus], keep: int) -> EndedRun | None:
    """The oldest of the `keep` runs without parents that ended last, in these statuses; None if there are fewer."""
    wanted = {"statuses": json.dumps(statuses), "keep": keep}
    rows = db.execute(QUERIES["last_kept"], wanted).fetchall()
    return EndedRun(rows[0][0], rows[0][1], RunStatus(rows[0][2])) if rows else None


def ended(
    db: sqlite3.Connection, after: tuple[int, int], kept: tuple[int, int], before: int, limit: int
) -> list[EndedRun]:
    """The next runs without parents that ended before a time, between two places: end and number."""
    wanted = {
        "after_at": after[0],
        "after": after[1],
        "kept_at": kept[0],
        "kept": kept[1],
        "before": before,
        "limit": limit,
    }
    rows = db.execute(QUERIES["ended_runs"], wanted).fetchall()
    return [EndedRun(ended_at, number, RunStatus(status)) for ended_at, number, status in rows]


def families(db: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Per run that is there, with all that descend from it: how many runs, and how many unfinished ones."""
    rows = db.execute(QUERIES["families"], {"numbers": json.dumps(list(numbers))}).fetchall()
    return {number: (runs, unfinished) for number, runs, unfinished in rows}


def has_deleted(db: sqlite3.Connection) -> bool:
    """Whether something of deleted runs may be left."""
    [(found,)] = db.execute(QUERIES["has_deleted"]).fetchall()
    return bool(found)


def unfinished_relative(db: sqlite3.Connection, number: int) -> tuple[str, RunStatus, bool] | None:
    """Why an ended run cannot be deleted: an unfinished parent (True), or one that descends from it; id and status."""
    rows = db.execute(QUERIES["unfinished_relative"], {"number": number}).fetchall()
    return (rows[0][0], RunStatus(rows[0][1]), bool(rows[0][2])) if rows else None


def steps(db: sqlite3.Connection, number: int, damaged: Damaged = refuse) -> list[StepRow]:
    """The steps of one run, by position."""
    return _intact(db.execute(QUERIES["steps"], {"run": number}).fetchall(), step_of, damaged)


def some_steps(
    db: sqlite3.Connection, number: int, first: int, limit: int, damaged: Damaged = refuse, *, with_errors: bool
) -> tuple[list[StepRow], list[AttemptRow], int]:
    """Some steps of one run, their finished attempts, and how many such steps it has, as of one moment."""
    kind = "steps_with_errors" if with_errors else "some_steps"
    how_many = "how_many_steps_with_errors" if with_errors else "how_many_steps"
    with _moment(db):
        rows = db.execute(QUERIES[kind], {"run": number, "first": first, "limit": limit}).fetchall()
        counted = db.execute(QUERIES[how_many], {"run": number}).fetchall()
        steps = _intact(rows, step_of, damaged)
        wanted = {"run": number, "positions": json.dumps([step.position for step in steps])}
        attempt_rows = db.execute(QUERIES["attempts_of_steps"], wanted).fetchall()
    return steps, _intact(attempt_rows, attempt_of, damaged), counted[0][0] if counted else 0


def open_steps(db: sqlite3.Connection, run_ids: Sequence[str], damaged: Damaged = refuse) -> dict[str, list[StepRow]]:
    """The steps without an outcome of the runs of these ids that have some, by position."""
    found: defaultdict[str, list[StepRow]] = defaultdict(list)
    for run_id, *columns in db.execute(QUERIES["open_steps"], {"run_ids": json.dumps(list(run_ids))}).fetchall():
        found[run_id] += _intact([tuple(columns)], step_of, damaged)
    return found


def steps_after(db: sqlite3.Connection, number: int, place: int, reached: int) -> list[StepRow]:
    """The steps of one run, by position, without outputs: those from position `reached` on, those with an outcome after
    that place, and those without one."""
    wanted = {"run": number, "place": place, "reached": reached}
    return [step_without_output(row) for row in db.execute(QUERIES["steps_after"], wanted)]


def past(
    db: sqlite3.Connection, number: int, place: int, reached: int, damaged: Damaged = refuse
) -> tuple[list[StepRow], list[AttemptRow], list[SignalRow]]:
    """`steps_after`, those too that were set aside since and may be reached again; attempts and signals, as of one
    moment: of what was written together no reader sees a part alone."""
    with _moment(db):
        sent = signals(db, number)
        again = (one.position or 0 for one in sent if one.name == CODE_ACCEPTED and one.seq > place)
        return steps_after(db, number, place, min([reached, *again])), attempt_rows(db, number, damaged), sent


def attempt_rows(db: sqlite3.Connection, number: int, damaged: Damaged = refuse) -> list[AttemptRow]:
    """The finished attempts of one run that have a row, by seq."""
    return _intact(db.execute(QUERIES["attempts"], {"run": number}).fetchall(), attempt_of, damaged)


def attempts(
    db: sqlite3.Connection, number: int, damaged: Damaged = refuse
) -> tuple[list[StepRow], list[StepRow], list[AttemptRow]]:
    """The steps of one run, by position, those that were set aside, and finished attempts, by seq, as of one moment."""
    with _moment(db):
        step_rows = db.execute(QUERIES["steps"], {"run": number}).fetchall()
        aside_rows = db.execute(QUERIES["set_aside_of_runs"], {"numbers": json.dumps([number])}).fetchall()
        attempt_rows = db.execute(QUERIES["attempts"], {"run": number}).fetchall()
    return (
        _intact(step_rows, step_of, damaged),
        _intact(aside_rows, step_of, damaged),
        _intact(attempt_rows, attempt_of, damaged),
    )


def awake(db: sqlite3.Connection, after: int, limit: int) -> list[int]:
    """The numbers of the next unfinished runs that do not wait in the file."""
    return [number for (number,) in db.execute(QUERIES["awake_runs"], {"after": after, "limit": limit})]


def workflows(db: sqlite3.Connection) -> list[str]:
    """The names of all workflows that there are runs of."""
    return [name for (name,) in db.execute(QUERIES["workflows"])]


def waiting_of(
    db: sqlite3.Connection, workflow: str, status: RunStatus, after: int, limit: int
) -> tuple[list[int], int | None]:
    """Those of the next `limit` runs of one workflow in one status that wait in the file and are not parked.

    And the number of the last one that was looked at; None: there are no more.
    """
    wanted = {"workflow": workflow, "status": status, "after": after, "limit": limit}
    rows = db.execute(QUERIES["of_workflow"], wanted).fetchall()
    return [number for number, waits in rows if waits], rows[-1][0] if len(rows) == limit else None


def suspended_in_file(db: sqlite3.Connection, workflow: str, after: int, limit: int) -> list[int]:
    """The numbers of the next runs of one workflow that were suspended because it was gone, and wait in the file."""
    wanted = {"workflow": workflow, "after": after, "limit": limit}
    return [number for (number,) in db.execute(QUERIES["suspended_in_file"], wanted)]


def recorded_runs(
    db: sqlite3.Connection, numbers: Sequence[int], opened: Callable[[Recorded], Recorded]
) -> tuple[list[Recorded], dict[int, JournalError]]:
    """The runs of these numbers, by number, and what is wrong with those that are damaged: a few queries for all.

    `opened` gives them in plain text, or raises what is wrong.
    """
    with _moment(db):
        found = db.execute(QUERIES["runs_by_number"], {"numbers": json.dumps(numbers)}).fetchall()
        details = _Details(db, [row[0] for row in found])
    intact, damaged = [], {}
    for row in reversed(found):
        try:
            intact.append(opened(details.of(run_of(row))))
        except JournalError as error:
            damaged[row[0]] = error
    return intact, damaged


def run_by_number(db: sqlite3.Connection, number: int) -> RunRow | None:
    """The run of that number."""
    found = db.execute(QUERIES["run_by_number"], (number,)).fetchall()
    return run_of(found[0]) if found else None


def run_rows(db: sqlite3.Connection, numbers: Sequence[int], damaged: Damaged = refuse) -> list[RunRow]:
    """The runs of these numbers that are there, the newest first."""
    rows = db.execute(QUERIES["runs_by_number"], {"numbers": json.dumps(list(numbers))}).fetchall()
    return _intact(rows, run_of, damaged)


def run_ids(db: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, str]:
    """The ids of these runs, by number."""
    return dict(db.execute(QUERIES["run_ids"], {"numbers": json.dumps(list(numbers))}).fetchall())


def due(db: sqlite3.Connection, until: int, limit: int) -> list[int]:
    """The numbers of runs that wait in the file and have to be in memory until then, the earliest first."""
    found = db.execute(QUERIES["due_runs"], {"until": until, "limit": limit}).fetchall()
    return [number for (number,) in found]


def next_waking(db: sqlite3.Connection) -> int | None:
    """When the first run that waits in the file has to be in memory; None: none has, without something from outside."""
    [(wakes_at,)] = db.execute(QUERIES["next_waking"]).fetchall()
    return None if wakes_at is None or wakes_at >= NO_WAKING else int(wakes_at)


def children(db: sqlite3.Connection, number: int) -> list[ChildRow]:
    """All children of one run, by step and attempt. Raises `JournalError` naming one whose place is damaged."""
    rows = db.execute(QUERIES["children"], (number,)).fetchall()
    for *_, run_id, child, _, sound in rows:
        if not sound:
            raise damage(f"child run {run_id!r} (number {child}) of run number {number}")
    return [
        ChildRow(position, attempt, run_id, child, RunStatus(status))
        for position, attempt, run_id, child, status, _ in rows
    ]


def chunks(db: sqlite3.Connection, number: int, after: int) -> list[tuple[ChunkRow, bool]]:
    """The first chunks of one run's stream after an offset, in order, each with whether it still counts.

    A page of them, so that neither a long stream nor one of large values fills the memory; none: there are no more.
    """
    page: list[tuple[ChunkRow, bool]] = []
    size = 0
    with closing(db.execute(QUERIES["chunks"], {"run": number, "after": after})) as found:
        for *columns, counts in found:
            row = chunk_of(tuple(columns))
            page.append((row, bool(counts)))
            size += len(row.value)
            if len(page) == PAGE or size >= PAGE_BYTES:
                break
    return page


def signals(db: sqlite3.Connection, number: int) -> list[SignalRow]:
    """All signals that were sent to one run, in the order of their arrival, without what they carried."""
    rows = db.execute(QUERIES["signals"], {"run": number}).fetchall()
    return [
        SignalRow(run=run, seq=seq, name=name, payload=None, sent_at=sent_at, position=position)
        for run, seq, name, sent_at, position in rows
    ]


def last_change(db: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, int]:
    """Per run the latest recorded time of its steps, attempts and timers, in µs."""
    return dict(db.execute(QUERIES["last_change"], {"numbers": json.dumps(list(numbers))}).fetchall())


def recent_change(db: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, int]:
    """Per run the latest recorded time, or 0, of the steps and timers that it reached last, and of its attempts."""
    return dict(db.execute(QUERIES["recent_change"], {"numbers": json.dumps(list(numbers))}).fetchall())


def _intact(rows: Sequence[Columns], decode: Callable[[Columns], T], damaged: Damaged) -> list[T]:
    """The records in the rows; `damaged` is told of those that are none."""
    records = []
    for row in rows:
        try:
            records.append(decode(row))
        except JournalError as error:
            damaged(error)
    return records


@contextmanager
def _moment(db: sqlite3.Connection) -> Iterator[None]:
    """All reads inside see the same state."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("COMMIT")


class _Details:
    """What belongs to some runs, read in a few queries, and put together run by run."""

    def __init__(self, db: sqlite3.Connection, numbers: list[int]) -> None:
        wanted = {"numbers": json.dumps(numbers)}
        self._damage: dict[int, JournalError] = {}

        def read(query: str, decode: Callable[[Any], T], column: int = 0) -> defaultdict[int, list[T]]:
            found: defaultdict[int, list[T]] = defaultdict(list)
            for row in db.execute(QUERIES[query], wanted):  # decoded one by one: a long run is in memory once
                try:
                    found[row[column]].append(decode(row))
                except JournalError as error:
                    self._damage.setdefault(row[column], error)
            return found

        self._steps = read("steps_of_runs", step_of)
        self._timers = read("timers_of_runs", timer_of)
        self._signals = read("kept_signals", signal_of)
        self._changes = read("changes_of_runs", itemgetter(1))
        self._set_aside = read("set_aside_of_runs", step_of)
        self._children = read("awaited_children", run_of, _PARENT)
        self._last_places = dict(db.execute(QUERIES["last_places"], wanted).fetchall())
        self._next_chunks = dict(db.execute(QUERIES["next_chunks"], wanted).fetchall())
        self._awaited = {number for (number,) in db.execute(QUERIES["awaited_runs"], wanted)}
        parents = db.execute(QUERIES["parents_of_runs"], wanted).fetchall()
        self._parents = {row[0]: row for row in parents}

    def of(self, run: RunRow) -> Recorded:
        """All of one run. Raises `JournalError` naming it if something of it is damaged."""
        number = run.number
        damage = self._damage.get(number)
        if damage is not None:
            raise JournalError(f"run {run.run_id!r}: {damage}") from damage
        steps, timers = self._steps[number], self._timers[number]
        places = [step.seq for step in steps if step.seq is not None]
        places += [timer.seq for timer in timers]
        places.append(self._last_places.get(number, 0))
        parent = None if run.parent is None else self._parents.get(run.parent)
        return Recorded(
            run=run,
            steps=tuple(steps),
            timers=tuple(timers),
            last_seq=max(places),
            next_chunk=self._next_chunks[number] or 0,
            signals=tuple(self._signals[number]),
            changes=frozenset(self._changes[number]),
            children=tuple(self._children[number]),
            set_aside=tuple(self._set_aside[number]),
            parent=None if parent is None else run_of(parent),
            awaited=number in self._awaited,
        )
