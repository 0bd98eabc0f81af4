"""Each public call as a user would write it. Not run: mypy --strict and basedpyright check the inferred types."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal, assert_type
from uuid import UUID

import msgspec

from pikkupy import (
    Attempt,
    Chunk,
    Config,
    Decided,
    Encoded,
    Engine,
    Event,
    EventKind,
    Expired,
    Page,
    PayloadContext,
    Pikku,
    Run,
    RunHandle,
    Services,
    Step,
    StepContext,
    Workflow,
    WorkflowInfo,
    current_step,
)
from pikkupy.core.model import RunStatus
from pikkupy.encryption import AesGcm
from pikkupy.testing import VirtualClock


class NewUser(msgspec.Struct):
    email: str


class Profile(msgspec.Struct):
    id: int


class CrmClient:
    async def create(self, email: str) -> Profile:
        return Profile(len(email))


class AppServices(Services):
    crm: CrmClient


class Reversing:
    def encode(self, text: str, context: PayloadContext) -> Encoded:
        return Encoded(context.run_id, text[::-1].encode())

    def decode(self, encoded: Encoded, context: PayloadContext) -> str:
        return encoded.data.decode()[::-1]


pikku = Pikku()


@pikku.function
async def create_profile(services: AppServices, data: NewUser) -> Profile:
    assert_type(services.crm, CrmClient)
    assert_type(services.workflow_step, StepContext | None)
    services.logger.info("creating", email=data.email)
    if services.workflow_step is not None:
        assert_type(services.workflow_step.emit({"any": ["value", data]}), None)
        services.workflow_step.progress(0.5)
        services.workflow_step.progress("half way")
    return await services.crm.create(data.email)


@pikku.function(name="processPayment", worker="process")
def process_payment(services: Services, data: dict[str, int]) -> bool:
    return data["amount"] > 0


@pikku.function
def no_data(services: Services) -> int:
    return 1


@pikku.workflow
async def child(workflow: Workflow, data: int) -> list[str]:
    return [str(data)]


@pikku.workflow(name="onboarding")
async def onboarding(workflow: Workflow, data: NewUser) -> str:
    assert_type(await workflow.do("RPC", create_profile, data, retries=3, retry_delay="1s"), Profile)
    assert_type(await workflow.do("RPC", process_payment, {"amount": 1}), bool)
    assert_type(await workflow.do("RPC without data", no_data), int)
    assert_type(await workflow.do("by name", "processPayment", {"amount": 1}), Any)
    assert_type(await workflow.do("by name, typed", "processPayment", {"amount": 1}, result_type=bool), bool)
    assert_type(await workflow.do("child", child, 5), list[str])

    async def inline() -> Profile:
        return Profile(1)

    assert_type(await workflow.do("coroutine function", inline, timeout="5s", backoff="exponential"), Profile)
    assert_type(await workflow.do("lambda", lambda: 5, jitter=0.5, max_retry_delay=timedelta(hours=1)), int)
    assert_type(await workflow.do("lambda of a coroutine", lambda: inline(), at_most_once=True), Profile)
    assert_type(await workflow.do("typed inline", lambda: {"id": 1}, result_type=Profile), Profile)
    first, second = await asyncio.gather(workflow.do("a", inline), workflow.do("b", lambda: "text"))
    assert_type(first, Profile)
    assert_type(second, str)
    await workflow.sleep("text", "5min")
    await workflow.sleep("milliseconds", 5000)
    await workflow.sleep_until("moment", datetime(2030, 1, 1, tzinfo=UTC))
    assert_type(workflow.now(), datetime)
    assert_type(workflow.random(), Random)
    assert_type(workflow.uuid4(), UUID)
    assert_type(workflow.run_id, str)
    assert_type(workflow.name, str)
    workflow.logger.info("hello", user=data.email)
    if not data.email:
        workflow.cancel("no address")
    return data.email


class Refund(msgspec.Struct):
    amount: int


@pikku.workflow
async def refund(workflow: Workflow, data: NewUser) -> int:
    assert_type(await workflow.wait_for_signal("paid", Refund), Refund)
    assert_type(await workflow.wait_for_signal("paid", timeout="1h"), Any)
    maybe: int | None = await workflow.wait_for_signal("perhaps", int | None)
    word = await workflow.approval("word", Literal["yes", "no"])
    number: int | None = await workflow.do("maybe", "lookup", 1, result_type=int | None)
    assert word is not None and maybe == number
    answer = await workflow.approval("refund", Refund, timeout="1d")
    assert_type(answer, Decided[Refund] | Expired)
    assert_type(await workflow.suspend("look"), None)
    assert_type(workflow.changed("other-way"), bool)
    workflow.progress(0.5)
    workflow.progress("half")
    assert_type(await workflow.do("Onboard", onboarding, data), str)
    assert_type(await workflow.do("Night", nightly, retries=2), None)
    match answer:
        case Decided(decision, decided_by):
            assert_type(decision, Refund)
            assert_type(decided_by, str | None)
            return decision.amount
        case Expired():
            return 0


@pikku.workflow
async def nightly(workflow: Workflow) -> None:
    await workflow.sleep("Wait", "1d")


async def main() -> None:
    assert_type(current_step(), StepContext | None)
    async with pikku.open("app.db", services=AppServices(), durability="process", shutdown_grace="5s") as engine:
        assert_type(engine, Engine)
        assert_type(await engine.run(onboarding, NewUser("ada@x.io")), str)
        assert_type(await engine.run(nightly), None)
        assert_type(await engine.run("onboarding", {"email": "ada@x.io"}), Any)
        run = await engine.start(onboarding, NewUser("ada@x.io"), run_id="r")
        assert_type(run, RunHandle[str])
        moment = datetime(2031, 1, 1, tzinfo=UTC)
        assert_type(await engine.start(onboarding, NewUser("b"), tags={"customer": "7"}, at=moment), RunHandle[str])
        assert_type(await engine.start(nightly, delay="2h"), RunHandle[None])
        assert_type(await engine.start("onboarding", {"email": "c"}, delay=timedelta(hours=2)), RunHandle[Any])
        assert_type(await engine.run(onboarding, NewUser("d"), tags={"customer": "7"}), str)
        assert_type(await engine.run(nightly, tags={}), None)
        assert_type(await engine.run("nightly", tags={"a": "b"}), Any)
        assert_type((await engine.get_run("r")).tags, dict[str, str])
        assert_type((await engine.get_run("r")).starts_at, datetime)
        assert_type(await run.result(timeout="5s"), str)
        assert_type(await run.status() == "running", bool)
        await run.cancel("enough")
        assert_type(await engine.handle("r"), RunHandle[Any])
        assert_type(await engine.get_run("r"), Run)
        assert_type(await engine.workflows(), list[WorkflowInfo])
        page = await engine.list_runs(workflow=onboarding, status="running", limit=10, cursor=None)
        assert_type(page, Page)
        found = await engine.list_runs(
            status=["failed", RunStatus.CANCELLED],
            tags={"customer": "7"},
            id_prefix="order:",
            error="CardDeclined",
            created_after=moment,
            created_before=moment,
        )
        assert_type(found, Page)
        assert_type(await engine.counts(), dict[str, dict[RunStatus, int]])
        assert_type(await engine.prune(older_than="30d"), int)
        assert_type(await engine.prune(older_than=5, statuses=["failed"], keep=10, progress=print), int)
        assert_type(page.next_cursor, str | None)
        assert_type(await engine.steps("r"), list[Step])
        assert_type(await engine.history("r"), list[Attempt])
        async for chunk in engine.stream("r", after=5, step="RPC", current=True):
            assert_type(chunk, Chunk)
            assert_type((chunk.offset, chunk.step_name, chunk.attempt, chunk.since), tuple[int, str, int, int])
            assert_type(chunk.at, datetime)
        async for chunk in run.stream(after=5, step="RPC", current=True):
            assert_type(chunk, Chunk)
        assert_type((await engine.steps("r"))[0].progress, float | str | None)
        await engine.cancel("r", "enough")
        await engine.resume("r")
        await engine.resume("r", accept="new")
        await engine.retry("r")
        await engine.signal("r", "paid", {"amount": 1})
        await run.signal("paid")
        await engine.approve("r", "refund", Refund(1), decided_by="ada")
        await run.approve("refund", {"amount": 1})
        assert_type(await engine.fork("r", at="RPC", overrides={"RPC": 1}, new_run_id="f"), RunHandle[Any])
        async for event in run.events(after=5):
            assert_type(event, Event)
            assert_type((event.seq, event.kind, event.wake_at), tuple[int, EventKind, datetime | None])
        async for event in engine.events():
            assert_type(event.run_id, str)
        await engine.delete_run("r")
    clock = VirtualClock(start=datetime(2030, 1, 1, tzinfo=UTC), autojump=True)
    async with pikku.open(":memory:", payload_codec=AesGcm({"k": bytes(32)}, current="k")):
        pass
    async with pikku.open(":memory:", payload_codec=Reversing()):
        pass
    async with pikku.open(":memory:", clock=clock, config=Config(max_payload=1_000)):
        await clock.advance("5min")
        assert_type(clock.now(), datetime)
    assert_type(await create_profile(AppServices(), NewUser("ada@x.io")), Profile)
    assert_type(process_payment(Services(), {"amount": 1}), bool)
