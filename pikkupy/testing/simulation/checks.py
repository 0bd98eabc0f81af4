"""What is checked of the file as a whole, between two lives and at quiet moments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from typing import Any

from pikkupy.testing.simulation.asked import Known, Violation
from pikkupy.testing.simulation.bodies import ENDED, SLACK_US
from pikkupy.testing.simulation.oracle import Oracle
from pikkupy.testing.simulation.programs import SIGNALS

Query = Callable[..., list[Any]]

_RUNS = "SELECT run_id, status, output, error FROM pikkupy_runs"
_KEPT_SIGNALS = """
SELECT runs.run_id, signals.name, count(*) FROM pikkupy_signals AS signals
JOIN pikkupy_runs AS runs ON runs.number = signals.run WHERE signals.name <> '' GROUP BY 1, 2
"""
_AWAKE = (
    "SELECT run_id FROM pikkupy_runs WHERE ended_at IS NULL AND wakes_at IS NULL AND parked IS NULL "
    "AND (starts_at <= created_at OR starts_at <= ?)"
)
_WITHOUT_WORKFLOW = "SELECT number, run_id, status FROM pikkupy_runs WHERE workflow = 'program' AND status = 'running'"
_NOT_BACK = """
SELECT number, run_id, status FROM pikkupy_runs WHERE reason LIKE 'WorkflowNotFound%' AND ended_at IS NULL
"""
_SLEEPS = """
SELECT run, position, name, wake_at FROM pikkupy_steps WHERE kind = 'sleep' AND wake_at IS NOT NULL
AND run NOT IN (SELECT run FROM pikkupy_signals WHERE name = '')
"""
_OVERDUE = "SELECT run_id FROM pikkupy_runs WHERE wakes_at < ?"
_UNWOKEN = """
SELECT runs.run_id, steps.name, steps.kind IN ('inline', 'function'), steps.position, steps.attempts,
    coalesce(steps.target, 'inline')
