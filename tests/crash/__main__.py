"""Kill a real process at many instants, restart it until it is done, and check what is recorded and what happened.

    python -m tests.crash [--kills N] [--seed S] [--unload]

First at every commit point: each failpoint of the journal, at every passing of it that an undisturbed life has. Then at
random instants, until there were N kills; with fewer kills than commit points, at some of those. One line per
violation; the last line says how many kills there were and where.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from tests.crash.workload import RUNS, SETTINGS, Effect, Life, one_life, read_ledger

LONGEST_LIFE_S = 60.0
LONGEST_KILL_S = 0.12  # an uncrashed life takes about this long

Key = tuple[str, str]


class Case:
    """One database, one ledger, lives until done."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.db = folder / "app.db"
        self.ledger = folder / "ledger.jsonl"
        self.report = folder / "report.json"
        self.lives = 0

    def live(self, failpoint: str | None = None, nth: int = 0, kill_after_s: float | None = None) -> bool:
        """One life; True if it was killed."""
        self.lives += 1
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                one_life(self.db, self.ledger, failpoint, nth, self.report)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        status = self._wait(pid, kill_after_s)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return True
        assert os.waitstatus_to_exitcode(status) == 0, f"a life ended with {os.waitstatus_to_exitcode(status)}"
        return False

    def _wait(self, pid: int, kill_after_s: float | None) -> int:
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1]
        deadline = time.monotonic() + LONGEST_LIFE_S
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise AssertionError(f"a life did not end within {LONGEST_LIFE_S} s")
            time.sleep(0.001)

    def life(self) -> Life:
        """The report of the last life."""
        return msgspec.json.decode(self.report.read_bytes(), type=Life)

    def recorded(self) -> dict[Key, str]:
        """The steps that have an outcome on disk."""
        if not self.db.exists():
            return {}
        with closing(sqlite3.connect(f"{self.db.as_uri()}?mode=ro", uri=True)) as db:
            try:
                rows = db.execute("SELECT run_id, name, status FROM pikku_steps WHERE ended_at IS NOT NULL").fetchall()
            except sqlite3.OperationalError:
                return {}  # killed before the tables were there
        return {(run, name): status for run, name, status in rows}

    def starts(self) -> set[str]:
        """The runs that are on disk."""
        with closing(sqlite3.connect(f"{self.db.as_uri()}?mode=ro", uri=True)) as db:
            return {run for (run,) in db.execute("SELECT run_id FROM pikku_runs")}


def check_case(folder: Path, failpoint: str | None, nth: int, rng: random.Random, expected: Life) -> int:
    """Kill at the given point (or at random instants), restart until done, and check every promise; the kills."""
    case = Case(folder)
    kills = 0
    while True:
        before, known = case.recorded(), len(read_ledger(case.ledger))
        acked = {line.run for line in read_ledger(case.ledger) if line.what == "ack"}
        assert not acked or acked <= case.starts(), "an acknowledged start is lost"
        plan = _plan(failpoint, nth, rng, kills)
        killed = case.live(*plan)
        check_life(before, case.recorded(), read_ledger(case.ledger)[known:])
        if not killed and case.report.exists():
            break
        kills += killed
    assert case.life().results == expected.results, "the results differ from those of an uncrashed run"
    check_effects(read_ledger(case.ledger), kills)
    return kills


def _plan(failpoint: str | None, nth: int, rng: random.Random, kills: int) -> tuple[str | None, int, float | None]:
    if failpoint is not None:
        return (failpoint, nth, None) if kills == 0 else (None, 0, None)
    return None, 0, rng.uniform(0.0, LONGEST_KILL_S) if kills < 2 else None


def check_life(before: dict[Key, str], after: dict[Key, str], effects: list[Effect]) -> None:
    """I1, I2: what was recorded stays as it is, and does not begin again."""
    for key, status in before.items():
        assert after.get(key) == status, f"{key} was {status}, now {after.get(key)}"
    again = [(line.run, line.step) for line in effects if line.what == "begin" and (line.run, line.step) in before]
    assert not again, f"recorded steps ran again: {again}"


def check_effects(effects: list[Effect], kills: int) -> None:
    """I6 and the idempotency key: attempts without gaps, one invocation id per step, repeats only where a kill was."""
    ids: dict[Key, set[str]] = {}
    attempts: dict[Key, list[int]] = {}
    for line in effects:
        if line.what == "begin":
            ids.setdefault((line.run, line.step), set()).add(line.invocation)
            attempts.setdefault((line.run, line.step), []).append(line.attempt)
    assert all(len(seen) == 1 for seen in ids.values()), "a step had two invocation ids"
    assert len({next(iter(seen)) for seen in ids.values()}) == len(ids), "two steps share an invocation id"
    for key, numbers in attempts.items():
        expected = {"flaky": 3, "hopeless": 2}.get(key[1], 1)
        assert sorted(set(numbers)) == list(range(1, expected + 1)), f"{key}: attempts {numbers}"
        assert numbers == sorted(numbers), f"{key}: attempts {numbers}"
        assert len(numbers) - expected <= kills, f"{key} ran {len(numbers)} times with {kills} kills"


def instants(kills: int, passed: dict[str, int], rng: random.Random) -> Iterator[tuple[str | None, int]]:
    """Every commit point in random order, then random instants for ever."""
    points = [(name, nth) for name, count in passed.items() for nth in range(1, count + 1)]
    rng.shuffle(points)
    yield from points[: max(1, kills * 2 // 3)] if kills < len(points) else points
    yield from itertools.repeat((None, 0))


def uncrashed(folder: Path) -> Life:
    """A life that nothing disturbs."""
    case = Case(folder)
    assert not case.live()
    assert len(case.starts()) == RUNS
    return case.life()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=400, help="how many kills at the least (400)")
    parser.add_argument("--unload", action="store_true", help="let every run that waits leave memory at once")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants (0)")
    options = parser.parse_args()
    if options.unload:
        SETTINGS.update(resident_runs=0, unload_after=0)
    rng = random.Random(options.seed)
    killed: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as root:
        expected = uncrashed(Path(root, "uncrashed"))
        for number, (failpoint, nth) in enumerate(instants(options.kills, expected.passed, rng)):
            folder = Path(root, str(number))
            try:
                killed[failpoint or "random instant"] += check_case(folder, failpoint, nth, rng, expected)
            except AssertionError as error:
                wrong += 1
                print(f"violation at {failpoint or 'a random instant'} {nth}, seed {options.seed}: {error}")
            if sum(killed.values()) >= options.kills:
                break
    places = ", ".join(f"{name} {count}" for name, count in killed.items())
    print(f"{sum(killed.values())} kills ({places}), {wrong} violations")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
