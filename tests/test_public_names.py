"""The public face: what users import is pinned."""

from __future__ import annotations

import pikkupy
import pikkupy.testing

PUBLIC = [
    "Attempt",
    "Chunk",
    "Client",
    "Clock",
    "Config",
    "Decided",
    "Event",
    "EventKind",
    "EventsLost",
    "Expired",
    "DurationError",
    "Engine",
    "EngineClosed",
    "FunctionNotFound",
    "Interrupted",
    "JournalError",
    "JournalFormatError",
    "JournalLocked",
    "Load",
    "Member",
    "NonRetryableError",
    "Page",
    "Encoded",
    "PayloadCodec",
    "PayloadContext",
    "PayloadError",
    "PayloadUnreadable",
    "Pikku",
    "PikkuError",
    "RegistrationError",
    "ReplayMismatch",
    "Run",
    "RunCancelled",
    "RunConflict",
    "RunFailed",
    "RunHandle",
    "RunNotFound",
    "RunStateError",
    "Services",
    "SignalTimeout",
    "Slots",
    "Step",
    "StepContext",
    "StepFailed",
    "StepPage",
    "StreamFull",
    "WorkerLost",
    "Workflow",
    "WorkflowInfo",
    "WorkflowMisuse",
    "WorkflowNotFound",
    "current_step",
    "tune_process",
]


def test_the_public_names_are_these() -> None:
    """A name comes or goes only on purpose, with an entry in the changelog."""
    assert pikkupy.__all__ == sorted(PUBLIC)
    assert all(hasattr(pikkupy, name) for name in pikkupy.__all__)
    assert pikkupy.testing.__all__ == ["VirtualClock"]


def test_all_errors_are_in_one_tree() -> None:
    """`except PikkuError` catches whatever pikkupy raises."""
    errors = [getattr(pikkupy, name) for name in PUBLIC if isinstance(getattr(pikkupy, name), type)]
    errors = [error for error in errors if issubclass(error, Exception)]

    assert len(errors) == 25
    assert all(issubclass(error, pikkupy.PikkuError) for error in errors)
    assert issubclass(pikkupy.JournalLocked, pikkupy.JournalError)
    assert issubclass(pikkupy.JournalFormatError, pikkupy.JournalError)
    assert issubclass(pikkupy.DurationError, ValueError)
