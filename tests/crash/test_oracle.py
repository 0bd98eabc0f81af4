"""The oracle of the kill tests sees what it is there for: each test spoils a case in which nothing is wrong."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.crash.ledger import CALLED_OFF, KILLED, ROBBED, Ledger, Line, read_ledger
from tests.crash.lives import Case
from tests.crash.oracle import Moment, check_attempts, check_end, check_left, check_life
from tests.kills.facts import Facts

ROOT = Path(__file__).parent.parent.parent
LIFE = """
import sys
from pathlib import Path
from tests.crash.lives import Case, Plan
Case(Path(sys.argv[1]), "resident").live(Plan())
"""

Spoil = Callable[[Case], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A case with one life, that nothing has disturbed. In a process without threads, which can be forked."""
    folder = tmp_path_factory.mktemp("sound") / "case"
    subprocess.run([sys.executable, "-c", LIFE, folder], cwd=ROOT, check=True, timeout=60)
    return Case(folder, "resident")


@pytest.fixture
def case(sound: Case, tmp_path: Path) -> Iterator[Case]:
    """A copy of it, to be spoilt."""
    yield sound.copy(tmp_path / "case")


def moment(case: Case) -> Moment:
    return Moment(case.facts(), read_ledger(case.ledger))


def sql(statement: str) -> Spoil:
    def spoil(case: Case) -> None:
        with closing(sqlite3.connect(case.db, isolation_level=None)) as db:
            assert db.execute(statement).rowcount > 0

    return spoil


def line(what: str, run: str, step: str, attempt: int = 1, *, of: str = "", value: object = None) -> Spoil:
    """A line of a later life, with the invocation id of the step `of` if that is given."""

    def spoil(case: Case) -> None:
        lines = read_ledger(case.ledger)
        known = {one.step: one.invocation for one in lines if one.run == run and one.invocation}
        last = Line(what, 2, lines[-1].at + 1, run, step, attempt, known[of] if of else f"{run} {step}", value)
        case.ledger.write_bytes(case.ledger.read_bytes() + msgspec.json.encode(last) + b"\n")

    return spoil


def after(end: str, spoil: Spoil) -> Spoil:
    """The same, after such an end of a life, or of a worker process of it."""

    def both(case: Case) -> None:
        case.tell(end)
        spoil(case)

    return both


def of(run: str) -> str:
    return f"run = (SELECT number FROM pikkupy_runs WHERE run_id = '{run}')"


def step(run: str, name: str) -> str:
    return f"name = '{name}' AND {of(run)}"


def test_a_line_that_a_kill_cut_off_is_none_and_the_next_one_stands(tmp_path: Path) -> None:
    """A kill ends a write where a page of the file does."""
    path = tmp_path / "ledger"
    Ledger(path, 1).add("told", "r", "start", "a long value")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole + whole[:length])
        Ledger(path, 2).add("told", "r", "cancel")
        assert [one.step for one in read_ledger(path) if one.step != "start"] == ["cancel"]
        assert len(read_ledger(path)) == 2 + (length == len(whole) - 1)  # all but the end of the line


A_RUN = """
INSERT INTO pikkupy_runs
    (number, run_id, workflow, status, input, created_at, updated_at, starts_at, start_checksum, move_checksum)
VALUES (1 + (SELECT max(number) FROM pikkupy_runs WHERE run_id <> 'fork'), 'new', 'short', 'running', '', 1, 1, 1, 0, 0)
"""
"""With the number of one that was deleted."""

