"""Random programs come to the same in memory, in the file, and after a kill at any commit."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from pikkupy import Engine
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH
from tests.kills.copies import Copies, Moment, each_change_alone, passing
from tests.kills.facts import Facts
from tests.kills.random_stories import Programs
from tests.kills.story import BEGAN, SETTINGS, Ledger, repeated

PROGRAMS = 25
KILLS = 2  # of each program in each setting
LONGEST = 400  # moments of the clock; no program comes near it


class Life:
    """One life of an engine that runs a program until nothing is left to do, from a time on."""

    def __init__(self, programs: Programs, db: Path, now: datetime, settings: dict[str, Any]) -> None:
        self._programs, self._db, self._settings = programs, db, settings
        self.clock = VirtualClock(start=now)
        self.ledger = Ledger()
        self.moments: list[Moment[datetime]] = []

    async def live(self) -> None:
        """Start the run if it is not there, and send what was not sent."""
        before = Facts(self._db) if self._db.exists() else None
        copies = Copies(self._db, self.clock.now)
        pikku = self._programs.pikku()
        try:
            with passing(copies.reach, copies.reads):
                engine = pikku.open(self._db, clock=self.clock, services=self.ledger, **SETTINGS, **self._settings)
                await engine.__aenter__()
            try:
                await engine.start("flow", run_id="r")
                await self._drive(engine, before)
            finally:
                await engine.__aexit__(None, None, None)
        finally:
            copies.close()
        self.moments = copies.moments
        if before is not None:
            again = repeated(self.ledger.effects, before, ())
            assert not again, f"what was over has run again: {again}"

    async def _drive(self, engine: Engine, before: Facts | None) -> None:
        assert engine._parts is not None
        parts = engine._parts
        sent = {name: 0 if before is None else before.signals["r", name] for name in ("s0", "s1")}
        began = self._elapsed_us()
        # Gates whose time to be opened has passed were opened, or there was none that was shut.
        schedule = [(time, name) for time, name in self._programs.schedule if name or time >= began]
        for _ in range(LONGEST):
            await self.clock.advance(0)
            found = Facts(self._db)
            forgotten = found.forgotten(parts.residents.active, self.clock.now_us())
            assert not forgotten, f"I9: nothing brings {forgotten} on\n{found}"
            assert not found.orphans(), f"children that nobody waits for go on\n{found}"
            if found.runs["r"].over:
                return
            elapsed = self._elapsed_us()
            if schedule and schedule[0][0] <= elapsed:
                _, name = schedule.pop(0)
                await self._act(engine, name, sent, found)
                continue
            due_us = parts.host.timers.next_due_us()
            dues = [] if due_us is None else [due_us - self.clock.now_us()]
            dues += [schedule[0][0] - elapsed] if schedule else []
            if not dues:
                await engine.cancel("r", "it would wait for ever")
            else:
                await self.clock.advance(timedelta(microseconds=max(min(dues), 0)))
        raise AssertionError("the program does not end")

    def _elapsed_us(self) -> int:
        return (self.clock.now() - BEGAN) // timedelta(microseconds=1)

    async def _act(self, engine: Engine, name: str, sent: dict[str, int], found: Facts) -> None:
        """Send a signal, unless that was done in an earlier life, or open the gates that are shut."""
        if not name:
            if found.runs["r"].status == "suspended":
                await engine.resume("r")
        elif sent[name]:
            sent[name] -= 1
        else:
            await engine.signal("r", name, self._elapsed_us())


def recorded(db: Path) -> list[Any]:
    """Runs with their ends, and their steps with their outcomes."""
    with closing(sqlite3.connect(db)) as connection:
        runs = connection.execute("SELECT run_id, status, output FROM pikkupy_runs ORDER BY run_id").fetchall()
        steps = connection.execute(
            "SELECT run_id, position, name, kind, target, step.status, attempts, step.output"
            " FROM pikkupy_steps AS step JOIN pikkupy_runs ON number = run ORDER BY run_id, position"
        ).fetchall()
    return [*runs, *steps]


async def comes_to(programs: Programs, folder: Path, settings: dict[str, Any], rng: random.Random) -> list[Any]:
    """What is recorded of a program in the end, in one life, and in two that a kill parts."""
    folder.mkdir()
    life = Life(programs, folder / "app.db", BEGAN, settings)
    await life.live()
    expected = recorded(folder / "app.db")
    for kill in range(KILLS):
        number = rng.randrange(len(life.moments))
        moment = life.moments[number]
        db = moment.restore(folder / f"{kill}")
        facts = Facts(db)
        try:
            await Life(programs, db, moment.state, settings).live()
            assert recorded(db) == expected
        except Exception as error:
            error.add_note(f"{settings}, killed at moment {number} of {len(life.moments)}, {moment.state}:\n{facts}")
            raise
    return expected


@contextmanager
def folder() -> Iterator[Path]:
    """One for each example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@settings(max_examples=PROGRAMS, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(seed=st.integers(0, 2**32))
def test_random_programs_come_to_the_same_in_every_way(seed: int) -> None:
    """I2, I4, I9, I10: in memory, in the file and after kills: the same results and the same recorded steps."""
    programs, rng = Programs(seed), random.Random(seed)
    with folder() as place, each_change_alone():
        in_memory, in_the_file = (
            asyncio.run(comes_to(programs, place / f"{number}", settings, rng)) for number, settings in enumerate(BOTH)
        )

    note(f"seed {seed}")
    assert in_memory == in_the_file
