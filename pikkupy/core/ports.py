"""What the rooms above need of each other, said where all of them can see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Values(Protocol):
    """Values to text and back. `what` and `name` name the value in errors: "output of step", "Charge"."""

    def encode(self, value: object, annotation: Any = ..., *, what: str, name: str | None = ...) -> str:
        """The text that is recorded. Raises `PayloadError` for a value that cannot be kept or does not fit."""
        ...

    def decode(self, text: str, annotation: Any = ..., *, what: str, name: str | None = ...) -> Any:
        """The value that was recorded. Raises `PayloadError` if it does not fit `annotation`."""
        ...

    def decode_plain(self, text: str) -> Any:
        """What was recorded, for showing: plain JSON values where a type cannot be found. Never raises."""
        ...


class Cancellable(Protocol):
    """A timer that was set."""

    def cancel(self) -> None:
        """Never call the callback. Idempotent."""
        ...


class Scheduler(Protocol):
    """The engine's time and its timers."""

    def now_us(self) -> int:
        """Epoch microseconds."""
        ...

    def call_at(self, due_us: int, callback: Callable[[], object]) -> Cancellable:
        """Call `callback` on the event loop when the clock reaches `due_us`, never before."""
        ...
