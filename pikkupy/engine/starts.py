"""Starting runs: one id is one run, however often and however concurrently it is started."""

from __future__ import annotations

import asyncio
import os
import uuid
from contextvars import Context
from functools import partial

from pikkupy.core.model import RunRow, RunStatus
from pikkupy.engine.host import Host
from pikkupy.engine.residents import Residents
from pikkupy.errors import RunConflict


class Starts:
    """The starts of one engine that are on their way to the disk."""

    def __init__(self, host: Host, residents: Residents) -> None:
        self._host = host
        self._residents = residents
        self._pending: dict[str, tuple[RunRow, asyncio.Future[None]]] = {}

    async def start(self, workflow: str, text: str, run_id: str | None, variables: Context) -> str:
        """Start a run with the encoded input `text`, or find the one of that id; its id, once it is on disk.

        Raises `RunConflict` if the id is taken by a run of another workflow or with another input.
        """
        if run_id is None:
            run_id = str(uuid7(self._host.now_us()))
        elif run_id not in self._pending:
            active = self._residents.active.get(run_id)
            existing = await self._host.journal.run(run_id) if active is None else active.run
            if existing is not None:
                _check_same(existing, workflow, text)
                return run_id
        pending = self._pending.get(run_id)  # looked up after the read: another start may have been quicker
        if pending is None:
            row, started = self._submit(workflow, text, run_id, variables)
        else:
            row, started = pending
            _check_same(row, workflow, text)
        await asyncio.shield(started)
        return run_id

    async def settled(self, run_id: str) -> None:
        """Wait until a start of that id that is on its way is on disk."""
        pending = self._pending.get(run_id)
        if pending is not None:
            await asyncio.shield(pending[1])

    def _submit(self, workflow: str, text: str, run_id: str, variables: Context) -> tuple[RunRow, asyncio.Future[None]]:
        now_us = self._host.now_us()
        row = RunRow(
            number=self._host.next_number(),
            run_id=run_id,
            workflow=workflow,
            status=RunStatus.RUNNING,
            input=text,
            created_at=now_us,
            updated_at=now_us,
        )
        started: asyncio.Future[None] = self._host.loop.create_future()
        self._pending[run_id] = row, started
        self._host.journal.submit([row], partial(self._on_disk, row, started, variables))
        return row, started

    def _on_disk(self, row: RunRow, started: asyncio.Future[None], variables: Context, error: Exception | None) -> None:
        del self._pending[row.run_id]
        if error is not None:
            started.set_exception(error)
            started.exception()  # its caller may be gone
            return
        started.set_result(None)
        self._host.log.info("run_started", run_id=row.run_id, workflow=row.workflow)
        self._residents.start(row, variables)


def _check_same(existing: RunRow, workflow: str, text: str) -> None:
    if existing.workflow != workflow:
        raise RunConflict(
            f"run {existing.run_id!r} exists and is of workflow {existing.workflow!r}, not {workflow!r}; "
            "start with another run_id"
        )
    if existing.input != text:
        raise RunConflict(
            f"run {existing.run_id!r} of workflow {workflow!r} exists with another input; "
            "start with another run_id, or with the same input to get its handle"
        )


def uuid7(now_us: int) -> uuid.UUID:
    """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then 74 random bits, so that ids sort by their start."""
    random = int.from_bytes(os.urandom(10), "big")
    high = (now_us // 1_000 & (1 << 48) - 1) << 80
    return uuid.UUID(int=high | 0x7 << 76 | (random >> 66 & 0xFFF) << 64 | 0b10 << 62 | random & (1 << 62) - 1)
