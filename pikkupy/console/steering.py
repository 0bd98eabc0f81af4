"""What people do to runs: each action has a page that asks whether it is meant, and a form that does it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from pikkupy.clock import now
from pikkupy.codec import Outside
from pikkupy.console.copies import Copy, copy_of
from pikkupy.console.finding import Find
from pikkupy.console.forms import NULL, Form, form_of, value_of_form, written_in
from pikkupy.console.notes import led_to
from pikkupy.console.printing import printed
from pikkupy.console.rendering import barred, page, problem_page
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import RunStatus, StepKind
from pikkupy.engine import Run, Step
from pikkupy.engine.ids import Ids
from pikkupy.engine.listing import MAX_PAGE
from pikkupy.errors import PikkuError, RunConflict, RunNotFound, RunStateError
from pikkupy.http.asked import Ask
from pikkupy.http.guard import quoted
from pikkupy.http.operations import Operation, operation
from pikkupy.http.problems import Refused, problem_of
from pikkupy.many import ABLE, Child, Many, Verb, child_of
from pikkupy.moments import us_of
from pikkupy.mounting import Scope
from pikkupy.names import MAX_NAME, without_ordinal
from pikkupy.showing.mismatch import why_parked

MOST_AT_ONCE = 10_000  # runs of one action on all that match: some seconds
MOST_LOOKED_AT = 200_000  # runs, to find the oldest of them: some seconds, too
INPUT = "Input"  # the name of the part of a form that is all of it
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
    """The oldest of the runs that match: so no child comes in an earlier part than a run above it."""

    runs: dict[str, Child | None]
    """The newest first, with what is to be known of children."""
    in_all: int
    """How many match, these included."""


class Meant(NamedTuple):
    """Of runs that match those that were there when somebody was asked: by their order, whatever the clock said."""

    newest: str = ""
    """The id of the newest one."""
    older: str = ""
    """The cursor of `list_runs` from which the others come."""
    begun_at: str = ""
    """When their first part was begun, in µs: what has failed since was retried with it. Empty: this is it."""


class Choice(msgspec.Struct):
    """What a page that asks is to be filled with."""

    at: str = ""
    name: str = ""
    edit: bool = False
    """Of a fork: with a copy of the input."""


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


class Decisions:
    """What a run waits to be decided. A run in the file is read for it, so it is asked only when the run waits anew."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._waits: list[str] = []
        self._found: dict[str, dict[str, Any]] | None = None

    async def of(self, run: Run, waiting: Sequence[Step]) -> dict[str, dict[str, Any]] | None:
        """JSON Schema of each decision by its name; `None`: it is not known to who asks, or here."""
        may = barred(self._ask, Scope.OPERATE) is None
        waits = [step.name for step in waiting if step.kind is StepKind.SIGNAL]
        if not may or run.status is not RunStatus.RUNNING or not waits:
            return None
        if waits != self._waits:
            try:
                self._found = await self._ask.engine.approvals(run.id)
            except PikkuError:  # its workflow is not known here, say: then nothing can be decided here
                self._found = None
            self._waits = waits
        return self._found


def actions_for(ask: Ask, run: Run, decisions: Collection[str]) -> list[Action]:
    """All of them, each with the reason if it cannot be done."""
    return [one._replace(why_not=_why_not(ask, one, run, decisions)) for one in ACTIONS.values()]


def _why_not(ask: Ask, action: Action, run: Run, decisions: Collection[str]) -> str | None:
    if (why_not := barred(ask, action.scope)) is not None:
        return why_not
    ended = run.status in FINAL_RUNS
    reasons = {
        "cancel": f"the run is {run.status}" if ended else None,
        "retry": None if run.status is RunStatus.FAILED else f"the run is {run.status}, not failed",
        "resume": None if run.status is RunStatus.SUSPENDED else f"the run is {run.status}, not suspended",
        "signal": f"the run is {run.status}" if ended else None,
        "approve": None if decisions else "the run does not wait for a decision",
        "delete": None if ended else f"the run is {run.status}: cancel it first",
    }
    return reasons.get(action.name)


@operation("GET", "/console/runs/{run_id}/confirm/{action}", Scope.READ, {200: None}, problem=problem_page)
async def confirm_page(ask: Ask) -> Response:
    """Ask whether an action is meant, and for what it needs."""
    choice = ask.query(Choice)
    values = await _confirm_values(ask, ask.segment("action"), {"at": choice.at, "name": choice.name})
    return page(ask, "confirm.html", 409 if values["action"].why_not else 200, **values, edit=choice.edit)


