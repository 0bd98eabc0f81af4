"""`pikku console`: the console in a process of its own."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from pikkupy import Pikku, Workflow
from pikkupy.http.serving import Tls
from tests.children import child
from tests.cli.shell import command, environment, piped
from tests.http.test_serving import tls as tls

pikku = Pikku()


@pikku.workflow
async def waiting(workflow: Workflow) -> Any:
    """For a signal."""
    return await workflow.wait_for_signal("go")


class Order(msgspec.Struct):
    """What an order has."""

    number: int
    due: datetime


@pikku.workflow
async def ordering(workflow: Workflow, data: Order) -> str:
    """Say what was ordered."""
    return f"{data.number} until {data.due.year}"


@pikku.workflow
async def copied(workflow: Workflow, data: Order) -> Order:
    """Give back what was ordered."""
    return data


class Colour(Enum):
    """That a shirt has."""

    RED = "red"


@pikku.workflow
async def dyed(workflow: Workflow, data: dict[str, Colour]) -> Colour:
    """Say which one it is."""
    return data["colour"]


class Shown:
    """A command that shows a console, and a caller who has followed its link."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = list[str]()
        link = self.until(r"(https?://\S+)/console/#token=(\S+)")
        self.url, self.token = link.groups()

    def until(self, pattern: str) -> re.Match[str]:
        """The line of its standard error that fits."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError("".join(self.said))

    @contextmanager
    def followed(self, path: str) -> Iterator[Any]:
        """The lines of what is live."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            yield answer

    @staticmethod
    def until_in(lines: Any, text: str) -> None:
        """Read on to the line with it."""
        assert any(text in line.decode() for line in lines)

    def ask_as(self, host: str, path: str, trusted: ssl.SSLContext | None = None) -> tuple[int, str]:
        """The same for who comes by another name."""
        headers = {"Authorization": f"Bearer {self.token}", "Host": host}
        return self._asked(urllib.request.Request(f"{self.url}{path}", headers=headers), trusted)

    def ask(self, path: str, **form: str) -> tuple[int, str]:
        """Status and page."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {self.token}"})
        if form:
            request.data = urllib.parse.urlencode(form).encode()
        return self._asked(request)

    def post(self, path: str, value: object, **headers: str) -> tuple[int, Any]:
        """Status and JSON."""
        headers |= {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(value).encode(), headers)
        code, text = self._asked(request)
        return code, json.loads(text)

    @staticmethod
    def _asked(request: urllib.request.Request, trusted: ssl.SSLContext | None = None) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=30, context=trusted) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@contextmanager
def shown(folder: Path, *arguments: str) -> Iterator[Shown]:
    with child(command(*arguments), cwd=folder, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        yield Shown(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


async def test_a_file_that_nobody_has_open_can_be_looked_at(tmp_path: Path) -> None:
    """And nothing be done: every page that shows is there, every action says why not."""
    async with pikku.open(tmp_path / "app.db") as engine:
        await engine.start(waiting, run_id="waits")
    before = sorted(path.name for path in tmp_path.iterdir())
    with shown(tmp_path, "console", "app.db", "--engine-wait", "0s") as console:
        assert any("no engine has app.db open" in line for line in console.said)
        assert "waits for the signal or decision go" in console.ask("/console/")[1]
        assert "there is no engine just now" in console.ask("/console/runs/waits")[1]
        for path in ("", "runs/waits", "overview", "workflows", "start"):
            page = console.ask(f"/console/{path}")[1]
            assert page.count("no engine has app.db open; start the application that runs it") == 1, path
            assert "lifespan" not in page
            assert "Start a run" not in page
        assert console.ask("/console/runs/waits/cancel", reason="x")[0] == 503
        for path, status in (
            ("/api/runs/waits", 200),
            ("/api/events", 503),
            ("/api/runs/waits/stream", 503),
            ("/readyz", 200),
        ):
            assert console.ask(path)[0] == status, path
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "app.db.token"])


async def test_with_an_engine_it_steers(tmp_path: Path) -> None:
    """What is done in the console is done by the engine that has the file open, in another process."""
    async with pikku.open(tmp_path / "app.db") as engine:
        handle = await engine.start(waiting, run_id="waits")

        def look() -> None:
            with shown(tmp_path, "console", "app.db") as console:
                assert console.ask("/console/runs/waits/signal", name="go", value='"done"')[0] == 200
                line = console.until("http_action").string
                assert "action=signal_in_console by=token" in line and "run_id=waits" in line and "done" not in line

        await asyncio.to_thread(look)
        assert await handle.result("30s") == "done"


async def test_what_the_engine_knows_can_be_started(tmp_path: Path) -> None:
    """By a form of its type, and anew with the input of a run, though the console's process has no workflow."""
    async with pikku.open(tmp_path / "app.db") as engine:

        def look() -> None:
            with shown(tmp_path, "console", "app.db") as console:
                assert "not known" not in console.ask("/console/workflows")[1]
                assert 'name="field:due"' in console.ask("/console/start?workflow=ordering")[1]
                fields = {"field:number": "7", "field:due": "2026-01-05T09:00:00+00:00"}
                started = {"workflow": "ordering", "id": "o", "as": "fields", **fields}
                assert console.ask("/console/start", **started)[0] == 200
                assert 'value="7"' in console.ask("/console/start?from_run=o")[1]
                assert console.ask("/console/start", workflow="waiting", id="w")[0] == 200
                code, page = console.ask("/console/start?workflow=nothing")
                known = "no workflow named &#39;nothing&#39;; it has: copied, dyed, ordering, waiting"
                assert (code, known in page) == (404, True)

        await asyncio.to_thread(look)
        assert await (await engine.handle("o")).result("30s") == "7 until 2026"
        assert (await engine.get_run("w")).workflow == "waiting"


