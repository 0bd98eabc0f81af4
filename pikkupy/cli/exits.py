"""The exit codes of every command, and which error has which: one table."""

from __future__ import annotations

from enum import IntEnum

from pikkupy.errors import (
    AddressTaken,
    BadType,
    BadValue,
    DurationError,
    EngineClosed,
    FunctionNotFound,
    JournalLocked,
    JournalNotFound,
    PayloadError,
    ReplayMismatch,
    RunCancelled,
    RunConflict,
    RunNotFound,
    RunStateError,
    WorkflowNotFound,
)


class Exit(IntEnum):
    """How a command has ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    NOT_FOUND = 4
    CONFLICT = 5
    MISMATCH = 6
    TIMEOUT = 124
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.DONE: "done",
    Exit.FAILED: "failed: the command, the run, or a check",
    Exit.USAGE: "the command line is wrong, or a value in it does not fit",
    Exit.CANCELLED: "cancelled: the run, or what a question was asked about and not answered with yes",
    Exit.NOT_FOUND: "no such file, run, workflow or function",
    Exit.CONFLICT: "in the way: a lock, a name that is taken, a run in another state",
    Exit.MISMATCH: "the code does not fit what is recorded",
    Exit.TIMEOUT: "the time is over: of a wait for a run, or for an engine",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}

_EXITS: dict[type[BaseException], Exit] = {
    BadType: Exit.USAGE,
    BadValue: Exit.USAGE,
    DurationError: Exit.USAGE,
    PayloadError: Exit.USAGE,
    RunCancelled: Exit.CANCELLED,
    FileNotFoundError: Exit.NOT_FOUND,
    FunctionNotFound: Exit.NOT_FOUND,
    JournalNotFound: Exit.NOT_FOUND,
    RunNotFound: Exit.NOT_FOUND,
    WorkflowNotFound: Exit.NOT_FOUND,
    AddressTaken: Exit.CONFLICT,
    FileExistsError: Exit.CONFLICT,
    JournalLocked: Exit.CONFLICT,
    RunConflict: Exit.CONFLICT,
    RunStateError: Exit.CONFLICT,
    ReplayMismatch: Exit.MISMATCH,
    EngineClosed: Exit.TIMEOUT,
    TimeoutError: Exit.TIMEOUT,
    KeyboardInterrupt: Exit.INTERRUPTED,
}


def exit_of(error: BaseException) -> Exit:
    """The code for an error, by its class or the nearest base that has one."""
    return next((_EXITS[cls] for cls in type(error).__mro__ if cls in _EXITS), Exit.FAILED)