async def _confirm_values(ask: Ask, name: str, typed: Mapping[str, str]) -> dict[str, Any]:
    """What the page shows, with what was `typed` there before."""
    run = await ask.engine.get_run(ask.run_id)
    waiting = (await ask.engine.open_steps([run.id])).get(run.id, [])
    decisions = (await Decisions(ask).of(run, waiting) if name in ("approve", "signal") else None) or {}
    action = {one.name: one for one in actions_for(ask, run, decisions)}.get(name)
    if action is None:
        raise Refused(404, "No such action")
    values: dict[str, Any] = {"run": run, "action": action, "typed": typed}
    match name:
        case "signal":
            names = dict.fromkeys(without_ordinal(step.name) for step in waiting if step.kind is StepKind.SIGNAL)
            values["names"] = [one for one in names if one not in decisions]
            awaited = await _awaited(ask, run) if action.why_not is None else {}
            forms = _forms(awaited, "payload", typed)
            values["asked"] = {name: form for name, form in forms.items() if not form.is_json}
        case "approve":
            values["asked"] = _forms(decisions, "decision", typed)
        case "fork":
            steps = await ask.engine.some_steps(run.id, limit=500)
            values["at"] = [step.name for step in steps.steps]
            values |= {"input": printed(ask.shown, run.input), "copy": await copy_of(ask, run), "fresh": _fresh(typed)}
        case _:
            pass
    return values


async def _awaited(ask: Ask, run: Run) -> dict[str, dict[str, Any]]:
    """The signals that a run waits for, as far as that is known here, with JSON Schema of each."""
    try:
        return await ask.engine.awaited_signals(run.id)
    except PikkuError:  # its workflow is not, say
        return {}


def _forms(schemas: Mapping[str, dict[str, Any]], called: str, typed: Mapping[str, str]) -> dict[str, Form]:
    """Of each name the form of what is to be sent, filled with what was `typed` for it."""
    forms = {name: form_of(schema, called) for name, schema in schemas.items()}
    mine = typed.get("name", "")
    if mine in forms and written_in(typed):
        forms[mine] = forms[mine].refilled(typed)
    return forms


def _fresh(typed: Mapping[str, str]) -> str:
    """The id of the run that a form makes if it is given none, so that it makes one however often it is sent."""
    return typed.get("fresh") or Ids().uuid7(round(now().timestamp() * 1e6))


def _kept(form: dict[str, str], error: Exception) -> dict[str, str]:
    """What is written in the form when it comes again: for another run, if there is one of that id."""
    return {**form, "fresh": ""} if isinstance(error, RunConflict) else form


def _again(ask: Ask, error: Exception, template: str, **values: Any) -> Response:
    """The form that was refused, with why."""
    problem, headers = problem_of(error, ask.api.redact, ask.cure)
    answer = page(ask, template, problem.status, problem=problem, **values)
    answer.headers.update(headers)
    return answer


async def _act(ask: Ask, action: str) -> Response:
    form = await ask.form()
    try:
        return await _acted(ask, action, form)
    except (Refused, PikkuError) as error:
        values = await _confirm_values(ask, action, _kept(form, error))
        return _again(ask, error, "confirm.html", **values, edit=False)


async def _acted(ask: Ask, action: str, form: Mapping[str, str]) -> Response:
    run_id, text = ask.run_id, form.get("value", "")
    match action:
        case "cancel":
            await ask.engine.cancel(run_id, _reason(ask, form))
        case "retry":
            await ask.engine.retry(run_id)
        case "resume":
            await ask.engine.resume(run_id, accept="new" if form.get("accept") == "new" else None)
            if why_parked(await ask.engine.get_run(run_id)) is not None:
                return _to(ask, f"runs/{quoted(run_id)}", done="it was looked at again, and is suspended as before")
        case "signal":
            if form.get("as") == "fields":
                payload = _written(run_id, "signal", "payload", await ask.engine.awaited_signals(run_id), form)
            else:
                payload = ask.json(text)
            await ask.engine.signal(run_id, form.get("name", ""), Outside(payload))
        case "approve":
            decision = _written(run_id, "decision", "decision", await ask.engine.approvals(run_id), form)
            await ask.engine.approve(run_id, form.get("name", ""), decision, decided_by=ask.caller.name)
        case "delete":
            await ask.engine.delete_run(run_id)
            return _to(ask, "", done=f"run {run_id} was deleted")
        case _:
            ask.take_start()
            given, fresh = Outside(ask.json(text)) if text else UNSET, form.get("fresh") or None
            handle = await ask.engine.fork(run_id, at=form.get("at", ""), input=given, new_run_id=fresh)
            ask.made = handle.id
            return _to(ask, f"runs/{quoted(handle.id)}", done=f"forked from {run_id}")
    return _to(ask, f"runs/{quoted(run_id)}", done=ACTIONS[action].done)


