"""The system's clock, the only place where real time enters."""

from __future__ import annotations

import time


class SystemClock:
    """Wall-clock time. Deadlines are stored in it, since only it goes on while the process is down."""

    virtual = False

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000

    def poke(self) -> None:
        """Real time does not wait for anybody."""
