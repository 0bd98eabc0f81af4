"""Running and asking: starting, looking, resuming, deleting, leaving, at awkward moments."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pikkupy import (
    Config,
    EngineClosed,
    Pikku,
    PikkuError,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunHandle,
    RunNotFound,
    RunStateError,
    StepFailed,
    Workflow,
)
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH


class Order(msgspec.Struct):
    id: str
    amount: int = 0


def sleepers() -> Pikku:
    """One workflow that sleeps a day, and one that returns its input."""
    pikku = Pikku()

    @pikku.workflow
    async def sleeper(workflow: Workflow, data: Any) -> Any:
        await workflow.sleep("nap", "1d")
        return data

    @pikku.workflow
    async def echo(workflow: Workflow, data: Any) -> Any:
        return data

    return pikku


def drifting(asked: list[str], effects: list[str] | None = None) -> Pikku:
    """A workflow that sleeps under the last name in `asked`, and then leaves an effect."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.sleep(asked[-1], "1d")
        await workflow.do("effect", lambda: None if effects is None else effects.append("x"))

    return pikku


async def parked(db: Path, asked: list[str], effects: list[str] | None = None) -> Pikku:
    """The registry of a journal in which run 'r' is parked: it has slept as 'first', and 'other' is asked for."""
    pikku = drifting(asked, effects)
    asked.append("first")
    async with pikku.open(db, clock=VirtualClock()) as engine:
        await engine.start("flow", run_id="r")
    asked.append("other")
    async with pikku.open(db, clock=VirtualClock()) as engine:
        assert (await engine.get_run("r")).status == "suspended"
    return pikku


async def test_settings_are_keywords_or_a_config() -> None:
    """C115: either, not both; an unknown one is refused."""
    async with sleepers().open(":memory:", config=Config(thread_workers=1)):
        pass
    async with sleepers().open(":memory:", thread_workers=1):
        pass
    with pytest.raises(TypeError):
        sleepers().open(":memory:", config=Config(), thread_workers=1)
    with pytest.raises(TypeError, match="colour"):
        sleepers().open(":memory:", colour="red")  # type: ignore[call-arg]


async def test_a_path_object_is_a_path(db: Path) -> None:
    """C116: `str` or `os.PathLike[str]`; the same file."""
    async with sleepers().open(db) as engine:
        await engine.run("echo", 1, run_id="r")
    async with sleepers().open(str(db)) as engine:
        assert (await engine.get_run("r")).output == 1


async def test_a_handle_is_asked_for_with_a_coroutine() -> None:
    """C117: it raises RunNotFound at once."""
    async with sleepers().open(":memory:") as engine:
        with pytest.raises(RunNotFound, match="'r'"):
            await engine.handle("r")
        await engine.run("echo", 5, run_id="r")
        handle = await engine.handle("r")
        assert isinstance(handle, RunHandle)
        assert await handle.result() == 5


async def test_run_takes_what_start_takes() -> None:
    """C118: a name or an object, and a `run_id`; the same id gives the same result."""
    async with sleepers().open(":memory:") as engine:
        assert await engine.run("echo", [1], run_id="r") == [1]
        assert await engine.run("echo", [1], run_id="r") == [1]
        with pytest.raises(RunConflict):
            await engine.run("echo", [2], run_id="r")
        with pytest.raises(RunConflict):
            await engine.run("sleeper", [1], run_id="r")  # C119


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, True), (0, None), ("", None), ((1,), [1]), ({"a": 1}, {"a": 2}), ("1", 1), (b"1", "1")],
)
async def test_equal_looking_inputs_are_not_the_same(one: Any, other: Any) -> None:
    """C120: the same input is the same encoded bytes, so types count."""
    async with sleepers().open(":memory:") as engine:
        await engine.start("echo", one, run_id="r")
        with pytest.raises(RunConflict):
            await engine.start("echo", other, run_id="r")
        assert (await engine.start("echo", one, run_id="r")).id == "r"


