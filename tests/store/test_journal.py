"""What is written can be read, in the order and with the refusals that the facade names."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pikkupy.core.model import (
    Change,
    CodeChange,
    DeletedSwept,
    Recorded,
    RunDeleted,
    RunFilter,
    RunStatus,
    SignalRow,
    StepReopened,
    StepsCancelled,
    StepSetAside,
    StepStatus,
)
from pikkupy.errors import JournalError
from pikkupy.store import Journal
from pikkupy.store.connection import Durability
from pikkupy.store.rows import run_columns, step_columns
from tests.store.samples import BOOM, NOW, a_chunk, a_move, a_run, a_step, a_timer, an_attempt, open_journal, raw

pytestmark = pytest.mark.anyio


async def test_rows_come_back_as_they_were_written(journal: Journal) -> None:
    """Runs, steps, attempts and timers are equal after the way through the file."""
    run = a_run(input='"line\\n\x00end £ 🦊"')
    steps = (a_step(position=0), a_step(position=1, status=StepStatus.FAILED), a_step(position=2, name="#1'\""))
    await journal.commit([run, *steps, an_attempt(position=1, seq=9), a_timer(seq=4)])

    assert await journal.run("run-1") == run
    assert await journal.steps(1) == list(steps)
    assert await journal.attempts(1) == (list(steps), [], [an_attempt(position=1, seq=9)])
    assert await journal.recorded(1) == Recorded(run=run, steps=steps, timers=(a_timer(seq=4),), last_seq=9)


@pytest.mark.parametrize("durability", ["full", "process"])
async def test_the_write_ahead_log_is_taken_into_the_file_before_it_is_long(path: str, durability: Durability) -> None:
    """What `process` can lose to a loss of power, as the README says: about 8 MB (here with a transaction of 0.1)."""
    journal = await Journal.open(path, durability=durability, now_us=NOW)
    await journal.commit([a_run()])
    longest = 0
    for position in range(200):
        await journal.commit([a_step(position=position, output=f'"{"x" * 100_000}"')])
        longest = max(longest, Path(f"{path}-wal").stat().st_size)
    await journal.close()

    assert Path(path).stat().st_size > 20e6
    assert 7e6 < longest < 9e6


async def test_what_is_not_there_is_none_or_empty(journal: Journal) -> None:
    """Asking for a run that does not exist is no error."""
    assert await journal.run("nobody") is None
    assert await journal.recorded(7) is None
    assert await journal.steps(7) == []
    assert await journal.attempts(7) == ([], [], [])
    assert await journal.awake() == []
    assert await journal.last_change([7]) == {}


async def test_what_is_asked_for_at_once_is_found_by_its_own_key(journal: Journal) -> None:
    """They are read together, by queries for many."""
    await journal.commit([a_run(n) for n in range(1, 251)])
    wanted = ["run-1\0", "", *(f"run-{n}" for n in range(1, 260))]

    found = dict(zip(wanted, await asyncio.gather(*map(journal.run, wanted)), strict=True))
    recorded = await asyncio.gather(*map(journal.recorded, range(1, 260)))

    assert found == {**dict.fromkeys(wanted), **{f"run-{n}": a_run(n) for n in range(1, 251)}}
    assert [one and one.run.number for one in recorded] == [*range(1, 251), *[None] * 9]


async def test_a_journal_in_memory_does_the_same(tmp_path: object) -> None:
    """`:memory:` writes and reads through one connection and leaves no file."""
    journal = await open_journal(":memory:")
    await journal.commit([a_run(), a_step()])

    assert await journal.recorded(1) == Recorded(run=a_run(), steps=(a_step(),), last_seq=1)
    assert (journal.clean, journal.epoch, journal.next_number) == (True, 1, 1)
    await journal.close()


async def test_attempts_are_ordered_by_their_place_in_the_history(journal: Journal) -> None:
    """`attempts` is by seq, whatever the order of writing."""
    await journal.commit([a_run(), *(an_attempt(attempt=n, seq=n) for n in (3, 1, 2))])

    assert [row.seq for row in (await journal.attempts(1))[2]] == [1, 2, 3]


async def test_runs_are_listed_newest_first_in_pages(journal: Journal) -> None:
    """`before` is exclusive, and filters combine."""
    await journal.commit([a_run(n, workflow="even" if n % 2 == 0 else "odd") for n in range(1, 9)])
    await journal.commit([a_move(4), a_move(5)])

    async def numbers(
        workflow: str | None = None, status: RunStatus | None = None, limit: int = 50, before: int | None = None
    ) -> list[int]:
        which = RunFilter(workflow=workflow, statuses=None if status is None else (status,))
        return [r.number for r in (await journal.page(which, limit=limit, before=before))[0]]

    assert await numbers(limit=3) == [8, 7, 6]
    assert await numbers(limit=3, before=6) == [5, 4, 3]
    assert await numbers(workflow="even") == [8, 6, 4, 2]
    assert await numbers(status=RunStatus.COMPLETED) == [5, 4]
    assert await numbers(workflow="even", status=RunStatus.RUNNING, before=8) == [6, 2]


async def test_unfinished_runs_come_in_chunks_with_all_that_is_theirs(journal: Journal) -> None:
    """Running and suspended runs are returned, final ones are not, and rows go to their own run."""
    for n in range(1, 8):
        await journal.commit([a_run(n), a_step(n, 0), a_step(n, 1), a_timer(n, seq=n + 10), an_attempt(n, seq=n + 20)])
    await journal.commit([a_move(3), a_move(4, RunStatus.SUSPENDED)])

    assert await journal.awake(limit=4) == [1, 2, 4, 5]
    assert await journal.awake(after=5, limit=4) == [6, 7]
    assert await journal.awake(after=7, limit=4) == []

    recorded = await journal.recorded_runs([5, 2, 4, 99, 1])
    assert [one.run.number for one in recorded] == [1, 2, 4, 5]
    assert recorded[2].run.status is RunStatus.SUSPENDED
    assert recorded == [await journal.recorded(number) for number in (1, 2, 4, 5)]
    assert recorded[0].last_seq == 21


async def test_the_last_change_is_the_latest_recorded_time(journal: Journal) -> None:
    """Steps, attempts and timers count; runs without any are absent."""
    await journal.commit([a_run(n) for n in range(1, 6)])
    await journal.commit([a_step(1), an_attempt(1), a_timer(1), a_step(2), a_step(3, status=StepStatus.RUNNING)])
    await journal.commit([a_step(4, status=StepStatus.PENDING, started_at=None)])

    assert await journal.last_change([1, 2, 3, 4, 5]) == {1: NOW + 9, 2: NOW + 5, 3: NOW}
    recent = await journal.recent_change([1, 2, 3, 4, 5])
    assert recent == {1: NOW + 9, 2: NOW + 5, 3: NOW, 4: 0, 5: 0}


async def test_a_step_is_replaced_until_it_is_final(journal: Journal) -> None:
    """Each row replaces every column of the one before."""
    await journal.commit([a_run(), a_step(status=StepStatus.RUNNING)])
    waiting = a_step(status=StepStatus.SCHEDULED, attempts=2, cut_offs=3, wake_at=NOW + 99, error=BOOM, target=None)
    await journal.commit([waiting])
    assert await journal.steps(1) == [waiting]

    await journal.commit([a_step()])
    assert await journal.steps(1) == [a_step()]


async def test_the_time_when_a_step_was_reached_is_kept(journal: Journal) -> None:
    """A later row without `started_at` does not take it away."""
    await journal.commit([a_run(), a_step(status=StepStatus.RUNNING)])
    await journal.commit([a_step(started_at=None)])

    assert await journal.steps(1) == [a_step()]


@pytest.mark.parametrize("final", [StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.CANCELLED])
async def test_a_final_step_never_changes(journal: Journal, final: StepStatus) -> None:
    """A second outcome is refused, and the first one stays."""
    await journal.commit([a_run(), a_step(status=final)])

    with pytest.raises(JournalError, match="final already"):
        await journal.commit([a_step(output='"other"')])
    assert await journal.steps(1) == [a_step(status=final)]


async def test_a_run_id_is_taken_once(journal: Journal) -> None:
    """A second run of the same id is refused with the reason."""
    await journal.commit([a_run()])

    with pytest.raises(JournalError, match="run_id"):
        await journal.commit([a_run(2, run_id="run-1")])
    assert journal.failure is None


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
async def test_a_move_to_a_final_status_ends_the_run(journal: Journal, status: RunStatus) -> None:
    """It brings output, error or reason, and both times."""
    await journal.commit([a_run()])
    move = a_move(status=status)
    await journal.commit([move])

    assert await journal.run("run-1") == a_run(
        status=status,
        output=move.output,
        error=move.error,
        reason=move.reason,
        updated_at=move.at,
        ended_at=move.at,
    )


async def test_a_move_to_another_status_clears_what_the_last_one_brought(journal: Journal) -> None:
    """A failed run that runs again has no error and no end."""
    await journal.commit([a_run()])
    await journal.commit([a_move(status=RunStatus.FAILED)])
    await journal.commit([a_move(status=RunStatus.RUNNING, before=RunStatus.FAILED)])

    assert await journal.run("run-1") == a_run(updated_at=NOW + 20)


async def test_a_move_applies_only_from_its_status(journal: Journal) -> None:
    """A run that is elsewhere, or not there, is left alone, and the whole logical change is refused."""
    await journal.commit([a_run()])
    await journal.commit([a_move()])

    with pytest.raises(JournalError, match="status"):
        await journal.commit([a_step(), a_move(status=RunStatus.CANCELLED)])
    with pytest.raises(JournalError, match="status"):
        await journal.commit([a_move(99)])
    assert await journal.steps(1) == []


async def test_cancelling_steps_leaves_outcomes_alone(journal: Journal) -> None:
    """Every step without a final status is cancelled, with its last error as evidence."""
    retried = a_step(position=1, status=StepStatus.SCHEDULED, error=BOOM)
    await journal.commit([a_run(), a_step(position=0), retried, a_step(position=2, status=StepStatus.RUNNING)])
    await journal.commit([a_run(2), a_step(2, status=StepStatus.RUNNING)])
    await journal.commit([StepsCancelled(run=1, at=NOW + 5)])

    assert await journal.steps(1) == [
        a_step(position=0),
        a_step(position=1, status=StepStatus.CANCELLED, error=BOOM),
        a_step(position=2, status=StepStatus.CANCELLED),
    ]
    assert await journal.steps(2) == [a_step(2, status=StepStatus.RUNNING)]


TABLES = ("steps", "attempts", "timers", "signals", "chunks", "changes", "set_aside")


def one_of_each(n: int) -> list[Change]:
    """An ended run with tags, and two rows in each table that belongs to runs."""
    rows: list[Change] = [a_run(n, tags='{"a":"1","b":"2"}')]
    for m in (0, 1):
        rows += [a_step(n, m), an_attempt(n, m, seq=50 + m), a_timer(n, m), a_chunk(n, m)]
        rows += [SignalRow(run=n, seq=90 + m, name="go", payload="1", sent_at=NOW)]
        rows += [StepSetAside(row=a_step(n, m - 5)), CodeChange(run=n, change_id=f"c{m}")]
    return [*rows, a_move(n)]


async def test_a_deleted_run_leaves_nothing_behind(journal: Journal, path: str) -> None:
    """It is gone for every read at once, what belongs to it goes in parts, and other runs stay."""
    for n in (1, 2):
        await journal.commit(one_of_each(n))
    await journal.commit([RunDeleted(number=1)])

    for rows in (1, 5):
        assert await journal.has_deleted()
        assert await journal.recorded(1) is None
        assert await journal.steps(1) == await journal.attempt_rows(1) == await journal.signals(1) == []
        assert await journal.attempts(1) == ([], [], [])
        assert await journal.chunks(1, after=-1) == []
        assert raw(path, "SELECT DISTINCT run_id FROM pikku_steps") == [("run-2",)]
        with pytest.raises(JournalError, match="the run is not there"):
            await journal.commit([a_chunk(1, 7)])
        await journal.commit([DeletedSwept(rows=rows)])
        left = {raw(path, f"SELECT count(*) FROM pikkupy_{table} WHERE run = 1")[0] for table in TABLES}
        assert left == ({(1,)} if rows == 1 else {(0,)})

    assert not await journal.has_deleted()
    for table in TABLES:
        assert raw(path, f"SELECT run FROM pikkupy_{table}") == [(2,), (2,)]
    assert raw(path, "SELECT name, value, run FROM pikkupy_tags") == [("a", "1", 2), ("b", "2", 2)]


@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.SUSPENDED])
async def test_a_run_that_has_not_ended_is_not_deleted(status: RunStatus, journal: Journal) -> None:
    """C130, I5: whatever whoever deletes it has seen of it before; it can have been retried since then."""
    await journal.commit([a_run(), *([a_move(status=status)] if status is RunStatus.SUSPENDED else [])])
    with pytest.raises(JournalError, match="has not ended"):
        await journal.commit([RunDeleted(number=1)])

    found = await journal.run("run-1")
    assert found is not None
    assert found.status is status


async def test_a_family_is_deleted_however_deep_it_is(journal: Journal, path: str) -> None:
    """SQLite's own cascades end at a thousand levels."""
    family: list[Change] = [a_run(1), a_run(3_001)]
    for n in range(2, 3_001):
        family.append(a_run(n, parent=n - 1, parent_position=0, parent_attempt=1))
    await journal.commit([*family, *(a_move(n, RunStatus.CANCELLED) for n in range(1, 3_002))])
    await journal.commit([RunDeleted(number=1)])

    assert raw(path, "SELECT number FROM pikkupy_runs") == [(3_001,)]