FROM pikkupy_steps AS steps JOIN pikkupy_runs AS runs ON runs.number = steps.run
WHERE steps.status IN ('pending', 'scheduled') AND steps.wake_at < ?
AND runs.ended_at IS NULL AND runs.parked IS NULL AND runs.wakes_at IS NULL
"""
_ORPHAN = """
SELECT child.run_id FROM pikkupy_runs AS child JOIN pikkupy_runs AS parent ON parent.number = child.parent
WHERE child.ended_at IS NULL AND parent.ended_at IS NOT NULL AND child.alone_since IS NULL
"""
FACTS = {  # what finds a row that there must not be, with what it means
    "end: step {1!r} of run {0!r}, which has ended, is {2} (I9)": """
        SELECT runs.run_id, steps.name, steps.status FROM pikkupy_steps AS steps
        JOIN pikkupy_runs AS runs ON runs.number = steps.run
        WHERE runs.ended_at IS NOT NULL AND steps.status IN ('pending', 'scheduled', 'running')""",
    "end: run {0!r} has ended, and is to wake (I-25)": """
        SELECT run_id FROM pikkupy_runs WHERE ended_at IS NOT NULL AND wakes_at IS NOT NULL""",
    "early: sleep {1!r} of run {0!r} ended before its time (I7, I-21)": """
        SELECT runs.run_id, steps.name FROM pikkupy_steps AS steps JOIN pikkupy_runs AS runs ON runs.number = steps.run
        WHERE steps.kind = 'sleep' AND steps.status = 'succeeded' AND steps.ended_at < steps.wake_at""",
    "early: a timer of run number {0} fired before its time (I7, I-21)": """
        SELECT run FROM pikkupy_timers WHERE fired_at < due_at""",
    "places: place {1} in the history of run number {0} is taken twice (I1, I-32)": """
        SELECT run, seq FROM (
            SELECT run, seq FROM pikkupy_steps WHERE seq IS NOT NULL UNION ALL SELECT run, seq FROM pikkupy_timers
            UNION ALL SELECT run, seq FROM pikkupy_attempts UNION ALL SELECT run, seq FROM pikkupy_signals
        ) GROUP BY run, seq HAVING count(*) > 1""",
    "attempts: step {1} of run number {0} has {2} attempts, of which {3} are recorded (I6, I-15)": """
        SELECT steps.run, steps.position, steps.attempts, count(DISTINCT attempts.attempt) FROM pikkupy_steps AS steps
        LEFT JOIN pikkupy_attempts AS attempts ON attempts.run = steps.run AND attempts.position = steps.position
            AND attempts.name IS NULL AND attempts.attempt <= steps.attempts
        WHERE steps.status IN ('succeeded', 'failed') AND steps.attempts > 1
        AND steps.run NOT IN (SELECT run FROM pikkupy_attempts WHERE name IS NOT NULL)
        GROUP BY steps.run, steps.position HAVING count(DISTINCT attempts.attempt) <> steps.attempts""",
    "attempts: attempt {2} of step {1} of run number {0} is recorded twice (I1, I6)": """
        SELECT run, position, attempt FROM pikkupy_attempts WHERE name IS NULL
        GROUP BY run, position, attempt HAVING count(*) > 1""",
    "attempts: attempt {2} of step {1} of run number {0} has no beginning (I6)": """
        SELECT run, position, attempt FROM pikkupy_attempts WHERE started_at = 0""",
    "rows: run number {0} is not there, and not deleted, and has rows (I-45)": """
        SELECT run FROM (
            SELECT run FROM pikkupy_steps UNION SELECT run FROM pikkupy_attempts UNION SELECT run FROM pikkupy_timers
            UNION SELECT run FROM pikkupy_signals UNION SELECT run FROM pikkupy_set_aside
        ) WHERE run NOT IN (SELECT number FROM pikkupy_runs) AND run NOT IN (SELECT number FROM pikkupy_deleted)""",
    "wake-up: step {1!r} of run {0!r} waits for a signal that is there (I9, I-39, I-41)": """
        SELECT runs.run_id, steps.name FROM pikkupy_steps AS steps
        JOIN pikkupy_runs AS runs ON runs.number = steps.run JOIN pikkupy_signals AS signals ON signals.run = steps.run
        WHERE steps.kind = 'signal' AND steps.status IN ('pending', 'scheduled') AND signals.position IS NULL
        AND (steps.name = signals.name OR steps.name GLOB signals.name || '#*') AND signals.name <> ''
        AND runs.ended_at IS NULL AND runs.parked IS NULL
        AND (steps.wake_at IS NULL OR signals.sent_at < steps.wake_at)""",
    "signal: run number {0} took {1!r} of place {2} after a later one (I-39)": """
        SELECT first.run, first.name, first.seq FROM pikkupy_signals AS first
        JOIN pikkupy_signals AS second ON second.run = first.run AND second.name = first.name AND second.seq > first.seq
        JOIN pikkupy_steps AS taker ON taker.run = second.run AND taker.position = second.position
        LEFT JOIN pikkupy_steps AS other ON other.run = first.run AND other.position = first.position
        WHERE first.run NOT IN (SELECT run FROM pikkupy_signals WHERE name = '') -- its steps have other places now
        AND first.name IN ('s0', 's1') AND taker.kind = 'signal' AND taker.seq IS NOT NULL
        AND first.sent_at <= coalesce(taker.wake_at, first.sent_at) -- or it was late, and the clock was set back then
        AND (first.position IS NULL OR (other.kind = 'signal' AND other.seq > taker.seq))""",
}


class Checks:
    """The file of one history, against what its oracle knows."""

    def __init__(self, query: Query, oracle: Oracle) -> None:
        self._query = query
        self._oracle = oracle
        self._dues: dict[tuple[int, int, str], int] = {}
        self._inputs: dict[str, str] = {}
        self._epoch = 0

    def look(self) -> None:
        """At what callers were told, in the life that has just begun or at a quiet moment."""
        found = {run_id: tuple(rest) for run_id, *rest in self._query(_RUNS)}
        oracle = self._oracle
        for run_id in oracle.starts:
            if run_id not in found and not oracle.asked.is_gone(run_id):
                raise Violation(f"lost: start() of run {run_id!r} had returned, and it is not on disk (I5, I-1)")
        for run_id in oracle.deleted:
            if run_id in found:
                raise Violation(f"deleted: delete_run({run_id!r}) had returned, and it is there")
        for run_id, known in oracle.finals.items():
            if found.get(run_id, known.what) != known.what and not oracle.asked.was_retried(run_id):
                raise Violation(f"end: run {run_id!r} was {known.what}, and is {found[run_id]} (I3, I-5)")
        for run_id, what in found.items():
            if what[0] in ENDED:
                oracle.finals.setdefault(run_id, Known(self._commits(), what))
            if what[0] == "cancelled" and "/" not in run_id and run_id not in oracle.asked.unwanted:
                raise Violation(f"cancel: run {run_id!r} is cancelled, and nobody has asked for it (I-28)")
        for run_id in oracle.asked.cancelled:
            if run_id in found and found[run_id][0] != "cancelled" and not oracle.asked.was_retried(run_id):
                raise Violation(f"cancel: cancel({run_id!r}) had returned, and it is {found[run_id][0]} (I5, I-27)")
        self._look_for_signals(found)

    def _commits(self) -> int:
        return self._oracle.commits

    def _look_for_signals(self, found: Container[str]) -> None:
        kept = {(run_id, name): count for run_id, name, count in self._query(_KEPT_SIGNALS)}
        for (run_id, name), count in Counter(signal.what for signal in self._oracle.sent).items():
            there = kept.get((run_id, name), 0)
            if run_id in found and there < count:
                raise Violation(
                    f"lost: {count} times {name!r} to run {run_id!r} was accepted, {there} are on disk (I5, I-39)"
                )

    def opened(self) -> None:
        """A life begins: every owner has an epoch of its own."""
        self._file()
        [(epoch,)] = self._query("SELECT epoch FROM pikkupy_journal")
        if epoch <= self._epoch:
            raise Violation(f"epoch: {epoch} follows {self._epoch} (I11)")
        self._epoch = epoch

    def workflows(self, is_coming: Callable[[int], bool], *, whole: bool) -> None:
        """At a moment when all that is on disk was told: who has lost or got its workflow is known.

        `is_coming` says of a run that it is in memory or on its way there, as one whose child has ended meanwhile.
        """
        for number, run_id, status in self._query(_NOT_BACK if whole else _WITHOUT_WORKFLOW):
            if not is_coming(number):
                known = "known" if whole else "unknown"
                raise Violation(f"missing: run {run_id!r} is {status}, and its workflow is {known} (I9, C113)")

    def _file(self) -> None:
        """What SQLite itself says of it."""
        for check in ("PRAGMA integrity_check", "PRAGMA foreign_key_check"):
            found = self._query(check)
            if found not in ([], [("ok",)]):
                raise Violation(f"file: {check} says {found[:3]} (I-43)")

    def went_back(self) -> None:
        """Power was lost: the file is an earlier one."""
        self._epoch = 0
        self._dues.clear()
        self._inputs.clear()  # a child run may be another one's now

    def facts(self) -> None:
        """What rows say of each other."""
        for text, sql in FACTS.items():
            rows = self._query(sql)
            if rows:
                raise Violation(text.format(*rows[0]))
        for run, position, name, wake_at in self._query(_SLEEPS):
            if self._dues.setdefault((run, position, name), wake_at) != wake_at:
                raise Violation(f"due: sleep {name!r} of run number {run} has got another time (I-23)")
        for run_id, given in self._query("SELECT run_id, workflow || input FROM pikkupy_runs"):
            if self._inputs.setdefault(run_id, given) != given:
                raise Violation(f"input: that of run {run_id!r} has changed (I-6)")

    def next_moves(self, resident: Container[str], calm_us: int | None, late_us: int) -> None:
        """At a moment when nothing is on its way: every run that has begun and does not wait in the file is in memory.

        `calm_us`: now, unless the clock was set so lately that nobody can have noticed: then nothing is said of what is
        due. What waits in the file comes at most `late_us` after that.
        """
        forgotten = [run_id for (run_id,) in self._query(_AWAKE, calm_us or 0) if run_id not in resident]
        if forgotten:
            raise Violation(f"forgotten: run {forgotten[0]!r} is neither in memory nor waits in the file (I9, I-41)")
        orphan = self._query(_ORPHAN)
        if orphan:
            raise Violation(f"orphan: child run {orphan[0][0]!r} goes on, and its parent has ended (I9)")
        late = [] if calm_us is None else self._query(_OVERDUE, calm_us - late_us)
        if late:
            raise Violation(f"late: run {late[0][0]!r} is due, and waits in the file (I-22, I-41)")
        late = [] if calm_us is None else self._query(_UNWOKEN, calm_us - SLACK_US)
        for run_id, name, has_body, *step in late:
            if not (has_body and self._oracle.bodies.may_wait(run_id, *step)):
                raise Violation(f"late: {name!r} of run {run_id!r} is due, and is not told (I-22, I-41)")

    def at_the_end(self) -> None:
        """Every run has ended."""
        self.look()
        self.facts()
        self.next_moves((), 0, 0)
        self._file()
        unfinished = [run_id for run_id, status, *_ in self._query(_RUNS) if status not in ENDED]
        if unfinished:
            raise Violation(f"stuck: run {unfinished[0]!r} does not end although nothing is in its way (I9, I-40)")
        self._taken_signals()

    def _taken_signals(self) -> None:
        taken = Counter(
            (run_id, one.what[0], one.what[1])
            for run_id, seen in self._oracle.seen.items()
            for one in seen.values()
            if _is_signal(one.what)
        )
        for (run_id, name, payload), count in taken.items():
            if count > self._oracle.given.offered(run_id, name, payload):
                raise Violation(f"signal: {payload} of {name!r} was taken {count} times by run {run_id!r} (I-39)")


def _is_signal(what: Any) -> bool:
    return what[0] in SIGNALS and what[1].startswith("[")
