"""Losses of power: images of the disk at every moment of a recorded life, each opened by the engine's own recovery."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from pikkupy import PikkuError
from tests.disk.contents import Key
from tests.disk.images import MODES, Image, Moment, image, moments
from tests.disk.life import CHECKPOINT_PAGES
from tests.disk.opening import (
    NOW_US,
    Wrong,
    check_end,
    check_pages,
    key_of,
    list_all,
    open_journal,
    quiet_process,
    read_all,
    unlink_all,
)
from tests.disk.parallel import Result, in_forks
from tests.disk.recording import Recording, memory, write_image

TO_THE_END = 100  # one image in so many is run to the end; and one of each commit with a step that may not begin again
CHUNK = 250  # images that a process is asked for at a time
STRIDE = 3  # with a disk that ignores syncs every image is another one, so not every moment is looked at
MAX_VERDICTS = 200_000  # that are kept, of images with equal bytes


class Explorer:
    """The images of one recording. `honest`: the disk does not ignore syncs."""

    def __init__(self, recording: Recording, seed: int, folder: Path, *, honest: bool = True) -> None:
        self.result = Result()
        self._recording = recording
        self._seed = seed
        self._db = folder / "app.db"
        self._folder = folder
        self._honest = honest
        self._drawn = recording.way.checkpoint_pages > CHECKPOINT_PAGES
        self._moments = recording.moments if honest else moments(recording.records, honest=False)[::STRIDE]
        self._verdicts: dict[int, Key | str] = {}
        self._read: dict[Key, Key] = {}
        self._known = {row for commit in recording.commits for rows in commit.key[0] for row in rows}

    async def explore(self, begin: int, end: int) -> Result:
        """The images of these numbers, which say what they are."""
        self.result = Result()
        for number in range(begin, end):
            await self._judge(number, self._place(number))
        return self.result

    def _place(self, number: int) -> int:
        """Of the moment: one after another, or any if there are few images."""
        rng = random.Random(f"{self._seed} {number} place")
        return rng.randrange(len(self._moments)) if self._drawn else number % len(self._moments)

    def _draw(self, number: int, moment: Moment) -> tuple[str, Image]:
        rng = random.Random(f"{self._seed} {number}")
        turn = number // len(self._moments)
        in_turn = self._honest and not self._drawn and turn < len(MODES)
        mode = MODES[turn] if in_turn else rng.choice(("torn", "subset", "subset"))
        return mode, image(moment, mode, rng)

    async def _judge(self, number: int, place: int) -> None:
        moment = self._moments[place]
        mode, files = self._draw(number, moment)
        self.result.counts["images"] += 1
        self.result.counts[mode] += 1
        try:
            verdict = await self._verdict(files)
            if isinstance(verdict, str):
                self._detected(verdict)
            else:
                self._compare(verdict, place)
                if self._honest and self._goes_on(number, mode, moment, verdict):
                    await self._to_the_end(files, verdict)
        except Wrong as wrong:
            kind = str(wrong).split(":", 1)[0]
            self.result.counts[kind] += 1
            self.result.wrong.append(f"{self._recording.way}, seed {self._seed}, image {number} ({mode}): {wrong}")

    def _goes_on(self, number: int, mode: str, moment: Moment, key: Key) -> bool:
        index = self._recording.indices[key]
        is_first = mode == "all" and moment.record == self._recording.commits[index].record
        return (is_first and index in self._recording.under_way) or number % TO_THE_END == self._seed % TO_THE_END

    async def _verdict(self, files: Image) -> Key | str:
        name = hash(files)
        if name not in self._verdicts:
            self.result.counts["distinct"] += 1
            if len(self._verdicts) >= MAX_VERDICTS:
                self._verdicts.clear()
            self._verdicts[name] = await self._open(files)
        return self._verdicts[name]

    async def _open(self, files: Image) -> Key | str:
        """What is in the image; a text if the engine refuses it."""
        for suffix, data in files:
            Path(f"{self._db}{suffix}").write_bytes(data)
        try:
            journal = await open_journal(str(self._db), durability="process", now_us=NOW_US)
            try:
                return await self._look(await key_of(journal, NOW_US), journal)
            finally:
                await journal.close(clean=False)
        except PikkuError as refused:
            return f"{type(refused).__name__}: {refused}"
        except sqlite3.Error as damage:
            return f"damaged: {damage}"  # noticed by the checks here, which stand in for whoever reads it
        finally:
            unlink_all(self._db)

    async def _look(self, key: Key, journal: object) -> Key:
        """Rows that were read before need not be read again, nor kept twice: equal rows give equal values."""
        if self._honest:
            await check_pages(journal)  # type: ignore[arg-type]
        if key not in self._read:
            foreign = self._foreign(key)
            if foreign:
                await list_all(journal)  # type: ignore[arg-type]
            await read_all(journal, {n for row in foreign for n in row[:2] if isinstance(n, int)})  # type: ignore[arg-type]
            self._read[key] = key
        return self._read[key]

    def _compare(self, key: Key, place: int) -> None:
        recording = self._recording
        index = recording.indices.get(key)
        if index is None:
            self._mixed(key)
            return
        self.result.counts["in a step that may begin once"] += index in recording.under_way
        if not self._honest:
            self.result.counts["exact"] += 1
            return
        until = self._moments[place + 1].record - 1 if place + 1 < len(self._moments) else len(recording.records)
        newest, needed = recording.committed_at(until), recording.needed_at(until)
        if index > newest:
            raise Wrong(f"future: commit {index}, and {newest} was the last")
        self.result.counts["not told yet, and gone"] += needed <= index < newest
        if index < needed:
            self.result.counts["told, and gone"] += 1
            behind = needed - index
            self.result.counts["most commits gone"] = max(behind, self.result.counts["most commits gone"])
            if recording.way.durability == "full":
                raise Wrong(f"lost: commit {index} is what is there, and what was told needs commit {needed}")
        kept = recording.kept_at(self._moments[place].record)
        if index < kept:
            raise Wrong(f"checkpoint: commit {index}, and commit {kept} was in the file itself")

    def _mixed(self, key: Key) -> None:
        """Rows of several moments. Only a disk that ignores syncs may come to that; each value is still what it was.

        What is not was asked for in `_look`: a checksum did not refuse it, so nobody is given it.
        """
        foreign = self._foreign(key)
        if self._honest:
            raise Wrong(f"state: no commit has left this; foreign rows: {foreign[:2]}")
        self.result.counts["mixed"] += 1
        self.result.counts["mixed, with rows that nobody is given"] += bool(foreign)

    def _foreign(self, key: Key) -> list[Any]:
        return [row for rows in key[0] for row in rows if row not in self._known]

    def _detected(self, why: str) -> None:
        self.result.counts["detected"] += 1
        if self._honest:
            raise Wrong(f"refused: the engine does not open it: {why}")

    async def _to_the_end(self, files: Image, key: Key) -> None:
        self.result.counts["run to the end"] += 1
        db = write_image(self._folder / "end", files)
        try:
            index = self._recording.indices[key]
            await check_end(db, self._recording.states[index], self._recording.until(index))
        except (PikkuError, AssertionError) as error:
            raise Wrong(f"end: {type(error).__name__}: {error}") from error
        finally:
            unlink_all(db)
            db.parent.rmdir()


def explore(recording: Recording, seed: int, images: int, jobs: int, *, honest: bool = True) -> Result:
    """So many images of a recording, or a few more."""

    def work(item: int) -> Result:
        if not explorers:
            quiet_process()
            folder = Path(tempfile.mkdtemp(dir=root))
            explorers.append(Explorer(recording, seed, folder, honest=honest))
        return asyncio.run(explorers[0].explore(item * CHUNK, min(images, (item + 1) * CHUNK)))

    explorers: list[Explorer] = []  # of a fork
    what = f"images, {recording.way}{'' if honest else ', syncs ignored'}"
    with tempfile.TemporaryDirectory(dir=memory()) as root:
        return in_forks(what, work, range(-(-images // CHUNK)), jobs, CHUNK)
