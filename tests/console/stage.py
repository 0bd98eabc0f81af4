"""An application in a thread of its own, and people who look at it: with a real browser, or by requests alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.routing import Mount

from pikkupy import Engine, Pikku
from pikkupy.http import HttpConfig
from tests.http.shop import TOKEN, served

T = TypeVar("T")


class Stage:
    """An engine with its console, served on a port of its own."""

    def __init__(self, pikku: Pikku, path: str, **settings: Any) -> None:
        self.pikku = pikku
        self.path = path
        self.settings = settings
        self.url = ""
        self.engine: Engine
        self.loop: asyncio.AbstractEventLoop
        self._open = threading.Event()
        self._end: asyncio.Event
        self._thread = threading.Thread(target=self._run, daemon=True)

    def call(self, asked: Coroutine[Any, Any, T]) -> T:
        """What the engine's method returns."""
        return asyncio.run_coroutine_threadsafe(asked, self.loop).result(30)

    def streams(self) -> int:
        """How many are open."""
        free: int = self._app._streams.free
        return HttpConfig().max_requests - free

    def _run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        engine = self.pikku.open(self.path, shutdown_grace=0)
        settings = {"token": TOKEN, "console": True, "starts_per_second": 1e6, **self.settings}
        prefix = settings.pop("prefix", "")
        app: Any = engine.asgi(**settings)
        # The engine is left first, as by `pikku run`: that ends the streams, for which the server would wait.
        async with served(Starlette(routes=[Mount(prefix, app)]) if prefix else app) as url, engine:
            self.engine, self.url, self._app = engine, f"{url}{prefix}", app
            self._open.set()
            await self._end.wait()


@contextmanager
def staged(pikku: Pikku, path: object, **settings: Any) -> Iterator[Stage]:
    """One that is open as long as the block lasts."""
    stage = Stage(pikku, str(path), **settings)
    stage._thread.start()
    try:
        if not stage._open.wait(20):
            raise TimeoutError("the application did not start")
        yield stage
    finally:
        stage.loop.call_soon_threadsafe(stage._end.set)
        stage._thread.join(20)
        if stage._thread.is_alive():
            raise TimeoutError("the application did not end")
