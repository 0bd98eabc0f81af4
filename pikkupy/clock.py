"""The system's clock, the only place where real time enters."""

from __future__ import annotations

import time
from datetime import datetime

from pikkupy.moments import moment


class SystemClock:
    """Wall-clock time. Deadlines are stored in it, since only it goes on while the process is down."""

    virtual = False

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000

    def poke(self) -> None:
        """Real time does not wait for anybody."""


def now() -> datetime:
    """The system's time, in UTC: for those who look, not for what is due."""
    return moment(SystemClock().now_us())


monotonic_s = time.monotonic
"""Real time that is never set, in seconds: to tell how long something takes in the process, not when it is due."""

worked_s = time.process_time
"""Seconds that all threads of the process have kept a core busy: a process that was stopped has not worked."""
