"""Leaving an engine does not wait for what may never come."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pikkupy import JournalError, Pikku, Workflow
from pikkupy.store import connection


async def test_leaving_does_not_wait_for_ever_for_another_program(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What still cannot be written then is told to its callers, and nothing is lost that was told before."""
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.001)
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        pass

    async with pikku.open(db) as engine:
        await engine.start(flow, run_id="kept")
        with closing(sqlite3.connect(db, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waits = asyncio.ensure_future(engine.start(flow, run_id="waits"))
            while engine._use().host.journal.waiting is None:
                await asyncio.sleep(0)
            await engine.__aexit__(None, None, None)
            with pytest.raises(JournalError, match="closed before that passed"):
                await waits
    async with pikku.open(db) as engine:
        runs = (await engine.list_runs()).runs

    assert [run.id for run in runs] == ["kept"]
