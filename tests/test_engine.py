"""The engine: starting, asking, acting, leaving."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pikkupy import (
    Config,
    EngineClosed,
    FunctionNotFound,
    JournalError,
    JournalLocked,
    NonRetryableError,
    PayloadError,
    Pikku,
    PikkuError,
    RegistrationError,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    RunStateError,
    Services,
    StepFailed,
    Workflow,
    WorkflowMisuse,
    WorkflowNotFound,
    current_step,
)
from pikkupy.config import Settings
from pikkupy.core.model import RunRow
from pikkupy.testing import VirtualClock


class Order(msgspec.Struct):
    id: str
    amount: int


def echo() -> Pikku:
    """One workflow that returns what it got."""
    pikku = Pikku()

    @pikku.workflow
    async def echo(workflow: Workflow, data: Order) -> Order:
        return await workflow.do("Echo", lambda: data)

    return pikku


# Starting


async def test_a_started_run_is_on_disk_when_start_returns(db: Path) -> None:
    """I5, promise 1: even if the process did nothing more."""
    pikku = echo()
    async with pikku.open(db) as engine:
        handle = await engine.start("echo", Order("o", 1), run_id="r")
        found = await engine.get_run("r")

    assert handle.id == "r"
    assert found.workflow == "echo"
    assert found.input == Order("o", 1)


async def test_the_same_id_with_the_same_workflow_and_input_is_the_same_run(db: Path) -> None:
    """One id is one run: while it is started, while it runs, after it has ended, and in the next life."""
    pikku = echo()
    async with pikku.open(db) as engine:
        handles = await asyncio.gather(*(engine.start("echo", Order("o", 1), run_id="r") for _ in range(100)))
        assert {handle.id for handle in handles} == {"r"}
        assert await handles[0].result() == Order("o", 1)
        assert (await engine.start("echo", {"id": "o", "amount": 1}, run_id="r")).id == "r"
        assert len((await engine.list_runs()).runs) == 1
    async with pikku.open(db) as engine:
        assert await (await engine.start("echo", Order("o", 1), run_id="r")).result() == Order("o", 1)


async def test_a_start_that_learns_late_that_its_id_was_free_finds_the_run_that_took_it(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the journal may be answered after another start was committed: the run, or the conflict, is found."""
    pikku = echo()
    async with pikku.open(db) as engine:
        assert engine._parts is not None
        journal = engine._parts.host.journal

        async def start_late(amount: int) -> str:
            async def overtaken(run_id: str) -> RunRow | None:
                found = await look(run_id)
                monkeypatch.undo()
                await (await engine.start("echo", Order("o", 1), run_id=f"r{amount}")).result()
                assert found is None
                return found

            look = journal.run
            monkeypatch.setattr(journal, "run", overtaken)
            return (await engine.start("echo", Order("o", amount), run_id=f"r{amount}")).id

        assert await start_late(1) == "r1"
        with pytest.raises(RunConflict, match="'r2'"):
            await start_late(2)
        assert [run.id for run in (await engine.list_runs()).runs] == ["r2", "r1"]


async def test_the_same_id_with_another_input_or_workflow_is_a_conflict(db: Path) -> None:
    """The message names the run; nothing is created or changed."""
    pikku = echo()

    @pikku.workflow
    async def other(workflow: Workflow, data: Order) -> None: ...

    async with pikku.open(db) as engine:
        await engine.start("echo", Order("o", 1), run_id="r")
        with pytest.raises(RunConflict, match="'r'"):
            await engine.start("echo", Order("o", 2), run_id="r")
        with pytest.raises(RunConflict, match="'echo'"):
            await engine.start("other", Order("o", 1), run_id="r")
        assert len((await engine.list_runs()).runs) == 1


async def test_an_unknown_workflow_is_not_found() -> None:
    """The message lists what there is; an object of another registry is unknown, too."""
    pikku, other = echo(), echo()
    async with pikku.open(":memory:") as engine:
        with pytest.raises(WorkflowNotFound, match="registered: echo"):
            await engine.start("ecco", None)
        with pytest.raises(WorkflowNotFound, match="another Pikku"):
            await engine.start(other.find_workflow("echo"), Order("o", 1))


@pytest.mark.parametrize("bad", [None, 5, {"id": "o"}, {"id": "o", "amount": "1"}, object()])
async def test_input_that_does_not_fit_creates_no_run(bad: Any) -> None:
    """The error is a PayloadError that names the workflow."""
    async with echo().open(":memory:") as engine:
        with pytest.raises(PayloadError, match="echo"):
            await engine.start("echo", bad, run_id="r")
        assert (await engine.list_runs()).runs == ()


