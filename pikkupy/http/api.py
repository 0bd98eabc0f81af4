"""The operations: what is asked over HTTP, as calls of the engine's methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from pikkupy.codec import Outside
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.engine import Attempt, Chunk, Event, EventKind, Run, Step, WorkflowInfo
from pikkupy.errors import EngineClosed, PayloadError
from pikkupy.http import kinds
from pikkupy.http.asked import END, LONGEST_WAIT_S, Ask, Seen, encoded, json_of, list_of
from pikkupy.http.operations import About, Handler, Operation, operation
from pikkupy.http.problems import Refused
from pikkupy.http.queries import arguments_of, length_us
from pikkupy.http.statuses import StatusOfRun, status_of, statuses_of
from pikkupy.http.streams import streamed
from pikkupy.mounting import Scope

READ, OPERATE, ADMIN = Scope


class RunPage(msgspec.Struct, frozen=True):
    """Some runs, newest first."""

    runs: list[Run]
    next_cursor: str | None
    """For the next page; `null` if this is the last."""


class Health(msgspec.Struct, frozen=True):
    """How it is."""

    status: str


class Started(msgspec.Struct, frozen=True):
    """What the routes of the original say of a new run."""

    runId: str  # noqa: N815 - its name there


# What audit lines say


async def _about_start(ask: Ask) -> Mapping[str, str | int]:
    return {"workflow": (await ask.body(kinds.StartRun)).workflow}


async def _about_cancel(ask: Ask) -> Mapping[str, str | int]:
    return {"reason": ask.noted((await ask.body(kinds.CancelRun)).reason)}


async def _about_signal(ask: Ask) -> Mapping[str, str | int]:
    return {"name": (await ask.body(kinds.SendSignal)).name}


async def _about_approve(ask: Ask) -> Mapping[str, str | int]:
    body = await ask.body(kinds.Decide)
    return {"name": body.name, "decision": ask.noted(body.decision), "decided_by": ask.noted(_decided_by(ask, body))}


async def _about_resume(ask: Ask) -> Mapping[str, str | int]:
    accept = (await ask.body(kinds.ResumeRun)).accept
    return {} if accept is None else {"accept": accept}


async def _about_fork(ask: Ask) -> Mapping[str, str | int]:
    body = await ask.body(kinds.ForkRun)
    return {"at": body.at, "input_edited": body.input is not UNSET}


# Health


@operation("GET", "/healthz", READ, {200: Health})
async def health(_: Ask) -> Response:
    """Whether the server answers."""
    return json_of(Health("ok"))


@operation("GET", "/readyz", READ, {200: Health})
async def readiness(ask: Ask) -> Response:
    """Whether the engine is open and its journal can be read."""
    await ask.engine.ready()
    return json_of(Health("ready"))


# Runs


@operation(
    "POST", "/api/runs", OPERATE, {200: Run, 202: Run},
    body=kinds.StartRun, about=_about_start, headers=kinds.StartHeaders,
    problems=(404, 409), sends=("Location", "Preference-Applied"),
)  # fmt: skip
async def start_run(ask: Ask) -> Response:
    """Start a run.

    It is on disk when this answers. 202 says where it is to be asked for; with `Prefer: wait` 200 if it has ended.
    """
    wait_s = ask.wait_s
    with nullcontext() if wait_s is None else ask.wait():
        body = await ask.body(kinds.StartRun)
        run_id = ask.key(body.id)
        _check_begin(body)
        ask.take_start()
        handle = await ask.engine.start(
            body.workflow, Outside(body.input), run_id=run_id, tags=body.tags, at=body.at, delay=body.delay
        )
        ask.made, place = handle.id, ask.place(handle.id)
        if wait_s is None:
            return await ask.run_now(handle.id, 202, location=place)
        try:
            status = 200 if await ask.ended(handle.id, wait_s) else 202
        except EngineClosed as error:
            raise EngineClosed(f"run {handle.id!r} is on disk, but it is not known how it ended: {error}") from None
    return await ask.run_now(handle.id, status, location=place, preference_applied=f"wait={wait_s}")


@operation("GET", "/api/runs", READ, {200: RunPage}, query=kinds.ListRuns)
async def list_runs(ask: Ask) -> Response:
    """List runs, newest first: those of which all that is given is true."""
    page = await ask.engine.list_runs(**arguments_of(ask.query(kinds.ListRuns)))
    return json_of({"runs": await encoded(page.runs, ask.shown), "next_cursor": page.next_cursor})


@operation("GET", "/api/counts", READ, {200: dict[str, dict[str, int]]})
async def count_runs(ask: Ask) -> Response:
    """Count runs by workflow and status."""
    return json_of(await ask.engine.counts())


@operation(
    "GET", "/api/runs/{run_id}", READ, {200: Run},
    headers=kinds.WaitHeaders, problems=(404,), sends=("Preference-Applied",),
)  # fmt: skip
async def get_run(ask: Ask) -> Response:
    """Get a run as it stands; with `Prefer: wait`, when it has ended."""
    run_id, wait_s = ask.run_id, ask.wait_s
    if wait_s is None:
        return await ask.run_now(run_id)
    with ask.wait():
        await ask.ended(run_id, wait_s)
    return await ask.run_now(run_id, preference_applied=f"wait={wait_s}")


@operation("GET", "/api/runs/{run_id}/steps", READ, {200: list[Step]}, query=kinds.ListSteps, problems=(404,))
async def list_steps(ask: Ask) -> Response:
    """List the steps of a run, or some of them, in the order in which it reached them."""
    part = ask.query(kinds.ListSteps)
    if part.limit:
        steps = (await ask.engine.some_steps(ask.run_id, first=part.first, limit=part.limit)).steps
    else:
        steps = (await ask.engine.steps(ask.run_id))[part.first :]
    return await list_of(steps, ask.shown)


@operation("GET", "/api/runs/{run_id}/history", READ, {200: list[Attempt]}, problems=(404,))
async def list_attempts(ask: Ask) -> Response:
    """List the finished attempts of a run's steps, oldest first."""
    return await list_of(await ask.engine.history(ask.run_id), ask.shown)


