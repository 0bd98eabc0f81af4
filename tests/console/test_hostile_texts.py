"""S4: what runs say stays text, in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
import pytest
from msgspec import Meta
from playwright.sync_api import Browser, Locator, Page, expect

from pikkupy import Engine, Pikku, RunFailed, RunStateError, StepFailed, Workflow, current_step
from pikkupy.showing.words import clean
from tests.console.conftest import Watched
from tests.console.payloads import PAYLOADS
from tests.console.stage import Stage, staged
from tests.console.test_browser import entered

pikku = Pikku()
CODE = "main script, main img, main iframe, main [onerror], main [onload]"
NAMES = [text for text in PAYLOADS if text.isprintable() and "\ufeff" not in text]
"""Those that an id, a tag or a step may be called."""
MARK = " \N{BROKEN BAR} "
"""Between texts that are on one line: none has it."""


def groups(texts: list[str], most: int) -> list[list[str]]:
    """All of them in their order; a group has so many characters at most, with what is between them."""
    found, length = list[list[str]](), most
    for text in texts:
        length += len(text) + len(MARK)
        if length > most:
            found.append([])
            length = len(text)
        found[-1].append(text)
    return found


class Seen:
    """Which texts were there to be read, by the field that has said them: what no page showed was not tested."""

    def __init__(self) -> None:
        self._found = defaultdict[str, set[str]](set)

    def add(self, field: str, said: Iterable[str]) -> None:
        """Texts that a field has said: each may be a line, or between two marks."""
        self._found[field] |= {
            part.strip().removesuffix(",") for text in said for part in re.split(f"{MARK}|\n|\\\\n", text)
        }

    def look(self, field: str, place: Locator) -> None:
        """What is said there."""
        self.add(field, place.all_text_contents())

    def missing(self, wanted: dict[str, list[str]]) -> dict[str, list[str]]:
        """By field what it should have said, and has not."""
        missing = {field: [text for text in texts if text not in self._found[field]] for field, texts in wanted.items()}
        return {field: texts for field, texts in missing.items() if texts}


def shown(texts: list[str], how: Callable[[str], str] = str) -> list[str]:
    """As a page writes them."""
    return [clean(how(text)) for text in texts]


def as_json(text: str) -> str:
    """In a value."""
    return json.dumps(text, ensure_ascii=False)


def opened(page: Page, url: str) -> None:
    """With what comes by itself, if the page is live; nothing of it is code."""
    page.goto(url)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    if page.locator("#live[hx-sse\\:connect]").count():
        expect(page.locator("html")).to_have_attribute("data-came", "yes")
    assert page.locator(CODE).count() == 0


def looked_at(browser: Browser, stage: Stage, watched: Watched) -> Page:
    """A page of the console that marks when something came by itself."""
    page = entered(browser, stage, watched)
    page.add_init_script(
        "document.addEventListener('htmx:after:swap', () => { document.documentElement.dataset.came = 'yes' })"
    )
    return page


def all_pages(page: Page, url: str, further: str, look: Callable[[], None]) -> None:
    """Look at this one, and at all that the link of that name leads to."""
    opened(page, url)
    look()
    while (link := page.get_by_role("link", name=further, exact=True)).count():
        opened(page, page.evaluate("link => link.href", link.element_handle()))
        look()


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
    for number, text in enumerate(data):
        await workflow.do(text if text in NAMES else f"step {number}", lambda text=text: text)
    return data


@pikku.workflow
async def fails(workflow: Workflow, data: str) -> None:
    """An error that says so."""

    def fail() -> None:
        raise ValueError(data)

    await workflow.do("fail", fail)


@pikku.workflow
async def fails_often(workflow: Workflow, data: list[str]) -> None:
    """Steps that fail, each with one of the texts, and an error that says them all."""

    def fail(text: str) -> None:
        raise ValueError(text)

    for number, text in enumerate(data):
        with suppress(StepFailed):
            await workflow.do(f"fail {number}", lambda text=text: fail(text))
    await workflow.do("fail", lambda: fail("\n".join(["all:", *data])))


@pikku.workflow
async def waits(workflow: Workflow) -> None:
    """For a signal."""
    await workflow.wait_for_signal("go")


@pikku.workflow(name="<script>alert(1)</script>")
async def named(workflow: Workflow) -> None:
    """<img src=x onerror=alert(1)>"""


CALLED = groups(NAMES, 250)


async def everything(stage: Stage) -> None:
    """Every text in every field that a page shows."""
    engine = stage.engine
    await engine.run(speaks, PAYLOADS, run_id="speaks")
    for number, text in enumerate(PAYLOADS):
        run_id = f"{text}{MARK}{number}" if text in NAMES else f"plain {number}"
        await engine.start(fails, text, run_id=run_id[:256])
    for texts in CALLED:
        await engine.start(waits, run_id=MARK.join(texts), tags={text: text for text in texts})
    await engine.start(fails_often, PAYLOADS, run_id="fails often")
    await engine.start(waits, run_id="cancelled")
    await engine.cancel("cancelled", "\n".join(["not wanted:", *PAYLOADS]))
    await engine.run(named, run_id="named")
    for workflow in ("fails", "fails_often"):
        while (await engine.list_runs(workflow=workflow, status="running", limit=1)).runs:
            await asyncio.sleep(0.001)


def test_every_text_stays_text_in_every_field(browser: Browser, db: Path, watched: Watched) -> None:
    """No dialog, no violation of the policy, no request elsewhere, and each text is there to be read in each field."""
    seen = Seen()
    with staged(pikku, db) as stage:
        stage.call(everything(stage))
        page = looked_at(browser, stage, watched)

        def listed() -> None:
            seen.look("id, listed", page.locator("td.id"))
            seen.look("error, listed", page.locator("td.what"))

        def run() -> None:
            seen.look("id", page.locator("h1 > span:not(.status)"))
            seen.look("tag", page.locator(".headline p .small"))
            seen.look("input", page.locator("section[aria-labelledby=input-title] pre"))
            seen.look("output", page.locator("section[aria-labelledby=output-title] pre"))
            seen.look("error", page.locator("#live > .error pre"))
            seen.look("step", page.locator("tr[id^=step] td:nth-child(2)"))
            seen.look("step, drawn", page.locator("svg.names title"))
            seen.look("step's output", page.locator("td.outcome > pre"))
            seen.look("step's error", page.locator("td.outcome .error p"))

        def events() -> None:
            names = page.locator("td:nth-child(3)").all_text_contents()
            seen.add("step, in events", (name.removesuffix(" attempt 1") for name in names))
            seen.look("error, in events", page.locator("td.outcome .error p"))
            seen.look("reason, in events", page.locator("td.outcome"))

        all_pages(page, f"{stage.url}/console/", "Older", listed)
        for run_id in ("speaks", "fails%20often", "cancelled", *(quote(MARK.join(texts), safe="") for texts in CALLED)):
            all_pages(page, f"{stage.url}/console/runs/{run_id}?page=1", "later", run)
        for run_id in ("speaks", "fails%20often", "cancelled"):
            all_pages(page, f"{stage.url}/console/runs/{run_id}/events", "Further", events)
        opened(page, f"{stage.url}/console/runs/cancelled")
        seen.look("reason", page.locator(".reason"))
        opened(page, f"{stage.url}/console/runs/speaks/confirm/fork")
        seen.add("step, offered", page.locator("#steps option").evaluate_all("all => all.map(one => one.value)"))
        for path in ("runs/named", "workflows", "start", "all/cancel"):
            opened(page, f"{stage.url}/console/{path}")
        for texts in CALLED[::8]:
            opened(page, f"{stage.url}/console/")
            page.get_by_label("Find an id").fill(MARK.join(texts))
            page.get_by_label("Find an id").press("Enter")
            expect(page.get_by_role("heading", level=1)).to_contain_text(MARK.join(texts))
    wrong = shown(PAYLOADS, lambda text: f"ValueError: {text}")
    assert not seen.missing({
        **dict.fromkeys(["id, listed", "id", "step", "step, drawn", "step, in events", "step, offered"], NAMES),
        **dict.fromkeys(["input", "output", "step's output"], shown(PAYLOADS, as_json)),
        **dict.fromkeys(["error", "reason", "reason, in events"], shown(PAYLOADS)),
        **dict.fromkeys(["error, listed", "step's error", "error, in events"], wrong),
        "tag": [f"{text}={text}" for text in NAMES],
    })  # fmt: skip


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
        await workflow.do(f"{data}{anew}", lambda: None)
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


CHANGED = [*NAMES[::20], *(MARK.join(texts) for texts in CALLED)]
"""Names of steps: each text, and some of them alone."""


async def under_way(stage: Stage) -> None:
    """Every text as a step's name, as a decision, and as what a run and a step tell."""
    for number, text in enumerate(CHANGED):
        await stage.engine.start("changes", text, run_id=f"changes {number}")
    for number in range(0, len(NAMES), 20):
        await stage.engine.start("asks", NAMES[number : number + 20], run_id=f"asks {number}")
    for number, texts in enumerate(groups(PAYLOADS, 990)):
        await stage.engine.start("goes_on", "\n".join(texts), run_id=f"goes on {number}")
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
    seen = Seen()
    with staged(shop(""), db) as stage:
        stage.call(under_way(stage))
        page = looked_at(browser, stage, watched)
        for number in range(len(groups(PAYLOADS, 990))):
            opened(page, f"{stage.url}/console/runs/goes%20on%20{number}")
            seen.look("told by a run", page.locator(".facts dd"))
            expect(page.locator("td.outcome")).to_contain_text("\\n")
            seen.add("told by a step", page.locator("td.outcome").evaluate_all(OWN))
        for number in range(0, len(NAMES), 20):
            opened(page, f"{stage.url}/console/runs/asks%20{number}/confirm/approve")
            seen.look("offered in a decision", page.locator("main option"))
            seen.look("said of a decision's part", page.locator("form p.small"))
            seen.add(
                "part of a decision",
                (text.split(" (may be")[0] for text in page.locator("main label").all_text_contents()),
            )
        page.context.close()
    with staged(shop(" anew"), db) as stage:
        page = looked_at(browser, stage, watched)
        for number in range(len(CHANGED)):
            opened(page, f"{stage.url}/console/runs/changes%20{number}")
            expect(page.get_by_role("heading", name="The code does not fit what is recorded")).to_be_visible()
            name = page.locator(".reason td").first.text_content() or ""
            seen.add("step that does not fit", [name.removeprefix("1: ")])

        async def refuse(_: Engine, run_id: str, __: str) -> None:
            number = int(run_id.removeprefix("changes "))
            raise RunStateError(MARK.join(PAYLOADS[number :: len(CHANGED)]))

        monkeypatch.setattr(Engine, "cancel", refuse)
        opened(page, f"{stage.url}/console/all/cancel?workflow=changes")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text(f"{len(CHANGED)} runs were not:")).to_be_visible()
        assert page.locator(CODE).count() == 0
        for one in page.locator("main li").all_text_contents():
            seen.add("why it was not done", [one.partition(": ")[2]])
    with staged(pikku, db) as stage:
        page = looked_at(browser, stage, watched)
        for number in range(0, len(PAYLOADS), 5):
            stage.call(failed(stage, PAYLOADS[number : number + 5]))
            opened(page, f"{stage.url}/console/overview")
            seen.add("overview", page.locator("section[aria-labelledby=failed] li").evaluate_all(LAST))
    assert not seen.missing({
        **dict.fromkeys(["told by a run", "told by a step", "why it was not done"], shown(PAYLOADS)),
        **dict.fromkeys(["offered in a decision", "said of a decision's part", "step that does not fit"], NAMES),
        "part of a decision": [text for text in NAMES if not {'"', "\\"} & {*text}],
        "overview": shown(PAYLOADS, lambda text: f"ValueError: {text}"),
    })  # fmt: skip