async def test_equal_sets_are_the_same_input() -> None:
    """C120: in whatever order their items were put in."""
    async with sleepers().open(":memory:") as engine:
        for number, items in enumerate(([0, 8, 16], [16, 8, 0])):
            assert (await engine.start("echo", set(items), run_id="r")).id == "r", number
            assert (await engine.start("echo", frozenset(map(str, items)), run_id="f")).id == "f"


async def test_the_handle_of_a_final_run_is_like_any_other() -> None:
    """C120: a completed, failed or cancelled run answers a repeated start with its end."""
    pikku = sleepers()

    @pikku.workflow
    async def bad(workflow: Workflow) -> None:
        raise ValueError("no")

    async with pikku.open(":memory:") as engine:
        await (await engine.start("sleeper", 1, run_id="c")).cancel("stop")
        with pytest.raises(RunCancelled, match="stop"):
            await engine.run("sleeper", 1, run_id="c")
        for _ in range(2):
            with pytest.raises(RunFailed, match="no"):
                await engine.run("bad", run_id="f")


@pytest.mark.parametrize("run_id", ["x" * 256, " ", "a#1", "a/b", "'; DROP TABLE runs; --", "ünï ☃ 🐍", "%", "../x"])
async def test_any_text_is_a_run_id(run_id: str) -> None:
    """C121: 1 to 256 characters without control characters."""
    async with sleepers().open(":memory:") as engine:
        assert await engine.run("echo", 1, run_id=run_id) == 1
        assert (await engine.get_run(run_id)).id == run_id
        await engine.delete_run(run_id)


@pytest.mark.parametrize("run_id", ["", "x" * 257, "a\n", "\x7f", "\ud800", 5, b"r", True])
async def test_other_run_ids_are_refused(run_id: Any) -> None:
    """C121: before any effect."""
    async with sleepers().open(":memory:") as engine:
        with pytest.raises((ValueError, TypeError), match="run_id"):
            await engine.start("echo", 1, run_id=run_id)
        assert (await engine.list_runs()).runs == ()


@pytest.mark.parametrize("run_id", ["nobody", "", "\ud800", "\x00", 5, None, b"r", object(), ["r"], 10**30])
async def test_an_id_that_cannot_be_is_not_there(run_id: Any) -> None:
    """Running: whatever is handed over as an id is told off by every call, and the engine goes on."""
    async with sleepers().open(":memory:") as engine:
        error, said = (RunNotFound, "no run") if isinstance(run_id, str) else (TypeError, "run_id must be a str")
        for call in (
            engine.get_run(run_id), engine.handle(run_id), engine.steps(run_id), engine.history(run_id),
            engine.resume(run_id), engine.delete_run(run_id), engine.retry(run_id), engine.approvals(run_id),
            engine.awaited_signals(run_id), engine.cancel(run_id, "why"), engine.signal(run_id, "go"),
            engine.approve(run_id, "ok", True),
        ):  # fmt: skip
            with pytest.raises(error, match=said):
                await call
        assert await engine.run("echo", 1) == 1


@pytest.mark.parametrize("workflow", ["nothing", "'", "%"])
async def test_a_filter_for_what_is_not_there_finds_nothing(workflow: Any) -> None:
    """Running: and the engine goes on."""
    async with sleepers().open(":memory:") as engine:
        await engine.run("echo", 1)
        assert (await engine.list_runs(workflow=workflow)).runs == ()
        assert len((await engine.list_runs()).runs) == 1


@pytest.mark.parametrize("workflow", ["", "\ud800", 5, object(), ["echo"], test_settings_are_keywords_or_a_config])
async def test_a_filter_that_is_no_workflow_is_told(workflow: Any) -> None:
    """Running: no error of SQLite's reaches the caller, and the engine goes on."""
    async with sleepers().open(":memory:") as engine:
        with pytest.raises((TypeError, ValueError, PikkuError), match="workflow"):
            await engine.list_runs(workflow=workflow)
        assert await engine.run("echo", 1) == 1


