"""A run in memory, and the others, as the rooms see them that carry out its rarer steps: signals, gates, child runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Protocol

from pikkupy.core.commands import End
from pikkupy.core.machine import RunEvent
from pikkupy.core.model import Change, ParkedFor, RunMove, RunRow, StepRow
from pikkupy.core.outcomes import Failed, Outcome, Succeeded
from pikkupy.engine.events import Hub
from pikkupy.engine.holds import Holds
from pikkupy.engine.host import Host
from pikkupy.engine.inbox import Inbox
from pikkupy.engine.live import LiveStep
from pikkupy.log import Logger
from pikkupy.registry import WorkflowFunction
from pikkupy.store import Done


class Others(Protocol):
    """The runs of the engine."""

    @property
    def events(self) -> Hub: ...
    @property
    def holds(self) -> Holds: ...

    def start(self, row: RunRow, workflow: WorkflowFunction[Any, Any], variables: Context) -> None:
        """Begin a run that is on disk."""
        ...

    def resident(self, number: int) -> Resident | None:
        """The run of that number, if it is in memory."""
        ...

    def ask_for(self, run_id: str, answer: Callable[[RunRow | None], object]) -> None:
        """Call `answer` with the run of that id, as it is in the file."""
        ...

    def is_ending(self, number: int) -> bool:
        """True while the end of the run is on its way to the disk."""
        ...

    def call_off(self, number: int) -> None:
        """A run that is not in memory is about to be cancelled: it does not come there before that."""
        ...

    def cancel_in_file(self, number: int, reason: str) -> None:
        """Cancel a run that is not in memory."""
        ...


class Resident(Protocol):
    """A run in memory. What changes it keeps `steps` and the file in step."""

    steps: dict[int, LiveStep]  # without an outcome, by position
    gates: dict[int, LiveStep]  # those of them that are shut gates
    children: dict[int | None, RunRow]  # on record of steps that this stay in memory has not come to, by position

    @property
    def is_parking(self) -> bool: ...
    @property
    def inbox(self) -> Inbox: ...
    @property
    def ending(self) -> bool: ...
    @property
    def host(self) -> Host: ...
    @property
    def home(self) -> Others: ...
    @property
    def run(self) -> RunRow: ...
    @property
    def approvals(self) -> frozenset[str]:
        """Names of the decisions that the run has asked for, those that were made too."""
        ...

    @property
    def reason(self) -> str | None:
        """Why it is suspended."""
        ...

    @property
    def parked(self) -> ParkedFor | None:
        """Why the engine itself has suspended it."""
        ...

    def next_seq(self) -> int:
        """The next place in its history."""
        ...

    def is_live(self, step: LiveStep) -> bool:
        """True if the step still has an outcome to come in this life."""
        ...

    def begun(self, step: LiveStep, attempt: int) -> None:
        """An attempt of the step begins."""
        ...

    def attempt_ended(self, step: LiveStep, outcome: Outcome) -> None:
        """An attempt of the step has ended: what follows is decided, and written."""
        ...

    def fail(self, step: LiveStep, failed: Failed, also: Sequence[Change] = (), then: Sequence[Done] = ()) -> None:
        """An attempt has failed: another follows, or the step fails. `also` is written with that, `then` is told."""
        ...

    def settle(
        self, step: LiveStep, outcome: Succeeded | Failed, also: Sequence[Change] = (), then: Sequence[Done] = ()
    ) -> None:
        """Write the step's outcome; as `land`."""
        ...

    def land(self, row: StepRow, also: Sequence[Change] = (), then: Sequence[Done] = ()) -> None:
        """Write an outcome, and what belongs to it; the run sees it, and `then` is told, when both are on disk."""
        ...

    def land_all(self, rows: list[StepRow], also: Change, done: Done) -> None:
        """As `land`, several outcomes in one write."""
        ...

    def moves_to(self, position: int) -> None:
        """The step of its parent that waits for it has another place."""
        ...

    def moved(self, event: RunEvent, reason: str | None) -> RunMove:
        """Change its status, by the table; the change is to be written. It does not wait in the file after that."""
        ...

    def begin_end(self, end: End, changes: list[Change], then: list[Done]) -> None:
        """End it: `changes` get what is to be written, `then` who is to be told."""
        ...

    def end_itself(self, end: End, changes: list[Change], then: list[Done]) -> list[tuple[Resident, End]]:
        """As `begin_end`; the child runs in memory that are to end with it are left to the caller."""
        ...

    def may_rest(self) -> None:
        """Perhaps it only waits now, and need not do so in memory."""
        ...

    def log(self) -> Logger:
        """A logger bound to it."""
        ...


def tell_all(listeners: list[Done], error: Exception | None) -> None:
    """What follows one write for several who want to know."""
    for listener in listeners:
        listener(error)
