"""The pictures of the console in docs/pictures: `python -m tests.console.pictures` makes them anew."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from pikkupy import Pikku, RunFailed, Workflow
from tests.console.conftest import CHROMIUM
from tests.console.stage import Stage, staged
from tests.http.shop import TOKEN

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
SIZE: Any = {"width": 1180, "height": 720}

pikku = Pikku()


@pikku.workflow
async def order(workflow: Workflow, data: dict[str, Any]) -> dict[str, Any]:
    """Take an order, charge the card, and ship it."""
    tries = 0

    def charge() -> dict[str, str]:
        nonlocal tries
        tries += 1
        if tries < 3 or data.get("card") == "declined":
            raise ConnectionError("the bank does not answer\nPOST /charges: timed out after 10 s")
        return {"charge": "ch_1PZ8"}

    await workflow.do("Reserve stock", lambda: {"shelf": 7})
    await workflow.do("Charge the card", charge, retries=3, retry_delay="400ms")
    await workflow.sleep("Wait for the courier", "900ms")
    if data.get("abroad"):
        await workflow.approval("Ship abroad", bool)
    return await workflow.do("Ship", lambda: {"tracking": "1Z 999 AA1"})


@pikku.workflow
async def newsletter(workflow: Workflow) -> int:
    """Write to everybody on Monday."""
    await workflow.sleep("Until Monday", "3d")
    return 0


async def work(stage: Stage) -> None:
    """Some runs of each kind."""
    engine = stage.engine
    await engine.start(newsletter, run_id="newsletter-48")
    started = []
    for number in range(9):
        data = {"customer": f"c-{number:03}", "total": 1990 + number, "abroad": number % 4 == 2}
        if number % 4 == 1:
            data["card"] = "declined"
        started.append(await engine.start(order, data, run_id=f"order-{1040 + number}", tags={"shop": "north"}))
        await asyncio.sleep(0.05)
    for handle in started:
        if handle.id not in ("order-1042", "order-1046"):
            try:
                await handle.result("30s")
            except RunFailed:
                pass
    await asyncio.sleep(1)
    await engine.cancel("order-1046", "the customer called")


def main() -> None:
    """Make them."""
    FOLDER.mkdir(exist_ok=True)
    with staged(pikku, ":memory:") as stage, sync_playwright() as playwright:
        stage.call(work(stage))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = browser.new_context(color_scheme=scheme, viewport=SIZE)  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(f"{stage.url}/console/#token={TOKEN}")
            page.wait_for_selector("table")
            page.screenshot(path=FOLDER / f"runs-{scheme}.png")
            page.goto(f"{stage.url}/console/runs/order-1042")
            page.wait_for_selector(".timeline")
            page.screenshot(path=FOLDER / f"run-{scheme}.png")
        browser.close()
    print(f"{datetime.now(UTC):%Y-%m-%d}: {', '.join(sorted(path.name for path in FOLDER.iterdir()))}")


if __name__ == "__main__":
    main()
