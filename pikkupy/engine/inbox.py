"""The signals of one run: those that no step has taken yet, and the steps that wait for one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from pikkupy.core.model import SignalRow
from pikkupy.core.ports import Values
from pikkupy.engine.live import LiveStep
from pikkupy.errors import PayloadError
from pikkupy.execution import decision_type


class Inbox:
    """Signals by name, in the order of their arrival; the first step to wait is the first served."""

    __slots__ = ("_kept", "_waiting")

    def __init__(self, kept: Iterable[SignalRow] = ()) -> None:
        self._kept: dict[str, deque[SignalRow]] = {}
        self._waiting: dict[str, list[LiveStep]] = {}  # few: an empty deque has the size of 64
        for row in kept:
            self.keep(row)

    def keep(self, row: SignalRow) -> None:
        """No step waits for it: keep it for one that will."""
        self._kept.setdefault(row.name, deque()).append(row)

    def take(self, name: str, before: int | None) -> SignalRow | None:
        """The oldest signal of that name that was sent `before` that time, which is the caller's now; None if none was.

        It need not be the first: what came before it was too late for the caller if the clock was set back since.
        """
        kept = self._kept.get(name, ())
        for place, row in enumerate(kept):
            if before is None or row.sent_at < before:
                del self._kept[name][place]
                return row
        return None

    def wait(self, step: LiveStep) -> None:
        """The step waits for a signal, or for a decision."""
        self._waiting.setdefault(step.call.body, []).append(step)

    def first(self, name: str) -> LiveStep | None:
        """The step that has waited longest for that name."""
        waiting = self._waiting.get(name)
        return waiting[0] if waiting else None

    def leave(self, step: LiveStep) -> None:
        """The step does not wait any more."""
        waiting = self._waiting.get(step.call.body)
        if waiting is not None and step in waiting:
            waiting.remove(step)


def decision_in(payload: Any) -> tuple[Any, str | None]:
    """The decision in the payload of a signal, and by whom it is: `{"decision": ..., "decided_by": ...}`, or the
    decision itself."""
    if isinstance(payload, dict) and "decision" in payload and payload.keys() <= {"decision", "decided_by"}:
        return payload["decision"], payload.get("decided_by")
    return payload, None


def decision_text(values: Values, decision: Any, decided_by: Any, annotation: Any, *, what: str) -> str:
    """A decision as it is recorded; `annotation` is that of its step. Raises `PayloadError` with the path in it."""
    try:
        return values.encode((decision, decided_by), annotation, what=what)
    except PayloadError:
        values.encode(decision, decision_type(annotation), what=what)  # the sender knows no pair: what does not fit?
        values.encode(decided_by, str | None, what=f"decided_by of {what}")
        raise