async def test_a_number_is_never_used_twice(path: str) -> None:
    """The number of a deleted run, though it was the highest, is not given again."""
    journal = await open_journal(path)
    assert journal.next_number == 1
    await journal.commit([change for n in (1, 2, 3) for change in (a_run(n), a_move(n, RunStatus.CANCELLED))])
    await journal.commit([RunDeleted(number=3)])
    await journal.close()

    journal = await open_journal(path)
    assert journal.next_number == 4
    await journal.commit([RunDeleted(number=1), RunDeleted(number=2)])
    await journal.close()

    journal = await open_journal(path)
    assert journal.next_number == 4
    await journal.close()


async def test_a_closed_journal_refuses(path: str) -> None:
    """Reads raise, and changes are told."""
    journal = await open_journal(path)
    await journal.close()

    with pytest.raises(JournalError, match="closed"):
        await journal.run("run-1")
    with pytest.raises(JournalError, match="closed"):
        await journal.commit([a_run()])


DAMAGE = [
    ("UPDATE pikkupy_runs SET input = '{\"n\":2}' WHERE number = 1", "run-1"),
    ("UPDATE pikkupy_runs SET workflow = 'onboardinh' WHERE number = 1", "run-1"),
    ("UPDATE pikkupy_runs SET updated_at = updated_at + 1 WHERE number = 1", "run-1"),
    ("UPDATE pikkupy_runs SET input = CAST(x'7bff' AS TEXT) WHERE number = 1", "run-1"),
    ("UPDATE pikkupy_steps SET output = '\"dond\"' WHERE run = 1", "step 0"),
    ("UPDATE pikkupy_steps SET ended_at = ended_at + 1 WHERE run = 1", "step 0"),
    ("UPDATE pikkupy_steps SET seq = seq + 1 WHERE run = 1", "step 0"),
    ("UPDATE pikkupy_steps SET name = 'step 1' WHERE run = 1", "run-1"),
    ("UPDATE pikkupy_timers SET due_at = due_at + 1 WHERE run = 1", "timer 0"),
]