@pytest.mark.parametrize("bad", ["", "x" * 257, "a\nb", "a\x00"])
async def test_a_run_id_is_checked(bad: str) -> None:
    """1 to 256 characters, no control characters."""
    async with echo().open(":memory:") as engine:
        with pytest.raises(ValueError, match="run_id"):
            await engine.start("echo", Order("o", 1), run_id=bad)


async def test_generated_ids_are_uuids_of_version_7() -> None:
    """They sort by the time of their start."""
    async with echo().open(":memory:") as engine:
        first = await engine.start("echo", Order("o", 1))

    assert first.id[14] == "7"
    assert len(first.id) == 36


# Asking


async def test_a_run_is_shown_with_its_values_and_times() -> None:
    """Values are decoded, times are aware, and the errors name type, message and traceback."""
    clock = VirtualClock()
    pikku = echo()

    @pikku.workflow
    async def bad(workflow: Workflow) -> None:
        raise LookupError("nothing there")

    async with pikku.open(":memory:", clock=clock) as engine:
        good = await engine.start("echo", Order("o", 1))
        await good.result()
        found = await engine.get_run(good.id)
        with pytest.raises(RunFailed) as failed:
            await engine.run("bad", run_id="b")
        broken = await engine.get_run("b")

    assert found.output == Order("o", 1)
    assert (found.status, found.error, found.reason) == ("completed", None, None)
    assert found.created_at == found.ended_at == found.updated_at == datetime(2030, 1, 1, tzinfo=UTC)
    assert broken.error is not None
    assert (broken.error.type, broken.error.message) == ("LookupError", "nothing there")
    assert "raise LookupError" in broken.error.traceback
    assert failed.value.error == broken.error


async def test_an_id_that_is_not_there_is_not_found() -> None:
    """By every call that takes an id."""
    async with echo().open(":memory:") as engine:
        for call in (
            engine.get_run,
            engine.steps,
            engine.history,
            engine.handle,
            engine.resume,
            engine.delete_run,
        ):
            with pytest.raises(RunNotFound, match="'nobody'"):
                await call("nobody")
        with pytest.raises(RunNotFound):
            await engine.cancel("nobody", "why")


async def test_runs_are_listed_newest_first_in_pages() -> None:
    """Every run once, though others start meanwhile; the last page has no cursor."""
    pikku = echo()
    async with pikku.open(":memory:", clock=VirtualClock()) as engine:
        for number in range(7):
            await engine.run("echo", Order("o", 1), run_id=f"r{number}")
        first = await engine.list_runs(limit=3)
        await engine.run("echo", Order("o", 1), run_id="new")
        second = await engine.list_runs(limit=3, cursor=first.next_cursor)
        third = await engine.list_runs(limit=3, cursor=second.next_cursor)
        exact = await engine.list_runs(limit=8)
        assert (await engine.list_runs(status="failed")).runs == ()
        assert len((await engine.list_runs(workflow="echo", status="completed")).runs) == 8
        assert (await engine.list_runs(workflow="other")).runs == ()

    assert [run.id for page in (first, second, third) for run in page.runs] == [f"r{n}" for n in range(6, -1, -1)]
    assert third.next_cursor is None
    assert exact.next_cursor is None


@pytest.mark.parametrize("bad", [{"limit": 0}, {"limit": 501}, {"limit": True}, {"status": "gone"}, {"cursor": "x"}])
async def test_bad_filters_are_value_errors(bad: dict[str, Any]) -> None:
    """The message names the value."""
    async with echo().open(":memory:") as engine:
        with pytest.raises(ValueError, match=str(next(iter(bad)))):
            await engine.list_runs(**bad)


async def test_steps_show_what_is_under_way() -> None:
    """A running step, a waiting retry and a sleep are seen before anything of them is final."""
    pikku = Pikku()
    gate = asyncio.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def blocked() -> None:
            await gate.wait()

        def failing() -> None:
            raise OSError("not yet")

        await asyncio.gather(
            workflow.do("blocked", blocked),
            workflow.do("failing", failing, retries=1, retry_delay="1h"),
            workflow.sleep("asleep", "2h"),
        )

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow)
        await clock.advance(0)
        blocked, failing, asleep = await engine.steps(handle.id)
        history = await engine.history(handle.id)
        gate.set()

    assert (blocked.status, blocked.attempts, blocked.kind) == ("running", 1, "inline")
    assert (failing.status, failing.attempts) == ("scheduled", 1)
    assert failing.wake_at == clock.now() + timedelta(hours=1)
    assert failing.error is not None
    assert (asleep.status, asleep.attempts, asleep.wake_at) == ("scheduled", 0, clock.now() + timedelta(hours=2))
    assert [(attempt.step_name, attempt.attempt, attempt.status) for attempt in history] == [("failing", 1, "failed")]


