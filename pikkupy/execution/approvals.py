"""What `workflow.approval` gives: a decision, or that none came in time."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar, get_args

import msgspec

T = TypeVar("T")


class Decided(msgspec.Struct, Generic[T], frozen=True):
    """Somebody has decided."""

    decision: T
    decided_by: str | None = None

    @property
    def decided(self) -> Literal[True]:
        """True."""
        return True


class Expired(msgspec.Struct, frozen=True):
    """Nobody has decided in time."""

    @property
    def decided(self) -> Literal[False]:
        """False."""
        return False


def recorded_type(decision_type: Any) -> Any:
    """As what an approval is recorded: decision and by whom, or None if it has expired."""
    return tuple[decision_type, str | None] | None


def decision_type(recorded: Any) -> Any:
    """The type of the decision in what `recorded_type` gives."""
    pair, _ = get_args(recorded)
    return get_args(pair)[0]


def approval_of(recorded: tuple[Any, str | None] | None) -> Decided[Any] | Expired:
    """What the workflow gets for it."""
    return Expired() if recorded is None else Decided(*recorded)
