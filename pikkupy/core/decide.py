"""The decisions: does the code fit the record, and what follows an attempt. Facts in, verdict out."""

from __future__ import annotations

import msgspec

from pikkupy.core.commands import Policy, StepCall, describe_step
from pikkupy.core.history import History
from pikkupy.core.model import StepRow, StepStatus
from pikkupy.core.retry import wait_us


def mismatch(recorded: StepRow | None, asked: StepCall) -> str | None:
    """Why `asked` is not the step recorded at its position, in words; None if it is, or if nothing is recorded.

    Kind, name and target name are compared (of an inline step kind and name: its callable has no stable name).
    """
    if recorded is None:
        return None
    if (recorded.kind, recorded.name, recorded.target) == (asked.kind, asked.name, asked.target):
        return None
    return (
        f"step {asked.position}: recorded {describe_step(recorded.name, recorded.kind, recorded.target)}, "
        f"asked for {asked.described()}"
    )


def not_asked_for(history: History, reached: int, instead: str, *, waits: bool) -> str | None:
    """Why code that made only `reached` durable calls does not fit `history`, in words; None if it does.

    `instead` says what it waits for and where, or how it has ended. Code that waits may ask for more later, but the
    record has it before.
    """
    missing = [row for position, row in sorted(history.steps.items()) if position >= reached]
    if not missing:
        return None
    row = missing[0]
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    recorded = f"step {row.position}: recorded {describe_step(row.name, row.kind, row.target)}"
    asked = "has not asked for at this place" if waits else "no longer asks for"
    return f"{recorded}, which the code {asked}{more}; it {instead}"


class Settle(msgspec.Struct, frozen=True):
    """Record the failure: the step has failed for good."""


class RetryAt(msgspec.Struct, frozen=True):
    """Try again, not before `wake_at_us`."""

    wake_at_us: int


def after_failure(policy: Policy, failures: int, now_us: int, fraction: float) -> Settle | RetryAt:
    """What follows the `failures`-th failed attempt of a step that may be retried at all."""
    if failures > policy.retries:
        return Settle()
    return RetryAt(now_us + wait_us(policy, failures + 1, fraction))


class Run(msgspec.Struct, frozen=True):
    """Begin the attempt of this number now."""

    attempt: int


class Wait(msgspec.Struct, frozen=True):
    """Begin the attempt of this number at `wake_at_us` (a sleep: end it then; `attempt` is 0)."""

    attempt: int
    wake_at_us: int


def next_move(status: StepStatus, attempts: int, wake_at_us: int | None) -> Run | Wait:
    """What a function or inline step without an outcome does next; `attempts` have begun.

    An attempt that a crash cut off begins again under its own number; a wait goes on to its recorded end.
    """
    if status is StepStatus.SCHEDULED and wake_at_us is not None:
        return Wait(attempts + 1, wake_at_us)
    return Run(max(attempts, 1) if status is StepStatus.RUNNING else attempts + 1)
