"""The page "Workflow Steps", sentence by sentence, in its order: each test quotes what it shows."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pikkupy import (
    Config,
    DurationError,
    Pikku,
    RunCancelled,
    RunFailed,
    Services,
    StepFailed,
    Workflow,
    current_step,
)
from pikkupy.testing import VirtualClock


class User(msgspec.Struct):
    email: str
    user_id: str


class Ledger:
    """What really happened outside the database."""

    def __init__(self) -> None:
        self.effects: list[str] = []

    def add(self, effect: str) -> str:
        self.effects.append(effect)
        return effect


class AppServices(Services):
    ledger: Ledger


def app(ledger: Ledger) -> AppServices:
    services = AppServices()
    services.ledger = ledger
    return services


Body = Callable[[Workflow], Awaitable[Any]]


async def run(db: Path | str, body: Body, *, pikku: Pikku | None = None, services: Any = None, data: Any = None) -> Any:
    """The result of a workflow with this body, on a clock that jumps."""
    pikku = pikku or Pikku()
    flow = pikku.workflow(name="flow")(body)
    async with pikku.open(db, services=services, clock=VirtualClock(autojump=True)) as engine:
        return await engine.run(flow)


# Workflow Steps


async def test_steps_are_cached_and_replayed(db: Path) -> None:
    """Quote: "Each step represents a unit of work that can be cached and replayed." """
    ledger = Ledger()
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        first = await workflow.do("unit", lambda: ledger.add("unit"))
        await workflow.sleep("pause", "5min")
        return first

    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(0)
    async with pikku.open(db, clock=clock) as engine:
        await clock.advance("5min")
        result = await (await engine.handle("r")).result()

    assert result == "unit"
    assert ledger.effects == ["unit"]


async def test_there_are_three_types_of_steps() -> None:
    """Quote: "Pikku workflows support three types of steps." """
    pikku = Pikku()

    @pikku.function
    async def rpc(services: Services) -> str:
        return "rpc"

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[str | None]:
        return [
            await workflow.do("an RPC step", rpc),
            await workflow.do("an inline step", lambda: "inline"),
            await workflow.sleep("a sleep step", "1s"),
        ]

    async with pikku.open(":memory:", clock=VirtualClock(autojump=True)) as engine:
        handle = await engine.start(flow)
        assert await handle.result() == ["rpc", "inline", None]
        kinds = [step.kind for step in await engine.steps(handle.id)]

    assert kinds == ["function", "inline", "sleep"]


# RPC steps


def where_am_i(services: Services, data: dict[str, int]) -> dict[str, int]:
    """A process function must be importable, so it stands at the top of the module."""
    return {"pid": os.getpid(), "asked": data["asked"]}


async def test_rpc_steps_execute_in_separate_worker_processes(db: Path) -> None:
    """Quote: "RPC steps call other Pikku functions via queue workers. They execute asynchronously in separate worker
    processes." Here `worker="process"` says so for one function."""
    pikku = Pikku()
    process_function = PROCESS.find_function("where_am_i")

    @PROCESS.workflow(name=f"flow-{os.urandom(4).hex()}")
    async def flow(workflow: Workflow) -> dict[str, int]:
        return await workflow.do("Where", process_function, {"asked": 1})

    async with PROCESS.open(db) as engine:
        answer = await engine.run(flow)

    assert answer["asked"] == 1
    assert answer["pid"] != os.getpid()
    assert pikku.find("where_am_i") is None


PROCESS = Pikku()
where_am_i = PROCESS.function(worker="process")(where_am_i)  # type: ignore[assignment]


async def test_an_rpc_function_is_called_by_name_with_data(db: Path) -> None:
    """Quote: "Call the createUserProfile RPC function": name, then input data; a result comes back."""
    pikku = Pikku()

    @pikku.function(name="createUserProfile")
    async def create_user_profile(services: Services, data: User) -> dict[str, str]:
        return {"email": data.email, "user_id": data.user_id}

    async def body(workflow: Workflow) -> Any:
        return await workflow.do(
            "Create user profile in database", "createUserProfile", {"email": "ada@x.io", "user_id": "u1"}
        )

    assert await run(db, body, pikku=pikku) == {"email": "ada@x.io", "user_id": "u1"}


