"""`pikku runs`: lists of runs, and one of them closely. They read, and import no application."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.text import Text

from pikkupy import Attempt, Page, Run, Step, clock
from pikkupy.cli.exits import Exit
from pikkupy.cli.given import Filters
from pikkupy.cli.places import AsJson, File, FirstFile, file_and, file_of
from pikkupy.cli.screen import Entry, Screen, reason, say, whole
from pikkupy.cli.timeline import timeline
from pikkupy.core.machine import FINAL_STEPS
from pikkupy.core.model import RunStatus
from pikkupy.engine.listing import MAX_PAGE
from pikkupy.engine.looking import Look
from pikkupy.errors import BadValue, PikkuError
from pikkupy.plain import plain, rfc3339
from pikkupy.showing.marks import RUNS, STEPS
from pikkupy.showing.waits import took, waits_for, what_of
from pikkupy.showing.words import clean, clean_lines, first_line, lasted, local, record, short

LAST = 50  # steps of a long run that are shown
NARROW = 60  # columns from which on a status has its word beside its sign, where there is no table
TO_THE_MINUTE = len("2026-01-05 09:50")
VALUE = 500  # characters of an input or output that are shown

runs = App(name="runs", help="See what runs are doing, and why one waits or has failed.")


@runs.command(name="list")
async def list_command(
    file: File = None,
    /,
    *,
    filters: Filters = Filters(),  # noqa: B008 - it is frozen
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=MAX_PAGE), help="So many at most, 1 to 500.")] = 50,
    cursor: Annotated[str | None, Parameter(help="Go on where the last page ended.")] = None,
    json: AsJson = False,
    jsonl: Annotated[
        bool, Parameter(negative="", show_default=False, help="One JSON document a run, a line each.")
    ] = False,
) -> Exit:
    """List runs, newest first.

    On a terminal a table; on a pipe a line per run with tabs between status, id, workflow, start, seconds, and what it
    waits for or why it ended. All filters have to fit.
    """
    if json and jsonl:
        raise BadValue("give --json or --jsonl, not both")
    if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
        raise BadValue(f"--cursor={cursor!r}: use the number that was told where the last page ended")
    screen, now = Screen(), clock.now()
    path, wanted = file_of(file), filters.arguments(now)
    async with Look(path) as look:
        page = await look.list_runs(**wanted, limit=limit, cursor=cursor, values=json or jsonl)
        steps = await look.open_steps(run.id for run in page.runs if run.ended_at is None)
        damaged = look.damaged
    if json:
        shown = [_run_json(run, steps.get(run.id, [])) for run in page.runs]
        screen.json({"runs": shown, "next_cursor": page.next_cursor, "damaged": damaged})
    elif jsonl:
        screen.jsonl(_run_json(run, steps.get(run.id, [])) for run in page.runs)
    elif screen.is_terminal:
        _show_page(screen, page, steps, now)
    else:
        screen.rows(_row(run, steps.get(run.id, []), now) for run in page.runs)
    _say_rest(page, damaged)
    return Exit.FAILED if damaged else Exit.DONE


def _say_rest(page: Page, damaged: Sequence[str]) -> None:
    for text in damaged:
        say(f"left out: {text}")
    if page.next_cursor is not None:
        say(f"there are more: --cursor {page.next_cursor}")
    elif not page.runs and not damaged:
        say("there are no such runs")


def _run_json(run: Run, steps: Sequence[Step]) -> dict[str, Any]:
    fields: dict[str, Any] = plain(run)
    waiting = ("name", "kind", "status", "attempts", "wake_at")
    return fields | {"open_steps": [{name: getattr(step, name) for name in waiting} for step in steps]}


def _row(run: Run, steps: Sequence[Step], now: datetime) -> list[str]:
    seconds = took(run, now).total_seconds()
    return [
        run.status,
        run.id,
        run.workflow,
        rfc3339(run.created_at),
        f"{seconds:.3f}",
        what_of(run, steps, now, rfc3339),
    ]


def _show_page(screen: Screen, page: Page, steps: dict[str, list[Step]], now: datetime) -> None:
    if not page.runs:
        return
    entries = list[Entry]()
    for run in page.runs:
        mark, started, so_long = RUNS[run.status], local(run.created_at), lasted(took(run, now))
        head = screen.marked(mark, f"{run.status:9}" if screen.width >= NARROW else "")
        why = reason(what_of(run, steps.get(run.id, []), now), "red" if run.error is not None else "dim")
        cells = screen.marked(mark, run.status), whole(run.id), whole(run.workflow), started, so_long
        head.append(f" {clean(run.id)}", "bold default").append(f"  {clean(run.workflow)}", "default")
        entries.append(Entry(cells, head, (started[:TO_THE_MINUTE], so_long), why))
    screen.entries(("status", "id", "workflow", "started", "took"), entries, right=("took",))


@runs.command(name="show")
async def show_command(
    file: FirstFile,
    run: Annotated[str | None, Parameter(name="RUN", show_default=False, help="The id of the run.")] = None,
    /,
    *,
    last: Annotated[
        int | None,
        Parameter(validator=Number(gte=0), help="Show so many of the last steps; 0: all. [default: 50, in JSON all]"),
    ] = None,
    json: AsJson = False,
) -> Exit:
    """Show one run: what went in and came out, its steps and attempts, and a timeline.

    Bars are as long as what they stand for took; failed attempts, waits before retries, sleeps, signals and child runs
    differ in shape. Of an unfinished run a line says where now is.
    """
    path, run_id = file_and(file, run, "RUN")
    screen, now = Screen(), clock.now()
    async with Look(path) as look:
        found = await look.get_run(run_id)
        shown, attempts, in_all = await _last_steps(look, run_id, (0 if json else LAST) if last is None else last)
        held = {} if json else await _suspended(look, shown)
        damaged = look.damaged
    if json:
        screen.json(
            {
                "run": found,
                "steps": list(map(record, shown)),
                "steps_in_all": in_all,
                "attempts": list(map(record, attempts)),
                "damaged": damaged,
            }
        )
    else:
        _show_run(screen, found, now)
        _show_steps(screen, found, shown, held, in_all, attempts, now)
    for text in damaged:
        say(f"left out: {text}")
    return Exit.FAILED if damaged else Exit.DONE


async def _last_steps(look: Look, run_id: str, wanted: int) -> tuple[Sequence[Step], Sequence[Attempt], int]:
    """So many of the run's last steps, or all (0), with their attempts, and how many there are."""
    if 0 < wanted <= MAX_PAGE:
        in_all = (await look.some_steps(run_id, limit=1)).in_all
        page = await look.some_steps(run_id, first=max(0, in_all - wanted), limit=wanted)
        return page.steps, page.attempts, in_all
    steps, attempts = await look.steps(run_id), await look.history(run_id)
    shown = steps[-wanted:] if wanted else steps
    if len(shown) < len(steps):
        names = {step.name for step in shown}
        attempts = [one for one in attempts if one.step_name in names]
    return shown, attempts, len(steps)