async def test_statuses_and_kinds_are_text() -> None:
    """C122: StrEnums, equal to the strings and shown like them."""
    async with sleepers().open(":memory:") as engine:
        await engine.start("sleeper", 1, run_id="r")
        run = await engine.get_run("r")
        (step,) = await engine.steps("r")

    assert run.status == "running"
    assert f"{run.status} {step.kind}" == "running sleep"
    assert isinstance(run.status, str)
    assert isinstance(step.status, str)


async def test_newest_means_started_last() -> None:
    """C123: also within one instant; every page bound holds; the last page has no cursor."""
    async with sleepers().open(":memory:", clock=VirtualClock()) as engine:
        ids = [f"r{number}" for number in range(6)]
        for run_id in ids:
            await engine.start("echo", 1, run_id=run_id)
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = await engine.list_runs(limit=2, cursor=cursor)
            seen += [run.id for run in page.runs]
            cursor = page.next_cursor
            if cursor is None:
                break
            await engine.start("echo", 1)
        whole = await engine.list_runs(limit=500)
        none = await engine.list_runs(limit=1, workflow="sleeper")
        one = await engine.list_runs(limit=1)

    assert seen == ids[::-1]
    assert whole.next_cursor is None
    assert (none.runs, none.next_cursor) == ((), None)
    assert one.next_cursor is not None


@pytest.mark.parametrize("limit", [0, -1, 501, 1.0, "5", None, True])
async def test_a_limit_out_of_bounds_is_refused(limit: Any) -> None:
    """C123: 1 to 500, else ValueError."""
    async with sleepers().open(":memory:") as engine:
        with pytest.raises(ValueError, match="limit"):
            await engine.list_runs(limit=limit)


async def test_a_workflow_filter_is_a_name_or_an_object() -> None:
    """C124: either."""
    pikku = sleepers()

    @pikku.workflow
    async def other(workflow: Workflow) -> None: ...

    async with pikku.open(":memory:") as engine:
        await engine.run("echo", 1)
        await engine.run(other, run_id="o")
        for filtered in ("other", other):
            assert [run.id for run in (await engine.list_runs(workflow=filtered)).runs] == ["o"]