async def test_an_rpc_step_takes_retry_options(db: Path) -> None:
    """Quote: "retries: 2, // Retry up to 2 times (3 total attempts) / retryDelay: '5s' // Wait 5 seconds between
    retries"."""
    pikku = Pikku()
    times: list[float] = []

    @pikku.function(name="processPayment")
    async def process_payment(services: Services, data: dict[str, Any]) -> dict[str, bool]:
        times.append(clock.now().timestamp())
        if len(times) < 3:
            raise ConnectionError("no line")
        return {"success": True}

    @pikku.workflow
    async def flow(workflow: Workflow) -> dict[str, bool]:
        data = {"amount": 100, "userId": "u1"}
        return await workflow.do("Process payment", "processPayment", data, retries=2, retry_delay="5s")

    clock = VirtualClock(autojump=True)
    async with pikku.open(db, clock=clock) as engine:
        assert await engine.run(flow) == {"success": True}

    assert [round(after - before, 3) for before, after in zip(times, times[1:], strict=False)] == [5.0, 5.0]


@pytest.mark.parametrize("kind", ["rpc", "inline"])
async def test_total_attempts_are_retries_plus_one(kind: str) -> None:
    """Quote: "Number of retry attempts after initial failure. Total attempts = retries + 1." """
    calls: list[int] = []
    pikku = Pikku()

    @pikku.function
    async def fails(services: Services) -> None:
        calls.append(1)
        raise ValueError("always")

    async def inline() -> None:
        calls.append(1)
        raise ValueError("always")

    async def body(workflow: Workflow) -> Any:
        target: Any = fails if kind == "rpc" else inline
        try:
            await workflow.do("fails", target, retries=4)
        except StepFailed as failed:
            return failed.attempts
        return None

    assert await run(":memory:", body, pikku=pikku) == 5
    assert len(calls) == 5


@pytest.mark.parametrize("kind", ["rpc", "inline"])
async def test_the_default_is_no_retries(kind: str) -> None:
    """Quote: "Default: 0 (no retries)": exactly one attempt, for RPC and inline steps alike."""
    calls: list[int] = []
    pikku = Pikku()

    @pikku.function
    def fails(services: Services) -> None:
        calls.append(1)
        raise ValueError("once")

    def inline() -> None:
        calls.append(1)
        raise ValueError("once")

    async def body(workflow: Workflow) -> Any:
        await workflow.do("fails", fails if kind == "rpc" else inline)

    with pytest.raises(RunFailed) as failed:
        await run(":memory:", body, pikku=pikku)
    assert failed.value.error.type == "ValueError"
    assert len(calls) == 1


@pytest.mark.parametrize(("delay", "seconds"), [("5s", 5), ("1min", 60), (1500, 1.5)])
async def test_a_retry_delay_is_text_or_milliseconds(delay: str | int, seconds: float) -> None:
    """Quote: "Delay between retries. Supports duration strings like '5s', '1min' or milliseconds as number." """
    times: list[float] = []
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        def flaky() -> None:
            times.append(clock.now().timestamp())
            if len(times) == 1:
                raise OSError("first")

        await workflow.do("flaky", flaky, retries=1, retry_delay=delay)

    clock = VirtualClock(autojump=True)
    async with pikku.open(":memory:", clock=clock) as engine:
        await engine.run(flow)

    assert round(times[1] - times[0], 3) == seconds


async def test_the_default_retry_delay_is_zero() -> None:
    """Quote: "Default: 0": the next attempt begins without any time passing."""
    clock = VirtualClock()
    start = clock.now()
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        def flaky() -> int:
            step = current_step()
            assert step is not None
            if step.attempt_count < 3:
                raise OSError("again")
            return step.attempt_count

        return await workflow.do("flaky", flaky, retries=2)

    async with pikku.open(":memory:", clock=clock) as engine:
        assert await engine.run(flow) == 3

    assert clock.now() == start