async def test_history_lists_every_finished_attempt_oldest_first() -> None:
    """Attempts are numbered 1, 2, 3 without gaps (I6); sleeps have none."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        def flaky() -> str:
            step = current_step()
            assert step is not None
            if step.attempt_count < 3:
                raise OSError(f"try {step.attempt_count}")
            return "ok"

        await workflow.do("once", lambda: 1)
        await workflow.sleep("nap", "1s")
        await workflow.do("flaky", flaky, retries=5)

    async with pikku.open(":memory:", clock=VirtualClock(autojump=True)) as engine:
        handle = await engine.start(flow)
        await handle.result()
        history = await engine.history(handle.id)
        steps = await engine.steps(handle.id)

    assert [(a.step_name, a.attempt, a.status) for a in history] == [
        ("once", 1, "succeeded"),
        ("flaky", 1, "failed"),
        ("flaky", 2, "failed"),
        ("flaky", 3, "succeeded"),
    ]
    assert [a.error.message if a.error else None for a in history] == [None, "try 1", "try 2", None]
    assert (steps[2].attempts, steps[2].error, steps[2].output) == (3, None, "ok")


# Steps


async def test_a_failed_step_is_the_same_live_and_on_replay(db: Path) -> None:
    """I4: class, fields and `is_a` do not depend on whether the code runs for the first time."""
    pikku = Pikku()
    seen: list[tuple[Any, ...]] = []

    class CardDeclined(ConnectionError):
        pass

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        def charge() -> None:
            raise CardDeclined("no funds")

        try:
            await workflow.do("charge", charge, retries=1)
        except StepFailed as failed:
            seen.append(
                (
                    failed.step_name,
                    failed.attempts,
                    failed.error_type,
                    failed.message,
                    failed.traceback,
                    failed.is_a(CardDeclined),
                    failed.is_a(OSError),
                    failed.is_a(ValueError),
                )
            )
        await workflow.sleep("pause", "1h")

    clock = VirtualClock()
    for _ in range(2):
        async with pikku.open(db, clock=clock) as engine:
            await engine.start(flow, run_id="r")
            await clock.advance(0)

    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0][:2] == ("charge", 2)
    assert seen[0][2].endswith("CardDeclined")
    assert seen[0][5:] == (True, True, False)


async def test_a_non_retryable_error_ends_the_retries() -> None:
    """A subclass of it as well; what is left of the allowance is not used."""
    pikku = Pikku()
    calls: list[int] = []

    class Hopeless(NonRetryableError):
        pass

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        def body() -> None:
            calls.append(1)
            raise Hopeless("never")

        await workflow.do("body", body, retries=5)

    async with pikku.open(":memory:") as engine:
        with pytest.raises(RunFailed) as failed:
            await engine.run(flow)

    assert failed.value.error.type.endswith("Hopeless")
    assert len(calls) == 1


async def test_retry_if_decides_about_further_attempts() -> None:
    """It gets the exception; a false answer ends the retries; an error of its own is the step's failure."""
    pikku = Pikku()
    calls: list[str] = []

    def body() -> None:
        calls.append("body")
        raise ValueError("transient" if len(calls) == 1 else "permanent")

    def broken(error: BaseException) -> bool:
        raise KeyError("predicate")

    @pikku.workflow
    async def asking(workflow: Workflow) -> None:
        await workflow.do("body", body, retries=9, retry_if=lambda error: "transient" in str(error))

    @pikku.workflow
    async def breaking(workflow: Workflow) -> None:
        await workflow.do("body", body, retries=9, retry_if=broken)

    async with pikku.open(":memory:") as engine:
        with pytest.raises(RunFailed, match="permanent"):
            await engine.run(asking)
        assert len(calls) == 2
        with pytest.raises(RunFailed, match="KeyError"):
            await engine.run(breaking)


async def test_exponential_back_off_doubles_up_to_its_limit() -> None:
    """The wait before attempt n is retry_delay * 2**(n-2), at most max_retry_delay."""
    pikku = Pikku()
    times: list[datetime] = []
    clock = VirtualClock(autojump=True)

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        def body() -> None:
            times.append(clock.now())
            raise OSError

        await workflow.do("body", body, retries=5, retry_delay="1s", backoff="exponential", max_retry_delay="5s")

    async with pikku.open(":memory:", clock=clock) as engine:
        with pytest.raises(RunFailed):
            await engine.run(flow)

    assert [(b - a).total_seconds() for a, b in zip(times, times[1:], strict=False)] == [1, 2, 4, 5, 5]


