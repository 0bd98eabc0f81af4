"""Each known bug of the field has a test here, whose name begins with its number."""

from __future__ import annotations

import re
from pathlib import Path

# Who had it, or has it, and what it was.
BUGS = {
    1: "DBOS: one workflow dequeued several times, for want of BEGIN IMMEDIATE",
    2: "DBOS: the recovery at launch ran what was running already",
    3: "DBOS: a start with a used id destroyed the recovery of its owner",
    4: "DBOS: a recovered run stuck between two completed steps",
    5: "DBOS: what cancels, errors and closing left behind",
    6: "Vercel: a long step dispatched again",
    7: "OpenWorkflow: stale workers, branches that repeat failed steps, retries without end or one too few",
    8: "Cloudflare: an attempt that was given up ends after its retry has begun",
    9: "Absurd: a sleep by the wrong clock; a cancel beside a failure",
    10: "Edda: timers consumed while the workflow is not registered",
    11: "Inngest: failures side by side, handled several times",
    12: "Mastra: a repeated start makes a second run",
    13: "aiosqlite: a cancelled connect leaks a file handle and a thread",
    14: "taOS, openai-agents: a cancel between write and commit wedges every other writer",
    15: "Temporal: the order in which a cancel cancels is not fixed",
    16: "pikku: lessons to keep about retries, ordinals, claims and compensation",
}


def test_each_bug_of_the_list_has_a_test() -> None:
    """A number without a test, or a test without its bug, is an error."""
    sources = (path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    numbers = {int(number) for source in sources for number in re.findall(r"def test_(\d\d)_", source)}

    assert numbers == BUGS.keys()
