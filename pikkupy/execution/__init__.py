"""One run in memory: workflow code on its own loop, outcomes in, commands out.

This room is where run loop, registry and codec meet. It does no I/O and knows no clock but the recorded time.
"""

from pikkupy.execution.approvals import Decided, Expired, decision_type, recorded_type
from pikkupy.execution.execution import Execution, step_failed, without_target
from pikkupy.execution.workflow import Workflow

__all__ = [
    "Decided",
    "Execution",
    "Expired",
    "Workflow",
    "decision_type",
    "recorded_type",
    "step_failed",
    "without_target",
]
