"""Deleting runs: one that is named, or all that ended long ago, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import DeletedSwept, RunDeleted, RunRow, RunStatus
from pikkupy.durations import Duration, named_microseconds
from pikkupy.engine.host import Host
from pikkupy.engine.listing import statuses_of
from pikkupy.errors import BadType, BadValue, RunStateError
from pikkupy.store import Journal, Reading

# What one transaction deletes at most: it takes some milliseconds, and everybody else's writes wait no longer. First go
# the rows of runs, each with all that descend from it: a family that is larger has a transaction of its own. Then what
# they leave goes in parts: of each table so many rows as take about the time that a part may.
MAX_RUNS, MAX_FAMILY = 50, 500
LEAST_ROWS, FIRST_ROWS, MOST_ROWS = 50, 500, 1_000
PART_S = 0.02
CHUNK, COUNTED = 500, 10_000  # ended runs that are looked at in one read, to be deleted or to be counted

_FOREVER = 1 << 62  # µs; no end is later


class Pruning:
    """What one `prune` was asked for. Raises `DurationError`, `BadType` or `BadValue` naming the argument."""

    def __init__(
        self,
        older_than: Duration,
        statuses: Iterable[RunStatus | str] | None,
        keep: int,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._older_than_us = named_microseconds("older_than", older_than)
        self._statuses = _final("statuses", FINAL_RUNS if statuses is None else statuses)
        if not isinstance(keep, int) or isinstance(keep, bool) or not 0 <= keep < _FOREVER:
            raise BadValue(f"keep={keep!r}: use a whole number, 0 or more")
        if progress is not None and not callable(progress):
            raise BadType(f"progress={progress!r}: use a function of one number")
        self._keep = keep
        self._progress = progress

    async def run(self, host: Host) -> int:
        """Delete; how many runs without parents are gone."""
        deleted, sweep = 0, Sweep(host.journal)
        await sweep.rest()  # of a pruning that was cut off
        async for families in self._families(host.journal, host.now_us(), CHUNK):
            for batch in _batches(families):
                deleted += await _delete(host, batch, sweep)
                if self._progress is not None:
                    self._progress(deleted)
        host.info("runs_pruned", deleted=deleted)
        return deleted

    async def count(self, reading: Reading, now_us: int) -> int:
        """How many runs without parents `run` would delete now."""
        found = 0
        async for families in self._families(reading, now_us, COUNTED):
            found += sum(not unfinished for _, unfinished in families.values())
            if self._progress is not None:
                self._progress(found)
        return found

    async def _families(self, reading: Reading, now_us: int, chunk: int) -> AsyncIterator[dict[int, tuple[int, int]]]:
        """The runs that are meant, the oldest end first: of each how many runs it is with all that descend from it, and
        how many of them are unfinished."""
        before, kept = now_us - self._older_than_us + 1, (_FOREVER, 0)
        if self._keep:
            oldest = await reading.last_kept(self._statuses, self._keep)
            kept = (-_FOREVER, 0) if oldest is None else (oldest.ended_at, oldest.number)
        after = (-_FOREVER, 0)
        while ended := await reading.ended(after=after, kept=kept, before=before, limit=chunk):
            after = (ended[-1].ended_at, ended[-1].number)
            yield await reading.families([run.number for run in ended if run.status in self._statuses])


async def check_deletable(journal: Journal, row: RunRow) -> None:
    """Raises `RunStateError` if the run has not ended, or a run above or below it that would lose by its end."""
    if row.status not in FINAL_RUNS:
        raise RunStateError(
            f"run {row.run_id!r} is {row.status}: only a run that has ended can be deleted; cancel it first"
        )
    relative = await journal.unfinished_relative(row.number)
    if relative is not None:
        run_id, status, is_parent = relative
        whose = "its parent" if is_parent else "a child run below it,"
        raise RunStateError(
            f"run {row.run_id!r} is {row.status}, but {whose} {run_id!r} is {status}: it can be deleted when that has "
            "ended, too"
        )


def _final(argument: str, given: Iterable[RunStatus | str]) -> Sequence[RunStatus]:
    statuses = statuses_of(argument, given)
    for status in statuses:
        if status not in FINAL_RUNS:
            finals = ", ".join(one for one in RunStatus if one in FINAL_RUNS)
            raise BadValue(f"{argument}={given!r}: a run that is {status} has not ended; use some of {finals}")
    return statuses


class Sweep:
    """Takes away what deleted runs have left, in parts that take about the same time however large the rows are."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._rows = FIRST_ROWS
        self._now = asyncio.get_running_loop().time

    async def part(self) -> None:
        """One transaction, or a part of the one that is about to be written."""
        begun = self._now()
        await self._journal.commit([DeletedSwept(rows=self._rows)])
        took_s = self._now() - begun
        if took_s > PART_S:
            self._rows = max(LEAST_ROWS, self._rows // 2)
        elif took_s < PART_S / 4:
            self._rows = min(MOST_ROWS, self._rows * 2)

    async def rest(self) -> None:
        """All of it."""
        while await self._journal.has_deleted():
            await self.part()


def _batches(families: dict[int, tuple[int, int]]) -> Iterator[list[int]]:
    """The runs below which nothing is unfinished, in parts that one transaction can delete."""
    batch, total = list[int](), 0
    for number, (runs, unfinished) in families.items():
        if unfinished:
            continue
        if batch and (len(batch) == MAX_RUNS or total + runs > MAX_FAMILY):
            yield batch
            batch, total = [], 0
        batch.append(number)
        total += runs
    if batch:
        yield batch


async def _delete(host: Host, numbers: Sequence[int], sweep: Sweep) -> int:
    """Delete each run that still can be, and all that they leave; how many were. The runs go to the disk together.

    One that could have been deleted, and was refused, is logged and stays.
    """
    journal = host.journal
    deletions = (journal.commit([RunDeleted(number=number)]) for number in numbers)
    *outcomes, swept = await asyncio.gather(*deletions, sweep.part(), return_exceptions=True)
    if journal.failure is not None:
        raise journal.failure
    refused = {number: outcome for number, outcome in zip(numbers, outcomes, strict=True) if outcome is not None}
    if refused:
        for number, (_, unfinished) in (await journal.families(list(refused))).items():
            if not unfinished:
                host.log.warning("run_not_pruned", number=number, error=str(refused[number]))
    if swept is not None:
        raise swept
    await sweep.rest()
    return len(numbers) - len(refused)  # the others are gone, or go on, since they were looked at
