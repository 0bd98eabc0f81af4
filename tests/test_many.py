"""What is done to many runs: a parent before its children (`pikkupy.many`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Engine, EngineClosed, Pikku, Run, RunNotFound, RunStateError, StepFailed, Workflow
from pikkupy.errors import PikkuError
from pikkupy.many import Child, Many, Verb, child_of

pikku = Pikku()
made_up_for: list[str] = []


@pikku.workflow
async def child(workflow: Workflow, data: str) -> None:
    if data == "fail":
        raise ValueError(data)
    await workflow.wait_for_signal("never")


@pikku.workflow
async def middle(workflow: Workflow, data: str) -> None:
    await workflow.do("child", child, data)


@pikku.workflow
async def parent(workflow: Workflow, data: str) -> None:
    try:
        await workflow.do("middle", middle, data)
    except StepFailed:
        if data == "fail":
            raise
        await workflow.do("make up", lambda: made_up_for.append(workflow.run_id))


async def families(engine: Engine, count: int, data: str = "wait") -> dict[str, Child | None]:
    """So many parents, each with a child and a child of that, as a list shows them: the newest first."""
    for number in range(count):
        await engine.start(parent, data, run_id=f"p{number}")
    while True:
        page = await engine.list_runs(limit=500, status="failed" if data == "fail" else "running")
        if len(page.runs) == 3 * count:
            return {run.id: child_of(run) for run in page.runs}


def many(verb: Verb, act: Callable[[str], Awaitable[object]], asked: Any, told: list[str] | None = None) -> Many:
    def tell(run_id: str, error: PikkuError | None) -> None:
        (told if told is not None else []).append(f"{run_id}: {error}")

    return Many(verb, act, asked, 16, tell)


def cancelling(engine: Engine) -> Callable[[str], Awaitable[object]]:
    return lambda run_id: engine.cancel(run_id, "enough")


async def test_parents_are_cancelled_before_their_children(db: Path) -> None:
    """Or the child would fail its parent's step, and what makes up for that would run."""
    made_up_for.clear()
    async with pikku.open(db) as engine:
        runs = await families(engine, 20)
        told: list[str] = []
        cancel = many("cancel", cancelling(engine), engine, told)
        await cancel.to(runs)

        assert (sorted(cancel.done), cancel.refused, cancel.gone) == (sorted(runs), {}, None)
        assert sorted(told) == sorted(f"{run_id}: None" for run_id in runs)
        assert {run.status for run in (await engine.list_runs(limit=500)).runs} == {"cancelled"}
    assert made_up_for == []


async def test_one_between_need_not_be_meant(db: Path) -> None:
    """A filter by workflow leaves it out."""
    made_up_for.clear()
    async with pikku.open(db) as engine:
        runs = await families(engine, 20)
        meant = {run_id: above for run_id, above in runs.items() if (await engine.get_run(run_id)).workflow != "middle"}
        cancel = many("cancel", cancelling(engine), engine)
        await cancel.to(meant)

        assert (sorted(cancel.done), cancel.refused) == (sorted(meant), {})
        assert {run.status for run in (await engine.list_runs(limit=500)).runs} == {"cancelled"}
    assert made_up_for == []


async def retried(engine: Engine, runs: Mapping[str, Child | None]) -> tuple[Many, list[str]]:
    """What has become of them, and which of them the engine was asked to retry."""
    acted: list[str] = []

    async def act(run_id: str) -> None:
        acted.append(run_id)
        await engine.retry(run_id)

    retry = many("retry", act, engine)
    await retry.to(runs)
    return retry, acted


async def test_children_are_retried_with_their_parents(db: Path) -> None:
    """Not by themselves: the parent's retry would find a child that has failed again, or is under way."""
    async with pikku.open(db) as engine:
        runs = await families(engine, 5, "fail")
        retry, acted = await retried(engine, runs)

        assert (sorted(retry.done), retry.refused) == (sorted(runs), {})
        assert acted == [f"p{number}" for number in range(5)]


@pikku.workflow
async def bears(workflow: Workflow, data: str) -> None:
    """Its own failure is another one than its child's."""
    with suppress(StepFailed):
        await workflow.do("child", child, data)
    raise ValueError("of its own")


async def test_a_child_that_has_not_caused_the_failure_is_retried_itself(db: Path) -> None:
    """The engine retries it with its parent only if it has."""
    async with pikku.open(db) as engine:
        for number in range(3):
            await engine.start(bears, "fail", run_id=f"p{number}")
        while len((await engine.list_runs(status="failed")).runs) < 6:
            pass
        runs = {run.id: child_of(run) for run in (await engine.list_runs()).runs}
        retry, acted = await retried(engine, runs)

        assert (sorted(retry.done), retry.refused) == (sorted(runs), {})
        assert sorted(acted) == sorted(runs)


async def test_children_are_deleted_with_their_parents(db: Path) -> None:
    async with pikku.open(db) as engine:
        runs = await families(engine, 5, "fail")
        delete = many("delete", engine.delete_run, engine)
        await delete.to(runs)

        assert (sorted(delete.done), delete.refused) == (sorted(runs), {})
        assert not (await engine.list_runs()).runs


class Runs:
    """Runs of a test, by id, with their parents."""

    def __init__(self, **parents: str | None) -> None:
        self.parents = parents

    async def get_run(self, run_id: str) -> Run:
        if run_id not in self.parents:
            raise RunNotFound(f"no run {run_id!r}")
        answer: Any = type("Run", (), {"parent_run_id": self.parents[run_id], "status": "running"})
        return answer  # type: ignore[no-any-return]


@pytest.mark.parametrize("verb", ["cancel", "retry", "resume", "delete"])
async def test_where_the_parent_is_refused_the_child_is_asked_itself(verb: Verb) -> None:
    """And is refused itself."""
    acted: list[str] = []

    async def act(run_id: str) -> None:
        acted.append(run_id)
        raise RunStateError(f"run {run_id!r} is running")

    refused = many(verb, act, Runs(p=None, c="p"))
    await refused.to({"c": Child("p"), "p": None})

    assert (acted, list(refused.refused), refused.done) == (["p", "c"], ["p", "c"], [])


async def test_a_suspended_child_is_resumed_itself() -> None:
    """Its parent does not do that."""
    acted: list[str] = []

    async def act(run_id: str) -> None:
        acted.append(run_id)

    await many("resume", act, Runs(p=None, c="p")).to({"c": Child("p"), "p": None})

    assert acted == ["p", "c"]


async def test_when_the_engine_goes_nothing_more_is_asked_for() -> None:
    """What was done until then is known, and what is left can be counted."""

    async def act(run_id: str) -> None:
        if run_id == "r30":
            raise EngineClosed("it was left")

    runs = {f"r{number}": None for number in reversed(range(100))}
    some = many("cancel", act, Runs())
    await some.to(runs)

    assert str(some.gone) == "it was left"
    assert len(some.done) < 50
    assert some.refused == {}


async def test_a_parent_that_is_gone_is_above_nobody() -> None:
    """It was deleted meanwhile."""
    acted: list[str] = []

    async def act(run_id: str) -> None:
        acted.append(run_id)

    await many("cancel", act, Runs()).to({"c": Child("gone")})

    assert acted == ["c"]
