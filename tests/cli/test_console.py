"""`pikku console`: the console in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pikkupy import Pikku, Workflow
from tests.cli.shell import command, environment, piped

pikku = Pikku()


@pikku.workflow
async def waiting(workflow: Workflow) -> Any:
    """For a signal."""
    return await workflow.wait_for_signal("go")


class Shown:
    """A command that shows a console, and a caller who has followed its link."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = list[str]()
        link = self.until(r"(http://[^/]+)/console/#token=(\S+)")
        self.url, self.token = link.groups()

    def until(self, pattern: str) -> re.Match[str]:
        """The line of its standard error that fits."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError("".join(self.said))

    def ask(self, path: str, **form: str) -> tuple[int, str]:
        """Status and page."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {self.token}"})
        if form:
            request.data = urllib.parse.urlencode(form).encode()
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@contextmanager
def shown(folder: Path, *arguments: str) -> Iterator[Shown]:
    with subprocess.Popen(
        command(*arguments), cwd=folder, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            yield Shown(process)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()


async def test_a_file_that_nobody_has_open_can_be_looked_at(tmp_path: Path) -> None:
    """And nothing be done: every page that shows is there, every action says why not."""
    async with pikku.open(tmp_path / "app.db") as engine:
        await engine.start(waiting, run_id="waits")
    before = sorted(path.name for path in tmp_path.iterdir())
    with shown(tmp_path, "console", "app.db", "--engine-wait", "0s") as console:
        assert any("no engine has the file open" in line for line in console.said)
        assert "waits for the signal go" in console.ask("/console/")[1]
        assert "this console is read-only" in console.ask("/console/runs/waits")[1]
        assert console.ask("/console/workflows")[0] == 200
        assert console.ask("/console/runs/waits/cancel", reason="x")[0] == 403
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
    import asyncio

    async with pikku.open(tmp_path / "app.db") as engine:
        handle = await engine.start(waiting, run_id="waits")

        def look() -> None:
            with shown(tmp_path, "console", "app.db") as console:
                assert console.ask("/console/runs/waits/signal", name="go", value='"done"')[0] == 200

        await asyncio.to_thread(look)
        assert await handle.result("30s") == "done"


def test_a_file_that_there_is_not(tmp_path: Path) -> None:
    done = piped("console", "nothing.db", cwd=tmp_path)
    assert done.code == 4
    assert list(tmp_path.iterdir()) == []
