"""A run as a file: everything that its code is replayed from, as one JSON document that people can read.

Values are in it as JSON, not as texts of JSON. What is read is not trusted: it is checked field by field, and no more
can come of it than of a file of runs.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, structs

from pikkupy.core.model import AttemptRow, ErrorInfo, Recorded, RunRow, SignalRow, StepRow, TimerRow
from pikkupy.errors import JournalFormatError
from pikkupy.plain import printable

FORMAT = 1
_VALUES = {RunRow: ("input", "output", "tags", "progress"), StepRow: ("output",), SignalRow: ("payload",)}

Row = TypeVar("Row")
Redact = Callable[[str], str]


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """The document."""

    pikku_run: int  # FORMAT
    exported_at: datetime
    versions: dict[str, str]
    run: dict[str, Raw]
    steps: list[dict[str, Raw]]
    attempts: list[dict[str, Raw]] = []
    timers: list[dict[str, Raw]] = []
    signals: list[dict[str, Raw]] = []
    set_aside: list[dict[str, Raw]] = []
    changes: list[str] = []


def document_of(
    recorded: Recorded, attempts: Sequence[AttemptRow], at: datetime, version: str, redact: Redact | None = None
) -> bytes:
    """The run as JSON in printable characters, as a terminal may get it.

    `redact` is given each text of values, their keys, errors and reasons, and gives another. Raises
    `JournalFormatError` for a run with a value that is none.
    """
    try:
        return _document_of(recorded, attempts, at, version, redact)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise JournalFormatError(f"run {recorded.run.run_id!r}: a recorded value is no JSON: {error}") from error


def _document_of(
    recorded: Recorded, attempts: Sequence[AttemptRow], at: datetime, version: str, redact: Redact | None
) -> bytes:
    hide = _Hiding(redact)
    document = Exported(
        pikku_run=FORMAT,
        exported_at=at,
        versions={"pikkupy": version, "python": platform.python_version()},
        run=hide.fields(recorded.run),
        steps=[hide.fields(step) for step in recorded.steps],
        attempts=[hide.fields(attempt) for attempt in attempts],
        timers=[hide.fields(timer) for timer in recorded.timers],
        signals=[hide.fields(signal) for signal in recorded.signals],
        set_aside=[hide.fields(step) for step in recorded.set_aside],
        changes=sorted(recorded.changes),
    )
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    return f"{printable(text)}\n".encode()


def recorded_of(document: bytes, name: str) -> Recorded:
    """The run that the document holds. Raises `JournalFormatError`, with the name of the file, if it holds none."""
    try:
        found = msgspec.json.decode(document, type=Exported)
        if found.pikku_run != FORMAT:
            raise JournalFormatError(f"{name} is of format {found.pikku_run}: this pikkupy reads {FORMAT}")
        return Recorded(
            run=_row(found.run, RunRow),
            steps=tuple(_row(fields, StepRow) for fields in found.steps),
            timers=tuple(_row(fields, TimerRow) for fields in found.timers),
            signals=tuple(_row(fields, SignalRow) for fields in found.signals),
            set_aside=tuple(_row(fields, StepRow) for fields in found.set_aside),
            changes=frozenset(found.changes),
        )
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise JournalFormatError(f"{name} is no run that `pikku export` has written: {error}") from error


def _row(fields: dict[str, Raw], kind: type[Row]) -> Row:
    values = _VALUES.get(kind, ())  # type: ignore[call-overload]
    given: dict[str, Any] = {}
    for name, raw in fields.items():
        text = bytes(raw)
        if name in values:
            given[name] = msgspec.json.encode(msgspec.json.decode(text)).decode()  # as it was recorded
        else:
            given[name] = msgspec.json.decode(text)
    return msgspec.convert(given, type=kind)


class _Hiding:
    """Rows as fields, with their texts hidden."""

    def __init__(self, redact: Redact | None) -> None:
        self._redact = redact

    def fields(self, row: msgspec.Struct) -> dict[str, Raw]:
        """What is known of the row."""
        values = _VALUES.get(type(row), ())
        return {
            name: self._value(value) if name in values else self._fact(name, value)
            for name, value in structs.asdict(row).items()
            if value is not None
        }

    def _value(self, text: str) -> Raw:
        if self._redact is None:
            return Raw(text.encode())
        return Raw(msgspec.json.encode(self._hidden(msgspec.json.decode(text), self._redact)))

    def _fact(self, name: str, value: Any) -> Raw:
        if self._redact is not None and isinstance(value, ErrorInfo):
            message, traceback = self._redact(value.message), self._redact(value.traceback)
            value = structs.replace(value, message=message, traceback=traceback)
        if self._redact is not None and name == "reason":
            value = self._redact(value)
        return Raw(msgspec.json.encode(value))

    def _hidden(self, value: Any, redact: Redact) -> Any:
        if isinstance(value, str):
            return redact(value)
        if isinstance(value, list):
            return [self._hidden(item, redact) for item in value]
        if isinstance(value, dict):
            return dict(self._members(value, redact))
        return value

    def _members(self, members: dict[str, Any], redact: Redact) -> Iterator[tuple[str, Any]]:
        """Keys that become the same are numbered: what has no secret stays."""
        seen: Counter[str] = Counter()
        for key, item in members.items():
            if key == "$t":
                yield key, item
                continue
            shown = redact(key)
            seen[shown] += 1
            yield (shown if seen[shown] == 1 else f"{shown}#{seen[shown]}"), self._hidden(item, redact)
