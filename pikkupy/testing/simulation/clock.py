"""The engine's clock in a simulation."""

from __future__ import annotations

import math

from pikkupy.testing.simulation.loop import SimulatedLoop

EPOCH_US = 1_893_456_000_000_000  # 2030-01-01; the loop's time begins at 0 there


class SimulatedClock:
    """The engine's clock: the loop's time, with the jumps that were made."""

    virtual = False

    def __init__(self) -> None:
        self.loop: SimulatedLoop | None = None
        self.offset_us = 0
        self.jumps = 0
        self._jumped_at_s = -math.inf
        self._shown: list[int] = []  # just before each jump

    def now_us(self) -> int:
        assert self.loop is not None
        return EPOCH_US + round(self.loop.now_s * 1e6) + self.offset_us

    @property
    def loop_s(self) -> float:
        """The loop's time, which nobody sets."""
        return 0.0 if self.loop is None else self.loop.now_s

    def jump(self, us: int) -> None:
        """Somebody has set it."""
        assert self.loop is not None
        self._shown.append(self.now_us())
        self.offset_us += us
        self.jumps += 1
        self._jumped_at_s = self.loop.now_s

    def has_shown(self, us: int, since: int) -> bool:
        """Whether it has been so late at some time since there were that many jumps."""
        return self.now_us() >= us or any(shown >= us for shown in self._shown[since:])

    def is_calm_since(self, seconds: float) -> bool:
        """Whether it was not set for so long."""
        return self.loop is not None and self.loop_s - self._jumped_at_s > seconds

    def poke(self) -> None:
        """Nobody waits for that."""
