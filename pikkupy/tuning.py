"""Settings of the whole process that help an engine under load. They are the application's to choose."""

from __future__ import annotations

import gc
import sys

from pikkupy.errors import BadType, BadValue

# The defaults of CPython 3.11 to 3.13 are 700, 10, 10.
YOUNG = 10_000  # objects more than were freed between two collections of the youngest
OLDER = 20  # of these between two of the next generation, and of those between two of the oldest
LONGEST_INTERVAL_S = 1.0


def tune_process(*, switch_interval: float | None = None) -> None:
    """Let the garbage collector look at runs in memory less often. For the whole process, until it is set otherwise.

    Call it once when everything is imported and made that stays as long as the process, before `Pikku.open`: what is
    there now is never looked at again (`gc.freeze`), so that of this nothing in a cycle will ever be freed. A run in
    memory has some twenty objects for the collector, of which it frees none: an engine leaves no cycles behind.

    `switch_interval`: seconds, as for `sys.setswitchinterval` (5 ms by default): how long a thread that computes may
    keep the others from running Python. Less lets the database thread and `def` steps go on sooner beside tasks that
    compute, and makes threads that compute a little slower. `None`: as it is.

    Raises `TypeError` for an interval that is no number, and `ValueError` for one that is not above 0, up to 1 s.
    """
    if switch_interval is not None:
        if not isinstance(switch_interval, int | float) or isinstance(switch_interval, bool):
            raise BadType(f"switch_interval={switch_interval!r}: use a number of seconds, or None")
        if not 0 < switch_interval <= LONGEST_INTERVAL_S:
            raise BadValue(f"switch_interval={switch_interval!r}: use seconds above 0, at most {LONGEST_INTERVAL_S:g}")
        sys.setswitchinterval(switch_interval)
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, OLDER, OLDER)
