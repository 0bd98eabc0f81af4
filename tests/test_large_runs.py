"""Runs of very many steps: what must not take longer with each of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from pikkupy import Pikku, RunFailed, StepContext, StreamFull, Workflow, current_step
from pikkupy.core.commands import Commands, Policy, StepCall
from pikkupy.core.model import StepKind
from pikkupy.engine.active import SPARE
from pikkupy.engine.cut_offs import in_flight
from pikkupy.engine.host import BEGINS_AT_ONCE
from pikkupy.testing import VirtualClock
from tests.store.samples import NOW


class Searched(list[int]):
    """A list that counts how often it is searched."""

    searches = 0

    def __contains__(self, position: object) -> bool:
        self.searches += 1
        return super().__contains__(position)


def test_what_a_crash_cut_off_is_found_in_one_pass() -> None:
    """However many steps nobody waits for any more."""
    policy = Policy(max_delay_us=0)
    calls = [StepCall(position=n, name=f"s{n}", kind=StepKind.INLINE, policy=policy) for n in range(10)]
    stopped = Searched(range(5))

    assert [call.position for call in in_flight(Commands(calls, stopped), {}, NOW)] == [5, 6, 7, 8, 9]
    assert stopped.searches == 0


async def test_ten_thousand_steps_at_once(db: Path) -> None:
    """In one `gather`, live and on replay."""
    pikku, bodies = Pikku(), list[int]()

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        numbers = await asyncio.gather(*(workflow.do("step", partial(step, number)) for number in range(10_000)))
        await workflow.wait_for_signal("go")
        return sum(numbers)

    def step(number: int) -> int:
        bodies.append(number)
        return number

    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        run = await engine.start(flow, run_id="r")
        while len(bodies) < 10_000:
            await asyncio.sleep(0)
        await clock.advance(0)
    async with pikku.open(db, clock=clock) as engine:
        await engine.signal("r", "go")
        run = await engine.handle("r")

        assert await run.result() == sum(range(10_000))
    assert bodies == list(range(10_000))


async def test_a_run_with_one_step_is_served_beside_one_with_very_many() -> None:
    """F55, I-38: at its first turn, and not after all of them."""
    pikku, gate, order = Pikku(), asyncio.Event(), list[str]()

    async def body(name: str) -> None:
        await gate.wait()
        order.append(name)

    @pikku.workflow
    async def greedy(workflow: Workflow) -> None:
        await asyncio.gather(*(workflow.do("step", partial(body, "many")) for _ in range(2_000)))

    @pikku.workflow
    async def modest(workflow: Workflow) -> None:
        await workflow.do("step", partial(body, "one"))

    async with pikku.open(":memory:", async_workers=10) as engine:
        runs = []
        for workflow, waiting in ((greedy, 1_990), (modest, 1_991)):
            runs.append(await engine.start(workflow))
            while (await engine.load()).workers["async"].waiting < waiting:
                await asyncio.sleep(0)
        gate.set()
        for run in runs:
            await run.result(timeout="30s")

    assert order.index("one") < 20
    assert len(order) == 2_001


@pytest.mark.parametrize("how", ["outcome", "cancelled", "timer", "retry"])
async def test_the_last_change_of_a_run_of_many_steps_is_exact_and_not_looked_for_among_all(
    how: str, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the step that was reached first ends last; in memory, after a new start, and in the file."""
    pikku, clock = Pikku(), VirtualClock()

    async def first(workflow: Workflow) -> None:
        if how == "timer":
            await asyncio.sleep(3_600)
        elif how == "retry":
            await workflow.do("first", lambda: 1 / 0, retries=9, retry_delay="1h")
        else:
            await workflow.wait_for_signal("first")

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        begun = asyncio.ensure_future(first(workflow))
        rest = [workflow.wait_for_signal(f"s{number}") for number in range(200)]
        if how == "cancelled":
            await asyncio.sleep(3_600)
            begun.cancel()
        await asyncio.gather(begun, *rest, return_exceptions=True)

    async with pikku.open(db, clock=clock) as engine:
        await engine.start(flow, run_id="r")
        assert (await engine.get_run("r")).updated_at == clock.now()
        changed = clock.now() + timedelta(hours=1)
        await clock.advance("1h")
        if how == "outcome":
            await engine.signal("r", "first")
        await engine.start(flow, run_id="other")
        await clock.advance("10min")
        assert engine._parts is not None
        journal = engine._parts.host.journal

        async def never(numbers: list[int]) -> dict[int, int]:
            raise AssertionError(numbers)

        with monkeypatch.context() as patched:
            patched.setattr(journal, "last_change", never)
            assert (await engine.get_run("r")).updated_at == changed
            assert [run.updated_at for run in (await engine.list_runs()).runs][1] == changed
            patched.setattr(journal, "recent_change", never)
            assert await (await engine.handle("r")).status() == "running"
    for settings in ({}, {"resident_runs": 0, "unload_after": 0}):
        async with pikku.open(db, clock=clock, **settings) as engine:  # type: ignore[arg-type]
            assert (await engine.get_run("r")).updated_at == changed