async def test_asyncio_timers_are_no_steps() -> None:
    """C125: `asyncio.sleep` and `timeout` are recorded, but not listed."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async with asyncio.timeout(60):
            await asyncio.sleep(5)

    async with pikku.open(":memory:", clock=VirtualClock(autojump=True)) as engine:
        await engine.run(flow, run_id="r")
        assert await engine.steps("r") == []
        assert await engine.history("r") == []


async def test_a_sleep_has_no_attempts_and_no_output() -> None:
    """C126, C128: `started_at` is when it was reached; `wake_at` stays after it fired; it is not in the history."""
    clock = VirtualClock()
    begun = clock.now()
    async with sleepers().open(":memory:", clock=clock) as engine:
        await engine.start("sleeper", 1, run_id="r")
        (waiting,) = await engine.steps("r")
        await clock.advance("2d")
        (over,) = await engine.steps("r")
        assert await engine.history("r") == []
        assert (await engine.get_run("r")).updated_at == clock.now()

    assert (waiting.status, waiting.attempts, waiting.output, waiting.started_at) == ("scheduled", 0, None, begun)
    assert waiting.wake_at == over.wake_at == begun + timedelta(days=1)
    assert (over.status, over.attempts, over.output, over.ended_at) == ("succeeded", 0, None, clock.now())


async def test_attempts_are_those_that_have_begun() -> None:
    """C127: 1 while the first runs, 1 while the second waits, 2 while it runs."""
    pikku = Pikku()
    gates = [asyncio.Event(), asyncio.Event()]
    calls: list[int] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def body() -> None:
            calls.append(1)
            await gates[len(calls) - 1].wait()
            if len(calls) == 1:
                raise OSError

        await workflow.do("body", body, retries=1, retry_delay="1min")

    clock = VirtualClock()
    seen = []
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow, run_id="r")
        for act in (lambda: None, gates[0].set, lambda: None, gates[1].set):
            act()
            await clock.advance(0 if len(seen) != 2 else "1min")
            (step,) = await engine.steps("r")
            seen.append((step.status, step.attempts))
        await handle.result()

    assert seen == [("running", 1), ("scheduled", 1), ("running", 2), ("succeeded", 2)]


async def test_a_run_in_the_wrong_state_is_told_with_both() -> None:
    """C129, C130: id and status, for each call and each wrong status."""
    pikku = sleepers()

    @pikku.workflow
    async def bad(workflow: Workflow) -> None:
        raise ValueError

    async with pikku.open(":memory:") as engine:
        await engine.run("echo", 1, run_id="completed")
        with pytest.raises(RunFailed):
            await engine.run("bad", run_id="failed")
        await engine.start("sleeper", 1, run_id="cancelled")
        await engine.cancel("cancelled", "x")
        await engine.start("sleeper", 1, run_id="running")
        for status in ("completed", "failed", "cancelled"):
            with pytest.raises(RunStateError, match=f"'{status}'.*{status}"):
                await engine.cancel(status, "again")
        for status in ("completed", "failed", "cancelled", "running"):
            with pytest.raises(RunStateError, match=f"'{status}'.*{status}"):
                await engine.resume(status)
        with pytest.raises(RunStateError, match=r"'running' is running: .* can be deleted"):
            await engine.delete_run("running")
        for status in ("completed", "failed", "cancelled"):
            await engine.delete_run(status)
        assert [run.id for run in (await engine.list_runs()).runs] == ["running"]


async def test_a_suspended_run_cannot_be_deleted_but_cancelled(db: Path) -> None:
    """C130: `delete_run` wants a final run; `cancel` takes any other."""
    pikku = await parked(db, [])
    async with pikku.open(db) as engine:
        with pytest.raises(RunStateError, match=r"'r'.*suspended"):
            await engine.delete_run("r")
        await engine.cancel("r", "given up")
        run = await engine.get_run("r")
        assert (run.status, run.reason) == ("cancelled", "given up")
        assert [step.status for step in await engine.steps("r")] == ["cancelled"]
        await engine.delete_run("r")


async def test_cancelling_a_suspended_run_twice_at_once(db: Path) -> None:
    """C130: one succeeds, the other is told the state; the engine goes on."""
    pikku = await parked(db, [])
    async with pikku.open(db) as engine:
        answers = await asyncio.gather(*(engine.cancel("r", str(n)) for n in range(2)), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["NoneType", "RunStateError"]
        assert (await engine.get_run("r")).status == "cancelled"


async def test_deleting_a_run_twice_at_once() -> None:
    """C130: one succeeds, the other finds no run; the engine goes on."""
    async with sleepers().open(":memory:") as engine:
        await engine.run("echo", 1, run_id="r")
        answers = await asyncio.gather(*(engine.delete_run("r") for _ in range(2)), return_exceptions=True)
        assert None in answers
        assert all(answer is None or isinstance(answer, RunNotFound) for answer in answers)
        assert await engine.run("echo", 2, run_id="r") == 2


async def test_resuming_twice_at_once_executes_once(db: Path) -> None:
    """C42, promise 5: one resume takes the run up, the other is told the state; no step runs twice."""
    asked: list[str] = []
    effects: list[str] = []
    pikku = await parked(db, asked, effects)
    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        asked.append("first")  # the code is mended while the engine is open
        answers = await asyncio.gather(engine.resume("r"), engine.resume("r"), return_exceptions=True)
        await clock.advance("2d")

        assert sorted(type(answer).__name__ for answer in answers) == ["NoneType", "RunStateError"]
        assert (await engine.get_run("r")).status == "completed"
        assert effects == ["x"]


@pytest.mark.parametrize("first", ["resume", "cancel"])
async def test_resuming_and_cancelling_at_once(db: Path, first: str) -> None:
    """C130: whatever order they take, the run is cancelled in the end and the engine goes on."""
    asked: list[str] = []
    pikku = await parked(db, asked)
    async with pikku.open(db, clock=VirtualClock()) as engine:
        asked.append("first")
        calls = [engine.resume("r"), engine.cancel("r", "stop")]
        answers = await asyncio.gather(*(calls if first == "resume" else calls[::-1]), return_exceptions=True)

        assert all(answer is None or isinstance(answer, RunStateError) for answer in answers), answers
        assert (await engine.get_run("r")).status == "cancelled"
        await engine.start("flow")


async def test_a_resumed_run_has_no_error_reason_or_end(db: Path) -> None:
    """C132: they are cleared, whether it goes on by itself or by `resume`."""
    asked: list[str] = []
    pikku = await parked(db, asked)
    async with pikku.open(db, clock=VirtualClock()) as engine:
        asked.append("first")
        await engine.resume("r")
        run = await engine.get_run("r")
        assert (run.status, run.error, run.reason, run.ended_at) == ("running", None, None, None)


async def test_a_resume_that_does_not_fit_says_why_now(db: Path) -> None:
    """C107, C109: parked again, with a reason that names what is asked for now, and not what was before."""
    asked: list[str] = []
    pikku = await parked(db, asked)
    async with pikku.open(db, clock=VirtualClock()) as engine:
        asked.append("third")
        await engine.resume("r")
        run = await engine.get_run("r")

    assert run.status == "suspended"
    assert run.reason is not None
    assert run.reason.startswith("ReplayMismatch")
    assert "'third'" in run.reason


async def test_a_look_at_the_result_does_not_wait() -> None:
    """C133: `timeout=0` looks once, also at a run that has ended."""
    async with sleepers().open(":memory:") as engine:
        handle = await engine.start("sleeper", 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle.result(timeout=0), 5)
        await engine.run("echo", 3, run_id="r")
        assert await (await engine.handle("r")).result(timeout=0) == 3


@pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])
@pytest.mark.parametrize("timeout", [0, "1h"])
async def test_who_waits_in_vain_is_told_how_the_run_stands(timeout: Any, settings: dict[str, Any]) -> None:
    """C133: it goes on, or is suspended, with its reason; as it is then, and not when the wait began."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: str) -> None:
        await workflow.sleep("nap", data)
        await workflow.suspend("check the books")

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock, **settings) as engine:
        running, shut = [await engine.start(flow, nap, run_id=nap) for nap in ("1d", "1min")]
        if not timeout:
            await clock.advance("1min")
        waits = [asyncio.ensure_future(run.result(timeout=timeout)) for run in (running, shut)]
        await clock.advance("1min")
        while not all(wait.done() for wait in waits):
            await clock.advance("1h")  # the time of a wait counts from its look at the file
        told = [str(error) for error in await asyncio.gather(*waits, return_exceptions=True)]

    limit = "3600 s" if timeout else "0 s"
    assert told == [
        f"run '1d' has not ended within {limit}; it goes on",
        f"run '1min' has not ended within {limit}; it is suspended: check the books",
    ]


