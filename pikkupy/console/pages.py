"""The pages, each an operation of the table: what it shows is what the engine's methods say."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.responses import RedirectResponse, Response

from pikkupy.clock import monotonic_s, now
from pikkupy.console import door, steering
from pikkupy.console.drawing import drawing_of
from pikkupy.console.finding import Find, counts_of, exactly, rows_of
from pikkupy.console.notes import page_after
from pikkupy.console.overview import overview_of
from pikkupy.console.rendering import HOME, STATIC, page, problem_page, rendered, static_version
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import RunStatus
from pikkupy.engine import Attempt
from pikkupy.errors import EngineClosed
from pikkupy.http.asked import Ask
from pikkupy.http.guard import quoted
from pikkupy.http.operations import Operation, operation
from pikkupy.http.problems import Refused
from pikkupy.http.streams import streamed
from pikkupy.mounting import Scope
from pikkupy.showing.mismatch import mismatch_of, why_parked
from pikkupy.showing.waits import took, waits_for
from pikkupy.showing.words import first_line

LIVE_S = 1.0  # from one look at what has changed to the next
SHARE = 20  # times as long as a look has taken, whatever there is to see: what is live takes a twentieth at most
STEPS = 200  # of a page
TRIED = 20  # attempts of a step that are shown: its last ones
TRACEBACKS = 200  # of a page, beside those of the steps themselves
EVENTS = 200  # of a page
KINDS = {".js": "text/javascript", ".css": "text/css", ".txt": "text/plain", ".json": "application/json"}


class ShowRun(msgspec.Struct):
    """What of a run is to be shown."""

    page: int = 0
    """Of its steps; 0: the last."""
    failed: bool = False


class ShowEvents(msgspec.Struct):
    """Which events."""

    after: int = -1
    """The `seq` of the one before; -1: from the beginning."""


async def _runs_values(ask: Ask, find: Find) -> dict[str, Any]:
    rows, cursor = await rows_of(ask, find)
    by_workflow = await counts_of(ask)
    chosen = [by_workflow.get(find.workflow, {})] if find.workflow else list(by_workflow.values())
    chips: dict[RunStatus, int | None] = dict.fromkeys(RunStatus)
    if find.is_counted:
        chips = {status: sum(one.get(status, 0) for one in chosen) for status in RunStatus}
    elif not (find.cursor or cursor):  # these are all of them
        for status in find.statuses or RunStatus:
            chips[RunStatus(status)] = sum(row.run.status == status for row in rows)
    return {"find": find, "rows": rows, "cursor": cursor, "workflows": sorted(by_workflow), "chips": chips}


@operation("GET", HOME, Scope.READ, {200: None}, problem=problem_page)
async def runs_page(ask: Ask) -> Response:
    """The list of runs."""
    find = ask.query(Find)
    if find.q and (run := await exactly(ask, find)) is not None:
        return RedirectResponse(f"{ask.base}/console/runs/{quoted(run.id)}", 303)
    return page_after(ask, "", "runs.html", **await _runs_values(ask, find), live=ask.request.url.query)


@operation("GET", "/console/live", Scope.READ, {200: None}, stream=True, problem=problem_page)
async def runs_live(ask: Ask) -> Response:
    """The list, again whenever it has changed."""
    return await _live(ask, "_runs.html", partial(_runs_values, ask, ask.query(Find)))


async def _run_values(ask: Ask, show: ShowRun, decisions: steering.Decisions) -> dict[str, Any]:
    run = await ask.engine.get_run(ask.run_id)
    found = await ask.engine.some_steps(run.id, limit=STEPS, with_errors=show.failed)
    pages = max(1, -(-found.in_all // STEPS))
    number = min(show.page or pages, pages)
    if number > 1:
        found = await ask.engine.some_steps(run.id, first=(number - 1) * STEPS, limit=STEPS, with_errors=show.failed)
    by_step: defaultdict[str, list[Attempt]] = defaultdict(list)
    for attempt in found.attempts:
        by_step[attempt.step_name].append(attempt)
    tried = _tried(ask, [attempt for of_step in by_step.values() for attempt in of_step[-TRIED:]])
    at = now()
    waiting = [] if run.status in FINAL_RUNS else (await ask.engine.open_steps([run.id])).get(run.id, [])
    shown = ask.shown(run)
    decided = await decisions.of(run, waiting)
    actions = steering.actions_for(ask, run, decided or ())
    why_not = defaultdict[str, list[str]](list)
    for action in actions:
        if action.why_not is not None:
            why_not[action.why_not].append(action.label)
    return {
        "run": run,
        "shown": shown,
        "took": took(run, at),
        "mismatch": mismatch_of(shown["reason"]),
        "waits": [] if why_parked(run) else [ask.shown.text(waits_for(step, at, decided)) for step in waiting[:5]],
        "waiting": len(waiting),
        "steps": [(step, ask.shown(step), tried.get(step.name, [])) for step in found.steps],
        "drawing": drawing_of(run, found.steps, by_step, at, whole=pages == 1 and not show.failed),
        "in_all": found.in_all,
        "pages": pages,
        "number": number,
        "show": show,
        "actions": actions,
        "why_not": why_not,
    }


def _tried(ask: Ask, attempts: Sequence[Attempt]) -> dict[str, list[tuple[Attempt, dict[str, Any] | None]]]:
    """By step its attempts with what went wrong; of the last `TRACEBACKS` of them in full length."""
    found = defaultdict[str, list[tuple[Attempt, dict[str, Any] | None]]](list)
    for left, attempt in zip(range(len(attempts), 0, -1), attempts, strict=True):
        wrong = ask.shown(attempt)["error"]
        if wrong is not None and left > TRACEBACKS:
            wrong |= {"message": first_line(wrong["message"]), "traceback": None}
        found[attempt.step_name].append((attempt, wrong))
    return found


@operation("GET", "/console/runs/{run_id}", Scope.READ, {200: None}, problem=problem_page)
async def run_page(ask: Ask) -> Response:
    """One run."""
    values = await _run_values(ask, ask.query(ShowRun), steering.Decisions(ask))
    return page_after(ask, f"runs/{quoted(ask.run_id)}", "run.html", **values, live=ask.request.url.query)


@operation("GET", "/console/runs/{run_id}/live", Scope.READ, {200: None}, stream=True, problem=problem_page)
async def run_live(ask: Ask) -> Response:
    """One run, again whenever it has changed."""
    values = partial(_run_values, ask, ask.query(ShowRun), steering.Decisions(ask))
    return await _live(ask, "_run.html", values)


async def _events_values(ask: Ask) -> dict[str, Any]:
    asked = ask.query(ShowEvents).after
    after = None if asked < 0 else asked
    run = await ask.engine.get_run(ask.run_id)
    events = await ask.engine.some_events(run.id, after=after, limit=EVENTS)
    rows = [(event, ask.shown(event)) for event in events]
    further = events[-1].seq if len(events) == EVENTS else None
    return {"run": run, "rows": rows, "after": after, "further": further}


@operation("GET", "/console/runs/{run_id}/events", Scope.READ, {200: None}, problem=problem_page)
async def events_page(ask: Ask) -> Response:
    """What has happened to one run, a part of it."""
    return page(ask, "events.html", **await _events_values(ask))


@operation("GET", "/console/runs/{run_id}/events/live", Scope.READ, {200: None}, stream=True, problem=problem_page)
async def events_live(ask: Ask) -> Response:
    """These events, again whenever there are more."""
    return await _live(ask, "_events.html", partial(_events_values, ask))


@operation("GET", "/console/runs/{run_id}/value/{which}", Scope.READ, {200: None}, problem=problem_page)
async def value_file(ask: Ask) -> Response:
    """A value as a file: `input`, `output`, or the output of the step of that name after `step:`."""
    which = ask.segment("which")
    if which in ("input", "output"):
        found = ask.shown(await ask.engine.get_run(ask.run_id))[which]
    else:
        name = which.removeprefix("step:")
        steps = {step.name: step for step in await ask.engine.steps(ask.run_id)}
        if name not in steps:
            raise Refused(404, "No such step", f"run {ask.run_id!r} has no step {name!r}")
        found = ask.shown(steps[name])["output"]
    headers = {"content-disposition": "attachment; filename=value.json"}
    return Response(msgspec.json.format(msgspec.json.encode(found)), 200, headers, "application/octet-stream")


@operation("GET", "/console/overview", Scope.READ, {200: None}, problem=problem_page)
async def overview_page(ask: Ask) -> Response:
    """How all runs stand, and what the engine does."""
    return page(ask, "overview.html", **await overview_of(ask))


@operation("GET", "/console/live/overview", Scope.READ, {200: None}, stream=True, problem=problem_page)
async def overview_live(ask: Ask) -> Response:
    """The overview, again whenever it has changed."""
    return await _live(ask, "_overview.html", partial(overview_of, ask))


async def _workflows_values(ask: Ask) -> dict[str, Any]:
    counts = await counts_of(ask)
    try:
        known = {one.name: one for one in await ask.engine.workflows()}
    except EngineClosed:
        known = None
    names = sorted({*(known or ()), *counts})
    return {"names": names, "known": known, "counts": counts, "statuses": list(RunStatus)}


@operation("GET", "/console/workflows", Scope.READ, {200: None}, problem=problem_page)
async def workflows_page(ask: Ask) -> Response:
    """The workflows that can be started, and how their runs stand."""
    return page(ask, "workflows.html", **await _workflows_values(ask))


@operation("GET", "/console/live/workflows", Scope.READ, {200: None}, stream=True, problem=problem_page)
async def workflows_live(ask: Ask) -> Response:
    """The workflows, again whenever their runs have changed."""
    return await _live(ask, "_workflows.html", partial(_workflows_values, ask))


@operation("GET", "/console/static/{file}", Scope.READ, {200: None}, problem=problem_page)
async def static_file(ask: Ask) -> Response:
    """A file of the console's own, by its name alone."""
    name = ask.segment("file")
    if name not in {path.name for path in STATIC.iterdir()}:
        raise Refused(404, "No such file")
    path = STATIC / name
    etag = f'"{static_version(name)}"'
    headers = {"cache-control": "private, max-age=31536000, immutable", "etag": etag}
    return Response(path.read_bytes(), 200, headers, KINDS[path.suffix])


_OWN = (*globals().values(), *vars(door).values(), *vars(steering).values())
PAGES: tuple[Operation, ...] = (*(one for one in _OWN if isinstance(one, Operation)), *steering.ACTING)


# Inside


async def _live(ask: Ask, template: str, values: Callable[[], Awaitable[dict[str, Any]]]) -> Response:
    """What the template makes of the values, again whenever that has changed."""

    async def changes() -> AsyncIterator[str]:
        last = ""
        while True:
            began = monotonic_s()
            found = rendered(ask, template, **await values())
            if found != last:
                yield found
                last = found
            await asyncio.sleep(max(LIVE_S, SHARE * (monotonic_s() - began)))
            await ask.meet()

    return await streamed(ask, changes, lambda html: html, lambda _: None)
