"""What a run asks for: the records that leave an execution and that the engine carries out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

import msgspec

from pikkupy.core.model import ErrorInfo, ParkedFor, StepKind


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How the attempts of a step are repeated and bounded. Times in microseconds."""

    retries: int = 0  # attempts after the first
    delay_us: int = 0
    exponential: bool = False
    max_delay_us: int
    jitter: float = 0.0  # each wait is lengthened by up to this fraction of itself
    retry_if: Callable[[BaseException], object] | None = None
    timeout_us: int | None = None  # per attempt, from the start of its body
    at_most_once: bool = False


class StepCall(msgspec.Struct, frozen=True, kw_only=True):
    """One durable call of a workflow, at its place in the run."""

    position: int
    name: str
    kind: StepKind
    target: str | None = None  # the name that is recorded and compared
    policy: Policy
    body: Any = None  # a function, a workflow, an inline callable; a signal's name
    approval: bool = False  # a signal that is a decision
    data: str | None = None  # encoded
    refused: ErrorInfo | None = None  # why the data cannot be handed over: the step fails without running
    result_type: Any = Any
    duration_us: int | None = None  # of a sleep; how long to wait for a signal
    until_us: int | None = None  # of a sleep_until
    variables: Context | None = None  # contextvars at the call

    def described(self) -> str:
        """How a mismatch report names it."""
        return describe_step(self.name, self.kind, self.target)


def describe_step(name: str, kind: StepKind, target: str | None) -> str:
    """`'Charge' (function charge_card)`: name, kind and target of a step for a person."""
    return f"{name!r} ({kind} {target})" if target else f"{name!r} ({kind})"


class Completed(msgspec.Struct, frozen=True):
    """The workflow returned this encoded value."""

    output: str


class Failed(msgspec.Struct, frozen=True):
    """The workflow raised."""

    error: ErrorInfo


class Cancelled(msgspec.Struct, frozen=True):
    """The workflow called `cancel`."""

    reason: str


class Parked(msgspec.Struct, frozen=True):
    """The run cannot go on as it is: it waits for a mend."""

    reason: str
    parked: ParkedFor = ParkedFor.CODE
    # Of code that asks for other steps: from where on it does, and the place in the history that was reached. None:
    # nothing of the record can be given up.
    position: int | None = None
    seq: int = 0


End = Completed | Failed | Cancelled | Parked


class Armed(msgspec.Struct, frozen=True):
    """A timer of the run's own loop: fire it at `due_us` or later, `delay_us` after it was set or later."""

    number: int
    due_us: int
    delay_us: int


class Commands(msgspec.Struct):
    """All that one turn of a run asks for, in the order of the calls."""

    calls: Sequence[StepCall]
    stopped: Sequence[int]  # positions of steps that nobody waits for any more
    armed: Sequence[Armed] = ()
    dropped: Sequence[int] = ()  # numbers of timers that were cancelled
    passed: Sequence[str] = ()  # changes of the code that the run has passed for the first time
    end: End | None = None
