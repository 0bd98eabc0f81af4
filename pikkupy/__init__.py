"""Durable workflows for asyncio on one SQLite file: ordinary `async` Python that survives crashes."""

from pikkupy.config import Config
from pikkupy.control import Client, Member
from pikkupy.core.clock import Clock
from pikkupy.engine import Attempt, Chunk, Engine, Event, EventKind, Page, Run, RunHandle, Step, StepPage
from pikkupy.errors import (
    DurationError,
    EngineClosed,
    EventsLost,
    FunctionNotFound,
    Interrupted,
    JournalError,
    JournalFormatError,
    JournalLocked,
    NonRetryableError,
    PayloadError,
    PayloadUnreadable,
    PikkuError,
    RegistrationError,
    ReplayMismatch,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    RunStateError,
    SignalTimeout,
    StepFailed,
    StreamFull,
    WorkerLost,
    WorkflowMisuse,
    WorkflowNotFound,
)
from pikkupy.execution import Decided, Expired, Workflow
from pikkupy.payloads import Encoded, PayloadCodec, PayloadContext
from pikkupy.pikku import Pikku
from pikkupy.services import Services, StepContext, current_step
from pikkupy.tuning import tune_process

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "Chunk",
    "Client",
    "Clock",
    "Config",
    "Decided",
    "DurationError",
    "Encoded",
    "Engine",
    "EngineClosed",
    "Event",
    "EventKind",
    "EventsLost",
    "Expired",
    "FunctionNotFound",
    "Interrupted",
    "JournalError",
    "JournalFormatError",
    "JournalLocked",
    "Member",
    "NonRetryableError",
    "Page",
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
    "Step",
    "StepContext",
    "StepFailed",
    "StepPage",
    "StreamFull",
    "WorkerLost",
    "Workflow",
    "WorkflowMisuse",
    "WorkflowNotFound",
    "current_step",
    "tune_process",
]