async def test_attempt_count_and_next_attempt_survive_a_restart(db: Path) -> None:
    """Promise 2: the wait goes on to its recorded end, and the numbers go on."""
    pikku = Pikku()
    attempts: list[tuple[int, datetime]] = []
    clock = VirtualClock()

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        def body() -> int:
            step = current_step()
            assert step is not None
            attempts.append((step.attempt_count, clock.now()))
            if step.attempt_count < 3:
                raise OSError("again")
            return step.attempt_count

        return await workflow.do("body", body, retries=2, retry_delay="1h")

    begun = clock.now()
    async with pikku.open(db, clock=clock) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance("30min")
    async with pikku.open(db, clock=clock) as engine:
        await clock.advance("30min")
    await clock.advance("10h")
    async with pikku.open(db, clock=clock) as engine:
        assert await (await engine.handle("r")).result() == 3

    assert attempts == [
        (1, begun),
        (2, begun + timedelta(hours=1)),
        (3, begun + timedelta(hours=11)),
    ]


async def test_a_timed_out_attempt_fails_and_is_retried() -> None:
    """`timeout` is per attempt, in the engine's time."""
    pikku = Pikku()
    cancelled: list[str] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        async def body() -> str:
            step = current_step()
            assert step is not None
            if step.attempt_count == 2:
                return "in time"
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append("yes")
            return "never"

        return await workflow.do("body", body, retries=1, timeout="5s")

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow)
        await clock.advance("5s")
        assert await handle.result() == "in time"
        history = await engine.history(handle.id)

    assert cancelled == ["yes"]
    assert history[0].error is not None
    assert history[0].error.type == "TimeoutError"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"retries": -1}, ValueError),
        ({"retries": True}, ValueError),
        ({"retries": 1.5}, ValueError),
        ({"retry_delay": "soon"}, ValueError),
        ({"backoff": "linear"}, ValueError),
        ({"jitter": 2}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"retry_if": 5}, TypeError),
        ({"retrys": 1}, TypeError),
        ({"at_most_once": "yes"}, TypeError),
    ],
)
async def test_bad_options_are_refused_in_the_call(options: dict[str, Any], error: type[Exception]) -> None:
    """Before anything happens: no step is recorded, and the code may catch it and go on."""
    pikku = Pikku()
    caught: list[Exception] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        try:
            workflow.do("step", lambda: 1, **options)
        except error as refused:
            caught.append(refused)

    async with pikku.open(":memory:") as engine:
        handle = await engine.start(flow)
        await handle.result()
        assert await engine.steps(handle.id) == []

    assert next(iter(options)) in str(caught[0]) or "soon" in str(caught[0]) or "-1" in str(caught[0])


@pytest.mark.parametrize(
    ("name", "error"), [(5, TypeError), (None, TypeError), ("", ValueError), ("a#1", ValueError), ("a\x00", ValueError)]
)
async def test_step_names_are_checked_in_the_call(name: Any, error: type[Exception]) -> None:
    """A non-string name raises TypeError naming the type."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        with pytest.raises(error) as refused:
            workflow.do(name, lambda: 1)
        with pytest.raises(error):
            workflow.sleep(name, 1)
        return str(refused.value)

    async with pikku.open(":memory:") as engine:
        message = await engine.run(flow)

    assert type(name).__name__ in message or repr(name) in message


async def test_an_unknown_function_is_not_found_in_the_call() -> None:
    """It names the function; not caught, it fails the run."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("step", "nowhere", 1)

    async with pikku.open(":memory:") as engine:
        with pytest.raises(RunFailed) as failed:
            await engine.run(flow)

    assert failed.value.error.type == "pikkupy.errors.FunctionNotFound"
    assert "'nowhere'" in failed.value.error.message
    assert issubclass(FunctionNotFound, PikkuError)


async def test_data_that_does_not_fit_fails_the_step_without_running_it() -> None:
    """The workflow sees StepFailed with one attempt and PayloadError as its type."""
    pikku = Pikku()
    ran: list[int] = []

    @pikku.function
    async def takes_order(services: Services, data: Order) -> None:
        ran.append(1)

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[Any]:
        try:
            await workflow.do("step", takes_order, {"id": 5}, retries=4)  # type: ignore[misc]
        except StepFailed as failed:
            return [failed.attempts, failed.error_type.endswith("PayloadError"), failed.is_a(PayloadError)]
        return []

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow) == [1, True, True]

    assert ran == []


