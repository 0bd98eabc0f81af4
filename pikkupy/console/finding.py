"""The list of runs: what it is asked for in the URL, and what comes of it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pikkupy.clock import monotonic_s, now
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import RunStatus
from pikkupy.durations import microseconds
from pikkupy.engine import Run
from pikkupy.errors import DurationError, RunNotFound
from pikkupy.http.asked import Ask
from pikkupy.http.problems import Refused
from pikkupy.http.queries import tags_of
from pikkupy.showing.waits import took, what_of

LIMIT = 50  # runs of a page
COUNTS_S = 1.0  # that a count is good for: of a million runs it takes longer than the page itself
COUNTS_SHARE = 0.03  # of the time, at most, goes into counting
COUNTS_MOST_S = 10.0  # but a count is never older

Wanted = Annotated[list[str] | UnsetType, Meta(description="In this status; repeat it for several.")]


class Find(msgspec.Struct, forbid_unknown_fields=True):
    """What the URL says. A field of a form that was left empty says nothing."""

    status: Wanted = UNSET
    workflow: str = ""
    tag: Annotated[list[str] | UnsetType, Meta(description="With this tag, `name:value`; repeat it.")] = UNSET
    since: str = ""
    until: str = ""
    q: str = ""
    cursor: str = ""

    @property
    def statuses(self) -> list[str]:
        """Those that are wanted; none: all."""
        return [] if self.status is UNSET else [one for one in self.status if one]

    @property
    def tags(self) -> list[str]:
        """All that a run has to have."""
        return [] if self.tag is UNSET else [one for one in self.tag if one]

    @property
    def is_counted(self) -> bool:
        """Whether there is a count of all that is asked for: there is one by workflow and status alone."""
        return not (self.q or self.since or self.until or self.tags)

    def query(self, **other: Any) -> dict[str, Any]:
        """For a URL that asks for the same, but for what is given."""
        asked = {"status": self.statuses, "workflow": self.workflow, "tag": self.tags, "since": self.since}
        return asked | {"until": self.until, "q": self.q, "cursor": self.cursor} | other

    def filters(self, now: datetime) -> dict[str, Any]:
        """Arguments of `list_runs`, but for the statuses. Raises `Refused`."""
        found: dict[str, Any] = {"text": self.q or None}
        if self.workflow:
            found["workflow"] = self.workflow
        if self.tags:
            found["tags"] = tags_of(self.tags)
        if self.since:
            found["created_after"] = _moment("since", self.since, now)
        if self.until:
            found["created_before"] = _moment("until", self.until, now)
        return found

    def said(self, when: str) -> str:
        """A time as it is asked for, for people."""
        return when if _ago_us(when) is None else f"{when} ago"


def _moment(name: str, text: str, now: datetime) -> datetime:
    """So long ago, or a time: of the server, unless it says otherwise. Raises `Refused`."""
    if (ago_us := _ago_us(text)) is not None:
        return now - timedelta(microseconds=ago_us)
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        cure = "use so long ago, as 2h or 30d, or a time, as 2026-12-24 18:00"
        raise Refused(422, "Unprocessable content", f"`{name}`: {cure}, not {text!r:.80}") from None


def _ago_us(text: str) -> int | None:
    try:
        return microseconds(text)
    except DurationError:
        return None


@dataclass(frozen=True, slots=True)
class Row:
    """A run of the list."""

    run: Run
    what: str
    took: timedelta


async def rows_of(ask: Ask, find: Find) -> tuple[list[Row], str | None]:
    """The runs that were asked for, and where the next page begins."""
    status, cursor = find.statuses or None, find.cursor or None
    page = await ask.engine.list_runs(**find.filters(now()), status=status, limit=LIMIT, cursor=cursor, values=False)
    open_ids = [run.id for run in page.runs if run.status not in FINAL_RUNS]
    steps = await ask.engine.open_steps(open_ids) if open_ids else {}
    at = now()
    rows = [Row(run, ask.shown.text(what_of(run, steps.get(run.id, []), at)), took(run, at)) for run in page.runs]
    return rows, page.next_cursor


async def exactly(ask: Ask, find: Find) -> Run | None:
    """The run whose id was looked for."""
    try:
        return await ask.engine.get_run(find.q)
    except RunNotFound:
        return None


class _Counts:
    """Runs by status; looked at once in a while, however many look, and the less often the longer it takes."""

    def __init__(self) -> None:
        self._good_until_s = -math.inf
        self._found: dict[str, dict[RunStatus, int]] = {}
        self._alone = asyncio.Lock()

    async def get(self, ask: Ask) -> dict[str, dict[RunStatus, int]]:
        """By workflow and status."""
        async with self._alone:
            began_s = monotonic_s()
            if began_s >= self._good_until_s:
                self._found = await ask.engine.counts()
                took_s = monotonic_s() - began_s
                self._good_until_s = began_s + min(max(COUNTS_S, took_s / COUNTS_SHARE), COUNTS_MOST_S)
        return self._found


_counts: WeakKeyDictionary[object, _Counts] = WeakKeyDictionary()  # by engine


async def counts_of(ask: Ask) -> dict[str, dict[RunStatus, int]]:
    """Runs by workflow and status, not older than `COUNTS_MOST_S`."""
    return await _counts.setdefault(ask.engine, _Counts()).get(ask)
