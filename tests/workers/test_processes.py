"""Functions in worker processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pikkupy.core.outcomes import Stopped, Succeeded
from pikkupy.services import invocation_id
from pikkupy.workers import processes
from tests.children import child
from tests.workers import functions
from tests.workers.scene import Scene, scene, turns, until


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # a zombie is dead, whoever should have fetched it


async def test_a_process_function_gets_typed_data_and_returns_a_typed_value() -> None:
    """Both travel as text; the types are those of the function's annotations."""
    async with scene() as stage:
        watched = stage.begin_process(functions.total, data={"price": 7, "count": 6})
        assert stage.workers.elsewhere == 1

        assert stage.values.decode(await watched.output(), functions.Sum, what="") == functions.Sum(42)
        assert watched.told == ["began", "ended"]


async def test_another_result_type_of_the_call_is_kept_to() -> None:
    """The process knows the function's own annotation only."""
    async with scene() as stage:
        fits = stage.begin_process(functions.untyped, data={"price": 2, "count": 3}, result_type=functions.Sum)
        other = stage.begin_process(functions.untyped, data={"price": 2, "count": 3}, result_type=int)

        assert stage.values.decode(await fits.output(), functions.Sum, what="") == functions.Sum(6)
        assert (await other.failed()).final


async def test_an_async_process_function_knows_its_step() -> None:
    """By its services and by `current_step()`; one process serves several attempts, one after another."""
    async with scene(process_workers=1) as stage:
        first = stage.values.decode(await stage.begin_process(functions.context, attempt=2).output(), what="")
        second = stage.values.decode(await stage.begin_process(functions.context).output(), what="")

        assert first == {
            "same": True,
            "attempt": 2,
            "key": invocation_id("run-1", "Charge"),
            "pid": second["pid"],
        }
        assert first["pid"] != os.getpid()


async def test_a_process_function_has_no_other_services() -> None:
    """The application's objects cannot be sent, and the error says so."""
    async with scene(application=object()) as stage:
        failed = await stage.begin_process(functions.crm).failed()

        assert failed.error.type == "AttributeError"
        assert "services.crm" in failed.error.message and "worker='process'" in failed.error.message


async def test_printing_and_reading_do_not_disturb_the_conversation() -> None:
    """Neither the function's own nor those of the programs that it starts."""
    async with scene() as stage:
        assert await stage.begin_process(functions.chatter).output() == '""'


@pytest.mark.parametrize(
    ("function", "error_type", "message", "final"),
    [
        (functions.declined, "tests.workers.functions.Declined", "51: insufficient funds", False),
        (functions.hopeless, "pikkupy.errors.NonRetryableError", "no such account", True),
        (functions.leave, "SystemExit", "3", False),
        (functions.leave_async, "KeyboardInterrupt", "", False),
        (functions.lambda_out, "pikkupy.errors.PayloadError", "output of step 'Charge'", True),
    ],
)
async def test_whatever_a_process_function_raises_is_its_failure(
    function: Any, error_type: str, message: str, final: bool
) -> None:
    """The class need not survive pickling, and the process serves on."""
    async with scene(process_workers=1) as stage:
        failed = await stage.begin_process(function).failed()

        assert (failed.error.type, failed.final, failed.exception) == (error_type, final, None)
        assert failed.error.message.startswith(message)
        assert "pikkupy/workers" not in failed.error.traceback
        assert await stage.begin_process(functions.pid).output() != str(os.getpid())


async def test_data_that_does_not_fit_is_final() -> None:
    """As everywhere."""
    async with scene() as stage:
        failed = await stage.begin_process(functions.total, data={"price": "x"}).failed()

        assert failed.error.type == "pikkupy.errors.PayloadError"
        assert failed.final


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("tests.workers.functions", "plain"),
        ("tests.workers.functions", "on_a_thread"),
        ("tests.workers.functions", "gone"),
        ("os", "getpid"),
    ],
)
async def test_a_process_runs_registered_functions_only(module: str, name: str) -> None:
    """Whatever else can be imported is refused, for good."""
    async with scene() as stage:
        pretended = SimpleNamespace(
            worker="process", fn=SimpleNamespace(__module__=module, __qualname__=name), data_type=Any, result_type=Any
        )
        failed = await stage.begin_process(pretended).failed()

        assert failed.error.type == "pikkupy.errors.RegistrationError"
        assert f"{name!r}" in failed.error.message or f"{module}.{name}" in failed.error.message
        assert failed.final


