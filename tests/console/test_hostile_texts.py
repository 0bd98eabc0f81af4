"""S4: what runs say stays text, in a real browser."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta
from playwright.sync_api import Browser, Page, expect

from pikkupy import Engine, Pikku, RunFailed, RunStateError, Workflow, current_step
from pikkupy.showing.words import clean
from tests.console.conftest import Watched
from tests.console.payloads import PAYLOADS
from tests.console.stage import Stage, staged
from tests.console.test_browser import entered

pikku = Pikku()
CODE = "main script, main img, main iframe, main [onerror], main [onload]"
NAMES = [text for text in PAYLOADS if text.isprintable() and "\ufeff" not in text]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live pages look often: what they swap in is looked at, too."""
    monkeypatch.setattr("pikkupy.console.pages.LIVE_S", 0.05)
    monkeypatch.setattr("pikkupy.console.pages.SHARE", 0)


@pytest.mark.parametrize("number", range(3))
def test_there_are_enough(number: int) -> None:
    assert len(PAYLOADS) > 200
    assert len(set(PAYLOADS)) == len(PAYLOADS)


@pikku.workflow
async def speaks(workflow: Workflow, data: list[str]) -> list[str]:
    """Steps that are called so, and give that back."""
    for text in data:
        await workflow.do(text[:256], lambda text=text: text)
    return data


@pikku.workflow
async def fails(workflow: Workflow, data: str) -> None:
    """An error that says so."""

    def fail() -> None:
        raise ValueError(data)

    await workflow.do("fail", fail)


@pikku.workflow
async def waits(workflow: Workflow) -> None:
    """For a signal."""
    await workflow.wait_for_signal("go")


@pikku.workflow(name="<script>alert(1)</script>")
async def named(workflow: Workflow) -> None:
    """<img src=x onerror=alert(1)>"""


async def everything(stage: Stage) -> None:
    """Every text in every field that a page shows."""
    engine = stage.engine
    await engine.run(speaks, NAMES, run_id="speaks")
    for number, text in enumerate(PAYLOADS):
        tags = {f"t{place}": one[:256] for place, one in enumerate(NAMES[number : number + 20])}
        run_id = f"{text} {number}" if text in NAMES else f"plain {number}"
        await engine.start(fails, text, run_id=run_id[:256], tags=tags)
    await engine.start(waits, run_id="cancelled")
    await engine.cancel("cancelled", "\n".join(PAYLOADS))
    await engine.run(named, run_id="named")
    while (await engine.list_runs(status="running", limit=1)).runs:
        await asyncio.sleep(0.001)


