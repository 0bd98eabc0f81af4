"""Signals, gates and approvals: what only people bring. Each with the run that waits in memory, and in the file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pikkupy import (
    Decided,
    Engine,
    Expired,
    PayloadError,
    Pikku,
    RunFailed,
    RunNotFound,
    RunStateError,
    SignalTimeout,
    Workflow,
)
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH

each_way = pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])


class Payment(msgspec.Struct):
    amount: int
    currency: str = "EUR"


@asynccontextmanager
async def opened(
    body: Any, settings: dict[str, Any], path: Path | str = ":memory:", clock: VirtualClock | None = None
) -> AsyncIterator[tuple[Engine, VirtualClock]]:
    """An engine whose workflow `flow` has that body, with the run `r` started and at rest."""
    pikku = Pikku()
    pikku.workflow(name="flow")(body)
    clock = VirtualClock() if clock is None else clock
    async with pikku.open(path, clock=clock, **settings) as engine:
        await engine.start("flow", run_id="r")
        await clock.advance(0)
        yield engine, clock


async def steps_of(engine: Engine) -> list[tuple[str, str, str]]:
    return [(step.name, str(step.kind), str(step.status)) for step in await engine.steps("r")]


async def result(engine: Engine) -> Any:
    return await (await engine.handle("r")).result(timeout="10s")


@each_way
async def test_a_signal_is_taken_by_the_wait_and_typed(settings: dict[str, Any]) -> None:
    """The payload comes as the type that the wait names, in its JSON form or as the type (C84); C47 for the step."""

    async def body(workflow: Workflow) -> list[object]:
        first = await workflow.wait_for_signal("paid", Payment)
        return [first, await workflow.wait_for_signal("paid", Payment), await workflow.wait_for_signal("any")]

    async with opened(body, settings) as (engine, clock):
        assert await steps_of(engine) == [("paid", "signal", "pending")]
        await engine.signal("r", "paid", {"amount": 5})
        await clock.advance(0)
        assert await steps_of(engine) == [("paid", "signal", "succeeded"), ("paid#1", "signal", "pending")]
        await (await engine.handle("r")).signal("paid", Payment(6, "USD"))
        await engine.signal("r", "any")
        assert await result(engine) == [Payment(5), Payment(6, "USD"), None]
        steps = await engine.steps("r")
        assert [step.output for step in steps] == [Payment(5), Payment(6, "USD"), None]
        assert [step.attempts for step in steps] == [0, 0, 0]
        assert await engine.history("r") == []


@each_way
async def test_signals_that_come_early_are_kept_in_order_and_taken_once(settings: dict[str, Any], db: Path) -> None:
    """Also over a restart; a signal of another name stays."""

    async def body(workflow: Workflow) -> list[object]:
        await workflow.sleep("first", "1h")
        return [await workflow.wait_for_signal("go") for _ in range(3)]

    clock = VirtualClock()
    async with opened(body, settings, db, clock) as (engine, _):
        for number in range(2):
            await engine.signal("r", "go", number)
        await engine.signal("r", "other", "kept")
    async with opened(body, settings, db, clock) as (engine, _):
        await clock.advance("1h")
        await clock.advance("1h")
        assert [status for *_, status in await steps_of(engine)] == ["succeeded", "succeeded", "succeeded", "pending"]
        await engine.signal("r", "go", 2)
        assert await result(engine) == [0, 1, 2]


@each_way
async def test_a_wait_times_out_and_a_late_signal_is_for_the_next(settings: dict[str, Any]) -> None:
    """C45, C47: `SignalTimeout`, also when it is replayed; the step has failed."""
    seen: list[str] = []

    async def body(workflow: Workflow) -> object:
        try:
            await workflow.wait_for_signal("go", int, timeout="1h")
        except SignalTimeout as late:
            seen.append(f"{type(late).__name__}: {late}")
        await workflow.sleep("later", "1d")
        return await workflow.wait_for_signal("go", int)

    async with opened(body, settings) as (engine, clock):
        assert await steps_of(engine) == [("go", "signal", "scheduled")]
        await clock.advance("59min")
        assert await steps_of(engine) == [("go", "signal", "scheduled")]
        await clock.advance("1min")
        assert (await steps_of(engine))[0] == ("go", "signal", "failed")
        await engine.signal("r", "go", 7)
        await clock.advance("1d")
        assert await result(engine) == 7
        step = (await engine.steps("r"))[0]

    assert set(seen) == {"SignalTimeout: no signal 'go' came within 3600 s"}
    assert step.error is not None
    assert step.error.type == "pikkupy.errors.SignalTimeout"


@each_way
async def test_a_payload_that_does_not_fit_is_used_up(settings: dict[str, Any]) -> None:
    """C44: the wait raises `PayloadError`, which can be caught; the next signal is another one."""

    async def body(workflow: Workflow) -> object:
        try:
            return await workflow.wait_for_signal("paid", Payment)
        except PayloadError as unfit:
            return [str(unfit), await workflow.wait_for_signal("paid", Payment)]

    async with opened(body, settings) as (engine, _):
        await engine.signal("r", "paid", {"amount": "five"})
        await engine.signal("r", "paid", {"amount": 5})
        message, paid = await result(engine)
    assert "$.amount" in message
    assert paid == Payment(5)


@each_way
async def test_a_run_that_such_a_payload_has_failed_waits_for_another_signal_once_it_is_retried(
    settings: dict[str, Any],
) -> None:
    """It is the failed step that goes on, as a step of any other kind does."""

    async def body(workflow: Workflow) -> object:
        return await workflow.wait_for_signal("paid", Payment)

    async with opened(body, settings) as (engine, clock):
        await engine.signal("r", "paid", None)
        with pytest.raises(RunFailed, match="PayloadError: payload of signal 'paid'"):
            await result(engine)
        await engine.retry("r")
        await clock.advance(0)
        waits = await engine.get_run("r")
        await engine.signal("r", "paid", {"amount": 5})
        assert await result(engine) == Payment(5)
    assert waits.status == "running"


@each_way
async def test_the_first_wait_is_the_first_served(settings: dict[str, Any]) -> None:
    """C46."""

    async def body(workflow: Workflow) -> list[object]:
        return list(await asyncio.gather(*(workflow.wait_for_signal("go") for _ in range(3))))

    async with opened(body, settings) as (engine, _):
        await asyncio.gather(*(engine.signal("r", "go", number) for number in range(3)))
        assert await result(engine) == [0, 1, 2]


@each_way
async def test_a_branch_that_waits_for_a_signal_can_be_cancelled(settings: dict[str, Any]) -> None:
    """C34: the step is cancelled, and the signal is for the next wait."""

    async def body(workflow: Workflow) -> object:
        try:
            async with asyncio.timeout(3600):
                await workflow.wait_for_signal("go")
        except TimeoutError:
            pass
        await workflow.sleep("pause", "1h")
        return await workflow.wait_for_signal("go")

    async with opened(body, settings) as (engine, clock):
        await clock.advance("1h")
        assert (await steps_of(engine))[0] == ("go", "signal", "cancelled")
        await engine.signal("r", "go", 1)
        await clock.advance("1h")
        assert await result(engine) == 1


@pytest.mark.parametrize("name", ["", "a#1", "x\n", 5, None])
async def test_bad_names_of_signals_are_refused_in_the_call(name: Any) -> None:
    """C106: TypeError or ValueError, at both ends, before anything happens."""

    async def body(workflow: Workflow) -> str:
        with pytest.raises((TypeError, ValueError), match="run 'r'"):
            workflow.wait_for_signal(name)
        with pytest.raises((TypeError, ValueError), match="run 'r'"):
            workflow.approval(name)
        with pytest.raises((TypeError, ValueError), match="run 'r'"):
            workflow.suspend(name)
        return "done"

    async with opened(body, {}) as (engine, _):
        with pytest.raises((TypeError, ValueError)):
            await engine.signal("r", name)
        assert await result(engine) == "done"


async def test_a_signal_to_no_run_or_an_ended_one_is_an_error() -> None:
    """C130: RunNotFound, and RunStateError naming both."""

    async def body(workflow: Workflow) -> None: ...

    async with opened(body, {}) as (engine, _):
        await result(engine)
        with pytest.raises(RunStateError, match=r"'r'.*completed"):
            await engine.signal("r", "go")
        with pytest.raises(RunNotFound, match="'nobody'"):
            await engine.signal("nobody", "go")
        with pytest.raises(PayloadError):
            await engine.signal("r", "go", lambda: 1)


# Gates


@each_way
async def test_a_gate_opens_by_resume_alone(settings: dict[str, Any], db: Path) -> None:
    """The status is `suspended` with the reason, also after a restart; neither a signal nor time opens it (C43)."""

    async def body(workflow: Workflow) -> str:
        await workflow.suspend("look at it")
        return str(await workflow.wait_for_signal("go"))

    clock = VirtualClock()
    async with opened(body, settings, db, clock) as (engine, _):
        found = await engine.get_run("r")
        assert (found.status, found.reason) == ("suspended", "look at it")
        assert await steps_of(engine) == [("look at it", "suspend", "pending")]
    async with opened(body, settings, db, clock) as (engine, _):
        await engine.signal("r", "go", "gone")
        await clock.advance("30d")
        found = await engine.get_run("r")
        assert (found.status, found.reason) == ("suspended", "look at it")
        await engine.resume("r")
        assert await result(engine) == "gone"
        found = await engine.get_run("r")
        assert (found.status, found.reason) == ("completed", None)
        with pytest.raises(RunStateError, match=r"'r'.*completed"):
            await engine.resume("r")


@each_way
async def test_each_suspend_is_a_gate_of_its_own(settings: dict[str, Any]) -> None:
    """C5, C42: the same reason again is another gate; a second resume does not open the next in advance."""

    async def body(workflow: Workflow) -> str:
        await workflow.suspend("check")
        await workflow.sleep("between", "1h")
        await workflow.suspend("check")
        return "through"

    async with opened(body, settings) as (engine, clock):
        await engine.resume("r")
        assert (await engine.get_run("r")).status == "running"
        assert (await engine.get_run("r")).reason is None
        with pytest.raises(RunStateError, match=r"'r'.*running"):
            await engine.resume("r")
        await clock.advance("1h")
        assert (await engine.get_run("r")).status == "suspended"
        assert (await steps_of(engine))[2] == ("check#1", "suspend", "pending")
        await engine.resume("r")
        assert await result(engine) == "through"


@each_way
async def test_of_two_resumes_at_once_the_second_does_not_open_the_next_gate(settings: dict[str, Any]) -> None:
    """C42: nobody has seen it."""

    async def body(workflow: Workflow) -> str:
        for _ in range(3):
            await workflow.suspend("check")
        return "through"

    async with opened(body, settings) as (engine, clock):
        await clock.advance(0)
        for _ in range(2):
            told = await asyncio.gather(*(engine.resume("r") for _ in range(3)), return_exceptions=True)
            assert [type(one) for one in told] == [type(None), RunStateError, RunStateError]
            await clock.advance(0)
            assert (await engine.get_run("r")).status == "suspended"
        assert [status for *_, status in await steps_of(engine)] == ["succeeded", "succeeded", "pending"]
        await engine.resume("r")
        assert await result(engine) == "through"


@each_way
async def test_one_resume_opens_all_gates_that_are_shut(settings: dict[str, Any]) -> None:
    """C41: siblings go on meanwhile; the run is suspended as long as a gate is shut."""

    async def body(workflow: Workflow) -> list[object]:
        async def branch(reason: str) -> str:
            await workflow.suspend(reason)
            return reason

        async def sibling() -> str:
            await workflow.sleep("nap", "1h")
            return str(await workflow.do("work", lambda: "worked"))

        return list(await asyncio.gather(branch("one"), branch("two"), sibling()))

    async with opened(body, settings) as (engine, clock):
        found = await engine.get_run("r")
        assert (found.status, found.reason) == ("suspended", "one; two")
        await clock.advance("1h")
        assert (await steps_of(engine))[3] == ("work", "inline", "succeeded")
        assert (await engine.get_run("r")).status == "suspended"
        await engine.resume("r")
        assert await result(engine) == ["one", "two", "worked"]


@each_way
async def test_a_gate_that_nobody_waits_for_any_more_holds_nothing(settings: dict[str, Any]) -> None:
    """C34: its branch was cancelled, so the run is running again; and a run may end beside a gate."""

    async def body(workflow: Workflow) -> str:
        try:
            async with asyncio.timeout(3600):
                await workflow.suspend("gate")
        except TimeoutError:
            pass
        await workflow.sleep("nap", "1h")
        workflow.suspend("left behind")
        await workflow.sleep("nap", "1h")
        return "ended"

    async with opened(body, settings) as (engine, clock):
        await clock.advance("1h")
        found = await engine.get_run("r")
        assert (found.status, found.reason) == ("running", None)
        await clock.advance("1h")
        assert (await engine.get_run("r")).status == "suspended"
        await clock.advance("1h")
        assert await result(engine) == "ended"
        assert [status for *_, status in await steps_of(engine)] == ["cancelled", "succeeded", "cancelled", "succeeded"]


@each_way
async def test_a_suspended_run_can_be_cancelled_and_is_waited_for(settings: dict[str, Any]) -> None:
    """`result` of a suspended run waits."""

    async def body(workflow: Workflow) -> None:
        await workflow.suspend("gate")

    async with opened(body, settings) as (engine, _):
        handle = await engine.handle("r")
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0)
        await engine.cancel("r", "no more")
        found = await engine.get_run("r")
        assert (found.status, found.reason) == ("cancelled", "no more")


async def test_suspend_cannot_be_swallowed() -> None:
    """It is no exception, so nothing catches it."""

    async def body(workflow: Workflow) -> str:
        try:
            await workflow.suspend("gate")
        except BaseException:
            return "swallowed"
        return "resumed"

    async with opened(body, {}) as (engine, _):
        assert (await engine.get_run("r")).status == "suspended"
        await engine.resume("r")
        assert await result(engine) == "resumed"


# Approvals


async def approving(workflow: Workflow) -> list[object]:
    answer = await workflow.approval("refund", Payment, timeout="1d")
    match answer:
        case Decided(decision, decided_by):
            return [decision.amount, decided_by, answer.decided]
        case Expired():
            return ["expired", answer.decided]


@each_way
async def test_a_decision_is_checked_before_it_is_accepted(settings: dict[str, Any]) -> None:
    """What does not fit is refused to its sender, with the path, and the gate stays shut; what fits is typed."""
    async with opened(approving, settings) as (engine, _):
        assert await steps_of(engine) == [("refund", "signal", "scheduled")]
        with pytest.raises(PayloadError, match=r"'r': \$\.amount: "):
            await engine.approve("r", "refund", {"amount": "much"}, decided_by="eve")
        with pytest.raises(PayloadError, match=r"'r': \$\.amount: "):
            await engine.signal("r", "refund", {"decision": {"amount": "much"}})
        with pytest.raises(PayloadError, match=r"^decided_by of decision 'refund' for run 'r': \$: "):
            await engine.signal("r", "refund", {"decision": {"amount": 1}, "decided_by": 5})
        assert await steps_of(engine) == [("refund", "signal", "scheduled")]
        await engine.approve("r", "refund", Payment(5), decided_by="ada")
        assert await result(engine) == [5, "ada", True]


@each_way
async def test_a_signal_can_carry_the_decision(settings: dict[str, Any]) -> None:
    """With who has decided, or as it is."""
    for payload, by in (({"decision": {"amount": 7}, "decided_by": "bob"}, "bob"), ({"amount": 7}, None)):
        async with opened(approving, settings) as (engine, _):
            await (await engine.handle("r")).signal("refund", payload)
            assert await result(engine) == [7, by, True]


@each_way
async def test_a_late_decision_is_refused(settings: dict[str, Any]) -> None:
    """After the first one, and after the time; the run has its value either way."""

    async def body(workflow: Workflow) -> list[object]:
        value = await approving(workflow)
        await workflow.sleep("nap", "1h")
        return value

    for advance, expected in (("1min", [5, None, True]), ("1d", ["expired", False])):
        async with opened(body, settings) as (engine, clock):
            await clock.advance(advance)
            if advance == "1min":
                await engine.approve("r", "refund", Payment(5))
            for late in (engine.approve("r", "refund", Payment(6)), engine.signal("r", "refund", {"amount": 6})):
                with pytest.raises(RunStateError, match="made before"):
                    await late
            await clock.advance("1h")
            assert await result(engine) == expected


@each_way
@pytest.mark.parametrize("by", ["approve", "signal"])
async def test_a_decision_after_the_time_is_late_though_the_loop_was_blocked(by: str, settings: dict[str, Any]) -> None:
    """The deadline has passed, and its timer was not called yet: the time-out comes first, in memory as in the file."""
    async with opened(approving, settings) as (engine, clock):
        clock._now_us += 86_400_000_000
        late = engine.approve("r", "refund", Payment(6)) if by == "approve" else engine.signal("r", "refund", 6)
        with pytest.raises(RunStateError, match="has expired"):
            await late
        assert await result(engine) == ["expired", False]


@each_way
async def test_a_signal_after_the_time_is_for_the_next_though_the_loop_was_blocked(settings: dict[str, Any]) -> None:
    """The wait that is overdue times out; the next one in the queue takes it, or the next one of that name."""

    async def body(workflow: Workflow) -> list[object]:
        async def wait(timeout: str | None) -> object:
            try:
                return await workflow.wait_for_signal("go", int, timeout=timeout)
            except SignalTimeout:
                return "late"

        both = await asyncio.gather(wait("1h"), wait("3h"))
        return [*both, await wait("1h"), await wait(None)]

    async with opened(body, settings) as (engine, clock):
        clock._now_us += 2 * 3_600_000_000
        await engine.signal("r", "go", 1)
        await clock.advance(0)
        clock._now_us += 2 * 3_600_000_000
        await engine.signal("r", "go", 2)
        assert await result(engine) == ["late", 1, "late", 2]


async def test_a_signal_for_a_run_without_its_workflow_counts_by_when_it_was_sent(db: Path) -> None:
    """What came in time is taken, though the deadline is over when the run goes on; what came later is not."""

    async def body(workflow: Workflow) -> object:
        try:
            return await workflow.wait_for_signal("go", int, timeout="1h")
        except SignalTimeout:
            return "late", await workflow.wait_for_signal("go", int)

    for number, (after, expected) in enumerate([("59min", 7), ("1h", ("late", 7))]):
        path, clock = db.with_name(f"{number}.db"), VirtualClock()
        async with opened(body, {}, path, clock):
            pass
        async with Pikku().open(path, clock=clock) as engine:
            await clock.advance(after)
            await engine.signal("r", "go", 7)
        await clock.advance("1d")
        pikku = Pikku()
        pikku.workflow(name="flow")(body)
        async with pikku.open(path, clock=clock) as engine:
            assert await result(engine) == expected


async def test_a_late_signal_does_not_hide_one_in_time_after_the_clock_was_set_back(db: Path) -> None:
    """I-39: the oldest that came in time is taken, whatever came before it too late."""
    start, pikku = datetime(2026, 1, 5, 12, tzinfo=UTC), Pikku()

    @pikku.workflow(name="flow")
    async def flow(workflow: Workflow) -> Any:
        return await workflow.wait_for_signal("go", timeout="1min")

    async with pikku.open(db, clock=VirtualClock(start)) as engine:
        await engine.start(flow, run_id="r")
    late, back = VirtualClock(start + timedelta(minutes=5)), VirtualClock(start - timedelta(hours=1))
    for clock, payload in ((late, "late"), (back, "in time")):
        async with Pikku().open(db, clock=clock) as engine:
            await engine.signal("r", "go", payload)
    async with pikku.open(db, clock=back) as engine:
        await back.advance(0)
        assert (await engine.get_run("r")).output == "in time"


@each_way
async def test_a_decision_before_it_is_asked_for(settings: dict[str, Any]) -> None:
    """`approve` is refused, for there is no type to check it by; a signal is kept, and counts only if it fits."""

    async def body(workflow: Workflow) -> list[object]:
        await workflow.sleep("nap", "1h")
        return await approving(workflow)

    async with opened(body, settings) as (engine, clock):
        with pytest.raises(RunStateError, match="not asked for"):
            await engine.approve("r", "refund", Payment(1))
        await engine.signal("r", "refund", "nonsense")
        await engine.signal("r", "refund", {"amount": 3})
        await clock.advance("1h")
        assert await result(engine) == [3, None, True]


async def test_a_plain_wait_of_the_same_name_comes_before_a_decision() -> None:
    """Who decides is told so, and not that the run waits for that decision; then the signal, and the decision."""

    async def body(workflow: Workflow) -> list[Any]:
        return await asyncio.gather(workflow.wait_for_signal("go", int), workflow.approval("go", bool))

    async with opened(body, {}) as (engine, _):
        with pytest.raises(RunStateError, match=r"run 'r' waits for a signal 'go' first.*wait_for_signal"):
            await engine.approve("r", "go", True)
        await engine.signal("r", "go", 5)
        await engine.approve("r", "go", True)
        assert await result(engine) == [5, Decided(True)]


async def test_who_has_decided_is_a_text() -> None:
    """TypeError in the call."""
    async with opened(approving, {}) as (engine, _):
        with pytest.raises(TypeError, match="decided_by"):
            await engine.approve("r", "refund", Payment(1), decided_by=5)  # type: ignore[arg-type]


async def test_a_timeout_that_leaves_the_workflow_fails_the_run() -> None:
    """With its own type and message."""

    async def body(workflow: Workflow) -> None:
        await workflow.wait_for_signal("go", timeout=5)

    async with opened(body, {}) as (engine, clock):
        await clock.advance(5)
        with pytest.raises(RunFailed, match=r"SignalTimeout: no signal 'go' came within 0.005 s"):
            await result(engine)


@each_way
async def test_the_context_of_who_brings_a_signal_is_not_the_run_s(settings: dict[str, Any]) -> None:
    """A run that comes back into memory goes on in the context of `open`: one request's variables stay its own."""
    asker: ContextVar[str] = ContextVar("asker", default="nobody")
    seen: list[str] = []

    async def body(workflow: Workflow) -> None:
        await workflow.wait_for_signal("go")
        await workflow.suspend("gate")
        seen.append(asker.get())
        await workflow.do("step", lambda: seen.append(asker.get()))

    async with opened(body, settings) as (engine, clock):

        async def asked_by(name: str, call: Callable[[], Awaitable[None]]) -> None:
            asker.set(name)
            await call()

        await asyncio.create_task(asked_by("ada", lambda: engine.signal("r", "go")))
        await clock.advance(0)
        await asyncio.create_task(asked_by("bob", lambda: engine.resume("r")))
        await result(engine)
    assert seen == ["nobody", "nobody"]


