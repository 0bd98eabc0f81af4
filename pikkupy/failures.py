"""Exceptions as they are recorded: bounded text that every reader can show, whatever the exception does."""

from __future__ import annotations

import os.path
import traceback
from collections.abc import Callable
from typing import TypeAlias

from pikkupy.core.model import ErrorInfo
from pikkupy.errors import dotted_name

MAX_MESSAGE = 8 * 1024  # bytes in UTF-8
MAX_TRACEBACK = 64 * 1024  # bytes in UTF-8
MAX_PARTS = 20  # exceptions of one group, and groups in groups, that its message lists

_OURS = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - compared with code file names, which are strings


def describe(error: BaseException) -> ErrorInfo:
    """What the journal keeps of an exception: 8 KiB of message, 64 KiB of traceback, both ends of each.

    Never raises, not even for an exception whose `str()` does. The frames of pikkupy that called the user's code
    are left out of the traceback.
    """
    kind = type(error)
    return ErrorInfo(
        type=dotted_name(kind),
        message=_cut(_message(error), MAX_MESSAGE),
        traceback=_cut(_traceback(error), MAX_TRACEBACK),
        bases=tuple(dotted_name(base) for base in kind.__mro__[1:] if base is not object),
    )


Redact: TypeAlias = Callable[[str], str]


def safely(redact: Redact | None) -> Redact | None:
    """`redact` that never raises: what it cannot deal with is left out altogether."""
    if redact is None:
        return None

    def redact_safely(text: str) -> str:
        try:
            redacted = redact(text)
        except Exception as error:  # noqa: BLE001 - the application's code; a secret must not get out by its failing
            return f"<left out: redact raised {type(error).__name__}>"
        return redacted if type(redacted) is str else f"<left out: redact gave {type(redacted).__name__}>"

    return redact_safely


def redacted(error: ErrorInfo, redact: Redact) -> ErrorInfo:
    """The error as it is recorded, without what `redact` takes out of its message and its traceback."""
    message, traceback = _cut(redact(error.message), MAX_MESSAGE), _cut(redact(error.traceback), MAX_TRACEBACK)
    return ErrorInfo(error.type, message, traceback, error.bases, error.steps)


def storable(text: str) -> str:
    """`text` with lone surrogates escaped, which no file can hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def _message(error: BaseException, depth: int = 0) -> str:
    try:
        text = str(error)
    except BaseException as broken:  # noqa: BLE001 - the step has failed already, this must not hide how
        return f"<str() of this {type(error).__name__} raised {type(broken).__name__}>"
    if not isinstance(error, BaseExceptionGroup) or depth == MAX_PARTS:
        return text
    parts = [f"{dotted_name(type(part))}: {_message(part, depth + 1)}" for part in error.exceptions[:MAX_PARTS]]
    more = len(error.exceptions) - len(parts)
    return f"{text}: {'; '.join(parts)}" + (f"; and {more} more" if more else "")


def _traceback(error: BaseException) -> str:
    try:
        shown = traceback.TracebackException(type(error), error, error.__traceback__)
        _begin_at_the_users_code(shown)
        return "".join(shown.format())
    except BaseException as broken:  # noqa: BLE001 - see _message
        return f"<the traceback cannot be shown: formatting it raised {type(broken).__name__}>"


def _begin_at_the_users_code(error: traceback.TracebackException) -> None:
    """Take out the frames of pikkupy at the top, of the causes and of the parts of a group as well."""
    errors = [error]
    for shown in errors:  # grows as it goes
        while shown.stack and shown.stack[0].filename.startswith(_OURS):
            del shown.stack[0]
        related = (shown.__cause__, shown.__context__, *(shown.exceptions or ()))
        errors.extend(one for one in related if one is not None)


def _cut(text: str, limit: int) -> str:
    """`text` with lone surrogates and NULs escaped; of more than `limit` bytes in UTF-8 the two ends and a mark."""
    data = text.encode("utf-8", "backslashreplace").replace(b"\0", b"\\x00")
    if len(data) > limit:
        mark = f"\n[… {len(data)} bytes, cut to {limit} …]\n".encode()
        half = (limit - len(mark)) // 2
        data = data[:half] + mark + data[-half:]
    return data.decode("utf-8", "ignore")  # ignore: the halves of a character that the cut went through