OWN = "all => all.map(one => [...one.childNodes].filter(part => part.nodeType === 3).map(part => part.data).join(' '))"
LAST = "all => all.map(one => one.lastChild.data)"


async def failed(stage: Stage, texts: list[str]) -> None:
    """Runs that have failed so."""
    for text in texts:
        handle = await stage.engine.start(fails, text)
        with suppress(RunFailed):
            await handle.result()


@pytest.mark.parametrize("field", ["q", "workflow", "tag", "since", "until", "status", "cursor", "done"])
def test_every_text_stays_text_in_the_url(browser: Browser, db: Path, watched: Watched, field: str) -> None:
    """What a link says is shown, if at all, as text: whole where it is filled in again, or why it is refused."""
    with staged(pikku, db) as stage:
        page = looked_at(browser, stage, watched)

        def open_with(texts: list[str]) -> None:
            pairs = [[field, text] for text in texts]
            query = page.evaluate("pairs => String(new URLSearchParams(pairs))", pairs)
            opened(page, f"{stage.url}/console/?{query}")

        seen = Seen()
        for texts in groups(PAYLOADS, 400 if field == "tag" else 990):
            tags = [f"t{number}:{text}" for number, text in enumerate(texts)]
            open_with(tags if field == "tag" else [MARK.join(texts)])
            filled = page.locator("input[name=q], input[name=tag]").evaluate_all("all => all.map(one => one.value)")
            seen.add("filled in again", (re.sub(r"^t\d+:", "", text) for text in filled))
        if field in ("q", "tag"):
            assert not seen.missing({"filled in again": PAYLOADS})
        if field in REFUSED:
            for text in PAYLOADS[REFUSED.index(field) :: len(REFUSED)]:
                open_with([text])
                expect(page.get_by_role("alert")).to_be_visible()


