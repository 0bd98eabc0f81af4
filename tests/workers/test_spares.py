"""Worker processes that stand ready for when another one dies."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Config
from pikkupy.workers import processes
from tests.children import child
from tests.workers import functions
from tests.workers.scene import Scene, scene, turns, until
from tests.workers.test_processes import is_alive

APPLICATION = """
import os, sys, time
from pathlib import Path
from pikkupy.registry import Registry

here = Path(__file__)
def imports():
    return len(here.with_suffix(".imports").read_text().split())

with here.with_suffix(".imports").open("a") as file:
    file.write(f"{os.getpid()} ")

registry = Registry()

@registry.function(worker="process")
def pid(services):
    return os.getpid()

@registry.function(worker="process")
def die(services):
    os._exit(3)

# what happens at the end of the import, where 1 is that of the engine, and 2 that of the first worker process
"""


class Application:
    """A module that notes which processes import it."""

    def __init__(self, folder: Path, name: str, at_last: str = "") -> None:
        folder.joinpath(f"{name}.py").write_text(APPLICATION + at_last)
        self._notes = folder / f"{name}.imports"
        self.module: Any = import_module(name)
        self.functions = [self.module.pid.fn, self.module.die.fn]

    @property
    def workers(self) -> list[int]:
        """The processes that have begun to import it, but for this one, in that order."""
        return [int(pid) for pid in self._notes.read_text().split()[1:]]

    async def is_imported_by(self, count: int) -> None:
        """Return when so many worker processes have begun to import it."""
        await until(lambda: len(self.workers) >= count)


@pytest.fixture
def module_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a module in `tmp_path`, as no other test has it."""
    monkeypatch.syspath_prepend(tmp_path)
    return f"application_{tmp_path.name}"


@pytest.fixture
def application(tmp_path: Path, module_name: str) -> Application:
    """One that can be imported at any time."""
    return Application(tmp_path, module_name)


def children() -> set[int]:
    """The processes that this one has started, and that run."""
    while True:
        try:
            lists = [each.read_text() for each in Path("/proc/self/task").glob("*/children")]
        except (FileNotFoundError, ProcessLookupError):  # a thread has just ended
            continue
        return {pid for each in lists for pid in map(int, each.split()) if is_alive(pid)}


@asynccontextmanager
async def watched_scene(**settings: Any) -> AsyncIterator[Scene]:
    """A scene that leaves nothing behind: no process, no task, and no zombie."""
    processes_before, tasks_before = children(), asyncio.all_tasks()
    async with scene(**settings) as stage:
        yield stage
    assert not children() - processes_before
    assert asyncio.all_tasks() == tasks_before


async def pid_of(stage: Scene, application: Application) -> int:
    """The process that serves the next call."""
    return int(await stage.begin_process(application.module.pid).output())


async def test_an_engine_without_process_steps_starts_no_process() -> None:
    """A spare is for those that have used one."""
    before = children()
    async with watched_scene() as stage:
        await stage.begin(lambda: 1).output()
        await stage.begin(lambda services: 1, "thread").output()
        await turns()

        assert not children() - before


async def test_the_place_of_an_idle_process_that_died_is_taken_by_one_that_has_imported(
    application: Application,
) -> None:
    """It was started when the first had begun, and the next is started when it has begun itself."""
    async with watched_scene(process_workers=1) as stage:
        first = await pid_of(stage, application)
        await application.is_imported_by(2)
        os.kill(first, 9)
        second = await pid_of(stage, application)
        await application.is_imported_by(3)

        assert application.workers[:2] == [first, second]


async def test_the_place_of_a_process_that_died_at_work_is_taken_by_one_that_has_imported(
    application: Application,
) -> None:
    """Its attempt fails, the next one finds a process that stands there."""
    async with watched_scene(in_processes=application.functions, process_workers=1) as stage:
        first = await pid_of(stage, application)
        await application.is_imported_by(2)
        failed = await stage.begin_process(application.module.die).failed()

        assert (
            failed.error.type == "pikkupy.errors.WorkerLost" and f"{first} exited with code 3" in failed.error.message
        )
        assert await pid_of(stage, application) == application.workers[1]


async def test_a_spare_serves_who_would_wait_for_a_start(application: Application, tmp_path: Path) -> None:
    """Also when nothing has died, but another place is needed."""
    everything = [functions.wait_for_file.fn, *application.functions]
    async with watched_scene(in_processes=everything, process_workers=2) as stage:
        await pid_of(stage, application)
        await application.is_imported_by(2)
        release = tmp_path / "release"
        busy = stage.begin_process(functions.wait_for_file, data=str(release))

        assert await pid_of(stage, application) == application.workers[1]
        release.touch()
        await busy.output()


