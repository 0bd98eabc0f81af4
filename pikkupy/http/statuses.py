"""How a run stands, as the routes of the original tell it: once, or again whenever that has changed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
from starlette.responses import Response

from pikkupy.clock import monotonic_s
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import RunStatus
from pikkupy.engine import Run
from pikkupy.errors import RunNotFound
from pikkupy.http.asked import Ask, encoded
from pikkupy.http.streams import Pulse, streamed

MOMENT_S = 0.1  # what happens within it is told together
SHARE = 10  # times as long as a look has taken, if that is more: looks take a tenth of the time at most


class StatusOfRun(msgspec.Struct, frozen=True):
    """What the routes of the original say of a run."""

    id: str
    workflow: str
    status: RunStatus
    output: Any
    error: Any
    steps: list[dict[str, Any]]


TOLD = [name for name in StatusOfRun.__struct_fields__ if name != "steps"]


class _Told(NamedTuple):
    """One status of a stream."""

    text: str
    number: int
    """Made of the text: who has seen this status knows it by that, also in another life of the engine."""


async def status_of(ask: Ask) -> msgspec.Raw:
    """How the run stands, as JSON of a `StatusOfRun`. Raises `RunNotFound`, also for a run of another workflow."""
    run = await _run(ask)
    steps = await encoded(await ask.engine.steps(run.id), ask.shown)
    shown = ask.shown(run)
    return msgspec.Raw(msgspec.json.encode({name: shown[name] for name in TOLD} | {"steps": steps}))


async def statuses_of(ask: Ask) -> Response:
    """How it stands, if who asks has not seen that, and again whenever it has changed. Raises `RunNotFound`."""
    seen = ask.last_seen.after
    ended = (await _run(ask)).status in FINAL_RUNS

    def statuses() -> AsyncIterator[_Told]:
        return _last_one(ask, seen) if ended else _changes(ask, seen)

    return await streamed(ask, statuses, lambda one: one.text, lambda _: "status", lambda one: str(one.number), ended)


async def _run(ask: Ask) -> Run:
    run_id, workflow = ask.run_id, ask.workflow
    run = await ask.engine.get_run(run_id)
    if run.workflow != workflow:
        raise RunNotFound(f"no run of workflow {workflow!r} with the id {run_id!r}")
    return run


async def _told(ask: Ask) -> _Told:
    text = bytes(await status_of(ask))
    return _Told(text.decode(), int.from_bytes(hashlib.sha256(text).digest()[:7]))


async def _last_one(ask: Ask, seen: int | None) -> AsyncIterator[_Told]:
    told = await _told(ask)
    if told.number != seen:
        yield told


async def _changes(ask: Ask, seen: int | None) -> AsyncIterator[_Told]:
    """Each status that differs from the one before, up to the one after the end of the run."""
    pulse = Pulse(ask.engine.run_events(ask.run_id))
    try:
        goes_on = True
        while True:
            began = monotonic_s()
            told = await _told(ask)
            took_s = monotonic_s() - began
            if told.number != seen:
                yield told
            seen = told.number
            if not goes_on:
                return
            goes_on = await pulse.beat(max(MOMENT_S, SHARE * took_s))
    finally:
        await pulse.leave()
