"""Ids of new runs that were given none."""

from __future__ import annotations

import os
from collections.abc import Callable

DRAWN = 1_000  # random bytes that are asked for at once
USED = 20  # hexadecimal digits of them that an id takes: 74 of their bits are in it
_VARIANT = {f"{digit:x}": f"{0b1000 | digit & 0b11:x}" for digit in range(16)}  # two bits of it are given


class Ids:
    """The ids that one engine gives. Not thread-safe.

    Each request to the operating system lets the database thread have the interpreter, whether it is the right moment
    or not: with one for each id, starts are 3 % slower (median of three pairs). So the bits of a hundred are drawn at
    once. They are put together as digits: as one number of 128 bits, an id takes half as long again.
    """

    __slots__ = ("_digits", "_draw", "_used")

    def __init__(self, draw: Callable[[int], bytes] = os.urandom) -> None:
        self._draw = draw
        self._digits = ""
        self._used = 0

    def uuid7(self, now_us: int) -> str:
        """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then 74 random bits, so that ids sort by start."""
        if self._used == len(self._digits):
            self._digits, self._used = self._draw(DRAWN).hex(), 0
        random = self._digits[self._used : self._used + USED]
        self._used += USED
        time = f"{now_us // 1_000 & (1 << 48) - 1:012x}"
        return f"{time[:8]}-{time[8:]}-7{random[:3]}-{_VARIANT[random[3]]}{random[4:7]}-{random[7:19]}"
