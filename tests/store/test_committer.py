"""Group commit: order, atomicity, faults of changes, of the disk and of other programs."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing

import pytest

from pikkupy.core.model import Change, RunFilter, RunStatus, StepsCancelled, StepStatus
from pikkupy.errors import JournalError
from pikkupy.store import Journal, committer
from pikkupy.store.committer import MAX_CHANGES, Committer, Logical
from pikkupy.store.connection import Told
from pikkupy.store.writer import Written
from tests.store.samples import (
    a_move,
    a_run,
    a_step,
    open_journal,
    outcomes_of,
    raw,
    sqlite_error,
)

pytestmark = pytest.mark.anyio

IN_THREAD = ("before_begin", "after_begin", "before_commit", "after_commit")


class Faults:
    """A failpoint that counts its places, and raises at one of them as long as it is told to."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self.place = ""
        self.code = 0
        self.times = 0

    def __call__(self, place: str) -> None:
        self.passed[place] += 1
        if place == self.place and self.times:
            self.times -= 1
            raise sqlite_error(self.code)

    def fail(self, place: str, code: int, times: int = 10**9) -> None:
        self.place, self.code, self.times = place, code, times


@pytest.fixture
def faults() -> Faults:
    """None yet."""
    return Faults()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a millisecond."""
    monkeypatch.setattr(committer, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(committer, "MAX_PAUSE_S", 0.002)


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.0005)


async def test_changes_of_one_turn_share_a_transaction(path: str, faults: Faults) -> None:
    """What is submitted before the loop goes on is written with one commit."""
    journal = await open_journal(path, faults)
    await outcomes_of(journal, [[a_run(n)] for n in range(1, 101)])
    await journal.close()

    assert faults.passed["after_commit"] == 1


async def test_a_transaction_is_limited(path: str, faults: Faults) -> None:
    """So that the first of a flood need not wait for the last."""
    journal = await open_journal(path, faults)
    outcomes = await outcomes_of(journal, [[a_run(n)] for n in range(1, 2 * MAX_CHANGES + 2)])
    await journal.close()

    assert outcomes == [None] * (2 * MAX_CHANGES + 1)
    assert faults.passed["after_commit"] == 3


async def test_the_next_transaction_is_written_while_the_loop_tells_of_the_last(path: str) -> None:
    """What waits for outcomes has work to do, which the database thread need not wait for."""
    committed, told = threading.Semaphore(0), list[bool]()
    journal = await open_journal(path, lambda place: committed.release() if place == "after_commit" else None)

    def first(error: Exception | None) -> None:
        told.append(committed.acquire(timeout=5) and committed.acquire(timeout=5))  # this commit, and the next

    journal.submit([a_run(1)], first)
    outcomes = await outcomes_of(journal, [[a_run(n)] for n in range(2, MAX_CHANGES + 2)])
    await journal.close()

    assert told == [True]
    assert outcomes == [None] * MAX_CHANGES


async def test_what_was_written_is_not_told_after_a_fail_stop() -> None:
    """Nothing is told twice, and nothing as written once the journal has stopped."""
    told: list[tuple[int, str]] = []
    batches: list[int] = []

    def write(batch: Sequence[Sequence[object]], done: Told[Written]) -> None:
        batches.append(len(batch))
        if len(batches) == 2:
            journal.fail(JournalError("stopped"))
        asyncio.get_running_loop().call_soon(done, Written([None] * len(batch)), None)

    journal = Committer(write, asyncio.get_running_loop(), lambda: None, lambda failure: None, lambda: None, None)
    for n in range(2 * MAX_CHANGES):
        journal.submit(Logical((), lambda error, n=n: told.append((n, str(error)))))  # type: ignore[misc]
    await journal.idle()

    assert batches == [MAX_CHANGES, MAX_CHANGES]
    assert told == [(n, "stopped") for n in range(2 * MAX_CHANGES)]


async def test_nothing_is_told_before_its_commit(path: str, faults: Faults) -> None:
    """In `done`, another connection can see the row already."""
    journal = await open_journal(path, faults)
    seen: list[object] = []
    journal.submit([a_run()], lambda error: seen.append((error, raw(path, "SELECT number FROM pikkupy_runs"))))
    await journal.idle()
    await journal.close()

    assert seen == [(None, [(1,)])]


async def test_changes_are_told_in_order_outside_of_any_task(journal: Journal) -> None:
    """A run loop that is drained in `done` must not nest in a task of the host loop."""
    told: list[tuple[int, object]] = []
    for n in range(1, 51):
        number = n if n != 7 else 6  # one of them is refused
        journal.submit([a_run(number)], lambda error, n=n: told.append((n, asyncio.current_task())))  # type: ignore[misc]
    await journal.idle()

    assert told == [(n, None) for n in range(1, 51)]


async def test_what_is_submitted_in_done_goes_into_the_next_transaction(path: str, faults: Faults) -> None:
    """And the journal is busy in between, so that `idle` means idle."""
    journal = await open_journal(path, faults)
    told: list[object] = []

    def first(error: Exception | None) -> None:
        journal.submit([a_step()], told.append)
        told.append(journal.busy)

    journal.submit([a_run()], first)
    await journal.idle()
    await journal.close()

    assert told == [True, None]
    assert faults.passed["after_commit"] == 2


async def test_a_bad_change_fails_alone(journal: Journal) -> None:
    """Its neighbours in the batch are written."""
    outcomes = await outcomes_of(
        journal, [[a_run(1)], [a_run(2), a_step(2)], [a_run(3, run_id="run-1")], [a_step(1)], [a_step(99)], [a_run(4)]]
    )

    assert [outcome is None for outcome in outcomes] == [True, True, False, True, False, True]
    assert "run_id" in str(outcomes[2])
    assert isinstance(outcomes[4], JournalError)
    assert [run.number for run in (await journal.page(RunFilter(), limit=9))[0]] == [4, 2, 1]
    assert journal.failure is None


async def test_a_logical_change_is_written_whole_or_not_at_all(journal: Journal) -> None:
    """The good parts of a bad one are taken back."""
    await journal.commit([a_run()])
    with pytest.raises(JournalError):
        await journal.commit(
            [a_step(position=0), a_run(2), a_move(status=RunStatus.CANCELLED), a_run(3, run_id="run-1")]
        )

    assert await journal.steps(1) == []
    assert await journal.run("run-2") is None
    assert await journal.run("run-1") == a_run()


async def test_two_outcomes_of_one_step_in_a_batch_leave_the_first(journal: Journal) -> None:
    """The later one is refused, because the earlier one is final."""
    await journal.commit([a_run()])
    outcomes = await outcomes_of(
        journal, [[a_step(status=StepStatus.RUNNING)], [a_step(output='"first"')], [a_step(output='"second"')]]
    )

    assert [outcome is None for outcome in outcomes] == [True, True, False]
    assert await journal.steps(1) == [a_step(output='"first"')]


async def test_a_text_that_cannot_be_encoded_is_refused_alone(journal: Journal) -> None:
    """A lone surrogate has no UTF-8."""
    outcomes = await outcomes_of(journal, [[a_run(1)], [a_run(2, input='"\ud800"')], [a_run(3)]])

    assert [outcome is None for outcome in outcomes] == [True, False, True]
    assert "surrogates" in str(outcomes[1])


async def test_an_empty_change_is_written_in_its_turn(journal: Journal) -> None:
    """Nothing to write is no error."""
    assert await outcomes_of(journal, [[a_run()], []]) == [None, None]


async def test_a_callback_that_raises_is_a_fail_stop(journal: Journal) -> None:
    """What it was to do is not done. It is reported to the loop's exception handler, and the others are told."""
    reported: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    told: list[object] = []

    def bad(error: Exception | None) -> None:
        raise LookupError("mine")

    journal.submit([a_run(1)], bad)
    journal.submit([a_run(2)], told.append)
    await journal.idle()

    assert [str(error) for error in reported] == ["mine"]
    assert isinstance(journal.failure, JournalError)
    assert "what follows a write has failed: LookupError('mine')" in str(journal.failure)
    assert told == [journal.failure]


