"""The console in a real Chromium: what people see and do, live, and without JavaScript."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from pikkupy import Pikku, StepFailed, Workflow, current_step
from tests.console.conftest import Watched
from tests.console.stage import Stage, staged
from tests.http.shop import TOKEN, pikku

AXE = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live pages look often."""
    monkeypatch.setattr("pikkupy.console.pages.LIVE_S", 0.05)
    monkeypatch.setattr("pikkupy.console.pages.SHARE", 0)
    monkeypatch.setattr("pikkupy.console.finding.COUNTS_MOST_S", 0.0)


@pytest.fixture
def stage(db: Path) -> Iterator[Stage]:
    with staged(pikku, db) as made:
        yield made


def entered(browser: Browser, stage: Stage, watched: Watched, path: str = "", **options: Any) -> Page:
    """A page of the console, for who has the token."""
    context = browser.new_context(**options)
    context.set_default_timeout(10_000)
    page = context.new_page()
    watched.watch(context, page, stage.url)
    if options.get("java_script_enabled", True):
        page.goto(f"{stage.url}/console/#token={TOKEN}")
    else:
        page.goto(f"{stage.url}/console/")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    if path:
        page.goto(f"{stage.url}/console/{path}")
    return page


async def some(stage: Stage) -> None:
    """Runs of every kind."""
    for number in range(3):
        await stage.engine.run("order", {"number": number}, run_id=f"order {number}")
    await stage.engine.start("waiting", run_id="waits", tags={"customer": "ada"})
    await stage.engine.start("asking", run_id="asks")
    handle = await stage.engine.start("gated", run_id="held")
    failed = await stage.engine.start("failing", "no stock\nsecond line", run_id="fails")
    while await handle.status() != "suspended" or await failed.status() != "failed":
        await asyncio.sleep(0.001)
    await stage.engine.start("waiting", run_id="gone")
    await stage.engine.cancel("gone", "not wanted")


def test_the_link_lets_in_and_the_token_is_not_kept_in_it(browser: Browser, stage: Stage, watched: Watched) -> None:
    page = entered(browser, stage, watched)
    assert page.url == f"{stage.url}/console/"
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["name"][:6]) == (True, "Strict", "pikku_")
    assert TOKEN not in cookie["value"]
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("That is not the token.")


def test_the_link_lets_in_where_the_form_is_already(browser: Browser, stage: Stage, watched: Watched) -> None:
    """Only what is behind `#` changes then; who is in already does not keep it either."""
    page = browser.new_page()
    watched.watch(page.context, page, stage.url)
    page.goto(f"{stage.url}/console/")
    expect(page.get_by_label("Token")).to_be_visible()
    for _ in range(2):
        page.goto(f"{stage.url}/console/#token={TOKEN}")
        expect(page.get_by_role("heading", name="Runs")).to_be_visible()
        expect(page).to_have_url(f"{stage.url}/console/")
    page.context.close()


@pytest.mark.parametrize("script", [True, False])
def test_a_link_from_another_site_leads_to_its_page(browser: Browser, stage: Stage, script: bool) -> None:
    """For who is in already; who is not gets the form once, and comes to that page from there."""
    stage.call(some(stage))
    context = browser.new_context(java_script_enabled=script)
    context.set_default_timeout(10_000)
    page = context.new_page()
    link = f'<a href="{stage.url}/console/?status=failed&workflow=failing">look</a>'
    page.route("http://elsewhere.example/", lambda route: route.fulfill(content_type="text/html", body=link))
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url) if request.is_navigation_request() else None)
    for _ in range(2):
        page.goto("http://elsewhere.example/")
        page.get_by_role("link", name="look").click()
        if not context.cookies():
            page.get_by_label("Token").fill(TOKEN)
            page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Runs")).to_be_visible()
        expect(page).to_have_url(f"{stage.url}/console/?status=failed&workflow=failing")
        expect(page.locator("tbody tr")).to_have_count(1)
    assert len(asked) == 9
    context.close()


@pytest.mark.parametrize("scripted", [True, False], ids=["JavaScript", "no JavaScript"])
def test_the_list_is_filtered_by_what_is_in_the_url(
    browser: Browser, stage: Stage, watched: Watched, scripted: bool
) -> None:
    stage.call(some(stage))
    page = entered(browser, stage, watched, java_script_enabled=scripted)
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(8)
    expect(page.get_by_role("link", name="failed 1")).to_be_visible()
    page.get_by_role("link", name="failed 1").click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("ValueError: no stock")
    expect(rows).not_to_contain_text("second line")
    assert "status=failed" in page.url
    page.locator("main select[name=workflow]").select_option("order")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("There are no such runs.")).to_be_visible()
    page.goto(f"{stage.url}/console/?workflow=order&since=1h")
    expect(rows).to_have_count(3)
    page.get_by_label("Find an id").fill("no stock")
    page.get_by_role("button", name="Find").click()
    expect(rows).to_have_count(1)
    page.get_by_label("Find an id").fill("order")
    page.get_by_label("Find an id").press("Enter")
    expect(rows).to_have_count(3)
    page.goto(f"{stage.url}/console/?status=running")
    page.get_by_label("Tag").fill("customer:ada")
    page.get_by_label("Started after").fill("1h")
    page.get_by_role("button", name="Show").click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("waits")
    page.get_by_label("before").fill("1h")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("There are no such runs.")).to_be_visible()
    expect(page.get_by_label("Tag").first).to_have_value("customer:ada")
    page.get_by_label("Find an id").fill("order 1")
    page.get_by_label("Find an id").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("order 1")