@each_way
async def test_what_a_run_waits_to_be_decided_can_be_asked_and_changes_nothing(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Not even that it is suspended, if other code would not fit it: that is for what wakes it."""

    async def waits(workflow: Workflow) -> Any:
        both = asyncio.gather(workflow.approval("pay", Payment), workflow.wait_for_signal("go"))
        await asyncio.wait([asyncio.ensure_future(workflow.approval("stopped", bool))], timeout=3600)
        return await both

    async def other(workflow: Workflow) -> None:
        await workflow.approval("other", bool)

    db, clock = tmp_path / "app.db", VirtualClock()
    async with opened(waits, settings, db, clock) as (engine, _):
        assert (await engine.approvals("r")).keys() == {"pay", "stopped"}
        schema = (await engine.approvals("r"))["pay"]
        assert "amount" in str(schema)
        await engine.start("flow", run_id="later", delay="1h")
        assert await engine.approvals("later") == {}
        await clock.advance("1h")
        assert (await engine.approvals("later")).keys() == {"pay", "stopped"}
        await engine.approve("r", "pay", Payment(1))
        assert (await engine.approvals("r")).keys() == {"stopped"}
        await engine.cancel("later", "enough")
        assert await engine.approvals("later") == {}
        with pytest.raises(RunNotFound):
            await engine.approvals("nobody")
    if settings:
        pikku = Pikku()
        pikku.workflow(name="flow")(other)
        async with pikku.open(db, clock=clock, **settings) as engine:
            assert await engine.approvals("r") == {}
            assert (await engine.get_run("r")).status == "running"


@each_way
async def test_which_signals_a_run_waits_for_can_be_asked(settings: dict[str, Any]) -> None:
    """With their types; of several waits for one name that which is served first. A decision is none."""

    async def body(workflow: Workflow) -> Any:
        paid = workflow.wait_for_signal("paid", Payment), workflow.wait_for_signal("paid", int)
        decided = workflow.approval("ok", bool), workflow.approval("ok", Payment)
        return await asyncio.gather(*paid, workflow.wait_for_signal("any"), *decided)

    async with opened(body, settings) as (engine, clock):
        await clock.advance(0)
        found = await engine.awaited_signals("r")
        assert found == {"paid": found["paid"], "any": {}} and "amount" in str(found["paid"])
        assert await engine.approvals("r") == {"ok": {"type": "boolean"}}
        await engine.signal("r", "paid", Payment(1))
        assert await engine.awaited_signals("r") == {"paid": {"type": "integer"}, "any": {}}
        await engine.cancel("r", "enough")
        assert await engine.awaited_signals("r") == {}
        with pytest.raises(RunNotFound):
            await engine.awaited_signals("nobody")


async def test_a_long_run_that_is_asked_what_it_waits_for_gives_way_to_others(tmp_path: Path) -> None:
    """It is replayed for that, and others on the loop have their turns meanwhile."""
    passed = 0

    async def waits(workflow: Workflow) -> Any:
        nonlocal passed
        for number in range(190):
            await workflow.do(f"step {number}", lambda: None)
            passed += 1
        return await workflow.approval("ok", bool)

    pikku = Pikku()
    pikku.workflow(name="flow")(waits)
    async with pikku.open(tmp_path / "app.db", durability="process", resident_runs=0, unload_after=0) as engine:
        run = await engine.start("flow", run_id="r")
        while "r" in engine._use().residents.active or passed < 190:
            await asyncio.sleep(0)
        passed, at_once = 0, list[int]()
        asked = asyncio.ensure_future(engine.approvals(run.id))
        while not asked.done():
            before = passed
            await asyncio.sleep(0)
            at_once.append(passed - before)

        assert await asked == {"ok": {"type": "boolean"}}
        assert passed == 190
        assert max(at_once) <= 100
