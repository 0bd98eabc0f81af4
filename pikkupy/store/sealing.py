"""Users' values on their way through the payload codec: encoded as they are written, decoded as they are read.

This is the last thing that happens to a change before it becomes columns, and the first that happens to a record after
its checksum was compared: checksums are over what is in the file. Every other room has plain text only. It runs in the
database threads, where the id of a run can be looked up by its number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import structs

from pikkupy.core.model import (
    AttemptRow,
    Change,
    ChildLinked,
    ChunkRow,
    ErrorInfo,
    Recorded,
    RunMove,
    RunProgress,
    RunRow,
    SignalRow,
    StepReopened,
    StepRow,
    StepSetAside,
)
from pikkupy.errors import JournalError, PayloadUnreadable
from pikkupy.payloads import (
    Cipher,
    PayloadCodec,
    PayloadContext,
    PayloadKind,
    cipher_in,
    is_encoded,
    text_of,
    unreadable_text,
)
from pikkupy.store import reader
from pikkupy.store.plan import Op, op_of, refused
from pikkupy.store.rows import SealedError

MAX_IDS = 10_000  # ids of runs that are remembered; beyond that they are looked up again

T = TypeVar("T")


class Ids:
    """The ids of runs by their numbers: looked up once, forgotten together."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def tidy(self) -> None:
        """Bound the memory. Not between a new run and what belongs to it: that is not in the file yet."""
        if len(self._known) > MAX_IDS:
            self._known.clear()

    def add(self, run: RunRow) -> None:
        """Remember a run that may not be in the file yet."""
        self._known[run.number] = run.run_id

    def of(self, db: sqlite3.Connection, number: int) -> str:
        """The id of the run of that number, "?" if there is none."""
        if number not in self._known:
            self._known.update(reader.run_ids(db, [number]))
        return self._known.get(number, "?")


class Sealer:
    """Encodes what is written. Belongs to the thread that writes."""

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec: Final = codec
        self._ids = Ids()

    def ops(self, db: sqlite3.Connection, batch: Sequence[Sequence[Change]]) -> list[list[Op]]:
        """The changes in columns. What cannot be encoded is refused when its turn comes, with its group."""
        self._ids.tidy()
        new: dict[int, RunRow] = {}
        return [self._group(db, changes, new) for changes in batch]

    def _group(self, db: sqlite3.Connection, changes: Sequence[Change], new: dict[int, RunRow]) -> list[Op]:
        try:
            return [op_of(self._sealed(db, change, new)) for change in changes]
        except Exception as error:  # noqa: BLE001 - the codec is the application's
            return [refused(str(error) or type(error).__name__)]

    def _sealed(self, db: sqlite3.Connection, change: Change, new: dict[int, RunRow]) -> Change:
        match change:
            case StepRow():
                return self._step(db, change)
            case RunRow():
                self._ids.add(change)
                sealed = new[change.number] = self._run(change)
                return sealed
            case RunMove():
                run_id = self._ids.of(db, change.number)
                return structs.replace(change, **self._end(run_id, change.output, change.error, change.reason))
            case RunProgress():
                context = PayloadContext(run_id=self._ids.of(db, change.number), kind="progress")
                return structs.replace(change, progress=self._text(change.progress, context))
            case AttemptRow(error=ErrorInfo() as error):
                run_id = self._ids.of(db, change.run)
                context = PayloadContext(run_id=run_id, kind="attempt error", place=change.seq)
                return structs.replace(change, error=self._error(error, context))
            case SignalRow(payload=str(payload)):
                context = _of_signal(change, self._ids.of(db, change.run))
                return structs.replace(change, payload=self._text(payload, context))
            case ChunkRow():
                context = _of_chunk(change, self._ids.of(db, change.run))
                return structs.replace(change, value=self._text(change.value, context))
            case StepReopened():
                return StepReopened(row=self._step(db, change.row))
            case StepSetAside():
                return StepSetAside(row=self._step(db, change.row))
            case ChildLinked():
                return self._linked(db, change, new)
            case _:
                return change

    def _linked(self, db: sqlite3.Connection, change: ChildLinked, new: dict[int, RunRow]) -> ChildLinked:
        """Its checksum covers the input, which is not written again: it has to be the one in the file."""
        row = change.row
        filed = new.get(row.number) or reader.run_by_number(db, row.number)
        if filed is None:
            return change  # refused
        filed = structs.replace(
            filed,
            parent_position=row.parent_position,
            parent_attempt=row.parent_attempt,
            alone_since=row.alone_since,
        )
        return ChildLinked(row=filed)

    def _run(self, row: RunRow) -> RunRow:
        def context(kind: PayloadKind) -> PayloadContext:
            return PayloadContext(run_id=row.run_id, kind=kind)

        return structs.replace(
            row,
            input=self._text(row.input, context("input")),
            progress=None if row.progress is None else self._text(row.progress, context("progress")),
            **self._end(row.run_id, row.output, row.error, row.reason),
        )

    def _end(self, run_id: str, output: str | None, error: ErrorInfo | None, reason: str | None) -> dict[str, Any]:
        def context(kind: PayloadKind) -> PayloadContext:
            return PayloadContext(run_id=run_id, kind=kind)

        return {
            "output": None if output is None else self._text(output, context("output")),
            "error": None if error is None else self._error(error, context("error")),
            "reason": None if reason is None else self._text(reason, context("reason")),
        }

    def _step(self, db: sqlite3.Connection, row: StepRow) -> StepRow:
        output, error = row.output, row.error
        if output is None and error is None:
            return row
        run_id = self._ids.of(db, row.run)
        if output is not None:
            output = self._text(output, PayloadContext(run_id=run_id, kind="step output", name=row.name))
        if error is not None:
            error = self._error(error, PayloadContext(run_id=run_id, kind="step error", name=row.name))
        return structs.replace(row, output=output, error=error)

    def _text(self, text: str, context: PayloadContext) -> str:
        return text_of(self._cipher(text, context))

    def _error(self, error: ErrorInfo, context: PayloadContext) -> ErrorInfo:
        text = msgspec.json.encode((error.message, error.traceback)).decode()
        return SealedError(error.type, "", "", error.bases, error.steps, self._cipher(text, context))

    def _cipher(self, text: str, context: PayloadContext) -> Cipher:
        try:
            return Cipher.of(self._codec.encode(text, context))
        except Exception as error:
            raise JournalError(f"{context}: the payload codec does not encode it: {error!r}") from error


