"""Commands that act, on an engine in another process."""

from __future__ import annotations

import asyncio
import getpass
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Client, EngineClosed, Pikku, Workflow
from pikkupy.cli.app import run
from tests.children import child
from tests.cli.shell import ROOT, Ended, asked, command, environment, minds_ctrl_c, on_terminal, piped, unread
from tests.journals import application, contents, fill

ENGINE = """
import asyncio, sys
import msgspec
from pikkupy import Decided, Pikku, StepFailed, Workflow

pikku = Pikku()

class Order(msgspec.Struct):
    number: int

@pikku.workflow
async def order(workflow: Workflow, data: Order) -> Order:
    return data

@pikku.workflow
async def double(workflow: Workflow, data: int) -> int:
    return await workflow.do("double", lambda: 2 * data)

@pikku.workflow
async def echo(workflow: Workflow, data: int | None) -> int | None:
    return await workflow.do("echo", lambda: data)

@pikku.workflow
async def wait(workflow: Workflow):
    return await workflow.wait_for_signal("go")

@pikku.workflow
async def count(workflow: Workflow) -> int:
    return await workflow.wait_for_signal("number", int)

@pikku.workflow
async def above(workflow: Workflow) -> str:
    try:
        await workflow.do("below", wait)
    except StepFailed:
        return "made up for"
    return "went well"

@pikku.workflow
async def ask(workflow: Workflow):
    decision = await workflow.approval("ok", bool)
    return decision.decision if isinstance(decision, Decided) else None

@pikku.workflow
async def gate(workflow: Workflow) -> str:
    await workflow.suspend("look")
    return "open"

broken = True

@pikku.workflow
async def fail(workflow: Workflow) -> str:
    def body() -> str:
        if broken:
            raise ValueError("broken\\x1b[31m")
        return "mended"
    return await workflow.do("body", body)

@pikku.workflow
async def mend(workflow: Workflow, data: bool) -> None:
    def body() -> None:
        global broken
        broken = not data
    await workflow.do("mend", body)

async def main() -> None:
    async with pikku.open(sys.argv[1], shutdown_grace=0):
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file that an engine has open."""
    path = tmp_path_factory.mktemp("steering") / "app.db"
    with child(
        [sys.executable, "-c", ENGINE, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(PYTHONPATH=str(ROOT)),
    ) as engine:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"open\n"
        yield path
        assert engine.stdin is not None
        engine.stdin.close()
        assert engine.wait(20) == 0


@pytest.fixture
def pikku(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, journal: Path) -> Iterator[Any]:
    """A command in this process, its output captured as by a pipe; PIKKU_DB has the file."""
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIKKU_DB", str(journal))

    def call(*arguments: object) -> Ended:
        code = run([str(one) for one in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    yield call


def status(pikku: Any, run_id: str) -> str:
    return str(json.loads(pikku("runs", "show", run_id, "--json").out)["run"]["status"])


def test_a_run_is_started_and_its_id_printed(pikku: Any) -> None:
    """The id that was given; the same again is the same run, another input is a conflict."""
    assert pikku("start", "double", "-d", "21", "--id", "one", "--tag", "by=hand") == (0, "one\n", "")
    assert pikku("start", "double", "-d", "21", "--id", "one", "--json").out == '{\n  "id": "one"\n}\n'
    refused = pikku("start", "double", "-d", "22", "--id", "one")
    assert (refused.code, refused.out) == (5, "")
    assert "'one' of workflow 'double' exists with another input" in refused.err


def test_a_run_is_waited_for(pikku: Any, tmp_path: Path) -> None:
    """Its output is printed, and how it has ended is the exit code."""
    done = pikku("start", "double", "--data", "21", "--id", "w1", "--wait")
    assert (done.code, done.out, done.err) == (0, "42\n", "pikku: run w1 is on disk\n")
    (tmp_path / "input.json").write_text("4")
    assert pikku("start", "double", "-d", f"@{tmp_path / 'input.json'}", "--wait").out == "8\n"
    failed = pikku("start", "fail", "--id", "w2", "--wait", "--json")
    assert (failed.code, json.loads(failed.out)["error"]["type"]) == (1, "ValueError")
    assert "\x1b" not in failed.out + failed.err
    late = pikku("start", "wait", "--timeout", "1ms")
    assert late.code == 124
    assert "has not ended within 0.001 s; it goes on" in late.err


def test_who_waits_for_a_run_is_told_if_it_is_suspended(pikku: Any, journal: Path) -> None:
    """It would be silent for ever otherwise."""
    with child(
        command("start", journal, "gate", "--id", "shut in", "--wait"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as waits:
        assert waits.stderr is not None and waits.stdout is not None
        assert waits.stderr.readline() == "pikku: run shut in is on disk\n"
        said = "pikku: run shut in is suspended: look; `pikku runs resume` lets it go on\n"
        assert waits.stderr.readline() == said
        assert pikku("runs", "resume", "shut in").code == 0
        assert (waits.wait(20), waits.stdout.read(), waits.stderr.read()) == (0, '"open"\n', "")


def test_an_output_of_a_class_that_only_the_application_has_is_shown_plainly(pikku: Any) -> None:
    """The run has completed, and so has the command."""
    done = pikku("start", "order", "-d", '{"number": 7}', "--id", "o1", "--wait")
    assert (done.code, json.loads(done.out), done.err) == (0, {"number": 7}, "pikku: run o1 is on disk\n")
    told = pikku("start", "order", "-d", '{"number": 7}', "--wait", "--json")
    assert (told.code, told.err) == (0, "")
    assert (json.loads(told.out)["status"], json.loads(told.out)["output"]) == ("completed", {"number": 7})


def test_an_input_comes_from_standard_input(journal: Path) -> None:
    done = subprocess.run(
        command("start", journal, "double", "-d", "-", "--wait"),
        input=b"5",
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"10\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("start", "nothing"), 4, "nothing"),
        (("start", "double", "-d", "no json"), 2, "a text needs quotes"),
        (("start", "double", "-d", '"text"'), 2, "input of workflow 'double'"),
        (("start", "double"), 2, "give its input with --data"),
        (("start", "order", "-d", '{"number": 1, "numbr": 2}'), 2, "Order has no field 'numbr'; it has: 'number'"),
        (("start", "double", "-d", '"text"', "--wait"), 2, "input of workflow 'double'"),
        (("start", "double", "-d", "@/nowhere"), 2, "@/nowhere: No such file"),
        (("runs", "cancel", "nobody"), 4, "no run with the id 'nobody'"),
        (("runs", "cancel"), 2, "which run?"),
        (("runs", "resume", "one"), 5, "completed"),
        (("prune", "--older-than", "soon"), 2, "soon"),
    ],
)
def test_what_cannot_be_is_said(arguments: tuple[str, ...], code: int, said: str, pikku: Any) -> None:
    """With an exit code of its own."""
    pikku("start", "double", "-d", "21", "--id", "one", "--wait")
    ended = pikku(*arguments)
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err


def test_whoever_sends_a_signal_hears_if_nothing_waits_for_it(pikku: Any) -> None:
    """It is kept then; a name that is misspelt would not be noticed otherwise."""
    assert pikku("start", "wait", "--id", "hears").code == 0
    while not json.loads(pikku("runs", "show", "hears", "--json").out)["steps"]:
        pass
    kept = pikku("runs", "signal", "hears", "gone")
    assert kept.err == (
        "pikku: signal 'gone' was sent to run 'hears'; no step waits for it: it is kept for the next that does\n"
    )
    assert pikku("runs", "signal", "hears", "go").err == "pikku: signal 'go' was sent to run 'hears'\n"
    assert pikku("runs", "tail", "hears").code == 0


def test_who_names_no_run_hears_of_filters(pikku: Any) -> None:
    """They are the other way to say which."""
    done = pikku("runs", "cancel", "--yes")
    assert done.code == 2 and "for all that fit give filters, as --workflow or --status" in done.err


def test_a_signal_that_is_a_decision_or_does_not_fit_is_refused(pikku: Any) -> None:
    """The run waits on, and the message says what helps."""
    for name, workflow in {"counts": "count", "asks": "ask"}.items():
        assert pikku("start", workflow, "--id", name).code == 0
        while not json.loads(pikku("runs", "show", name, "--json").out)["steps"]:
            pass
    unfit = pikku("runs", "signal", "counts", "number", "-d", '"x"')
    assert unfit.code == 2 and "payload of signal 'number' for run 'counts': $: " in unfit.err
    forged = pikku("runs", "signal", "asks", "ok", "-d", '{"decision": true, "decided_by": "the boss"}')
    assert forged.code == 5 and "`pikku runs approve`" in forged.err
    assert pikku("runs", "signal", "counts", "number", "-d", "1").code == 0
    assert pikku("runs", "tail", "counts").code == 0
    assert pikku("runs", "approve", "asks", "ok", "-d", "true").code == 0


def test_runs_are_steered(pikku: Any) -> None:
    """Signal, decision, gate, cancel, fork, delete."""
    for name, workflow in {"s": "wait", "a": "ask", "g": "gate", "c": "wait"}.items():
        assert pikku("start", workflow, "--id", name).code == 0
    assert json.loads(pikku("runs", "signal", "s", "go", "-d", "[1]", "--json").out) == {
        "done": ["s"],
        "failed": [],
        "left": 0,
    }
    assert pikku("runs", "tail", "s").code == 0
    assert json.loads(pikku("runs", "show", "s", "--json").out)["run"]["output"] == [1]
    while not json.loads(pikku("runs", "show", "a", "--json").out)["steps"]:
        pass
    asked = pikku("runs", "approvals", "a", "--json")
    assert (asked.code, json.loads(asked.out)) == (0, {"ok": {"type": "boolean"}})
    assert pikku("runs", "approvals", "a").out == 'ok\t{"type":"boolean"}\n'
    assert pikku("runs", "approvals", "c").err == "pikku: run 'c' waits for no decision\n"
    assert pikku("runs", "approve", "a", "ok", "-d", '"perhaps"').code == 2
    approved = pikku("runs", "approve", "a", "ok", "-d", "true", "--by", "ada", "--json")
    assert (approved.code, json.loads(approved.out)) == (0, {"done": ["a"], "failed": [], "left": 0})
    assert pikku("runs", "tail", "a").code == 0
    while status(pikku, "g") != "suspended":
        pass
    assert pikku("runs", "resume", "g").code == 0
    assert pikku("runs", "tail", "g").code == 0
    assert pikku("runs", "cancel", "c", "--reason", "no need").code == 0
    cancelled = pikku("runs", "tail", "c", "--jsonl")
    assert cancelled.code == 3
    assert [json.loads(line)["kind"] for line in cancelled.out.splitlines()][-1] == "run_ended"
    forked = pikku("runs", "fork", "s", "--at", "go", "--id", "f")
    assert (forked.code, forked.out) == (0, "f\n")
    assert pikku("runs", "cancel", "f").code == 0
    assert (
        pikku("runs", "delete", "f", "--json").out == '{\n  "done": [\n    "f"\n  ],\n  "failed": [],\n  "left": 0\n}\n'
    )
    assert pikku("runs", "show", "f").code == 4


def test_null_is_a_value(pikku: Any) -> None:
    """Of a fork it is another input; a decision has to be given, as it cannot be taken back."""
    pikku("start", "echo", "-d", "1", "--id", "echo-1", "--wait")
    for name, data in {"null": ("-d", "null"), "same": (), "other": ("-d", "2")}.items():
        assert pikku("runs", "fork", "echo-1", "--at", "echo", *data, "--id", f"echo-{name}").code == 0
    inputs = [
        json.loads(pikku("runs", "show", f"echo-{name}", "--json").out)["run"]["input"]
        for name in ("null", "same", "other")
    ]
    assert inputs == [None, 1, 2]

    pikku("start", "ask", "--id", "undecided")
    refused = pikku("runs", "approve", "undecided", "ok")
    assert (refused.code, refused.out) == (2, "")
    assert "what is decided of 'ok'? Give --data" in refused.err
    assert pikku("runs", "approve", "undecided", "ok", "-d", "true").code == 0
    assert pikku("runs", "tail", "undecided").code == 0
    [step] = json.loads(pikku("runs", "show", "undecided", "--json").out)["steps"]
    assert step["output"] == [True, getpass.getuser()]


def test_many_runs_are_steered_at_once(pikku: Any, journal: Path) -> None:
    """Those that fit, if that is confirmed; what is refused is told."""
    for number in range(20):
        pikku("start", "fail", "--id", f"bulk-{number}", "--wait")
    refused = pikku("runs", "retry", "--id-prefix", "bulk-", "--status", "failed")
    assert (refused.code, refused.out) == (2, "")
    assert "retry 20 runs? Say --yes; nothing was done" in refused.err
    pikku("start", "mend", "-d", "true", "--wait")
    assert "20 runs" in pikku("runs", "retry", "--id-prefix", "bulk-", "--status", "failed", "--yes").err
    for number in range(20):
        assert pikku("runs", "tail", f"bulk-{number}").code == 0
    again = pikku("runs", "retry", "--id-prefix", "bulk-", "--status", "completed", "--yes", "--json")
    assert again.code == 1
    assert (len(json.loads(again.out)["done"]), len(json.loads(again.out)["failed"])) == (0, 20)
    deleted = on_terminal("runs", "delete", journal, "--id-prefix", "bulk-", "--yes")
    assert "deleted 20 runs" in deleted.err
    nobody = pikku("runs", "delete", "--id-prefix", "bulk-")
    assert (nobody.code, nobody.err) == (0, "pikku: deleted 0 runs\n")
    pikku("start", "mend", "-d", "false", "--wait")


def test_a_parent_is_cancelled_before_its_child(pikku: Any) -> None:
    """Or its step would fail, and its code go on with that; none of them is refused."""
    names = [f"family-{number}" for number in range(5)]
    for name in names:
        pikku("start", "above", "--id", name)
    while len(json.loads(pikku("runs", "list", "--id-prefix", "family-", "--json").out)["runs"]) < 10:
        pass

    done = pikku("runs", "cancel", "--id-prefix", "family-", "--yes")

    assert (done.code, done.err) == (0, "pikku: cancelled 10 runs\n")
    assert {status(pikku, name) for name in names} == {"cancelled"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("cancel", "--since", "yesterday"), "--since"),
        (("retry", "--tag", "a=1", "--tag", "a=2"), "'a'"),
        (("delete", "--status", "gone"), "gone"),
        (("fork", "r", "--at", "s", "--override", "s=1", "--override", "s=2"), "--override 's' is given twice"),
    ],
)
def test_wrong_filters_wait_for_no_engine(
    options: tuple[str, ...], said: str, pikku: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told before one is looked for."""
    monkeypatch.delenv("PIKKU_DB")
    command, *rest = options
    refused = pikku("runs", command, tmp_path / "nowhere.db", *rest, "--engine-wait", "1h")
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err


def test_many_refusals_are_not_told_one_by_one(pikku: Any) -> None:
    """Each names its run once; a document has them all."""
    for number in range(30):
        pikku("start", "double", "-d", "1", "--id", f"ended-{number:02}", "--wait")
    bulk = ("runs", "cancel", "--id-prefix", "ended-", "--status", "completed", "--yes")

    told, document = pikku(*bulk), pikku(*bulk, "--json")

    assert (told.code, document.code) == (1, 1)
    lines = told.err.splitlines()
    assert len(lines) == 22
    assert lines[0].startswith("pikku: run 'ended-00' is completed")
    assert lines[20:] == ["pikku: … and 10 more; --json tells all", "pikku: cancelled 0 runs, 30 refused"]
    assert len(json.loads(document.out)["failed"]) == 30


def test_when_the_engine_goes_the_rest_is_left(pikku: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, with what was done until then."""
    for number in range(60):
        pikku("start", "wait", "--id", f"left-{number:02}")
    cancel = Client.cancel

    async def cancel_some(self: Client, run_id: str, reason: str) -> None:
        if run_id == "left-20":
            raise EngineClosed("the engine has gone")
        await cancel(self, run_id, reason)

    bulk = ("runs", "cancel", "--id-prefix", "left-", "--yes")
    monkeypatch.setattr(Client, "cancel", cancel_some)
    gone = pikku(*bulk, "--json")
    monkeypatch.undo()

    told = json.loads(gone.out)
    assert (gone.code, told["failed"], gone.err) == (124, [], "pikku: the engine has gone\n")
    assert (len(told["done"]) + told["left"], 20 <= told["left"] <= 40) == (60, True)


def test_a_person_is_asked_before_something_is_done_to_many(pikku: Any, journal: Path) -> None:
    """Only a yes is one; Ctrl-C ends the command at once."""
    for name in ("asked-1", "asked-2"):
        pikku("start", "fail", "--id", name, "--wait")
    bulk = ("runs", "delete", journal, "--id-prefix", "asked-")

    no = asked(*bulk, answer="what?")
    gone = asked(*bulk, answer=signal.SIGINT)

    assert (no.code, no.out) == (3, "") and no.err.endswith("pikku: nothing was done: the answer was not yes\n")
    assert (gone.code, gone.out) == (130, "")
    assert gone.err == "delete 2 runs? [y/N] \npikku: nothing was done\n"
    assert (status(pikku, "asked-1"), status(pikku, "asked-2")) == ("failed", "failed")
    yes = asked(*bulk, answer="y")
    assert yes.code == 0 and "deleted 2 runs" in yes.err


@pytest.mark.parametrize(
    ("verb", "fits"),
    [("cancel", {"shut", "waits"}), ("retry", {"broken"}), ("resume", {"shut"}), ("delete", {"broken", "done"})],
)
def test_without_a_status_only_runs_are_meant_that_it_can_be_done_to(verb: str, fits: set[str], pikku: Any) -> None:
    """Nobody is asked about the others, and none of them is refused."""
    for name, workflow in {"done": "double", "broken": "fail", "shut": "gate", "waits": "wait"}.items():
        pikku("start", workflow, "-d", "1" if name == "done" else "null", "--id", f"{verb}-{name}")
    while status(pikku, f"{verb}-shut") != "suspended":
        pass
    for name in ("done", "broken"):
        pikku("runs", "tail", f"{verb}-{name}")

    done = pikku("runs", verb, "--id-prefix", f"{verb}-", "--yes", "--json")

    assert (done.code, json.loads(done.out)["failed"]) == (0, [])
    assert set(json.loads(done.out)["done"]) == {f"{verb}-{name}" for name in fits}


def test_what_happens_to_all_runs_is_shown_as_it_happens(pikku: Any, journal: Path) -> None:
    """Until Ctrl-C."""
    with child(
        command("runs", "tail", journal, "--all", "--jsonl"),
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
        preexec_fn=minds_ctrl_c,
    ) as tail:
        ends = threading.Event()

        def busy() -> None:
            while not ends.wait(0.05):
                piped("start", journal, "double", "-d", "1")

        thread = threading.Thread(target=busy)
        thread.start()
        assert tail.stdout is not None
        assert json.loads(tail.stdout.readline())["workflow"] == "double"
        ends.set()
        thread.join()
        tail.send_signal(2)
        tail.stdout.read()
        assert tail.wait(20) == 130


async def test_who_listens_to_all_runs_listens_to_the_next_engine_too(tmp_path: Path) -> None:
    """That there is a gap is said."""
    own, db = Pikku(), tmp_path / "app.db"

    @own.workflow
    async def quick(workflow: Workflow) -> None:
        pass

    arguments = command("runs", "tail", db, "--all", "--jsonl")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    async with asyncio.timeout(60), own.open(db) as engine:
        tail = await asyncio.create_subprocess_exec(*arguments, **pipes, env=environment(), preexec_fn=minds_ctrl_c)
        assert tail.stdout is not None and tail.stderr is not None
        while not engine._parts.residents.events.listening:  # type: ignore[union-attr]
            await asyncio.sleep(0)
    async with asyncio.timeout(60), own.open(db) as engine:
        assert b"there is a gap: the engine went away" in await tail.stderr.readline()
        while not engine._parts.residents.events.listening:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        await engine.run(quick, run_id="r")
        assert json.loads(await tail.stdout.readline())["run_id"] == "r"
        tail.send_signal(signal.SIGINT)
        await tail.communicate()
        assert tail.returncode == 130


def test_a_reader_of_events_that_has_had_enough_is_no_error(pikku: Any, journal: Path) -> None:
    """As `head` has, while the run goes on: the connection to the engine is left in order."""
    assert pikku("start", "wait", "--id", "unread").code == 0
    for _ in range(3):
        assert unread("runs", "tail", journal, "unread") == (0, "", "")
    assert pikku("runs", "cancel", "unread").code == 0


def test_runs_are_pruned(pikku: Any, journal: Path) -> None:
    """If that is confirmed; where there is nothing, nobody is asked."""
    pikku("prune", "--older-than", "0ms", "--yes")
    pikku("start", "double", "-d", "1", "--id", "old", "--wait")
    assert pikku("prune", "--older-than", "1h", "--json").out == '{\n  "deleted": 0\n}\n'
    refused = pikku("prune", "--older-than", "0ms")
    assert (refused.code, refused.out) == (2, "")
    assert "prune 1 run? Say --yes; nothing was done" in refused.err
    no = asked("prune", journal, "--older-than", "0ms", answer="n")
    assert no.code == 3 and no.err.endswith("prune 1 run? [y/N] n\npikku: nothing was done: the answer was not yes\n")
    assert status(pikku, "old") == "completed"
    assert pikku("prune", "--older-than", "0ms", "--status", "failed", "--yes").err == "pikku: deleted 0 runs\n"
    gone = pikku("prune", "--older-than", "0ms", "--status", "completed", "--yes", "--json")
    assert json.loads(gone.out) == {"deleted": 1}
    assert pikku("runs", "show", "old").code == 4


def test_nobody_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says so, and makes nothing: beside no file, and beside one."""
    assert run(["start", str(tmp_path / "no.db"), "double", "--engine-wait", "1ms"]) == 4
    assert "no.db' does not exist, and no engine has made it within 1ms" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    asyncio.run(fill(tmp_path / "app.db"))
    assert run(["start", str(tmp_path / "app.db"), "double", "--engine-wait", "1ms"]) == 124
    assert "no engine has" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["start", "no.db", "double", "--delay", "3"],
        ["start", "no.db", "double", "--timeout", "soon"],
        ["runs", "retry", "no.db", "r", "--engine-wait", "3"],
        ["prune", "no.db", "--older-than", "30"],
        ["console", "no.db", "--engine-wait", "3"],
        ["run", "shop:pikku", "no.db", "--grace", "1x"],
    ],
)
def test_a_duration_that_is_none_is_told_in_words_of_the_command_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the option, and before anything is looked for."""
    assert run(words) == 2
    option, given = words[-2:]
    assert capsys.readouterr().err == (
        f"pikku: {option}={given!r}: use a number with its unit, such as 30s, 5m, 2h or 7d\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["start", "no.db", "double", "--tag", "a=1", "--tag", "a=2"],
            "--tag='a=2': 'a' has been given; give each tag",
        ),
        (["runs", "list", "no.db", "--tag", "a=1", "--tag", "a=2"], "--tag='a=2': 'a' has been given; give each tag"),
        (["runs", "list", "no.db", "--json", "--jsonl"], "give --json or --jsonl, not both"),
        (["start", "no.db", "double", "--at", "2027-01-01", "--delay", "3s"], "give --at or --delay, not both"),
        (["runs", "tail", "no.db", "r", "--all"], "give a RUN or --all, not both"),
        (["runs", "cancel", "no.db", "r", "--workflow", "double"], "give a RUN or filters, not both"),
        (["runs", "signal", "no.db", "r"], "only 'no.db' and 'r' were given: give FILE, RUN and NAME, or set PIKKU_DB"),
    ],
)
def test_nothing_that_is_given_is_lost(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be meant together is refused, before anything is looked for."""
    assert run(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs", "cancel", "r", "--workflow", "double"], "give a RUN or filters, not both"),
        (["runs", "tail", "r", "--all"], "give a RUN or --all, not both"),
        (["doctor", "nowhere:pikku"], "there is no module 'nowhere'"),
    ],
)
def test_what_is_alone_and_no_file_is_not_taken_for_one(words: list[str], said: str, pikku: Any) -> None:
    """The environment has the file."""
    ended = pikku(*words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_a_file_that_is_named_goes_before_that_of_the_environment(pikku: Any, db: Path) -> None:
    """Beside filters, too."""
    asyncio.run(fill(db))
    assert pikku("runs", "cancel", db, "--workflow", "sleeper", "--engine-wait", "1ms").code == 124
    assert pikku("doctor", db, "--json").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start", "no.db", "double", "--at", "0001-01-01"], "--at=0001-01-01 00:00:00: use a year from 2"),
        (["runs", "list", "no.db", "--cursor", "abc"], "--cursor='abc': use the number that was told"),
        (["runs", "list", "no.db", "--limit", "0"], 'Invalid value "0" for --limit'),
        (["runs", "list", "no.db", "--status", "done"], 'Invalid value "done" for --status'),
        (["runs", "cancel", "no.db", "--status", "done"], 'Invalid value "done" for --status'),
        (["runs", "show", "no.db", "r", "--last", "-1"], 'Invalid value "-1" for --last'),
        (["prune", "no.db", "--older-than", "1h", "--keep", "-1"], 'Invalid value "-1" for --keep'),
        (["prune", "no.db", "--older-than", "1h", "--status", "running"], 'Invalid value "running" for --status'),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_option(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with an argument of Python's, and before anything is looked for."""
    assert run(words) == 2
    assert said in capsys.readouterr().err


def test_without_an_engine_what_is_recorded_is_told(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run that has ended that is all; of another one it is said that an engine is waited for."""
    asyncio.run(fill(db))

    assert run(["runs", "tail", str(db), "declined", "--jsonl"]) == 1
    told = capsys.readouterr()
    assert [json.loads(line)["kind"] for line in told.out.splitlines()][-2:] == ["step_recorded", "run_ended"]
    assert told.err == ""
    assert run(["runs", "tail", str(db), "stopped"]) == 3
    capsys.readouterr()
    assert run(["runs", "tail", str(db), "asleep", "--engine-wait", "1ms"]) == 124
    told = capsys.readouterr()
    assert "run_started" in told.out
    assert told.err.startswith("pikku: no engine answers: this is what is recorded; waiting 1ms for one\n")
    assert run(["runs", "tail", str(db), "nobody"]) == 4


async def test_an_engine_that_comes_goes_on_where_the_file_has_ended(db: Path) -> None:
    """No event is told twice."""
    await fill(db)
    with child(
        command("runs", "tail", db, "asking", "--jsonl", "--engine-wait", "30s"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ) as tail:
        assert tail.stdout is not None
        first = [json.loads(await asyncio.to_thread(tail.stdout.readline))["kind"] for _ in range(2)]
        async with application().open(db) as engine:
            await engine.signal("asking", "receipt", 1)
            rest = (await asyncio.to_thread(tail.stdout.read)).decode().splitlines()
        assert await asyncio.to_thread(tail.wait, 20) == 0

    assert first == ["run_started", "step_started"]
    assert [json.loads(line)["kind"] for line in rest] == ["signal", "step_recorded", "run_ended"]


@pytest.mark.parametrize(("more", "count"), [((), 3), (("--status", "failed"), 1), (("--keep", "2"), 1)])
def test_what_would_be_pruned_is_counted(more: tuple[str, ...], count: int, db: Path) -> None:
    """Without an engine, and nothing is done."""
    asyncio.run(fill(db))
    before = contents(db.parent)

    told = piped("prune", db, "--older-than", "1m", *more, "--dry-run")
    document = piped("prune", db, "--older-than", "1m", *more, "--dry-run", "--json")

    assert told == (0, "", f"pikku: {count} {'run' if count == 1 else 'runs'} would be deleted\n")
    assert json.loads(document.out) == {"would_delete": count}
    assert contents(db.parent) == before


async def test_a_resume_that_does_not_help_says_so(tmp_path: Path) -> None:
    """The code does not fit any better, or its workflow is still gone: the run is suspended as before."""
    old, new = Pikku(), Pikku()

    @old.workflow(name="flow")
    async def asks_first(workflow: Workflow) -> None:
        await workflow.do("old", lambda: None)
        await workflow.wait_for_signal("go")

    @old.workflow
    async def gone(workflow: Workflow) -> None:
        await workflow.wait_for_signal("go")

    @new.workflow(name="flow")
    async def asks_another(workflow: Workflow) -> None:
        await workflow.do("new", lambda: None)

    db = tmp_path / "app.db"
    async with old.open(db) as engine:
        await engine.start("flow", run_id="r")
        await engine.start("gone", run_id="s")
        while len(await engine.steps("r")) < 2:
            await asyncio.sleep(0)
    async with new.open(db) as engine:
        for run_id, why in (("r", "asked for 'new'"), ("s", "no workflow named 'gone'")):
            told = await asyncio.to_thread(piped, "runs", "resume", db, run_id)
            assert (told.code, told.out) == (6, "")
            assert f"run {run_id!r} is suspended as before" in told.err and why in told.err
        told = await asyncio.to_thread(piped, "runs", "resume", db, "r", "--accept", "new")
        assert told.code == 0, told.err
        await (await engine.handle("r")).result()