async def test_an_enum_is_shown_as_it_can_be_sent_back(tmp_path: Path) -> None:
    """Its class is in the engine's process alone; without an engine its name is all there is."""
    async with pikku.open(tmp_path / "app.db") as engine:
        await engine.run(dyed, {"colour": Colour.RED}, run_id="r")

        def look() -> None:
            with shown(tmp_path, "console", "app.db") as console:
                run = json.loads(console.ask("/api/runs/r")[1])
                assert (run["input"], run["output"]) == ({"colour": "red"}, "red")
                copy = "{\n  &#34;colour&#34;: &#34;red&#34;\n}"
                assert copy in console.ask("/console/start?from_run=r")[1]
                assert console.post("/api/runs", {"workflow": "dyed", "input": run["input"]})[0] == 202

        await asyncio.to_thread(look)
    with shown(tmp_path, "console", "app.db", "--engine-wait", "0s") as console:
        assert json.loads(console.ask("/api/runs/r")[1])["input"] == {"colour": "RED"}


async def test_engines_come_and_go(tmp_path: Path) -> None:
    """A console that was there before its engine uses it; when that goes, what is live goes on with the file."""
    async with pikku.open(tmp_path / "app.db") as engine:
        await engine.start(waiting, run_id="waits")

    with shown(tmp_path, "console", "app.db", "--engine-wait", "0s") as console:

        def ask(path: str, **form: str) -> tuple[int, str]:
            status, page = console.ask(path, **form)
            return status, "away" if "Nothing can be done now" in page else "here"

        assert ask("/console/") == (200, "away")
        with console.followed("/console/runs/waits/live") as live:
            console.until_in(live, "Nothing can be done now")
            async with pikku.open(tmp_path / "app.db"):
                await asyncio.to_thread(console.until_in, live, 'confirm/cancel"')
                assert await asyncio.to_thread(ask, "/console/") == (200, "here")
                assert (await asyncio.to_thread(ask, "/console/start"))[0] == 200
            await asyncio.to_thread(console.until_in, live, "Nothing can be done now")
        assert ask("/console/runs/waits") == (200, "away")