async def test_rpc_functions_see_the_workflow_step() -> None:
    """Quote: "RPC functions can access workflow step information through the workflowStep parameter": the attempt
    count 1, 2, 3, the run id and the step id; "Different behavior based on attempt count"."""
    seen: list[tuple[int, str, str]] = []
    pikku = Pikku()

    @pikku.function
    async def process_payment(services: Services, data: dict[str, int]) -> dict[str, bool]:
        step = services.workflow_step
        assert step is not None
        services.logger.info(f"Payment attempt {step.attempt_count} for run {step.run_id}")
        seen.append((step.attempt_count, step.run_id, step.step_id))
        if step.attempt_count == 1:
            raise ConnectionError("first attempt might fail")
        return {"success": True}

    @pikku.workflow
    async def flow(workflow: Workflow) -> dict[str, bool]:
        return await workflow.do("Pay", process_payment, {"amount": 1}, retries=2)

    async with pikku.open(":memory:") as engine:
        assert await (await engine.start(flow, run_id="order-7")).result() == {"success": True}

    assert [attempt for attempt, _, _ in seen] == [1, 2]
    assert {run_id for _, run_id, _ in seen} == {"order-7"}
    assert len({step_id for _, _, step_id in seen}) == 1


async def test_outside_a_workflow_there_is_no_workflow_step() -> None:
    """Quote: "if (workflowStep)": it may be absent, when the function is called as a plain function."""
    pikku = Pikku()

    @pikku.function
    async def greet(services: Services, data: str) -> str:
        return f"{data}, {services.workflow_step}"

    assert await greet(Services(), "hello") == "hello, None"


async def test_cpu_intensive_and_independent_work_goes_off_the_loop() -> None:
    """Quote: "When to use RPC steps: Operations that should run in separate worker processes / CPU-intensive tasks":
    a `def` function runs on a thread of its own, so the loop stays free."""
    threads: list[threading.Thread] = []
    pikku = Pikku()

    @pikku.function
    def heavy(services: Services) -> int:
        threads.append(threading.current_thread())
        return sum(range(1000))

    async def body(workflow: Workflow) -> Any:
        return await workflow.do("Crunch", heavy)

    assert await run(":memory:", body, pikku=pikku) == 499500
    assert threads[0] is not threading.main_thread()


# Inline steps


async def test_inline_steps_execute_within_the_workflow_process_and_are_cached(db: Path) -> None:
    """Quote: "Inline steps execute code immediately within the workflow process. Results are cached for replay." """
    seen: list[tuple[int, threading.Thread]] = []

    async def body(workflow: Workflow) -> Any:
        async def crm() -> dict[str, str]:
            seen.append((os.getpid(), threading.current_thread()))
            return {"email": "ada@x.io", "name": "Ada", "source": "signup"}

        return await workflow.do("Create user in CRM system", crm)

    assert (await run(db, body))["source"] == "signup"
    assert seen == [(os.getpid(), threading.main_thread())]


async def test_inline_steps_take_retry_options() -> None:
    """Quote: "retries: 2, // Retry up to 2 times if API fails / retryDelay: '3s' // Wait 3 seconds between retries"."""
    times: list[float] = []
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        async def profile() -> str:
            times.append(clock.now().timestamp())
            if len(times) < 3:
                raise ConnectionError("analytics is down")
            return "profile"

        return await workflow.do("Create analytics profile", profile, retries=2, retry_delay="3s")

    clock = VirtualClock(autojump=True)
    async with pikku.open(":memory:", clock=clock) as engine:
        assert await engine.run(flow) == "profile"

    assert [round(after - before, 3) for before, after in zip(times, times[1:], strict=False)] == [3.0, 3.0]


async def test_inline_steps_start_at_once() -> None:
    """Quote: "Steps that should execute immediately without queue delay": no time passes before they run."""
    clock = VirtualClock()
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> bool:
        return await workflow.do("now", lambda: clock.now() == started)

    started = clock.now()
    async with pikku.open(":memory:", clock=clock) as engine:
        assert await engine.run(flow) is True


async def test_on_replay_inline_steps_are_never_re_executed(db: Path) -> None:
    """Quote: "On replay, inline steps are never re-executed": after the sleep the cached crmUser is used. "Without
    caching, the CRM user would be created twice!" """
    ledger = Ledger()
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        crm_user = await workflow.do("Create user in CRM", lambda: ledger.add("created"))
        await workflow.sleep("Wait 5min", "5min")
        return crm_user

    clock = VirtualClock()
    for life in range(4):  # every life replays the workflow from its beginning
        async with pikku.open(db, clock=clock) as engine:
            if life == 0:
                await engine.start(flow, run_id="r")
            await clock.advance("1min" if life < 3 else "5min")
            if life == 3:
                assert await (await engine.handle("r")).result() == "created"

    assert ledger.effects == ["created"]


