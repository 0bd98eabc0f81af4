"""What is done to many runs: to each run before those below it, since what happens to a parent happens to its children.

A child that is cancelled before its parent fails the parent's step, and code that makes up for that would run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from pikkupy.core.machine import FINAL_RUNS, RunEvent, before
from pikkupy.core.model import RunStatus
from pikkupy.engine import Run
from pikkupy.errors import EngineClosed, JournalLocked, PikkuError, RunNotFound, RunStateError

Verb = Literal["cancel", "retry", "resume", "delete"]

ABLE: dict[Verb, frozenset[RunStatus]] = {
    "cancel": before(RunEvent.CANCEL),
    "retry": before(RunEvent.RETRY),
    "resume": before(RunEvent.RESUME),
    "delete": FINAL_RUNS,
}
"""The statuses of runs that it can be done to: it is meant for no others, unless they are asked for."""


class Child(NamedTuple):
    """Of a child run what is to be known before anything is done to it."""

    parent: str
    ended_at: datetime | None = None


def child_of(run: Run) -> Child | None:
    """The same as the run stands now; `None` for one that has no parent."""
    return None if run.parent_run_id is None else Child(run.parent_run_id, run.ended_at)


class Asked(Protocol):
    """The engine, or a client of it."""

    async def get_run(self, run_id: str) -> Run:
        """As `Engine.get_run`."""
        ...


class Many:
    """Does one thing to many runs, some of them at once.

    `told` is called when one is over, with the error if it was refused.
    """

    def __init__(
        self,
        verb: Verb,
        act: Callable[[str], Awaitable[object]],
        asked: Asked,
        at_once: int,
        told: Callable[[str, PikkuError | None], object],
    ) -> None:
        self.done: list[str] = []
        """Ids of runs that it was done to, or that went along with one above them."""
        self.refused: dict[str, PikkuError] = {}
        self.gone: PikkuError | None = None
        """Why nothing could be asked for any more; then some runs are neither done nor refused."""
        self._verb = verb
        self._act = act
        self._asked = asked
        self._at_once = at_once
        self._told = told
        self._children: dict[str, Child] = {}

    async def to(self, runs: Mapping[str, Child | None]) -> None:
        """Do it to runs, the newest first, of which the children are told. Raises nothing of `PikkuError`."""
        self._children = {run_id: child for run_id, child in runs.items() if child is not None}
        try:
            above = await self._nearest_above(runs)
        except PikkuError as error:
            self.gone = error
            return
        left = dict.fromkeys(reversed(list(runs)))
        while left and self.gone is None:
            level = [run_id for run_id in left if above[run_id] not in left]
            await self._to_each(level, above)
            for run_id in level:
                del left[run_id]

    async def _nearest_above(self, runs: Mapping[str, Child | None]) -> dict[str, str | None]:
        """Of each run the nearest one above it that is meant as well."""
        parents: dict[str, str | None] = {}  # of those between
        above: dict[str, str | None] = {}
        for run_id, child in runs.items():
            nearest = None if child is None else child.parent
            while nearest is not None and nearest not in runs:
                if nearest not in parents:
                    parents[nearest] = await self._parent_of(nearest)
                nearest = parents[nearest]
            above[run_id] = nearest
        return above

    async def _parent_of(self, run_id: str) -> str | None:
        try:
            return (await self._asked.get_run(run_id)).parent_run_id
        except RunNotFound:  # it was deleted meanwhile, and those below it
            return None

    async def _to_each(self, level: Iterable[str], above: Mapping[str, str | None]) -> None:
        waiting = iter(level)

        async def work() -> None:
            for run_id in waiting:
                await self._to_one(run_id, above[run_id])
                if self.gone is not None:
                    return

        await asyncio.gather(*(work() for _ in range(self._at_once)))

    async def _to_one(self, run_id: str, above: str | None) -> None:
        refused: PikkuError | None = None
        is_retry = self._verb == "retry"
        may_have_gone_along = above is not None and not (is_retry and above in self.refused)
        try:
            # A child that has not caused its parent's failure is not retried with it.
            if not (is_retry and may_have_gone_along and await self._went_along(run_id)):
                await self._act(run_id)
        except (EngineClosed, JournalLocked) as error:
            self.gone = error
            return
        except (RunStateError, RunNotFound) as error:
            refused = None if may_have_gone_along and await self._went_along(run_id) else error
        except PikkuError as error:
            refused = error
        if refused is None:
            self.done.append(run_id)
        else:
            self.refused[run_id] = refused
        self._told(run_id, refused)

    async def _went_along(self, run_id: str) -> bool:
        """Whether it was done to the run when it was done to one above it."""
        try:
            run = await self._asked.get_run(run_id)
        except PikkuError as error:
            return self._verb == "delete" and isinstance(error, RunNotFound)
        match self._verb:
            case "cancel":
                return run.status is RunStatus.CANCELLED
            case "retry":  # it may have failed again by now
                return run.status is not RunStatus.FAILED or run.ended_at != self._children[run_id].ended_at
            case _:
                return False
