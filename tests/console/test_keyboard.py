"""The console by keyboard alone: every action, from the list of runs to what is said of it, and where the focus is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.conftest import Watched
from tests.console.stage import Stage, staged
from tests.console.test_browser import entered, some, soon, until_tried_again
from tests.http.shop import pikku

__all__ = ["soon"]

MOST = 80  # stops on a page before the one that is wanted

STOP = """() => {
    if (document.activeElement === document.body) return [null, false];
    const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
    const own = at.getAttribute("aria-label") ?? (at.matches("a, button, summary") ? at.textContent : "");
    const label = own || [...at.labels ?? []].map(one => one.textContent).join(" ");
    const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.height > 0
        && box.bottom > 0 && box.top < innerHeight;
    return [label.replace(/\\s+/g, " ").trim(), seen];
}"""


@pytest.fixture
def stage(db: Path) -> Iterator[Stage]:
    with staged(pikku, db) as made:
        made.call(some(made))
        yield made


class Keys:
    """Somebody who has a keyboard, and sees where the focus is."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def to(self, name: str, *, key: str = "Tab") -> None:
        """On to what begins with this name, by a key that is in sight at each stop."""
        passed = list[str]()
        for _ in range(MOST):
            self.press(key)
            label, seen = self.page.evaluate(STOP)
            if label is None:
                continue  # past the end: the next one is the first
            assert seen, f"{label!r} has the focus, and it is not seen"
            passed.append(label)
            if label.startswith(name):
                return
        raise AssertionError(f"{name!r} is not come to by {key}: {passed}")

    def choose(self, name: str) -> None:
        """Go there, and on to what it leads to."""
        self.to(name)
        with self.page.expect_navigation():
            self.press("Enter")

    def write(self, text: str) -> None:
        """In place of what is there."""
        self.press("ControlOrMeta+a")
        self.page.keyboard.type(text)

    def open(self, run_id: str) -> None:
        """By the list: to the first run, and on to the one that is wanted."""
        self.choose("pikku")
        expect(self.page.get_by_role("heading", name="Runs")).to_be_visible()
        for _ in range(MOST):
            self.press("j")
            if self.page.evaluate(STOP)[0] == run_id:
                with self.page.expect_navigation():
                    self.press("Enter")
                expect(self.page.get_by_role("heading", level=1)).to_contain_text(run_id)
                return
        raise AssertionError(f"{run_id!r} is not come to by `j`")

    def done(self, text: str) -> None:
        """It is said that it was done."""
        expect(self.page.locator(".done")).to_contain_text(text)


@pytest.fixture
def keys(browser: Browser, stage: Stage, watched: Watched) -> Keys:
    return Keys(entered(browser, stage, watched))


def test_runs_are_filtered_and_found(keys: Keys) -> None:
    """By status, by workflow and by a text; and one gets to the content without what is above it."""
    page, rows = keys.page, keys.page.locator("tbody tr")
    keys.choose("✘ failed")
    expect(rows).to_have_count(1)
    expect(page).to_have_url(re.compile("status=failed"))
    keys.choose("all")
    expect(rows).to_have_count(8)
    keys.to("Workflow all")
    page.keyboard.type("order")
    keys.choose("Show")
    expect(rows).to_have_count(3)
    keys.press("/")
    keys.write("no stock")
    keys.press("Enter")
    expect(rows).to_have_count(1)
    keys.choose("To the content")
    keys.press("Tab")
    assert page.evaluate(STOP)[0].startswith("Workflow all")


def test_what_is_looked_at_is_left_where_it_was(keys: Keys) -> None:
    """`Escape` goes from the search to where one came from, and `k` goes back up."""
    keys.press("j", "j", "j", "k")
    expect(keys.page.locator("td.id a").nth(1)).to_be_focused()
    keys.press("/")
    expect(keys.page.get_by_label("Find an id")).to_be_focused()
    keys.press("Escape")
    expect(keys.page.locator("td.id a").nth(1)).to_be_focused()


def test_a_run_is_cancelled_after_a_question(keys: Keys, stage: Stage) -> None:
    """Who does not mean it leaves it as it is."""
    keys.open("waits")
    keys.choose("Cancel")
    expect(keys.page.get_by_label("Why")).to_be_focused()
    keys.choose("Leave it")
    expect(keys.page.get_by_role("heading", level=1)).to_contain_text("running")
    keys.choose("Cancel")
    expect(keys.page.get_by_label("Why")).to_be_focused()
    keys.page.keyboard.type("by hand")
    keys.choose("Cancel")
    keys.done("cancelled")
    assert stage.call(stage.engine.get_run("waits")).reason == "by hand"
    keys.choose("Delete")
    keys.choose("Delete")
    keys.done("run waits was deleted")


