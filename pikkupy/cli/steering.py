"""Commands that act: they ask the engine that has the file open, since nobody else writes it."""

from __future__ import annotations

import asyncio
import getpass
import signal as signals  # one of the commands has the name
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from msgspec import UNSET

from pikkupy import Client, RunHandle, clock
from pikkupy.cli.exits import Exit, exit_of
from pikkupy.cli.given import (
    PATIENCE,
    Data,
    Wait,
    Which,
    Yes,
    check_duration,
    connected,
    meant,
    named,
    runs_of,
    value_of,
    values_of,
)
from pikkupy.cli.places import AsJson, File, FirstFile, file_and, file_and_perhaps, file_and_two, file_of, tags_of
from pikkupy.cli.runs import runs
from pikkupy.cli.screen import Screen, say, tell
from pikkupy.codec import Outside
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import RunStatus, StepKind
from pikkupy.engine import Event, EventKind
from pikkupy.engine.looking import Look
from pikkupy.errors import (
    BadValue,
    EngineClosed,
    EventsLost,
    JournalError,
    JournalLocked,
    PayloadError,
    PikkuError,
    ReplayMismatch,
    RunCancelled,
    RunFailed,
)
from pikkupy.many import ABLE, Many, Verb
from pikkupy.names import without_ordinal
from pikkupy.plain import rfc3339
from pikkupy.showing.mismatch import why_parked
from pikkupy.showing.words import clean, counted, record, short

AT_ONCE = 16  # calls of one command on many runs
TOLD = 20  # refusals that are told, a line each; `--json` has all
SHOWN = 200  # characters of a value or reason in a line
_OR_NEW = ", or let it go on with the code as it is: --accept new"

DONE: dict[Verb, str] = {"cancel": "cancelled", "retry": "retried", "resume": "resumed", "delete": "deleted"}

RunId = Annotated[str | None, Parameter(name="RUN", show_default=False, help="The id of the run.")]


async def start(
    file: FirstFile,
    workflow: Annotated[
        str | None, Parameter(name="NAME", show_default=False, help="The name of the workflow.")
    ] = None,
    /,
    *,
    data: Data = None,
    id: Annotated[str | None, Parameter(help="Its id: the same again is the same run.")] = None,
    tag: Annotated[list[str] | None, Parameter(negative="", help="A tag, name=value; repeat for several.")] = None,
    at: Annotated[datetime | None, Parameter(help="Begin at this time.")] = None,
    delay: Annotated[str | None, Parameter(help="Begin after this duration.")] = None,
    wait: Annotated[bool, Parameter(negative="", show_default=False, help="Wait for its end.")] = False,
    timeout: Annotated[str | None, Parameter(help="Wait no longer than this duration (exit code 124).")] = None,
    engine_wait: Wait = PATIENCE,
    json: AsJson = False,
) -> Exit:
    """Start a run. Its id is printed when it is on disk.

    With `--wait` its output follows, as JSON, and the exit code says how it has ended. That it is suspended meanwhile
    is said.
    """
    path, name = file_and(file, workflow, "NAME")
    value, tags = value_of("--data", data), tags_of(tag or [])
    for option, duration in (("--timeout", timeout), ("--delay", delay)):
        if duration is not None:
            check_duration(option, duration)
    if at is not None and delay is not None:
        raise BadValue("give --at or --delay, not both")
    try:
        begins_at = None if at is None else at.astimezone()
    except (ValueError, OverflowError):
        raise BadValue(f"--at={at}: use a year from 2 to 9998") from None
    async with connected(path, engine_wait) as client:
        try:
            handle = await client.start(name, Outside(value), run_id=id, tags=tags, at=begins_at, delay=delay)
        except PayloadError as unfit:
            if data is not None:
                raise
            raise PayloadError(f"{unfit}; give its input with --data") from None
        if not wait and timeout is None:
            Screen().json({"id": handle.id}) if json else Screen().rows([[handle.id]])
            return Exit.DONE
        return await _ended(client, handle, timeout, as_json=json)