def test_the_list_is_live_and_keeps_the_focus(browser: Browser, stage: Stage, watched: Watched) -> None:
    """What happens is seen without loading anew; who stands on a row goes on standing there."""
    stage.call(stage.engine.start("waiting", run_id="waits"))
    page = entered(browser, stage, watched)
    row = page.locator("tbody tr").first
    expect(row).to_contain_text("waits for the signal or decision go")
    page.get_by_role("link", name="waits").focus()
    stage.call(stage.engine.signal("waits", "go"))
    expect(row).to_contain_text("completed")
    expect(page.get_by_role("link", name="waits")).to_be_focused()
    expect(page.get_by_role("link", name="completed 1")).to_be_visible()
    stage.call(stage.engine.start("waiting", run_id="another"))
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.get_by_role("link", name="waits")).to_be_focused()
    page.keyboard.press("k")
    expect(page.get_by_role("link", name="another")).to_be_focused()


def test_a_run_says_what_it_waits_for_and_is_live(browser: Browser, stage: Stage, watched: Watched) -> None:
    stage.call(some(stage))
    page = entered(browser, stage, watched, "runs/waits")
    expect(page.locator(".waits")).to_have_text("waits for the signal go")
    expect(page.get_by_text("customer=ada")).to_be_visible()
    expect(page.locator(".timeline rect.bar.wait")).to_have_count(1)
    stage.call(stage.engine.signal("waits", "go", {"said": ["by", "whom"]}))
    expect(page.get_by_role("heading", level=1)).to_contain_text("completed")
    expect(page.locator("section", has=page.get_by_role("heading", name="Output"))).to_contain_text('"whom"')
    page.goto(f"{stage.url}/console/runs/fails")
    expect(page.locator(".error").first).to_contain_text("ValueError: no stock")
    page.locator(".error summary").first.click()
    expect(page.locator(".error pre").first).to_contain_text("second line")
    expect(page.locator(".timeline rect.bar.failed")).to_have_count(1)
    page.goto(f"{stage.url}/console/runs/held")
    expect(page.locator(".waits")).to_contain_text("closed")


def test_a_value_is_copied_and_loaded_as_a_file(browser: Browser, stage: Stage, watched: Watched) -> None:
    stage.call(some(stage))
    page = entered(browser, stage, watched, "runs/order%201", permissions=["clipboard-read", "clipboard-write"])
    section = page.locator("section", has=page.get_by_role("heading", name="Output"))
    section.get_by_role("button", name="copy").click()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == {"number": 1, "doubled": 2}
    with page.expect_download() as download:
        section.get_by_role("link", name="as a file").click()
    assert json.loads(Path(download.value.path()).read_text()) == {"number": 1, "doubled": 2}


def test_what_is_cut_is_copied_whole(browser: Browser, stage: Stage, watched: Watched) -> None:
    """And where a browser copies nothing, over plain HTTP, there is no button for it."""
    stage.call(stage.engine.run("echo", "x" * 280_000, run_id="long"))
    page = entered(browser, stage, watched, "runs/long", permissions=["clipboard-read", "clipboard-write"])
    section = page.locator("section", has=page.get_by_role("heading", name="Output"))
    section.locator("summary").click()
    section.get_by_role("button", name="copy").click()
    expect(section.get_by_role("button", name="copied")).to_be_visible()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == "x" * 280_000
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_contain_text("long")
    expect(page.get_by_role("button", name="copy")).to_have_count(0)


