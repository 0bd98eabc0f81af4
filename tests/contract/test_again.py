"""Runs that go on from an earlier point: retry, fork, and changed code that is accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
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
    RunConflict,
    RunFailed,
    RunNotFound,
    RunStateError,
    Services,
    StepFailed,
    Workflow,
)
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH

each_way = pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])


class Profile(msgspec.Struct):
    id: int


class App:
    """What lives on when the code is changed: a file, a clock, what steps have done, and what of them fails."""

    def __init__(self, db: Path | str = ":memory:", **settings: Any) -> None:
        self.db, self.settings = db, settings
        self.clock = VirtualClock(autojump=True)
        self.effects: list[str] = []
        self.broken: set[str] = set()

    def open(self, body: Callable[[Workflow], Awaitable[Any]], **others: Any) -> AbstractAsyncContextManager[Engine]:
        pikku = Pikku()
        pikku.workflow(name="flow")(body)
        for name, other in others.items():
            pikku.workflow(name=name)(other)

        @pikku.function
        async def profile(services: Services, data: int) -> Profile:
            return Profile(data)

        return pikku.open(self.db, clock=self.clock, **self.settings)

    def step(self, name: str, value: Any = None) -> Callable[[], Any]:
        def body() -> Any:
            self.effects.append(name)
            if name in self.broken:
                raise ConnectionError(f"{name} is broken")
            return name if value is None else value

        return body


async def ended(engine: Engine, run_id: str = "r") -> str:
    try:
        await (await engine.handle(run_id)).result(timeout="900d")
    except (RunFailed, TimeoutError):
        pass
    return str((await engine.get_run(run_id)).status)


def numbers(attempts: list[Any]) -> list[tuple[str, int, str]]:
    return [(attempt.step_name, attempt.attempt, str(attempt.status)) for attempt in attempts]


# retry


@each_way
async def test_a_retried_run_goes_on_from_its_failed_step(settings: dict[str, Any]) -> None:
    """C65, C132: recorded successes stand, numbers go on, and the step gets `retries + 1` further attempts."""
    app = App(**settings)

    async def body(workflow: Workflow) -> list[str]:
        first = await workflow.do("first", app.step("first"))
        await workflow.sleep("nap", "1h")
        return [first, await workflow.do("second", app.step("second"), retries=1)]

    app.broken = {"second"}
    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        assert await ended(engine) == "failed"
        await engine.retry("r")
        found = await engine.get_run("r")
        assert (found.error, found.ended_at) == (None, None)
        assert await ended(engine) == "failed"
        app.broken.clear()
        await engine.retry("r")
        assert await ended(engine) == "completed"
        assert app.effects == ["first", *["second"] * 5]
        assert numbers(await engine.history("r")) == [
            ("first", 1, "succeeded"),
            *[("second", n, "failed") for n in (1, 2, 3, 4)],
            ("second", 5, "succeeded"),
        ]
        step = (await engine.steps("r"))[2]
        assert (step.attempts, step.error, step.status) == (5, None, "succeeded")


def unlocking(app: App) -> Callable[[Workflow], Awaitable[Any]]:
    async def body(workflow: Workflow) -> str:
        try:
            return str(await workflow.do("charge", app.step("charge")))
        finally:
            await workflow.do("unlock", app.step("unlock"))

    return body


def taking_back(app: App) -> Callable[[Workflow], Awaitable[Any]]:
    async def body(workflow: Workflow) -> str:
        await workflow.do("book", app.step("book"))
        try:
            return str(await workflow.do("charge", app.step("charge")))
        except StepFailed:
            await workflow.sleep("cool down", "1h")
            await asyncio.sleep(60)
            await workflow.do("cancel the booking", app.step("cancel the booking"))
            raise

    return body


def reporting(app: App) -> Callable[[Workflow], Awaitable[Any]]:
    async def body(workflow: Workflow) -> str:
        branches = [workflow.do(name, app.step(name)) for name in ("slow", "charge", "fast")]
        _, charged, _ = await asyncio.gather(*branches, return_exceptions=True)
        await workflow.do("report", app.step("report"))
        if isinstance(charged, BaseException):
            raise charged
        return charged

    return body


@each_way
@pytest.mark.parametrize(
    ("make", "before", "after"),
    [
        (unlocking, ["charge", "unlock"], ["charge"]),
        (taking_back, ["book", "charge", "cancel the booking"], ["charge"]),
        (reporting, ["slow", "charge", "fast", "report"], ["charge"]),
    ],
)
async def test_what_a_run_did_because_of_its_failure_does_not_keep_it_from_a_retry(
    make: Any, before: list[str], after: list[str], settings: dict[str, Any], db: Path
) -> None:
    """C65, C132: the failed step goes on; what followed from it leaves the history, and is not executed again where the
    code asks for it again, also after the next failure, also over a restart."""
    app = App(db, **settings)
    body = make(app)
    app.broken = {"charge"}
    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        assert await ended(engine) == "failed"
        assert app.effects == before
        app.effects.clear()
        await engine.retry("r")
        assert await ended(engine) == "failed"
        assert app.effects == after
    app.broken.clear()
    async with app.open(body) as engine:
        app.effects.clear()
        await engine.retry("r")
        assert await ended(engine) == "completed"
        assert (await engine.get_run("r")).output == "charge"
        assert app.effects == after
        told = numbers(await engine.history("r"))
        assert [one for one in told if one[0] == "charge"] == [
            ("charge", 1, "failed"),
            ("charge", 2, "failed"),
            ("charge", 3, "succeeded"),
        ]
        assert {name for name, _, _ in told} == set(before)


async def test_a_retry_of_a_run_that_no_longer_fits_its_code_says_so(db: Path) -> None:
    """What followed from the failure is left aside, changed code is not."""
    app = App(db)
    app.broken = {"charge"}
    async with app.open(unlocking(app)) as engine:
        await engine.start("flow", run_id="r")
        assert await ended(engine) == "failed"

    async def changed(workflow: Workflow) -> None:
        await workflow.do("charge", app.step("charge"))

    async with app.open(changed) as engine:
        await engine.retry("r")
        assert await ended(engine) == "suspended"
        assert "'unlock'" in str((await engine.get_run("r")).reason)


async def test_a_step_without_retries_keeps_its_failed_attempt(db: Path) -> None:
    """I6: attempt 1 failed, attempt 2 succeeded; also over a restart."""
    app = App(db)

    async def body(workflow: Workflow) -> str:
        return str(await workflow.do("only", app.step("only")))

    app.broken = {"only"}
    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        assert await ended(engine) == "failed"
    app.broken.clear()
    async with app.open(body) as engine:
        await engine.retry("r")
        assert await ended(engine) == "completed"
    async with app.open(body) as engine:
        assert numbers(await engine.history("r")) == [("only", 1, "failed"), ("only", 2, "succeeded")]


async def test_what_the_failure_had_cancelled_goes_on(db: Path) -> None:
    """Steps beside the failed one; and failures that were caught stand (C131)."""
    app = App(db)

    async def body(workflow: Workflow) -> list[Any]:
        try:
            await workflow.do("caught", app.step("caught"))
        except StepFailed:
            pass
        slow = workflow.sleep("slow", "1d")
        bad = await workflow.do("bad", app.step("bad"))
        await slow
        return [bad]

    app.broken = {"caught", "bad"}
    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        assert await ended(engine) == "failed"
        assert [str(step.status) for step in await engine.steps("r")] == ["failed", "cancelled", "failed"]
        app.broken.clear()
        await engine.retry("r")
        assert await ended(engine) == "completed"
        assert [str(step.status) for step in await engine.steps("r")] == ["failed", "succeeded", "succeeded"]
        assert app.effects == ["caught", "bad", "bad"]


async def test_steps_of_a_group_are_retried_together() -> None:
    """All whose errors left the workflow, as an ExceptionGroup."""
    app = App()

    async def body(workflow: Workflow) -> list[str]:
        async def branch(name: str) -> str:
            return str(await workflow.do(name, app.step(name)))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(branch(name)) for name in ("a", "b")]
        return [task.result() for task in tasks]

    app.broken = {"a", "b"}
    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        assert await ended(engine) == "failed"
        app.broken.clear()
        await engine.retry("r")
        assert await ended(engine) == "completed"


async def test_a_body_that_failed_by_itself_is_replayed_to_there(db: Path) -> None:
    """C131, C7: and goes on once it is mended; nothing recorded runs again."""
    app = App(db)

    async def wrong(workflow: Workflow) -> str:
        await workflow.do("first", app.step("first"))
        raise TypeError("a slip")

    async def mended(workflow: Workflow) -> str:
        await workflow.do("first", app.step("first"))
        return str(await workflow.do("second", app.step("second")))

    async with app.open(wrong) as engine:
        await engine.start("flow", run_id="r")
        assert await ended(engine) == "failed"
        await engine.retry("r")
        assert await ended(engine) == "failed"
    async with app.open(mended) as engine:
        await engine.retry("r")
        assert await ended(engine) == "completed"
    assert app.effects == ["first", "second"]


@each_way
async def test_a_failed_child_is_retried_with_its_parent(settings: dict[str, Any]) -> None:
    """C143: the same child run goes on from its failed step."""
    app = App(**settings)

    async def child(workflow: Workflow) -> str:
        await workflow.do("good", app.step("good"))
        await workflow.sleep("nap", "1h")
        return str(await workflow.do("bad", app.step("bad")))

    async def body(workflow: Workflow) -> str:
        return str(await workflow.do("part", "child"))

    app.broken = {"bad"}
    async with app.open(body, child=child) as engine:
        await engine.start("flow", run_id="r")
        assert await ended(engine) == "failed"
        assert (await engine.get_run("r/part")).status == "failed"
        app.broken.clear()
        await engine.retry("r")
        assert await ended(engine) == "completed"
        assert (await engine.get_run("r/part")).status == "completed"
        assert app.effects == ["good", "bad", "bad"]
        assert len((await engine.list_runs()).runs) == 2


@pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])
@pytest.mark.parametrize("when", ["it runs", "it has completed", "it has failed again"])
async def test_a_parent_takes_back_the_child_that_was_retried_by_itself(settings: dict[str, Any], when: str) -> None:
    """No second child is started beside it."""
    pikku, clock, did = Pikku(), VirtualClock(), list[str]()

    @pikku.workflow
    async def child(workflow: Workflow) -> str:
        await workflow.do("charge", charge)
        await workflow.sleep("nap", "1h")
        if len(did) == 2 and when == "it has failed again":
            raise ValueError("again")
        return "paid"

    def charge() -> None:
        did.append("charge")
        if len(did) == 1:
            raise ValueError("no money")

    @pikku.workflow
    async def parent(workflow: Workflow) -> str:
        return await workflow.do("part", child)

    async with pikku.open(":memory:", clock=clock, **settings) as engine:
        run = await engine.start(parent, run_id="q")
        with pytest.raises(RunFailed):
            await run.result()
        await engine.retry("q/part")
        await clock.advance("1h" if when != "it runs" else 0)
        if when == "it has failed again":
            did.append("more money")
        await engine.retry("q")
        await clock.advance("1h")
        await clock.advance("1h")

        assert await run.result(timeout=0) == "paid"
        assert [one.id for one in (await engine.list_runs()).runs] == ["q/part", "q"]
        assert did.count("charge") == 2
        assert [(step.name, step.status, step.attempts) for step in await engine.steps("q")] == [
            ("part", "succeeded", 2)
        ]


async def test_only_failed_runs_are_retried() -> None:
    """C130: RunStateError naming both, RunNotFound."""
    app = App()

    async def body(workflow: Workflow) -> None:
        await workflow.wait_for_signal("go")

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        with pytest.raises(RunStateError, match=r"'r'.*running"):
            await engine.retry("r")
        await engine.cancel("r", "no")
        with pytest.raises(RunStateError, match=r"'r'.*cancelled"):
            await engine.retry("r")
        with pytest.raises(RunNotFound):
            await engine.retry("nobody")


async def test_a_wait_that_timed_out_waits_again() -> None:
    """For as long as it did at first."""
    app = App()

    async def body(workflow: Workflow) -> str:
        return str(await workflow.wait_for_signal("go", timeout="1h"))

    app.clock = VirtualClock()
    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance("1h")
        assert (await engine.get_run("r")).status == "failed"
        await engine.retry("r")
        await app.clock.advance("59min")
        assert (await engine.get_run("r")).status == "running"
        await engine.signal("r", "go", "now")
        assert await (await engine.handle("r")).result(timeout="1s") == "now"


# fork


def forkable(app: App) -> Callable[[Workflow, int], Awaitable[Any]]:
    async def body(workflow: Workflow, data: int = 1) -> list[Any]:
        profile = await workflow.do("profile", "profile", data)
        await workflow.sleep("nap", "1d")
        await asyncio.sleep(60)
        mail = await workflow.do("mail", app.step("mail"))
        return [profile, mail, await workflow.do("bill", app.step("bill"), retries=1)]

    return body


@each_way
async def test_a_fork_shares_the_history_before_a_step(settings: dict[str, Any], db: Path) -> None:
    """What lies before is not executed, what comes then is; the source stays as it is."""
    app = App(db, **settings)
    app.broken = {"bill"}
    async with app.open(forkable(app)) as engine:
        await engine.start("flow", 5, run_id="r")
        assert await ended(engine) == "failed"
        before = await engine.get_run("r"), await engine.steps("r"), await engine.history("r")
        app.broken.clear()
        app.effects.clear()
        forked = await engine.fork("r", at="bill", new_run_id="f")
        assert forked.id == "f"
        assert await forked.result(timeout="900d") == [Profile(5), "mail", "bill"]
        assert app.effects == ["bill"]
        found = await engine.get_run("f")
        assert (found.forked_from, found.input) == ("r", 5)
        assert [step.name for step in await engine.steps("f")] == ["profile", "nap", "mail", "bill"]
        assert before == (await engine.get_run("r"), await engine.steps("r"), await engine.history("r"))


async def test_the_same_fork_again_is_the_same_run(db: Path) -> None:
    """Who does not know whether it was made asks again, also if the source has gone on since."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: int) -> list[Any]:
        async def chain() -> int:
            await workflow.do("first", lambda: data)
            return await workflow.do("second", lambda: 2)

        return await asyncio.gather(workflow.wait_for_signal("late"), chain())

    async with pikku.open(db) as engine:
        await engine.start(flow, 1, run_id="r")
        while [step.status for step in await engine.steps("r")].count("succeeded") < 2:
            await asyncio.sleep(0)
        plain: dict[str, Any] = {"at": "second", "new_run_id": "plain"}
        other: dict[str, Any] = {"at": "second", "new_run_id": "other", "overrides": {"first": 7}, "input": 5}
        assert (await engine.fork("r", **plain)).id == "plain"
        assert (await engine.fork("r", **other)).id == "other"
        await engine.signal("r", "late", 1)
        assert await (await engine.handle("r")).result("30s") == [1, 2]
        await engine.signal("plain", "late", 3)
        assert await (await engine.handle("plain")).result("30s") == [3, 2]
        for _ in range(2):
            assert (await engine.fork("r", **plain)).id == "plain"
            assert (await engine.fork("r", **other)).id == "other"
            for change in ({"at": "first"}, {"input": 5}, {"overrides": {"first": 7}}, {"new_run_id": "r"}):
                with pytest.raises(RunConflict, match="exists, and is not this fork; give it another id"):
                    await engine.fork("r", **(plain | change))
            with pytest.raises(RunConflict):
                await engine.fork("r", **(other | {"overrides": {"first": 8}}))
        assert len((await engine.list_runs()).runs) == 3


