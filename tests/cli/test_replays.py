"""A run as a file, and what other code makes of it: `pikku export`, `replay` and `check`."""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import stat
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Pikku, PikkuError, RunFailed, Workflow, __version__
from pikkupy.engine.exporting import document_of, recorded_of
from pikkupy.engine.looking import Look
from pikkupy.engine.replaying import Fits, Replay
from pikkupy.errors import JournalFormatError
from pikkupy.testing import VirtualClock
from tests.cli.shell import Ended, command, environment, piped, unread

SHOP = """
from pathlib import Path
from pikkupy import Pikku, Workflow

pikku = Pikku()

def effect(name):
    Path(__file__).with_name("effects").open("a").write(f"{name}\\n")
    return name

@pikku.workflow
async def order(workflow: Workflow, data: dict) -> str:
    await workflow.do("Reserve", lambda: effect("reserve"))
    await workflow.do("Charge", lambda: effect("charge"), retries=1)
    await workflow.sleep("Wait", "1d")
    return "sent"

def hide(text):
    return text.replace("secret", "***")

def nothing(text):
    return ""

def fails(text):
    raise RuntimeError("no")

async def later(text):
    return text

def absent(text):
    return None
"""
CHANGED = SHOP.replace('"Charge"', '"Charge card"')
BROKEN = SHOP.replace('    return "sent"', '    raise ValueError("new bug")')
MORE = SHOP.replace('    return "sent"', '    await workflow.do("Mail", lambda: None)\n    return "sent"')


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has completed, one that has failed, one that sleeps, one that was cancelled."""
    path = tmp_path_factory.mktemp("replays") / "app.db"
    asyncio.run(_fill(path))
    return path


async def _fill(path: Path) -> None:
    pikku, clock = Pikku(), VirtualClock(autojump=False)

    @pikku.workflow
    async def order(workflow: Workflow, data: dict[str, Any]) -> str:
        def charge() -> str:
            if data.get("card") == "bad":
                raise ValueError("the secret bank says no")
            return "charge"

        await workflow.do("Reserve", lambda: "reserve")
        await workflow.do("Charge", charge, retries=1)
        await workflow.sleep("Wait", "1d")
        return "sent"

    async with pikku.open(path, clock=clock) as engine:
        done = await engine.start(order, {"card": "secret card", "n": 1, "secret a": 2, "secret b": 3}, run_id="done")
        with suppress(RunFailed):
            await engine.run(order, {"card": "bad"}, run_id="failed")
        await clock.advance("1d")
        await done.result()
        await engine.start(order, {"card": "good"}, run_id="gone", delay="1h")  # it does not begin
        await engine.cancel("gone", "no need: it is secret")
        await engine.start(order, {"card": "good"}, run_id="asleep")
        while len(await engine.steps("asleep")) < 3:
            await asyncio.sleep(0)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def check(journal: Path, shop: Path, *more: str) -> Ended:
    return piped("check", journal, "shop:pikku", "--app-dir", shop, *more, cwd=shop)


def exported(journal: Path, shop: Path, run_id: str) -> Path:
    out = shop / f"{run_id}.pikku.json"
    assert piped("export", journal, run_id, "-o", out).code == 0
    return out


def test_a_run_is_exported_as_people_can_read_it(journal: Path, shop: Path) -> None:
    """For its owner alone; nothing is overwritten."""
    out = exported(journal, shop, "done")

    document = json.loads(out.read_text())
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert document["run"]["input"] == {"card": "secret card", "n": 1, "secret a": 2, "secret b": 3}
    assert document["run"]["output"] == "sent"
    assert [(step["name"], step["status"]) for step in document["steps"]] == [
        ("Reserve", "succeeded"),
        ("Charge", "succeeded"),
        ("Wait", "succeeded"),
    ]
    assert set(document["versions"]) == {"pikkupy", "python"}
    again = piped("export", journal, "done", "-o", out)
    assert (again.code, json.loads(out.read_text())) == (5, document)
    assert "is there already" in again.err
    assert json.loads(piped("export", journal, "done").out)["run"] == document["run"]
    told = piped("export", journal, "done", "-o", shop / "again.json", "--json")
    assert json.loads(told.out) == {"run": "done", "out": str(shop / "again.json"), "steps": 3}


@pytest.mark.parametrize("run_id", ["done", "failed", "asleep", "gone"])
async def test_what_is_exported_is_what_is_recorded(run_id: str, journal: Path, shop: Path) -> None:
    """I-49: every field of it; and what was read is exported again byte for byte."""
    async with Look(journal) as look:
        recorded, attempts = await look.recorded(run_id)
    out = exported(journal, shop, run_id)

    back = recorded_of(out.read_bytes(), out.name)
    at = datetime.fromisoformat(json.loads(out.read_text())["exported_at"])
    assert document_of(back, attempts, at, __version__) == out.read_bytes()

    for field in ("run", "steps", "timers", "signals", "set_aside", "changes"):
        assert getattr(back, field) == getattr(recorded, field)


async def test_what_is_not_printable_is_exported_as_escapes(tmp_path: Path) -> None:
    """As on a terminal; what is read of it is what was recorded, so that a replay finds what it looks for."""
    nasty = "\x7f\x9b2J\u202e\u200b\U000e0041\x1b ä 😀 \\u009b"
    pikku = Pikku()

    @pikku.workflow
    async def echo(workflow: Workflow, data: dict[str, float]) -> dict[str, float]:
        return await workflow.do("look", lambda: data)

    async with pikku.open(tmp_path / "app.db") as engine:
        await engine.run(echo, {nasty: 1e300, "other": -0.0}, run_id="r")
    async with Look(tmp_path / "app.db") as look:
        recorded, attempts = await look.recorded("r")
    text = document_of(recorded, attempts, datetime.now(UTC), __version__).decode()

    assert text.replace("\n", "").isprintable()
    assert json.loads(text)["run"]["input"] == {nasty: 1e300, "other": -0.0}
    back = recorded_of(text.encode(), "bug.json")
    assert (back.run, back.steps) == (recorded.run, recorded.steps)


def test_secrets_can_be_taken_out(journal: Path, shop: Path) -> None:
    """Of values with their keys, of errors and of reasons, by a function of the application."""
    for run_id in ("done", "failed", "gone"):
        told = piped("export", journal, run_id, "--redact", "shop:hide", "--app-dir", shop)
        assert told.code == 0
        assert "***" in told.out and "secret" not in told.out


def test_nothing_is_left_out_where_secrets_are(journal: Path, shop: Path) -> None:
    """Two keys that are the same without their secrets are still two."""
    told = piped("export", journal, "done", "--redact", "shop:nothing", "--app-dir", shop)

    assert json.loads(told.out)["run"]["input"] == {"": "", "#2": 1, "#3": 2, "#4": 3}


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("pikku", 2, "shop:pikku is no function"),
        ("fails", 1, "shop:fails raised RuntimeError: no; nothing was written"),
        ("later", 1, "shop:later gave coroutine, not a text; nothing was written"),
        ("absent", 1, "shop:absent gave NoneType, not a text; nothing was written"),
    ],
)
def test_what_takes_no_secrets_out_ends_the_command(name: str, code: int, said: str, journal: Path, shop: Path) -> None:
    """It would be no use to leave the texts out that it was given: what is exported is to be replayed."""
    out = shop / "out.json"
    told = piped("export", journal, "done", "-o", out, "--redact", f"shop:{name}", "--app-dir", shop)

    assert (told.code, told.out) == (code, "")
    assert told.err.splitlines()[0] == f"pikku: --redact: {said}"
    assert not out.exists()


NEWER = {"pikku_run": 99, "exported_at": "2026-01-01T00:00:00Z", "versions": {}, "run": {}, "steps": []}


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(NEWER), "\xff"])
def test_what_is_no_export_is_refused(text: str) -> None:
    """With the name of the file."""
    with pytest.raises(JournalFormatError, match=r"^bug\.json is "):
        recorded_of(text.encode("latin-1"), "bug.json")


@pytest.mark.parametrize("change", [{"status": "no"}, {"number": "x"}, {"input": None}, {"more": 1}, {"run_id": 3}])
def test_a_changed_export_is_checked_field_by_field(change: dict[str, Any], journal: Path, shop: Path) -> None:
    document = json.loads(exported(journal, shop, "done").read_text())
    document["run"] |= change
    try:
        recorded_of(json.dumps(document).encode(), "bug.json")
    except JournalFormatError:
        return
    assert change in ({"more": 1}, {"input": None})  # a field that nobody knows, and JSON's null, which is a value


CASES = [
    (SHOP, "done", 0, "yes", "ends as it did: completed with"),
    (SHOP, "failed", 0, "yes", "ends as it did: failed with ValueError: the secret bank says no"),
    (SHOP, "asleep", 0, "yes", "goes on: asks for 'Wait'"),
    (SHOP, "gone", 0, "yes", "as it was cancelled"),
    (CHANGED, "done", 6, "no", "ReplayMismatch: step 1: recorded 'Charge' (inline)"),
    (CHANGED, "asleep", 6, "no", "asked for 'Charge card' (inline) at "),
    (BROKEN, "done", 1, "otherwise", "now: failed with ValueError: new bug"),
    (MORE, "done", 1, "otherwise", "it has completed, and now goes on: asks for 'Mail'"),
    (MORE, "asleep", 0, "yes", "goes on: asks for 'Wait'"),
    (SHOP.replace("order", "other"), "done", 4, "missing", "no workflow 'order' is registered"),
]


@pytest.mark.parametrize(("code", "run_id", "exit_code", "fits", "what"), CASES, ids=range(len(CASES)))
def test_a_run_is_replayed_against_other_code(
    code: str, run_id: str, exit_code: int, fits: str, what: str, journal: Path, shop: Path
) -> None:
    """It stops where it differs; nothing is executed."""
    (shop / "shop.py").write_text(code)
    out = exported(journal, shop, run_id)

    done = piped("replay", out, "shop:pikku", "--app-dir", shop)
    told = json.loads(piped("replay", out, "shop:pikku", "--app-dir", shop, "--json").out)

    assert done.code == exit_code, done.err
    assert done.out.split("\t")[:2] == [run_id, fits]
    assert what in done.out
    assert (told["fits"], told["run_id"]) == (fits, run_id)
    assert not (shop / "effects").exists()


def test_a_failure_is_looked_at_in_the_debugger(journal: Path, shop: Path) -> None:
    """Where the workflow's own code stands. What it has raised does not drive the terminal."""
    (shop / "shop.py").write_text(BROKEN.replace('"new bug"', '"new bug" + chr(0x9B)'))
    out = exported(journal, shop, "done")
    done = subprocess.run(
        command("replay", out, "shop:pikku", "--app-dir", shop, "--pdb"),
        input=b"p workflow.run_id\nq\n",
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert b"ValueError: new bug\\x9b\n" in done.stderr
    assert b'raise ValueError("new bug" + chr(0x9B))' in done.stdout
    assert b"'done'" in done.stdout


def test_the_debugger_opens_where_the_code_asks_for_another_step(journal: Path, shop: Path) -> None:
    """At the user's own line, not at what that has called; where nothing was raised that is said."""
    (shop / "shop.py").write_text(CHANGED)
    arguments = ("replay", exported(journal, shop, "done"), "shop:pikku", "--app-dir", shop, "--pdb")
    done = subprocess.run(
        command(*arguments), input=b"p workflow.run_id\nq\n", capture_output=True, env=environment(), check=False
    )
    assert (done.returncode, done.stderr) == (6, b"")
    assert b'-> await workflow.do("Charge card"' in done.stdout
    assert b"'done'" in done.stdout
    (shop / "shop.py").write_text(SHOP)
    assert "no line to look at" in piped(*arguments).err


def test_a_journal_is_checked_before_a_deploy(journal: Path, shop: Path) -> None:
    """The first difference of each run that has one, and an exit code; the file is as it was."""
    before = journal.read_bytes()
    well = check(journal, shop)
    assert (well.code, well.out) == (0, "")
    assert "replayed 4 runs, 0 differ" in well.err
    (shop / "shop.py").write_text(CHANGED)
    differ = check(journal, shop)
    assert differ.code == 6
    assert [line[0] for line in differ.lines] == ["asleep", "failed", "done"]  # `gone` had not come so far
    told = json.loads(check(journal, shop, "--json", "--unfinished").out)
    assert (told["runs"], [one["run_id"] for one in told["differ"]]) == (1, ["asleep"])
    (shop / "shop.py").write_text(MORE)
    assert (check(journal, shop).code, check(journal, shop, "--unfinished").code) == (1, 0)
    (shop / "shop.py").write_text("from pikkupy import Pikku\npikku = Pikku()\n")
    assert check(journal, shop).code == 4
    assert journal.read_bytes() == before
    assert not (shop / "effects").exists()


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_a_gate_does_not_open_because_nobody_reads_what_it_says(
    journal: Path, shop: Path, how: tuple[str, ...]
) -> None:
    """The work is done to its end, and the exit code says what came of it."""
    (shop / "shop.py").write_text(CHANGED)
    code = ("shop:pikku", "--app-dir", ".", *how)

    checked = unread("check", journal, *code, cwd=shop)

    assert (checked.code, checked.err) == (6, "pikku: replayed 4 runs, 3 differ\n")
    assert unread("replay", exported(journal, shop, "done"), *code, cwd=shop).code == 6
    assert unread("doctor", journal, *code, cwd=shop).code == 1


def test_the_gate_replays_what_comes_after_its_reader_has_gone(tmp_path: Path) -> None:
    """So many differences that they are written while it works."""
    pikku = Pikku()

    @pikku.workflow
    async def gone(workflow: Workflow) -> None:
        """Is there no more."""

    async def fill() -> None:
        async with pikku.open(tmp_path / "app.db") as engine:
            for number in range(120):
                await engine.run(gone, run_id=f"{number} {'long' * 40}")

    asyncio.run(fill())
    (tmp_path / "shop.py").write_text(SHOP)
    done = unread("check", "app.db", "shop:pikku", "--app-dir", ".", cwd=tmp_path)
    assert (done.code, done.err) == (4, "pikku: replayed 120 runs, 120 differ\n")


async def test_a_run_that_was_cancelled_fits_the_code_that_it_waited_in(tmp_path: Path) -> None:
    """Whatever it waited for; and other code is still told apart."""
    pikku, clock = Pikku(), VirtualClock()

    async def waits(workflow: Workflow, what: str) -> None:
        match what:
            case "signal":
                await workflow.wait_for_signal("go")
            case "sleep":
                await workflow.sleep("nap", "1d")
            case "gate":
                await workflow.suspend("closed")
            case "approval":
                await workflow.approval("ok", bool, timeout="1d")
            case "child":
                await workflow.do("part", "waits", "signal")
            case "retry":
                await workflow.do("fails", lambda: 1 / 0, retries=9, retry_delay="1h")
            case "step":
                await workflow.do("hangs", asyncio.Event().wait)
            case _:
                await asyncio.gather(*(workflow.sleep(f"nap {n}", f"{n}d") for n in range(1, 4)))

    pikku.workflow(waits)
    kinds = ["signal", "sleep", "gate", "approval", "child", "retry", "step", "several"]
    async with pikku.open(tmp_path / "app.db", clock=clock) as engine:
        for kind in kinds:
            await engine.start("waits", kind, run_id=kind)
        await clock.advance("1s")
        for kind in kinds:
            await engine.cancel(kind, "no need")
            assert (await engine.steps(kind))[0].status == "cancelled", kind

    other = Pikku()

    @other.workflow(name="waits")
    async def asks_for_something_else(workflow: Workflow, what: str) -> None:
        await workflow.do(what, lambda: None)

    async with Look(tmp_path / "app.db") as look:
        async for recorded in look.all_recorded(None):
            replayed = await Replay(recorded, pikku).run()
            assert (replayed.fits, replayed.what) == (Fits.YES, "as it was cancelled"), replayed
            assert (await Replay(recorded, other).run()).fits is Fits.NO


def test_doctor_replays_unfinished_runs_against_the_code_that_it_is_given(journal: Path, shop: Path) -> None:
    """Those that do not fit are bad, and named."""
    well = piped("doctor", journal, "shop:pikku", "--app-dir", shop)
    (shop / "shop.py").write_text(CHANGED)
    differ = piped("doctor", journal, "shop:pikku", "--app-dir", shop, "--json")

    assert well.lines[-1][:3] == ["ok", "code", "all 1 unfinished runs fit it"]
    told = json.loads(differ.out)["checks"][-1]
    assert (differ.code, told["name"], told["level"]) == (1, "code", "bad")
    assert told["finding"] == "1 of 1 unfinished runs do not fit it: 'asleep'"
    assert not (shop / "effects").exists()


def test_what_cannot_be_is_said(journal: Path, shop: Path) -> None:
    """Before anything is done."""
    assert piped("export", journal, "nobody").code == 4
    assert piped("check", journal, "shop:hide", "--app-dir", shop).code == 2
    (shop / "no.json").write_text("{}")
    done = piped("replay", shop / "no.json", "shop:pikku", "--app-dir", shop)
    assert done.code == 1
    assert "no.json is no run that `pikku export` has written" in done.err
    assert issubclass(JournalFormatError, PikkuError)
    nothing = piped("replay", "nothing.json", "shop:pikku", "--app-dir", shop, cwd=shop)
    assert (nothing.code, nothing.err) == (4, "pikku: 'nothing.json' does not exist\n")
    folder = piped("replay", ".", "shop:pikku", "--app-dir", shop, cwd=shop)
    assert (folder.code, folder.err) == (1, "pikku: . is a directory; give the name of a file\n")


LARGER = """
from pikkupy import Encoded, Pikku, Workflow

pikku = Pikku()

class Backwards:
    def encode(self, text, context):
        return Encoded("k", text[::-1].encode())

    def decode(self, encoded, context):
        return encoded.data.decode()[::-1]

class Shop:
    extra = "a ribbon"

@pikku.workflow
async def order(workflow: Workflow, data: str) -> str:
    await workflow.do("Pack", lambda: workflow.services.extra)
    await workflow.do(f"Add {workflow.services.extra}", lambda: "added")
    await workflow.sleep("Wait", "1d")
    return data

def make():
    return pikku.open("made.db", services=Shop(), payload_codec=Backwards())

def itself():
    return pikku

opened = make()
member = pikku.open("made.db", services=Shop(), payload_codec=Backwards(), role="auto")
"""


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an application with services and a payload codec, with a journal of a run that sleeps."""
    folder = tmp_path_factory.mktemp("larger")
    (folder / "larger.py").write_text(LARGER)
    made = runpy.run_path(str(folder / "larger.py"))

    async def fill() -> None:
        engine = made["pikku"].open(folder / "app.db", services=made["Shop"](), payload_codec=made["Backwards"]())
        async with engine:
            await engine.start("order", "canary", run_id="asleep")
            while len(await engine.steps("asleep")) < 3:
                await asyncio.sleep(0)

    asyncio.run(fill())
    return folder


@pytest.mark.parametrize("target", ["larger:make", "larger:opened", "larger:member"])
def test_runs_are_replayed_with_the_services_and_the_codec_of_an_engine(larger: Path, target: str) -> None:
    """Or of what makes one, which is not opened: nothing of it is begun."""
    assert piped("check", "app.db", target, "--app-dir", ".", cwd=larger) == (
        0,
        "",
        "pikku: replayed 1 run, 0 differ\n",
    )
    assert not list(larger.glob("made.db*"))


def test_an_encoded_run_is_exported_and_replayed(larger: Path) -> None:
    """With the codec of the engine that is named; the file is plain."""
    code = ("larger:make", "--app-dir", ".")
    assert ["ok", "code", "all 1 unfinished runs fit it", ""] in piped("doctor", "app.db", *code, cwd=larger).lines
    assert piped("export", "app.db", "asleep", "--target", *code, "-o", "run.json", cwd=larger).code == 0

    replayed = piped("replay", "run.json", *code, cwd=larger)

    assert (replayed.code, replayed.out) == (0, "asleep\tyes\tgoes on: asks for 'Wait'\n")
    assert json.loads((larger / "run.json").read_text())["run"]["input"] == "canary"
    assert not list(larger.glob("made.db*"))


def test_what_a_target_lacks_is_said(larger: Path) -> None:
    """A Pikku has no payload codec and no services; the cure is an engine."""
    encoded = piped("check", "app.db", "larger:itself", "--app-dir", ".", cwd=larger)
    assert encoded.code == 1
    assert "there is no codec for it here; use an engine with its payload_codec=, in a command as its TARGET" in (
        encoded.err
    )
    refused = piped("export", "app.db", "asleep", cwd=larger)
    assert (refused.code, refused.out) == (1, "")
    assert "in a command as its TARGET" in refused.err

    piped("export", "app.db", "asleep", "--target", "larger:make", "--app-dir", ".", "-o", "lacks.json", cwd=larger)
    told = piped("replay", "lacks.json", "larger:pikku", "--app-dir", ".", cwd=larger)
    assert told.code == 6
    assert "'NoneType' object has no attribute 'extra'" in told.out
    assert "there are no services here; if the application has some, name its engine as TARGET" in told.out


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("larger:Backwards", "larger:Backwards is a class: use a Pikku, as larger:pikku is"),
        ("json:dumps", "json:dumps takes arguments: use a Pikku"),
    ],
)
def test_a_target_that_is_no_application_is_refused(larger: Path, target: str, said: str) -> None:
    done = piped("check", "app.db", target, "--app-dir", ".", cwd=larger)
    assert (done.code, done.err) == (2, f"pikku: {said}\n")


GATED = """
@pikku.workflow
async def gated(workflow: Workflow) -> None:
    await workflow.do("Look", lambda: None)
    await workflow.suspend("a secret gate")
"""


async def test_names_stay_and_that_is_said(tmp_path: Path) -> None:
    """The reason of a gate is the name of its step, by which a replay finds it."""
    (tmp_path / "shop.py").write_text(SHOP + GATED)
    pikku = Pikku()

    @pikku.workflow
    async def gated(workflow: Workflow) -> None:
        await workflow.do("Look", lambda: None)
        await workflow.suspend("a secret gate")

    async with pikku.open(tmp_path / "app.db") as engine:
        await engine.start(gated, run_id="gated")
        while (await engine.get_run("gated")).status != "suspended":
            await asyncio.sleep(0)
    code = ("--app-dir", tmp_path)

    told = piped("export", tmp_path / "app.db", "gated", "--redact", "shop:hide", *code, "-o", tmp_path / "run.json")

    assert told.code == 0
    assert "pikku: --redact leaves names as they are, also those of the steps at positions 1: " in told.err
    document = json.loads((tmp_path / "run.json").read_text())
    assert [step["name"] for step in document["steps"]] == ["Look", "a secret gate"]
    assert piped("replay", tmp_path / "run.json", "shop:pikku", *code).out.startswith("gated\tyes\t")


def test_only_a_regular_file_of_some_size_is_read(tmp_path: Path) -> None:
    """It is looked at before: what never ends, or takes all memory, is refused, with the option that lets it in."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(256_000_001)
    os.mkfifo(tmp_path / "pipe")
    for name, said in (
        ("/dev/zero", "it is no regular file"),
        (str(tmp_path / "pipe"), "it is no regular file"),
        (str(large), "it has 257 MB, more than 256 are not read; if it is meant: --max-size 257"),
    ):
        done = piped("replay", name, "shop:pikku", cwd=tmp_path)
        assert (done.code, done.err) == (2, f"pikku: {name}: {said}" + done.err.partition(said)[2]), done.err
    large.write_bytes(bytes(1_000_001))
    assert "--max-size 2" in piped("replay", large, "shop:pikku", "--max-size", "1", cwd=tmp_path).err
    let_in = piped("replay", large, "shop:pikku", "--max-size", "2", cwd=tmp_path)
    assert let_in.code != 2 and "has written" in let_in.err