async def test_it_is_shown_below_a_path_and_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "hiding.py").write_text("def hide(text):\n    return text.replace('s3cret', '***')\n")
    async with pikku.open(tmp_path / "app.db") as engine:
        await engine.start(waiting, run_id="waits", tags={"of": "s3cret"})
    options = ("--engine-wait", "0s", "--base-path", "/a/b", "--redact", "hiding:hide", "--app-dir", ".")
    with shown(tmp_path, "console", "app.db", *options) as console:
        status, page = console.ask("/console/runs/waits")
        assert (status, "of=***" in page, "s3cret" in page) == (200, True, False)
        assert 'href="/a/b/console/overview"' in page
        assert console.url.endswith("/a/b")


async def test_it_is_reached_by_the_names_that_are_allowed(tmp_path: Path) -> None:
    """A proxy has one; who comes by another is told the option."""
    async with pikku.open(tmp_path / "app.db"):
        pass
    options = ("--engine-wait", "0s", "--allow-host", "shop.example", "--base-path", "/pikku")
    with shown(tmp_path, "console", "app.db", *options) as console:
        assert console.ask_as("shop.example", "/console/")[0] == 200
        code, told = console.ask_as("other.example", "/console/")
        assert code == 421
        assert "if it should be, name it: --allow-host 'other.example'" in told, told


async def test_other_machines_reach_it_if_that_is_meant(tmp_path: Path, tls: Tls) -> None:
    """By TLS, or because they are trusted; else nothing is made."""
    async with pikku.open(tmp_path / "app.db"):
        pass
    before = sorted(path.name for path in tmp_path.iterdir())
    everywhere = ("console", "app.db", "--engine-wait", "0s", "--http", "0.0.0.0:0")
    done = piped(*everywhere, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "give a TLS certificate and key" in done.err and "(--insecure)" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before

    with shown(tmp_path, *everywhere, "--insecure") as console:
        assert console.url.startswith("http://127.0.0.1:")
        assert console.ask("/console/")[0] == 200
    files = ("--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key))
    with shown(tmp_path, *everywhere, *files) as console:
        trusted = ssl.create_default_context(cafile=str(tls.certificate))
        trusted.check_hostname = False
        port = console.url.rpartition(":")[2]
        assert console.url == f"https://127.0.0.1:{port}"
        assert console.ask_as(f"localhost:{port}", "/console/", trusted)[0] == 200


async def test_an_engine_that_answers_nobody_can_be_looked_at(tmp_path: Path) -> None:
    """Its file can; the page says who holds it."""
    async with pikku.open(tmp_path / "app.db", control_socket=False) as engine:
        await engine.start(waiting, run_id="waits")

        def look() -> None:
            with shown(tmp_path, "console", "app.db", "--engine-wait", "0s") as console:
                status, page = console.ask("/console/runs/waits")
                assert (status, "opened with control_socket=False?" in page) == (200, True)

        await asyncio.to_thread(look)


def test_a_file_that_there_is_not(tmp_path: Path) -> None:
    done = piped("console", "nothing.db", cwd=tmp_path)
    assert done.code == 4
    assert list(tmp_path.iterdir()) == []


async def test_who_waits_for_an_output_needs_none_of_the_classes(tmp_path: Path) -> None:
    """Its class is that of the engine's process alone: it is JSON here."""
    async with pikku.open(tmp_path / "app.db"):

        def look() -> None:
            with shown(tmp_path, "console", "app.db") as console:
                order = {"number": 7, "due": "2026-01-05T09:00:00Z"}
                code, run = console.post("/api/runs", {"workflow": "copied", "input": order}, Prefer="wait=30")
                assert (code, run["output"]) == (200, order)
                assert console.post("/workflow/copied/run", order) == (200, order)

        await asyncio.to_thread(look)