@pytest.mark.parametrize(("damage", "named"), DAMAGE)
async def test_a_changed_value_is_noticed_and_named(
    path: str, damage: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A replay never gets a value that is not what was written; other runs are not taken down."""
    journal = await open_journal(path)
    for n in (1, 2):
        await journal.commit([a_run(n), a_step(n), an_attempt(n), a_timer(n)])
    await journal.close()
    raw(path, damage)

    journal = await open_journal(path)
    with pytest.raises(JournalError, match=named):
        await journal.recorded(1)
    assert [r.run.number for r in await journal.recorded_runs(await journal.awake())] == [2]
    assert named in str(journal.damaged[1])
    assert named in caplog.text
    await journal.close()


async def test_a_damaged_attempt_is_named(journal: Journal, path: str) -> None:
    """`attempts` checks, too."""
    await journal.commit([a_run(), an_attempt(attempt=3)])
    raw(path, "UPDATE pikkupy_attempts SET ended_at = 1")

    with pytest.raises(JournalError, match="attempt 3"):
        await journal.attempts(1)


@pytest.mark.parametrize("column", ["started_at", "ended_at"])
@pytest.mark.parametrize("ending", ["outcome", "outcome of one that was reached before", "cancelled", "reopened"])
async def test_every_single_bit_of_a_steps_times_is_guarded(
    journal: Journal, path: str, ending: str, column: str
) -> None:
    """Whichever way they got there: with an outcome, by the end of all open steps, by a retry."""
    reached = a_step(status=StepStatus.PENDING, attempts=0)
    last: dict[str, list[Change]] = {
        "outcome": [a_step()],
        "outcome of one that was reached before": [a_step(started_at=None)],
        "cancelled": [StepsCancelled(run=1, at=NOW + 7)],
        "reopened": [a_step(status=StepStatus.FAILED), StepReopened(row=a_step(status=StepStatus.PENDING))],
    }
    await journal.commit([a_run(), reached])
    for change in last[ending]:
        await journal.commit([change])
    [step] = await journal.steps(1)
    assert step.started_at == NOW
    at = getattr(step, column)

    for bit in range(60) if at is not None else ():
        raw(path, f"UPDATE pikkupy_steps SET {column} = ?", at ^ 1 << bit)
        with pytest.raises(JournalError, match="damaged"):
            await journal.steps(1)
    assert at is not None or (ending, column) == ("reopened", "ended_at")


async def test_every_single_bit_of_a_recorded_value_is_guarded(journal: Journal, path: str) -> None:
    """Whatever bit of an output flips, reading the step raises."""
    await journal.commit([a_run(), a_step(output='{"id":1}')])
    text = b'{"id":1}'

    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        raw(path, "UPDATE pikkupy_steps SET output = CAST(? AS TEXT)", bytes(flipped))
        with pytest.raises(JournalError, match="step 0"):
            await journal.steps(1)


def test_checksums_are_the_same_in_every_release() -> None:
    """Files outlive releases: these numbers must never change."""
    assert run_columns(a_run())[-2:] == (1_689_754_101, 3_517_486_625)
    assert step_columns(a_step(error=BOOM))[-1] == 3_308_070_928


async def test_a_read_that_sqlite_refuses_is_a_journal_error(journal: Journal, path: str) -> None:
    """No error of SQLite gets out by itself."""
    raw(path, "DROP TABLE pikkupy_attempts")

    with pytest.raises(JournalError, match="cannot be read") as caught:
        await journal.attempts(1)
    assert isinstance(caught.value.__cause__, sqlite3.Error)


async def test_a_stream_is_read_in_pages(db: Path) -> None:
    """By offset, some at a time: neither many chunks nor large ones come all at once."""
    large = f'"{"x" * 600_000}"'
    journal = await open_journal(str(db))
    rows = [a_chunk(offset=offset, value=large if offset < 3 else "1") for offset in range(600)]
    await journal.commit([a_run(), a_run(2), a_chunk(run=2, value='"other"'), *rows])
    pages = []
    after = -1
    while page := await journal.chunks(1, after=after):
        pages.append([row.offset for row, _ in page])
        after = pages[-1][-1]
    await journal.close()

    assert [len(page) for page in pages] == [2, 256, 256, 86]
    assert [offset for page in pages for offset in page] == list(range(600))


async def test_a_chunk_counts_until_a_later_execution_of_its_step_is_known(db: Path) -> None:
    """One that has emitted, under the same number or another, or one that the step's row tells of."""
    journal = await open_journal(str(db))
    fields: list[dict[str, Any]] = [
        {"name": "cut off"},
        {"name": "cut off", "since": 1},
        {"name": "failed", "since": 2, "position": 1},
        {"name": "failed", "since": 3, "position": 1, "attempt": 2},
        {"name": "silent", "since": 4, "position": 2},
        {"name": "other", "since": 5, "position": 3},
        {"name": "cut off", "since": 1},
    ]
    chunks = [a_chunk(offset=offset, **given) for offset, given in enumerate(fields)]
    silent = a_step(position=2, name="silent", attempts=2)
    await journal.commit([a_run(), *chunks, silent, a_step(position=3, name="new code", attempts=7)])
    page = await journal.chunks(1, after=-1)
    await journal.close()

    assert [row for row, _ in page] == chunks
    assert [counts for _, counts in page] == [False, True, False, True, False, True, True]


async def test_a_run_comes_into_memory_with_the_offset_of_its_next_chunk(db: Path) -> None:
    """Deleting a run takes its stream with it."""
    journal = await open_journal(str(db))
    await journal.commit([a_run(), a_run(2), a_run(3), a_chunk(), a_chunk(offset=1), a_chunk(run=3, offset=0)])
    offsets = [recorded.next_chunk for recorded in await journal.recorded_runs([1, 2, 3])]
    await journal.commit([a_move(3)])
    await journal.commit([RunDeleted(number=3)])
    gone = await journal.chunks(3, after=-1)
    await journal.close()

    assert offsets == [2, 0, 1]
    assert gone == []


async def test_a_damaged_chunk_is_named(db: Path) -> None:
    """Rather than shown as if it had been emitted so."""
    journal = await open_journal(str(db))
    await journal.commit([a_run(), a_chunk()])
    await journal.close()
    other = sqlite3.connect(db)
    with other:
        other.execute("UPDATE pikkupy_chunks SET value = '9'")
    other.close()
    journal = await open_journal(str(db))

    with pytest.raises(JournalError, match=r"chunk 0 of step 'step 0' of run number 1 is damaged"):
        await journal.chunks(1, after=-1)
    await journal.close()
