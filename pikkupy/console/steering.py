"""What people do to runs: each action has a page that asks whether it is meant, and a form that does it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from starlette.responses import RedirectResponse, Response

from pikkupy.clock import now
from pikkupy.console.finding import Find
from pikkupy.console.forms import Field, decision_fields, decision_of, fields_of, value_of_fields
from pikkupy.console.rendering import page, problem_page
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import RunStatus, StepKind
from pikkupy.engine import Run, Step
from pikkupy.engine.listing import MAX_PAGE
from pikkupy.errors import PikkuError
from pikkupy.http.asked import Ask
from pikkupy.http.guard import quoted
from pikkupy.http.operations import Operation, operation
from pikkupy.http.problems import Refused
from pikkupy.mounting import Scope

MOST_AT_ONCE = 10_000  # runs of one action on all that match: some seconds
TOGETHER = 100  # of them under way at once, so that they are written together


class Action(NamedTuple):
    """Something that can be done to a run."""

    name: str
    label: str
    done: str
    scope: Scope
    why_not: str | None = None
    """Why it cannot be done to this one now."""


class Part(NamedTuple):
    """Some of the runs that match."""

    ids: list[str]
    more: bool
    """Whether there are others after these."""


class Choice(msgspec.Struct):
    """What a page that asks is to be filled with."""

    at: str = ""
    name: str = ""


class StartWhat(msgspec.Struct):
    """Which workflow."""

    workflow: str = ""
    from_run: str = ""
    """With the input of this run."""


ACTIONS = {
    one.name: one
    for one in (
        Action("cancel", "Cancel", "cancelled", Scope.OPERATE),
        Action("retry", "Retry", "retried", Scope.OPERATE),
        Action("resume", "Resume", "resumed", Scope.OPERATE),
        Action("signal", "Send a signal", "the signal was sent", Scope.OPERATE),
        Action("approve", "Decide", "the decision was made", Scope.OPERATE),
        Action("fork", "Fork", "forked", Scope.OPERATE),
        Action("delete", "Delete", "deleted", Scope.ADMIN),
    )
}


def actions_for(ask: Ask, run: Run, waiting: Sequence[Step]) -> list[Action]:
    """All of them, each with the reason if it cannot be done."""
    return [one._replace(why_not=_why_not(ask, one, run, waiting)) for one in ACTIONS.values()]


def _why_not(ask: Ask, action: Action, run: Run, waiting: Sequence[Step]) -> str | None:
    if ask.read_only:
        return "this console is read-only"
    if ask.away is not None:
        return "there is no engine just now"
    if not ask.caller.scope.allows(action.scope):
        return f"your token allows `{ask.caller.scope}`; this needs `{action.scope}`"
    ended = run.status in FINAL_RUNS
    asks = any(step.kind is StepKind.SIGNAL for step in waiting)
    reasons = {
        "cancel": f"the run is {run.status}" if ended else None,
        "retry": None if run.status is RunStatus.FAILED else f"the run is {run.status}, not failed",
        "resume": None if run.status is RunStatus.SUSPENDED else f"the run is {run.status}, not suspended",
        "signal": f"the run is {run.status}" if ended else None,
        "approve": None if asks and not ended else "the run does not wait for a decision",
        "delete": None if ended else f"the run is {run.status}: cancel it first",
    }
    return reasons.get(action.name)


@operation("GET", "/console/runs/{run_id}/confirm/{action}", Scope.READ, {200: None}, problem=problem_page)
async def confirm_page(ask: Ask) -> Response:
    """Ask whether an action is meant, and for what it needs."""
    run = await ask.engine.get_run(ask.run_id)
    waiting = (await ask.engine.open_steps([run.id])).get(run.id, [])
    found = {one.name: one for one in actions_for(ask, run, waiting)}
    action = found.get(ask.segment("action"))
    if action is None:
        raise Refused(404, "No such action")
    choice = ask.query(Choice)
    names = [step.name for step in waiting if step.kind is StepKind.SIGNAL]
    steps = await ask.engine.some_steps(run.id, limit=500) if action.name == "fork" else None
    at = [] if steps is None else [step.name for step in steps.steps]
    asked = dict[str, list[Field]]()
    if action.name == "approve" and action.why_not is None:
        approvals = await ask.engine.approvals(run.id)
        asked = {name: decision_fields(schema)[0] for name, schema in approvals.items()}
    values: dict[str, Any] = {"asked": asked, "run": run, "action": action, "at": at, "names": names, "choice": choice}
    return page(ask, "confirm.html", 409 if action.why_not else 200, input=ask.shown(run)["input"], **values)


async def _act(ask: Ask, action: str) -> Response:
    form = await ask.form()
    run_id, text = ask.run_id, form.get("value", "")
    match action:
        case "cancel":
            await ask.engine.cancel(run_id, _reason(ask, form))
        case "retry":
            await ask.engine.retry(run_id)
        case "resume":
            await ask.engine.resume(run_id, accept="new" if form.get("accept") == "new" else None)
        case "signal":
            await ask.engine.signal(run_id, form.get("name", ""), ask.json(text))
        case "approve":
            name = form.get("name", "")
            schema = (await ask.engine.approvals(run_id)).get(name, {})
            decision = decision_of(*decision_fields(schema), form)
            await ask.engine.approve(run_id, name, decision, decided_by=ask.caller.name)
        case "delete":
            await ask.engine.delete_run(run_id)
            return _to(ask, "", done=f"run {run_id} was deleted")
        case _:
            handle = await ask.engine.fork(run_id, at=form.get("at", ""), input=ask.json(text) if text else None)
            ask.made = handle.id
            return _to(ask, f"runs/{quoted(handle.id)}", done=f"forked from {run_id}")
    return _to(ask, f"runs/{quoted(run_id)}", done=ACTIONS[action].done)


def _reason(ask: Ask, form: Mapping[str, str]) -> str:
    return form.get("reason") or f"cancelled in the console by {ask.caller.name}"


def _operation_of(action: Action) -> Operation:
    async def act(ask: Ask) -> Response:
        return await _act(ask, action.name)

    act.__name__ = f"{action.name}_in_console"
    act.__doc__ = f"{action.label}, in the console."
    path = f"/console/runs/{{run_id}}/{action.name}"
    return operation("POST", path, action.scope, {303: None}, problem=problem_page)(act)


ACTING = tuple(map(_operation_of, ACTIONS.values()))


# Starting


@operation("GET", "/console/start", Scope.READ, {200: None}, problem=problem_page)
async def start_page(ask: Ask) -> Response:
    """Ask what is to be started."""
    what = ask.query(StartWhat)
    given = None
    if what.from_run:
        run = await ask.engine.get_run(what.from_run)
        what, given = StartWhat(run.workflow, run.id), ask.shown(run)["input"]
    workflow = await ask.workflow_named(what.workflow) if what.workflow else None
    takes = None if workflow is None else workflow.input
    fields = None if takes is None else fields_of(takes, given)
    names = [one.name for one in await ask.engine.workflows()]
    return page(ask, "start.html", names=names, workflow=workflow, takes=takes, fields=fields, given=given, what=what)


@operation("POST", "/console/start", Scope.OPERATE, {303: None}, problem=problem_page)
async def start_in_console(ask: Ask) -> Response:
    """Start a run."""
    form = await ask.form()
    workflow = await ask.workflow_named(form.get("workflow", ""))
    data = None
    if workflow.input is not None:
        fields = fields_of(workflow.input)
        by_fields = form.get("as") == "fields" and fields is not None
        data = value_of_fields(fields or [], form) if by_fields else ask.json(form.get("value", ""))
    ask.take_start()
    handle = await ask.engine.start(workflow.name, data, run_id=form.get("id") or None)
    ask.made = handle.id
    return _to(ask, f"runs/{quoted(handle.id)}", done="started")


# All that match


@operation("GET", "/console/all/{verb}", Scope.READ, {200: None}, problem=problem_page)
async def confirm_all_page(ask: Ask) -> Response:
    """Ask whether an action on all runs that match is meant, and say how many there are."""
    action, find = _for_many(ask), ask.query(Find)
    count, more = 0, False
    async for part in _matching(ask, find, action):
        count, more = count + len(part.ids), part.more
    return page(ask, "confirm_all.html", action=action, find=find, count=count, more=more)


@operation("POST", "/console/all/{verb}", Scope.OPERATE, {200: None}, problem=problem_page)
async def act_on_all(ask: Ask) -> Response:
    """Do it to all runs that match, many at a time; those that cannot be helped are told."""
    action, find = _for_many(ask), ask.query(Find)
    form = await ask.form()
    count, more, failed = 0, False, list[tuple[str, str]]()

    async def act(run_id: str) -> None:
        nonlocal count
        try:
            if action.name == "retry":
                await ask.engine.retry(run_id)
            else:
                await ask.engine.cancel(run_id, _reason(ask, form))
        except PikkuError as error:
            failed.append((run_id, ask.shown.text(str(error))))
        else:
            count += 1

    async for part in _matching(ask, find, action):
        more = part.more
        for chunk in range(0, len(part.ids), TOGETHER):
            await asyncio.gather(*map(act, part.ids[chunk : chunk + TOGETHER]))
    return page(ask, "done_all.html", action=action, find=find, count=count, failed=failed, more=more)


def _for_many(ask: Ask) -> Action:
    name = ask.segment("verb")
    if name not in ("cancel", "retry"):
        raise Refused(404, "No such action", "all runs that match can be cancelled or retried")
    return ACTIONS[name]


async def _matching(ask: Ask, find: Find, action: Action) -> AsyncIterator[Part]:
    """The runs that match and that this can be done to, up to so many as a browser waits for."""
    able = {"retry": {RunStatus.FAILED}, "cancel": {RunStatus.RUNNING, RunStatus.SUSPENDED}}[action.name]
    wanted = able & set(find.statuses) if find.statuses else able
    filters: dict[str, Any] = find.filters(now()) | {"status": sorted(wanted)}
    left, cursor = MOST_AT_ONCE if wanted else 0, None
    while left > 0:
        found = await ask.engine.list_runs(**filters, limit=min(left, MAX_PAGE), cursor=cursor)
        left, cursor = left - len(found.runs), found.next_cursor
        yield Part([run.id for run in found.runs], cursor is not None)
        if cursor is None:
            return


def _to(ask: Ask, path: str, *, done: str) -> Response:
    return RedirectResponse(f"{ask.base}/console/{path}?{urlencode({'done': done})}", 303)
