"""I10: the replay of an unchanged journal with unchanged code asks for the same commands in the same order."""

from __future__ import annotations

import pytest

from pikkupy.core.model import Recorded, StepRow, TimerRow
from tests.programs import RUN, Chance, Life, Maker

PROGRAMS = 2_400
SHARDS = 8
LONGEST = 400  # outcomes; no program comes near it


def recorded(rows: list[StepRow | TimerRow]) -> Recorded:
    """What a journal holds after these rows."""
    return Recorded(
        run=RUN,
        steps=tuple(sorted((row for row in rows if isinstance(row, StepRow)), key=lambda row: row.position)),
        timers=tuple(row for row in rows if isinstance(row, TimerRow)),
        last_seq=len(rows),
    )


def check(seed: int) -> set[str]:
    """Run one program to its end, then replay it from every prefix of its history; the constructs that it used."""
    maker = Maker(seed)
    program = maker.program()
    chance = Chance(seed)
    live = Life(program, Recorded(run=RUN))
    asked, events = [live.asked()], []
    while live.end is None:
        happened = chance.next(live)
        assert happened is not None, f"seed {seed}: the run waits for nothing and has no end"
        events.append(happened)
        live.deliver(happened)
        asked.append(live.asked())
        assert len(events) < LONGEST
    for known in range(len(events)):
        again = Life(program, recorded(events[:known]))
        assert again.asked() == asked[known], f"seed {seed}, after {known} of {len(events)}"
        for number in range(known, len(events)):
            again.deliver(events[number])
            assert again.asked() == asked[number + 1], f"seed {seed}, prefix {known}, outcome {number}"
        assert again.trace == live.trace, f"seed {seed}, prefix {known}"
    live.execution.tear_down()
    return maker.kinds


@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_programs_replay_exactly_from_every_prefix(shard: int) -> None:
    """I9, I10, promise 3: nested constructs, random completion orders, errors, timers, cancellations; none skipped."""
    used: set[str] = set()
    count = 0
    for seed in range(shard, PROGRAMS, SHARDS):
        used |= check(seed)
        count += 1

    assert count == PROGRAMS // SHARDS
    assert len(used) == 18, f"some construct was never generated: {sorted(used)}"
