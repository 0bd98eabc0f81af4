"""Turns of the event loop in the midst of long work: what is done in one piece holds up all else."""

from __future__ import annotations

import asyncio

PIECE = 1 << 18  # characters that are decoded or encoded in one turn: a millisecond or two
ITEMS = 50  # small ones take as long


class Turns:
    """Those of one piece of work."""

    def __init__(self) -> None:
        self._left = PIECE

    async def after(self, size: int) -> None:
        """One more item of so many characters is done: others have their turn if it is time for that."""
        self._left -= size + -(-PIECE // ITEMS)
        if self._left <= 0:
            self._left = PIECE
            await asyncio.sleep(0)
