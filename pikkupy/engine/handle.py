"""`RunHandle`: one run, as its starter holds it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pikkupy.core.model import RunStatus
from pikkupy.durations import Duration

if TYPE_CHECKING:
    from pikkupy.engine.events import Event
    from pikkupy.engine.views import Chunk

Out = TypeVar("Out", covariant=True)


class Runs(Protocol):
    """What a handle needs of its engine."""

    async def _status(self, run_id: str) -> RunStatus: ...
    async def cancel(self, run_id: str, reason: str) -> None: ...
    async def signal(self, run_id: str, name: str, payload: Any = None) -> None: ...
    async def approve(self, run_id: str, name: str, decision: Any, *, decided_by: str | None = None) -> None: ...
    def stream(self, run_id: str, *, after: int, step: str | None, current: bool) -> AsyncIterator[Chunk]: ...
    def run_events(self, run_id: str, *, after: int | None = None) -> AsyncIterator[Event]: ...
    async def _result(self, run_id: str, timeout: Duration | None) -> Any: ...


class RunHandle(Generic[Out]):
    """A run that is on disk. Handles are cheap; two handles of one id are the same run."""

    def __init__(self, engine: Runs, run_id: str) -> None:
        self._engine = engine
        self.id = run_id

    def __repr__(self) -> str:
        return f"<RunHandle {self.id!r}>"

    async def status(self) -> RunStatus:
        """Where the run stands. Raises `RunNotFound` if it was deleted."""
        return await self._engine._status(self.id)

    async def result(self, timeout: Duration | None = None) -> Out:
        """The run's output, once it has ended; a suspended run is waited for.

        Raises `RunFailed`, `RunCancelled`, or the built-in `TimeoutError` after `timeout` (a duration by the engine's
        clock; 0 looks once): the run goes on. Raises `EngineClosed` if the engine is left meanwhile.
        """
        return await self._engine._result(self.id, timeout)  # type: ignore[no-any-return]

    async def cancel(self, reason: str) -> None:
        """As `Engine.cancel`."""
        await self._engine.cancel(self.id, reason)

    async def signal(self, name: str, payload: Any = None) -> None:
        """As `Engine.signal`."""
        await self._engine.signal(self.id, name, payload)

    async def approve(self, name: str, decision: Any, *, decided_by: str | None = None) -> None:
        """As `Engine.approve`."""
        await self._engine.approve(self.id, name, decision, decided_by=decided_by)

    def stream(self, *, after: int = -1, step: str | None = None, current: bool = False) -> AsyncIterator[Chunk]:
        """As `Engine.stream`."""
        return self._engine.stream(self.id, after=after, step=step, current=current)

    def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        """As `Engine.run_events`: from the beginning of the run, or after the event of that `seq`, until its end."""
        return self._engine.run_events(self.id, after=after)