async def test_every_call_on_a_closed_engine_says_so() -> None:
    """C134: EngineClosed at once, before opening and after leaving; those who wait for a result get it, too."""
    engine = sleepers().open(":memory:", clock=VirtualClock())

    async def check() -> None:
        for call in (engine.get_run, engine.handle, engine.steps, engine.history, engine.resume, engine.delete_run):
            with pytest.raises(EngineClosed):
                await call("r")
        for other in (engine.start("echo"), engine.run("echo"), engine.list_runs(), engine.cancel("r", "x")):
            with pytest.raises(EngineClosed):
                await other

    await check()
    async with engine:
        handle = await engine.start("sleeper", 1, run_id="r")
        waiting = [asyncio.ensure_future(handle.result()) for _ in range(3)]
        await asyncio.sleep(0)
    for task in waiting:
        with pytest.raises(EngineClosed):
            await task
    for call in (handle.status(), handle.result(), handle.cancel("x"), handle.result(timeout=0)):
        with pytest.raises(EngineClosed):
            await call
    await check()


async def test_an_error_in_the_block_passes_on(db: Path) -> None:
    """C136: the engine is left as usual; the file is free and complete."""
    with pytest.raises(ZeroDivisionError):
        async with sleepers().open(db) as engine:
            await engine.start("sleeper", 1, run_id="r")
            raise ZeroDivisionError
    async with sleepers().open(db) as engine:
        assert (await engine.get_run("r")).status == "running"