def _show_run(screen: Screen, run: Run, now: datetime) -> None:
    headline = screen.marked(RUNS[run.status], run.status)
    screen.show(headline.append(f"  {clean(run.id)}", "bold default").append(f"  {clean(run.workflow)}", "default"))
    begun = max(run.starts_at, run.created_at)  # the body of a fork began with that of the other run
    facts = {"started": local(begun), "took": lasted(took(run, now))} if begun <= now else {"begins": local(begun)}
    if run.starts_at > run.created_at:
        facts = {"created": local(run.created_at), **facts}
    if run.ended_at is None:
        facts |= {"took": f"{facts['took']} so far"} if "took" in facts else {}
        facts["last change"] = local(run.updated_at)
    facts |= {
        "reason": "" if run.reason is None else clean(run.reason),
        "tags": ", ".join(f"{clean(name)}={clean(value)}" for name, value in run.tags.items()),
        "parent": clean(run.parent_run_id or ""),
        "forked from": clean(run.forked_from or ""),
        "progress": "" if run.progress is None else clean(str(run.progress)),
        "input": short(run.input, VALUE),
        "output": "" if run.output is None and run.status != "completed" else short(run.output, VALUE),
    }
    for name, fact in facts.items():
        if fact:
            screen.show(f"{name:12} {fact}")
    if run.error is not None:
        screen.show(Text(f"{'error':12} {clean(run.error.type)}: {first_line(run.error.message)}", "red"))
        told = run.error.traceback or run.error.message
        screen.show("\n".join(f"  {line}" for line in clean_lines(told.rstrip()).split("\n")))


def _show_steps(
    screen: Screen,
    run: Run,
    steps: Sequence[Step],
    held: Mapping[str, str],
    in_all: int,
    attempts: Sequence[Attempt],
    now: datetime,
) -> None:
    screen.show("")
    if not steps:
        screen.show("no steps")
        return
    if len(steps) < in_all:
        screen.show(f"the last {len(steps):,} of {in_all:,} steps (--last 0 shows all)")
    screen.entries(
        ("", "step", "kind", "attempts", "began", "took"),
        [_entry(screen, run, step, held, now) for step in steps],
        right=("attempts", "began", "took"),
    )
    screen.show("")
    by_step: defaultdict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_step[attempt.step_name].append(attempt)
    lines = timeline(
        run,
        steps,
        by_step,
        now,
        whole=len(steps) == in_all,
        width=screen.width,
        symbols=screen.has_symbols,
    )
    for line in lines:
        line.rstrip()
        screen.show(line)


def _entry(screen: Screen, run: Run, step: Step, held: Mapping[str, str], now: datetime) -> Entry:
    mark, ended = screen.marked(STEPS[step.status]), step.ended_at or (now if step.status == "running" else None)
    began = "" if step.started_at is None else f"+{lasted(step.started_at - run.starts_at)}"
    so_long = "" if step.started_at is None or ended is None else lasted(ended - step.started_at)
    return Entry(
        (mark, whole(step.name), step.kind, str(step.attempts or ""), began, so_long),
        mark.copy().append(f" {clean(step.name)}", "default"),
        (step.kind, f"attempts: {step.attempts}" if step.attempts else "", began, so_long),
        reason(_note(step, held, now), "red" if step.error is not None else "dim"),
    )


async def _suspended(look: Look, steps: Sequence[Step]) -> dict[str, str]:
    """Which child runs that these steps wait for are suspended, and why; of very many the first."""
    waited_for = [step.child_run_id for step in steps if step.child_run_id and step.status not in FINAL_STEPS]
    held = dict[str, str]()
    for run_id in waited_for[:LAST]:
        with suppress(PikkuError):  # it is gone, or damaged, which is told where it is asked for
            child = await look.get_run(run_id)
            if child.status is RunStatus.SUSPENDED:
                held[run_id] = child.reason or ""
    return held


def _note(step: Step, held: Mapping[str, str], now: datetime) -> str:
    notes = [] if step.status in FINAL_STEPS else [waits_for(step, now)]
    if step.error is not None:
        notes.append(clean(f"{step.error.type}: {first_line(step.error.message)}"))
    if step.child_run_id is not None:
        why = held.get(step.child_run_id)
        notes.append(f"run {clean(step.child_run_id)}" + ("" if why is None else f" is suspended: {first_line(why)}"))
    return "; ".join(notes)