async def test_nothing_is_written_any_more_after_a_failure(path: str, faults: Faults) -> None:
    """Not what was about to be taken, either: it is told as failed."""
    journal = await open_journal(path, faults)
    told: list[object] = []
    journal.submit([a_run(1)], told.append)  # is taken in the next turn of the loop
    failure = JournalError("disagree")
    journal.fail(failure)
    await journal.idle()
    await journal.close()

    assert told == [failure]
    assert raw(path, "SELECT number FROM pikkupy_runs") == []


async def test_cancelling_a_waiter_does_not_take_the_write_back(journal: Journal) -> None:
    """The change is on the disk, though nobody waits for it."""
    waiter = asyncio.ensure_future(journal.commit([a_run()]))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait([waiter])
    await journal.idle()

    assert waiter.cancelled()
    assert await journal.run("run-1") == a_run()


async def test_a_thousand_cancelled_commits_stay_atomic(journal: Journal, path: str) -> None:
    """Each run has both of its steps or is not there, what was acknowledged is there, and no transaction stays open."""
    rng = random.Random(5)
    acknowledged: set[int] = set()

    async def commit(number: int) -> None:
        await journal.commit([a_run(number), a_step(number, 0), a_step(number, 1)])
        acknowledged.add(number)

    for start in range(1, 1001, 20):
        tasks = [asyncio.ensure_future(commit(number)) for number in range(start, start + 20)]
        for task in tasks:
            if rng.random() < 0.5:
                await asyncio.sleep(rng.choice([0, 0, 0.0003]))
            if rng.random() < 0.7:
                task.cancel()
        await asyncio.wait(tasks)
    await journal.idle()

    steps = dict(raw(path, "SELECT run, count(*) FROM pikkupy_steps GROUP BY run"))
    runs = {row[0] for row in raw(path, "SELECT number FROM pikkupy_runs")}
    assert acknowledged <= runs
    assert 0 < len(acknowledged) < 1000
    assert steps == dict.fromkeys(runs, 2)
    await journal.commit([a_run(2000)])


