"""Names of steps, and code that has changed since a run began."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pikkupy import Pikku, Run, Services, Step, StepFailed, Workflow, current_step
from pikkupy.testing import VirtualClock

Body = Callable[[Workflow], Awaitable[Any]]


class Lives:
    """One run in several lives, each with code of its own."""

    def __init__(self, db: Path) -> None:
        self.db = db
        self.clock = VirtualClock()
        self.effects: list[str] = []

    async def live(self, body: Body, then: str = "1h") -> tuple[Run, list[Step]]:
        """The run and its steps after one life with this body."""
        pikku = Pikku()
        pikku.workflow(name="flow")(body)
        for name in ("one", "two"):
            pikku.function(name=name)(self.function(name))
        async with pikku.open(self.db, clock=self.clock) as engine:
            await engine.start("flow", run_id="r")
            await self.clock.advance(then)
            return await engine.get_run("r"), await engine.steps("r")

    def function(self, name: str) -> Callable[[Services, Any], Any]:
        async def function(services: Services, data: Any) -> str:
            self.effects.append(name)
            return name

        return function

    def step(self, name: str) -> Callable[[], str]:
        """An inline step that leaves an effect."""

        def body() -> str:
            self.effects.append(name)
            return name

        return body


@pytest.mark.parametrize("bad", ["a#1", "a#0", "#1", "a#1#22", "a#007"])
async def test_a_name_that_looks_like_a_repetition_is_refused(bad: str, db: Path) -> None:
    """C103, C106: ValueError in the call, for all that take a step name."""

    async def body(workflow: Workflow) -> str:
        for call in (
            lambda: workflow.do(bad, lambda: 1),
            lambda: workflow.sleep(bad, 1),
            lambda: workflow.sleep_until(bad, workflow.now()),
        ):
            with pytest.raises(ValueError, match="#"):
                call()
        return "refused"

    run, steps = await Lives(db).live(body)

    assert (run.output, steps) == ("refused", [])


@pytest.mark.parametrize("name", ["a#", "#", "a#b", "a#1 ", "1", "x" * 256, "ünï ☃ 🐍", " ", "a/b", "'; --"])
async def test_other_text_is_a_name(name: str, db: Path) -> None:
    """C104: 1 to 256 characters, and the name is what it was given as."""

    async def body(workflow: Workflow) -> str:
        await workflow.sleep(name, 1)
        return await workflow.do(name, lambda: current_step().step_name)  # type: ignore

    run, steps = await Lives(db).live(body)

    assert run.output == f"{name}#1"
    assert [step.name for step in steps] == [name, f"{name}#1"]


@pytest.mark.parametrize("name", ["", "x" * 257, "a\n", "\t", "a\x00b", "\x1b[2J", "\x85", "\ud800"])
async def test_names_that_cannot_be_shown_are_refused(name: str, db: Path) -> None:
    """C104: ValueError in the call; nothing is recorded."""

    async def body(workflow: Workflow) -> str:
        with pytest.raises(ValueError, match="step name"):
            workflow.do(name, lambda: 1)
        return "refused"

    run, steps = await Lives(db).live(body)

    assert (run.output, steps) == ("refused", [])


@pytest.mark.parametrize("name", [5, None, b"a", ["a"], object()])
async def test_a_name_that_is_no_text_is_a_type_error(name: Any, db: Path) -> None:
    """Step names: it names the type."""

    async def body(workflow: Workflow) -> str:
        for call in (lambda: workflow.do(name, lambda: 1), lambda: workflow.sleep(name, 1)):
            with pytest.raises(TypeError, match=type(name).__name__):
                call()
        return "refused"

    assert (await Lives(db).live(body))[0].output == "refused"


async def test_ordinals_count_over_all_kinds(db: Path) -> None:
    """C105: one count per name and run; refused calls do not count."""

    async def body(workflow: Workflow) -> None:
        await workflow.do("a", lambda: 1)
        with pytest.raises(ValueError, match="retries"):
            workflow.do("a", lambda: 1, retries=-1)
        await workflow.sleep("a", 0)
        await workflow.do("a", "one", 1)

    _, steps = await Lives(db).live(body)

    assert [step.name for step in steps] == ["a", "a#1", "a#2"]


async def _recorded(lives: Lives) -> None:
    """A run that has done 'first' (inline) and 'second' (function one), and sleeps as 'nap'."""

    async def body(workflow: Workflow) -> str:
        await workflow.do("first", lives.step("first"))
        await workflow.do("second", "one", 1)
        await workflow.sleep("nap", "1d")
        return "done"

    run, _ = await lives.live(body)
    assert run.status == "running"
    lives.effects.clear()


def _changes() -> dict[str, Callable[[Workflow, Lives], Awaitable[Any]]]:
    async def inserted(workflow: Workflow, lives: Lives) -> None:
        await workflow.do("new", lives.step("new"))
        await workflow.do("first", lives.step("first"))
        await workflow.do("second", "one", 1)
        await workflow.sleep("nap", "1d")

    async def reordered(workflow: Workflow, lives: Lives) -> None:
        await workflow.do("second", "one", 1)
        await workflow.do("first", lives.step("first"))
        await workflow.sleep("nap", "1d")

    async def removed(workflow: Workflow, lives: Lives) -> None:
        await workflow.do("first", lives.step("first"))
        await workflow.sleep("nap", "1d")

    async def renamed(workflow: Workflow, lives: Lives) -> None:
        await workflow.do("First", lives.step("first"))

    async def other_target(workflow: Workflow, lives: Lives) -> None:
        await workflow.do("first", lives.step("first"))
        await workflow.do("second", "two", 1)

    async def other_kind(workflow: Workflow, lives: Lives) -> None:
        await workflow.do("first", lives.step("first"))
        await workflow.do("second", lives.step("second"))

    async def returns_early(workflow: Workflow, lives: Lives) -> str:
        await workflow.do("first", lives.step("first"))
        return "early"

    async def raises_early(workflow: Workflow, lives: Lives) -> None:
        raise ValueError

    async def cancels_early(workflow: Workflow, lives: Lives) -> None:
        await workflow.do("first", lives.step("first"))
        workflow.cancel("early")

    async def waits(workflow: Workflow, lives: Lives) -> None:
        await workflow.do("first", lives.step("first"))
        await asyncio.Event().wait()

    async def swallows(workflow: Workflow, lives: Lives) -> str:
        try:
            await workflow.do("other", lives.step("other"))
        except BaseException:
            await workflow.do("instead", lives.step("instead"))
        return "swallowed"

    async def misses_what_is_under_way(workflow: Workflow, lives: Lives) -> str:
        await workflow.do("first", lives.step("first"))
        await workflow.do("second", "one", 1)
        return "done"

    return dict(locals())


@pytest.mark.parametrize("change", _changes())
async def test_code_that_asks_for_other_steps_parks_the_run(change: str, db: Path) -> None:
    """C107, C110, C111: suspended, nothing executed, the reason shows both; mended, it goes on by itself (C108)."""
    lives = Lives(db)
    await _recorded(lives)

    async def changed(workflow: Workflow) -> Any:
        return await _changes()[change](workflow, lives)

    for _ in range(2):
        run, _ = await lives.live(changed, then="3d")
        assert (run.status, run.error, run.output, run.ended_at) == ("suspended", None, None, None)
        assert run.reason is not None
        assert run.reason.startswith("ReplayMismatch")
        assert "recorded '" in run.reason
        assert lives.effects == []

    async def mended(workflow: Workflow) -> str:
        await workflow.do("first", lives.step("first"))
        await workflow.do("second", "one", 1)
        await workflow.sleep("nap", "1d")
        return "done"

    run, steps = await lives.live(mended)
    assert (run.status, run.output, run.reason) == ("completed", "done", None)
    assert [step.name for step in steps] == ["first", "second", "nap"]
    assert lives.effects == []


async def test_the_reason_names_recorded_and_asked_with_kind_and_target(db: Path) -> None:
    """C107: so that one sees what to mend."""
    lives = Lives(db)
    await _recorded(lives)

    async def changed(workflow: Workflow) -> None:
        await workflow.do("first", lives.step("first"))
        await workflow.do("2nd", "two", 1)

    run, _ = await lives.live(changed)

    for part in ("'second'", "'2nd'", "function", "one", "two"):
        assert part in str(run.reason)


async def test_a_resume_goes_on_at_once_after_the_mend(db: Path) -> None:
    """C108, C109: while the engine is open; without a mend the run is parked again."""
    lives = Lives(db)
    await _recorded(lives)
    names = ["other"]

    async def body(workflow: Workflow) -> str:
        await workflow.do(names[-1], lives.step("first"))
        await workflow.do("second", "one", 1)
        await workflow.sleep("nap", "1d")
        return "done"

    pikku = Pikku()
    pikku.workflow(name="flow")(body)
    pikku.function(name="one")(lives.function("one"))
    async with pikku.open(db, clock=lives.clock) as engine:
        waiting = asyncio.ensure_future((await engine.handle("r")).result())
        await engine.resume("r")
        assert (await engine.get_run("r")).status == "suspended"
        assert not waiting.done()
        names.append("first")
        await engine.resume("r")
        assert (await engine.get_run("r")).status == "running"
        await lives.clock.advance("2d")
        assert await waiting == "done"


async def test_data_options_and_durations_may_change(db: Path) -> None:
    """C112: compared are kind, name and target; the deadline on record stays."""
    lives = Lives(db)
    await _recorded(lives)

    async def changed(workflow: Workflow) -> str:
        await workflow.do("first", lambda: "another lambda", retries=9, timeout="1h")
        await workflow.do("second", "one", {"other": "data"}, result_type=str)
        await workflow.sleep("nap", "99d")
        return "done"

    run, _ = await lives.live(changed, then="1d")

    assert (run.status, run.output, lives.effects) == ("completed", "done", [])


async def test_steps_added_at_the_end_are_executed(db: Path) -> None:
    """Changed code: by a run in flight."""
    lives = Lives(db)
    await _recorded(lives)

    async def longer(workflow: Workflow) -> str:
        await workflow.do("first", lives.step("first"))
        await workflow.do("second", "one", 1)
        await workflow.sleep("nap", "1d")
        return await workflow.do("third", "two", 1)

    run, _ = await lives.live(longer, then="1d")

    assert (run.output, lives.effects) == ("two", ["two"])


async def test_a_parked_run_s_retry_is_not_dispatched(db: Path) -> None:
    """C110: a replay goes to the end of the records before any step, timer or retry is dispatched."""
    lives = Lives(db)

    def flaky() -> None:
        lives.effects.append("flaky")
        raise OSError

    def body(last: str) -> Body:
        async def flow(workflow: Workflow) -> None:
            await asyncio.gather(
                workflow.do("flaky", flaky, retries=5, retry_delay="1d"),
                workflow.sleep(last, "9d"),
                return_exceptions=True,
            )

        return flow

    await lives.live(body("nap"))
    run, _ = await lives.live(body("other"), then="5d")
    assert run.status == "suspended"
    assert lives.effects == ["flaky"]
    run, _ = await lives.live(body("nap"), then="0s")
    assert run.status == "running"
    assert lives.effects == ["flaky", "flaky"]


async def test_a_run_without_its_workflow_is_parked_and_goes_on(db: Path) -> None:
    """C113: the reason names the workflow; timers are kept; the next open that has it goes on."""
    lives = Lives(db)
    await _recorded(lives)
    for _ in range(2):
        async with Pikku().open(db, clock=lives.clock) as engine:
            await lives.clock.advance("2d")
            run = await engine.get_run("r")
            assert run.status == "suspended"
            assert "'flow'" in str(run.reason)
            assert [step.name for step in await engine.steps("r")] == ["first", "second", "nap"]
            await engine.resume("r")
            assert (await engine.get_run("r")).status == "suspended"

    async def body(workflow: Workflow) -> str:
        await workflow.do("first", lives.step("first"))
        await workflow.do("second", "one", 1)
        await workflow.sleep("nap", "1d")
        return "done"

    run, _ = await lives.live(body, then="0s")
    assert (run.status, run.output) == ("completed", "done")


async def test_a_replay_does_not_need_the_function(db: Path) -> None:
    """C114: only a step that has to run does; a recorded step whose function is gone is replayed."""
    lives = Lives(db)
    await _recorded(lives)
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        await workflow.do("first", lives.step("first"))
        value = await workflow.do("second", "one", 1)
        await workflow.sleep("nap", "1d")
        return str(value)

    async with pikku.open(db, clock=lives.clock) as engine:
        await lives.clock.advance("2d")
        run = await engine.get_run("r")

    assert (run.status, run.output) == ("completed", "one")


async def test_a_value_that_no_longer_decodes_parks_the_run(db: Path) -> None:
    """C79: naming step, type and path; it never fails for that, and goes on after the mend."""
    lives = Lives(db)
    old = msgspec.defstruct("Order", [("id", str)])
    new = msgspec.defstruct("Order", [("id", str), ("amount", int)])

    def body(kind: Any) -> Body:
        async def flow(workflow: Workflow) -> str:
            await workflow.do("order", lambda: {"id": "o"}, result_type=kind)
            await workflow.sleep("nap", "1d")
            return "done"

        return flow

    await lives.live(body(old))
    run, _ = await lives.live(body(new), then="2d")
    assert run.status == "suspended"
    for part in ("'order'", "Order", "amount", "$"):
        assert part in str(run.reason)
    run, _ = await lives.live(body(old), then="0s")
    assert (run.status, run.output) == ("completed", "done")


async def test_a_failed_step_that_was_caught_is_caught_again(db: Path) -> None:
    """Errors: replay takes the same path, and the code may go on from there."""
    lives = Lives(db)

    def body(more: bool) -> Body:
        async def flow(workflow: Workflow) -> str:
            try:
                await workflow.do("bad", lambda: 1 / 0)
            except StepFailed as failed:
                seen.append((failed.step_name, failed.attempts, failed.error_type, failed.message, failed.traceback))
            await workflow.sleep("nap", "1d")
            return await workflow.do("more", lives.step("more")) if more else ""

        return flow

    seen: list[Any] = []
    await lives.live(body(False))
    run, _ = await lives.live(body(True), then="1d")

    assert run.output == "more"
    assert seen[0] == seen[1]


async def test_a_run_that_is_parked_while_it_works_goes_on_in_order(db: Path) -> None:
    """C79, promise 2: what was under way is stopped, begins again under its number, and nothing is counted twice."""

    class Picky(msgspec.Struct):
        id: str

        def __post_init__(self) -> None:
            made.append(self.id)
            if bad and len(made) >= 3:
                raise ValueError("not any more")

    made: list[str] = []
    bad = [True]
    numbers: list[int] = []
    gate = asyncio.Event()
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        async def slow() -> str:
            step = current_step()
            assert step is not None
            numbers.append(step.attempt_count)
            await gate.wait()
            if len(numbers) == 2:
                raise OSError
            return "done"

        sibling = workflow.do("slow", slow, retries=1)
        await workflow.do("picky", lambda: {"id": "o"}, result_type=Picky)
        return await sibling

    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        handle = await engine.start(flow, run_id="r")
        await clock.advance(0)
        if await handle.status() == "suspended":  # at which construction it comes to light is not promised
            bad.clear()
            await engine.resume("r")
            await clock.advance(0)
        gate.set()
        await clock.advance(0)
        assert await handle.result(timeout=0) == "done"
        history = [(a.step_name, a.attempt, str(a.status)) for a in await engine.history("r")]

    assert numbers == [1, 1, 2]
    assert [one for one in history if one[0] == "slow"] == [("slow", 1, "failed"), ("slow", 2, "succeeded")]
