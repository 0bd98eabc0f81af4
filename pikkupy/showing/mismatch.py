"""What is recorded beside what the code asks for, taken out of the reason of a run whose code has changed."""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

from pikkupy.core.model import RunStatus
from pikkupy.engine.views import Run

_NAME = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""  # as `repr` writes it
_REASON = re.compile(
    rf"ReplayMismatch: step (\d+): recorded ((?P<name>{_NAME}) \(.+?\)), asked for ({_NAME} \(.+)", re.DOTALL
)

_PARKED = ("ReplayMismatch: ", "WorkflowNotFound: ")  # how the reasons begin of runs that have no code to go on with


class Mismatch(NamedTuple):
    """The first difference."""

    step: int
    """Which of the run's steps it is, from 1."""
    name: str
    """That of the recorded one."""
    recorded: str
    asked: str


def why_parked(run: Run) -> str | None:
    """Why a run cannot go on with the code as it is, whatever it has waited for before; `None` if it can."""
    parked = run.status is RunStatus.SUSPENDED and (run.reason or "").startswith(_PARKED)
    return run.reason if parked else None


def mismatch_of(reason: str | None) -> Mismatch | None:
    """The difference that a reason tells; `None` if it tells none."""
    found = _REASON.match(reason or "")
    if found is None:
        return None
    try:
        name = str(ast.literal_eval(found["name"]))
    except (SyntaxError, ValueError):
        name = found["name"]  # a part of it is hidden
    return Mismatch(int(found[1]) + 1, name, found[2], found[4])
