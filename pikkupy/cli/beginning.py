"""`pikku init`: a small project that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pikkupy.cli.exits import Exit
from pikkupy.cli.places import AsJson
from pikkupy.cli.screen import Screen, say

APP = '''"""A workflow that waits for a person, and survives crashes while it does."""

from pikkupy import Decided, Pikku, Services, Workflow

pikku = Pikku()


@pikku.function
async def send_mail(services: Services, data: dict) -> str:
    """A step: it runs until its outcome is on disk, and never after that."""
    step = services.workflow_step
    services.logger.info("sending mail", to=data["to"], key=step.invocation_id if step else None)
    return f"sent to {data['to']}"


@pikku.workflow
async def onboarding(workflow: Workflow, email: str) -> str:
    """Kill the process at any line: it goes on there."""
    await workflow.do("Welcome", send_mail, {"to": email}, retries=3, retry_delay="1s")
    decision = await workflow.approval("account", bool, timeout="30d")
    if not (isinstance(decision, Decided) and decision.decision):
        workflow.cancel(f"no account for {email}")
    await workflow.sleep("Let it settle", "2s")
    return await workflow.do("Done", send_mail, {"to": email})
'''

GUIDE = """# A pikkupy project

While you write it, `pikku dev app:pikku app.db` runs it, shows its runs in a browser, and begins anew with each change.

Without that, run the engine, and leave it running:

    pikku run app:pikku app.db --app-dir . --log text

In another terminal:

    pikku start app.db onboarding -d '"ada@example.com"' --id ada
    pikku runs show app.db ada
    pikku runs approve app.db ada account -d true
    pikku runs tail app.db ada

Stop the engine at any time, with Ctrl-C or `kill -9`, and run it again: every run goes on where it was. Before new
code is deployed, `pikku check app.db app:pikku --app-dir .` says whether the runs that are recorded fit it.
"""

IGNORED = "*.db\n*.db-*\n*.db.*\n__pycache__/\n"

FILES = {"app.py": APP, "README.md": GUIDE, ".gitignore": IGNORED}


def init(
    folder: Annotated[Path, Parameter(name="FOLDER", help="A new folder, or one without these files.")] = Path(),
    /,
    *,
    json: AsJson = False,
) -> Exit:
    """Make a small project that runs: a workflow, and how to run it. Nothing is overwritten."""
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise FileExistsError(f"{folder / there[0]} is there already; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        with (folder / name).open("x", encoding="utf-8") as file:
            file.write(text)
    if json:
        Screen().json({"folder": str(folder), "files": list(FILES)})
    else:
        say(f"{folder / 'README.md'} says how to go on")
    return Exit.DONE