STOPS = (
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
)


@pytest.mark.parametrize("place", IN_THREAD)
@pytest.mark.parametrize("code", STOPS)
async def test_an_error_of_the_disk_stops_the_journal(path: str, faults: Faults, place: str, code: int) -> None:
    """Whatever was queued and whatever comes gets the error, nothing is written again, and it is said once."""
    journal = await open_journal(path, faults)
    failures: list[JournalError] = []
    journal.on_failure = failures.append
    await journal.commit([a_run()])
    faults.fail(place, code)

    outcomes = await outcomes_of(journal, [[a_run(n)] for n in range(2, MAX_CHANGES + 10)])
    faults.times = 0
    later = await outcomes_of(journal, [[a_run(5000)], [a_run(5001)]])

    assert failures == [journal.failure]
    assert set(outcomes + later) == {journal.failure}
    assert faults.passed["before_begin"] == 2
    assert not journal.busy
    await journal.close()
    assert failures == [journal.failure]


async def test_the_end_after_a_failure_is_not_clean(path: str, faults: Faults) -> None:
    """The next owner is told, and finds all that was acknowledged."""
    journal = await open_journal(path, faults)
    await journal.commit([a_run()])
    faults.fail("before_commit", sqlite3.SQLITE_IOERR_FSYNC)
    await outcomes_of(journal, [[a_run(2)]])
    await journal.close(clean=True)

    journal = await open_journal(path)
    assert not journal.clean
    assert await journal.run("run-1") == a_run()
    assert await journal.run("run-2") is None
    await journal.close()


async def test_a_failure_of_the_owner_stops_the_journal(journal: Journal) -> None:
    """`fail` is a fail-stop from outside, also for what is being written at that moment."""
    failures: list[JournalError] = []
    journal.on_failure = failures.append
    told: list[object] = []
    journal.submit([a_run()], told.append)
    await asyncio.sleep(0)
    failure = JournalError("memory and file disagree")
    journal.fail(failure)
    journal.fail(JournalError("again"))
    with pytest.raises(JournalError, match="disagree"):
        await journal.commit([a_run(2)])
    await journal.idle()

    assert journal.failure is failure
    assert told == failures == [failure]


async def test_a_failure_in_a_callback_is_what_the_changes_behind_it_get(journal: Journal) -> None:
    """Nothing is reported as a success after a fail-stop."""
    failure = JournalError("disagree")
    told: list[object] = []
    journal.submit([a_run(1)], lambda error: journal.fail(failure))
    journal.submit([a_run(2)], told.append)
    await journal.idle()

    assert told == [failure]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("place", IN_THREAD[:3])