def test_every_text_stays_text_in_every_field(browser: Browser, db: Path, watched: Watched) -> None:
    """No dialog, no violation of the policy, no request elsewhere, and the text is there to be read."""
    with staged(pikku, db) as stage:
        stage.call(everything(stage))
        page = entered(browser, stage, watched)
        seen = 0
        while True:
            seen += page.locator("tbody tr").count()
            assert page.locator(CODE).count() == 0
            older = page.get_by_role("link", name="Older")
            if not older.count():
                break
            older.click()
            page.wait_for_load_state()
        assert seen == len(PAYLOADS) + 3
        shown = [
            "runs/speaks",
            "runs/speaks/events",
            "runs/cancelled/events",
            "runs/cancelled",
            "runs/named",
            "workflows",
            "start",
            "all/cancel",
            "runs/speaks/confirm/fork",
        ]
        first = [run.id for run in stage.call(stage.engine.list_runs(workflow="fails", limit=12)).runs]
        for path in shown:
            page.goto(f"{stage.url}/console/{path}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            assert page.locator(CODE).count() == 0
        for run_id in first:
            page.goto(f"{stage.url}/console/?workflow=fails")
            page.get_by_label("Find an id").fill(run_id)
            page.get_by_label("Find an id").press("Enter")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.goto(f"{stage.url}/console/runs/cancelled")
        expect(page.locator(".reason")).to_contain_text("<img src=x onerror=alert(1)>")


def parts(most: int) -> list[str]:
    """All texts, so many characters of them together at most."""
    found = [""]
    for text in PAYLOADS:
        if len(found[-1]) + len(text) >= most:
            found.append("")
        found[-1] += f"{text}\n"
    return found


def verdict(names: list[str]) -> type[msgspec.Struct]:
    """A decision whose parts are called so, where they may be, and say so, and offer so."""
    fields = [(f"part{number}", Annotated[Literal[name], Meta(description=name)]) for number, name in enumerate(names)]
    called = {f"part{number}": name for number, name in enumerate(names) if not {'"', "\\"} & {*name}}
    return msgspec.defstruct("Verdict", [*fields, ("why", Annotated[str, Meta(description=names[0])])], rename=called)


def shop(anew: str) -> Pikku:
    """Runs that go on while they are looked at, by code that asks for something else later."""
    made = Pikku()

    @made.workflow
    async def changes(workflow: Workflow, data: str) -> None:
        await workflow.do(f"{data}{anew}"[-250:], lambda: None)
        await workflow.wait_for_signal("go")

    @made.workflow
    async def asks(workflow: Workflow, data: list[str]) -> None:
        await workflow.approval(data[0][:200], verdict(data))

    @made.workflow
    async def goes_on(workflow: Workflow, data: str) -> None:
        async def work() -> None:
            step = current_step()
            assert step is not None
            step.progress(data)
            await asyncio.Event().wait()

        workflow.progress(data)
        await workflow.do("work", work)

    return made


async def under_way(stage: Stage) -> None:
    """Every text as a step's name, as a decision, and as what a run and a step tell."""
    for number, text in enumerate(NAMES):
        await stage.engine.start("changes", text, run_id=f"changes {number}")
    for number in range(0, len(NAMES), 20):
        await stage.engine.start("asks", NAMES[number : number + 20], run_id=f"asks {number}")
    for number, text in enumerate(parts(990)):
        await stage.engine.start("goes_on", text, run_id=f"goes on {number}")
    runs, cursor = list[str](), None
    while cursor is not None or not runs:
        found = await stage.engine.list_runs(limit=500, cursor=cursor)
        runs, cursor = [*runs, *(run.id for run in found.runs)], found.next_cursor
    while len(await stage.engine.open_steps(runs)) < len(runs):
        await asyncio.sleep(0.001)


def test_every_text_stays_text_while_runs_are_under_way(
    browser: Browser, db: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the overview, where code does not fit, in forms for decisions, in what is told, in what was done to all."""

    def look(page: Page, path: str, *said: str) -> None:
        page.goto(f"{stage.url}/console/{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        for text in said:
            expect(page.locator("main")).to_contain_text(text)
        assert page.locator(CODE).count() == 0

    with staged(shop(""), db) as stage:
        stage.call(under_way(stage))
        page = entered(browser, stage, watched)
        for number, text in enumerate(parts(990)):
            look(page, f"runs/goes%20on%20{number}", text.split("\n")[0])
            expect(page.locator("td.outcome")).to_contain_text(text.split("\n")[0])
        for number in range(0, len(NAMES), 20):
            look(page, f"runs/asks%20{number}/confirm/approve", *NAMES[number : number + 20 : 5])
        page.context.close()
    with staged(shop(" anew"), db) as stage:
        page = entered(browser, stage, watched)
        for number in range(0, len(NAMES), 10):
            look(page, f"runs/changes%20{number}", "The code does not fit what is recorded", f"1: {NAMES[number]}")

        async def refuse(_: Engine, run_id: str, __: str) -> None:
            raise RunStateError(
                " ".join(PAYLOADS[int(run_id.removeprefix("changes ")) % 100 :: 100])
            )  # a hundred are shown

        monkeypatch.setattr(Engine, "cancel", refuse)
        look(page, "all/cancel?workflow=changes")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text(f"{len(NAMES)} runs were not:")).to_be_visible()
        for text in PAYLOADS[::20]:
            expect(page.locator("main")).to_contain_text(text)
        assert page.locator(CODE).count() == 0
    with staged(pikku, db) as stage:
        page = entered(browser, stage, watched)
        for number in range(0, len(PAYLOADS), 5):
            stage.call(failed(stage, PAYLOADS[number : number + 5]))
            look(page, "overview", clean(PAYLOADS[number]))


async def failed(stage: Stage, texts: list[str]) -> None:
    """Runs that have failed so."""
    for text in texts:
        handle = await stage.engine.start(fails, text)
        with suppress(RunFailed):
            await handle.result()


@pytest.mark.parametrize("field", ["q", "workflow", "tag", "since", "until", "status", "cursor", "done"])
def test_every_text_stays_text_in_the_url(browser: Browser, db: Path, watched: Watched, field: str) -> None:
    """What a link says is shown, if at all, as text."""
    with staged(pikku, db) as stage:
        page = entered(browser, stage, watched)
        for text in PAYLOADS[:: 5 if field in ("q", "done") else 20]:
            query: dict[str, Any] = {field: text}
            page.goto(
                page.evaluate(
                    "([url, query]) => url + '?' + new URLSearchParams(query)", [f"{stage.url}/console/", query]
                )
            )
            assert page.locator(CODE).count() == 0
