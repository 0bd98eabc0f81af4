"""Reads that are wanted while another one is under way are made together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pikkupy.errors import JournalError
from pikkupy.store.connection import Told
from pikkupy.store.together import MOST, Answers, Together


class Shelf:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self._told: Told[Answers[int, str]] | None = None

    def read(self, keys: Sequence[int], told: Told[Answers[int, str]]) -> None:
        self.asked.append(list(keys))
        self._told = told

    async def answer(self, error: Exception | None = None, **found: str | JournalError) -> None:
        """With what it is given as `_<key>`, and wait until those who asked have heard."""
        told, self._told = self._told, None
        assert told is not None
        told(None if error else {int(key[1:]): value for key, value in found.items()}, error)
        await asyncio.sleep(0)


async def asking(together: Together[int, str], *keys: int) -> list[asyncio.Task[str | None]]:
    tasks = [asyncio.ensure_future(together.get(key)) for key in keys]
    await asyncio.sleep(0)
    return tasks


async def test_the_first_who_asks_is_served_alone_and_the_others_together() -> None:
    shelf = Shelf()
    one, two, again, three = await asking(Together(shelf.read), 1, 2, 2, 3)
    assert shelf.asked == [[1]]

    await shelf.answer(_1="a")
    assert (one.done(), two.done()) == (True, False)
    await shelf.answer(_2="b")

    assert shelf.asked == [[1], [2, 3]]
    assert [await one, await two, await again, await three] == ["a", "b", "b", None]


async def test_who_asks_for_the_same_during_a_read_gets_what_is_there_later() -> None:
    """What is written between the two must not be missed by the second."""
    shelf = Shelf()
    together = Together(shelf.read)
    [early] = await asking(together, 1)
    [late] = await asking(together, 1)
    await shelf.answer(_1="old")
    await shelf.answer(_1="new")

    assert (shelf.asked, await early, await late) == ([[1], [1]], "old", "new")


async def test_what_cannot_be_read_is_told_to_those_who_asked_for_it() -> None:
    shelf = Shelf()
    together = Together(shelf.read)
    _, damaged, sound = await asking(together, 0, 1, 2)
    await shelf.answer()
    await shelf.answer(_1=JournalError("damaged"), _2="b")
    with pytest.raises(JournalError, match="damaged"):
        await damaged
    assert await sound == "b"

    one, two = await asking(together, 1, 2)
    await shelf.answer(JournalError("cannot be read"))
    with pytest.raises(JournalError, match="cannot be read"):
        await one
    await shelf.answer(_2="b")  # the next read is a new chance
    assert await two == "b"


async def test_one_who_does_not_wait_any_more_takes_nothing_from_the_others() -> None:
    shelf = Shelf()
    together = Together(shelf.read)
    first, gone, stays = await asking(together, 1, 2, 2)
    first.cancel()
    gone.cancel()
    await shelf.answer(_1="a")
    await shelf.answer(_2="b")

    assert await stays == "b"
    assert await asking(together, 3)
    assert shelf.asked[-1] == [3]


async def test_one_read_is_of_a_limited_number() -> None:
    shelf = Shelf()
    await asking(Together(shelf.read), *range(2 * MOST))
    await shelf.answer()
    await shelf.answer()

    assert list(map(len, shelf.asked)) == [1, MOST, MOST - 1]


async def test_a_read_that_cannot_even_begin_is_told() -> None:
    def closed(keys: Sequence[int], told: Told[Answers[int, str]]) -> None:
        raise JournalError("closed")

    with pytest.raises(JournalError, match="closed"):
        await Together(closed).get(1)