async def test_an_output_that_cannot_be_kept_fails_the_step_at_once() -> None:
    """It names the path, and is never retried."""
    pikku = Pikku()
    calls: list[int] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        def body() -> Any:
            calls.append(1)
            return {"items": [1, object()]}

        try:
            await workflow.do("body", body, retries=3)
        except StepFailed as failed:
            return f"{failed.attempts} {failed.is_a(PayloadError)} {failed.message}"
        return ""

    async with pikku.open(":memory:") as engine:
        message = await engine.run(flow)

    assert message.startswith("1 True")
    assert "$.items[1]" in message
    assert len(calls) == 1


async def test_contextvars_of_the_body_reach_async_and_thread_steps() -> None:
    """Each attempt runs in a copy of the context in which `do` was called."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    pikku = Pikku()

    @pikku.function
    async def in_async(services: Services) -> str:
        return variable.get()

    @pikku.function
    def on_thread(services: Services) -> str:
        value = variable.get()
        variable.set("changed by the step")
        return value

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[str]:
        before = await workflow.do("outer", lambda: variable.get())
        variable.set("body")
        return [before, *[await workflow.do("step", step) for step in (in_async, on_thread, in_async)]]

    async with pikku.open(":memory:") as engine:
        token = variable.set("caller")
        assert await engine.run(flow) == ["caller", "body", "body", "body"]
        variable.reset(token)


async def test_asyncio_timers_are_durable_and_keep_their_deadline(db: Path) -> None:
    """I7: a restart neither restarts nor shortens `asyncio.sleep` and `asyncio.timeout`."""
    pikku = Pikku()
    clock = VirtualClock()

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[str]:
        await asyncio.sleep(3600)
        done = [await workflow.do("after an hour", lambda: clock.now().isoformat())]
        try:
            async with asyncio.timeout(1800):
                await workflow.do("never", lambda: asyncio.Event().wait())
        except TimeoutError:
            done.append(await workflow.do("timed out", lambda: clock.now().isoformat()))
        return done

    begun = clock.now()
    async with pikku.open(db, clock=clock) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance("20min")
    async with pikku.open(db, clock=clock, shutdown_grace=0) as engine:
        await clock.advance("39min")
        assert await engine.steps("r") == []
        await clock.advance("1min")
    await clock.advance("10min")
    async with pikku.open(db, clock=clock) as engine:
        await clock.advance("19min")
        assert (await engine.steps("r"))[1].status == "running"
        await clock.advance("1min")
        assert await (await engine.handle("r")).result() == [
            (begun + timedelta(hours=1)).isoformat(),
            (begun + timedelta(hours=1, minutes=30)).isoformat(),
        ]
        assert [step.status for step in await engine.steps("r")] == ["succeeded", "cancelled", "succeeded"]


# Workflow misuse


async def misuse(body: Any) -> str:
    """The message of the WorkflowMisuse that fails a run of this body."""
    pikku = Pikku()
    flow = pikku.workflow(name="flow")(body)
    async with pikku.open(":memory:") as engine:
        with pytest.raises(RunFailed) as failed:
            await asyncio.wait_for(engine.run(flow), 20)
    assert failed.value.error.type == "pikkupy.errors.WorkflowMisuse", failed.value.error
    return failed.value.error.message


async def test_real_io_in_the_body_is_misuse_and_says_the_cure() -> None:
    """Sockets, executors, threads, subprocesses, foreign futures: each is told to wrap it in `workflow.do`."""
    host = asyncio.get_running_loop()

    async def thread(workflow: Workflow) -> None:
        await asyncio.to_thread(print)

    async def socket(workflow: Workflow) -> None:
        await asyncio.open_connection("127.0.0.1", 9)

    async def process(workflow: Workflow) -> None:
        await asyncio.create_subprocess_exec("true")

    async def foreign(workflow: Workflow) -> None:
        await host.create_future()

    async def stuck(workflow: Workflow) -> None:
        await asyncio.Event().wait()

    async def spinning(workflow: Workflow) -> None:
        while True:
            await asyncio.sleep(0)

    for body in (thread, socket, process, foreign, stuck):
        assert "workflow.do" in await misuse(body), body
    assert "spin" in await misuse(spinning)


async def test_as_completed_over_bare_coroutines_is_misuse() -> None:
    """Its order would differ from process to process; over tasks it works."""

    async def body(workflow: Workflow) -> None:
        async def one() -> int:
            return await workflow.do("one", lambda: 1)

        for done in asyncio.as_completed([one()]):
            await done

    assert "make tasks first" in await misuse(body)


async def test_a_durable_call_inside_a_step_is_misuse() -> None:
    """Steps do not nest: the step fails with it."""

    async def body(workflow: Workflow) -> None:
        async def nested() -> None:
            await workflow.do("inner", lambda: 1)

        await workflow.do("outer", nested)

    assert "inside a step" in await misuse(body)


async def test_a_durable_call_after_the_run_has_ended_is_misuse() -> None:
    """The leaked `workflow` does nothing."""
    pikku = Pikku()
    leaked: list[Workflow] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        leaked.append(workflow)

    async with pikku.open(":memory:") as engine:
        await engine.run(flow)
        with pytest.raises(WorkflowMisuse, match="ended"):
            leaked[0].do("late", lambda: 1)


async def test_unawaited_steps_are_cancelled_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The warning names them."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        workflow.do("forgotten", lambda: asyncio.sleep(3600))
        await workflow.do("other", lambda: 1)
        workflow.do("at the end", lambda: 1)
        return "done"

    async with pikku.open(":memory:") as engine:
        handle = await engine.start(flow)
        assert await handle.result() == "done"
        steps = await engine.steps(handle.id)

    assert [(step.name, step.status) for step in steps] == [
        ("forgotten", "cancelled"),
        ("other", "succeeded"),
        ("at the end", "cancelled"),
    ]
    assert "forgotten" in caplog.text
    assert "at the end" in caplog.text


# Acting


async def test_after_cancel_returned_no_further_step_starts() -> None:
    """I8: a running async step gets CancelledError; the run is cancelled at once, with the reason."""
    pikku = Pikku()
    effects: list[str] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def long() -> None:
            effects.append("began")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                effects.append("stopped")
                raise

        await workflow.do("long", long)
        await workflow.do("after", lambda: effects.append("after"))

    async with pikku.open(":memory:") as engine:
        handle = await engine.start(flow)
        await handle.cancel("changed my mind")
        found = await engine.get_run(handle.id)
        steps = await engine.steps(handle.id)
        with pytest.raises(RunCancelled, match="changed my mind"):
            await handle.result()
        await asyncio.sleep(0)

    assert (found.status, found.reason) == ("cancelled", "changed my mind")
    assert [step.status for step in steps] == ["cancelled"]
    assert effects in (["began", "stopped"], [])


async def test_a_final_run_cannot_be_cancelled() -> None:
    """I3: RunStateError names the run and its status; nothing changes."""
    async with echo().open(":memory:") as engine:
        await engine.run("echo", Order("o", 1), run_id="r")
        with pytest.raises(RunStateError, match="'r' is completed"):
            await engine.cancel("r", "too late")
        with pytest.raises(RunStateError, match="'r' is completed"):
            await engine.resume("r")
        assert (await engine.get_run("r")).status == "completed"


async def test_a_late_result_is_kept_as_evidence_and_changes_nothing() -> None:
    """A step that swallows the cancellation and returns: an Attempt in the history, the step stays cancelled."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        async def stubborn() -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
            return "too late"

        return await workflow.do("stubborn", stubborn)

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow)
        await clock.advance(0)
        await handle.cancel("enough")
        await clock.advance(0)
        (step,) = await engine.steps(handle.id)
        history = await engine.history(handle.id)
        assert await handle.status() == "cancelled"

    assert step.status == "cancelled"
    assert step.output is None
    assert [(attempt.step_name, attempt.status) for attempt in history] == [("stubborn", "succeeded")]