# Sleep steps


async def test_sleep_schedules_the_workflow_to_resume_after_the_duration(db: Path) -> None:
    """Quote: "They schedule the workflow to resume after a specified duration." """
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        await workflow.sleep("Wait 5 minutes before sending email", "5min")
        return "sent"

    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        handle = await engine.start(flow)
        await clock.advance("299s")
        before = await handle.status()
        await clock.advance("1s")

        assert before == "running"
        assert await handle.status() == "completed"


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("5s", 5),
        ("30s", 30),
        ("120s", 120),
        ("5min", 300),
        ("30min", 1800),
        ("120min", 7200),
        (5000, 5),
        ("1440min", 86400),
    ],
)
async def test_the_duration_formats_of_the_page(duration: str | int, seconds: int) -> None:
    """Quote: "Seconds: '5s', '30s', '120s' / Minutes: '5min', '30min', '120min' / Number (milliseconds): 5000 for 5
    seconds", and `'1440min'` in the examples."""
    clock = VirtualClock(autojump=True)
    start = clock.now()
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.sleep("Wait", duration)

    async with pikku.open(":memory:", clock=clock) as engine:
        await engine.run(flow)

    assert (clock.now() - start).total_seconds() == seconds


async def test_long_waits_like_trials_and_reminders_work(db: Path) -> None:
    """Quote: "Delayed actions (send reminder after X days) / Trial expirations (check status after 7 days)": across
    restarts, and not early."""
    pikku = Pikku()

    @pikku.workflow
    async def trial(workflow: Workflow) -> str:
        await workflow.sleep("Trial", "7d")
        return await workflow.do("Check status", lambda: "expired")

    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        await engine.start(trial, run_id="t")
    for _ in range(6):
        async with pikku.open(db, clock=clock) as engine:
            await clock.advance("1d")
            assert await (await engine.handle("t")).status() == "running"
    async with pikku.open(db, clock=clock) as engine:
        await clock.advance("1d")
        assert await (await engine.handle("t")).result() == "expired"


async def test_rate_limiting_between_calls() -> None:
    """Quote: "Rate limiting (wait between API calls)": the same step names in a loop are steps of their own."""
    clock = VirtualClock(autojump=True)
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[float]:
        calls = []
        for _ in range(3):
            calls.append(await workflow.do("Call API", lambda: clock.now().timestamp()))
            await workflow.sleep("Be polite", "30s")
        return calls

    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow)
        calls = await handle.result()
        names = [step.name for step in await engine.steps(handle.id)]

    assert [round(b - a) for a, b in zip(calls, calls[1:], strict=False)] == [30, 30]
    assert names == ["Call API", "Be polite", "Call API#1", "Be polite#1", "Call API#2", "Be polite#2"]


# Workflow cancellation


async def test_a_workflow_cancels_itself_with_a_reason(db: Path) -> None:
    """Quote: "Workflows can be cancelled programmatically using the workflow.cancel() method. This is useful for
    conditional cancellation based on business logic." """
    ledger = Ledger()
    pikku = Pikku()

    @pikku.function(name="getOrder")
    async def get_order(services: Services, data: dict[str, str]) -> dict[str, str]:
        return {"status": "cancelled"}

    @pikku.workflow
    async def order(workflow: Workflow, data: dict[str, Any]) -> dict[str, bool]:
        if data["amount"] <= 0:
            await workflow.cancel(f"Invalid order amount: {data['amount']}")
        found = await workflow.do("Fetch order", "getOrder", {"orderId": data["orderId"]})
        if found["status"] == "cancelled":
            await workflow.cancel(f"Order {data['orderId']} was already cancelled")
        ledger.add("processed")
        return {"success": True}

    async with pikku.open(db) as engine:
        with pytest.raises(RunCancelled, match="Invalid order amount: 0") as invalid:
            await engine.run(order, {"orderId": "o1", "amount": 0})
        with pytest.raises(RunCancelled) as already:
            await engine.run(order, {"orderId": "o2", "amount": 5})

    assert invalid.value.reason == "Invalid order amount: 0"
    assert already.value.reason == "Order o2 was already cancelled"
    assert ledger.effects == []