REFUSED = ["since", "until", "status", "cursor", "done"]


def test_every_text_stays_text_in_a_form_that_was_refused(
    browser: Browser, db: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is filled in again as it was written."""
    lines, line = "\n".join(PAYLOADS), MARK.join(PAYLOADS)

    def sent(path: str, button: str, **fields: str) -> None:
        opened(page, f"{stage.url}/console/{path}")
        for field, text in fields.items():
            place = page.locator(f"main [name={field}]").last
            place.evaluate("place => place.removeAttribute('maxlength')")  # which others than browsers do not keep to
            place.fill(text)
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.get_by_role("alert")).to_be_visible()
        assert page.locator(CODE).count() == 0
        for field, text in fields.items():
            expect(page.locator(f"main [name={field}]").last).to_have_value(text)

    with staged(pikku, db) as stage:
        stage.call(stage.engine.start(waits, run_id="waits"))
        page = looked_at(browser, stage, watched)
        sent("start?workflow=speaks", "Start", id=line, value=lines)
        sent("runs/waits/confirm/signal", "Send a signal", name=line, value=lines)
        sent("runs/waits/confirm/fork", "Fork", at=line, value=lines)

        async def refuse(_: Engine, __: str, reason: str) -> None:
            raise RunStateError(reason)

        monkeypatch.setattr(Engine, "cancel", refuse)
        sent("runs/waits/confirm/cancel", "Cancel", reason=line)
        expect(page.get_by_role("alert")).to_contain_text(clean(line))
        page.context.clear_cookies()
        for texts in groups(PAYLOADS, 250):
            to = f"/console/?q={quote(MARK.join(texts), safe='')}"
            page.goto(f"{stage.url}{to}")
            expect(page.locator("[name=to]")).to_have_value(to)
            assert page.locator(CODE).count() == 0
        page.get_by_label("Token").fill(line)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        assert page.locator(CODE).count() == 0
