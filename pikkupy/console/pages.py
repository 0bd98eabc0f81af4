"""The pages, each an operation of the table: what it shows is what the engine's methods say."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace
from starlette.responses import RedirectResponse, Response

from pikkupy.clock import monotonic_s, now
from pikkupy.console import door, steering
from pikkupy.console.drawing import drawing_of
from pikkupy.console.finding import Find, counts_of, exactly, rows_of
from pikkupy.console.notes import page_after
from pikkupy.console.overview import overview_of
from pikkupy.console.printing import Paper
from pikkupy.console.rendering import HOME, STATIC, page, problem_page, rendered, static_version
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import RunStatus, StepKind
from pikkupy.engine import Attempt, Run, Step, StepPage
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
TOLD = 5  # steps of which is said what they wait for
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


class Seen(NamedTuple):
    """What there is to be shown of a run."""

    run: Run
    steps: StepPage
    pages: int
    number: int
    """Of the page of steps."""
    waiting: list[Step]
    decided: dict[str, dict[str, Any]] | None
    at: datetime

    @property
    def said(self) -> list[str]:
        """What the run waits for, as far as there is room for it."""
        return [] if why_parked(self.run) else [waits_for(step, self.at, self.decided) for step in self.waiting[:TOLD]]

    @property
    def mark(self) -> object:
        """It is another one when something of it has changed: values change only with what else is said of them."""
        run = replace(self.run, input=None, output=None)
        steps = [replace(step, output=None) for step in self.steps.steps]
        return run, steps, self.steps.attempts, self.steps.in_all, self.waiting, self.said, self.decided


async def _look_at(ask: Ask, show: ShowRun, decisions: steering.Decisions) -> Seen:
    run = await ask.engine.get_run(ask.run_id)
    found = await ask.engine.some_steps(run.id, limit=STEPS, with_errors=show.failed)
    pages = max(1, -(-found.in_all // STEPS))
    number = min(show.page or pages, pages)
    if number > 1:
        found = await ask.engine.some_steps(run.id, first=(number - 1) * STEPS, limit=STEPS, with_errors=show.failed)
    at = now()
    waiting = [] if run.status in FINAL_RUNS else (await ask.engine.open_steps([run.id])).get(run.id, [])
    return Seen(run, found, pages, number, waiting, await decisions.of(run, waiting), at)


async def _run_values(ask: Ask, show: ShowRun, seen: Seen) -> dict[str, Any]:
    run, paper = seen.run, Paper(ask.shown)
    by_step: defaultdict[str, list[Attempt]] = defaultdict(list)
    for attempt in seen.steps.attempts:
        by_step[attempt.step_name].append(attempt)
    tried = _tried(ask, [attempt for of_step in by_step.values() for attempt in of_step[-TRIED:]])
    shown = ask.shown(replace(run, input=None, output=None))
    actions = steering.actions_for(ask, run, seen.decided or ())
    why_not = defaultdict[str, list[str]](list)
    for action in actions:
        if action.why_not is not None:
            why_not[action.why_not].append(action.label)
    whole = seen.pages == 1 and not show.failed
    return {
        "run": run,
        "shown": shown,
        "input": await paper.printed(run.input),
        "output": await paper.printed(run.output),
        "took": took(run, seen.at),
        "mismatch": mismatch_of(shown["reason"]),
        "waits": [ask.shown.text(said) for said in seen.said],
        "waiting": len(seen.waiting),
        "gated": any(step.kind is StepKind.SUSPEND for step in seen.waiting[:TOLD]),
        "steps": [
            (step, ask.shown(replace(step, output=None)), await paper.printed(step.output), tried.get(step.name, []))
            for step in seen.steps.steps
        ],
        "drawing": drawing_of(run, seen.steps.steps, by_step, seen.at, whole=whole),
        "in_all": seen.steps.in_all,
        "pages": seen.pages,
        "number": seen.number,
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
    show = ask.query(ShowRun)
    values = await _run_values(ask, show, await _look_at(ask, show, steering.Decisions(ask)))
    return page_after(ask, f"runs/{quoted(ask.run_id)}", "run.html", **values, live=ask.request.url.query)


@operation("GET", "/console/runs/{run_id}/live", Scope.READ, {200: None}, stream=True, problem=problem_page)
async def run_live(ask: Ask) -> Response:
    """One run, again whenever it has changed: the line of now is moved by the browser."""
    show, decisions, last = ask.query(ShowRun), steering.Decisions(ask), object()

    async def values() -> dict[str, Any] | None:
        nonlocal last
        seen = await _look_at(ask, show, decisions)
        mark = seen.mark, ask.away
        if mark == last:
            return None
        last = mark
        return await _run_values(ask, show, seen)

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


@operation("GET", "/console/runs/{run_id}/value/{which}", Scope.READ, {200: None}, problem=problem_page, is_export=True)
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


async def _live(ask: Ask, template: str, values: Callable[[], Awaitable[dict[str, Any] | None]]) -> Response:
    """What the template makes of the values, again whenever that has changed. No values: nothing has."""

    async def changes() -> AsyncIterator[str]:
        last = ""
        while True:
            began = monotonic_s()
            given = await values()
            found = last if given is None else rendered(ask, template, **given)
            if found != last:
                yield found
                last = found
            await asyncio.sleep(max(LIVE_S, SHARE * (monotonic_s() - began)))
            await ask.meet()

    return await streamed(ask, changes, lambda html: html, lambda _: None)