async def test_a_function_may_be_registered_under_another_variable() -> None:
    """It is found in its module by its code."""
    async with scene() as stage:
        assert await stage.begin_process(functions.registered_later).output() == '"later"'


@pytest.mark.parametrize(
    ("function", "data", "words"),
    [
        (functions.die, 7, "exited with code 7"),
        (functions.die_by_signal, None, "was killed by SIGKILL"),
    ],
)
async def test_a_process_that_dies_fails_its_attempt_alone(
    function: Any, data: Any, words: str, tmp_path: Path
) -> None:
    """The error says how it died, a sibling goes on, and another process takes its place."""
    release = tmp_path / "release"
    async with scene(process_workers=2) as stage:
        sibling = stage.begin_process(functions.wait_for_file, data=str(release))
        failed = await stage.begin_process(function, data=data).failed()

        assert failed.error.type == "pikkupy.errors.WorkerLost"
        assert words in failed.error.message and "'Charge'" in failed.error.message
        assert (failed.final, failed.exception) == (False, None)
        assert int(await stage.begin_process(functions.pid).output()) > 0
        release.touch()
        assert await sibling.output() == '"there it is"'


async def test_what_a_dead_process_has_started_is_killed(tmp_path: Path) -> None:
    """Its death is noticed although a fork of it holds the pipe open, and the fork does not outlive it."""
    file = tmp_path / "pid"
    async with scene() as stage:
        failed = await stage.begin_process(functions.die_and_leave_a_fork, data=str(file)).failed()

        assert "was killed by SIGKILL" in failed.error.message
        await until(lambda: not is_alive(int(file.read_text())))


async def test_an_idle_process_that_died_is_replaced_unnoticed() -> None:
    """No attempt fails for what happened before it."""
    async with scene(process_workers=1) as stage:
        first = int(await stage.begin_process(functions.pid).output())
        os.kill(first, 9)

        assert int(await stage.begin_process(functions.pid).output()) != first


async def test_a_process_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    """The time counts from the start of the body, not of the process."""
    file = tmp_path / "pid"
    async with scene() as stage:
        watched = stage.begin_process(functions.hang, data=str(file), timeout_s=1)
        stage.time.advance(60)
        await until(file.exists)
        await until(lambda: stage.time.pending)
        stage.time.advance(1)

        assert (await watched.failed()).error.type == "TimeoutError"
        assert not is_alive(int(file.read_text()))


