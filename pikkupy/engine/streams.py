"""A run's stream as a reader sees it: what is on disk, page by page, then what comes, until the run has ended.

A reader keeps its place and one page. Whoever is slow reads further behind, and costs no memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import MAX_INTEGER, ChunkRow, RunRow
from pikkupy.engine.host import Host
from pikkupy.engine.parts import Parts
from pikkupy.engine.residents import Residents
from pikkupy.engine.views import Chunk, chunk_of
from pikkupy.errors import BadType, BadValue, JournalError, RunNotFound
from pikkupy.names import check_name


class Stream(AsyncIterator[Chunk]):
    """The chunks of one run. It holds nothing between two chunks, so that it can be left at any time."""

    def __init__(
        self,
        use: Callable[[], Parts],
        run_id: str,
        after: int,
        step: str | None,
        current: bool,
    ) -> None:
        if not isinstance(after, int) or isinstance(after, bool):
            raise BadType(f"after={after!r}: use the offset of the last chunk seen, not {type(after).__name__}")
        if not -1 <= after <= MAX_INTEGER:
            raise BadValue(f"after={after!r}: use the offset of the last chunk seen, or -1 for all")
        self._use = use
        self._run_id = check_name(run_id, "run_id")
        self._after = after
        self._step = None if step is None else check_name(step, "step")
        self._current = current
        self._number: int | None = None  # of the run, once it is found
        self._page: deque[ChunkRow] = deque()
        self._over = False

    def __repr__(self) -> str:
        return f"<Stream of run {self._run_id!r} after {self._after}>"

    async def __anext__(self) -> Chunk:
        host, residents, _ = self._use()
        if self._number is None:
            self._number = (await self._row()).number
        while not self._page:
            if self._over:
                raise StopAsyncIteration
            await self._turn_the_page(host, residents, self._number)
        return chunk_of(self._page.popleft(), host.values)

    async def _turn_the_page(self, host: Host, residents: Residents, number: int) -> None:
        """Read the next chunks; if there are none, wait for more, or for the end."""
        end = residents.wait_for(self._run_id)  # both before the look at the file, so that nothing is missed
        more = residents.outlet.wait_for(number)
        try:
            if await self._read(host, number):
                return
            if not await self._has_ended():
                await asyncio.wait((more, end), return_when=asyncio.FIRST_COMPLETED)
                if not end.done():
                    return
                end.result()  # raises if the engine was left
            self._over = not await self._read(host, number)
        finally:
            residents.wait_no_more(self._run_id, end)
            residents.outlet.wait_no_more(number, more)

    async def _read(self, host: Host, number: int) -> bool:
        """The next page, if there is one."""
        try:
            rows = await host.journal.chunks(number, after=self._after)
        except JournalError:
            self._use()  # if the engine was left meanwhile, that is why
            raise
        if rows:
            self._after = rows[-1][0].offset
        self._page.extend(
            row for row, counts in rows if (counts or not self._current) and self._step in (None, row.name)
        )
        return bool(rows)

    async def _has_ended(self) -> bool:
        try:
            return (await self._row()).status in FINAL_RUNS
        except RunNotFound:
            return True  # it was there: it has ended, and was deleted

    async def _row(self) -> RunRow:
        try:
            return await self._use().row(self._run_id)
        except JournalError:
            self._use()  # as above
            raise
