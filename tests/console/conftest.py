"""A real browser for the tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, which `.ci/run` installs. While it is open, tests of coroutines cannot run in this thread."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


class Watched:
    """What a page does that it must not."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.expects_violations = False

    def watch(self, context: BrowserContext, page: Page, url: str) -> None:
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: self.wrong.append(f"error {error}"))
        page.on("request", lambda request: self._asked(request.url, url))
        page.on("console", lambda message: self._said(message.text))
        context.add_init_script(
            "addEventListener('securitypolicyviolation', e => console.error('VIOLATION ' + e.violatedDirective))"
        )

    def _asked(self, asked: str, url: str) -> None:
        if not asked.startswith((f"{url}/", "data:,", "about:", "blob:")):
            self.wrong.append(f"request {asked}")

    def _said(self, text: str) -> None:
        if not self.expects_violations and ("VIOLATION" in text or "Content Security Policy" in text):
            self.wrong.append(text)


@pytest.fixture
def watched() -> Iterator[Watched]:
    """At the end nothing was wrong."""
    found = Watched()
    yield found
    assert found.wrong == []
