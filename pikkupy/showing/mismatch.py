"""What is recorded beside what the code asks for, taken out of the reason of a run whose code has changed."""

from __future__ import annotations

import re
from typing import NamedTuple

_REASON = re.compile(r"ReplayMismatch: step (\d+): recorded (.+?), asked for (.+)", re.DOTALL)


class Mismatch(NamedTuple):
    """The first difference."""

    step: int
    """Its number, from 0."""
    recorded: str
    asked: str


def mismatch_of(reason: str | None) -> Mismatch | None:
    """The difference that a reason tells; `None` if it tells none."""
    found = _REASON.match(reason or "")
    return None if found is None else Mismatch(int(found[1]), found[2], found[3])