async def test_a_process_that_never_begins_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import may hang before the time-out of the step counts. The error says so."""
    monkeypatch.setattr(processes, "START_S", 0.001)
    async with scene() as stage:
        failed = await stage.begin_process(functions.pid).failed()

        assert failed.error.type == "pikkupy.errors.WorkerLost"
        assert "did not begin the function within 0.001 s while it ran step 'Charge'" in failed.error.message


async def test_a_stopped_process_is_killed_after_the_grace(tmp_path: Path) -> None:
    """Until then it may come to its end."""
    file, release = tmp_path / "pid", tmp_path / "release"
    async with scene(cancel_grace="5s") as stage:
        hanging = stage.begin_process(functions.hang, data=str(file))
        ending = stage.begin_process(functions.wait_for_file, data=str(release))
        await until(lambda: file.exists() and (tmp_path / "release.ready").exists() and ending.told and hanging.told)
        hanging.attempt.stop()
        ending.attempt.stop()
        release.touch()
        assert await ending.outcome() == Succeeded('"there it is"')
        assert hanging.outcomes == []
        stage.time.advance(5)

        assert await hanging.outcome() == Stopped()
        assert not is_alive(int(file.read_text()))


async def test_close_kills_what_runs_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """No process, no task, no open pipe."""
    file = tmp_path / "pid"
    before = asyncio.all_tasks()
    async with scene(cancel_grace="10s") as stage:
        idle = int(await stage.begin_process(functions.pid).output())
        hanging = stage.begin_process(functions.hang, data=str(file))
        starting = stage.begin_process(functions.pid, name="Starting")
        await until(file.exists)

    assert hanging.outcomes == [Stopped()]
    assert starting.outcomes
    assert not is_alive(int(file.read_text()))
    assert not is_alive(idle)
    assert asyncio.all_tasks() == before


def test_a_loop_that_ends_without_close_takes_its_processes_along(tmp_path: Path) -> None:
    """As with tasks: nothing is left, and the attempt was stopped, not failed."""
    file = tmp_path / "pid"
    watched = []

    async def main() -> None:
        stage = Scene(None, {})
        await stage.begin_process(functions.pid).output()
        watched.append(stage.begin_process(functions.hang, data=str(file)))
        await until(file.exists)

    asyncio.run(main())

    assert watched[0].outcomes == [Stopped()]
    assert not is_alive(int(file.read_text()))


@pytest.mark.parametrize("turn", range(7))
def test_a_loop_that_ends_while_a_process_starts_takes_it_along(turn: int) -> None:
    """However far it has come; that the loop ends at all is half of it."""
    watched = []

    async def main() -> None:
        stage = Scene(None, {})
        watched.append(stage.begin_process(functions.pid))
        await turns(turn)

    asyncio.run(main())

    assert watched[0].outcomes == [Stopped()]


async def test_ctrl_c_in_the_terminal_does_not_reach_the_processes() -> None:
    """They have a process group of their own; the engine alone decides about them."""
    async with scene() as stage:
        assert int(await stage.begin_process(functions.group).output()) != os.getpgrp()


PROGRAM = """
import asyncio, contextlib, os, sys
from contextvars import copy_context
from typing import Any
import msgspec
from pikkupy import Services
from pikkupy.registry import Registry
from tests.workers.scene import scene

class Order(msgspec.Struct):
    count: int

class OutOfStock(Exception):
    pass

registry = Registry()

@registry.function(worker="process")
def double(services: Services, data: Order):
    if data.count > 100:
        raise OutOfStock(data.count)
    return [Order(2 * data.count), os.getpid()]

@registry.function(worker="process")
def hang(services: Services):
    import time
    print(os.getpid(), file=sys.stderr, flush=True)
    time.sleep(60)

async def main():
    async with scene() as stage:
        text = await stage.begin_process(double, data=Order(4)).output()
        order, pid = stage.values.decode(text, what="")
        assert type(order) is Order and order.count == 8 and pid != os.getpid(), text
        failed = await stage.begin_process(double, data=Order(400)).failed()
        assert failed.error.type == "__main__.OutOfStock", failed
        print("fine")
        if sys.argv[1:]:
            stage.begin_process(hang)
            await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def start_program(folder: Path, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    script = folder / "program.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-u", str(script), *arguments]
    return child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_functions_and_types_of_a_script_work(tmp_path: Path) -> None:
    """The script is imported again; what is `__main__.Order` in it is that in the process, too."""
    with start_program(tmp_path) as program:
        out, err = program.communicate(timeout=60)

    assert (out, err) == ("fine\n", "")


@pytest.mark.slow
async def test_a_process_ends_when_its_engine_is_killed(tmp_path: Path) -> None:
    """Even in the middle of its work: the run may go on in the next life of the engine."""
    with start_program(tmp_path, "hang") as program:
        assert program.stdout is not None and program.stderr is not None
        assert program.stdout.readline() == "fine\n"
        worker = int(program.stderr.readline())
        assert is_alive(worker)
        program.kill()
        program.wait()

        await until(lambda: not is_alive(worker))
