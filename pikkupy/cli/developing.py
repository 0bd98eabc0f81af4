"""`pikku dev`: an engine and its console for whoever writes the application, begun anew whenever the code changes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pikkupy.cli.exits import Exit
from pikkupy.cli.places import ENV
from pikkupy.cli.running import AppDir
from pikkupy.cli.screen import say
from pikkupy.errors import PikkuError

FILE = "dev.db"
GRACE = "1s"


async def dev(
    target: Annotated[str, Parameter(name="TARGET", help="module:name of a Pikku.")],
    file: Annotated[
        str | None, Parameter(name="FILE", show_default=False, help=f"The journal. Left out: {ENV}, or {FILE}.")
    ] = None,
    /,
    *,
    app_dir: AppDir = None,
    http: Annotated[str, Parameter(help="Where the console is: an address of this machine, and a port.")] = (
        "127.0.0.1:8799"
    ),
    watch: Annotated[
        list[Path] | None, Parameter(negative="", show_default=False, help="What to watch. [default: --app-dir, or .]")
    ] = None,
) -> Exit:
    """Run an engine with its console, and begin anew when a Python file changes, until Ctrl-C.

    Runs that are under way go on with the new code: what they have recorded stands. If it does not fit, they are
    suspended, and the console says where it differs.
    """
    try:
        from watchfiles import PythonFilter, awatch  # noqa: PLC0415 - the extra may be missing

        from pikkupy.http.serving import address_of  # noqa: PLC0415
        from pikkupy.http.tokens import token_of_file  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise PikkuError(f"pikku dev needs {missing.name}: pip install 'pikkupy[cli,console]'") from None
    path = file or os.environ.get(ENV) or FILE
    address = address_of(http)
    command = [sys.executable, "-P", "-m", "pikkupy", "run", target, path]  # -P: as the script `pikku` does
    command += ["--http", http, "--console", "--log", "text", "--grace", GRACE]
    command += [] if app_dir is None else ["--app-dir", app_dir]
    places = [Path(app_dir or ".")] if watch is None else watch
    ends = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ends.set)
    say(f"http://{address.host}:{address.port}/console/#token={token_of_file(path)}")
    child = await _begun(command)
    async for changes in awatch(*places, watch_filter=PythonFilter(), stop_event=ends):
        names = sorted({Path(name).name for _, name in changes})
        say(f"changed: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}; the engine begins anew")
        await _ended(child)
        child = await _begun(command)
    await _ended(child)
    return Exit.DONE


async def _begun(command: list[str]) -> asyncio.subprocess.Process:
    # A session of its own: Ctrl-C is for this process, which ends the other one in order.
    return await asyncio.create_subprocess_exec(*command, start_new_session=True)


async def _ended(child: asyncio.subprocess.Process) -> None:
    """End it in order; it may have ended by itself, because its code cannot be imported."""
    if child.returncode is None:
        child.send_signal(signal.SIGTERM)
    await child.wait()
