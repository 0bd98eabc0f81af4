"""`pikku console`: the console of a journal, in a process of its own."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Annotated

from cyclopts import Parameter

from pikkupy import Client, EngineClosed, Pikku
from pikkupy.cli.exits import Exit
from pikkupy.cli.http import console_of, listening
from pikkupy.cli.places import File, file_of
from pikkupy.cli.screen import say
from pikkupy.engine.looking import Look


async def console(
    file: File = None,
    /,
    *,
    http: Annotated[str, Parameter(help="Where: an address of this machine, and a port; 0: any.")] = "127.0.0.1:0",
    read_only: Annotated[
        bool, Parameter(negative="", show_default=False, help="Nothing can be changed in it.")
    ] = False,
    engine_wait: Annotated[str, Parameter(help="How long to wait for an engine to appear.")] = "1s",
) -> Exit:
    """Show the runs of a journal in a browser, and steer them, until Ctrl-C.

    The link that is printed has the token in it. What is done goes to the engine that has the file open; without one,
    and without the application, everything can be looked at.
    """
    path = file_of(file)
    ends = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ends.set)
    async with AsyncExitStack() as stack:
        found = await _opened(stack, path, engine_wait)
        looks = isinstance(found, Look)
        app, token = console_of(found, path, read_only=read_only or looks)
        url = await stack.enter_async_context(listening(app, http))
        if looks:
            say("no engine has the file open: it can be looked at, and nothing be done")
        say(f"{url}/console/#token={token}")
        await ends.wait()
    return Exit.DONE


async def _opened(stack: AsyncExitStack, path: str, wait: str) -> Client | Look:
    """The engine of the file, or a look at it if there is none."""
    look = await stack.enter_async_context(Look(path))  # it says if there is no such file
    try:
        return await stack.enter_async_context(Pikku().connect(path, wait=wait))
    except EngineClosed:
        return look