async def _ended(client: Client, handle: RunHandle[Any], timeout: str | None, *, as_json: bool) -> Exit:
    """Wait for the end of a run and tell it."""
    screen, code = Screen(), Exit.DONE
    if not as_json:
        say(f"run {handle.id} is on disk")
    telling = asyncio.ensure_future(_tell_why_it_waits(client, handle.id))
    try:
        await handle.result(timeout)
    except PayloadError:
        pass  # it has completed, with an output of a class that only the application has: it is shown plainly
    except (RunFailed, RunCancelled, TimeoutError) as error:
        say(str(error))
        code = exit_of(error)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)  # what is wrong is the result's to say
    if as_json:
        screen.json(await client.get_run(handle.id))
    elif code is Exit.DONE:
        screen.json((await client.get_run(handle.id)).output)
    return code


async def _tell_why_it_waits(client: Client, run_id: str) -> None:
    """Say whenever the run is suspended: it does not end before somebody does something."""
    told: str | None = None
    async for event in client.run_events(run_id):
        if event.kind is EventKind.SUSPENDED:
            run = await client.get_run(run_id)  # it may have been long ago
            if run.status is RunStatus.SUSPENDED and run.reason != told:
                told = run.reason
                say(f"run {run_id} is suspended: {told}; `pikku runs resume` lets it go on")
        elif event.kind is EventKind.RESUMED:
            told = None


@runs.command
async def cancel(
    file: File = None,
    run: RunId = None,
    /,
    *,
    reason: Annotated[str, Parameter(help="Why: it is kept with the run.")] = "cancelled from the command line",
    which: Which = Which(),  # noqa: B008 - it is frozen
) -> Exit:
    """End a run, or all that fit filters, as cancelled: no further step of it starts."""
    return await _act("cancel", lambda one, client: client.cancel(one, reason), file, run, which)


@runs.command
async def retry(
    file: File = None,
    run: RunId = None,
    /,
    *,
    which: Which = Which(),  # noqa: B008 - it is frozen
) -> Exit:
    """Let a failed run, or all that fit filters, go on from the step that failed."""
    return await _act("retry", lambda one, client: client.retry(one), file, run, which)


@runs.command
async def resume(
    file: File = None,
    run: RunId = None,
    /,
    *,
    accept: Annotated[
        Literal["new"] | None,
        Parameter(help="'new': go on with changed code; steps it does not ask for are kept aside."),
    ] = None,
    which: Which = Which(),  # noqa: B008 - it is frozen
) -> Exit:
    """Let a suspended run, or all that fit filters, go on."""
    return await _act("resume", lambda one, client: _resumed(one, client, accept), file, run, which)


async def _resumed(run_id: str, client: Client, accept: Literal["new"] | None) -> None:
    """Raises `ReplayMismatch` if there is no code that fits, so that it is suspended as before."""
    await client.resume(run_id, accept=accept)
    why = why_parked(await client.get_run(run_id))
    if why is not None:
        raise ReplayMismatch(f"run {run_id!r} is suspended as before: {why}; bring back the code that fits it{_OR_NEW}")


@runs.command
async def delete(
    file: File = None,
    run: RunId = None,
    /,
    *,
    which: Which = Which(),  # noqa: B008 - it is frozen
) -> Exit:
    """Delete a run that has ended, or all that fit filters, with steps, history and child runs."""
    return await _act("delete", lambda one, client: client.delete_run(one), file, run, which)