async def test_a_run_that_has_ended_can_be_deleted() -> None:
    """With its steps; a running one is refused."""
    pikku = echo()

    @pikku.workflow
    async def sleeper(workflow: Workflow) -> None:
        await workflow.sleep("long", "1d")

    async with pikku.open(":memory:") as engine:
        await engine.run("echo", Order("o", 1), run_id="r")
        await engine.start(sleeper, run_id="s")
        await engine.delete_run("r")
        with pytest.raises(RunNotFound):
            await engine.get_run("r")
        with pytest.raises(RunStateError, match="'s' is running"):
            await engine.delete_run("s")


async def test_result_times_out_in_the_engine_s_clock() -> None:
    """The built-in TimeoutError; 0 looks once; the run goes on."""
    pikku = Pikku()

    @pikku.workflow
    async def sleeper(workflow: Workflow) -> str:
        await workflow.sleep("long", "1d")
        return "awake"

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(sleeper)
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0)
        waiting = asyncio.ensure_future(handle.result(timeout="1h"))
        await clock.advance("1h")
        with pytest.raises(TimeoutError):
            await waiting
        await clock.advance("23h")
        assert await handle.result() == "awake"


# Opening and leaving


async def test_leaving_lets_running_steps_finish_and_starts_no_new_ones(db: Path) -> None:
    """The outcome is recorded; the next step begins in the next life."""
    pikku = Pikku()
    effects: list[str] = []
    began = asyncio.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[str]:
        async def first() -> str:
            began.set()
            await asyncio.sleep(0.05)
            effects.append("first")
            return "first"

        return [await workflow.do("first", first), await workflow.do("second", lambda: "second")]

    async with pikku.open(db) as engine:
        handle = await engine.start(flow, run_id="r")
        await began.wait()
        waiting = asyncio.ensure_future(handle.result())
        await asyncio.sleep(0)
    with pytest.raises(EngineClosed):
        await waiting
    with pytest.raises(EngineClosed):
        await engine.get_run("r")
    async with pikku.open(db) as engine:
        steps = await engine.steps("r")
        assert await (await engine.handle("r")).result() == ["first", "second"]

    assert steps[0].status == "succeeded"
    assert effects == ["first"]