def _written(run_id: str, what: str, called: str, asked: Mapping[str, dict[str, Any]], form: Mapping[str, str]) -> Any:
    """What a form that was made of one of these types means. Raises `Refused`, `RunStateError`."""
    name = form.get("name", "")
    if name not in asked:
        raise RunStateError(f"run {run_id!r} does not wait for a {what} {name!r} any more; nothing was sent")
    return value_of_form(form_of(asked[name], called), form)


async def _about(ask: Ask, action: str) -> Mapping[str, str | int]:
    form = await ask.form()
    name = form.get("name", "")[:MAX_NAME]
    match action:
        case "cancel":
            return {"reason": ask.noted(_reason(ask, form))}
        case "resume" if form.get("accept") == "new":
            return {"accept": "new"}
        case "signal":
            return {"name": name}
        case "approve":
            given = written_in(form)
            decision = None if form.get(NULL) else given["decision"] if given.keys() == {"decision"} else given
            return {"name": name, "decision": ask.noted(decision), "decided_by": ask.caller.name}
        case "fork":
            return {"at": form.get("at", "")[:MAX_NAME], "input_edited": bool(form.get("value"))}
        case _:
            return {}


def _reason(ask: Ask, form: Mapping[str, str]) -> str:
    return form.get("reason") or f"cancelled in the console by {ask.caller.name}"


def _operation_of(action: Action) -> Operation:
    async def act(ask: Ask) -> Response:
        return await _act(ask, action.name)

    act.__name__ = f"{action.name}_in_console"
    act.__doc__ = f"{action.label}, in the console."
    about = partial(_about, action=action.name)
    path = f"/console/runs/{{run_id}}/{action.name}"
    return operation("POST", path, action.scope, {303: None}, problem=problem_page, about=about)(act)


ACTING = tuple(map(_operation_of, ACTIONS.values()))


def _status(ask: Ask) -> int:
    """Of a page that asks."""
    return 200 if barred(ask, Scope.OPERATE) is None else 409


# Starting


@operation("GET", "/console/start", Scope.READ, {200: None}, problem=problem_page)
async def start_page(ask: Ask) -> Response:
    """Ask what is to be started."""
    what, copy = ask.query(StartWhat), Copy()
    if what.from_run:
        run = await ask.engine.get_run(what.from_run)
        what, copy = StartWhat(run.workflow, run.id), await copy_of(ask, run)
    workflow = await ask.workflow_named(what.workflow) if what.workflow else None
    takes = None if workflow is None else workflow.input
    asked = None if takes is None else form_of(takes, INPUT, copy.given)
    names = [one.name for one in await ask.engine.workflows()]
    values: dict[str, Any] = {"workflow": workflow, "takes": takes, "asked": asked, "typed": {"value": copy.text}}
    values |= {"names": names, "what": what, "why_not": copy.why_not, "fresh": _fresh({})}
    return page(ask, "start.html", _status(ask), **values)


async def _about_start(ask: Ask) -> Mapping[str, str | int]:
    return {"workflow": (await ask.form()).get("workflow", "")[:MAX_NAME]}


@operation("POST", "/console/start", Scope.OPERATE, {303: None}, problem=problem_page, about=_about_start)
async def start_in_console(ask: Ask) -> Response:
    """Start a run."""
    form = await ask.form()
    workflow = await ask.workflow_named(form.get("workflow", ""))
    takes = workflow.input
    asked = form_of(takes, INPUT) if takes is not None and form.get("as") == "fields" else None
    try:
        data = None
        if takes is not None:
            data = ask.json(form.get("value", "")) if asked is None else value_of_form(asked, form)
        ask.take_start()
        run_id = form.get("id") or form.get("fresh") or None
        handle = await ask.engine.start(workflow.name, Outside(data), run_id=run_id)
    except (Refused, PikkuError) as error:
        asked = None if asked is None else asked.refilled(form)
        values = {"workflow": workflow, "takes": takes, "asked": asked, "fresh": _fresh(_kept(form, error))}
        return _again(ask, error, "start.html", **values, typed=form, why_not=None)
    ask.made = handle.id
    return _to(ask, f"runs/{quoted(handle.id)}", done="started")


# All that match


@operation("GET", "/console/all/{verb}", Scope.READ, {200: None}, problem=problem_page)
async def confirm_all_page(ask: Ask) -> Response:
    """Ask whether an action on all runs that match is meant, and say how many there are."""
    action, find = _for_many(ask), ask.query(Find)
    meant, part = Meant(), Part({}, 0)
    if barred(ask, action.scope) is None:  # else nobody looks at so many runs
        meant = await _newest(ask, find, action)
        part = await _part_of(ask, find, action, meant)
    values = {"action": action, "find": find, "count": len(part.runs), "in_all": part.in_all, "meant": meant}
    values["meant_runs"] = "unfinished run" if action.name == "cancel" else "run"
    return page(ask, "confirm_all.html", _status(ask), **values)


