"""What running steps tell: chunks for the run's stream, which are recorded, and progress, which is not.

An attempt is known by its `StepContext`, the object, and is heard until its end is known; what comes later changes
nothing. What one turn of the loop brings is written together, and always before the outcome of the attempt that has
emitted it, because the journal writes in the order of submission.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Condition, get_ident
from typing import Protocol

from pikkupy.core.model import FULL, MAX_OWN, ChunkRow, RunRow
from pikkupy.engine.host import Host
from pikkupy.errors import StreamFull
from pikkupy.progress import Progress
from pikkupy.services import CHUNK_OVERHEAD, StepContext

ROWS = 16  # of one logical change: a commit takes 512 of those, and must not keep the others waiting
ROOM = 0  # the number of no run: who waits for room
ROOM_S = 60.0  # real time that a thread waits for the disk before it is told that there is no room


class Source(Protocol):
    """A run in memory."""

    run: RunRow
    next_chunk: int

    def hears(self, step: StepContext) -> bool:
        """Whether what that attempt tells counts: it has not ended, and neither has the run."""
        ...


class Outlet:
    """Takes what the steps of one engine tell. `emit` and `progress` may be called by any thread."""

    def __init__(self, host: Host, sources: Mapping[str, Source]) -> None:
        self.on_progress: Callable[[str, str, int, Progress], None] | None = None
        """The hook for who wants to hear of progress: run id, step name, attempt, value. It is called on the loop, once
        a turn at most for each attempt, with the latest; set it before runs begin."""
        self._host = host
        self._sources = sources
        self._thread = get_ident()
        self._rows: list[ChunkRow] = []  # of this turn of the loop
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}  # for chunks on disk, by number of the run
        self._room = Condition()  # guards what follows; told when chunks are on disk
        self._unwritten = 0  # bytes
        self._inbox: deque[tuple[StepContext, str]] = deque()  # from other threads
        self._told: dict[int, StepContext] = {}  # whose progress has changed, by id, if somebody wants to hear of it
        self._called = False  # the loop will look at both
        self._closed = False

    # For steps

    def emit(self, step: StepContext, value: object) -> None:
        """As `StepContext.emit`."""
        text = self._host.values.encode(value, what="chunk of step", name=step.step_name)
        source = self._sources.get(step.run_id)
        if source is not None and source.next_chunk > MAX_OWN:
            raise StreamFull(f"run {step.run_id!r} has emitted {source.next_chunk:,} chunks: {FULL}")
        if get_ident() == self._thread:
            if not self._reserve(text):
                raise self._full(step, "let the loop turn between chunks, or emit from a function on a thread")
            self._take(step, text)
            return
        with self._room:
            if not self._room.wait_for(partial(self._reserve, text), ROOM_S):
                raise self._full(step, f"the disk has taken none for {ROOM_S:g} s")
            self._inbox.append((step, text))
        self._call()

    def progress(self, step: StepContext, progress: Progress) -> None:
        """The step is that far: the latest is kept with its context."""
        vars(step)["_progress"] = progress
        if self.on_progress is not None:
            with self._room:
                self._told[id(step)] = step
            self._call()

    async def relay(self, step: StepContext, texts: Sequence[str]) -> None:
        """Emit what a worker process has encoded; returns when there is room for more."""
        for text in texts:
            with self._room:
                self._unwritten += len(text) + CHUNK_OVERHEAD
            self._take(step, text)
        while self._unwritten > self._host.config.max_stream and not self._closed:
            written = self.wait_for(ROOM)
            try:
                await written
            finally:
                self.wait_no_more(ROOM, written)

    # For the engine, on the loop

    def flush(self) -> None:
        """Submit what was emitted: before the outcome of who has emitted it."""
        if self._rows:
            rows, self._rows = self._rows, []
            for start in range(0, len(rows), ROWS):
                some = rows[start : start + ROWS]
                self._host.journal.submit(some, partial(self._written, some))

    def wait_for(self, number: int) -> asyncio.Future[None]:
        """A future that is done when more chunks of the run of that number are on disk (of `ROOM`: when there is room),
        or when the engine is left."""
        future: asyncio.Future[None] = self._host.loop.create_future()
        if self._closed:
            future.set_result(None)
        else:
            self._waiting.setdefault(number, []).append(future)
        return future

    def wait_no_more(self, number: int, future: asyncio.Future[None]) -> None:
        """Take back `wait_for`."""
        waiting = self._waiting.get(number)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[number]

    def close(self) -> None:
        """Nobody is heard any more, and nobody waits."""
        with self._room:
            self._closed = True
            self._room.notify_all()
        for number in list(self._waiting):
            self._wake(number)

    # Inside

    def _reserve(self, text: str) -> bool:
        """Take room for a chunk. One that is larger than all the room gets it when nothing else has any."""
        size = len(text) + CHUNK_OVERHEAD
        with self._room:
            if self._unwritten and self._unwritten + size > self._host.config.max_stream and not self._closed:
                return False
            self._unwritten += size
            return True

    def _full(self, step: StepContext, advice: str) -> StreamFull:
        return StreamFull(
            f"chunk of step {step.step_name!r}: {self._unwritten:,} bytes of chunks wait for the disk, and "
            f"max_stream={self._host.config.max_stream:,}; {advice}"
        )

    def _call(self) -> None:
        """On any thread: have the loop look. What was handed over before a body returned is looked at before that."""
        with self._room:
            if self._called:
                return
            self._called = True
        with suppress(RuntimeError):  # the loop is closed: the attempt was given up long ago
            self._host.loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        with self._room:
            self._called = False
            inbox, self._inbox = self._inbox, deque()
            told, self._told = self._told, {}
        for step, text in inbox:
            self._take(step, text)
        for step in told.values():
            source = self._sources.get(step.run_id)
            if self.on_progress is not None and source is not None and source.hears(step):
                self.on_progress(step.run_id, step.step_name, step.attempt_count, vars(step)["_progress"])

    def _take(self, step: StepContext, text: str) -> None:
        """Give the chunk its place in the run's stream, unless its attempt is not heard any more."""
        source = self._sources.get(step.run_id)
        if source is None or not source.hears(step) or source.next_chunk > MAX_OWN:
            self._give_back([text])
            self._ignored(step)
            return
        if not self._rows:
            self._host.loop.call_soon(self.flush)
        offset = source.next_chunk
        source.next_chunk += 1
        self._rows.append(
            ChunkRow(
                run=source.run.number,
                offset=offset,
                since=vars(step).setdefault("_since", offset),
                position=step.position,
                name=step.step_name,
                attempt=step.attempt_count,
                value=text,
                at=self._host.now_us(),
            )
        )

    def _ignored(self, step: StepContext) -> None:
        if "_ignored" not in vars(step):  # it may go on for long
            vars(step)["_ignored"] = True
            self._host.log.debug("emit_ignored", run_id=step.run_id, step=step.step_name, attempt=step.attempt_count)

    def _written(self, rows: Sequence[ChunkRow], error: Exception | None) -> None:
        self._give_back([row.value for row in rows])
        if self._host.is_written(error) and self._waiting:
            for number in {row.run for row in rows}:
                self._wake(number)

    def _give_back(self, texts: Sequence[str]) -> None:
        with self._room:
            self._unwritten -= sum(map(len, texts)) + CHUNK_OVERHEAD * len(texts)
            self._room.notify_all()
        self._wake(ROOM)

    def _wake(self, number: int) -> None:
        for future in self._waiting.pop(number, ()):
            if not future.done():
                future.set_result(None)