async def test_a_fork_can_have_another_input_and_other_values() -> None:
    """Overrides are typed as the step is."""
    app = App()
    async with app.open(forkable(app)) as engine:
        await engine.start("flow", 5, run_id="r")
        assert await ended(engine) == "completed"
        app.effects.clear()
        forked = await engine.fork("r", at="mail", overrides={"profile": {"id": 9}})
        assert await forked.result(timeout="900d") == [Profile(9), "mail", "bill"]
        assert app.effects == ["mail", "bill"]
        other = await engine.fork("r", at="profile", input=7)
        assert await other.result(timeout="900d") == [Profile(7), "mail", "bill"]
        assert (await engine.get_run(other.id)).input == 7


async def test_none_is_an_input_of_a_fork(db: Path) -> None:
    """Only what is left out is that of the run."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: int | None) -> int | None:
        return await workflow.do("echo", lambda: data)

    async with pikku.open(db) as engine:
        await engine.run("flow", 5, run_id="r")

        assert await (await engine.fork("r", at="echo", input=None)).result() is None
        assert await (await engine.fork("r", at="echo")).result() == 5


async def test_a_fork_of_concurrent_steps_executes_only_what_is_not_shared() -> None:
    """Outcomes of steps that were reached before are shared, whenever they came."""
    app = App()

    async def body(workflow: Workflow) -> list[Any]:
        slow = workflow.do("slow", lambda: asyncio.sleep(0.02, app.effects.append("slow")))
        first = await asyncio.gather(slow, workflow.do("fast", app.step("fast")))
        return [*first, await workflow.do("last", app.step("last"))]

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        assert await ended(engine) == "completed"
        app.effects.clear()
        forked = await engine.fork("r", at="fast")
        assert await forked.result(timeout="900d") == [None, "fast", "last"]
        assert app.effects == ["fast", "last"]


async def test_a_fork_from_a_step_that_has_just_begun() -> None:
    """`engine.steps` shows it, so it can be named, before it has a row in the file."""
    app = App()
    begun = asyncio.Event()

    async def hold() -> str:
        app.effects.append("held")
        begun.set()
        await asyncio.sleep(60 if len(app.effects) == 2 else 0)
        return "held"

    async def body(workflow: Workflow) -> list[Any]:
        return [await workflow.do("first", app.step("first")), await workflow.do("hold", hold)]

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        await begun.wait()
        assert [(step.name, step.status) for step in await engine.steps("r")][1] == ("hold", "running")
        forked = await engine.fork("r", at="hold")
        assert await forked.result(timeout="900d") == ["first", "held"]
        assert app.effects == ["first", "held", "held"]
        await engine.cancel("r", "enough")


async def test_a_fork_that_cannot_be_is_refused() -> None:
    """Before anything is written: names the step, what there is, and the id."""
    app = App()
    async with app.open(forkable(app)) as engine:
        await engine.start("flow", 5, run_id="r")
        assert await ended(engine) == "completed"
        with pytest.raises(ValueError, match=r"'nothing' is no step.*'profile'"):
            await engine.fork("r", at="nothing")
        with pytest.raises(ValueError, match=r"'bill' is no step with an outcome before 'mail'"):
            await engine.fork("r", at="mail", overrides={"bill": 1})
        with pytest.raises(ValueError, match=r"run 'r'.*'nap': it is a sleep"):
            await engine.fork("r", at="mail", overrides={"nap": 1})
        with pytest.raises(PayloadError, match=r"run 'r'.*'profile'.*\$\.id"):
            await engine.fork("r", at="mail", overrides={"profile": {"id": "x"}})
        with pytest.raises(PayloadError):
            await engine.fork("r", at="mail", input="five")
        for overrides in (["profile"], {0: 1}, "profile", 0):
            with pytest.raises(TypeError, match=r"overrides=.*a mapping of names of steps"):
                await engine.fork("r", at="mail", overrides=overrides)  # type: ignore[arg-type]
        with pytest.raises(RunConflict, match="'r' exists"):
            await engine.fork("r", at="mail", new_run_id="r")
        with pytest.raises(RunNotFound):
            await engine.fork("nobody", at="mail")
        assert len((await engine.list_runs()).runs) == 1


class Refund(msgspec.Struct):
    amount: int


async def approving(workflow: Workflow) -> Any:
    paid = await workflow.wait_for_signal("paid", Refund)
    answer = await workflow.approval("refund", Refund, timeout="1d")
    return await workflow.do("end", lambda: [paid.amount, repr(answer)])


@each_way
@pytest.mark.parametrize(
    ("given", "decided"),
    [
        (Refund(2), Decided(Refund(2))),
        ({"amount": 2}, Decided(Refund(2))),
        ({"decision": {"amount": 2}, "decided_by": "bob"}, Decided(Refund(2), "bob")),
        (Decided(Refund(2), "bob"), Decided(Refund(2), "bob")),
        (Expired(), Expired()),
    ],
    ids=repr,
)
async def test_a_fork_can_have_another_decision(settings: dict[str, Any], given: Any, decided: Any) -> None:
    """As the workflow gets it, or as it is sent."""
    app = App(**settings)
    async with app.open(approving) as engine:
        await engine.start("flow", run_id="r")
        await engine.signal("r", "paid", {"amount": 1})
        await engine.signal("r", "refund", {"amount": 1})
        assert await ended(engine) == "completed"
        forked = await engine.fork("r", at="end", overrides={"refund": given, "paid": {"amount": 7}})
        assert await forked.result(timeout="900d") == [7, repr(decided)]


async def test_what_does_not_fit_a_wait_is_refused_in_the_call() -> None:
    """Before anything is written, and not by a run that is parked."""
    app = App()
    async with app.open(approving) as engine:
        await engine.start("flow", run_id="r")
        await engine.signal("r", "paid", {"amount": 1})
        await engine.signal("r", "refund", {"amount": 1})
        assert await ended(engine) == "completed"
        for unfit in (False, None, (Refund(1), "bob"), Decided({"amount": "x"}), Decided(Refund(1), 5)):  # type: ignore[arg-type]
            with pytest.raises(PayloadError, match=r"'refund'.*no longer fits"):
                await engine.fork("r", at="end", overrides={"refund": unfit})
        with pytest.raises(PayloadError, match=r"'paid'.*no longer fits"):
            await engine.fork("r", at="end", overrides={"paid": "x"})
        for value in (Decided(Refund(1)), Expired()):
            with pytest.raises(ValueError, match=r"run 'r'.*'paid': it is no approval"):
                await engine.fork("r", at="end", overrides={"paid": value})
        assert len((await engine.list_runs()).runs) == 1


@each_way
async def test_a_fork_has_the_signals_that_came_before(settings: dict[str, Any]) -> None:
    """Those that no shared step has taken, in order, whoever took them later; what was waited for has to come again."""
    app = App(**settings)

    async def body(workflow: Workflow) -> Any:
        await workflow.wait_for_signal("begin")
        first = await workflow.wait_for_signal("go")
        await workflow.sleep("nap", "1h")
        await workflow.do("here", app.step("here"))
        rest = [await workflow.wait_for_signal("go", Refund) for _ in range(2)]
        return [first, *rest, await workflow.wait_for_signal("late")]

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        for payload in (1, {"amount": 2}, {"amount": 3}, {"amount": 4}):
            await engine.signal("r", "go", payload)
        await engine.signal("r", "begin")
        while (await engine.steps("r"))[-1].name != "late":
            await asyncio.sleep(0)
        await app.clock.advance("1h")
        await engine.signal("r", "late", 5)
        assert await ended(engine) == "completed"
        found = await engine.get_run("r")
        forked = await engine.fork("r", at="here")
        begun = await engine.get_run(forked.id)
        assert begun.starts_at == found.starts_at < begun.created_at
        while (await engine.steps(forked.id))[-1].name != "late":
            await asyncio.sleep(0)
        await engine.signal(forked.id, "late", 6)
        assert await forked.result(timeout="900d") == [1, Refund(2), Refund(3), 6]
        early = await engine.fork("r", at="late")
        await engine.signal(early.id, "late", 7)
        assert await early.result(timeout="900d") == [1, Refund(2), Refund(3), 7]


@each_way
async def test_a_signal_that_came_before_a_fork_is_not_lost_while_the_clock_stands(settings: dict[str, Any]) -> None:
    """Times do not tell whether the wait or the signal was first."""
    app = App(**settings)
    app.clock = VirtualClock()
    sent = asyncio.Event()

    async def slow() -> None:
        app.effects.append("slow")
        await sent.wait()

    async def body(workflow: Workflow) -> list[int]:
        await workflow.do("slow", slow)
        return [await workflow.wait_for_signal("go"), await workflow.wait_for_signal("go")]

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        while not app.effects:
            await asyncio.sleep(0)
        await engine.signal("r", "go", 1)
        sent.set()
        await app.clock.advance(0)
        await engine.signal("r", "go", 2)
        await app.clock.advance(0)
        assert (await engine.get_run("r")).output == [1, 2]
        for at in ("go", "go#1"):
            forked = await engine.fork("r", at=at)
            await app.clock.advance(0)
            await forked.signal("go", 3)
            await app.clock.advance(0)
            assert (await engine.get_run(forked.id)).output == [1, 3]


@each_way
async def test_a_signal_from_before_the_start_is_there_in_a_fork(settings: dict[str, Any]) -> None:
    """Also if nothing was recorded between it and the step that has taken it."""
    app = App(**settings)
    app.clock = VirtualClock()

    async def body(workflow: Workflow) -> int:
        return await workflow.wait_for_signal("go")

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r", delay="1h")
        await engine.signal("r", "go", 1)
        await app.clock.advance("1h")
        assert (await engine.get_run("r")).output == 1
        forked = await engine.fork("r", at="go")
        await app.clock.advance(0)
        assert (await engine.get_run(forked.id)).output == 1


@each_way
async def test_what_a_step_has_waited_for_is_not_there_in_a_fork_when_the_clock_was_set_back(
    db: Path, settings: dict[str, Any]
) -> None:
    """It was sent at an earlier time than that at which the step began to wait."""
    app = App(db, **settings)

    async def body(workflow: Workflow) -> int:
        return await workflow.wait_for_signal("go")

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
    app.clock = VirtualClock(app.clock.now() - timedelta(hours=1))
    async with app.open(body) as engine:
        await engine.signal("r", "go", 1)
        await app.clock.advance(0)
        assert (await engine.get_run("r")).output == 1
        forked = await engine.fork("r", at="go")
        await app.clock.advance(0)
        assert (await engine.get_run(forked.id)).status == "running"
        await forked.signal("go", 2)
        await app.clock.advance(0)
        assert (await engine.get_run(forked.id)).output == 2


@each_way
@pytest.mark.parametrize("decided", [True, False])
async def test_a_decision_that_came_before_a_fork_is_not_lost(settings: dict[str, Any], decided: bool) -> None:
    """One that did not fit is used up."""
    app = App(**settings)

    async def body(workflow: Workflow) -> Any:
        await workflow.wait_for_signal("begin")
        await workflow.do("here", app.step("here"))
        await workflow.sleep("nap", "1h")
        return repr(await workflow.approval("refund", Refund, timeout="1d"))

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        await engine.signal("r", "refund", "nonsense")
        if decided:
            await engine.signal("r", "refund", {"decision": {"amount": 1}, "decided_by": "bob"})
        await engine.signal("r", "begin")
        assert await ended(engine) == "completed"
        forked = await engine.fork("r", at="here")
        assert await forked.result(timeout="900d") == repr(Decided(Refund(1), "bob") if decided else Expired())


# changed code that is accepted


async def recorded(app: App) -> None:
    """A run that has done 'first' and 'second', and has slept as 'nap'; it waits for a signal."""

    async def body(workflow: Workflow) -> None:
        await workflow.do("first", app.step("first"))
        await workflow.do("second", app.step("second"))
        await workflow.sleep("nap", "1h")
        await workflow.wait_for_signal("go")

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        while len(await engine.steps("r")) < 4:
            await asyncio.sleep(0)
    app.effects.clear()


async def accepted(app: App, body: Callable[[Workflow], Awaitable[Any]]) -> tuple[Any, list[str], list[Any]]:
    """Output, steps and history after the new code was accepted, seen in another life."""
    async with app.open(body) as engine:
        await engine.signal("r", "look")  # a run that waits in the file is compared with the code when it wakes
        assert (await engine.get_run("r")).status == "suspended"
        await engine.resume("r")
        assert (await engine.get_run("r")).status == "suspended"
        assert app.effects == []
        with pytest.raises(ValueError, match="accept='old'"):
            await engine.resume("r", accept="old")  # type: ignore[arg-type]
        await engine.resume("r", accept="new")
        assert await ended(engine) == "completed"
    async with app.open(body) as engine:
        found = await engine.get_run("r")
        names = [step.name for step in await engine.steps("r")]
        return found.output, names, numbers(await engine.history("r"))


@each_way
async def test_accepted_code_executes_new_steps_and_keeps_outcomes(settings: dict[str, Any], db: Path) -> None:
    """An inserted step runs; those behind it keep what is recorded, and the sleep is not slept again."""
    app = App(db, **settings)
    await recorded(app)
    slept = app.clock.now()

    async def body(workflow: Workflow) -> list[Any]:
        first = await workflow.do("first", app.step("first"))
        new = await workflow.do("new", app.step("new"))
        second = await workflow.do("second", app.step("second"))
        await workflow.sleep("nap", "1h")
        return [first, new, second]

    output, names, _ = await accepted(app, body)
    assert output == ["first", "new", "second"]
    assert names == ["first", "new", "second", "nap"]
    assert app.effects == ["new"]
    assert app.clock.now() == slept


@each_way
async def test_removed_steps_are_kept_as_evidence(settings: dict[str, Any], db: Path) -> None:
    """They are no steps of the run any more, but show in its history; a renamed one executes."""
    app = App(db, **settings)
    await recorded(app)

    async def body(workflow: Workflow) -> list[Any]:
        return [await workflow.do("2nd", app.step("2nd")), await workflow.do("first", app.step("first"))]

    output, names, history = await accepted(app, body)
    assert output == ["2nd", "first"]
    assert names == ["2nd", "first"]
    assert app.effects == ["2nd"]
    assert sorted(history) == [("2nd", 1, "succeeded"), ("first", 1, "succeeded"), ("second", 1, "succeeded")]


async def test_a_step_of_another_kind_is_another_step(db: Path) -> None:
    """Its outcome is not taken over."""
    app = App(db)
    await recorded(app)

    async def body(workflow: Workflow) -> Any:
        await workflow.do("first", app.step("first"))
        return await workflow.do("second", "profile", 3)

    output, names, _ = await accepted(app, body)
    assert (output, names) == (Profile(3), ["first", "second"])


async def test_accepting_what_fits_is_an_ordinary_resume(db: Path) -> None:
    """A gate opens; nothing is set aside."""
    app = App(db)

    async def body(workflow: Workflow) -> str:
        await workflow.suspend("gate")
        return "through"

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        while (await engine.get_run("r")).status != "suspended":
            await asyncio.sleep(0)
        await engine.resume("r", accept="new")
        assert await ended(engine) == "completed"


# workflow.changed


@each_way
async def test_changed_is_false_for_runs_that_were_past_the_place(settings: dict[str, Any], db: Path) -> None:
    """And true for runs that were not, and for new ones; each run stays with its answer over restarts."""
    app = App(db, **settings)
    app.clock = VirtualClock()

    async def old(workflow: Workflow, data: bool) -> list[str]:
        if data:
            await workflow.do("before", app.step("before"))
            await workflow.do("old way", app.step("old way"))
        await workflow.wait_for_signal("go")
        return ["old"]

    async def new(workflow: Workflow, data: bool) -> list[Any]:
        seen: list[Any] = []
        if not data:
            await workflow.wait_for_signal("go")
        await workflow.do("before", app.step("before"))
        seen.append(workflow.changed("way"))
        if seen[0]:
            await workflow.do("new way", app.step("new way"))
        else:
            await workflow.do("old way", app.step("old way"))
        if data:
            await workflow.wait_for_signal("go")
        return [*seen, workflow.changed("way"), workflow.changed("other")]

    async with app.open(old) as engine:
        await engine.start("flow", True, run_id="past")
        await engine.start("flow", False, run_id="before")
        await app.clock.advance(0)
    app.effects.clear()
    for _ in range(2):
        async with app.open(new) as engine:
            await engine.start("flow", True, run_id="new")
            await app.clock.advance(0)
            assert {run.status for run in (await engine.list_runs()).runs} == {"running"}
    async with app.open(new) as engine:
        for run_id, way in (("past", False), ("before", True), ("new", True)):
            await engine.signal(run_id, "go")
            assert await (await engine.handle(run_id)).result(timeout="1s") == [way, way, True]
    assert sorted(app.effects) == ["before", "before", "new way", "new way"]


@each_way
async def test_changed_is_false_for_a_run_that_waits_behind_the_place(settings: dict[str, Any], db: Path) -> None:
    """Nothing that is recorded of it has an outcome: that it waits is what shows that it was past the place."""
    app = App(db, **settings)
    app.clock = VirtualClock()

    async def old(workflow: Workflow) -> list[Any]:
        return [await workflow.wait_for_signal("go")]

    async def new(workflow: Workflow) -> list[Any]:
        way = workflow.changed("way")
        if way:
            await workflow.do("new way", app.step("new way"))
        return [way, await workflow.wait_for_signal("go")]

    async with app.open(old) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    async with app.open(new) as engine:
        await app.clock.advance(0)
        assert (await engine.get_run("r")).status == "running"
        await engine.signal("r", "go", 1)
        await app.clock.advance(0)
        run = await engine.get_run("r")
    assert (run.status, run.reason, run.output) == ("completed", None, [False, 1])


@pytest.mark.parametrize("change_id", [None, 5, "", "x\n", "y" * 300])
async def test_a_bad_change_id_is_refused(change_id: Any) -> None:
    """TypeError or ValueError in the call, naming the run."""
    app = App()

    async def body(workflow: Workflow) -> str:
        with pytest.raises((TypeError, ValueError), match=r"changed\(.*of run 'r'"):
            workflow.changed(change_id)
        return "refused"

    async with app.open(body) as engine:
        assert await engine.run("flow", run_id="r") == "refused"


# A workflow that is gone


@each_way
async def test_a_run_whose_workflow_is_gone_keeps_signals_and_timers(settings: dict[str, Any], db: Path) -> None:
    """C113: suspended with a reason that names it; it goes on by itself at the next open that has it."""
    app = App(db, **settings)
    app.clock = VirtualClock()

    async def body(workflow: Workflow) -> list[Any]:
        timer = workflow.sleep("nap", "1h")
        got = await workflow.wait_for_signal("go")
        await timer
        return [got]

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    other = Pikku()
    async with other.open(db, clock=app.clock, **settings) as engine:
        await engine.signal("r", "go", "kept")
        await app.clock.advance("2h")
        found = await engine.get_run("r")
        assert found.status == "suspended"
        assert "'flow'" in str(found.reason)
    async with app.open(body) as engine:
        await app.clock.advance(0)
        assert await (await engine.handle("r")).result(timeout="1s") == ["kept"]


async def test_a_run_that_is_deleted_while_it_is_retried_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry that comes second says so, and so does a fork; a child that was deleted alone makes it a state error."""
    app = App()
    app.broken.add("b")

    async def child(workflow: Workflow) -> str:
        return str(await workflow.do("b", app.step("b")))

    async def body(workflow: Workflow) -> str:
        return str(await workflow.do("part", "child"))

    async with app.open(body, child=child) as engine:
        for run_id in ("r", "s", "t"):
            await engine.start("flow", run_id=run_id)
            assert await ended(engine, run_id) == "failed"
        assert engine._parts is not None
        journal = engine._parts.host.journal
        attempt_rows, doomed = journal.attempt_rows, ["r"]

        async def deleted_meanwhile(number: int) -> Any:
            rows = await attempt_rows(number)
            if doomed and number == (await engine._parts.row(doomed[0])).number:  # type: ignore[union-attr]
                await engine.delete_run(doomed.pop())
            return rows

        monkeypatch.setattr(journal, "attempt_rows", deleted_meanwhile)
        with pytest.raises(RunNotFound):
            await engine.retry("r")
        doomed.append("s")
        with pytest.raises(RunNotFound):
            await engine.fork("s", at="part")
        doomed.append("t/part")
        with pytest.raises(RunStateError, match=r"'t'.*child run"):
            await engine.retry("t")
        app.broken.clear()
        assert (await engine.get_run("t")).status == "failed"