async def _about_all(ask: Ask) -> Mapping[str, str | int]:
    action, find = _for_many(ask), ask.query(Find)
    wanted = urlencode({name: text for name, text in find.query().items() if text}, doseq=True)
    return {"filter": wanted, **(await _about(ask, action.name))}


@operation("POST", "/console/all/{verb}", Scope.OPERATE, {200: None}, problem=problem_page, about=_about_all)
async def act_on_all(ask: Ask) -> Response:
    """Do it to the runs that were asked about and match, many at a time; those that cannot be helped are told."""
    action, find = _for_many(ask), ask.query(Find)
    ask.facts |= {"done": 0, "refused": 0}
    form = await ask.form()
    meant, begun_at = Meant(*(form.get(name, "") for name in Meant._fields)), str(us_of(now()))

    async def act(run_id: str) -> None:
        if action.name == "retry":
            await ask.engine.retry(run_id)
        else:
            await ask.engine.cancel(run_id, _reason(ask, form))

    def told(run_id: str, error: PikkuError | None) -> None:
        status = 200 if error is None else problem_of(error)[0].status
        ask.audit(act_on_all.name, status, verb=action.name, run_id=run_id)
        ask.facts |= {"done": len(many.done), "refused": len(many.refused)}

    many = Many(_verb(action), act, ask.engine, TOGETHER, told)
    part = await _part_of(ask, find, action, meant)
    await many.to(part.runs)
    refused = [(run_id, ask.shown.text(str(error))) for run_id, error in many.refused.items()]
    gone = None if many.gone is None else problem_of(many.gone, ask.api.redact, ask.cure)[0]
    left = len(part.runs) - len(many.done) - len(refused)
    values = {"count": len(many.done), "failed": refused, "more": part.in_all - len(part.runs), "gone": gone}
    values |= {"left": left, "action": action, "find": find, "reason": form.get("reason", "")}
    values["meant"] = meant if meant.begun_at else meant._replace(begun_at=begun_at)
    return page(ask, "done_all.html", 200 if gone is None else gone.status, **values)


def _for_many(ask: Ask) -> Action:
    name = ask.segment("verb")
    if name not in ("cancel", "retry"):
        raise Refused(404, "No such action", "all runs that match can be cancelled or retried")
    return ACTIONS[name]


def _verb(action: Action) -> Verb:
    return "retry" if action.name == "retry" else "cancel"


def _wanted(find: Find, action: Action) -> list[RunStatus]:
    """The statuses of runs that match and that this can be done to."""
    return sorted(one for one in ABLE[_verb(action)] if not find.statuses or one in find.statuses)


async def _newest(ask: Ask, find: Find, action: Action) -> Meant:
    """What is asked about now."""
    if not (wanted := _wanted(find, action)):
        return Meant()
    found = await ask.engine.list_runs(**find.filters(now()), status=wanted, limit=1, values=False)
    return Meant(found.runs[0].id if found.runs else "", found.next_cursor or "")


async def _part_of(ask: Ask, find: Find, action: Action, meant: Meant) -> Part:
    """Of the runs that are meant and match, and that this can be done to, as many as a browser waits for."""
    last, in_all = deque[Run](maxlen=MOST_AT_ONCE), 0
    async for run in _matching(ask, find, action, meant):
        last.append(run)
        in_all += 1
        if in_all > MOST_LOOKED_AT:
            raise Refused(
                422,
                "Too many runs",
                f"more than {MOST_LOOKED_AT:,} match, and nothing was done to any of them: narrow them down by "
                f"workflow, tag or time, or use `pikku runs {_verb(action)}`, which takes any number",
            )
    return Part({run.id: child_of(run) for run in last}, in_all)


async def _matching(ask: Ask, find: Find, action: Action, meant: Meant) -> AsyncIterator[Run]:
    """All of them, newest first."""
    wanted = _wanted(find, action)
    if not wanted or not meant.newest:
        return
    with suppress(RunNotFound):  # it was deleted meanwhile
        run = await ask.engine.get_run(meant.newest)
        if run.status in wanted and _is_meant(run, meant):
            yield run
    cursor = meant.older or None
    while cursor is not None:
        found = await ask.engine.list_runs(
            **find.filters(now()), status=wanted, limit=MAX_PAGE, cursor=cursor, values=False
        )
        for run in found.runs:
            if _is_meant(run, meant):
                yield run
        cursor = found.next_cursor


def _is_meant(run: Run, meant: Meant) -> bool:
    if run.ended_at is None or not meant.begun_at.isdecimal():
        return True
    return us_of(run.ended_at) < int(meant.begun_at[:20])


def _to(ask: Ask, path: str, *, done: str) -> Response:
    return led_to(ask, path, done)