async def test_a_step_that_outlives_the_grace_is_interrupted_and_runs_again(db: Path) -> None:
    """Under the same attempt number, and it uses up no retry."""
    pikku = Pikku()
    attempts: list[int] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        async def body() -> str:
            step = current_step()
            assert step is not None
            attempts.append(step.attempt_count)
            if len(attempts) == 1:
                await asyncio.Event().wait()
            return "done"

        return await workflow.do("body", body)

    async with pikku.open(db, shutdown_grace=10) as engine:
        await engine.start(flow, run_id="r")
        while not attempts:
            await asyncio.sleep(0)
    async with pikku.open(db) as engine:
        assert await (await engine.handle("r")).result() == "done"
        assert len(await engine.history("r")) == 1

    assert attempts == [1, 1]


async def test_an_at_most_once_step_that_leaving_cut_off_counts_as_failed(db: Path) -> None:
    """Promise 2: it is not run again; the error type ends in Interrupted."""
    pikku = Pikku()
    attempts: list[int] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        async def body() -> None:
            attempts.append(1)
            await asyncio.Event().wait()

        try:
            await workflow.do("body", body, at_most_once=True)
        except StepFailed as failed:
            return failed.error_type
        return "ran"

    async with pikku.open(db, shutdown_grace=10) as engine:
        await engine.start(flow, run_id="r")
        while not attempts:
            await asyncio.sleep(0)
    async with pikku.open(db) as engine:
        assert (await (await engine.handle("r")).result()).endswith("Interrupted")

    assert attempts == [1]


async def test_a_second_engine_on_the_file_is_refused(db: Path) -> None:
    """I11: the error names the holder."""
    pikku = echo()
    async with pikku.open(db):
        with pytest.raises(JournalLocked):
            async with pikku.open(db):
                pass
    async with pikku.open(db):
        pass


async def test_data_that_is_left_out_is_the_default_of_the_parameter() -> None:
    """Of workflows and functions; it is recorded like any other."""
    pikku = Pikku()

    @pikku.function
    async def double(services: Services, number: int = 4) -> int:
        return 2 * number

    @pikku.workflow
    async def flow(workflow: Workflow, number: int = 5) -> list[int]:
        return [number, await workflow.do("Four", "double"), await workflow.do("Double", double, number)]

    async with pikku.open(":memory:") as engine:
        assert await engine.run("flow", run_id="r") == [5, 8, 10]
        assert await engine.run("flow", 7) == [7, 8, 14]
        assert (await engine.get_run("r")).input == 5


async def test_a_start_that_the_file_refuses_is_told_to_who_waits_for_it(db: Path) -> None:
    """I5: it is not acknowledged, by `start` or by `run`, and the engine goes on."""
    pikku = echo()
    async with pikku.open(db) as engine:
        with closing(sqlite3.connect(db, isolation_level=None)) as other:
            other.execute(
                "CREATE TRIGGER guard BEFORE INSERT ON pikkupy_runs BEGIN SELECT RAISE(ABORT, 'not today'); END"
            )
            with pytest.raises(JournalError, match="not today"):
                await engine.run("echo", Order("a", 1))
            with pytest.raises(JournalError, match="not today"):
                await engine.start("echo", Order("a", 1))
            other.execute("DROP TRIGGER guard")

        assert await engine.run("echo", Order("b", 2)) == Order("b", 2)
        assert len((await engine.list_runs()).runs) == 1


async def test_a_missing_folder_is_a_journal_error(tmp_path: Path) -> None:
    """It names the path, on entering; `open` itself does nothing."""
    engine = echo().open(tmp_path / "nowhere" / "app.db")
    with pytest.raises(JournalError, match="nowhere"):
        await engine.__aenter__()


