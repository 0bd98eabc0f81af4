"""`pikku dev`: an engine and its console for whoever writes the application, begun anew whenever the code changes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

from cyclopts import Parameter

from pikkupy.cli.exits import Exit
from pikkupy.cli.http import Reach
from pikkupy.cli.places import ENV
from pikkupy.cli.running import AppDir
from pikkupy.cli.screen import say
from pikkupy.errors import PikkuError
from pikkupy.mounting import PORT

FILE = "dev.db"
KILLED_AFTER_S = 3.0  # the grace of `pikku run` then, and time to close the file

Changes: TypeAlias = set[tuple[Any, str]]  # what was done, and to which file


async def dev(
    target: Annotated[str, Parameter(name="TARGET", help="module:name of a Pikku, an engine, or what makes one.")],
    file: Annotated[
        str | None,
        Parameter(name="FILE", show_default=False, help=f"The journal, for a Pikku. Left out: {ENV}, or {FILE}."),
    ] = None,
    /,
    *,
    app_dir: AppDir = None,
    http: Annotated[str, Parameter(help="Where the console is: an address of this machine, and a port.")] = (
        f"127.0.0.1:{PORT}"
    ),
    reach: Reach = Reach(),  # noqa: B008 - it is frozen
    watch: Annotated[
        list[Path] | None, Parameter(negative="", show_default=False, help="What to watch. [default: --app-dir, or .]")
    ] = None,
) -> int:
    """Run an engine with its console, and begin anew when a Python file changes, until Ctrl-C.

    What keeps it from its first beginning ends the command; later the next change is waited for. Runs that are under
    way go on with the new code: what they have recorded stands. If it does not fit, they are suspended, and the console
    says where it differs. TARGET is looked for in the folder that you are in, unless --app-dir names another. A second
    Ctrl-C ends it at once.
    """
    try:
        from watchfiles import PythonFilter, awatch  # noqa: PLC0415 - the extra may be missing

        import pikkupy.http.serving  # noqa: F401, PLC0415 - as above
    except ModuleNotFoundError as missing:
        raise PikkuError(f"pikku dev needs {missing.name}: pip install 'pikkupy[cli,console]'") from None
    watched = watch or [Path(app_dir or ".")]
    for one in watched:
        if not one.exists():
            raise FileNotFoundError(f"--{'watch' if watch else 'app-dir'}={str(one)!r}: it does not exist")
    place = _free_place(http, reach)
    command = [sys.executable, "-P", "-m", "pikkupy", "run", target]  # -P: as the script `pikku` does
    command += [] if file is None else [file]
    command += ["--http", f"{place.host}:{place.port}", *reach.arguments()]
    command += ["--console", "--log", "text", "--ends-with-input"]
    command += ["--app-dir", app_dir or "."]
    ends = _Ends()
    watching = awatch(*watched, watch_filter=PythonFilter(), stop_event=ends.asked)
    return await _lives(command, watching, ends)


class _Ends:
    """Asked by SIGINT or SIGTERM, and by a second one for an end at once."""

    def __init__(self) -> None:
        self.asked, self.at_once = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._ask)

    def _ask(self) -> None:
        (self.at_once if self.asked.is_set() else self.asked).set()


class _Place(NamedTuple):
    """Where the engine is asked to serve its console: `host` as in a URL."""

    host: str
    port: int


def _free_place(text: str, reach: Reach) -> _Place:
    """The place that is meant, with a port. Raises `BadValue`, `AddressTaken`, `PikkuError`, `OSError`."""
    from pikkupy.http.serving import address_of, bound_to  # noqa: PLC0415 - the extra may be missing

    reach.check_place(text)
    host = (address := address_of(text)).host
    with bound_to(address) as free:
        return _Place(f"[{host}]" if ":" in host else host, free.getsockname()[1])


async def _lives(command: list[str], watching: AsyncIterator[Changes], ends: _Ends) -> int:
    """One engine after the other."""
    coming = asyncio.ensure_future(anext(watching, None))  # what changes from here on, while it begins as well
    child, line = await _begun(command)
    link = asyncio.ensure_future(_link_from(line))
    await _first_of(asyncio.wait([link]), child.wait(), ends.asked.wait())
    if link.done() and not link.result():
        await _first_of(child.wait(), ends.asked.wait())
    if child.returncode is not None:  # it has said why
        ends.asked.set()
        await coming
        return child.returncode if child.returncode > 0 else 128 - child.returncode
    if not link.done():
        link.cancel()
    elif told := link.result():
        say(told)
    watched = asyncio.ensure_future(_watched(child))
    while (changes := await coming) is not None:
        coming = asyncio.ensure_future(anext(watching, None))
        names = sorted({Path(name).name for _, name in changes})
        say(f"changed: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}; the engine begins anew")
        watched.cancel()
        await _ended(child, ends.at_once)
        line.close()
        if ends.asked.is_set():
            break
        child, line = await _begun(command)
        watched = asyncio.ensure_future(_watched(child))
    watched.cancel()
    await coming
    await _ended(child, ends.at_once)
    line.close()
    return Exit.DONE


async def _link_from(line: socket.socket) -> str:
    """The link of the console, once the engine is open; empty if it ends before."""
    said = b""
    while not said.endswith(b"\n"):
        if not (part := await asyncio.get_running_loop().sock_recv(line, 4_096)):
            return ""
        said += part
    return said.decode().rstrip("\n")


async def _begun(command: list[str]) -> tuple[asyncio.subprocess.Process, socket.socket]:
    """A life of the engine, and our end of the line to it, which is its standard input: it ends with that."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    where = {**os.environ, ENV: os.environ.get(ENV) or FILE}
    # A session of its own: Ctrl-C is for this process, which ends the other one in order; or by its own end.
    with theirs:
        child = await asyncio.create_subprocess_exec(*command, start_new_session=True, stdin=theirs.fileno(), env=where)
    return child, ours


async def _watched(child: asyncio.subprocess.Process) -> None:
    """Say so if it ends by itself, because its code cannot be imported, say: what is wrong it has said."""
    await child.wait()
    say(f"the engine has ended (exit code {child.returncode}); it begins anew at the next change")


async def _ended(child: asyncio.subprocess.Process, at_once: asyncio.Event) -> None:
    """End it in order, if it has not ended by itself; an event loop that is blocked does not hear of that."""
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.terminate()
        await _first_of(child.wait(), at_once.wait(), asyncio.sleep(KILLED_AFTER_S))
    if child.returncode is None:
        say("the engine does not end: it is killed, which loses nothing that was recorded")
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
