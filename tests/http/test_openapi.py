"""The OpenAPI document says what the server does: schemathesis reads the one and tries the other."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from pikkupy import Pikku, Workflow
from pikkupy.http import tokens
from pikkupy.http.application import all_operations
from pikkupy.http.asked import Ask
from tests.http.shop import TOKEN, Order, caller, served

pikku = Pikku()
TOLD = ("location", "preference-applied", "retry-after", "www-authenticate")
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@pikku.workflow
async def order(workflow: Workflow, data: Order) -> int:
    """Something with a step. All runs of these workflows end soon: nobody waits for them."""
    return await workflow.do("double", lambda: 2 * data.number)


@pikku.workflow
async def echo(workflow: Workflow, data: Any) -> Any:
    """Give back what it is given."""
    return data


async def test_the_document_names_everything(db: Path) -> None:
    """Each operation, with who may, and what there is to say of it."""
    async with caller(pikku.open(db).asgi(token=TOKEN)) as http:
        document = (await http.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    assert document["security"] == [{"token": []}]
    listed = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert listed == {(one.method, one.path) for one in all_operations()}
    for one in all_operations():
        said = document["paths"][one.path][one.method.lower()]
        assert said["operationId"] == one.name
        assert said["summary"]
        assert f"Scope: `{one.scope}`" in said["description"]
        assert {"401", "403", "421", "422", "429", "500", "503"} <= set(said["responses"])
    links = document["paths"]["/api/runs"]["post"]["responses"]["202"]["links"]
    assert links["cancel_run"] == {"operationId": "cancel_run", "parameters": {"run_id": "$response.body#/id"}}
    assert links.keys() == {one.name for one in all_operations() if one.parameters == ["run_id"]}
    run = document["components"]["schemas"]["Run"]["properties"]
    assert run["status"]["$ref"] == "#/components/schemas/RunStatus"
    assert run["created_at"] == {"type": "string", "format": "date-time"}


async def test_headers_of_answers_are_in_the_document(db: Path) -> None:
    """Each that an answer has for its caller; and those that are always there are said to be."""
    async with pikku.open(db) as engine:
        app = engine.asgi(token=TOKEN, starts_per_second=1e-6)
        async with caller(app) as http, caller(app, token=None) as stranger:
            said = (await http.get("/openapi.json")).json()["paths"]
            order = {"workflow": "order", "input": {"number": 1}}
            answers = {
                ("/api/runs", "post"): [
                    await http.post("/api/runs", json={**order, "id": "r"}, headers={"prefer": "wait=30"}),
                    await http.post("/api/runs", json=order),
                    await http.post("/api/runs", json=order),
                    await stranger.post("/api/runs", json=order),
                ],
                ("/api/runs/{run_id}", "get"): [await http.get("/api/runs/r", headers={"prefer": "wait=1"})],
            }
            app = engine.asgi(token=TOKEN)
        async with caller(app) as http:
            answers["/api/runs/{run_id}/fork", "post"] = [await http.post("/api/runs/r/fork", json={"at": "double"})]
            answers["/api/runs", "post"].append(await http.post("/api/runs", json=order))
    async with caller(app) as http:
        answers["/api/counts", "get"] = [await http.get("/api/counts")]
    found = set()
    for (path, method), some in answers.items():
        for answer in some:
            known = said[path][method]["responses"][str(answer.status_code)].get("headers", {})
            sent = {name for name in TOLD if name in answer.headers}
            assert sent <= {name.lower() for name in known}, (path, answer.status_code)
            assert {name.lower() for name, one in known.items() if one.get("required")} <= sent
            found |= {(name, answer.status_code) for name in sent}
    assert found == {
        ("location", 200), ("location", 202), ("location", 201), ("preference-applied", 200), ("retry-after", 429),
        ("retry-after", 503), ("www-authenticate", 401),
    }  # fmt: skip


async def known(url: str) -> dict[str, Any]:
    """The document, with the names of workflows that there are: of others everything is 404."""
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        document: dict[str, Any] = (await http.get(url)).json()
    names = {"type": "string", "enum": ["order", "echo"]}
    document["components"]["schemas"]["StartRun"]["properties"]["workflow"] = names
    for path, methods in document["paths"].items():
        for said in methods.values() if path.startswith("/workflow/") else ():
            said["parameters"][0]["schema"] = names
    return document


@pytest.mark.slow
async def test_the_server_keeps_to_the_document(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer that the document does not know, no server error, nothing invalid let in, nothing valid kept out.

    Also along its links: of runs that it has started, which it gets, signals, cancels, forks, deletes. The stream of
    all events, which has no end, has one at once.
    """

    def ends(ask: Ask) -> asyncio.Event:
        event = asyncio.Event()
        if ask.request.url.path == "/api/events":
            event.set()
        return event

    monkeypatch.setattr(Ask, "ends", property(ends))
    monkeypatch.setattr(tokens, "FAILURES", 1_000_000)  # of its many wrong tokens each is to be answered
    async with pikku.open(db) as engine:
        for number in range(3):
            await engine.run(order, Order(number), run_id=f"order {number}")
        app = engine.asgi(token=TOKEN, starts_per_second=1e6)
        async with served(app) as url:
            told = await known(f"{url}/openapi.json")
            (db.parent / "openapi.json").write_bytes(msgspec.json.encode(told))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"),
                *("openapi.json", "--url", url, "--header", f"Authorization: Bearer {TOKEN}", "--checks", "all"),
                *("--max-examples", "20", "--no-color", "--seed", "1"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=db.parent,
            )
            said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()[-8000:]
        assert b"27 selected / 27 total" in said, said.decode()[:2000]