async def test_a_call_takes_a_spare_that_is_still_starting(application: Application) -> None:
    """It began earlier than another one would."""
    before = children()
    async with watched_scene(process_workers=1) as stage:
        first = await pid_of(stage, application)
        await until(lambda: len(children() - before) == 2)
        (spare,) = children() - before - {first}
        os.kill(first, 9)

        assert await pid_of(stage, application) == spare


async def test_a_spare_imports_what_begins_after_it_was_started(
    application: Application, tmp_path: Path, module_name: str
) -> None:
    """And what did before: of all that was called once."""
    other = Application(tmp_path, f"other_{module_name}")
    everything = [functions.total.fn, application.module.pid.fn, other.module.pid.fn]
    async with watched_scene(in_processes=everything, process_workers=1) as stage:
        await stage.begin_process(functions.total, data={"price": 1, "count": 1}).output()
        first = await pid_of(stage, application)
        await application.is_imported_by(2)
        assert await pid_of(stage, other) == first
        await other.is_imported_by(2)

        assert application.workers == other.workers


async def test_a_spare_that_dies_is_replaced_once(application: Application) -> None:
    """Until the next function begins: what dies of itself shall not be started again and again."""
    before = children()
    async with watched_scene(process_workers=1) as stage:
        first = await pid_of(stage, application)
        for count in (2, 3):
            await application.is_imported_by(count)
            (spare,) = stage.workers._premises.processes._spares
            await spare.prepared()
            os.kill(spare.pid, 9)
        await until(lambda: children() - before == {first})
        await turns(20)

        assert children() - before == {first}
        assert await pid_of(stage, application) == first
        await application.is_imported_by(4)


async def test_a_function_that_kills_its_process_each_time_has_one_spare_at_a_time(application: Application) -> None:
    """One start for each death."""
    before = children()
    most = 0
    async with watched_scene(process_workers=1) as stage:
        for _ in range(5):
            await stage.begin_process(application.module.die).failed()
            most = max(most, len(children() - before))
        await application.is_imported_by(6)
        await turns(20)

        assert most <= 2
        assert len(application.workers) == 6
        assert children() - before == {application.workers[-1]}


async def test_without_spares_a_process_is_started_when_it_is_needed(application: Application) -> None:
    """As many as there are attempts, and no more."""
    before = children()
    async with watched_scene(process_workers=1, spare_processes=0) as stage:
        first = await pid_of(stage, application)
        await turns(20)
        assert children() - before == {first}
        os.kill(first, 9)
        second = await pid_of(stage, application)

        assert application.workers == [first, second]


async def test_spares_are_started_one_after_another(tmp_path: Path, module_name: str) -> None:
    """Not all at once: they would take the machine from those that work."""
    application = Application(tmp_path, module_name, "if imports() == 3: time.sleep(600)")
    before = children()
    async with watched_scene(spare_processes=3) as stage:
        await pid_of(stage, application)
        await application.is_imported_by(2)
        await turns(20)

        assert children() - before == set(application.workers)


async def test_several_spares_make_good_several_deaths(application: Application) -> None:
    """Each takes one place."""
    async with watched_scene(process_workers=1, spare_processes=2) as stage:
        first = await pid_of(stage, application)
        await application.is_imported_by(3)
        for dead in range(2):
            os.kill(application.workers[dead], 9)
            assert await pid_of(stage, application) == application.workers[dead + 1]
        assert first == application.workers[0]


@pytest.mark.parametrize("turn", [0, 1, 2, 3, 5, 8])
async def test_an_engine_is_left_in_any_moment_of_a_start(turn: int, application: Application) -> None:
    """No process stays behind, and no zombie."""
    async with watched_scene() as stage:
        watched = stage.begin_process(application.module.pid)
        await until(lambda: watched.told)
        await turns(turn)


async def test_a_spare_that_hangs_in_its_import_keeps_nobody_from_leaving(tmp_path: Path, module_name: str) -> None:
    """It is killed; one that is ready ends by itself."""
    application = Application(tmp_path, module_name, "if imports() == 3: time.sleep(600)")
    async with watched_scene() as stage:
        await pid_of(stage, application)
        await application.is_imported_by(2)


