"""Events and chunks as they come, as server-sent events.

The protocol has no way to tell an end, so it is told: an event `end`. Who asks again for what there is no more of gets
204, at which an `EventSource` stops asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pikkupy.errors import EngineClosed, PikkuError
from pikkupy.http.asked import Ask

T = TypeVar("T")

PING_S = 15  # proxies close connections on which nothing comes for a minute
LINE = "\n"  # ends one; of two characters the second may come later and be taken for an empty line, the end of an event
AT_ONCE_S = 0.1  # what has not come by then is waited for with the headers sent


async def streamed(
    ask: Ask,
    source: Callable[[], AsyncIterator[T]],
    told: Callable[[T], Any],
    kind: Callable[[T], str | None],
    place: Callable[[T], str | None] = lambda _: None,
    ended: bool = False,
) -> Response:
    """What comes from what `source` makes, each with its place as id; `ended`: it has an end by now.

    What is wrong from the beginning is an answer of its own: it is asked before the stream begins.
    """
    with ExitStack() as stack:
        stack.enter_context(ask.slot())
        ask.become_stream()
        found = _Ahead(source())
        if not await found.begins(None if ended else AT_ONCE_S):
            return Response(status_code=204)
        events = _events(ask, found, lambda one: _event(told(one), kind(one), place(one)))
        return _Live(events, found, stack.pop_all())  # it is the answer that leaves the slot now


class _Ahead(Generic[T]):
    """A source that is asked for the next one before somebody wants it."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source
        self._next = self._asked()

    async def begins(self, limit_s: float | None) -> bool:
        """Whether there is anything, or may be after that time; raises what is wrong from the beginning."""
        try:
            await asyncio.wait([self._next], timeout=limit_s)
            if self._next.done():
                self._next.result()
        except _End:
            return False
        except BaseException:
            self._next.cancel()
            raise
        return True

    async def comes_before(self, ending: asyncio.Future[Any]) -> bool:
        """Wait for the next one, or for that end; whether it has come."""
        first = asyncio.Event()  # `asyncio.wait` would hold what it waits for in the traceback of what ends it

        def come(_: asyncio.Future[Any]) -> None:
            first.set()

        self._next.add_done_callback(come)
        ending.add_done_callback(come)
        try:
            await first.wait()
        finally:
            ending.remove_done_callback(come)
        return self._next.done()

    def take(self) -> T:
        """The next one, which has come. Raises `_End`, and what the source raises."""
        found = self._next.result()
        self._next = self._asked()
        return found

    async def leave(self) -> None:
        """Nobody wants any more."""
        last, source = self._next, self._source
        last.cancel()
        await asyncio.wait([last])
        await _close(source)
        # The answer lives on in the tracebacks of what has ended it; what it was made of must not.
        del self._next, self._source

    def _asked(self) -> asyncio.Task[T]:
        return asyncio.ensure_future(_next_of(self._source))


class _Live(EventSourceResponse):
    """An answer that goes on as long as there is something to tell."""

    def __init__(self, events: AsyncIterator[ServerSentEvent], found: _Ahead[Any], slot: ExitStack) -> None:
        super().__init__(events, ping=PING_S, sep=LINE)
        self._found = found
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; whatever ends it, nothing of it is left."""
        with self._slot:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._found.leave()


class Pulse:
    """Whether anything has come from a source: it is read on and on for that, also while nobody asks."""

    def __init__(self, source: AsyncIterator[object]) -> None:
        self._source = source
        self._come = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    async def beat(self, moment_s: float) -> bool:
        """Return some moment after something has come since the last time; what comes within it is taken together.

        False, and at once, if the source has ended. Raises what the source raises.
        """
        coming = asyncio.ensure_future(self._come.wait())
        try:
            await asyncio.wait([coming, self._reading], return_when=asyncio.FIRST_COMPLETED)
        finally:
            coming.cancel()
        await asyncio.wait([self._reading], timeout=moment_s)
        self._come.clear()
        if self._reading.done():
            self._reading.result()
            return False
        return True

    async def leave(self) -> None:
        """Nobody wants to know any more."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await _close(self._source)

    async def _read(self) -> None:
        async for _ in self._source:
            self._come.set()


async def _events(ask: Ask, found: _Ahead[T], told: Callable[[T], ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    ending = asyncio.ensure_future(ask.ends.wait())
    try:
        while await found.comes_before(ending):
            yield told(found.take())
    except _End:
        yield _event({}, "end", None)
    except EngineClosed:
        return  # who listens asks again, and goes on after what it has seen
    except PikkuError as error:
        yield ServerSentEvent(bytes(ask.problem(error).body).decode(), event="problem", sep=LINE)
    finally:
        ending.cancel()


class _End(Exception):
    """There is no more. A task cannot raise `StopAsyncIteration`."""


async def _close(source: AsyncIterator[object]) -> None:
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()


async def _next_of(source: AsyncIterator[T]) -> T:
    try:
        return await anext(source)
    except StopAsyncIteration:
        raise _End from None


def _event(told: Any, kind: str | None, place: str | None) -> ServerSentEvent:
    text = told if isinstance(told, str) else msgspec.json.encode(told).decode()
    return ServerSentEvent(text, event=kind, id=place, sep=LINE)
