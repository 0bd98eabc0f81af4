"""Mounted into the frameworks that people use, with the engine's lifespan."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from litestar import Litestar, asgi, get
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from pikkupy import Engine
from tests.http.shop import HOST, TOKEN, pikku

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


def in_fastapi(engine: Engine) -> Any:
    app = FastAPI(lifespan=engine.lifespan)
    app.mount("/pikku", engine.asgi(token=TOKEN))

    @app.get("/own")
    async def own() -> str:
        return "own"

    return app


def in_starlette(engine: Engine) -> Any:
    async def own(request: Any) -> PlainTextResponse:
        return PlainTextResponse("own")

    routes = [Mount("/pikku", engine.asgi(token=TOKEN)), Route("/own", own)]
    return Starlette(routes=routes, lifespan=engine.lifespan)


def in_litestar(engine: Engine) -> Any:
    @get("/own")
    async def own() -> str:
        return "own"

    handlers = [asgi("/pikku", is_mount=True, copy_scope=True)(engine.asgi(token=TOKEN)), own]
    # Its own logging would be that of all later tests of this process, through a queue whose lock does not take it when
    # something is logged while objects are freed.
    return Litestar(handlers, lifespan=[engine.lifespan], logging_config=None)


FRAMEWORKS = {"FastAPI": in_fastapi, "Starlette": in_starlette, "Litestar": in_litestar}


class Lifespan:
    """What a server does when it starts an application and when it ends it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __aenter__(self) -> None:
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.said: asyncio.Queue[Any] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.running = asyncio.ensure_future(self.app(scope, self.told.get, self.said.put))
        await self.told.put({"type": "lifespan.startup"})
        assert (await self.said.get())["type"] == "lifespan.startup.complete"

    async def __aexit__(self, *_: object) -> None:
        await self.told.put({"type": "lifespan.shutdown"})
        assert (await self.said.get())["type"] == "lifespan.shutdown.complete"
        await self.running


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_mounted_with_its_lifespan(db: Path, framework: str) -> None:
    """Routes, locations and the document are below the mount; the application's own routes are as they were."""
    engine = pikku.open(db)
    app = FRAMEWORKS[framework](engine)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=HOST, headers=AUTHORIZED) as http:
        closed = await http.get("/pikku/api/runs")
        assert (closed.status_code, "lifespan" in closed.json()["cure"]) == (503, True)
        async with Lifespan(app):
            assert "own" in (await http.get("/own", headers={"authorization": ""})).text
            body = {"workflow": "order", "input": {"number": 4}, "id": "a/b"}
            answer = await http.post("/pikku/api/runs", json=body)
            assert (answer.status_code, answer.headers["location"]) == (202, "/pikku/api/runs/a%2Fb")
            run = await http.get(answer.headers["location"], headers={"prefer": "wait=30"})
            assert run.json()["output"] == {"number": 4, "doubled": 8}
            assert (await http.get("/pikku/openapi.json")).json()["servers"] == [{"url": "/pikku"}]
            assert (await http.get("/pikku/api/runs", headers={"authorization": ""})).status_code == 401
            assert (await http.get("/pikku/api/runs", headers={"host": "evil.example:8700"})).status_code == 421
            assert (await http.get("/pikku/nothing")).json()["title"] == "No such route"
        assert (await http.get("/pikku/readyz")).status_code == 503


async def test_a_client_has_a_lifespan_too(db: Path) -> None:
    async with pikku.open(db):
        client = pikku.connect(db)
        app = Starlette(routes=[Mount("/pikku", client.asgi(token=TOKEN))], lifespan=client.lifespan)
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=HOST, headers=AUTHORIZED)
        async with http, Lifespan(app):
            assert (await http.get("/pikku/readyz")).status_code == 200