async def test_services_must_not_bring_a_logger_or_a_workflow_step() -> None:
    """RegistrationError on entering."""

    class Bad:
        logger = 1

    with pytest.raises(RegistrationError, match="logger"):
        async with echo().open(":memory:", services=Bad()):
            pass


async def test_a_run_whose_workflow_is_not_registered_waits_for_it(db: Path) -> None:
    """It is suspended with a reason that names the workflow, and goes on by itself at the next open that has it."""
    clock = VirtualClock()
    pikku = Pikku()

    @pikku.workflow
    async def sleeper(workflow: Workflow) -> str:
        await workflow.sleep("nap", "1h")
        return "awake"

    async with pikku.open(db, clock=clock) as engine:
        await engine.start(sleeper, run_id="r")
        await clock.advance(0)
    async with Pikku().open(db, clock=clock) as engine:
        await clock.advance("2h")
        parked = await engine.get_run("r")
    async with pikku.open(db, clock=clock) as engine:
        assert await (await engine.handle("r")).result() == "awake"

    assert parked.status == "suspended"
    assert "sleeper" in str(parked.reason)


def test_settings_and_config_have_the_same_fields() -> None:
    """Two places name the knobs; they cannot drift apart."""
    assert tuple(Settings.__annotations__) == Config.__struct_fields__


def test_config_and_settings_exclude_each_other() -> None:
    """And a setting that makes no sense is refused at once."""
    with pytest.raises(TypeError, match="one place"):
        Pikku().open(":memory:", config=Config(), max_payload=5)
    with pytest.raises(ValueError, match="durability"):
        Pikku().open(":memory:", durability="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="thread_workers"):
        Config(thread_workers=0)


async def test_a_parked_run_can_be_cancelled_or_resumed(db: Path) -> None:
    """Without being in memory: `cancel` ends it, `resume` goes on once the code is there; those who wait hear of it."""
    clock = VirtualClock()
    pikku = Pikku()

    async def sleeper(workflow: Workflow) -> str:
        await workflow.sleep("nap", "1h")
        return "awake"

    flow = pikku.workflow(sleeper)
    async with pikku.open(db, clock=clock) as engine:
        for run_id in ("a", "b"):
            await engine.start(flow, run_id=run_id)
        await clock.advance(0)
    later = Pikku()
    async with later.open(db, clock=clock) as engine:
        waiting = [asyncio.ensure_future((await engine.handle(run_id)).result()) for run_id in ("a", "b")]
        await asyncio.sleep(0)
        await engine.resume("b")
        still = await engine.get_run("b")
        await engine.cancel("a", "not needed")
        later.workflow(sleeper)
        await engine.resume("b")
        resumed = await engine.get_run("b")
        await clock.advance("1h")
        results = await asyncio.gather(*waiting, return_exceptions=True)
        steps = await engine.steps("a")

    assert still.status == "suspended"
    assert (resumed.status, resumed.reason) == ("running", None)
    assert isinstance(results[0], RunCancelled)
    assert results[1] == "awake"
    assert [step.status for step in steps] == ["cancelled"]


async def test_an_unfinished_run_whose_row_is_gone_is_told(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A page of the table that is from another time, in a file that was left in good order: the others go on."""
    clock = VirtualClock()
    pikku = Pikku()

    @pikku.workflow
    async def waiter(workflow: Workflow) -> str:
        return await workflow.wait_for_signal("go on", str)

    async with pikku.open(db, clock=clock) as engine:
        for run_id in ("a", "b"):
            await engine.start(waiter, run_id=run_id)
    take_row_from_table_alone(db, number=1)
    async with pikku.open(db, clock=clock) as engine:
        await engine.signal("b", "go on", "yes")
        assert await (await engine.handle("b")).result() == "yes"

    [told] = [record.getMessage() for record in caplog.records if "run_damaged" in record.getMessage()]
    assert "an unfinished run of number 1 is in an index alone" in told
    assert "restore it from a backup" in told


def take_row_from_table_alone(db: Path, number: int) -> None:
    """Delete the run while SQLite does not know of the index of unfinished runs."""
    indexes = "type = 'index' AND tbl_name = 'pikkupy_runs' AND sql IS NOT NULL"
    with closing(sqlite3.connect(db, isolation_level=None)) as raw:
        raw.execute("PRAGMA writable_schema = ON")
        hidden = raw.execute(f"SELECT * FROM sqlite_master WHERE {indexes}").fetchall()
        raw.execute(f"DELETE FROM sqlite_master WHERE {indexes}")
        raw.execute("PRAGMA writable_schema = RESET")
        raw.execute("DELETE FROM pikkupy_runs WHERE number = ?", (number,))
        raw.execute("PRAGMA writable_schema = ON")
        raw.executemany("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", hidden)
