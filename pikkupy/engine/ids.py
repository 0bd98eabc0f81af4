"""Ids of new runs that were given none."""

from __future__ import annotations

import os
from collections.abc import Callable

DRAWN = 1_000  # random bytes that are asked for at once
USED = 10  # random bytes of an id: 74 of their bits


class Ids:
    """The ids that one engine gives. Not thread-safe.

    Each request to the operating system lets the database thread have the interpreter, whether it is the right moment
    or not: with one for each id, starts are 3 % slower (median of three pairs). So the bits of a hundred are drawn at
    once.
    """

    __slots__ = ("_bytes", "_draw", "_used")

    def __init__(self, draw: Callable[[int], bytes] = os.urandom) -> None:
        self._draw = draw
        self._bytes = b""
        self._used = 0

    def uuid7(self, now_us: int) -> str:
        """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then 74 random bits, so that ids sort by start."""
        if self._used == len(self._bytes):
            self._bytes, self._used = self._draw(DRAWN), 0
        random = int.from_bytes(self._bytes[self._used : self._used + USED], "big")
        self._used += USED
        high = (now_us // 1_000 & (1 << 48) - 1) << 80
        text = f"{high | 0x7 << 76 | (random >> 66 & 0xFFF) << 64 | 0b10 << 62 | random & (1 << 62) - 1:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