SPOILT: list[tuple[str, Spoil]] = [
    ("run flow-0 is lost", sql("DELETE FROM pikkupy_runs WHERE run_id = 'flow-0'")),
    ("flow-0 had ended", sql("UPDATE pikkupy_runs SET output = '1' WHERE run_id = 'flow-0'")),
    ("victim had ended", sql("UPDATE pikkupy_runs SET reason = 'other' WHERE run_id = 'victim'")),
    ("flow-0 crm is lost", sql(f"DELETE FROM pikkupy_steps WHERE {step('flow-0', 'crm')}")),
    ("flow-0 crm was", sql(f"UPDATE pikkupy_steps SET output = '1' WHERE {step('flow-0', 'crm')}")),
    ("moving removed was", sql(f"UPDATE pikkupy_steps SET output = '1' WHERE {step('moving', 'removed')}")),
    ("signals of listener", sql("DELETE FROM pikkupy_signals WHERE name = 'go' AND seq < 5")),
    ("fork nap was", sql(f"UPDATE pikkupy_steps SET wake_at = wake_at - 1 WHERE {step('fork', 'nap')}")),
    ("crm was recorded, and has begun again", line("begin", "flow-0", "crm", of="crm")),
    ("victim had ended", line("begin", "victim", "never")),
    ("late began as", sql("UPDATE pikkupy_runs SET starts_at = starts_at - 1 WHERE run_id = 'late'")),
    ("seen 1, recorded", line("seen", "flow-0", "crm", value=1)),
    ("which is not recorded", line("seen", "flow-0", "other", value=1)),
    ("the start of other is lost", line("told", "other", "start")),
    ("the cancel of flow-0 is lost", line("told", "flow-0", "cancel")),
    ("two ends of flow-0", line("told", "flow-0", "result", value=["completed", 1])),
    ("in an epoch of an earlier life", line("told", "flow-0", "start")),
    ("flow-0 flaky: of 3 attempts", sql(f"DELETE FROM pikkupy_attempts WHERE {of('flow-0')} AND attempt = 3")),
    ("broken mend: of 2 attempts", sql(f"DELETE FROM pikkupy_attempts WHERE {of('broken')}")),
    ("attempts of flow-0", sql("UPDATE pikkupy_attempts SET error = '{}' WHERE status = 'failed'")),
    ("timers of flow-0", sql("DELETE FROM pikkupy_timers")),
    ("timers of flow-0", sql("UPDATE pikkupy_timers SET seq = seq + 1000")),
    ("changes of flow-0", sql("DELETE FROM pikkupy_changes")),
    ("chunks of flow-0", sql("DELETE FROM pikkupy_chunks")),
    ("chunks of fork", sql(f"DELETE FROM pikkupy_chunks WHERE {of('fork')}")),
    ("chunks of flow-0", sql("UPDATE pikkupy_chunks SET value = '7'")),
    ("signals of listener", sql("UPDATE pikkupy_signals SET name = 'other' WHERE name = 'pay'")),
    ("taken signals of moving/kid", sql(f"UPDATE pikkupy_signals SET position = 7 WHERE {of('moving/kid')}")),
    ("signals of moving ", sql("DELETE FROM pikkupy_signals WHERE name = ''")),
    ("flow-0 began as", sql("UPDATE pikkupy_runs SET input = '9' WHERE run_id = 'flow-0'")),
    ("moving began as", sql("UPDATE pikkupy_runs SET created_at = 1")),
    ("fork began as", sql("UPDATE pikkupy_runs SET forked_from = NULL WHERE run_id = 'fork'")),
    ("victim began as", sql("UPDATE pikkupy_runs SET number = 99 WHERE run_id = 'victim'")),
    ("epoch fell", sql("UPDATE pikkupy_journal SET epoch = 0")),
    ("next number fell", sql("UPDATE pikkupy_journal SET next_number = 1")),
    ("numbers of runs are used again", sql(A_RUN)),
    ("flow-0 crm was", sql(f"UPDATE pikkupy_steps SET started_at = 1 WHERE {step('flow-0', 'crm')}")),
    ("flow-0 crm was", sql(f"UPDATE pikkupy_steps SET kind = 'function' WHERE {step('flow-0', 'crm')}")),
    ("moving wait is lost", sql("DELETE FROM pikkupy_set_aside")),
    ("parent slow was", sql(f"UPDATE pikkupy_steps SET ended_at = 1 WHERE {step('parent', 'slow')}")),
    ("parent slow is lost", sql(f"DELETE FROM pikkupy_steps WHERE {step('parent', 'slow')}")),
]


@pytest.mark.parametrize(("message", "spoil"), SPOILT, ids=[message for message, _ in SPOILT])
def test_what_is_wrong_after_a_life_is_seen(case: Case, message: str, spoil: Spoil) -> None:
    before = moment(case)
    check_life(case.db, before, moment(case))
    spoil(case)

    with pytest.raises(AssertionError, match=message):
        check_life(case.db, before, moment(case))