async def test_cancelling_the_block_leaves_in_good_order(db: Path) -> None:
    """C136: also when the task that holds the engine is cancelled."""

    started = asyncio.Event()

    async def main() -> None:
        async with sleepers().open(db) as engine:
            await engine.start("sleeper", 1, run_id="r")
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(main())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with sleepers().open(db) as engine:
        assert (await engine.get_run("r")).status == "running"


async def test_a_step_may_call_its_engine() -> None:
    """C138: start and await other runs, look at its own, list."""
    pikku = sleepers()
    async with pikku.open(":memory:") as engine:

        @pikku.workflow
        async def flow(workflow: Workflow) -> list[Any]:
            async def body() -> list[Any]:
                other = await engine.run("echo", 4)
                own = await engine.get_run(workflow.run_id)
                return [other, str(own.status), len((await engine.list_runs()).runs)]

            return await workflow.do("body", body)

        assert await asyncio.wait_for(engine.run(flow), 10) == [4, "running", 2]


async def test_a_step_may_cancel_its_own_run() -> None:
    """C138: the run is cancelled, and the engine goes on."""
    pikku = sleepers()
    async with pikku.open(":memory:") as engine:

        @pikku.workflow
        async def flow(workflow: Workflow) -> None:
            await workflow.do("suicide", lambda: engine.cancel(workflow.run_id, "from within"))

        with pytest.raises(RunCancelled, match="from within"):
            await asyncio.wait_for(engine.run(flow), 10)
        assert await engine.run("echo", 1) == 1


async def test_recovered_runs_do_not_share_context_variables(db: Path) -> None:
    """Values: what one workflow body sets is not seen by another, live or after a start-up."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: str) -> str:
        before = variable.get()
        variable.set(data)
        await workflow.sleep("nap", "1d")
        return before + variable.get()

    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        for run_id in "ab":
            await engine.start(flow, run_id, run_id=run_id)
    async with pikku.open(db, clock=clock) as engine:
        await clock.advance("1d")
        results = [(await engine.get_run(run_id)).output for run_id in "ab"]

    assert results == ["unseta", "unsetb"]
    assert variable.get() == "unset"


async def test_an_engine_can_be_entered_again(db: Path) -> None:
    """Running: one after the other, not at once."""
    engine = sleepers().open(db)
    async with engine:
        await engine.run("echo", 1, run_id="r")
        with pytest.raises(PikkuError):
            await engine.__aenter__()
    async with engine:
        assert (await engine.get_run("r")).output == 1


async def test_two_engines_in_one_process(db: Path) -> None:
    """Running: on two files, with one registry; neither sees the other's runs."""
    pikku = sleepers()
    async with pikku.open(db) as one, pikku.open(db.with_name("other.db")) as other, pikku.open(":memory:") as third:
        await asyncio.gather(*(engine.run("echo", 1, run_id="r") for engine in (one, other)))
        assert (await third.list_runs()).runs == ()


