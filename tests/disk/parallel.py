"""Work that is shared by forks of this process, and what they have counted."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec


class Result(msgspec.Struct):
    """What was counted, and what was wrong, with how to see it again."""

    counts: Counter[str] = msgspec.field(default_factory=Counter)
    wrong: list[str] = msgspec.field(default_factory=list)

    def add(self, other: Result) -> None:
        """What another one has found. What is most of something is the most of both."""
        for name, count in other.counts.items():
            together = max if name.startswith("most") else int.__add__
            self.counts[name] = together(self.counts[name], count)
        self.wrong += other.wrong


_work: Callable[[int], Result] | None = None


def _do(item: int) -> Result:
    assert _work is not None
    return _work(item)


def in_forks(what: str, work: Callable[[int], Result], items: Iterable[int], jobs: int, size: int = 1) -> Result:
    """The results of `work` for all items, in `jobs` processes, each forked from this one; how far it is on stderr.

    `size` is how many of what is counted an item stands for.
    """
    global _work
    _work = work
    total, begun, todo = Result(), time.monotonic(), list(items)
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for done, result in enumerate(pool.imap_unordered(_do, todo), 1):
            total.add(result)
            _tell(what, done * size, len(todo) * size, time.monotonic() - begun, last=done == len(todo))
    total.counts["most seconds"] = round(time.monotonic() - begun)
    return total


def _tell(what: str, done: int, all_: int, took_s: float, *, last: bool) -> None:
    if sys.stderr.isatty() or last:
        end = "\n" if last else "\r"
        sys.stderr.write(f"{what}: {done:,} of {all_:,}, {done / max(took_s, 1e-9):,.0f}/s {end}")
        sys.stderr.flush()