IN_THE_FIRST_LIFE: list[tuple[str, Spoil]] = [
    ("has begun after its value was seen", line("begin", "flow-0", "crm", of="crm")),
    ("has begun after its run was told to have ended", line("begin", "resigns", "other")),
    ("attempt 3 after 1", line("begin", "broken", "sound", 3, of="sound")),
    ("two invocation ids", line("begin", "parent/slow", "before")),
    ("has ended early", sql(f"UPDATE pikkupy_steps SET wake_at = ended_at + 1 WHERE {step('fork', 'nap')}")),
    ("has a short deadline", sql(f"UPDATE pikkupy_steps SET wake_at = started_at WHERE {step('fork', 'nap')}")),
    ("begun early", sql("UPDATE pikkupy_runs SET starts_at = starts_at + 1000000 WHERE run_id = 'late'")),
    ("fired early", sql("UPDATE pikkupy_timers SET fired_at = due_at - 1")),
    ("attempt 2 after 1, and 0 ends", line("begin", "flow-0", "once", 2, of="once")),
    ("attempt 9 after 1, and 0 ends", line("begin", "flow-0", "once", 9, of="once")),
    ("attempt 40 after 1, and 1 ends", after(KILLED, line("begin", "flow-0", "once", 40, of="once"))),
    ("attempt 0 after 1, and 1 ends", after(KILLED, line("begin", "flow-0", "once", 0, of="once"))),
    ("attempt 2 after 0, and 0 ends", line("begin", "crunch-0", "crunch 0", 2)),
    ("attempt 3 after 0, and 1 ends", after(KILLED, line("begin", "crunch-0", "crunch 0", 3))),
    ("attempt 2 after 0, and 0 ends", after(CALLED_OFF, line("begin", "crunch-0", "crunch 0", 2))),
    ("attempt 2 after 1, and 0 ends", after(CALLED_OFF, line("begin", "flow-0", "once", 2, of="once"))),
    ("attempt 2 after 1, and 0 ends", after(ROBBED, line("begin", "flow-0", "once", 2, of="once"))),
    ("broken mend: of 2 attempts", sql(f"DELETE FROM pikkupy_attempts WHERE {of('broken')} AND attempt = 1")),
]


@pytest.mark.parametrize(("message", "spoil"), IN_THE_FIRST_LIFE, ids=[message for message, _ in IN_THE_FIRST_LIFE])
def test_what_the_ledger_tells_of_is_seen(case: Case, message: str, spoil: Spoil) -> None:
    """Without a look at an earlier moment."""
    nothing = Moment(None, [])
    check_life(case.db, nothing, moment(case))
    if message.startswith("attempt "):  # of a step whose value nobody has seen, or that would be said first
        case.ledger.write_bytes(case.ledger.read_bytes().replace(b'"seen"', b'"other"').replace(b'"told"', b'"other"'))
        sql("DELETE FROM pikkupy_signals")(case)
    spoil(case)

    with pytest.raises(AssertionError, match=message):
        check_life(case.db, nothing, moment(case))


@pytest.mark.parametrize(
    ("end", "run", "name"),
    [(KILLED, "flow-0", "once"), (KILLED, "x", "crunch 0"), (ROBBED, "x", "crunch 0")],
)
def test_an_end_may_take_one_attempt(case: Case, end: str, run: str, name: str) -> None:
    """Of a step that runs at most once, or in a worker process."""
    case.tell(end)
    lines = [one for one in read_ledger(case.ledger) if one.what in ("begin", "failed", end)]
    first = Line("begin", 1, 1, run, name, 1, "id")
    others = [one for one in lines if (one.run, one.step) != (run, name)]
    nothing = Facts(case.db)
    nothing.steps.clear()

    check_attempts(nothing, [first, *others, msgspec.structs.replace(first, life=2, attempt=2)])
    with pytest.raises(AssertionError, match="attempt 3 after 1, and 1 ends"):
        check_attempts(nothing, [first, *others, msgspec.structs.replace(first, life=2, attempt=3)])


def test_an_end_that_is_no_end_is_seen(case: Case, sound: Case) -> None:
    """Other results, runs that go on, a file that was not left in good order."""
    results = sound.life().results
    check_end(case.db, moment(case), results, results)
    with pytest.raises(AssertionError, match="other results"):
        check_end(case.db, moment(case), results, {**results, "flow-0": ["completed", 1]})
    sql("UPDATE pikkupy_journal SET clean = 0")(case)
    with pytest.raises(AssertionError, match="not clean"):
        check_left(case.db)
    sql("UPDATE pikkupy_runs SET status = 'running', output = NULL, ended_at = NULL WHERE run_id = 'late'")(case)
    with pytest.raises(AssertionError, match="have not ended"):
        check_end(case.db, moment(case), results, results)
