"""Deleting runs: one that is named, or all that ended long ago, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import RunDeleted, RunRow, RunStatus
from pikkupy.durations import Duration, named_microseconds
from pikkupy.engine.host import Host
from pikkupy.engine.listing import statuses_of
from pikkupy.errors import BadType, BadValue, RunStateError
from pikkupy.store import Journal

# What one transaction deletes at most: it takes some milliseconds, and everybody else's writes wait no longer. A run
# goes as a whole: one that has more steps than that has a transaction of its own.
MAX_RUNS, MAX_STEPS = 50, 2_000
CHUNK = 500  # ended runs that are looked at in one read

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
        journal, before = host.journal, host.now_us() - self._older_than_us + 1
        kept = (_FOREVER, 0)
        if self._keep:
            oldest = await journal.last_kept(self._statuses, self._keep)
            kept = (-_FOREVER, 0) if oldest is None else (oldest.ended_at, oldest.number)
        after = (-_FOREVER, 0)
        deleted = 0
        while chunk := await journal.ended(after=after, kept=kept, before=before, limit=CHUNK):
            after = (chunk[-1].ended_at, chunk[-1].number)
            sizes = await journal.sizes([run.number for run in chunk if run.status in self._statuses])
            for batch in _batches(sizes):
                deleted += await _delete(journal, batch)
                if self._progress is not None:
                    self._progress(deleted)
        host.info("runs_pruned", deleted=deleted)
        return deleted


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


def _batches(sizes: dict[int, tuple[int, int]]) -> Iterator[list[int]]:
    """The runs below which nothing is unfinished, in parts that one transaction can delete."""
    batch, total = list[int](), 0
    for number, (steps, unfinished) in sizes.items():
        if unfinished:
            continue
        if batch and (len(batch) == MAX_RUNS or total + steps > MAX_STEPS):
            yield batch
            batch, total = [], 0
        batch.append(number)
        total += steps
    if batch:
        yield batch


async def _delete(journal: Journal, numbers: Sequence[int]) -> int:
    """Delete each run that still can be; how many were. They go to the disk together.

    Raises the `JournalError` of one that could have been deleted, and was not.
    """
    deletions = (journal.commit([RunDeleted(number=number)]) for number in numbers)
    outcomes = await asyncio.gather(*deletions, return_exceptions=True)
    if journal.failure is not None:
        raise journal.failure
    refused = {number: outcome for number, outcome in zip(numbers, outcomes, strict=True) if outcome is not None}
    if refused:
        for number, (_, unfinished) in (await journal.sizes(list(refused))).items():
            if not unfinished:
                raise refused[number]
    return len(numbers) - len(refused)  # the others are gone, or go on, since they were looked at