async def test_a_fork_from_the_first_step_begins_at_once_after_the_clock_was_set_back(db: Path) -> None:
    """I9: the time at which the other body began is of no meaning to it."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        return await workflow.do("step", lambda: "done")

    async with pikku.open(db, clock=VirtualClock()) as engine:
        await engine.run(flow, run_id="r")
    earlier = VirtualClock(VirtualClock().now() - timedelta(hours=1))
    async with pikku.open(db, clock=earlier) as engine:
        forked = await engine.fork("r", at="step")

        assert await asyncio.wait_for(forked.result(), 10) == "done"


@each_way
async def test_a_retried_run_whose_start_is_to_come_again_waits_for_it(settings: dict[str, Any]) -> None:
    """I9, I-41: it had begun, and failed without a step; then the clock was set back to before its start."""
    pikku, clock, did, broken = Pikku(), VirtualClock(), list[int](), [True]

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        if broken:
            raise ValueError("not yet")
        await workflow.do("work", lambda: did.append(1))
        return "done"

    async with pikku.open(":memory:", clock=clock, **settings) as engine:
        handle = await engine.start(flow, delay="1min")
        await clock.advance("1min")
        assert await handle.status() == "failed"
        broken.clear()
        clock._now_us -= 3_600_000_000
        await engine.retry(handle.id)
        await clock.advance("59min")
        assert (await handle.status(), did) == ("running", [])
        await clock.advance("2min")
        assert (await handle.status(), did) == ("completed", [1])


@each_way
async def test_a_fork_has_all_attempts_of_a_step_that_changed_code_has_moved(
    settings: dict[str, Any], db: Path
) -> None:
    """I6, I-15: also those from before the changed code was accepted."""
    clock, tries = VirtualClock(), list[int]()

    def fail_once() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("once")
        return "charged"

    def shop(*, changed: bool) -> Pikku:
        pikku = Pikku()

        @pikku.workflow
        async def order(workflow: Workflow) -> None:
            for name in ("Charge", "Pack") if changed else ("Pack", "Charge"):
                await workflow.do(name, fail_once if name == "Charge" else str, retries=1, retry_delay="1min")

        return pikku

    async with shop(changed=False).open(db, clock=clock, **settings) as engine:
        await engine.start("order", run_id="r")
        await clock.advance(0)
    async with shop(changed=True).open(db, clock=clock, **settings) as engine:
        await clock.advance("1min")
        await engine.resume("r", accept="new")
        await clock.advance(0)
        handle = await engine.fork("r", at="Pack", new_run_id="fork")
        await handle.result()
        for run_id in ("r", "fork"):
            told = [(one.step_name, one.attempt, one.status) for one in await engine.history(run_id)]
            assert [one for one in told if one[0] == "Charge"] == [("Charge", 1, "failed"), ("Charge", 2, "succeeded")]
        [step, _] = await engine.steps("fork")
        assert (step.name, step.attempts) == ("Charge", 2)