@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED])
async def test_a_full_or_locked_disk_is_waited_for(
    path: str, faults: Faults, place: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing fails and nothing is lost: the batch is tried again until it is written."""
    journal = await open_journal(path, faults)
    faults.fail(place, code)
    told: list[object] = []
    for n in (1, 2):
        journal.submit([a_run(n)], told.append)
    await _until(lambda: faults.passed[place] >= 4)
    assert told == []
    assert "injected" in (journal.waiting or "")
    assert journal.busy

    faults.times = 0
    journal.submit([a_run(3)], told.append)
    await journal.idle()

    assert told == [None] * 3
    assert (journal.waiting, journal.failure) == (None, None)
    assert "journal_waiting" in caplog.text
    await journal.close()


async def test_pauses_double_up_to_a_limit(path: str, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 ms, 100 ms, …, 5 s, and 50 ms again after it has healed."""
    journal = await open_journal(path, faults)
    loop = asyncio.get_running_loop()
    pauses: list[float] = []
    real = loop.call_later

    def call_later(delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        if isinstance(getattr(callback, "__self__", None), Committer):
            pauses.append(delay)
            return real(0, callback, *args)
        return real(delay, callback, *args)

    monkeypatch.setattr(loop, "call_later", call_later)
    faults.fail("before_begin", sqlite3.SQLITE_FULL, times=9)
    await journal.commit([a_run()])
    faults.fail("before_begin", sqlite3.SQLITE_FULL, times=1)
    await journal.commit([a_run(2)])
    await journal.close()

    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.05]


@pytest.mark.usefixtures("quick")
async def test_a_pause_in_the_middle_of_single_writes_loses_nothing(path: str, faults: Faults) -> None:
    """The first ones of a batch that was taken apart are told, the rest is tried again, and each is told once."""

    def fill_up(place: str) -> None:
        faults(place)
        if place == "after_commit" and faults.passed["after_commit"] == 2:
            faults.fail("before_begin", sqlite3.SQLITE_BUSY, times=2)

    journal = await open_journal(path, fill_up)
    outcomes = await outcomes_of(journal, [[a_run(1)], [a_run(2)], [a_run(3, run_id="run-1")], [a_run(4)]])
    await journal.close()

    assert [outcome is None for outcome in outcomes] == [True, True, False, True]


@pytest.mark.usefixtures("quick")
async def test_a_foreign_lock_is_waited_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's `BEGIN IMMEDIATE` in a shell delays the write, and does not fail it."""
    monkeypatch.setattr("pikkupy.store.connection.BUSY_TIMEOUT_S", 0.001)
    journal = await open_journal(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        told: list[object] = []
        journal.submit([a_run()], told.append)
        await _until(lambda: journal.waiting)
        assert "locked" in (journal.waiting or "")
        assert told == []
        other.execute("ROLLBACK")
        await journal.idle()

    assert told == [None]
    await journal.close()


@pytest.mark.parametrize("still_full", [True, False])
async def test_closing_during_a_pause_tries_once_more(path: str, faults: Faults, still_full: bool) -> None:
    """It writes if it can; if not, the changes are told so, and closing does not hang."""
    journal = await open_journal(path, faults)
    faults.fail("before_begin", sqlite3.SQLITE_FULL)
    told: list[Exception | None] = []
    journal.submit([a_run()], told.append)
    await _until(lambda: journal.waiting)
    if not still_full:
        faults.times = 0
    await journal.close()

    assert [error is None for error in told] == [not still_full]
    assert (journal.failure is None) is not still_full
    journal = await open_journal(path)
    assert journal.clean is not still_full
    assert (await journal.run("run-1") is None) is still_full
    await journal.close()


async def test_closing_writes_what_is_queued(path: str) -> None:
    """What was submitted is written and told before the file is let go."""
    journal = await open_journal(path)
    told: list[object] = []
    for n in range(1, 2 * MAX_CHANGES):
        journal.submit([a_run(n)], told.append)
    await journal.close()

    assert told == [None] * (2 * MAX_CHANGES - 1)
    assert raw(path, "SELECT count(*) FROM pikkupy_runs") == [(2 * MAX_CHANGES - 1,)]


async def test_a_former_owner_cannot_write(journal: Journal, path: str) -> None:
    """If somebody else has raised the epoch, the journal stops at its next write."""
    await journal.commit([a_run()])
    raw(path, "UPDATE pikkupy_journal SET epoch = epoch + 1")

    with pytest.raises(JournalError, match="taken the journal over"):
        await journal.commit([a_run(2)])
    assert journal.failure is not None
    assert raw(path, "SELECT number FROM pikkupy_runs") == [(1,)]


async def test_an_error_of_its_own_making_stops_the_journal(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the hop itself breaks, the outcome is unknown."""
    monkeypatch.setattr(journal._writer, "send", None)

    with pytest.raises(JournalError, match="stopped"):
        await journal.commit([a_run()])


async def test_reads_go_on_during_a_pause(path: str, faults: Faults) -> None:
    """Only writing waits."""
    journal = await open_journal(path, faults)
    await journal.commit([a_run()])
    faults.fail("before_begin", sqlite3.SQLITE_FULL)
    journal.submit([a_run(2)], lambda error: None)
    await _until(lambda: journal.waiting)

    assert await journal.run("run-1") == a_run()
    faults.times = 0
    await journal.close()


async def test_a_cancel_is_one_logical_change(journal: Journal) -> None:
    """Steps and run are cancelled together."""
    await journal.commit([a_run(), a_step(position=0), a_step(position=1, status=StepStatus.RUNNING)])
    changes: list[Change] = [StepsCancelled(run=1, at=5), a_move(status=RunStatus.CANCELLED)]
    await journal.commit(changes)

    run = await journal.run("run-1")
    assert run is not None
    assert (run.status, run.reason) == (RunStatus.CANCELLED, "because")
    assert [step.status for step in await journal.steps(1)] == [StepStatus.SUCCEEDED, StepStatus.CANCELLED]
