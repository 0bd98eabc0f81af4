"""S4: what runs say stays text, in a real browser."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from pikkupy import Pikku, Workflow
from tests.console.conftest import Watched
from tests.console.payloads import PAYLOADS
from tests.console.stage import Stage, staged
from tests.console.test_browser import entered

pikku = Pikku()
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
            assert page.locator("main script, main img, main iframe, main [onerror], main [onload]").count() == 0
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
            assert page.locator("main script, main img, main iframe, main [onerror], main [onload]").count() == 0
        for run_id in first:
            page.goto(f"{stage.url}/console/?workflow=fails")
            page.get_by_label("Find an id").fill(run_id)
            page.get_by_label("Find an id").press("Enter")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.goto(f"{stage.url}/console/runs/cancelled")
        expect(page.locator(".reason")).to_contain_text("<img src=x onerror=alert(1)>")


@pytest.mark.parametrize("field", ["q", "workflow", "since", "status", "cursor", "done"])
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
            assert page.locator("main script, main img, main iframe, main [onerror], main [onload]").count() == 0
