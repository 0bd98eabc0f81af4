"""What a disk may hold after a loss of power, rebuilt from the log of what was asked of it.

What is assumed of the disk, and of the file system on it:

- What was written to a file before its last sync is there.
- Of what was written since, each sector of 512 bytes has any of the contents that it had meanwhile, independently of
  all others; a truncation has happened or not; a file that grew may be as long as it was and hold zeros.
- Names come and go in the order in which they did so (file systems with a journal of metadata, as ext4, XFS, btrfs):
  some of the last may not have happened. A synced deletion, and the first sync of a file that SQLite has made, which
  syncs the folder as well, keep all that came before.
- The shared memory of a WAL is gone.

A disk that ignores syncs is the same without the first.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from tests.disk.records import OPERATIONS, Create, Operation, Record, Sync, Truncate, Unlink, Write

SECTOR = 512
DENSITIES = (0.1, 0.5, 0.9)
MODES = ("none", "all", "torn", "subset")

Image: TypeAlias = tuple[tuple[str, bytes], ...]
"""The files that are there, by the end of their names, and their bytes."""

Pending: TypeAlias = tuple[Write | Truncate, ...]


class File(NamedTuple):
    """A file that has, or had, a name: what is surely on the disk, and what was asked since."""

    kept: bytes = b""
    pending: Pending = ()


class Moment(NamedTuple):
    """The disk after so many records of the log."""

    record: int
    files: dict[int, File]
    names: tuple[dict[str, int], ...]  # the folder as it surely is, and after each change of a name since


def moments(records: Sequence[Record], *, honest: bool = True) -> list[Moment]:
    """The disk before anything, and after each operation. A disk that is not `honest` ignores every sync."""
    disk = _Disk(honest)
    found = [Moment(0, {}, ({},))]
    for number, record in enumerate(records, 1):
        if isinstance(record, OPERATIONS):
            disk.do(record)
            found.append(Moment(number, dict(disk.files), tuple(disk.names)))
    return found


class _Disk:
    """What becomes of files, operation by operation."""

    def __init__(self, honest: bool) -> None:
        self.files: dict[int, File] = {}
        self.names: list[dict[str, int]] = [{}]
        self._honest = honest
        self._unnamed: set[int] = set()  # their names are on the disk after their first sync
        self._count = 0

    def do(self, operation: Operation) -> None:
        if isinstance(operation, Unlink):
            self._rename({name: number for name, number in self.names[-1].items() if name != operation.file})
            if operation.synced and self._honest:
                del self.names[:-1]
            return
        number = self._number(operation.file, anew=isinstance(operation, Create))
        file = self.files[number]
        if isinstance(operation, Write | Truncate):
            self.files[number] = File(file.kept, (*file.pending, operation))
        elif isinstance(operation, Sync) and self._honest:
            self.files[number] = File(whole(file))
            if number in self._unnamed:
                self._unnamed.discard(number)
                del self.names[:-1]

    def _number(self, name: str, *, anew: bool) -> int:
        """The database itself is made by pikkupy, and so is not seen to be."""
        if anew or name not in self.names[-1]:
            self._count += 1
            self.files[self._count] = File()
            self._rename(self.names[-1] | {name: self._count})
            if name:
                self._unnamed.add(self._count)
        return self.names[-1][name]

    def _rename(self, names: dict[str, int]) -> None:
        self.names.append(names)


def image(moment: Moment, mode: str, rng: random.Random) -> Image:
    """One of the images that a loss of power at that moment can leave."""
    if mode == "none":
        return tuple((name, moment.files[number].kept) for name, number in sorted(moment.names[0].items()))
    if mode == "all":
        return tuple((name, whole(moment.files[number])) for name, number in sorted(moment.names[-1].items()))
    names = rng.choice(moment.names)
    part = _torn if mode == "torn" else _subset
    return tuple((name, part(moment.files[number], rng)) for name, number in sorted(names.items()))


def whole(file: File) -> bytes:
    """All that was asked has happened."""
    data = bytearray(file.kept)
    for operation in file.pending:
        _apply(data, operation)
    return bytes(data)


def _torn(file: File, rng: random.Random) -> bytes:
    """The first operations have happened, and of the next one the first sectors."""
    data = bytearray(file.kept)
    count = rng.randint(0, len(file.pending))
    for operation in file.pending[:count]:
        _apply(data, operation)
    if count < len(file.pending):
        operation = file.pending[count]
        if isinstance(operation, Write):
            edge = (operation.offset // SECTOR + rng.randint(0, len(operation.data) // SECTOR + 1)) * SECTOR
            cut = operation.data[: max(0, edge - operation.offset)]
            if cut:
                _apply(data, Write(operation.file, operation.offset, cut))
    return bytes(data)


def _subset(file: File, rng: random.Random) -> bytes:
    """Each sector has one of the contents that it had since the last sync."""
    if not file.pending:
        return file.kept
    density = rng.choice(DENSITIES)
    counts: dict[int, int] = {}
    for operation in file.pending:
        for sector in _sectors(operation):
            counts[sector] = counts.get(sector, 0) + 1
    draw = rng.random
    versions = {
        sector: count if draw() < density else int(draw() * count) if count > 1 and draw() < 0.5 else 0
        for sector, count in counts.items()
    }
    data = bytearray(file.kept)
    for operation in file.pending:
        if isinstance(operation, Truncate):
            if draw() < density:
                _apply(data, operation)
            continue
        for sector in _sectors(operation):
            if versions[sector] > 0:
                versions[sector] -= 1
                _apply_sector(data, operation, sector)
    size = len(whole(file)) if draw() < 0.25 else 0
    return bytes(data.ljust(size, b"\0"))


def _sectors(operation: Write | Truncate) -> range:
    if isinstance(operation, Truncate):
        return range(0)
    return range(operation.offset // SECTOR, (operation.offset + len(operation.data) - 1) // SECTOR + 1)


def _apply(data: bytearray, operation: Write | Truncate) -> None:
    if isinstance(operation, Truncate):
        del data[operation.size :]
        data.extend(bytes(operation.size - len(data)))
        return
    _put(data, operation.offset, operation.data)


def _apply_sector(data: bytearray, operation: Write, sector: int) -> None:
    begin = max(operation.offset, sector * SECTOR)
    end = min(operation.offset + len(operation.data), (sector + 1) * SECTOR)
    _put(data, begin, operation.data[begin - operation.offset : end - operation.offset])


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece
