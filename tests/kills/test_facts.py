"""What may never be true of a file at rest is seen: each test writes a row by hand that an engine never leaves."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Pikku, Workflow
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH
from tests.kills.facts import Facts
from tests.kills.story import SETTINGS, Ledger

HOUR_US = 3_600_000_000
A_SIGNAL = """
INSERT INTO pikkupy_signals (key, name, payload, sent_at, position, checksum)
SELECT (number << 26) + 99, ?, iif(? IS NULL, '1', NULL), ?, ?, 0 FROM pikkupy_runs WHERE run_id = 'r'
"""


@pytest.fixture(params=BOTH, ids=["in memory", "in the file"])
async def clock(db: Path, request: pytest.FixtureRequest) -> VirtualClock:
    """That of an engine which has left a run waiting for a second signal, one with a time-out, and a decision."""
    pikku, clock = Pikku(), VirtualClock()

    @pikku.workflow
    async def flow(workflow: Workflow) -> Any:
        await workflow.wait_for_signal("go")
        return await asyncio.gather(
            workflow.wait_for_signal("go"), workflow.wait_for_signal("late", timeout="1h"), workflow.approval("pay")
        )

    async with pikku.open(db, clock=clock, services=Ledger(), **SETTINGS, **request.param) as engine:
        await engine.start(flow, run_id="r")
        await engine.signal("r", "go")
        await engine.signal("r", "other")
        await clock.advance(0)
    return clock


def forgotten(db: Path, clock: VirtualClock) -> set[str]:
    return Facts(db).forgotten(("r",), clock.now_us())


def write(db: Path, sql: str, *parameters: Any) -> None:
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        assert connection.execute(sql, parameters).rowcount == 1


def add_signal(db: Path, name: str, sent_at: int, position: int | None = None) -> None:
    write(db, A_SIGNAL, name, position, sent_at, position)


@pytest.mark.parametrize(("name", "step"), [("go", "go#1"), ("late", "late"), ("pay", "pay")])
async def test_a_signal_that_lies_there_while_its_step_waits_is_seen(
    db: Path, clock: VirtualClock, name: str, step: str
) -> None:
    assert forgotten(db, clock) == set()

    add_signal(db, name, clock.now_us())

    assert forgotten(db, clock) == {f"r: {step}, whose signal is not taken"}


@pytest.mark.parametrize(
    ("name", "after_us", "position"), [("go", 0, 0), ("late", HOUR_US, None), ("other", 0, None), ("go#1", 0, None)]
)
async def test_a_signal_that_was_taken_or_is_late_or_for_nobody_may_lie_there(
    db: Path, clock: VirtualClock, name: str, after_us: int, position: int | None
) -> None:
    add_signal(db, name, clock.now_us() + after_us, position)

    assert forgotten(db, clock) == set()


async def test_a_parked_run_takes_no_signal(db: Path, clock: VirtualClock) -> None:
    add_signal(db, "go", clock.now_us())
    write(db, "UPDATE pikkupy_runs SET status = 'suspended', parked = 'code'")

    assert forgotten(db, clock) == set()