@runs.command
async def signal(
    file: FirstFile,
    run: Annotated[str, Parameter(name="RUN", help="The id of the run.")],
    name: Annotated[str | None, Parameter(name="NAME", show_default=False, help="The name of the signal.")] = None,
    /,
    *,
    data: Data = None,
    engine_wait: Wait = PATIENCE,
    json: AsJson = False,
) -> Exit:
    """Send a run a signal; it is on disk when the command ends."""
    path, run_id, signal_name = file_and_two(file, run, name, ("RUN", "NAME"))
    payload = value_of("--data", data)
    async with connected(path, engine_wait) as client:
        waits = any(
            step.kind is StepKind.SIGNAL and without_ordinal(step.name) == signal_name
            for step in (await client.open_steps([run_id])).get(run_id, ())
        )
        await client.signal(run_id, signal_name, Outside(payload))
    kept = "" if waits else "; no step waits for it: it is kept for the next that does"
    return _done(run_id, f"signal {signal_name!r} was sent to run {run_id!r}{kept}", as_json=json)


@runs.command
async def approvals(
    file: File = None,
    run: RunId = None,
    /,
    *,
    engine_wait: Wait = PATIENCE,
    json: AsJson = False,
) -> Exit:
    """Say what a run waits to be decided, with JSON Schema of each decision: not which signals it waits for.

    It changes nothing, but asks an engine, as only the workflow's code knows the type of a decision. `pikku runs show`
    says from the file alone for which signals or decisions a run waits.
    """
    path, run_id = named(file, run)
    async with connected(path, engine_wait) as client:
        waits = await client.approvals(run_id)
    if json:
        Screen().json(waits)
    else:
        Screen().rows([name, short(schema, SHOWN)] for name, schema in waits.items())
        if not waits:
            say(f"run {run_id!r} waits for no decision")
    return Exit.DONE


@runs.command
async def approve(
    file: FirstFile,
    run: Annotated[str, Parameter(name="RUN", help="The id of the run.")],
    name: Annotated[str | None, Parameter(name="NAME", show_default=False, help="The name of the approval.")] = None,
    /,
    *,
    data: Data = None,
    by: Annotated[str | None, Parameter(help="Who has decided. Left out: the user of this command.")] = None,
    engine_wait: Wait = PATIENCE,
    json: AsJson = False,
) -> Exit:
    """Decide what a run waits for; a decision that does not fit is refused, and the run goes on waiting."""
    path, run_id, approval = file_and_two(file, run, name, ("RUN", "NAME"))
    if data is None:
        raise BadValue(f"what is decided of {approval!r}? Give --data, as JSON; `pikku runs approvals` says what fits")
    decision = value_of("--data", data)
    async with connected(path, engine_wait) as client:
        await client.approve(run_id, approval, decision, decided_by=by or _user())
    return _done(run_id, f"{approval!r} of run {run_id!r} is decided", as_json=json)


@runs.command
async def fork(
    file: FirstFile,
    run: RunId = None,
    /,
    *,
    at: Annotated[str, Parameter(help="The step from which on it goes its own way.")],
    data: Data = None,
    override: Annotated[
        list[str] | None,
        Parameter(negative="", help="Another value of an earlier step, name=JSON; repeat for several."),
    ] = None,
    id: Annotated[str | None, Parameter(help="The id of the new run.")] = None,
    engine_wait: Wait = PATIENCE,
    json: AsJson = False,
) -> Exit:
    """Start a new run that shares the history of another one before a step. Its id is printed."""
    path, run_id = file_and(file, run, "RUN")
    value = UNSET if data is None else Outside(value_of("--data", data))
    overrides = values_of("--override", override or [])
    async with connected(path, engine_wait) as client:
        handle = await client.fork(run_id, at=at, input=value, overrides=overrides, new_run_id=id)
    Screen().json({"id": handle.id}) if json else Screen().rows([[handle.id]])
    return Exit.DONE