@operation("GET", "/api/runs/{run_id}/approvals", READ, {200: dict[str, dict[str, Any]]}, problems=(404,))
async def list_approvals(ask: Ask) -> Response:
    """Say what a run waits to be decided: JSON Schema of each decision, by its name.

    A signal that it waits for is not among them. A run that waits in the file is read for that.
    """
    return json_of(await ask.engine.approvals(ask.run_id))


@operation(
    "GET", "/api/runs/{run_id}/events", READ, {200: Event, 204: None},
    headers=kinds.ListenHeaders, query=kinds.ListenFrom, problems=(404,), stream=True,
)  # fmt: skip
async def run_events(ask: Ask) -> Response:
    """What has happened to a run and what happens to it, until it has ended.

    204 if it has ended and everything was seen.
    """
    run_id, seen = ask.run_id, ask.last_seen
    ended = (await ask.engine.get_run(run_id)).status in FINAL_RUNS

    def events() -> AsyncIterator[Event]:
        return _unseen(ask.engine.run_events(run_id, after=seen.after), seen)

    return await streamed(ask, events, ask.shown, lambda event: event.kind, _id_of, ended)


@operation(
    "GET", "/api/runs/{run_id}/stream", READ, {200: Chunk, 204: None},
    headers=kinds.ListenHeaders, problems=(404,), stream=True,
    query=kinds.ListenTo,
)  # fmt: skip
async def run_stream(ask: Ask) -> Response:
    """What the steps of a run have emitted and go on to emit, until it has ended."""
    run_id, seen = ask.run_id, ask.last_seen
    ended = (await ask.engine.get_run(run_id)).status in FINAL_RUNS
    query = ask.query(kinds.ListenTo)
    chunks = partial(
        ask.engine.stream,
        run_id,
        after=-1 if seen.after is None else seen.after,
        step=None if query.step is UNSET else query.step,
        current=query.current,
    )
    return await streamed(ask, chunks, ask.shown, lambda _: "chunk", lambda chunk: str(chunk.offset), ended)