def test_what_did_not_come_whole_is_not_copied(browser: Browser, stage: Stage, watched: Watched) -> None:
    """Nor is the page that says why."""
    stage.call(stage.engine.run("echo", "x" * 280_000, run_id="long"))
    page = entered(browser, stage, watched, "runs/long", permissions=["clipboard-read", "clipboard-write"])
    page.evaluate("navigator.clipboard.writeText('before')")
    page.evaluate("globalThis.fetch = async () => new Response('what is wrong', {status: 503})")
    section = page.locator("section", has=page.get_by_role("heading", name="Output"))
    section.locator("summary").click()
    section.get_by_role("button", name="copy").click()
    expect(section.get_by_role("button", name="not copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "before"


def test_what_is_open_and_has_the_focus_stays_so_while_a_run_goes_on(
    browser: Browser, db: Path, watched: Watched
) -> None:
    """What comes is added around it."""
    ticking = Pikku()

    @ticking.workflow
    async def ticks(workflow: Workflow, data: list[str]) -> None:
        def fail() -> None:
            raise ValueError("no stock\nsecond line")

        with suppress(StepFailed):
            await workflow.do("fail", fail)
        for number in range(9):
            await workflow.wait_for_signal("tick")
            await workflow.do(f"step {number}", lambda: "x" * 500)

    with staged(ticking, db) as stage:
        stage.call(stage.engine.start(ticks, ["y" * 500], run_id="r"))
        page = entered(browser, stage, watched, "runs/r")
        summaries = page.locator("summary")
        expect(summaries).to_have_count(2)
        for number in range(2):
            summaries.nth(number).click()
        for number in range(3):
            button = page.get_by_role("button", name="copy error" if number % 2 else "copy input")
            button.focus()
            stage.call(stage.engine.signal("r", "tick"))
            expect(page.get_by_role("cell", name=f"step {number}", exact=True)).to_be_visible()
            expect(button).to_be_focused()
            expect(page.locator("details[open]")).to_have_count(2)
            expect(page.get_by_text("second line").last).to_be_visible()


def test_now_moves_on_by_itself(browser: Browser, stage: Stage, watched: Watched) -> None:
    """With what is under way, while the server sends nothing; what has ended gives it room."""
    stage.call(stage.engine.start("pausing", run_id="r"))
    while len(stage.call(stage.engine.steps("r"))) < 3:
        pass
    page = entered(browser, stage, watched)
    page.clock.install()
    page.add_init_script("""document.addEventListener('htmx:after:swap', () => {
        document.documentElement.dataset.came = 1 + Number(document.documentElement.dataset.came ?? 0) })""")
    page.goto(f"{stage.url}/console/runs/r")
    came = page.locator("html")
    expect(came).to_have_attribute("data-came", "1")
    line, waits, first = page.locator("line.now"), page.locator(".bars .wait"), page.locator(".bars .bar").first
    length = page.locator(".timeline .length")
    for ahead, said in ((180_000, "now, +3 min"), (3_600_000, "now, +1 h 3 min")):
        page.clock.fast_forward(ahead)
        expect(length).to_contain_text(said)
        right = float(waits.get_attribute("x") or 0) + float(waits.get_attribute("width") or 0)
        assert float(line.get_attribute("x1") or 0) == pytest.approx(996, abs=0.1)
        assert right == pytest.approx(996, abs=3)
        assert float(first.get_attribute("x") or 0) < 1
    expect(came).to_have_attribute("data-came", "1")
    stage.call(stage.engine.signal("r", "go"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("completed")
    expect(line).to_have_count(0)
    expect(length).not_to_contain_text("now")


@pytest.mark.parametrize("scripted", [True, False], ids=["JavaScript", "no JavaScript"])
def test_every_action(browser: Browser, stage: Stage, watched: Watched, scripted: bool) -> None:
    """Each asks whether it is meant, and says what was done; what cannot be done says why."""
    stage.call(some(stage))
    page = entered(browser, stage, watched, java_script_enabled=scripted)

    def act(run: str, action: str) -> None:
        page.goto(f"{stage.url}/console/runs/{run}")
        page.get_by_role("link", name=action, exact=True).click()

    def done(text: str) -> None:
        expect(page.locator(".done")).to_contain_text(text)

    act("waits", "Send a signal")
    expect(page.get_by_label("Name", exact=True)).to_have_value("go")
    page.get_by_label("Payload").fill('{"a": [1, 2]}')
    page.get_by_role("button", name="Send a signal").click()
    done("the signal was sent")
    assert stage.call(stage.engine.run("echo", 1)) == 1  # the loop has turned
    assert stage.call(stage.engine.get_run("waits")).output == {"a": [1, 2]}

    act("asks", "Decide")
    expect(page.get_by_role("heading", name="ok")).to_be_visible()
    page.get_by_label("no", exact=True).check()
    page.get_by_role("button", name="Decide").click()
    done("the decision was made")
    assert stage.call(stage.engine.run("echo", 1)) == 1
    assert stage.call(stage.engine.get_run("asks")).output == (False, "token")

    act("held", "Resume")
    page.get_by_role("button", name="Resume").click()
    done("resumed")

    act("fails", "Retry")
    page.get_by_role("button", name="Retry").click()
    done("retried")

    act("order%201", "Fork")
    page.get_by_label("Other input").fill('{"number": 50}')
    page.get_by_role("button", name="Fork").click()
    done("forked from order 1")
    expect(page.get_by_role("heading", level=1)).not_to_contain_text("order 1")

    stage.call(stage.engine.start("waiting", run_id="victim"))
    act("victim", "Cancel")
    page.get_by_label("Why").fill("no longer wanted")
    page.get_by_role("button", name="Cancel").click()
    done("cancelled")
    expect(page.locator(".reason")).to_have_text("no longer wanted")
    act("victim", "Delete")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    page.goto(f"{stage.url}/console/runs/victim")
    expect(page.get_by_role("alert")).to_contain_text("no run with the id 'victim'")

    page.goto(f"{stage.url}/console/runs/order%201")
    expect(page.locator(".off", has_text="Cancel")).to_be_visible()
    expect(page.get_by_text("Cancel, Send a signal (the run is completed)")).to_be_visible()


@pytest.mark.parametrize("scripted", [True, False], ids=["JavaScript", "no JavaScript"])
def test_a_run_is_started_by_a_form_of_its_type(
    browser: Browser, stage: Stage, watched: Watched, scripted: bool
) -> None:
    page = entered(browser, stage, watched, java_script_enabled=scripted)
    page.get_by_role("link", name="Start a run").click()
    page.locator("main select[name=workflow]").select_option("order")
    page.get_by_role("button", name="Go on").click()
    page.get_by_label("Id;").fill("by form")
    page.get_by_label("number").fill("twenty")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("alert")).to_contain_text("number")
    expect(page.get_by_label("number")).to_have_value("twenty")
    expect(page.get_by_label("Id;")).to_have_value("by form")
    page.get_by_label("number").fill("20")
    page.get_by_label("due (may be left empty)").fill("2026-12-24T18:00:00Z")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("by form")
    assert stage.call(stage.engine.run("echo", 1)) == 1
    assert stage.call(stage.engine.get_run("by form")).output.doubled == 40
    page.goto(f"{stage.url}/console/start?workflow=echo")
    page.get_by_label("Input").fill("[1, {}]")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.goto(f"{stage.url}/console/start?from_run=by+form")
    expect(page.get_by_label("number")).to_have_value("20")


@pytest.mark.parametrize("scripted", [True, False], ids=["JavaScript", "no JavaScript"])
def test_all_that_match_are_steered_at_once(browser: Browser, stage: Stage, watched: Watched, scripted: bool) -> None:
    """With their number, and a question first."""

    async def many() -> None:
        for number in range(5):
            await stage.engine.start("waiting", run_id=f"w{number}")
        await stage.engine.start("asking", run_id="other")
        failed = [await stage.engine.start("failing", "no stock", run_id=f"f{number}") for number in range(3)]
        while {await one.status() for one in failed} != {"failed"}:
            await asyncio.sleep(0.001)

    stage.call(many())
    page = entered(browser, stage, watched, "?workflow=waiting", java_script_enabled=scripted)
    page.get_by_role("link", name="Cancel all unfinished that match").click()
    expect(page.get_by_text("5 unfinished runs of waiting")).to_be_visible()
    page.get_by_label("Why").fill("spring cleaning")
    page.get_by_role("button", name="Cancel 5 unfinished runs").click()
    expect(page.get_by_role("status")).to_contain_text("5 runs were cancelled")
    found = stage.call(stage.engine.list_runs(status="cancelled")).runs
    assert {(run.id, run.reason) for run in found} == {(f"w{number}", "spring cleaning") for number in range(5)}
    assert stage.call(stage.engine.get_run("other")).status == "running"

    page.goto(f"{stage.url}/console/?q=no+stock")
    page.get_by_role("link", name="Retry all failed that match").click()
    expect(page.get_by_text("3 runs, found by “no stock”")).to_be_visible()
    page.get_by_role("button", name="Retry 3 runs").click()
    expect(page.get_by_role("status")).to_contain_text("3 runs were retried")
    stage.call(until_tried_again(stage, [f"f{number}" for number in range(3)]))
    page.get_by_role("link", name="Back to the list").click()
    expect(page.get_by_text("with an id that begins with")).to_contain_text("“no stock”")


async def until_tried_again(stage: Stage, run_ids: list[str]) -> None:
    """The failed step of each has had another attempt."""
    for run_id in run_ids:
        while (await stage.engine.steps(run_id))[0].attempts < 2:
            await asyncio.sleep(0.001)


def test_the_overview_is_live(browser: Browser, stage: Stage, watched: Watched) -> None:
    """How all stand, what has failed last, and what the workers do."""
    stage.call(some(stage))
    page = entered(browser, stage, watched, "overview")
    expect(page.get_by_role("link", name="completed 3")).to_be_visible()
    expect(page.locator("svg.chart rect")).not_to_have_count(0)
    expect(page.locator("section", has_text="Failed, of those started last")).to_contain_text("fails")
    workers = page.locator("section", has_text="Workers").locator("tbody tr")
    expect(workers).to_have_count(3)
    expect(workers.first).to_contain_text("async")
    stage.call(stage.engine.run("echo", 1))
    expect(page.get_by_role("link", name="completed 4")).to_be_visible()


def test_events_and_workflows_are_live(browser: Browser, stage: Stage, watched: Watched) -> None:
    """A part of the events that is full is not: what comes is in the next one."""
    stage.call(stage.engine.start("waiting", run_id="waits"))
    page = entered(browser, stage, watched, "runs/waits/events")
    expect(page.get_by_role("cell", name="run started")).to_be_visible()
    page.get_by_role("link", name="Back to the run").focus()
    stage.call(stage.engine.signal("waits", "go"))
    expect(page.get_by_role("cell", name="run ended")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_contain_text("waits")
    expect(page.locator("main .status")).to_contain_text("completed")
    expect(page.get_by_role("link", name="Back to the run")).to_be_focused()
    page.goto(f"{stage.url}/console/workflows")
    row = page.get_by_role("row", name="waiting")
    expect(row.get_by_role("link", name="1", exact=True)).to_have_count(1)
    row.get_by_role("link", name="Start").focus()
    stage.call(stage.engine.run("order", {"number": 1}))
    stage.call(stage.engine.start("waiting"))
    expect(row.get_by_role("link", name="1", exact=True)).to_have_count(2)
    expect(page.get_by_role("row", name="order").get_by_role("link", name="1", exact=True)).to_be_visible()
    expect(row.get_by_role("link", name="Start")).to_be_focused()


def test_no_script_makes_html_of_a_text(browser: Browser, stage: Stage, watched: Watched) -> None:
    """But htmx of what the server sends, by a policy that nobody else can have; on the form that lets in none does."""
    page = entered(browser, stage, watched)
    stage.call(stage.engine.start("waiting", run_id="waits"))
    expect(page.get_by_role("link", name="waits")).to_be_visible()
    watched.expects_violations = True

    def refused(*scripts: str) -> None:
        for script in scripts:
            caught = page.evaluate(f"() => {{ try {{ {script} }} catch (error) {{ return error.name }} }}")
            assert caught == "TypeError", script

    policy = "trustedTypes.createPolicy('console', {createHTML: text => text})"
    refused(
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
        "new DOMParser().parseFromString('<b>x</b>', 'text/html')",
        "document.createElement('script').text = '1'",
        "document.createElement('script').src = '/console/static/htmx.min.js'",
        policy,
        policy.replace("console", "other"),
    )
    page.context.clear_cookies()
    page.goto(f"{stage.url}/console/")
    expect(page.get_by_label("Token")).to_be_visible()
    refused("document.body.innerHTML = ''", policy)


def test_a_lost_connection_is_said(browser: Browser, stage: Stage, watched: Watched) -> None:
    """Until there is another one: what is shown grows old meanwhile."""
    page = entered(browser, stage, watched)
    lost = page.get_by_text("The connection is lost: what is shown may be old.")
    expect(lost).to_be_hidden()
    stage.call(stage.engine.__aexit__(None, None, None))
    expect(lost).to_be_visible()
    stage.call(stage.engine.__aenter__())
    expect(lost).to_be_hidden()
    stage.call(stage.engine.start("waiting", run_id="new"))
    expect(page.locator("tbody tr")).to_have_count(1)


def test_who_is_logged_out_is_told_so_and_asks_no_more(browser: Browser, stage: Stage, watched: Watched) -> None:
    """As after another token: a page that is left open would ask for ever."""
    page = entered(browser, stage, watched)
    page.clock.install()
    page.reload()
    stage.call(until(lambda: stage.streams() == 1))
    page.context.clear_cookies()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    stage.call(stage.engine.__aexit__(None, None, None))
    said = page.get_by_text("You are logged out: load the page anew.")
    expect(said).to_be_visible()
    asked.clear()
    for _ in range(3):
        page.clock.fast_forward(120_000)
        page.evaluate("fetch('/healthz')")
        expect(said).to_be_visible()
    assert [url for url in asked if "live" in url] == []


def test_a_tab_too_many_says_so_and_is_live_when_another_one_is_closed(
    browser: Browser, stage: Stage, watched: Watched
) -> None:
    """It does not show what is refused in place of the runs, and asks again, less and less often."""
    stage.call(stage.engine.start("waiting", run_id="waits"))
    page = entered(browser, stage, watched)
    stage.call(until(lambda: stage.streams() == 1))
    tabs = [page, *opened(page, 3)]
    other = browser.new_context()  # a browser asks a server of HTTP/1.1 for six things at once
    other.add_cookies([{**one} for one in page.context.cookies()])  # type: ignore[typeddict-item]
    tabs += opened(page, 4, other)
    stage.call(until(lambda: stage.streams() == 8))
    [late] = opened(page, 1)
    lost = late.get_by_text("Too many live pages are open: what is shown may be old.")
    expect(lost).to_be_visible()
    expect(late.locator("tbody tr")).to_have_count(1)
    late.clock.fast_forward(2_000)
    expect(lost).to_be_visible()
    tabs[-1].close()
    stage.call(until(lambda: stage.streams() == 7))
    late.clock.fast_forward(60_000)
    expect(lost).to_be_hidden()
    stage.call(stage.engine.start("waiting", run_id="another"))
    expect(late.locator("tbody tr")).to_have_count(2)
    other.close()


def test_a_connection_that_did_not_come_is_asked_for_again(browser: Browser, stage: Stage, watched: Watched) -> None:
    """Also the first one: a server that is away just then is nothing else than one that goes away."""
    page = entered(browser, stage, watched)
    page.context.route("**/console/live", lambda route: route.abort())
    [late] = opened(page, 1)
    lost = late.get_by_text("The connection is lost: what is shown may be old.")
    expect(lost).to_be_visible()
    page.context.unroute_all()
    late.clock.fast_forward(60_000)
    expect(lost).to_be_hidden()
    stage.call(stage.engine.start("waiting", run_id="new"))
    expect(late.locator("tbody tr")).to_have_count(1)


def opened(page: Page, count: int, context: BrowserContext | None = None) -> list[Page]:
    """More tabs with what the page shows, whose clocks can be moved on."""
    tabs = []
    for _ in range(count):
        tab = (context or page.context).new_page()
        tab.clock.install()
        tab.goto(page.url)
        tabs.append(tab)
    return tabs


def test_on_a_telephone_everything_is_beside_or_below_each_other(
    browser: Browser, stage: Stage, watched: Watched
) -> None:
    """Nothing lies over something else or beyond the edge, and why a run waits is in sight."""
    stage.call(some(stage))
    page = entered(browser, stage, watched, viewport={"width": 360, "height": 740})

    def box(place: Any) -> tuple[float, float, float, float]:
        found = place.bounding_box()
        assert found is not None
        return found["x"], found["y"], found["x"] + found["width"], found["y"] + found["height"]

    find, who = box(page.get_by_role("button", name="Find")), box(page.locator(".who"))
    assert find[2] <= who[0] or find[3] <= who[1] or who[3] <= find[1]
    # In one piece: the list is live, and may be another one between two questions.
    cells = """cells => cells.map(cell =>
        [cell.textContent, cell.getBoundingClientRect(), cell.parentElement.getBoundingClientRect()])"""
    for text, what, row in page.locator("td.what").evaluate_all(cells):
        assert (what["left"] >= 0, what["right"] <= 360, what["top"] >= row["top"]) == (True, True, True), (text, what)
        assert row["height"] < 160, (text, row)
    nav = box(page.get_by_role("navigation", name="Console"))
    assert nav[3] - nav[1] < 2 * 35  # two lines, close to each other
    page.goto(f"{stage.url}/console/runs/fails")
    for text in page.locator(".timeline text").all():
        left, top, right, bottom = box(text)
        assert (left >= 0, right <= 360, bottom - top >= 12) == (True, True, True), text.text_content()
    for path in ("", "runs/fails", "start?workflow=order", "overview"):
        page.goto(f"{stage.url}/console/{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


LONG = ["", "overview", "workflows", "start", "start?from_run={}", "runs/{}", "runs/{}/events", "runs/{}/confirm/fork",
        "runs/{}/confirm/delete", "all/cancel?q={}"]  # fmt: skip

PAGES = [
    "", "?status=failed", "runs/fails", "runs/fails/events", "runs/waits", "runs/held", "runs/order%201",
    "runs/nothing", "workflows", "start", "start?workflow=order", "start?workflow=echo", "runs/fails/confirm/retry",
    "runs/waits/confirm/cancel", "runs/waits/confirm/signal", "runs/counts/confirm/signal",
    "runs/asks/confirm/approve", "runs/order%201/confirm/fork", "runs/order%201/confirm/cancel", "all/retry",
    "overview", "runs/parked",
]  # fmt: skip


def test_no_page_is_wider_than_a_telephone(browser: Browser, stage: Stage, watched: Watched) -> None:
    """Whatever names and values there are: what is wider has a box of its own to scroll in."""
    wide = Pikku()

    @wide.workflow(name="a_workflow_with_a_name_that_goes_on_and_on_without_a_place_to_break_it")
    async def long(workflow: Workflow, data: Any) -> Any:
        """Say something that needs more than the one line that there is on a telephone, however small it is."""
        return await workflow.do("step-" + "x" * 120, lambda: data)

    phone, run_id = {"width": 390, "height": 844}, "id-" + "y" * 200
    with staged(wide, f"{stage.path}.wide") as other:
        other.call(other.engine.run(long, {"k" * 300: "v" * 900}, run_id=run_id, tags={"t" * 100: "u" * 200}))
        stage.call(some(stage))
        stage.call(stage.engine.start("counting", run_id="counts"))
        found = {}
        for one, paths in ((stage, PAGES), (other, [path.format(run_id) for path in LONG])):
            page = entered(browser, one, watched, viewport=phone)
            watched = Watched()  # it knows the address of the first alone
            for path in paths:
                page.goto(f"{one.url}/console/{path}")
                found[path] = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
        page.goto(f"{other.url}/console/workflows")
        for link in (page.get_by_role("link", name=f"Start {long.name}"), page.get_by_role("link", name="1 completed")):
            box = link.bounding_box()
            assert box is not None and box["x"] + box["width"] <= 390  # in sight without any scrolling
        page.context.clear_cookies()
        page.goto(f"{other.url}/console/")
        expect(page.get_by_label("Token")).to_be_visible()
        found["login"] = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
        assert {path: more for path, more in found.items() if more > 0} == {}


older = Pikku()


@older.workflow(name="waiting")
async def waiting_before(workflow: Workflow) -> None:
    """As the code was before: with a step that is there no more."""
    await workflow.do("Charge", lambda: None)
    await workflow.wait_for_signal("go")


async def parked(stage: Stage) -> None:
    """A run that other code will not fit."""
    await stage.engine.start("waiting", run_id="parked")
    while not await stage.engine.steps("parked"):
        await asyncio.sleep(0.001)


def wrong_of(page: Page) -> list[tuple[str, list[str]]]:
    """What of WCAG 2.1 AA it does not keep to, as far as axe can tell."""
    wrong = Axe().run(page, options=AXE).response["violations"]
    return [(one["id"], [node["html"][:150] for node in one["nodes"]]) for one in wrong]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(browser: Browser, db: Path, watched: Watched, scheme: Any) -> None:
    """Every page."""
    with staged(older, db) as stage:
        stage.call(parked(stage))
    with staged(pikku, db) as stage:
        stage.call(some(stage))
        stage.call(stage.engine.start("counting", run_id="counts"))
        page = entered(browser, stage, watched, color_scheme=scheme)
        found = {}
        for path in PAGES:
            page.goto(f"{stage.url}/console/{path}")
            found[path] = wrong_of(page)
        page.goto(f"{stage.url}/console/runs/parked")
        expect(page.get_by_role("heading", name="The code does not fit what is recorded")).to_be_visible()
        page.goto(f"{stage.url}/console/all/cancel?workflow=asking")
        page.get_by_role("button", name="Cancel 1 unfinished run").click()
        expect(page.get_by_role("status")).to_contain_text("1 run was cancelled")
        found["done"] = wrong_of(page)
        page.context.clear_cookies()
        page.goto(f"{stage.url}/console/")
        found["login"] = wrong_of(page)
        assert {path: wrong for path, wrong in found.items() if wrong} == {}


async def until(true: Callable[[], bool]) -> None:
    """Wait for it."""
    while not true():
        await asyncio.sleep(0.005)


def test_a_hidden_tab_does_not_ask(browser: Browser, stage: Stage, watched: Watched) -> None:
    """It pauses while nobody sees it, and catches up when somebody does."""
    page = entered(browser, stage, watched)
    expect(page.get_by_text("There are no such runs.")).to_be_visible()
    hide = """hidden => { Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});
        document.dispatchEvent(new Event('visibilitychange')) }"""
    stage.call(until(lambda: stage.streams() == 1))
    page.evaluate(hide, True)
    stage.call(until(lambda: stage.streams() == 0))
    stage.call(stage.engine.start("waiting", run_id="waits"))
    expect(page.locator("tbody tr")).to_have_count(0)
    page.evaluate(hide, False)
    expect(page.locator("tbody tr")).to_have_count(1)


def test_a_tab_that_is_hidden_from_the_beginning_does_not_ask(browser: Browser, stage: Stage, watched: Watched) -> None:
    """As one that is opened in the background: it begins when somebody looks."""
    page = entered(browser, stage, watched)
    stage.call(until(lambda: stage.streams() == 1))
    page.add_init_script("Object.defineProperty(document, 'hidden', {configurable: true, get: () => true})")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    expect(page.get_by_text("There are no such runs.")).to_be_visible()
    stage.call(stage.engine.start("waiting", run_id="waits"))
    assert not [url for url in asked if "/console/live" in url]
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("tbody tr")).to_have_count(1)


def test_under_a_prefix_and_read_only(browser: Browser, db: Path, watched: Watched) -> None:
    """Every link and form works where it is mounted; who may only look sees no way to do more."""
    with staged(pikku, db, prefix="/tools/pikku", read_only=True) as stage:
        stage.call(some(stage))
        page = entered(browser, stage, watched)
        expect(page.locator("tbody tr")).to_have_count(8)
        page.get_by_role("link", name="fails").click()
        expect(page.locator(".off", has_text="Retry")).to_be_visible()
        expect(page.get_by_text("Not now: Cancel, Retry")).to_contain_text("this console is read-only")
        assert page.get_by_role("link", name="Start anew").count() == 0
        stage.call(stage.engine.retry("fails"))
        page.goto(f"{stage.url}/console/runs/fails/confirm/retry")
        expect(page.get_by_role("alert")).to_contain_text("read-only")


family = Pikku()


@family.workflow
async def errand(workflow: Workflow) -> str:
    """What the child does."""
    return await workflow.do("buy", lambda: "bread")


@family.workflow
async def household(workflow: Workflow) -> str:
    """A step that fails at first, a sleep and a child."""

    def light() -> str:
        step = current_step()
        assert step is not None
        if step.attempt_count == 1:
            raise ValueError("too damp")
        return "lit"

    await workflow.do("light", light, retries=1, retry_delay="200ms")
    await workflow.sleep("rest", "200ms")
    return await workflow.do("errand", errand)


@pytest.mark.parametrize("scripted", [True, False], ids=["JavaScript", "no JavaScript"])
def test_a_run_leads_to_its_child_and_back(browser: Browser, db: Path, watched: Watched, scripted: bool) -> None:
    with staged(family, db) as stage:
        assert stage.call(stage.engine.run(household, run_id="parent")) == "bread"
        page = entered(browser, stage, watched, "runs/parent", java_script_enabled=scripted)
        expect(page.locator("dt", has_text="Parent")).to_have_count(0)
        page.get_by_role("link", name="parent/errand", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("parent/errand")
        expect(page.get_by_role("cell", name="buy", exact=True)).to_be_visible()
        page.locator(".facts div", has_text="Parent").get_by_role("link", name="parent", exact=True).click()
        expect(page).to_have_url(f"{stage.url}/console/runs/parent")
        expect(page.get_by_role("cell", name="rest", exact=True)).to_be_visible()


def test_a_retry_is_hatched_and_a_sleep_is_thin(browser: Browser, db: Path, watched: Watched) -> None:
    """What is between attempts is told from work by more than its colour, and so is what only waits."""
    with staged(family, db) as stage:
        stage.call(stage.engine.run(household, run_id="parent"))
        page = entered(browser, stage, watched, "runs/parent")
        kinds = "bars => bars.map(bar => bar.getAttribute('class'))"
        bars = page.locator(".bars .bar")
        expect(bars).to_have_count(5)
        assert sorted(bars.evaluate_all(kinds)) == ["bar child", "bar failed", "bar retry", "bar sleep", "bar work"]

        def drawn(kind: str) -> tuple[str, float, float]:
            bar = page.locator(f".bars .bar.{kind}")
            box = bar.bounding_box()
            assert box is not None
            return bar.evaluate("bar => getComputedStyle(bar).fill"), box["width"], box["height"]

        retry, sleep, work, failed = (drawn(kind) for kind in ("retry", "sleep", "work", "failed"))
        assert retry[0] == 'url("#hatch")'
        stripe, pattern = page.locator("#hatch .hatch"), page.locator("#hatch")
        assert float(stripe.get_attribute("width") or 0) < float(pattern.get_attribute("width") or 0)
        assert "rotate(45)" in (pattern.get_attribute("patternTransform") or "")
        assert stripe.evaluate("one => getComputedStyle(one).fill") not in ("none", "rgb(0, 0, 0)")
        assert all(one[0].startswith("rgb(") for one in (sleep, work, failed))
        assert len({sleep[0], work[0], failed[0]}) == 3
        assert retry[1] > 20 and sleep[1] > 20  # both have lasted, and can be seen
        assert sleep[2] < work[2] / 2 and failed[2] == pytest.approx(work[2], abs=1)
        legend = page.get_by_role("list", name="What the bars mean").locator("li")
        expect(legend.filter(has_text="between attempts").locator(".bar.retry")).to_have_count(1)
        expect(legend.filter(has_text="sleep").locator(".bar.sleep")).to_have_attribute("height", "4")


@pytest.mark.parametrize("scripted", [True, False], ids=["JavaScript", "no JavaScript"])
def test_what_is_recorded_is_beside_what_the_code_asks_for(
    browser: Browser, db: Path, watched: Watched, scripted: bool
) -> None:
    with staged(older, db) as stage:
        stage.call(parked(stage))
    with staged(pikku, db) as stage:
        page = entered(browser, stage, watched, "runs/parked", java_script_enabled=scripted)
        table = page.get_by_role("table", name="The first difference")
        heads = table.get_by_role("columnheader")
        expect(heads).to_have_text(["Step", "Recorded", "The code asks for"])
        cells = table.get_by_role("cell")
        expect(cells).to_have_count(3)
        expect(cells.nth(0)).to_have_text("1: Charge")
        expect(cells.nth(1)).to_contain_text("'Charge' (")
        expect(cells.nth(2)).to_contain_text("'go' (")
        left, right = (cells.nth(number).bounding_box() for number in (1, 2))
        assert left is not None and right is not None
        assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"] + 1


@family.workflow
async def counts_up(workflow: Workflow, data: int) -> int:
    """So many steps."""
    for number in range(data):
        await workflow.do(f"step {number}", lambda number=number: number)
    return data


def test_every_page_is_read_without_scripts(browser: Browser, db: Path, watched: Watched) -> None:
    """The list by its parts, the overview, the workflows, the events and the steps by theirs."""
    with staged(family, db) as stage:
        for number in range(70):
            stage.call(stage.engine.run(errand, run_id=f"run {number}"))
        stage.call(stage.engine.run(counts_up, 450, run_id="long"))
        page = entered(browser, stage, watched, "?workflow=errand", java_script_enabled=False)
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(50)
        expect(rows.first).to_contain_text("run 69")
        page.get_by_role("link", name="Older", exact=True).click()
        expect(rows).to_have_count(20)
        expect(rows.last).to_contain_text("run 0")
        expect(page.get_by_role("link", name="Older", exact=True)).to_have_count(0)
        page.get_by_role("link", name="Newest", exact=True).click()
        expect(rows.first).to_contain_text("run 69")

        page.get_by_role("link", name="Overview").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        expect(page.locator("svg.chart rect")).not_to_have_count(0)
        expect(page.locator("section", has_text="Workers").locator("tbody tr")).to_have_count(3)
        page.get_by_role("link", name="completed 71").click()
        expect(page).to_have_url(f"{stage.url}/console/?status=completed")

        page.get_by_role("link", name="Workflows").click()
        row = page.get_by_role("row", name="errand")
        expect(row).to_contain_text("What the child does.")
        row.get_by_role("link", name="70", exact=True).click()
        expect(page).to_have_url(f"{stage.url}/console/?workflow=errand&status=completed")
        expect(rows).to_have_count(50)

        page.goto(f"{stage.url}/console/runs/long?page=1")
        steps = page.locator("tr[id^=step]")
        for count, first in ((200, "step 0"), (200, "step 200"), (50, "step 400")):
            expect(steps).to_have_count(count)
            expect(steps.first.locator("td").nth(1)).to_have_text(first)
            if count == 200:
                page.get_by_role("link", name="later", exact=True).click()
        expect(page.locator(".pages")).to_contain_text("page 3 of 3")
        expect(page.get_by_role("link", name="later", exact=True)).to_have_count(0)
        page.get_by_role("link", name="earlier", exact=True).click()
        expect(steps.first.locator("td").nth(1)).to_have_text("step 200")

        page.get_by_role("link", name="Events", exact=True).click()
        names, seen = page.locator("tbody td:nth-child(3)"), list[str]()
        seen += names.all_text_contents()
        while (further := page.get_by_role("link", name="Further", exact=True)).count():
            before = page.url
            further.click()
            expect(page).not_to_have_url(before)
            expect(page.get_by_role("link", name="from the beginning")).to_be_visible()
            seen += names.all_text_contents()
        assert {name.partition(" attempt")[0] for name in seen} >= {f"step {number}" for number in range(450)}
        page.get_by_role("link", name="Back to the run").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("long")
