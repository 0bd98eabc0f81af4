"""The port through which time enters an engine."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall-clock time for one or more engines."""

    @property
    def virtual(self) -> bool:
        """True if the time moves only when somebody moves it."""
        ...

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        ...

    def poke(self) -> None:
        """Something has happened in an engine that lives by this clock; only a virtual clock cares."""
        ...
