"""Cases: one database, lives that are killed by a plan, a last life that is not, and the oracle after each of them."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tests.crash.caller import Life
from tests.crash.ledger import CALLED_OFF, read_ledger
from tests.crash.lives import Case, Ended, Kill, Mode, Plan
from tests.crash.oracle import Moment, check_end, check_left, check_life

WITHIN_A_STEP = "effect.before"
TRIES = 30  # of a kill at a failpoint, before it counts as missed: what is passed depends a little on time
MOST_KILLS = 4  # of one case at random instants; at ten the engine gives a run up that is cut off again and again
TOO_LATE = "too late"  # a life had come to its end
LONGEST_PAUSE_S = 0.03
MIXTURE = {
    Kill.KILL: 60,
    Kill.TERM: 12,
    Kill.TERM_TWICE: 6,
    Kill.INTERRUPT: 4,
    Kill.STOP: 8,
    Kill.PAUSE: 6,
    Kill.GROUP: 4,
}
GOES_ON = {Kill.WORKER, Kill.PAUSE}  # a life that it happens to comes to its end
SIGKILLS = {Kill.KILL, Kill.STOP, Kill.GROUP}  # of the whole life
MIXTURE_WITH_WORKERS = {Kill.KILL: 40, Kill.TERM: 10, Kill.TERM_TWICE: 5, Kill.WORKER: 30, Kill.GROUP: 15}


class Outcome(msgspec.Struct):
    """What has come of one case, or of all cases that begin with the same kill."""

    kills: dict[str, int] = {}  # by failpoint or kind of signal
    recoveries: dict[str, int] = {}  # kills in the life after a kill, by failpoint
    pairs: int = 0
    lives: int = 0
    missed: list[str] = []  # kills that did not happen
    violations: list[str] = []


class Undisturbed(NamedTuple):
    """What lives are without kills, by mode."""

    life: Life
    passed: frozenset[str]


class Watched:
    """A case whose lives are checked; adds up what has come of it."""

    def __init__(self, case: Case, outcome: Outcome) -> None:
        self.case = case
        self._outcome = outcome
        self._moment = Moment(case.facts(), read_ledger(case.ledger))

    def live(self, plan: Plan) -> Ended:
        """One life, and what may not be after it."""
        ended = self.case.live(plan)
        self._outcome.lives += 1
        now = Moment(self.case.facts(), read_ledger(self.case.ledger))
        check_life(self.case.db, self._moment, now)
        done = [line for line in now.lines[len(self._moment.lines) :] if line.what != CALLED_OFF]
        if ended is not Ended.KILLED and done:  # it had opened an engine
            check_left(self.case.db)
        self._moment = now
        return ended

    def end(self, expected: dict[str, Any]) -> Life:
        """A last life without a kill; its report."""
        assert self.live(Plan()) is Ended.DONE, "an undisturbed life has not come to its end"
        life = self.case.life()
        check_end(self.case.db, self._moment, life.results, expected)
        return life

    def copy(self, folder: Path) -> Watched:
        """The same, as it is now, in another folder."""
        return Watched(self.case.copy(folder), self._outcome)


def undisturbed(folder: Path, mode: Mode) -> Undisturbed:
    """A life without kills, and a second one of the same file."""
    case = Case(folder, mode)
    assert case.live(Plan()) is Ended.DONE
    life = case.life()
    assert case.live(Plan()) is Ended.DONE
    assert case.life().results == life.results, "a second life has other results"
    return Undisturbed(life, frozenset({*life.passed, *case.life().passed}))


def at_failpoint(folder: Path, mode: Mode, failpoint: str, seed: int, alone: Undisturbed, pairs: int | None) -> Outcome:
    """Kill at a failpoint, and then in the recovery at each one that it passes, or at so many drawn of them.

    The recovery begins anew from the same file each time. What only a recovery passes is tried after a kill within a
    step in any case.
    """
    outcome, rng, expected = Outcome(), random.Random(f"{seed} {mode} {failpoint}"), alone.life.results
    folder.mkdir()

    def act() -> None:
        first = _killed_at(failpoint, (Watched(Case(folder / f"{number}", mode), outcome) for number in range(TRIES)))
        if first is None:
            outcome.missed.append(failpoint)
            return
        _add(outcome.kills, failpoint)
        names = sorted(first.copy(folder / "recovery").end(expected).passed)
        if pairs is not None:
            rare = [name for name in names if name not in alone.passed and failpoint == WITHIN_A_STEP]
            names = [*rare, *rng.sample(names, min(pairs, len(names)))]
        for name in dict.fromkeys(names):
            _kill_recovery(first, folder / name, failpoint, name, expected, outcome)

    _checked(outcome, f"{failpoint}, {mode}, seed {seed}", folder, act)
    return outcome


def _kill_recovery(
    first: Watched, folder: Path, failpoint: str, name: str, expected: dict[str, Any], outcome: Outcome
) -> None:
    def act() -> None:
        second = _killed_at(name, (first.copy(folder / f"{number}") for number in range(TRIES)))
        if second is None:
            outcome.missed.append(f"{failpoint}, then {name}")
            return
        _add(outcome.recoveries, name)
        outcome.pairs += 1
        second.end(expected)

    folder.mkdir()
    _checked(outcome, f"{failpoint}, then {name}, {first.case.mode}", folder, act)


def _killed_at(failpoint: str, tries: Iterable[Watched]) -> Watched | None:
    """The first of them whose next life passes the failpoint, after that."""
    return next((case for case in tries if case.live(Plan(Kill.FAILPOINT, failpoint)) is Ended.KILLED), None)


def at_random(folder: Path, mode: Mode, seed: int, alone: Undisturbed) -> Outcome:
    """Kill at random instants, in a mixture of ways."""
    outcome, rng = Outcome(), random.Random(seed)

    def act() -> None:
        watched = Watched(Case(folder / "0", mode), outcome)
        for plan in plans(rng, mode, alone.life.took_s):
            ended = watched.live(plan)
            met = ended is not Ended.DONE or plan.how in GOES_ON
            _add(outcome.kills, plan.how if met and watched.case.struck else TOO_LATE)
        watched.end(alone.life.results)

    folder.mkdir()
    _checked(outcome, f"random instants, {mode}, seed {seed}", folder, act)
    return outcome


def plans(rng: random.Random, mode: Mode, took_s: float) -> Iterator[Plan]:
    """Some lives that are disturbed."""
    mixture = MIXTURE_WITH_WORKERS if mode == "processes" else MIXTURE
    for how in rng.choices(list(mixture), list(mixture.values()), k=rng.randint(1, MOST_KILLS)):
        yield Plan(how, after_s=rng.uniform(0, took_s), pause_s=rng.uniform(0, LONGEST_PAUSE_S))


def _checked(outcome: Outcome, where: str, folder: Path, act: Callable[[], None]) -> None:
    """What goes wrong is a violation, whose files stay; else they go."""
    try:
        act()
    except Exception as error:
        outcome.violations.append(f"{where}: {type(error).__name__}: {error} (its files are in {folder})")
    else:
        if not any(violation for violation in outcome.violations if str(folder) in violation):
            shutil.rmtree(folder)


def _add(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def kills_of(outcome: Outcome) -> int:
    """How often a life was killed by SIGKILL."""
    others = {TOO_LATE, *Kill} - SIGKILLS
    kills = sum(count for name, count in outcome.kills.items() if name not in others)
    return kills + sum(outcome.recoveries.values())


def total(outcomes: Iterable[Outcome]) -> Outcome:
    """All of them together."""
    kills, recoveries, whole = Counter[str](), Counter[str](), Outcome(missed=[], violations=[])
    for outcome in outcomes:
        kills.update(outcome.kills)
        recoveries.update(outcome.recoveries)
        whole.pairs += outcome.pairs
        whole.lives += outcome.lives
        whole.missed += outcome.missed
        whole.violations += outcome.violations
    whole.kills, whole.recoveries = dict(kills), dict(recoveries)
    return whole