def test_a_run_is_retried_and_another_resumed(keys: Keys, stage: Stage) -> None:
    keys.open("fails")
    keys.choose("Retry")
    keys.choose("Retry")
    keys.done("retried")
    stage.call(until_tried_again(stage, ["fails"]))
    keys.open("held")
    keys.choose("Resume")
    keys.choose("Resume")
    keys.done("resumed")


def test_a_signal_is_sent_with_a_payload(keys: Keys, stage: Stage) -> None:
    keys.open("waits")
    keys.choose("Send a signal")
    expect(keys.page.get_by_label("Payload")).to_be_focused()
    keys.page.keyboard.type('{"a": [1, 2]}')
    keys.choose("Send a signal")
    keys.done("the signal was sent")
    expect(keys.page.get_by_role("heading", level=1)).to_contain_text("completed")
    assert stage.call(stage.engine.get_run("waits")).output == {"a": [1, 2]}


def test_a_decision_is_made_by_its_form(keys: Keys, stage: Stage) -> None:
    """What there is to choose from is gone through by the arrows."""
    keys.open("asks")
    keys.choose("Decide")
    keys.to("yes")
    keys.press("ArrowDown")
    expect(keys.page.get_by_label("no", exact=True)).to_be_checked()
    keys.choose("Decide: ok")
    keys.done("the decision was made")
    expect(keys.page.get_by_role("heading", level=1)).to_contain_text("completed")
    assert stage.call(stage.engine.get_run("asks")).output == (False, "token")


def test_a_run_is_forked_with_another_input(keys: Keys, stage: Stage) -> None:
    """Which begins with a copy; what is long is opened."""
    keys.open("order 1")
    keys.choose("Fork")
    keys.choose("edit a copy")
    keys.to("Other input")
    keys.write('{"number": 50}')
    keys.choose("Fork")
    keys.done("forked from order 1")
    expect(keys.page.get_by_role("heading", level=1)).to_contain_text("completed")
    runs = stage.call(stage.engine.list_runs(workflow="order")).runs
    assert [run.output.doubled for run in runs if run.forked_from] == [100]


def test_a_run_is_started_by_a_form(keys: Keys, stage: Stage) -> None:
    keys.choose("Start a run")
    expect(keys.page.locator("#workflow")).to_be_focused()
    keys.page.keyboard.type("order")
    keys.choose("Go on")
    keys.to("Id;")
    keys.page.keyboard.type("by keyboard")
    keys.to("number")
    keys.page.keyboard.type("21")
    keys.choose("Start")
    keys.done("started")
    expect(keys.page.get_by_role("heading", level=1)).to_contain_text("completed")
    assert stage.call(stage.engine.get_run("by keyboard")).output.doubled == 42


def test_all_that_match_are_retried(keys: Keys, stage: Stage) -> None:
    async def more() -> None:
        handles = [await stage.engine.start("failing", "no stock", run_id=f"f{number}") for number in range(2)]
        while {await one.status() for one in handles} != {"failed"}:
            await asyncio.sleep(0.001)

    stage.call(more())
    keys.choose("✘ failed")
    expect(keys.page.locator("tbody tr")).to_have_count(3)
    keys.choose("Retry all failed that match")
    keys.choose("Retry 3 runs")
    expect(keys.page.get_by_role("status")).to_contain_text("3 runs were retried")
    stage.call(until_tried_again(stage, ["fails", "f0", "f1"]))
    keys.choose("Back to the list")
    expect(keys.page.get_by_role("heading", name="Runs")).to_be_visible()


@pytest.mark.parametrize(
    ("path", "name"),
    [("runs/waits", "copy input"), ("overview", "▶ running"), ("workflows", "Start order"), ("", "all")],
)
def test_what_comes_leaves_the_focus_where_it_is(keys: Keys, stage: Stage, path: str, name: str) -> None:
    """And the next key goes on from there."""
    page = keys.page
    page.goto(f"{stage.url}/console/{path}")
    keys.to(name)
    shown = page.locator("#live")
    before = shown.inner_text()
    stage.call(stage.engine.signal("waits", "go"))
    stage.call(stage.engine.start("waiting"))
    expect(shown).not_to_have_text(before, use_inner_text=True)
    label, seen = page.evaluate(STOP)
    assert label.startswith(name) and seen
    keys.press("Tab")
    keys.press("Shift+Tab")
    assert page.evaluate(STOP)[0].startswith(name)