async def test_a_hundred_thousand_would_be_too_slow_but_a_thousand_steps_at_once_work() -> None:
    """Concurrency: one gather of a thousand steps, in order."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[int]:
        return await asyncio.gather(*(workflow.do("n", lambda n=n: n) for n in range(1000)))  # type: ignore[misc]

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow, run_id="r") == list(range(1000))
        steps = await engine.steps("r")

    assert [step.name for step in steps[:3]] == ["n", "n#1", "n#2"]
    assert steps[-1].name == "n#999"


async def test_a_run_that_is_being_started_can_be_cancelled() -> None:
    """Cancel: at the awkward moment between the call of start and its return."""
    async with sleepers().open(":memory:") as engine:
        starting = asyncio.ensure_future(engine.start("sleeper", 1, run_id="r"))
        await asyncio.sleep(0)
        while True:
            try:
                await engine.cancel("r", "early")
                break
            except RunNotFound:
                await asyncio.sleep(0)
        await starting
        assert (await engine.get_run("r")).status == "cancelled"


async def test_runs_that_make_one_step_after_another_take_turns(db: Path) -> None:
    """I-38: from one step of a run to its next there are at most four times as many as there are runs."""
    pikku, runs, order = Pikku(), 10, list[int]()

    @pikku.workflow
    async def flow(workflow: Workflow, number: int) -> None:
        for _ in range(50):
            await workflow.do("step", lambda: order.append(number))

    async with pikku.open(db, durability="process") as engine:
        handles = await asyncio.gather(*(engine.start(flow, number) for number in range(runs)))
        await asyncio.gather(*(handle.result() for handle in handles))

    assert len(order) == runs * 50
    for number in range(runs):
        own = [place for place, who in enumerate(order) if who == number]
        assert max(later - earlier for earlier, later in itertools.pairwise(own)) <= 4 * runs


async def test_starts_of_one_id_at_once_are_one_run_and_each_caller_is_told() -> None:
    """Promise 1: also before the first of them is on disk."""
    async with sleepers().open(":memory:") as engine, asyncio.timeout(10):
        handles = await asyncio.gather(*(engine.start("echo", 1, run_id="r") for _ in range(3)))

        assert [handle.id for handle in handles] == ["r", "r", "r"]
        assert [run.id for run in (await engine.list_runs()).runs] == ["r"]


async def test_a_start_whose_caller_gives_up_is_a_run_or_none(db: Path) -> None:
    """Promise 1: nothing half; the engine goes on and the run completes if it is there."""
    async with sleepers().open(db) as engine:
        for turns in range(6):
            starting = asyncio.ensure_future(engine.start("echo", turns, run_id=f"r{turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            assert await engine.run("echo", turns, run_id=f"r{turns}") == turns


async def test_values_are_shown_decoded() -> None:
    """C86: input, output and the steps' outputs have their types, with or without an annotation."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: Order) -> Order:
        def annotated() -> Order:
            return Order("a", 1)

        await workflow.do("annotated", annotated)
        await workflow.do("bare", lambda: Order("b", 2))
        await workflow.do("converted", lambda: {"id": "c"}, result_type=Order)
        await workflow.do("time", lambda: datetime(2030, 1, 1))
        return data

    async with pikku.open(":memory:") as engine:
        await engine.run(flow, Order("in", 3), run_id="r")
        run = await engine.get_run("r")
        outputs = [step.output for step in await engine.steps("r")]

    assert (run.input, run.output) == (Order("in", 3), Order("in", 3))
    assert outputs == [Order("a", 1), Order("b", 2), Order("c"), datetime(2030, 1, 1)]


async def test_a_deleted_run_s_waiters_and_handle() -> None:
    """Running: a handle of a deleted run raises RunNotFound; its id is free again."""
    async with sleepers().open(":memory:") as engine:
        handle = await engine.start("echo", 1, run_id="r")
        await handle.result()
        await engine.delete_run("r")
        for call in (handle.status(), handle.result(), handle.result(timeout=0), handle.cancel("x")):
            with pytest.raises(RunNotFound):
                await call
        assert (await engine.start("echo", 2, run_id="r")).id == "r"


async def test_step_failed_leaves_with_its_own_error() -> None:
    """C90: the run's error has the step's type and message; the traceback shows both."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        def body() -> None:
            raise KeyError("inner")

        try:
            await workflow.do("body", body)
        except StepFailed:
            raise

    async with pikku.open(":memory:") as engine:
        with pytest.raises(RunFailed) as failed:
            await engine.run(flow)

    error = failed.value.error
    assert (error.type, error.message) == ("KeyError", "'inner'")
    assert 'raise KeyError("inner")' in error.traceback
    assert 'await workflow.do("body", body)' in error.traceback
