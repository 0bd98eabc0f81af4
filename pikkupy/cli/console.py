"""`pikku console`: the console of a journal, in a process of its own."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any

from cyclopts import Parameter

from pikkupy import Client, Pikku, PikkuError
from pikkupy.cli.exits import Exit
from pikkupy.cli.given import check_duration
from pikkupy.cli.http import Reach, console_of, link
from pikkupy.cli.places import File, file_of
from pikkupy.cli.running import AppDir, log_to_stderr, redacting
from pikkupy.cli.screen import say
from pikkupy.engine.looking import Look
from pikkupy.mounting import HttpConfig

ANSWER_S = 1.0  # that an engine may take before its file is looked at instead


async def console(
    file: File = None,
    /,
    *,
    http: Annotated[str, Parameter(help="Where: an address of this machine, and a port; 0: any.")] = "127.0.0.1:0",
    reach: Reach = Reach(),  # noqa: B008 - it is frozen
    app_dir: AppDir = None,
    engine_wait: Annotated[
        str, Parameter(help="How long to wait for an engine before it is said that there is none.")
    ] = "1s",
) -> Exit:
    """Show the runs of a journal in a browser, and steer them, until Ctrl-C.

    The link that is printed has the token in it. What is done goes to the engine that has the file open; while there is
    none, and without the application, everything can be looked at.
    """
    path = file_of(file)
    check_duration("--engine-wait", engine_wait)
    engine = Pikku().connect(path, wait=engine_wait)
    log_to_stderr("text", "info")  # the audit lines
    hide = None if reach.redact is None else redacting(reach.redact, app_dir)
    with suppress(ModuleNotFoundError):  # it is said below
        reach.check_place(http)
    ends = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ends.set)
    async with AsyncExitStack() as stack:
        look = await stack.enter_async_context(Look(path))  # it says if there is no such file
        try:
            async with engine:
                pass
        except PikkuError as error:
            say(f"it can be looked at, and nothing be done: {error}")
        config = HttpConfig(
            hosts=reach.allow_host or (), read_only=reach.read_only, console=True, redact=hide, audit=reach.audit
        )
        app, token = console_of(look, path, _Whoever(path, look, stack), config)
        say(link(await stack.enter_async_context(reach.listening(app, http)), token))
        await ends.wait()
    return Exit.DONE


class _Whoever:
    """Says who answers: the engine of the file whenever there is one, else a look at it."""

    def __init__(self, path: str, look: Look, stack: AsyncExitStack) -> None:
        self._path = path
        self._look: Any = look  # it has what the pages need of an engine
        self._stack = stack
        self._client: Client | None = None

    async def __call__(self) -> tuple[Any, str | None]:
        try:
            async with asyncio.timeout(ANSWER_S):
                client = await self._connected()
                await client.ready()
        except TimeoutError:
            return self._look, f"the engine of {self._path} has not answered within {ANSWER_S:g} s"
        except PikkuError as error:
            return self._look, str(error)
        return client, None

    async def _connected(self) -> Client:
        """From the first engine on there is one client for all that follow."""
        if self._client is None:
            client = Pikku().connect(self._path, wait=0)
            self._client = await self._stack.enter_async_context(client)
        return self._client
