"""The records of one log: what SQLite did to its files, what the engine was seen to do, and what it has told.

One log holds all of them in the order in which they happened, also across several lives of the process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import msgspec


class Create(msgspec.Struct, frozen=True, tag="create", array_like=True):
    """A file has come into being, empty. Files are named by what follows the name of the database."""

    file: str


class Write(msgspec.Struct, frozen=True, tag="write", array_like=True):
    """Bytes were written."""

    file: str
    offset: int
    data: bytes


class Truncate(msgspec.Struct, frozen=True, tag="truncate", array_like=True):
    """The file was cut, or filled with zeros, to that size."""

    file: str
    size: int


class Sync(msgspec.Struct, frozen=True, tag="sync", array_like=True):
    """What was written is on the disk. After the first one of a file that SQLite has made, its name is, too."""

    file: str


class Unlink(msgspec.Struct, frozen=True, tag="unlink", array_like=True):
    """The name was taken away; `synced`: and that is on the disk."""

    file: str
    synced: bool


class Read(msgspec.Struct, frozen=True, tag="read", array_like=True):
    """Bytes are read. That changes nothing, and is in no log; but it can fail."""

    file: str
    offset: int
    size: int


class Told(msgspec.Struct, frozen=True, tag="told", array_like=True):
    """The engine has told this to its caller or to a workflow; it may never be taken back.

    That a step was `begun` is told to the body of an `at_most_once` step alone.
    """

    what: str
    run: str
    name: str = ""
    value: Any = None


class Asked(msgspec.Struct, frozen=True, tag="asked", array_like=True):
    """The engine is asked to `start`, `retry` or `delete` a run, which takes back something that was told of it.

    That may be done before it is told of.
    """

    what: str
    run: str


class Begun(msgspec.Struct, frozen=True, tag="begun", array_like=True):
    """The body of a step has begun."""

    run: str
    step: str
    attempt: int


class Mark(msgspec.Struct, frozen=True, tag="mark", array_like=True):
    """Something about the life itself: that it opens the file, that a fault strikes, that it was told of an error."""

    what: str
    note: str = ""


class Rows(msgspec.Struct, frozen=True, tag="rows", array_like=True):
    """All rows of the file as a digest: as committed, or as they would be after a commit that is about to be."""

    digest: str
    committed: bool


class Kept(msgspec.Struct, frozen=True, tag="kept", array_like=True):
    """All rows of the file as they were committed last, when the journal failed."""

    tables: Any


Operation: TypeAlias = Create | Write | Truncate | Sync | Unlink
Record: TypeAlias = Operation | Told | Asked | Begun | Mark | Rows | Kept
OPERATIONS = (Create, Write, Truncate, Sync, Unlink)
SIZE_BYTES = 4

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


class Log:
    """A log in a file: each record is one write, so that SIGKILL leaves whole records."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, record: Record) -> None:
        """Append the record; from any thread."""
        data = _encode(record)
        os.write(self._file, len(data).to_bytes(SIZE_BYTES, "little") + data)


def read_log(path: Path) -> list[Record]:
    """All records so far, oldest first."""
    data = path.read_bytes() if path.exists() else b""
    records: list[Record] = []
    place = 0
    while place < len(data):
        begin = place + SIZE_BYTES
        place = begin + int.from_bytes(data[place:begin], "little")
        records.append(_decode(data[begin:place]))
    return records