class Opener:
    """Decodes what was read. Belongs to the thread that reads. Without a codec it knows what it cannot decode."""

    def __init__(self, codec: PayloadCodec | None) -> None:
        self._codec: Final = codec
        self._ids = Ids()

    def strict(self, db: sqlite3.Connection, found: T) -> T:
        """The records in plain text. Raises `PayloadUnreadable` for a value that cannot be decoded."""
        opened: T = self._opened(db, found, _refuse)
        return opened

    def lenient(self, db: sqlite3.Connection, found: T) -> T:
        """The records in plain text, to be shown: a value that cannot be decoded says why (`check_readable`)."""
        opened: T = self._opened(db, found, _explain)
        return opened

    def _opened(self, db: sqlite3.Connection, found: Any, unread: Unread) -> Any:
        self._ids.tidy()
        return _Opening(db, self._codec, self._ids, unread).record(found)


Unread = Callable[[str], str]


def _refuse(why: str) -> str:
    raise PayloadUnreadable(why)


def _explain(why: str) -> str:
    return unreadable_text(why)


class _Opening:
    """One answer of the reader on its way out."""

    __slots__ = ("_codec", "_db", "_ids", "_plain_too", "_unread")

    def __init__(self, db: sqlite3.Connection, codec: PayloadCodec | None, ids: Ids, unread: Unread) -> None:
        self._db = db
        self._codec = codec
        self._ids = ids
        self._unread = unread
        self._plain_too = codec is None or getattr(codec, "accept_plain", True)

    def record(self, found: Any) -> Any:
        """`found` with every encoded value in it decoded; what is plain is left as it is, or refused."""
        match found:
            case StepRow():
                return self._step(found)
            case RunRow():
                return self._run(found)
            case AttemptRow(error=ErrorInfo() as error) if not self._stays(error):
                run_id = self._ids.of(self._db, found.run)
                context = PayloadContext(run_id=run_id, kind="attempt error", place=found.seq)
                return structs.replace(found, error=self._error(error, context))
            case SignalRow(payload=str(payload)) if not self._stays(payload):
                context = _of_signal(found, self._ids.of(self._db, found.run))
                return structs.replace(found, payload=self._text(payload, context))
            case ChunkRow() if not self._stays(found.value):
                context = _of_chunk(found, self._ids.of(self._db, found.run))
                return structs.replace(found, value=self._text(found.value, context))
            case Recorded():
                return self._recorded(found)
            case list():
                return [self.record(one) for one in found]
            case tuple():
                return tuple(self.record(one) for one in found)
            case _:
                return found

    def _recorded(self, found: Recorded) -> Recorded:
        if self._codec is not None:
            self._ids.add(found.run)  # it may be deleted before the id could be looked up
        opened = {
            name: self.record(getattr(found, name))
            for name in ("run", "steps", "signals", "children", "set_aside", "parent")
        }
        return structs.replace(found, **opened)

    def _run(self, row: RunRow) -> RunRow:
        opened: dict[str, Any] = {}
        kinds: tuple[PayloadKind, ...] = ("input", "output", "error", "reason", "progress")
        for kind in kinds:
            value = getattr(row, kind)
            if self._stays(value):
                continue
            context = PayloadContext(run_id=row.run_id, kind=kind)
            if kind == "error":
                opened[kind] = self._error(value, context)
            elif kind in ("input", "output"):
                opened[kind] = self._text(value, context)
            else:
                opened[kind] = self._shown(value, context)
        return structs.replace(row, **opened) if opened else row

    def _step(self, row: StepRow) -> StepRow:
        output, error = row.output, row.error
        if self._stays(output) and self._stays(error):
            return row
        run_id = self._ids.of(self._db, row.run)
        if output is not None and not self._stays(output):
            output = self._text(output, PayloadContext(run_id=run_id, kind="step output", name=row.name))
        if error is not None and not self._stays(error):
            error = self._error(error, PayloadContext(run_id=run_id, kind="step error", name=row.name))
        return structs.replace(row, output=output, error=error)

    def _stays(self, value: str | ErrorInfo | None) -> bool:
        """True if there is nothing to decode, and nothing to refuse."""
        if value is None:
            return True
        plain = not is_encoded(value) if type(value) is str else type(value) is not SealedError
        return plain and self._plain_too

    def _text(self, text: str, context: PayloadContext) -> str:
        try:
            return self._decoded(cipher_in(text), context)
        except PayloadUnreadable as error:
            return self._unread(str(error))

    def _shown(self, text: str, context: PayloadContext) -> str:
        """As `_text` of what is only ever shown: it keeps no run from going on."""
        try:
            return self._decoded(cipher_in(text), context)
        except PayloadUnreadable as error:
            return msgspec.json.encode(str(error)).decode() if context.kind == "progress" else str(error)

    def _error(self, error: ErrorInfo, context: PayloadContext) -> ErrorInfo:
        try:
            text = self._decoded(error.encoded if isinstance(error, SealedError) else None, context)
            message, traceback = msgspec.json.decode(text, type=tuple[str, str])
        except (PayloadUnreadable, msgspec.MsgspecError) as unreadable:
            why = (
                str(unreadable) if isinstance(unreadable, PayloadUnreadable) else f"{context}: its codec gave no error"
            )
            self._unread(why)
            message, traceback = why, ""
        return ErrorInfo(error.type, message, traceback, error.bases, error.steps)

    def _decoded(self, cipher: Cipher | None, context: PayloadContext) -> str:
        if cipher is None:
            raise PayloadUnreadable(f"{context} is not encoded, and the payload codec accepts no plain values")
        what = f"{context} is encoded with key {cipher.k!r}"
        if self._codec is None:
            raise PayloadUnreadable(
                f"{what}, and there is no codec for it here; use an engine with its payload_codec=, "
                "in a command as its TARGET"
            )
        try:
            text = self._codec.decode(cipher.encoded(), context)
        except Exception as error:
            said = str(error) if isinstance(error, PayloadUnreadable) else repr(error)
            raise PayloadUnreadable(f"{what}, and cannot be decoded: {said}") from error
        if type(text) is not str:
            raise PayloadUnreadable(f"{what}, and its codec gave {type(text).__name__} instead of a str")
        return text


def _of_signal(row: SignalRow, run_id: str) -> PayloadContext:
    return PayloadContext(run_id=run_id, kind="signal", name=row.name, place=row.seq)


def _of_chunk(row: ChunkRow, run_id: str) -> PayloadContext:
    return PayloadContext(run_id=run_id, kind="chunk", name=row.name, place=row.offset)
