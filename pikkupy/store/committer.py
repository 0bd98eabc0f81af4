"""Group commit: everything that is pending goes to the database thread in one hop, and is released after its commit.

This is the event loop's side. It keeps the queue, takes batches from its head, and tells each change what became of it,
in the order of submission, from plain callbacks of the loop. Changes leave the queue only when that is known, so that a
batch which has to be tried again simply is still there. While the loop tells of one batch, the thread writes the next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import msgspec

from pikkupy.errors import JournalError
from pikkupy.log import logger
from pikkupy.store.connection import Told
from pikkupy.store.writer import Failpoint, Written

# Logical changes per transaction: enough to make a sync cheap; so few that waits are short, that the runs which one
# commit wakes stay in the cache of the processor (with 2,000 runs in flight 15 % more steps a second than 1,000), and
# that their rows, rarely more than two for each, are one statement.
MAX_CHANGES = 512
FIRST_PAUSE_S = 0.05  # before the first new try after a full disk or a foreign lock; doubles from try to try
MAX_PAUSE_S = 5.0

Done = Callable[[Exception | None], None]

_log = logger()


class Logical(msgspec.Struct, frozen=True, gc=False):
    """A logical change: what is written with it or not at all, and who wants to know.

    Nothing refers to it but the queue, so it can be in no cycle, and the garbage collector need not look at it.
    """

    ops: Sequence[Any]  # as the writer wants them; nothing is known of them here
    done: Done


class Committer:
    """The queue of one journal. All methods belong to the loop's thread."""

    def __init__(
        self,
        write: Callable[[Sequence[Sequence[Any]], Told[Written]], object],
        loop: asyncio.AbstractEventLoop,
        on_stop: Callable[[], None],
        on_failure: Callable[[JournalError], None],
        on_release: Callable[[], None],
        failpoint: Failpoint | None,
    ) -> None:
        self.failure: JournalError | None = None  # set by a fail-stop
        self.waiting: str | None = None  # why nothing is written just now
        self._write = write
        self._loop = loop
        self._on_stop = on_stop
        self._on_failure = on_failure
        self._on_release = on_release
        self._reach = failpoint
        self._queue: deque[Logical] = deque()
        self._untold: Sequence[JournalError | None] = ()  # outcomes of the head of the queue: it is written
        self._writing = False
        self._retry: asyncio.TimerHandle | None = None
        self._pause_s = 0.0
        self._last_try = False
        self._refusal: JournalError | None = None  # what every further change gets
        self._idlers: list[asyncio.Future[None]] = []

    @property
    def busy(self) -> bool:
        """True while anything is queued or being written."""
        return bool(self._queue) or self._writing

    def submit(self, logical: Logical) -> None:
        """Queue a logical change; `done` gets None after its commit, or the error."""
        self._queue.append(logical)
        if self._refusal is not None:
            self._loop.call_soon(self._refuse_all)
        elif not self._writing:
            self._begin()

    async def idle(self) -> None:
        """Return when nothing is queued and nothing is being written."""
        while self.busy:
            idler: asyncio.Future[None] = self._loop.create_future()
            self._idlers.append(idler)
            await idler

    def fail(self, failure: JournalError) -> None:
        """Stop: write nothing any more, and give `failure` to every change that was not told otherwise."""
        if self._refusal is not None:
            return
        self.failure = self._refusal = failure
        self.waiting = None
        self._stop_waiting()
        self._on_stop()
        self._loop.call_soon(self._failed)

    def abandon(self, failure: JournalError) -> None:
        """As `fail`, where nobody answers any more what is being written."""
        self._writing = False
        self.fail(failure)

    async def settle(self) -> None:
        """Write what is queued, and do not wait any more: what is waiting to be tried again is tried once more."""
        self._last_try = True
        if self._stop_waiting():
            self._begin()
        await self.idle()

    async def finish(self, refusal: JournalError) -> None:
        """As `settle`, and further changes get `refusal`."""
        await self.settle()
        if self._refusal is None:
            self._refusal = refusal

    # The cycle: begin, written, released, begin

    def _begin(self) -> None:
        if self._queue and not self._writing and self._retry is None and self._refusal is None:
            self._writing = True
            self._loop.call_soon(self._take)

    def _take(self) -> None:
        """Write what is pending. It is taken a moment after the first is there: what this turn of the loop brings is in
        it."""
        if self._refusal is not None:
            self._writing = False
            self._wake_idlers()
            return
        first = len(self._untold)
        batch = [logical.ops for logical in islice(self._queue, first, first + MAX_CHANGES)]
        try:
            self._write(batch, self._written)
        except Exception as error:  # noqa: BLE001 - as if the hop had broken
            self._written(None, error)

    def _written(self, written: Written | None, error: BaseException | None) -> None:
        if written is None:
            failure = JournalError(f"the journal has stopped: {error!r}")
            failure.__cause__ = error
            written = Written([], failure=failure)
        self._writing = False
        self._tell_untold()
        if self._refusal is None:
            self._untold = written.outcomes
            if written.failure is None and written.pause is None:
                self._go_on()
                if len(self._queue) > len(self._untold):  # the thread need not wait until these are told
                    self._begin()
                    self._loop.call_soon(self._tell_untold)
                    return
            self._tell_untold()
            if written.failure is not None:
                self.fail(written.failure)
            elif written.pause is not None:
                self._pause(written.pause)
        self._begin()
        self._wake_idlers()

    def _tell_untold(self) -> None:
        """Release what was written last, if that has not been done."""
        outcomes, self._untold = self._untold, ()
        if outcomes and self._refusal is None:
            self._release(outcomes)
            self._begin()
            self._wake_idlers()

    def _release(self, outcomes: Sequence[JournalError | None]) -> None:
        if self._reach is not None:
            try:
                self._reach("before_release")
            except Exception as error:  # noqa: BLE001 - a test's
                self.fail(JournalError(f"the journal has stopped before a release: {error}"))
                return
        take = self._queue.popleft
        for outcome in outcomes:
            logical = take()
            try:
                logical.done(self.failure or outcome)
            except Exception as error:  # noqa: BLE001 - the changes behind it must still be told
                self._complain(error)
                # What it was to do is not done: go on, and a run may wait for it for ever.
                self.fail(JournalError(f"the journal has stopped: what follows a write has failed: {error!r}"))
        self._on_release()

    def _complain(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "a journal callback failed", "exception": error})

    # Pauses and ends

    def _pause(self, why: str) -> None:
        if self._last_try:
            self.fail(JournalError(f"{why}; the journal was closed before that passed"))
            return
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), MAX_PAUSE_S)
        if self.waiting is None:
            _log.warning("journal_waiting", reason=why)
        self.waiting = f"{why}; it is tried again every {MAX_PAUSE_S:g} s or sooner"
        self._retry = self._loop.call_later(self._pause_s, self._again)

    def _again(self) -> None:
        self._retry = None
        self._begin()

    def _go_on(self) -> None:
        if self.waiting is not None:
            _log.info("journal_resumed")
            self.waiting = None
            self._pause_s = 0.0

    def _stop_waiting(self) -> bool:
        """Cancel the timer of the next try; True if there was one."""
        if self._retry is None:
            return False
        self._retry.cancel()
        self._retry = None
        return True

    def _failed(self) -> None:
        """Tell of the failure: first to the owner, so that it dispatches nothing more, then to who waits."""
        if self.failure is not None:
            try:
                self._on_failure(self.failure)
            except Exception as error:  # noqa: BLE001 - those who wait must still be told
                self._loop.call_exception_handler({"message": "on_failure failed", "exception": error})
        self._refuse_all()

    def _refuse_all(self) -> None:
        while self._queue:
            logical = self._queue.popleft()
            try:
                logical.done(self._refusal)
            except Exception as error:  # noqa: BLE001 - as in `_release`
                self._complain(error)
        self._wake_idlers()

    def _wake_idlers(self) -> None:
        if not self.busy:
            idlers, self._idlers = self._idlers, []
            for idler in idlers:
                if not idler.done():
                    idler.set_result(None)