@operation(
    "GET", "/api/events", READ, {200: Event},
    headers=kinds.ListenHeaders, query=kinds.ListenFrom, problems=(410,), stream=True,
)  # fmt: skip
async def all_events(ask: Ask) -> Response:
    """What happens to all runs, from now on.

    410 if what followed the last event that was seen is not known any more: list the runs, and listen anew.
    """
    events = partial(ask.engine.events, after=ask.last_seen.after)
    return await streamed(ask, events, ask.shown, lambda event: event.kind, lambda event: str(event.seq))


# Acting


def _on_run(verb: str, body: type[Any], about: About | None = None) -> Callable[[Handler], Operation]:
    """Declare what is done to a run, and answered with the run as it is then."""
    path = f"/api/runs/{{run_id}}/{verb}"
    return operation("POST", path, OPERATE, {200: Run}, body=body, about=about, problems=(404, 409))


@_on_run("cancel", kinds.CancelRun, _about_cancel)
async def cancel_run(ask: Ask) -> Response:
    """Cancel a run: when this answers, no further step of it starts."""
    body = await ask.body(kinds.CancelRun)
    await ask.engine.cancel(ask.run_id, body.reason)
    return await ask.run_now(ask.run_id)


@_on_run("signal", kinds.SendSignal, _about_signal)
async def signal_run(ask: Ask) -> Response:
    """Send a run a signal: when this answers, it is on disk."""
    body = await ask.body(kinds.SendSignal)
    await ask.engine.signal(ask.run_id, body.name, Outside(body.payload))
    return await ask.run_now(ask.run_id)


@_on_run("approve", kinds.Decide, _about_approve)
async def approve_run(ask: Ask) -> Response:
    """Decide what a run waits for."""
    await _decide(ask, await ask.body(kinds.Decide))
    return await ask.run_now(ask.run_id)


@_on_run("resume", kinds.ResumeRun, _about_resume)
async def resume_run(ask: Ask) -> Response:
    """Let a suspended run go on."""
    body = await ask.body(kinds.ResumeRun)
    await ask.engine.resume(ask.run_id, accept=body.accept)
    return await ask.run_now(ask.run_id)


@_on_run("retry", kinds.RetryRun)
async def retry_run(ask: Ask) -> Response:
    """Let a failed run go on from its failed step."""
    await ask.body(kinds.RetryRun)
    await ask.engine.retry(ask.run_id)
    return await ask.run_now(ask.run_id)


@operation(
    "POST", "/api/runs/{run_id}/fork", OPERATE, {201: Run},
    body=kinds.ForkRun, about=_about_fork, headers=kinds.NewRunHeaders, problems=(404, 409), sends=("Location",),
)  # fmt: skip
async def fork_run(ask: Ask) -> Response:
    """Start a new run with the history of another one before one of its steps.

    Asked again with the same id, step, input and overrides it is the run that there is.
    """
    body = await ask.body(kinds.ForkRun)
    ask.take_start()
    handle = await ask.engine.fork(
        ask.run_id,
        at=body.at,
        input=UNSET if body.input is UNSET else Outside(body.input),
        overrides=body.overrides,
        new_run_id=ask.key(body.id),
    )
    ask.made = handle.id
    return await ask.run_now(handle.id, 201, location=ask.place(handle.id))


@operation("DELETE", "/api/runs/{run_id}", ADMIN, {204: None}, problems=(404, 409))
async def delete_run(ask: Ask) -> Response:
    """Delete a run that has ended, with its steps, its history and its child runs."""
    await ask.engine.delete_run(ask.run_id)
    return Response(status_code=204)


# Workflows


@operation("GET", "/api/workflows", READ, {200: list[WorkflowInfo]})
async def list_workflows(ask: Ask) -> Response:
    """List the workflows that can be started, with what they take and give."""
    return json_of(await ask.engine.workflows())