@runs.command
async def tail(
    file: File = None,
    run: RunId = None,
    /,
    *,
    all: Annotated[bool, Parameter(negative="", show_default=False, help="All runs, from now on.")] = False,
    jsonl: Annotated[bool, Parameter(negative="", show_default=False, help="One JSON document an event.")] = False,
    engine_wait: Wait = PATIENCE,
) -> Exit:
    """Show what has happened to a run, and what happens, until it has ended; then the exit code says how.

    Of a run that has ended the file alone tells it; of another one, without an engine, what is recorded, and then an
    engine is waited for. With `--all` what happens to all runs, until Ctrl-C; what happens
    while one engine follows another is not told, and that is said.
    """
    screen = Screen()
    path, run_id = file_and_perhaps(file, run) if all else named(file, run)
    if all and run_id is not None:
        raise BadValue("give a RUN or --all, not both")
    last: Event | None = None
    events = _from_now_on(path, engine_wait) if run_id is None else _of_run(path, run_id, engine_wait)
    async with aclosing(events):  # a reader that goes ends it here: the loop would close what is inside it as well
        async for last in events:
            screen.jsonl([record(last)]) if jsonl else screen.rows([_told(last, with_run=run_id is None)])
            sys.stdout.flush()
    ends = {"failed": Exit.FAILED, "cancelled": Exit.CANCELLED}
    return Exit.DONE if last is None else ends.get(last.status or "", Exit.DONE)


async def _from_now_on(path: str, wait: str) -> AsyncGenerator[Event, None]:
    async with connected(path, wait) as client:
        while True:
            try:
                async for event in client.events():
                    yield event
            except EventsLost as lost:
                say(f"there is a gap: {lost}")


async def _of_run(path: str, run_id: str, wait: str) -> AsyncGenerator[Event, None]:
    """What the engine tells of the run; as long as there is none, what is recorded, which is all if it has ended."""
    last: Event | None = None
    async with Look(path) as look:
        run = await look.get_run(run_id)
        if not await _answers(path):
            if run.status not in FINAL_RUNS:
                say(f"no engine answers: this is what is recorded; waiting {wait} for one")
            async for last in look.run_events(run_id):
                yield last
        if look.damaged:
            raise JournalError(f"left out: {'; '.join(look.damaged)}")
    if last is not None and last.kind is EventKind.RUN_ENDED:
        return
    async with connected(path, wait) as client:
        async for event in client.run_events(run_id, after=None if last is None else last.seq):
            yield event


async def _answers(path: str) -> bool:
    """Whether an engine has the file open now."""
    try:
        async with connected(path, "0ms"):
            return True
    except (EngineClosed, JournalLocked):
        return False


def _told(event: Event, *, with_run: bool) -> list[str]:
    """One line of an event."""
    facts = [event.step_name or event.name or ""]
    if event.attempt is not None and event.kind is EventKind.ATTEMPT_FAILED:
        facts.append(f"attempt {event.attempt}")
    if event.status is not None:
        facts.append(event.status)
    if event.error is not None:
        facts.append(f"{event.error.type}: {event.error.message}"[:SHOWN])
    if event.reason is not None:
        facts.append(event.reason[:SHOWN])
    if event.wake_at is not None:
        facts.append(f"until {rfc3339(event.wake_at)}")
    if event.progress is not None:
        facts.append(short(event.progress, SHOWN))
    return [rfc3339(event.at), *([event.run_id] if with_run else []), event.kind, "  ".join(filter(None, facts))]


async def prune(
    file: File = None,
    /,
    *,
    older_than: Annotated[str, Parameter(help="That ended so long ago, or earlier.")],
    status: Annotated[
        list[Literal["completed", "failed", "cancelled"]] | None,
        Parameter(negative="", help="In this status alone. Several: repeat it."),
    ] = None,
    keep: Annotated[int, Parameter(validator=Number(gte=0), help="So many of those that ended last stay.")] = 0,
    dry_run: Annotated[
        bool, Parameter(negative="", show_default=False, help="Only say how many there are; needs no engine.")
    ] = False,
    yes: Yes = False,
    engine_wait: Wait = PATIENCE,
    json: AsJson = False,
) -> Exit:
    """Delete runs that ended long ago, a few at a time. The file does not get smaller; the room in it is used again.

    Says how many there are, without their child runs, and asks, but for `--yes`.
    """
    path = file_of(file)
    check_duration("--older-than", older_than)
    which: dict[str, Any] = {"older_than": older_than, "statuses": status, "keep": keep}
    if dry_run:
        count = await _prunable(path, which)
        if json:
            Screen().json({"would_delete": count})
        else:
            say(f"{counted(count, 'run')} would be deleted")
        return Exit.DONE
    async with connected(path, engine_wait) as client:
        if not yes and not _agreed("prune", await _prunable(path, which), yes=False):
            return Exit.CANCELLED
        gone = await client.prune(**which, progress=lambda count: tell(f"{counted(count, 'run')} gone"))
    tell("")
    if json:
        Screen().json({"deleted": gone})
    else:
        say(f"deleted {counted(gone, 'run')}")
    return Exit.DONE