async def test_a_step_for_which_the_file_has_no_place_is_not_begun(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run fails before it, and says why; 67 million steps are made three here."""
    pikku, bodies = Pikku(), list[int]()
    monkeypatch.setattr("pikkupy.execution.execution.MAX_OWN", 2)

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        for number in range(4):
            await workflow.do("step", partial(bodies.append, number))

    async with pikku.open(db) as engine:
        with pytest.raises(RunFailed, match="'r' has reached 3 steps: it can have no more; go on in a new run"):
            await engine.run(flow, run_id="r")

    assert bodies == [0, 1, 2]


async def test_an_attempt_for_which_the_history_has_no_place_is_not_begun(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is tried again without end ends the run before one has an effect of which nothing could be kept."""
    pikku = Pikku()
    monkeypatch.setattr("pikkupy.engine.active.MAX_OWN", SPARE + 3)

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("step", lambda: 1 / 0, retries=1_000, retry_delay="1s")

    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        run = await engine.start(flow, run_id="r")
        for _ in range(9):
            await clock.advance("1s")
        with pytest.raises(RunFailed, match="4 outcomes, attempts and signals are in its history: it can have no more"):
            await run.result()
        [step] = await engine.steps("r")

    assert step.attempts == 4


async def test_a_chunk_for_which_the_stream_has_no_place_is_refused(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is emitted; what was emitted before stays."""
    pikku, refused = Pikku(), list[str]()
    monkeypatch.setattr("pikkupy.engine.outlet.MAX_OWN", 2)

    def emits(step: StepContext) -> None:
        for number in range(4):
            try:
                step.emit(number)
            except StreamFull as full:
                refused.append(str(full))

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("step", lambda: emits(current_step()))

    async with pikku.open(db) as engine:
        await engine.run(flow, run_id="r")

        assert [chunk.value async for chunk in engine.stream("r")] == [0, 1, 2]
    assert refused == ["run 'r' has emitted 3 chunks: it can have no more; go on in a new run"]


async def test_others_have_their_turn_while_a_run_begins_very_many_steps(db: Path) -> None:
    """F55, I-38: it begins some of them in each turn of the loop, in the order of its calls."""
    pikku, turns, begun = Pikku(), 0, list[tuple[int, int]]()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await asyncio.gather(*(workflow.do("step", partial(step, number)) for number in range(1_001)))

    def step(number: int) -> None:
        begun.append((number, turns))

    async def neighbour() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with pikku.open(db) as engine:
        beside = asyncio.ensure_future(neighbour())
        await engine.run(flow)
        beside.cancel()

    assert [number for number, _ in begun] == list(range(1_001))
    per_turn = Counter(turn for _, turn in begun)
    assert max(per_turn.values()) == BEGINS_AT_ONCE
    assert len(per_turn) == 5


async def test_steps_that_have_not_begun_in_the_first_turn_can_be_given_up(db: Path) -> None:
    """By their run, by a cancel and by leaving the engine: they do not begin then, and count as every other step."""
    pikku, begun = Pikku(), list[str]()

    @pikku.workflow
    async def flow(workflow: Workflow, data: str) -> None:
        steps = [workflow.do(f"{data} {number}", lambda: begun.append(data)) for number in range(1_000)]
        if data == "given up":
            for one in steps[500:]:
                one.cancel()
        await workflow.do("more", lambda: None)
        await asyncio.gather(*steps, return_exceptions=True)

    async with pikku.open(db) as engine:
        await engine.run(flow, "given up")
        assert begun.count("given up") == 500
        cancelled = await engine.start(flow, "cancelled")
        while not begun.count("cancelled"):
            await asyncio.sleep(0)
        await cancelled.cancel("enough")
        left = await engine.start(flow, "left")
        while not begun.count("left"):
            await asyncio.sleep(0)
    assert 0 < begun.count("cancelled") < 1_000
    assert 0 < begun.count("left") < 1_000
    async with pikku.open(db) as engine:
        assert {step.status for step in await engine.steps(cancelled.id)} == {"succeeded", "cancelled"}
        await (await engine.handle(left.id)).result()
    assert begun.count("left") == 1_000