async def test_when_cancelled_the_status_is_cancelled_and_execution_stops_immediately(db: Path) -> None:
    """Quote: "When cancelled, the workflow run status is set to 'cancelled' and execution stops immediately." Also when
    the code catches everything, and without `await`."""
    ledger = Ledger()
    pikku = Pikku()

    @pikku.workflow
    async def stubborn(workflow: Workflow) -> str:
        try:
            workflow.cancel("enough")
        except BaseException:
            ledger.add("caught")
        await workflow.do("after", lambda: ledger.add("after"))
        return "done"

    async with pikku.open(db) as engine:
        handle = await engine.start(stubborn)
        with pytest.raises(RunCancelled):
            await handle.result()
        found = await engine.get_run(handle.id)
        steps = await engine.steps(handle.id)

    assert found.status == "cancelled"
    assert found.reason == "enough"
    assert steps == []
    assert "after" not in ledger.effects


# Step caching and replay


async def test_it_replays_from_the_beginning_using_cached_results(db: Path) -> None:
    """Quote: "When a workflow resumes (after sleep, failure, or RPC completion), it replays from the beginning using
    cached results": the example of the page, with its marks."""
    ledger = Ledger()
    pikku = Pikku()
    bodies: list[str] = []

    @pikku.function(name="createUser")
    async def create_user(services: AppServices, data: User) -> str:
        return services.ledger.add("createUser")

    @pikku.function(name="sendEmail")
    async def send_email(services: AppServices, data: dict[str, str]) -> str:
        return services.ledger.add("sendEmail")

    @pikku.workflow
    async def onboarding(workflow: Workflow, data: User) -> str:
        bodies.append("from the beginning")
        user = await workflow.do("Create user", "createUser", data)
        await workflow.do("Add to CRM", lambda: ledger.add("crm"))
        await workflow.sleep("Wait", "5min")
        return str(await workflow.do("Send email", "sendEmail", {"user": user}))

    clock = VirtualClock()
    async with pikku.open(db, services=app(ledger), clock=clock) as engine:
        await engine.start(onboarding, User("ada@x.io", "u1"), run_id="r")
        await clock.advance(0)
        first = list(ledger.effects)
    async with pikku.open(db, services=app(ledger), clock=clock) as engine:
        await clock.advance("5min")
        assert await (await engine.handle("r")).result() == "sendEmail"

    assert first == ["createUser", "crm"]
    assert ledger.effects == ["createUser", "crm", "sendEmail"]
    assert len(bodies) == 2


# Best practices


async def test_descriptive_step_names_are_kept() -> None:
    """Quote: "Use clear, specific descriptions": 'Create user profile for john@example.com'."""
    pikku = Pikku()
    name = "Create user profile for john@example.com"

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do(name, lambda: None)

    async with pikku.open(":memory:") as engine:
        handle = await engine.start(flow)
        await handle.result()
        assert [step.name for step in await engine.steps(handle.id)] == [name]


async def test_heavy_work_by_rpc_does_not_block_the_orchestrator() -> None:
    """Quote: "Use RPC for heavy operations ... Bad: Heavy computation inline (blocks orchestrator)": while a thread
    computes, another run goes on and ends."""
    pikku = Pikku()
    release = threading.Event()

    @pikku.function(name="generateMonthlyReport")
    def report(services: Services, data: dict[str, str]) -> str:
        assert release.wait(30)
        return data["month"]

    @pikku.workflow
    async def heavy(workflow: Workflow) -> str:
        return str(await workflow.do("Generate report", "generateMonthlyReport", {"month": "Jan"}))

    @pikku.workflow
    async def light(workflow: Workflow) -> str:
        return await workflow.do("Quick", lambda: "quick")

    async with pikku.open(":memory:") as engine:
        slow = await engine.start(heavy)
        assert await engine.run(light) == "quick"
        assert await slow.status() == "running"
        release.set()
        assert await slow.result() == "Jan"


