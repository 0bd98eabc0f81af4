"""Several processes of one application, of which one is the engine: the others are clients, and one of them takes over.

Which one is decided by the lock of the file alone: whoever gets it is the engine. The others wait at its control socket
for it to go, so they know at once however it ends.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Literal

from msgspec import Raw

from pikkupy.control import messages, places
from pikkupy.control.answering import Answerer
from pikkupy.control.client import Client
from pikkupy.control.line import FIRST_PAUSE_S, Gone, Lines
from pikkupy.control.messages import AnyCall
from pikkupy.durations import Duration, microseconds
from pikkupy.engine import Engine
from pikkupy.engine.replaying import Code
from pikkupy.errors import EngineClosed, JournalLocked, PikkuError
from pikkupy.log import logger
from pikkupy.mounting import Mount
from pikkupy.registry import Registry

Role = Literal["engine", "client"]

AGAIN_S = 0.05  # until the next try, when the file was held by somebody who does not answer (yet)
LONGEST_UNSERVED_S = 1.0  # if that goes on, while this is a client
LONGEST_AGAIN_S = 5.0  # after tries that have failed

_log = logger()


class Member(Client):
    """One of several processes with the same file: the engine, or a client of it. Made by `Pikku.open(role="auto")`.

    `async with` returns when this process is the one or the other. Its methods are the engine's; what `Client` says of
    an engine that goes away holds for all members. An engine whose disk has failed is given up, so that a member can
    open the file anew. Raises what opening an engine raises.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        registry: Registry,
        wait: Duration,
        make: Callable[[], Engine],
        mount: Mount | None = None,
    ) -> None:
        super().__init__(path, registry, wait, mount)
        self._make = make
        self._wait_s = microseconds(wait) / 1e6
        # A connection that is kept while another process is the engine. It waits for none: this one may be next.
        self._watch = Lines(self._path, places.real_path(self._path), 0)
        self._way = self._ways = _Ways(self._lines)
        self._engine: Engine | None = None
        self._electing: asyncio.Task[None] | None = None

    @property
    def role(self) -> Role:
        """What this process is now."""
        return "client" if self._engine is None else "engine"

    def _code(self) -> Code:
        """That of the engine that this process can be."""
        return self._make()._code()

    async def __aenter__(self) -> Member:
        self._registry.resolve()
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.begin()
        self._watch.begin()
        self._electing = asyncio.ensure_future(self._elect(settled))
        try:
            await settled
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        if self._electing is not None:
            self._electing.cancel()
            await asyncio.wait([self._electing])
        await self._watch.close()
        try:
            if self._engine is not None:  # whose steps may call it as long as they are given time to end
                await self._engine.__aexit__(None, None, None)
        finally:
            self._engine = self._ways.here = None
            await self._lines.close()

    async def _elect(self, settled: asyncio.Future[None]) -> None:
        """Try to be the engine; as long as somebody else is, wait for that to end."""
        loop = asyncio.get_running_loop()
        until, pause_s, told = loop.time() + self._wait_s, AGAIN_S, ""
        while True:
            unserved = None
            try:
                try:
                    await self._be_engine(settled)
                except JournalLocked:
                    unserved = await self._be_client(settled)
                    if unserved is not None and not settled.done() and loop.time() > until:
                        settled.set_exception(unserved)
                        return
                if unserved is None or not settled.done():
                    pause_s, told = AGAIN_S, ""
                elif pause_s < LONGEST_UNSERVED_S:
                    pause_s = min(2 * pause_s, LONGEST_UNSERVED_S)
                elif str(unserved) != told:
                    told = str(unserved)
                    _log.warning("engine_not_reached", path=self._path, error=told)
            except Exception as error:  # noqa: BLE001 - whatever it is: who waits is told, or it is tried again
                if not settled.done():
                    settled.set_exception(error)
                    return
                _log.error("takeover_failed", error=str(error))
                pause_s = min(2 * pause_s, LONGEST_AGAIN_S)
            await asyncio.sleep(pause_s)

    async def _be_engine(self, settled: asyncio.Future[None]) -> None:
        """Return when the disk has failed, and the engine is given up. Raises what opening it raises."""
        engine = self._make()
        await engine.__aenter__()
        self._engine, self._ways.here = engine, _Here(engine, self._registry)
        if not settled.done():
            settled.set_result(None)
        failure = await engine._failure()
        _log.warning("engine_given_up", path=self._path, error=str(failure))
        self._engine = self._ways.here = None
        await engine.__aexit__(None, None, None)

    async def _be_client(self, settled: asyncio.Future[None]) -> PikkuError | None:
        """Return when the engine has gone; at once, with an error, if it does not answer (yet) or is of no use."""
        try:
            await self._watch.open()
            if not settled.done():
                settled.set_result(None)
            await self._watch.ask(messages.Stay())
        except Gone:
            pass
        except PikkuError as error:
            return error
        return None


class _Here:
    """The engine is in this process: calls need no socket."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self._answerer = Answerer(engine, registry)

    async def ask(self, call: AnyCall) -> Raw:
        async for answer in self.answers(call):
            if isinstance(answer, messages.Value):
                return answer.value
        raise Gone

    async def answers(self, call: AnyCall) -> AsyncGenerator[messages.Item | messages.Value, None]:
        told: asyncio.Queue[messages.Item | messages.Value | Exception] = asyncio.Queue(1)

        async def tell(item: Raw) -> None:
            await told.put(messages.Item(item))

        async def carry_out() -> None:
            try:
                await told.put(messages.Value(await self._answerer.answer(call, tell)))
            except Exception as error:  # noqa: BLE001 - the caller's
                await told.put(error)

        answering = asyncio.ensure_future(carry_out())
        try:
            while True:
                answer = await told.get()
                if isinstance(answer, EngineClosed):
                    await asyncio.sleep(FIRST_PAUSE_S)  # until it has left, and this is the engine no more
                    raise Gone
                if isinstance(answer, Exception):
                    raise answer
                yield answer
                if isinstance(answer, messages.Value):
                    return
        finally:
            answering.cancel()


class _Ways:
    """Over the socket, or here."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.here: _Here | None = None

    async def ask(self, call: AnyCall) -> Raw:
        return await (self._lines.ask(call) if self.here is None else self.here.ask(call))

    def answers(self, call: AnyCall) -> AsyncGenerator[messages.Item | messages.Value, None]:
        return self._lines.answers(call) if self.here is None else self.here.answers(call)
