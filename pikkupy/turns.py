"""Turns of the event loop in the midst of long work: what is done in one piece holds up all else."""

from __future__ import annotations

import asyncio

PIECE = 1 << 18  # characters that are decoded, encoded or printed in one turn: some milliseconds
ITEM = 1 << 10  # what each item costs beside its characters: a piece is some hundred small ones


class Turns:
    """Those of one piece of work."""

    def __init__(self) -> None:
        self._left = PIECE

    async def after(self, size: int) -> None:
        """One more item of so many characters is done: others have their turn if it is time for that."""
        self._left -= size + ITEM
        if self._left <= 0:
            self._left = PIECE
            await asyncio.sleep(0)
