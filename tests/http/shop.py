"""A small application, with a server of its own where streams are tested, and a caller that knows the token."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx2
import msgspec
import uvicorn

from pikkupy import Decided, Pikku, Services, Workflow, current_step

TOKEN = "a-token-of-the-tests-0123456789"
HOST = "http://127.0.0.1:8700"

pikku = Pikku()


class Order(msgspec.Struct):
    """What an order has."""

    number: int
    due: datetime | None = None


class Receipt(msgspec.Struct):
    """What comes of it."""

    number: int
    doubled: int


@pikku.workflow
async def order(workflow: Workflow, data: Order) -> Receipt:
    """Double a number."""
    doubled = await workflow.do("double", lambda: 2 * data.number)
    return Receipt(data.number, doubled)


@pikku.workflow
async def waiting(workflow: Workflow) -> Any:
    """Wait for a signal."""
    return await workflow.wait_for_signal("go")


@pikku.workflow
async def asking(workflow: Workflow) -> Any:
    """Wait for a decision."""
    answer = await workflow.approval("ok", bool)
    return (answer.decision, answer.decided_by) if isinstance(answer, Decided) else None


class Change(msgspec.Struct):
    """What a run may be told."""

    number: int


@pikku.workflow
async def counting(workflow: Workflow) -> Any:
    """Wait for a number, then for a change."""
    return await workflow.wait_for_signal("count", int), (await workflow.wait_for_signal("change", Change)).number


@pikku.workflow
async def pausing(workflow: Workflow) -> Any:
    """Wait for a signal after two steps."""
    first = await workflow.do("first", lambda: 1)
    second = await workflow.do("second", lambda: 2)
    return first, second, await workflow.wait_for_signal("go")


class Verdict(msgspec.Struct):
    """What can be said of something."""

    yes: bool
    why: str
    stars: int | None = None


@pikku.workflow
async def judging(workflow: Workflow) -> Any:
    """Wait for a decision that has parts."""
    answer = await workflow.approval("good", Verdict)
    return answer.decision if isinstance(answer, Decided) else None


@pikku.workflow
async def failing(workflow: Workflow, data: str) -> None:
    """Fail with the text that it is given."""

    def fail() -> None:
        raise ValueError(data)

    await workflow.do("fail", fail)


@pikku.workflow
async def gated(workflow: Workflow) -> str:
    """Be suspended, then go on."""
    await workflow.suspend("closed")
    return "open"


@pikku.workflow
async def echo(workflow: Workflow, data: Any) -> Any:
    """Give back what it is given, once it may."""
    await workflow.do("look", lambda: None)
    return data


@pikku.function
async def talk(services: Services, data: int) -> int:
    """Emit some numbers."""
    step = current_step()
    assert step is not None
    for number in range(data):
        step.emit({"number": number})
    return data


@pikku.workflow
async def talking(workflow: Workflow, data: int) -> int:
    """Emit, then wait."""
    said: int = await workflow.do("talk", talk, data)
    await workflow.wait_for_signal("go")
    return said


def caller(app: Any, *, token: str | None = TOKEN, host: str = HOST, **options: Any) -> httpx2.AsyncClient:
    """Calls the application, without a server."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app, **options), base_url=host, headers=headers)


@asynccontextmanager
async def served(app: Any, **settings: Any) -> AsyncIterator[str]:
    """Its address, with a real server."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # or an answer takes 40 ms
    bound.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=3, **settings)
    )
    serving = asyncio.ensure_future(server.serve([bound]))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        bound.close()
