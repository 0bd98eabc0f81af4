"""What was asked for of the runs of one history: what a promise holds for, and what excuses that a run changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


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


class Asked:
    """What people, and workflows of their own runs, have asked for, whether it was acknowledged or not."""

    def __init__(self) -> None:
        self.cancelled: dict[str, int] = {}  # acknowledged, by the commits at that time
        self.unwanted: set[str] = set()  # runs that somebody wanted to be cancelled, themselves too
        self.retried: set[str] = set()
        self.accepted: set[str] = set()  # runs that took changed code
        self.changed: set[str] = set()  # runs whose code was changed: steps may have begun with other options
        self.forking: dict[str, int] = {}  # runs that are made from others, and before which position
        self.gone: set[str] = set()  # whose deletion was asked for

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
