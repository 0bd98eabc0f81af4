"""The requests in docs/http.md are sent, and answered as they are there; its tables name what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import httpx2

from pikkupy.http import HttpConfig
from pikkupy.http.application import all_operations
from tests.http.shop import served
from tests.test_docs import ROOT, program_of

PAGE = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
HOST = "http://127.0.0.1:8799"


def commands() -> list[tuple[str, str]]:
    """Each command with the line that answers it."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [(line[2:], answer) for line, answer in zip(lines, lines[1:], strict=False) if line.startswith("$ ")]


async def sent(command: str, url: str, token: str) -> str:
    """What `curl` would print."""
    words = shlex.split(command.replace("$(cat app.db.token)", token))
    assert words.pop(0) == "curl"
    method, place, body, headers = "GET", "", None, {}
    while words:
        match words.pop(0):
            case "-X":
                method = words.pop(0)
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-d":
                method, body = "POST", words.pop(0)
            case word:
                assert word.startswith(f"{HOST}/")
                place = word.removeprefix(HOST)
    async with httpx2.AsyncClient() as http:
        return (await http.request(method, url + place, headers=headers, content=body)).text


async def test_the_requests_are_answered_as_it_says(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    application: dict[str, Any] = {}
    exec(compile(program_of(PAGE.partition("## By itself")[0]), "http.md", "exec"), application)
    engine = application["engine"]
    found = commands()
    assert len(found) == 5
    async with engine, served(engine.asgi()) as url:
        token = Path("app.db.token").read_text().strip()
        for command, answer in found:
            said = await sent(command, url, token)
            begun, _, rest = answer.partition(" …")
            assert said.startswith(begun.removesuffix(",")), command
            assert said == begun or rest, command


def test_the_table_names_every_operation_and_every_setting() -> None:
    for one in all_operations():
        path = one.path.replace("{workflow}", "{name}") if one.path.startswith("/workflow") else one.path
        last = path.rpartition("/")[2]
        assert f"{one.method} {path}`" in PAGE or f"`/{last}`" in PAGE or path in ("/openapi.json",), path
    for name in HttpConfig.__struct_fields__:
        assert f"`{name}`" in PAGE