async def test_a_ready_spare_ends_by_itself(tmp_path: Path, module_name: str) -> None:
    """It gets to what is to be done at the end."""
    at_last = """if imports() == 3:
        import atexit
        atexit.register(here.with_suffix(".end").touch)
    """
    application = Application(tmp_path, module_name, at_last)
    async with watched_scene() as stage:
        await pid_of(stage, application)
        await application.is_imported_by(2)
        (spare,) = stage.workers._premises.processes._spares
        await spare.prepared()

    assert (tmp_path / f"{module_name}.end").exists()


async def test_an_import_that_fails_in_a_spare_is_told_by_the_call(tmp_path: Path, module_name: str) -> None:
    """With its own error, as if there were no spare; and it may succeed the next time."""
    at_last = "if imports() in (3, 4): raise ConnectionError('no database')"
    application = Application(tmp_path, module_name, at_last)
    async with watched_scene(process_workers=1) as stage:
        first = await pid_of(stage, application)
        await application.is_imported_by(2)
        os.kill(first, 9)
        failed = await stage.begin_process(application.module.pid).failed()

        assert (failed.error.type, failed.error.message) == ("ConnectionError", "no database")
        assert application.workers[1] == application.workers[2] == await pid_of(stage, application)


async def test_a_spare_that_dies_of_its_import_fails_no_call(tmp_path: Path, module_name: str) -> None:
    """Another process is started, once."""
    application = Application(tmp_path, module_name, "if imports() == 3: os._exit(5)")
    async with watched_scene(process_workers=1) as stage:
        first = await pid_of(stage, application)
        await application.is_imported_by(2)
        os.kill(first, 9)

        assert await pid_of(stage, application) == application.workers[2]


async def test_an_import_that_kills_every_process_is_told_as_without_spares(tmp_path: Path, module_name: str) -> None:
    """The process that was started for the call says how it died."""
    application = Application(tmp_path, module_name, "if imports() >= 3: os._exit(5)")
    before = children()
    async with watched_scene(process_workers=1) as stage:
        first = await pid_of(stage, application)
        await application.is_imported_by(2)
        os.kill(first, 9)
        failed = await stage.begin_process(application.module.pid).failed()

        assert failed.error.type == "pikkupy.errors.WorkerLost" and "exited with code 5" in failed.error.message
        await turns(20)
        assert not children() - before  # no further spare: nothing has begun


async def test_a_spare_that_cannot_be_started_disturbs_nobody(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes to need a process is told."""

    class NoChild:
        def __init__(self, command: list[str]) -> None:
            raise BlockingIOError("Resource temporarily unavailable")

    before = children()
    async with watched_scene(process_workers=1) as stage:
        watched = stage.begin_process(application.module.pid)
        await until(lambda: children() - before)
        monkeypatch.setattr(processes, "Child", NoChild)
        first = int(await watched.output())
        assert await pid_of(stage, application) == first
        os.kill(first, 9)
        failed = await stage.begin_process(application.module.pid).failed()

        assert failed.error.type == "pikkupy.errors.WorkerLost"
        assert "no worker process could be started" in failed.error.message
        monkeypatch.undo()


def test_a_loop_that_ends_without_close_takes_a_starting_spare_along(application: Application) -> None:
    """However far it has come."""
    before = children()

    async def main(turn: int) -> None:
        stage = Scene(None, {})
        watched = stage.begin_process(application.module.pid)
        await until(lambda: watched.told)
        await turns(turn)

    for turn in range(8):
        asyncio.run(main(turn))
        while children() - before:
            time.sleep(0.001)  # what is killed takes a moment to be dead


PROGRAM = """
import asyncio, sys
from {module} import pid
from tests.workers.scene import scene

async def main():
    async with scene() as stage:
        await stage.begin_process(pid).output()
        print("served", flush=True)
        await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("at_last", ["", "if imports() == 3: time.sleep(600)"])
async def test_a_spare_ends_when_its_engine_is_killed(tmp_path: Path, module_name: str, at_last: str) -> None:
    """While it stands ready, and while it imports."""
    (tmp_path / f"{module_name}.py").write_text(APPLICATION + at_last)
    notes = tmp_path / f"{module_name}.imports"
    program = PROGRAM.format(module=module_name)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with child([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as engine:
        assert engine.stdout is not None and engine.stdout.readline() == b"served\n"
        await until(lambda: len(notes.read_text().split()) == 3)
        spare = int(notes.read_text().split()[2])
        assert is_alive(spare)
        engine.kill()
        engine.wait()

        await until(lambda: not is_alive(spare))


@pytest.mark.parametrize("count", [-1, 1.0, True, "1", None])
def test_spares_are_counted(count: Any) -> None:
    """From 0."""
    with pytest.raises(ValueError, match=r"spare_processes=.*: use a whole number of 0 or more"):
        Config(spare_processes=count)
