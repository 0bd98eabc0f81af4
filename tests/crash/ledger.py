"""What has happened outside of the database: lines of a file.

Each is one write, made before anything follows from it. SIGKILL can cut that off where a page of the file ends: what is
left then is no line, and nothing has followed from it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from pikkupy import Services, StepContext, current_step
from tests.crash.failpoints import reach

PATH, LIFE = "PIKKUPY_CRASH_LEDGER", "PIKKUPY_CRASH_LIFE"  # for worker processes, which have no services
KILLED, CALLED_OFF, ROBBED = "killed", "called off", "robbed"


class Line(msgspec.Struct, omit_defaults=True):
    """One line of the ledger.

    `begin`, `end`, `failed`: the body of a step. `seen`: a workflow has got the value of a step, or its failure.
    `asked`, `told`: a call of the engine (`step` is its name) is about to be made, has returned with `value`.
    `killed`, `called off`, `robbed`: the life was killed, was told to end and has left its engine, is about to lose a
    worker process; told by who has done it.
    """

    what: str
    life: int
    at: int  # µs
    run: str = ""
    step: str = ""
    attempt: int = 0
    invocation: str = ""
    value: Any = None


class Ledger(Services):
    """Appends to the file; survives what the process does not."""

    def __init__(self, path: Path, life: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._life = life

    def add(self, what: str, run: str, step: str, value: Any = None) -> None:
        """What a workflow or a caller has to tell."""
        self._write(Line(what, self._life, _now_us(), run, step, value=value))

    def body(self, what: str, step: StepContext) -> None:
        """What the body of a step has to tell."""
        self._write(
            Line(what, self._life, _now_us(), step.run_id, step.step_name, step.attempt_count, step.invocation_id)
        )

    def close(self) -> None:
        """After the last line."""
        os.close(self._file)

    def _write(self, line: Line) -> None:
        os.write(self._file, b"\n" + msgspec.json.encode(line) + b"\n")  # a line that was cut off before it ends there


def of_this_process() -> Ledger:
    """The ledger of a worker process."""
    return Ledger(Path(os.environ[PATH]), int(os.environ[LIFE]))


def read_ledger(path: Path) -> list[Line]:
    """Every whole line so far, oldest first."""
    lines = []
    for text in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(msgspec.DecodeError):  # no beginning of a line is JSON
            lines.append(msgspec.json.decode(text, type=Line))
    return lines


def effect(ledger: Ledger, body: Callable[[StepContext], Any]) -> Any:
    """Run the body of a step between two lines of the ledger."""
    step = current_step()
    assert step is not None
    ledger.body("begin", step)
    reach("effect.before")
    try:
        value = body(step)
    except BaseException:
        ledger.body("failed", step)
        raise
    ledger.body("end", step)
    reach("effect.after")
    return value


def _now_us() -> int:
    return time.time_ns() // 1_000