async def _prunable(path: str, which: dict[str, Any]) -> int:
    async with Look(path) as look:
        count = await look.prunable(**which, progress=lambda count: tell(f"{counted(count, 'run')} so far"))
    tell("")
    return count


def _user() -> str | None:
    """Who the system says that it is."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may have a user without a name
        return None


async def _act(
    verb: Verb, do: Callable[[str, Client], Awaitable[None]], file: str | None, run: str | None, which: Which
) -> Exit:
    """Do it to the run that was named, or to all that fit."""
    path, run_id = meant(file, run, which)
    arguments = which.arguments(clock.now())  # also says what is wrong with the filters, before anybody is waited for
    async with connected(path, which.engine_wait) as client:
        if run_id is not None:
            await do(run_id, client)
            return _done(run_id, f"{DONE[verb]} run {run_id!r}", as_json=which.json)
        found = await runs_of(client, arguments, ABLE[verb])
        if not _agreed(verb, len(found), yes=which.yes):
            return Exit.CANCELLED

        def tell_how_far(_run_id: str, _error: PikkuError | None) -> None:
            tell(f"{len(many.done) + len(many.refused):,} of {len(found):,}")

        many = Many(verb, lambda one: do(one, client), client, AT_ONCE, tell_how_far)
        await many.to(found)
    tell("")
    _tell_all(verb, many, len(found), as_json=which.json)
    if many.gone is not None:
        raise many.gone
    return Exit.FAILED if many.refused else Exit.DONE


def _tell_all(verb: Verb, many: Many, meant: int, *, as_json: bool) -> None:
    """What became of the runs that were meant."""
    left = meant - len(many.done) - len(many.refused)
    if as_json:
        failed = [{"id": one, "error": str(error)} for one, error in many.refused.items()]
        Screen().json({"done": many.done, "failed": failed, "left": left})
        return
    for one, error in list(many.refused.items())[:TOLD]:
        say(str(error) if repr(one) in str(error) else f"{clean(one)}: {error}")
    if len(many.refused) > TOLD:
        say(f"… and {len(many.refused) - TOLD:,} more; --json tells all")
    refused = f", {len(many.refused):,} refused" if many.refused else ""
    say(f"{DONE[verb]} {counted(len(many.done), 'run')}{refused}" + (f", {left:,} left as they were" if left else ""))


def _done(run_id: str, words: str, *, as_json: bool) -> Exit:
    Screen().json({"done": [run_id], "failed": [], "left": 0}) if as_json else say(words)
    return Exit.DONE


def _agreed(verb: str, count: int, *, yes: bool) -> bool:
    """Whether it is to be done to so many."""
    if yes or count == 0:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise BadValue(f"{verb} {counted(count, 'run')}? Say --yes; nothing was done")
    # While a line is read the loop stands still, and would not learn of asyncio's Ctrl-C: it is an exception here.
    before_asking = signals.signal(signals.SIGINT, signals.default_int_handler)
    try:
        sys.stderr.write(f"{verb} {counted(count, 'run')}? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return True
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        say("nothing was done")
        raise
    finally:
        signals.signal(signals.SIGINT, before_asking)
    say("nothing was done: the answer was not yes")
    return False
