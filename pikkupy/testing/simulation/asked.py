"""What was asked for of the runs of one history: what a promise holds for, and what excuses that a run changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from pikkupy.errors import EngineClosed, JournalError, PikkuError

TakeBack = Callable[[], object]


class Violation(AssertionError):
    """A promise was broken. The first word is its name; I-numbers are the invariants that hold it."""

    @property
    def promise(self) -> str:
        return str(self).split(":", 1)[0]


class Known(NamedTuple):
    """Something that has become known, and after how many commits."""

    commits: int
    what: Any


def is_among(run_id: str, runs: Iterable[str]) -> bool:
    """Whether the run is one of these, or below one."""
    return any(f"{run_id}/".startswith(f"{one}/") for one in runs)


def counted(bag: Counter[Any], one: Any) -> TakeBack:
    """It is once more in the bag; what comes back takes it out again, and leaves what others have put there."""
    bag[one] += 1
    return partial(_take_out, bag, one)


def _take_out(bag: Counter[Any], one: Any) -> None:
    bag[one] -= 1
    if not bag[one]:
        del bag[one]


@contextmanager
def unless_refused(*take_back: TakeBack) -> Iterator[None]:
    """Around a call that excuses something before it is made: when it is refused, nothing was done, and nothing is
    excused. If the engine or the journal ends meanwhile, it is not known whether it was done."""
    try:
        yield
    except (JournalError, EngineClosed):
        raise
    except PikkuError:
        for take in take_back:
            take()
        raise


class Asked:
    """What people, and workflows of their own runs, have asked for, acknowledged or not, but for what was refused."""

    def __init__(self) -> None:
        self.cancelled: dict[str, int] = {}  # acknowledged, by the commits at that time
        self.unwanted: Counter[str] = Counter()  # runs that somebody wanted to be cancelled, themselves too
        self.retried: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()  # runs that took changed code
        self.changed: set[str] = set()  # runs whose code was changed: steps may have begun with other options
        self.forking: dict[str, int] = {}  # runs that are made from others, and before which position
        self.gone: Counter[str] = Counter()  # whose deletion was asked for

    def forks(self, fork: str, place: int) -> TakeBack:
        """`fork` is called."""
        self.forking[fork] = place
        return partial(self.forking.pop, fork, None)

    def may_have_changed(self, run_id: str) -> bool:
        """Whether its past need not be what it was: it was retried, took changed code, or was deleted."""
        return self.was_retried(run_id) or run_id in self.accepted or self.is_gone(run_id)

    def was_retried(self, run_id: str) -> bool:
        """Whether the run goes on from an earlier point: it, or one above it, was retried."""
        return is_among(run_id, self.retried)

    def is_gone(self, run_id: str) -> bool:
        """Whether somebody wanted the run to be deleted, or one above it."""
        return is_among(run_id, self.gone)

    def is_unwanted(self, run_id: str) -> bool:
        """Whether somebody wanted it to be cancelled, or one above it."""
        return is_among(run_id, self.unwanted)

    def has_other_code(self, run_id: str) -> bool:
        """Whether its code was changed."""
        return run_id in self.accepted or run_id in self.changed

    def is_gone_below(self, run_id: str) -> bool:
        """Whether somebody wanted one of its child runs to be deleted."""
        return self.is_gone(run_id) or any(gone.startswith(f"{run_id}/") for gone in self.gone)

    def has_another_past(self, run_id: str) -> bool:
        """Whether some of it happened to the run that it was forked from, or by other code."""
        return run_id in self.forking or self.has_other_code(run_id)

    def is_elsewhere(self, run_id: str, position: int) -> bool:
        """Whether what a step did may have happened before a fork, or before changed code was accepted."""
        return position < self.forking.get(run_id, 0) or run_id in self.accepted
