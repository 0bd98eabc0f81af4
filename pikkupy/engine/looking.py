"""A look at a journal file: what an engine says of its runs, without an engine, an owner or the application's code."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, NoReturn

from pikkupy.clock import SystemClock
from pikkupy.codec import Codec
from pikkupy.core.model import AttemptRow, Recorded, RunFilter, RunStatus
from pikkupy.durations import Duration
from pikkupy.engine import asking
from pikkupy.engine.asking import Asked, UnderWay, not_found
from pikkupy.engine.events import Event
from pikkupy.engine.pruning import Pruning
from pikkupy.engine.views import Attempt, Page, Run, Step, StepPage
from pikkupy.errors import EngineClosed, PikkuError
from pikkupy.payloads import PayloadCodec
from pikkupy.registry import WorkflowFunction
from pikkupy.store import Viewing

CHUNK = 100  # runs whose records are read together


class Look:
    """Reads a journal that somebody else may own; use it with `async with`.

    It answers as an `Engine` does, by the same names and arguments, from what is on disk, with values as plain data: no
    class of the application is wanted. It works while an engine is at work on the file and while none is, writes
    nothing, and takes no lock. Entering raises `JournalNotFound`, `JournalFormatError` for what is no journal, or a
    newer one, and `JournalError`. Damaged rows are left out, and `damaged` names them.
    """

    def __init__(self, path: str | os.PathLike[str], *, payload_codec: PayloadCodec | None = None) -> None:
        self._path = os.fspath(path)
        self._codec = payload_codec
        self._viewing: Viewing | None = None

    async def __aenter__(self) -> Look:
        if self._viewing is not None:
            raise PikkuError("this look is under way already; make another one")
        viewing = Viewing(self._path, self._codec)
        self._viewing = viewing
        try:
            await viewing.ask(bool)  # it is a journal
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._viewing is not None:
            viewing, self._viewing = self._viewing, None
            await viewing.close()

    @property
    def damaged(self) -> tuple[str, ...]:
        """What is wrong with the rows that answers so far had to leave out."""
        return tuple(self._use().damaged)

    async def get_run(self, run_id: str) -> Run:
        """As `Engine.get_run`; a damaged run raises `JournalError`."""
        return await asking.get_run(self._asked(), run_id)

    async def list_runs(
        self,
        *,
        workflow: str | WorkflowFunction[Any, Any] | None = None,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        tags: Mapping[str, str] | None = None,
        id_prefix: str | None = None,
        error: str | None = None,
        text: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
        values: bool = True,
    ) -> Page:
        """As `Engine.list_runs`. A cursor of one is good for the other."""
        return await asking.list_runs(
            self._asked(),
            workflow=workflow,
            status=status,
            tags=tags,
            id_prefix=id_prefix,
            error=error,
            text=text,
            created_after=created_after,
            created_before=created_before,
            limit=limit,
            cursor=cursor,
            values=values,
        )

    async def counts(self) -> dict[str, dict[RunStatus, int]]:
        """As `Engine.counts`."""
        return await asking.counts(self._asked())

    async def steps(self, run_id: str) -> list[Step]:
        """As `Engine.steps`. A step that has just begun gets its row after a moment."""
        return await asking.steps(self._asked(), run_id)

    async def some_steps(self, run_id: str, *, first: int = 0, limit: int = 50, with_errors: bool = False) -> StepPage:
        """As `Engine.some_steps`."""
        return await asking.some_steps(self._asked(), run_id, first=first, limit=limit, with_errors=with_errors)

    async def history(self, run_id: str) -> list[Attempt]:
        """As `Engine.history`."""
        return await asking.history(self._asked(), run_id)

    def run_events(self, run_id: str, *, after: int | None = None) -> AsyncIterator[Event]:
        """As `Engine.run_events`, by the same numbers, up to what is recorded when it is read; then it ends."""
        return asking.past_events(self._asked(), run_id, after)

    async def some_events(self, run_id: str, *, after: int | None = None, limit: int = 200) -> list[Event]:
        """As `Engine.some_events`."""
        return await asking.some_events(self._asked(), run_id, after=after, limit=limit)

    # What only an engine can say

    async def ready(self) -> None:
        """Return if the file can be read."""
        await self.list_runs(limit=1, values=False)

    async def handle(self, run_id: str) -> NoReturn:
        """There is nobody to wait with. Raises `RunNotFound`, or `EngineClosed`."""
        await self.get_run(run_id)
        raise _nobody()

    async def approvals(self, run_id: str) -> NoReturn:  # noqa: ARG002
        """Nobody can decide. Raises `EngineClosed`."""
        raise _nobody()

    async def awaited_signals(self, run_id: str) -> NoReturn:  # noqa: ARG002
        """Nobody takes one. Raises `EngineClosed`."""
        raise _nobody()

    async def has_input(self, run_id: str, data: Any) -> NoReturn:  # noqa: ARG002
        """What a start would record depends on code that is not here. Raises `EngineClosed`."""
        raise _nobody()

    async def workflows(self) -> NoReturn:
        """Nobody can start one. Raises `EngineClosed`."""
        raise _nobody()

    async def load(self) -> NoReturn:
        """Nobody works. Raises `EngineClosed`."""
        raise _nobody()

    def events(self, *, after: int | None = None) -> NoReturn:  # noqa: ARG002
        """Nothing happens. Raises `EngineClosed`."""
        raise _nobody()

    def stream(self, run_id: str, *, after: int = -1, step: str | None = None, current: bool = False) -> NoReturn:  # noqa: ARG002
        """Nothing is emitted. Raises `EngineClosed`."""
        raise _nobody()

    # For replays

    async def recorded(self, run_id: str) -> tuple[Recorded, list[AttemptRow]]:
        """All that the run is replayed from, and its attempts. Raises `RunNotFound`, and `JournalError` for damage."""
        number = (await self._asked().row(run_id)).number
        found, damaged = await self._use().records([number])
        if not found:
            raise damaged.get(number, not_found(run_id))
        return found[0], await self._use().attempt_rows(number)

    async def all_recorded(self, statuses: tuple[RunStatus, ...] | None = None) -> AsyncIterator[Recorded]:
        """That of every run in one of these statuses, newest first. What is damaged is left out, and in `damaged`."""
        which, before = RunFilter(statuses=statuses), None
        while True:
            rows, before = await self._use().page(which, limit=CHUNK, before=before)
            found, damaged = await self._use().records([row.number for row in rows])
            for error in damaged.values():
                self._use().leave_out(error)
            for recorded in reversed(found):
                yield recorded
            if before is None:
                return

    # For prunings

    async def prunable(
        self,
        *,
        older_than: Duration,
        statuses: Iterable[RunStatus | str] | None = None,
        keep: int = 0,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """How many runs without parents `Engine.prune` would delete now; `progress` is called with how many so far."""
        return await Pruning(older_than, statuses, keep, progress).count(self._use(), SystemClock().now_us())

    async def open_steps(self, run_ids: Iterable[str]) -> dict[str, list[Step]]:
        """Per run the steps that it has reached and that have no outcome: what it does, or waits for.

        A run without any is left out, as is an id that there is not.
        """
        return await asking.open_steps(self._asked(), run_ids)

    def _asked(self) -> Asked:
        return Asked(self._use(), _VALUES, _NOTHING, _no_types, SystemClock().now_us)

    def _use(self) -> Viewing:
        if self._viewing is None:
            raise PikkuError("this look is over, or has not begun: use `async with Look(path) as look:`")
        return self._viewing


def _nobody() -> EngineClosed:
    return EngineClosed("no engine has the file open: it is only looked at")


class _Nothing:
    """What is in memory of the runs of a file that is only looked at."""

    active: Mapping[str, UnderWay] = {}

    def resident(self, number: int) -> None:  # noqa: ARG002
        return None


class _PlainValues:
    """Values as anybody can read them."""

    def __init__(self) -> None:
        self._codec = Codec()

    def encode(self, value: object, annotation: Any = Any, *, what: str, name: str | None = None) -> NoReturn:  # noqa: ARG002
        raise AssertionError("who looks writes nothing")

    def decode(self, text: str, annotation: Any = Any, *, what: str, name: str | None = None) -> Any:  # noqa: ARG002
        return self.decode_plain(text)

    def decode_plain(self, text: str) -> Any:
        return self._codec.decode_plain(text)


_NOTHING = _Nothing()
_VALUES = _PlainValues()


def _no_types(workflow: str) -> tuple[Any, Any]:  # noqa: ARG001
    return Any, Any
