"""Durable workflows for asyncio on one SQLite file: ordinary `async` Python that survives crashes."""

from pikkupy.config import Config
from pikkupy.core.clock import Clock
from pikkupy.engine import Attempt, Chunk, Engine, Page, Run, RunHandle, Step
from pikkupy.errors import (
    DurationError,
    EngineClosed,
    FunctionNotFound,
    Interrupted,
    JournalError,
    JournalFormatError,
    JournalLocked,
    NonRetryableError,
    PayloadError,
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
from pikkupy.pikku import Pikku
from pikkupy.services import Services, StepContext, current_step

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "Chunk",
    "Clock",
    "Config",
    "Decided",
    "DurationError",
    "Engine",
    "EngineClosed",
    "Expired",
    "FunctionNotFound",
    "Interrupted",
    "JournalError",
    "JournalFormatError",
    "JournalLocked",
    "NonRetryableError",
    "Page",
    "PayloadError",
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
    "StreamFull",
    "WorkerLost",
    "Workflow",
    "WorkflowMisuse",
    "WorkflowNotFound",
    "current_step",
]
