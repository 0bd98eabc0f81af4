"""The engine and what it shows: runs in memory, their recovery, and the public views of the journal."""

from pikkupy.engine.engine import Engine
from pikkupy.engine.events import Event, EventKind
from pikkupy.engine.handle import RunHandle
from pikkupy.engine.views import Attempt, Chunk, Load, Page, Run, Slots, Step, StepPage, WorkflowInfo

__all__ = [
    "Attempt",
    "Chunk",
    "Engine",
    "Event",
    "EventKind",
    "Load",
    "Page",
    "Run",
    "RunHandle",
    "Slots",
    "Step",
    "StepPage",
    "WorkflowInfo",
]