@operation("GET", "/api/workflows/{workflow}", READ, {200: WorkflowInfo}, problems=(404,))
async def get_workflow(ask: Ask) -> Response:
    """Say what a workflow takes and gives."""
    return json_of(await ask.workflow_named(ask.workflow))


# The routes of the original


@operation(
    "POST", "/workflow/{workflow}/start", OPERATE, {200: Started},
    body=Any, headers=kinds.NewRunHeaders, problems=(404, 409),
)  # fmt: skip
async def start_workflow(ask: Ask) -> Response:
    """Start a run of the workflow; the body is its input."""
    return json_of(Started(await _started(ask)))


@operation(
    "POST", "/workflow/{workflow}/run", OPERATE, {200: Any},
    body=Any, headers=kinds.NewRunHeaders, problems=(404, 408, 409),
)  # fmt: skip
async def run_workflow(ask: Ask) -> Response:
    """Start a run of the workflow and wait for its output; the body is its input.

    409 if it fails or is cancelled, 408 if it has not ended in a minute: the run goes on.
    """
    with ask.wait():
        run_id = await _started(ask)
        try:
            output = await ask.result(run_id, LONGEST_WAIT_S)
        except PayloadError:  # its class is the engine's alone
            output = (await ask.engine.get_run(run_id)).output
    return json_of(ask.shown.value(output))


@operation("GET", "/workflow/{workflow}/status/{run_id}", READ, {200: StatusOfRun}, problems=(404,))
async def workflow_status(ask: Ask) -> Response:
    """How a run of the workflow stands, with its steps."""
    return json_of(await status_of(ask))


@operation(
    "GET", "/workflow/{workflow}/status/{run_id}/stream", READ, {200: StatusOfRun, 204: None},
    headers=kinds.ListenHeaders, query=kinds.ListenFrom, problems=(404,), stream=True,
)  # fmt: skip
async def workflow_status_stream(ask: Ask) -> Response:
    """How a run of the workflow stands, now and whenever that has changed, until it has ended.

    204 if it has ended and that was seen.
    """
    return await statuses_of(ask)


@operation(
    "POST", "/workflow/{workflow}/approve/{run_id}", OPERATE, {200: StatusOfRun}, body=kinds.Decide,
    about=_about_approve, problems=(404, 409),
)  # fmt: skip
async def approve_workflow(ask: Ask) -> Response:
    """Decide what a run of the workflow waits for."""
    body = await ask.body(kinds.Decide)
    await status_of(ask)
    await _decide(ask, body)
    return json_of(await status_of(ask))


OPERATIONS = tuple(one for one in globals().values() if isinstance(one, Operation))


# Inside


async def _unseen(events: AsyncIterator[Event], seen: Seen) -> AsyncIterator[Event]:
    """Without the end of the run, which is always told, for who has seen it."""
    async for event in events:
        if not (seen.end and event.kind is EventKind.RUN_ENDED and event.seq == seen.after):
            yield event


def _id_of(event: Event) -> str:
    return f"{event.seq}{END if event.kind is EventKind.RUN_ENDED else ''}"


def _check_begin(body: kinds.StartRun) -> None:
    if body.at is not None and body.delay is not None:
        detail = "`at` and `delay` say when it begins: give one of the two"
        raise Refused(422, "Unprocessable content", detail)
    if body.delay is not None:
        length_us("delay", body.delay)


async def _decide(ask: Ask, body: kinds.Decide) -> None:
    await ask.engine.approve(ask.run_id, body.name, body.decision, decided_by=_decided_by(ask, body))


def _decided_by(ask: Ask, body: kinds.Decide) -> str:
    return ask.caller.name if body.decided_by is None else body.decided_by


async def _started(ask: Ask) -> str:
    data = await ask.value()
    ask.take_start()
    handle = await ask.engine.start(ask.workflow, Outside(data), run_id=ask.key(None))
    ask.made = handle.id
    return handle.id
