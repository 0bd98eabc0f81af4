"""S11, S12: a run as a file is read as data, and written where nothing is."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Pikku, Workflow
from tests.cli.shell import piped

SHOP = """
from pathlib import Path
from pikkupy import Pikku, Workflow

pikku = Pikku()

@pikku.workflow
async def order(workflow: Workflow, data: object) -> object:
    await workflow.do("Reserve", lambda: Path(__file__).with_name("effect").touch())
    return await workflow.do("Charge", lambda: Path(__file__).with_name("effect").touch())
"""

HOSTILE: list[Any] = [
    {"$t": "os:system", "v": ["touch pwned"]}, {"$t": "subprocess:Popen", "v": {"args": "touch pwned"}},
    {"$t": "builtins:eval", "v": "open('pwned','w')"}, {"$t": "pickle", "v": "Y29zCnN5c3RlbQ=="}, {"$t": {"$t": []}},
    {"$t": "pathlib:Path", "v": "../../etc/passwd"}, "\x1b]0;title\x07",
    {"__class__": "x", "__reduce__": ["os.system", "x"]},
]  # fmt: skip


@pytest.fixture
def bug(tmp_path: Path) -> Path:
    """An exported run of a shop that stands beside it."""

    async def live() -> None:
        pikku = Pikku()

        @pikku.workflow
        async def order(workflow: Workflow, data: object) -> object:
            await workflow.do("Reserve", lambda: 1)
            return await workflow.do("Charge", lambda: 2)

        async with pikku.open(tmp_path / "app.db") as engine:
            await engine.run(order, {"n": 1}, run_id="../../x")

    asyncio.run(live())
    (tmp_path / "shop.py").write_text(SHOP)
    out = tmp_path / "bug.pikku.json"
    assert piped("export", tmp_path / "app.db", "../../x", "-o", out).code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    return out


@pytest.mark.parametrize("number", range(len(HOSTILE)))
@pytest.mark.parametrize("place", ["run", "steps"])
def test_what_an_exported_run_says_is_not_done(bug: Path, number: int, place: str) -> None:
    """Its code is replayed, of the module that was named; nothing is executed, and no value chooses anything."""
    document = json.loads(bug.read_text())
    if place == "run":
        document["run"]["input"] = HOSTILE[number]
        document["run"]["workflow"] = "order"
    else:
        document["steps"][0]["output"] = HOSTILE[number]
    bug.write_text(json.dumps(document))
    done = piped("replay", bug, "shop:pikku", "--app-dir", bug.parent, cwd=bug.parent)
    assert done.code in (0, 1, 6), done.err
    assert "Traceback (most recent call last)" not in done.err
    assert "\x1b" not in done.out + done.err
    assert not (bug.parent / "effect").exists()
    assert not list(bug.parent.glob("pwned*"))


@pytest.mark.parametrize("name", ["os.system", "shop:effect", "__import__", "../../shop", "", "\x1b[2J"])
def test_an_exported_run_does_not_choose_its_code(bug: Path, name: str) -> None:
    """The workflow is looked for among those of the module that was named, by its exact name."""
    document = json.loads(bug.read_text())
    document["run"]["workflow"] = name
    bug.write_text(json.dumps(document))
    done = piped("replay", bug, "shop:pikku", "--app-dir", bug.parent, cwd=bug.parent)
    assert done.code != 0
    assert "\x1b" not in done.out + done.err
    assert not (bug.parent / "effect").exists()


@pytest.mark.parametrize("depth", [100, 100_000])
def test_nesting_ends_no_command_with_a_traceback(bug: Path, depth: int) -> None:
    text = bug.read_text()
    value = json.dumps(json.loads(text)["run"]["input"])
    assert value in json.dumps(json.loads(text))
    bug.write_text(json.dumps(json.loads(text)).replace(value, "[" * depth + "]" * depth, 1))
    done = piped("replay", bug, "shop:pikku", "--app-dir", bug.parent, cwd=bug.parent)
    assert done.code in (0, 1, 6), done.err
    assert "Traceback (most recent call last)" not in done.err


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")
def test_an_export_takes_no_place_and_follows_no_link(bug: Path) -> None:
    """Whatever the id of the run looks like, the file is where it was told to be."""
    there = bug.read_text()
    taken = piped("export", bug.parent / "app.db", "../../x", "-o", bug)
    assert (taken.code, bug.read_text()) == (5, there)
    link, target = bug.parent / "link.json", bug.parent / "target"
    link.symlink_to(target)
    assert piped("export", bug.parent / "app.db", "../../x", "-o", link).code != 0
    assert not target.exists()
    assert not (bug.parent.parent.parent / "x").exists()