async def test_inserting_a_step_before_recorded_ones_is_noticed(db: Path) -> None:
    """Quote: "Once a workflow starts, don't rearrange steps ... WRONG: Adding step before completed steps": nothing
    executes, the run is parked, and goes on when the code is mended."""
    ledger = Ledger()

    def version(*names: str) -> Pikku:
        pikku = Pikku()

        @pikku.workflow
        async def flow(workflow: Workflow) -> list[str]:
            done = []
            for name in names:
                done.append(await workflow.do(name, lambda name=name: ledger.add(name)))  # type: ignore[misc]
                if name == "Existing step 1":
                    await workflow.sleep("Pause", "1h")
            return done

        return pikku

    clock = VirtualClock()
    before = version("Existing step 1", "Existing step 2")
    async with before.open(db, clock=clock) as engine:
        await engine.start("flow", run_id="r")
        await clock.advance(0)
    async with version("New step", "Existing step 1", "Existing step 2").open(db, clock=clock) as engine:
        await clock.advance("1h")
        parked = await engine.get_run("r")
    async with before.open(db, clock=clock) as engine:
        await clock.advance("1h")
        assert await (await engine.handle("r")).result() == ["Existing step 1", "Existing step 2"]

    assert parked.status == "suspended"
    assert parked.reason is not None
    assert parked.reason.startswith("ReplayMismatch")
    assert "Existing step 1" in parked.reason
    assert "New step" in parked.reason
    assert parked.error is None
    assert ledger.effects == ["Existing step 1", "Existing step 2"]


async def test_adding_steps_at_the_end_is_safe(db: Path) -> None:
    """Quote: "CORRECT: Add new steps at end ... Safe to add here": a run in flight executes them."""
    ledger = Ledger()

    def version(*names: str) -> Pikku:
        pikku = Pikku()

        @pikku.workflow
        async def flow(workflow: Workflow) -> list[str]:
            done = [await workflow.do("Existing step 1", lambda: ledger.add("Existing step 1"))]
            await workflow.sleep("Pause", "1h")
            for name in names:
                done.append(await workflow.do(name, lambda name=name: ledger.add(name)))  # type: ignore[misc]
            return done

        return pikku

    clock = VirtualClock()
    async with version("Existing step 2").open(db, clock=clock) as engine:
        await engine.start("flow", run_id="r")
        await clock.advance(0)
    async with version("Existing step 2", "New step").open(db, clock=clock) as engine:
        await clock.advance("1h")
        result = await (await engine.handle("r")).result()

    assert result == ["Existing step 1", "Existing step 2", "New step"]
    assert ledger.effects == result


async def test_a_duration_that_is_none_is_refused_before_any_effect() -> None:
    """The page's formats are the whole grammar: anything else is an error in the call, and nothing is recorded."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        try:
            workflow.sleep("Wait", "5 minutes")
        except DurationError as error:
            return str(error)
        return "slept"

    async with pikku.open(":memory:", config=Config()) as engine:
        handle = await engine.start(flow)
        assert "'5 minutes'" in await handle.result()
        assert await engine.steps(handle.id) == []


async def test_the_page_in_one_workflow(db: Path) -> None:
    """All of the page at once: RPC by name with retries, inline, sleep, in one run with a result."""
    ledger = Ledger()
    pikku = Pikku()

    @pikku.function(name="createUserProfile")
    async def create_user_profile(services: AppServices, data: dict[str, str]) -> dict[str, str]:
        await asyncio.sleep(0)
        services.ledger.add(f"profile {data['email']}")
        return {"id": "p1", **data}

    @pikku.workflow
    async def onboarding(workflow: Workflow, data: User) -> str:
        profile = await workflow.do(
            "Create user profile", "createUserProfile", {"email": data.email}, retries=3, retry_delay="1s"
        )
        await workflow.do("Create user in CRM", lambda: ledger.add("crm"))
        await workflow.sleep("Wait 5 minutes", "5min")
        return str(profile["id"])

    async with pikku.open(db, services=app(ledger), clock=VirtualClock(autojump=True)) as engine:
        assert await engine.run(onboarding, User("ada@x.io", "u1")) == "p1"

    assert ledger.effects == ["profile ada@x.io", "crm"]
