"""Commands about a journal as a whole: `pikku counts`, `doctor`, `backup` and `restore`. None changes what is in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, TypeAlias

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from pikkupy.cli.exits import Exit
from pikkupy.cli.places import AsJson, File, FirstFile, file_and, file_and_perhaps, file_of
from pikkupy.cli.replays import UNFINISHED, WORKFLOWS, code_of, replays_of
from pikkupy.cli.running import AppDir
from pikkupy.cli.screen import Entry, Screen, say, table, whoever_reads, whole
from pikkupy.clock import SystemClock
from pikkupy.core.model import RunStatus
from pikkupy.engine.health import Check, Level, code_check, examine
from pikkupy.engine.looking import Look
from pikkupy.engine.replaying import Fits
from pikkupy.errors import BadValue
from pikkupy.plain import plain
from pikkupy.showing.marks import LEVELS, RUNS
from pikkupy.showing.words import clean, counted, lasted
from pikkupy.store import back_up, put_back

Checked: TypeAlias = Annotated[
    bool,
    Parameter(
        name="--check",
        show_default=False,
        help="Compare each row of the copy with its checksum. [default: --check]",
    ),
]
_CHECKED = {True: "checked", False: "pages checked"}


async def counts(file: File = None, /, *, json: AsJson = False) -> Exit:
    """Count runs by workflow and status."""
    screen = Screen()
    async with Look(file_of(file)) as look:
        found = await look.counts()
    if json:
        screen.json(found)
    elif not screen.is_terminal:
        screen.rows((name, status, str(count)) for name in found for status, count in found[name].items())
    elif found:
        entries = list[Entry]()
        for name, by_status in found.items():
            cells = [Text(f"{by_status[one]:,}", RUNS[one].style) if one in by_status else "" for one in RunStatus]
            facts = [f"{by_status[one]:,} {one}" for one in RunStatus if one in by_status]
            entries.append(Entry((whole(name), *cells), Text(clean(name), "bold default"), facts, Text()))
        screen.entries(("workflow", *RunStatus), entries, right=tuple(RunStatus))
    if not found:
        say("there are no runs")
    return Exit.DONE


async def doctor(
    file: File = None,
    target: Annotated[str | None, Parameter(name="TARGET", show_default=False, help=f"{WORKFLOWS}.")] = None,
    /,
    *,
    app_dir: AppDir = None,
    check: Annotated[
        bool | None,
        Parameter(help="Look at every page, and compare every row. [default: if the file has less than 64 MiB]"),
    ] = None,
    json: AsJson = False,
) -> Exit:
    """Look for what is wrong with a journal: file, owner, SQLite, disk, clock, damage, runs that nothing can wake.

    With a TARGET its unfinished runs are replayed against that code, as by `pikku check`; nothing is executed. Each
    check is ok, a warning, or bad, with a cure. Exit code 1 if one is bad.
    """
    screen, (path, name) = Screen(), file_and_perhaps(file, target)
    code = None if name is None else code_of(name, app_dir)
    checks = await examine(path, check=check)
    if code is not None:
        async with Look(path, payload_codec=code.payload_codec) as look:
            replayed = [one async for one in replays_of(look, code, UNFINISHED)]
            unread = look.damaged
        checks.append(code_check(len(replayed), [one for one in replayed if one.fits is not Fits.YES], unread))
    well = all(one.level is not Level.BAD for one in checks)
    with whoever_reads():
        if json:
            screen.json({"file": path, "ok": well, "checks": checks})
        elif not screen.is_terminal:
            screen.rows((one.level, one.name, one.finding, one.cure or "") for one in checks)
        else:
            screen.show(_examined(screen, checks))
    return Exit.DONE if well else Exit.FAILED


def _examined(screen: Screen, checks: Sequence[Check]) -> Table:
    made = table("", "check", "finding", gives="finding")
    for one in checks:
        mark = LEVELS[one.level]
        finding = whole(one.finding)
        if one.cure is not None:
            finding.append(f"\ncure: {clean(one.cure)}", mark.style)
        made.add_row(screen.marked(mark), whole(one.name), finding)
    return made


async def backup(
    file: FirstFile,
    out: Annotated[
        str | None, Parameter(name="OUT", show_default=False, help="The new file, in a folder that exists.")
    ] = None,
    /,
    *,
    check: Checked = True,
    json: AsJson = False,
) -> Exit:
    """Copy a journal into a new file, also while an engine is at work on it, and check the copy.

    Its pages are looked at, and each row is compared with its checksum. The copy holds what was on disk at one moment,
    and is readable by its owner alone. A file that is there already is left alone (exit code 5); a copy that fails
    leaves nothing behind. There has to be room for it twice.
    """
    path, target = file_and(file, out, "OUT")
    if not target:
        raise BadValue("OUT is empty: give the name of a new file")
    began = time.monotonic()
    made = await asyncio.to_thread(back_up, path, target, check=check)
    seconds = round(time.monotonic() - began, 3)
    if json:
        Screen().json({**plain(made), "seconds": seconds})
    else:
        say(
            f"{target}: {counted(made.runs, 'run')} and {counted(made.steps, 'step')} in {made.bytes:,} bytes, "
            f"{_CHECKED[check]}, in {lasted(timedelta(seconds=seconds))}"
        )
    return Exit.DONE


async def restore(
    backup: Annotated[str, Parameter(name="BACKUP", help="The copy to go back to. It stays as it is.")],
    file: File = None,
    /,
    *,
    check: Checked = True,
    json: AsJson = False,
) -> Exit:
    """Go back to a backup: put a checked copy of it in the place of a journal that no engine has open.

    What was there is kept, with its write-ahead log, under the name FILE.replaced; delete it when you do not need it
    any more. An engine that has the file is not disturbed (exit code 5): leave it first.
    """
    path = file_of(file)
    began = time.monotonic()
    made = await asyncio.to_thread(put_back, backup, path, SystemClock().now_us(), check=check)
    seconds = round(time.monotonic() - began, 3)
    if json:
        Screen().json({**plain(made), "seconds": seconds})
    else:
        kept = f"; what was there is {made.replaced} now" if made.replaced else ""
        say(
            f"{path}: {counted(made.runs, 'run')} and {counted(made.steps, 'step')} as in {backup}, "
            f"{_CHECKED[check]}, in {lasted(timedelta(seconds=seconds))}{kept}"
        )
    return Exit.DONE
