"""`pikku export`, `replay` and `check`: a run as a file, and what the present code makes of what is recorded."""

from __future__ import annotations

import os
import pdb
import stat
import sys
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

import pikkupy
from pikkupy import Engine, Member, clock
from pikkupy.cli.exits import Exit
from pikkupy.cli.places import AsJson, FirstFile, file_and
from pikkupy.cli.running import AppDir, made_at, redacting
from pikkupy.cli.screen import Screen, say, tell, whoever_reads
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import RunStatus
from pikkupy.engine.exporting import document_of, recorded_of
from pikkupy.engine.looking import Look
from pikkupy.engine.replaying import Code, Fits, Replay, Replayed
from pikkupy.errors import BadValue, PikkuError
from pikkupy.names import MAX_LISTED
from pikkupy.private import write_new
from pikkupy.run_loop import Unwind
from pikkupy.showing.words import clean, counted, record

_EXITS = {Fits.YES: Exit.DONE, Fits.NO: Exit.MISMATCH, Fits.OTHERWISE: Exit.FAILED, Fits.MISSING: Exit.NOT_FOUND}
UNFINISHED = tuple(status for status in RunStatus if status not in FINAL_RUNS)
WORKFLOWS = "module:name of a Pikku, an engine, or what makes one"
MB = 1_000_000
_NOT_THE_USERS = {"pikkupy", "asyncio", "contextlib"}
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # for somebody at the other end of a pipe


async def export(
    file: FirstFile,
    run: Annotated[str | None, Parameter(name="RUN", show_default=False, help="The id of the run.")] = None,
    /,
    *,
    output: Annotated[str, Parameter(name=["--output", "-o"], help="A new file; -: standard output.")] = "-",
    redact: Annotated[
        str | None,
        Parameter(help="module:name of a function that takes secrets out of texts, not of names; it is imported."),
    ] = None,
    target: Annotated[
        str | None, Parameter(help=f"{WORKFLOWS}: with its payload codec the values are decoded.")
    ] = None,
    app_dir: AppDir = None,
    json: AsJson = False,
) -> Exit:
    """Write one run into a file: input, steps, attempts, errors, versions; all that its code is replayed from.

    `pikku replay` replays it, here or on another machine. The file is readable by its owner alone.
    """
    path, run_id = file_and(file, run, "RUN")
    hide = None if redact is None else _redacting(redact, redacting(redact, app_dir))
    codec = None if target is None else code_of(target, app_dir).payload_codec
    async with Look(path, payload_codec=codec) as look:
        recorded, attempts = await look.recorded(run_id)
    document = document_of(recorded, attempts, clock.now(), pikkupy.__version__, hide)
    named = [] if hide is None else [str(step.position) for step in recorded.steps if hide(step.name) != step.name]
    if named:
        positions = ", ".join(named[:MAX_LISTED]) + (", …" if len(named) > MAX_LISTED else "")
        say(
            f"--redact leaves names as they are, also those of the steps at positions {positions}: "
            "a replay finds steps by them, and the reason of a gate is its name"
        )
    if output == "-":
        sys.stdout.write(document.decode())
        return Exit.DONE
    write_new(output, document)
    if json:
        Screen().json({"run": run_id, "out": output, "steps": len(recorded.steps)})
    else:
        say(f"{output}: run {run_id!r} with {counted(len(recorded.steps), 'step')}")
    return Exit.DONE


def _redacting(name: str, function: Callable[[str], Any]) -> Callable[[str], str]:
    """The function that takes secrets out. What goes wrong in it ends the command: nothing is written then."""

    def redact(text: str) -> str:
        try:
            redacted = function(text)
        except Exception as error:
            raise PikkuError(f"--redact: {name} raised {type(error).__name__}: {error}; nothing was written") from error
        if not isinstance(redacted, str):
            raise PikkuError(f"--redact: {name} gave {type(redacted).__name__}, not a text; nothing was written")
        return redacted

    return redact


async def replay(
    document: Annotated[str, Parameter(name="EXPORTED", help="A file that `pikku export` has written.")],
    target: Annotated[str, Parameter(name="TARGET", help=f"{WORKFLOWS}.")],
    /,
    *,
    app_dir: AppDir = None,
    max_size: Annotated[int, Parameter(validator=Number(gte=1), help="Read no larger file: so many MB.")] = 256,
    pdb: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Look at where the workflow failed, in pdb."),
    ] = False,
    json: AsJson = False,
) -> Exit:
    """Replay an exported run against the present code. Nothing is executed.

    Says where code and record differ, if they do (exit code 6), if the run ends in another way than it did (1), and
    what it goes on with otherwise (0).
    """
    recorded = recorded_of(_exported(document, max_size), document)
    code = code_of(target, app_dir)
    one = Replay(recorded, code.registry, code.services)
    replayed = await one.run()
    with whoever_reads():
        Screen().json(replayed) if json else _show(replayed)
    if pdb and one.error is not None:
        _debug(one.error)
    elif pdb:
        say("the workflow has raised nothing: there is no line to look at")
    return _EXITS[replayed.fits]


