"""A name in the file, or in what a worker process is sent, runs nothing that the program has not put there (S2, S3)."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pikkupy import Pikku, Services, StepFailed, Workflow
from pikkupy.codec import Codec
from pikkupy.core.model import ErrorInfo, StepKind, StepStatus
from pikkupy.services import StepContext
from pikkupy.store.rows import run_columns, run_of, step_columns, step_of
from pikkupy.testing import VirtualClock
from pikkupy.workers.messages import Application, Called, Main, Preparation, Request, called
from pikkupy.workers.process import perform, prepare
from tests.workers import functions
from tests.workers.scene import scene

FORGED = [
    "builtins.exec",
    "builtins:exec",
    "exec",
    "os.system",
    "_private",
    "__import__",
    "tests.security.test_forged_names.Ran",
    "other.__wrapped__",
    "other\0",
    "",
]
RAN: list[str] = []


def program() -> Pikku:
    pikku = Pikku()

    @pikku.function
    async def wanted(services: Services, data: int) -> int:
        RAN.append("wanted")
        return data

    @pikku.function
    async def other(services: Services, data: int) -> int:
        RAN.append("other")
        return data

    @pikku.workflow
    async def flow(workflow: Workflow, data: int) -> Any:
        await workflow.sleep("Wait", "1d")
        try:
            return await workflow.do("Call", wanted, data, retries=1, retry_delay="1d")
        except StepFailed as failed:
            return [failed.error_type, failed.is_a(SystemExit), failed.is_a(ValueError), type(failed).__name__]

    return pikku


async def waiting(path: Path, clock: VirtualClock) -> None:
    """A run that waits for a step to begin."""
    async with program().open(path, clock=clock) as engine:
        await engine.start("flow", 1, run_id="r")


def forge(path: Path, change: Callable[[Any, list[Any]], tuple[Any, list[Any]]]) -> list[tuple[Any, ...]]:
    """Rewrite the run and its steps, with right checksums; what then stands in the table of steps."""
    with sqlite3.connect(path) as db:
        run = run_of(db.execute("SELECT * FROM pikkupy_runs").fetchone())
        steps = [step_of(row[1:]) for row in db.execute("SELECT * FROM pikkupy_steps ORDER BY key")]
        run, steps = change(run, steps)
        db.execute(f"REPLACE INTO pikkupy_runs VALUES ({', '.join('?' * 23)})", run_columns(run))
        db.execute("DELETE FROM pikkupy_steps")
        db.executemany(f"INSERT INTO pikkupy_steps VALUES ({', '.join('?' * 15)})", map(step_columns, steps))
    db.close()
    return table(path)


def table(path: Path) -> list[tuple[Any, ...]]:
    db = sqlite3.connect(path)
    found = db.execute("SELECT * FROM pikkupy_steps ORDER BY key").fetchall()
    db.close()
    return found


@pytest.mark.parametrize("name", [*FORGED, "other"])
async def test_a_step_that_names_another_function_parks_its_run_and_no_row_of_a_step_changes(
    tmp_path: Path, name: str
) -> None:
    """The code says what runs; the file only whether that is what ran before."""
    path, clock = tmp_path / "j.db", VirtualClock()
    await waiting(path, clock)

    def change(run: Any, steps: list[Any]) -> tuple[Any, list[Any]]:
        slept = msgspec.structs.replace(
            steps[0], status=StepStatus.SUCCEEDED, seq=1, output="null", ended_at=steps[0].started_at
        )
        new = msgspec.structs.replace(
            steps[0],
            position=1,
            name="Call",
            kind=StepKind.FUNCTION,
            target=name,
            attempts=1,
            status=StepStatus.SCHEDULED,
            wake_at=0,
        )
        return msgspec.structs.replace(run, wakes_at=None), [slept, new]

    before = forge(path, change)
    RAN.clear()

    async with program().open(path, clock=clock) as engine:
        await clock.advance("10d")
        run = await engine.get_run("r")

    assert run.status == "suspended"
    assert run.reason is not None and run.reason.startswith("ReplayMismatch")
    assert table(path) == before
    assert RAN == []


@pytest.mark.parametrize("name", [*FORGED, "wanted"])
async def test_a_run_that_names_something_else_as_its_workflow_is_parked(tmp_path: Path, name: str) -> None:
    """Also if that is a function of the program."""
    path, clock = tmp_path / "j.db", VirtualClock()
    await waiting(path, clock)
    before = forge(path, lambda run, steps: (msgspec.structs.replace(run, workflow=name, wakes_at=None), steps))
    RAN.clear()

    async with program().open(path, clock=clock) as engine:
        await clock.advance("10d")
        run = await engine.get_run("r")

    assert run.status == "suspended" and run.reason is not None
    assert table(path) == before
    assert RAN == []


@pytest.mark.parametrize("kind", [*FORGED, "SystemExit", "KeyboardInterrupt", "pikkupy.errors.NonRetryableError"])
async def test_an_error_is_never_made_of_the_name_of_its_class(tmp_path: Path, kind: str) -> None:
    """Whatever type is recorded, the workflow sees a `StepFailed` that has it as text."""
    path, clock = tmp_path / "j.db", VirtualClock()
    await waiting(path, clock)

    def change(run: Any, steps: list[Any]) -> tuple[Any, list[Any]]:
        at = steps[0].started_at
        slept = msgspec.structs.replace(steps[0], status=StepStatus.SUCCEEDED, seq=1, output="null", ended_at=at)
        failed = msgspec.structs.replace(
            slept,
            position=1,
            name="Call",
            kind=StepKind.FUNCTION,
            target="wanted",
            attempts=2,
            seq=2,
            status=StepStatus.FAILED,
            output=None,
            error=ErrorInfo(kind, "x", "y", (kind, "builtins.ValueError")),
        )
        return msgspec.structs.replace(run, wakes_at=None), [slept, failed]

    forge(path, change)

    async with program().open(path, clock=clock) as engine:
        result = await (await engine.handle("r")).result(timeout="5s")

    assert result == [kind, kind == "SystemExit", False, "StepFailed"]


def asked(function: Called, *, knows: Any = functions.context, data: str | None = None) -> Any:
    """What a worker process answers that was started for one function."""
    step = StepContext("r", "flow", "r/Call", "Call", 1)
    application = Application(frozenset({called(knows.fn)}), Main(None, None))
    reporter: Any = SimpleNamespace(begin=lambda step: RAN.append("began"))
    request = Request(function=function, step=step, data=data)
    return copy_context().run(perform, request, application, Codec(), reporter)


@pytest.mark.parametrize(
    "function",
    [
        Called("builtins", "exec"),
        Called("builtins", "eval"),
        Called("os", "system"),
        Called("tests.workers.functions", "_private"),
        Called("tests.workers.functions", "os.system"),
        Called("tests.workers.functions", "context.fn.__globals__"),
        Called("tests.workers.functions", "total"),  # registered, but not of this engine
        Called("", ""),
    ],
    ids=str,
)
def test_a_frame_that_names_another_function_is_refused(function: Called) -> None:
    """Before anything is looked up, and for good: no further attempt follows."""
    RAN.clear()

    reply = asked(function, data='"print(1)"')

    assert reply.error.type == "pikkupy.errors.RegistrationError" and reply.final
    assert RAN == []


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_other_name_is_looked_up(module: str, name: str) -> None:
    """Whatever the frame says; a module that was not imported is not imported."""
    known = set(sys.modules)

    reply = asked(Called(module, name))

    assert reply.error.type == "pikkupy.errors.RegistrationError"
    assert set(sys.modules) == known


def test_a_frame_does_not_choose_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a module that is there nor, because of a text, the program's own."""
    (tmp_path / "never_imported.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)

    for module in ("never_imported", "tests.workers.functions"):
        reply = asked(Called(module, "s"), data='"__main__ and __main__:Order and \\"$t\\":\\"__main__:Order\\""')
        assert reply.error.type == "pikkupy.errors.RegistrationError"

    assert set(sys.modules) == known


def test_a_preparation_does_not_choose_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names functions of the engine, or nothing happens; the answer is the same."""
    (tmp_path / "never_prepared.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    main = Main("never_prepared", str(tmp_path / "never_prepared.py"))
    application = Application(frozenset({called(functions.context.fn)}), main)

    prepare(Preparation(functions=[Called("never_prepared", "s"), Called("__main__", "s")]), application)

    assert set(sys.modules) == known


async def test_a_function_that_was_registered_later_gets_a_process_that_knows_it() -> None:
    """The one that was started before is ended."""
    async with scene(process_workers=1) as stage:
        first = stage.values.decode(await stage.begin_process(functions.context).output(), what="")
        other = await stage.begin_process(functions.total, data={"price": 7, "count": 6}).output()
        again = stage.values.decode(await stage.begin_process(functions.context).output(), what="")

    assert stage.values.decode(other, functions.Sum, what="") == functions.Sum(42)
    assert first["pid"] != again["pid"]
