"""Every exception that pikkupy raises, grouped by who has to act.

PikkuError
├── the author of the application mends the code
│   ├── RegistrationError      a function or workflow cannot be registered as it is written
│   ├── WorkflowNotFound       no workflow of that name
│   ├── FunctionNotFound       no function of that name
│   ├── WorkflowMisuse         a workflow did something that cannot be replayed
│   ├── ReplayMismatch         the code asks for other steps than the recorded ones
│   ├── DurationError          not a duration (also a ValueError)
│   ├── BadValue               an argument with a value that it cannot have (also a ValueError)
│   ├── BadType                an argument of a type that it cannot have (also a TypeError)
│   ├── PayloadError           a value that cannot be kept exactly
│   └── NonRetryableError      raised by a step to end its retries
├── the caller handles it
│   ├── RunNotFound            no run of that id
│   ├── RunConflict            the id belongs to a run with another workflow or input
│   ├── RunStateError          the run is in the wrong state for the call
│   ├── RunFailed              the run ended failed; `.error` says how
│   ├── RunCancelled           the run was cancelled; `.reason` says why
│   ├── StepFailed             a step used up its attempts (raised inside workflows)
│   │   └── SignalTimeout      no signal came in time
│   ├── WorkerLost             the process that ran a step died (named by `StepFailed.error_type`)
│   ├── Interrupted            a crash cut off an `at_most_once` step (named by `StepFailed.error_type`)
│   ├── StreamFull             a step emits faster than the disk takes it
│   ├── EventsLost             a reader of events was too far behind
│   ├── AddressTaken           another process listens where HTTP was to be served
│   └── EngineClosed           the engine was left; the run goes on at the next `open`
└── the operator looks at the file or the disk
    └── JournalError           the journal cannot be read or written
        ├── JournalNotFound    there is no file to look at, or no folder to make it in
        ├── JournalLocked      another engine holds the file
        ├── JournalFormatError the file is damaged, newer, or another application's
        └── PayloadUnreadable  a recorded value is encoded, and cannot be decoded here
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class PikkuError(Exception):
    """Base of everything that pikkupy raises."""


class BadValue(PikkuError, ValueError):
    """An argument has a value that it cannot have. Catch it as `ValueError`, or as `PikkuError`."""


class BadType(PikkuError, TypeError):
    """An argument is of a type that it cannot have. Catch it as `TypeError`, or as `PikkuError`."""


class RegistrationError(PikkuError):
    """A function, workflow or services object cannot be used as it is written."""


class WorkflowNotFound(PikkuError):
    """No workflow of that name is registered with this `Pikku`."""


class FunctionNotFound(PikkuError):
    """No function of that name is registered with this `Pikku`."""


class WorkflowMisuse(PikkuError):
    """Something that a replay could not repeat: real I/O in a workflow body, a durable call in the wrong place."""


class ReplayMismatch(PikkuError):
    """The code asks for other steps than those recorded; named at the start of `Run.reason`, raised by no call."""


class DurationError(PikkuError, ValueError):
    """Text, number or `timedelta` that is no duration; the message quotes it and lists the units."""


class PayloadError(PikkuError):
    """A value that cannot be kept exactly, does not fit its type, or is too large; the message has its path.

    `step_name` is the step, as in `Step.name`, that had waited for a signal whose payload did not fit; else None.
    """

    step_name: str | None = None


class NonRetryableError(PikkuError):
    """Raise it (or a subclass) in a step: the step fails at once, whatever retries are left."""


class RunNotFound(PikkuError):
    """No run of that id is in the journal."""


class RunConflict(PikkuError):
    """The run id is taken by a run of another workflow or with another input."""


class RunStateError(PikkuError):
    """The run is in the wrong state for the call; the message names run id and status."""


class ErrorLike(Protocol):
    """What `RunFailed` carries: the recorded type, message and traceback."""

    @property
    def type(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def traceback(self) -> str: ...


class RunFailed(PikkuError):
    """The run ended `failed`. `error` has the recorded `type`, `message` and `traceback`."""

    def __init__(self, run_id: str, error: ErrorLike) -> None:
        super().__init__(f"run {run_id!r} failed: {error.type}: {error.message}")
        self.run_id = run_id
        self.error = error

    def __reduce__(self) -> tuple[type[RunFailed], tuple[str, ErrorLike]]:
        return type(self), (self.run_id, self.error)


class RunCancelled(PikkuError):
    """The run ended `cancelled`. `reason` is the text given to `cancel`."""

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(f"run {run_id!r} was cancelled: {reason}")
        self.run_id = run_id
        self.reason = reason

    def __reduce__(self) -> tuple[type[RunCancelled], tuple[str, str]]:
        return type(self), (self.run_id, self.reason)


class StepFailed(PikkuError):
    """A step used up its attempts. The same class and content is raised live and on every replay.

    `step_name` as in `Step.name`; `attempts` that failed; `error_type`, the dotted name of the class that the last
    attempt raised (`ValueError`, `app.errors.CardDeclined`); its `message` (8 KiB at most) and `traceback`
    (64 KiB at most).
    """

    def __init__(
        self, step_name: str, attempts: int, error_type: str, message: str, traceback: str, bases: Sequence[str] = ()
    ) -> None:
        tries = "attempt" if attempts == 1 else "attempts"
        super().__init__(f"step {step_name!r} failed after {attempts} {tries}: {error_type}: {message}")
        self.step_name = step_name
        self.attempts = attempts
        self.error_type = error_type
        self.message = message
        self.traceback = traceback
        self.bases = tuple(bases)

    def is_a(self, error: type[BaseException]) -> bool:
        """True if the recorded error was of class `error` or a subclass, by the dotted names recorded with it."""
        name = dotted_name(error)
        return name == self.error_type or name in self.bases

    def __reduce__(self) -> tuple[type[StepFailed], tuple[str, int, str, str, str, tuple[str, ...]]]:
        return type(self), (self.step_name, self.attempts, self.error_type, self.message, self.traceback, self.bases)


class SignalTimeout(StepFailed):
    """`wait_for_signal` saw no signal before its timeout."""

    def __str__(self) -> str:
        return self.message  # nothing was attempted


class WorkerLost(PikkuError):
    """The worker process died (killed, crashed, out of memory) while it ran the attempt."""


class Interrupted(PikkuError):
    """An attempt of an `at_most_once` step was cut off; whether it had its effect is unknown."""


class StreamFull(PikkuError):
    """More than `Config.max_stream` bytes of emitted chunks wait for the disk, or the run has emitted 67,108,864; the
    chunk was not emitted."""


class EventsLost(PikkuError):
    """What followed the event that a reader has seen last is not known any more."""


class AddressTaken(PikkuError):
    """Another process listens where HTTP was to be served."""


class EngineClosed(PikkuError):
    """The engine was left. Nothing is lost: unfinished runs go on at the next `open`."""


class JournalError(PikkuError):
    """The journal cannot be opened, read or written; the engine stops rather than guess."""


class JournalNotFound(JournalError):
    """There is no such file, and whoever only looks makes none; or no folder to make it in."""


class JournalLocked(JournalError):
    """Another engine holds the file; the message names its process, host and start."""


class JournalFormatError(JournalError):
    """The file is damaged, of a newer pikkupy, or of another application. It was left untouched."""


class PayloadUnreadable(JournalError):
    """A recorded value is encoded and cannot be decoded: no codec, an unknown key, or not what was written there."""


def dotted_name(cls: type) -> str:
    """`module.QualName` of a class, without `builtins.`: how errors are named in the journal."""
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"