def _exported(name: str, most_mb: int) -> bytes:
    """What is in the file, which is looked at before it is read. Raises `BadValue`, and `OSError`."""
    with open(name, "rb", opener=lambda path, flags: os.open(path, flags | _NO_WAIT)) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise BadValue(f"{name}: it is no regular file; name a file that `pikku export` has written")
        if about.st_size > most_mb * MB:
            size = -(-about.st_size // MB)
            raise BadValue(
                f"{name}: it has {size:,} MB, more than {most_mb:,} are not read; if it is meant: --max-size {size}"
            )
        return file.read(about.st_size)


async def check(
    file: FirstFile,
    target: Annotated[str | None, Parameter(name="TARGET", show_default=False, help=f"{WORKFLOWS}.")] = None,
    /,
    *,
    unfinished: Annotated[
        bool, Parameter(negative="", show_default=False, help="Only runs that have not ended.")
    ] = False,
    app_dir: AppDir = None,
    json: AsJson = False,
) -> Exit:
    """Replay every run of a journal against the present code, before it is deployed. Nothing is executed.

    Prints the first difference of each run that has one. Exit code 0: all go on; 6: an engine would suspend some; 4:
    the workflows of some are missing; 1: some that have ended would end in another way.
    """
    path, name = file_and(file, target, "TARGET")
    code = code_of(name, app_dir)
    wanted = UNFINISHED if unfinished else None
    screen, differ, count = Screen(), list[Replayed](), 0
    async with Look(path, payload_codec=code.payload_codec) as look:
        async for replayed in replays_of(look, code, wanted):
            count += 1
            if replayed.fits is not Fits.YES:
                differ.append(replayed)
                if not json:
                    with whoever_reads():
                        _show(replayed)
        damaged = look.damaged
    if json:
        with whoever_reads():
            screen.json({"runs": count, "differ": list(map(record, differ)), "damaged": damaged})
    for text in damaged:
        say(f"left out: {text}")
    say(f"replayed {counted(count, 'run')}, {len(differ):,} differ{'s' if len(differ) == 1 else ''}")
    found = {one.fits for one in differ}
    worst = next((fits for fits in (Fits.NO, Fits.MISSING, Fits.OTHERWISE) if fits in found), Fits.YES)
    return Exit.FAILED if damaged and worst is Fits.YES else _EXITS[worst]


async def replays_of(look: Look, code: Code, statuses: tuple[RunStatus, ...] | None = None) -> AsyncIterator[Replayed]:
    """What becomes of every run in one of these statuses; a person is told how far it is."""
    count = 0
    async for recorded in look.all_recorded(statuses):
        count += 1
        tell(counted(count, "run"))
        yield await Replay(recorded, code.registry, code.services).run()
    tell("")


def code_of(target: str, app_dir: str | None) -> Code:
    """The workflows of what `pikku run` would run, and what they would have there; nothing is opened.

    Raises `BadValue` if the target means nothing of the kind.
    """
    found = made_at(target, app_dir)
    code = found._code() if isinstance(found, Engine | Member) else Code(found)
    code.registry.resolve()
    return code


def _show(replayed: Replayed) -> None:
    sys.stdout.write(f"{clean(replayed.run_id)}\t{replayed.fits}\t{clean(replayed.what)}\n")


def _debug(error: BaseException) -> None:
    if not isinstance(error, Unwind):  # the code asks for another step: that has been shown
        sys.stderr.write(f"{clean(f'{type(error).__name__}: {error}')}\n")
    pdb.post_mortem(_to_the_users_code(error) or error.__traceback__)


def _to_the_users_code(error: BaseException) -> TracebackType | None:
    """The traceback up to the last line that is the user's: what that has called is not what is looked for."""
    frames, part = list[TracebackType](), error.__traceback__
    while part is not None:
        frames.append(part)
        part = part.tb_next
    while frames and frames[-1].tb_frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_USERS:
        frames.pop()
    for one in reversed(frames):
        part = TracebackType(part, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return part
