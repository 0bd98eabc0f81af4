"""What can be asked of a journal by those who only show it, whoever owns the file."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from pikkupy.core.model import (
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
from pikkupy.payloads import PayloadCodec
from pikkupy.store import reader
from pikkupy.store.sealing import Opener

T = TypeVar("T")


class Reading(ABC):
    """A journal that answers. Every question raises `JournalError` naming what is damaged, or leaves it out.

    A value that the codec cannot decode says why where the record is only shown, and is refused where it goes on.
    """

    def __init__(self, codec: PayloadCodec | None) -> None:
        self._opener = Opener(codec)
        self._damaged: reader.Damaged = reader.refuse  # told of each damaged row; what it raises ends the question

    @abstractmethod
    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, called in a thread with a connection that does not write."""

    def leave_out(self, error: JournalError) -> None:
        """A record that was read cannot be shown: raise that, or keep it for whoever asks for what is missing."""
        self._damaged(error)

    async def _show(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._read(lambda db: self._opener.lenient(db, work(db)))

    async def run(self, run_id: str) -> RunRow | None:
        """The run of that id."""
        found = await self._read(lambda db: reader.runs_by_id(db, [run_id], partial(self._opener.lenient, db)))
        row = found.get(run_id)
        if isinstance(row, JournalError):
            raise row
        return row

    async def page(self, which: RunFilter, *, limit: int, before: int | None = None) -> tuple[list[RunRow], int | None]:
        """At most `limit` of the runs that fit, with a number below `before`, newest first.

        And the `before` of the next page; None: there are no more.
        """
        return await self._show(lambda db: reader.page(db, which, limit, before, self._damaged))

    async def records(self, numbers: Sequence[int]) -> tuple[list[Recorded], dict[int, JournalError]]:
        """All that these runs are replayed from, by number, and what is wrong with those that are damaged."""
        return await self._read(lambda db: reader.recorded_runs(db, numbers, partial(self._opener.strict, db)))

    async def counts(self) -> list[tuple[str, RunStatus, int]]:
        """How many runs there are of each workflow in each status that has some."""
        return await self._read(reader.counts)

    async def run_ids(self, numbers: Sequence[int]) -> dict[int, str]:
        """The ids of these runs, by number."""
        return await self._read(lambda db: reader.run_ids(db, numbers))

    async def steps(self, number: int) -> list[StepRow]:
        """The steps of one run, by position."""
        return await self._show(lambda db: reader.steps(db, number, self._damaged))

    async def some_steps(
        self, number: int, first: int, limit: int, *, with_errors: bool
    ) -> tuple[list[StepRow], list[AttemptRow], int]:
        """Some steps of one run, their finished attempts, and how many such steps it has."""
        return await self._show(
            lambda db: reader.some_steps(db, number, first, limit, self._damaged, with_errors=with_errors)
        )

    async def open_steps(self, run_ids: Sequence[str]) -> dict[str, list[StepRow]]:
        """The steps without an outcome of the runs of these ids that have some, by position."""
        return await self._read(lambda db: self._open_steps(db, run_ids))

    async def past(
        self, number: int, place: int, reached: int
    ) -> tuple[list[StepRow], list[AttemptRow], list[SignalRow]]:
        """What has happened to one run, for who knows it up to that place and step, as of one moment: the steps that
        they do not know, by position, without outputs, finished attempts and signals."""
        return await self._show(lambda db: reader.past(db, number, place, reached, self._damaged))

    async def attempts(self, number: int) -> tuple[list[StepRow], list[StepRow], list[AttemptRow]]:
        """The steps of one run, those that were set aside, and their finished attempts, by seq, as of one moment."""
        return await self._show(lambda db: reader.attempts(db, number, self._damaged))

    async def attempt_rows(self, number: int) -> list[AttemptRow]:
        """The finished attempts of one run that have a row, by seq."""
        return await self._show(lambda db: reader.attempt_rows(db, number, self._damaged))

    async def signals(self, number: int) -> list[SignalRow]:
        """All signals that were sent to one run, in the order of their arrival, without what they carried."""
        return await self._read(lambda db: reader.signals(db, number))

    async def children(self, number: int) -> list[ChildRow]:
        """All children of one run, by step and attempt."""
        return await self._read(lambda db: reader.children(db, number))

    async def chunks(self, number: int, *, after: int) -> list[tuple[ChunkRow, bool]]:
        """A page of one run's stream: chunks after that offset, each with whether it still counts; none: no more."""
        return await self._show(lambda db: reader.chunks(db, number, after))

    async def last_change(self, numbers: Sequence[int]) -> dict[int, int]:
        """Per run the latest recorded time of its steps, attempts and timers, in µs; runs without any are absent."""
        return await self._read(lambda db: reader.last_change(db, numbers))

    async def recent_change(self, numbers: Sequence[int]) -> dict[int, int]:
        """As `last_change`, of the steps and timers that a run reached last alone, so that their number does not count.

        0 if there is nothing.
        """
        return await self._read(lambda db: reader.recent_change(db, numbers))

    async def last_kept(self, statuses: Sequence[RunStatus], keep: int) -> EndedRun | None:
        """The oldest of the `keep` (1 or more) runs without parents that ended last; None if there are fewer."""
        return await self._read(lambda db: reader.last_kept(db, statuses, keep))

    async def ended(self, *, after: tuple[int, int], kept: tuple[int, int], before: int, limit: int) -> list[EndedRun]:
        """The next runs without parents that ended before a time, the oldest end first.

        They lie between two places in that order, each an end and a number: `after` and `kept`.
        """
        return await self._read(lambda db: reader.ended(db, after, kept, before, limit))

    async def families(self, numbers: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Per run that is there, with all that descend from it: how many runs, and how many unfinished ones."""
        return await self._read(lambda db: reader.families(db, numbers))

    def _open_steps(self, db: sqlite3.Connection, run_ids: Sequence[str]) -> dict[str, list[StepRow]]:
        found = reader.open_steps(db, run_ids, self._damaged)
        return {run_id: self._opener.lenient(db, steps) for run_id, steps in found.items()}
