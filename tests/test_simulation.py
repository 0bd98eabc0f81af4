"""The simulator: the same seed is the same history, what it does is real, and it finds what is wrong."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pikkupy.core import decide
from pikkupy.core.commands import Policy
from pikkupy.core.decide import RetryAt, Settle
from pikkupy.engine.host import Host
from pikkupy.engine.inbox import Inbox
from pikkupy.engine.residents import Residents
from pikkupy.engine.waker import Waker
from pikkupy.store import writer
from pikkupy.testing.simulation import History, Scenario, Violation, disk, draw
from pikkupy.testing.simulation import __main__ as simulation
from pikkupy.testing.simulation.programs import Child, Do, Gate, Gather, Give, Node, Sequence, Sleep, Wait
from pikkupy.testing.simulation.scenario import Act, Fault
from pikkupy.testing.simulation.shrink import breaks, shrink
from pikkupy.workers import Workers

ROOT = Path(__file__).parent.parent
SEEDS = range(1, 61)
COMMAND = [sys.executable, "-m", "pikkupy.testing.simulation"]
FIRST_SEED = 700_000
CRASHES = 20_000


def simulate(*arguments: str, hash_seed: str = "random") -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, env=variables)


def test_the_same_seed_is_the_same_history() -> None:
    """Twice here, and in other processes, whose hashes are others."""
    traces = [History(draw(seed)).run().trace for seed in SEEDS[:8]]
    assert len(set(traces)) == len(traces)
    assert [History(draw(seed)).run().trace for seed in SEEDS[:8]] == traces
    for hash_seed in ("0", "1", "4294967295"):
        told = simulate("--seed", "1", "--histories", "8", hash_seed=hash_seed).stdout.splitlines()
        assert [json.loads(line)["report"]["trace"] for line in told] == traces


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_20_000_crashes_break_no_promise() -> None:
    """Each fault meets everything that an engine may be doing, if it can. Other seeds are for the command itself."""
    ended = simulate("--seed", str(FIRST_SEED), "--crashes", str(CRASHES), "--jobs", "2", "--json")

    assert ended.returncode == 0, ended.stderr
    assert "never retrieved" not in ended.stderr  # what a crash has thrown away is no news
    told = json.loads(ended.stdout)
    assert told["crashes"] >= CRASHES
    assert told["violations"] == []
    assert told["missed"] == []
    assert told["seen again"] > CRASHES
    assert told["idle crashes"] < CRASHES / 5


@pytest.mark.parametrize(("seed", "durability", "writes"), [(1, "process", 0), (2, "full", 0), (2, "process", 2)])
def test_the_loop_itself_writes_in_some_histories(
    seed: int, durability: str, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `database_thread=False`, which goes with one durability."""
    begun: list[float] = []

    def sent(self: disk._OnLoop, work: Any, done: Any) -> None:
        begun.append(asyncio.get_running_loop().time())
        send(self, work, done)

    send = disk._OnLoop.send
    monkeypatch.setattr(disk._OnLoop, "send", sent)
    History(Scenario(seed, [Do("a")], [Act(0, "start", 0)], [Fault("crash", "before_commit")], durability)).run()
    assert len(begun) >= writes
    assert bool(begun) == bool(writes)


def fixed_seeds() -> list[int]:
    lines = (ROOT / "tests" / "seeds.txt").read_text(encoding="utf-8").splitlines()
    return [int(line) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("seed", fixed_seeds())
def test_what_was_found_once_is_not_found_again(seed: int) -> None:
    """The seeds in seeds.txt."""
    assert History(draw(seed)).run().lives > 0


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "histories").iterdir()), ids=lambda path: path.stem)
def test_a_history_that_broke_a_promise_once_breaks_none(path: Path) -> None:
    """Scenarios that were made small; what they are does not change with the drawing of others."""
    assert History(msgspec.json.decode(path.read_bytes(), type=Scenario)).run().lives > 0


def test_a_defect_is_found_and_its_scenario_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """One retry too many."""

    def generous(policy: Policy, failures: int, now_us: int, fraction: float) -> Settle | RetryAt:
        return decided(policy, failures - 1, now_us, fraction)

    decided = decide.after_failure
    monkeypatch.setattr("pikkupy.engine.active.after_failure", generous)
    found = next(seed for seed in SEEDS if breaks(draw(seed)) == "attempts")
    scenario = draw(found)

    smallest = shrink(scenario, "attempts")

    assert breaks(smallest) == "attempts"
    assert len(smallest.faults) + len(smallest.acts) <= 3
    with pytest.raises(Violation, match="retries"):
        History(smallest).run()


def test_an_exception_that_nobody_should_see_is_made_smaller_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told like a broken promise, of the name `error`."""

    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("pikkupy.testing.simulation.checks.Checks.look", broken)
    scenario = draw(SEEDS[0])
    assert breaks(scenario) == "error"

    smallest = shrink(scenario, "error")

    assert breaks(smallest) == "error"
    assert len(smallest.faults) + len(smallest.acts) < len(scenario.faults) + len(scenario.acts)


def test_an_exception_that_a_caller_gets_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers are tasks of their own, whose exceptions nobody asks for."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    scenario = Scenario(1, [Sleep(1_000_000)], [Act(0, "start", 0), Act(1_000, "signal", 0, "s0")], [])
    assert breaks(scenario) is None
    monkeypatch.setattr("pikkupy.engine.acting.tell", broken)
    assert breaks(scenario) == "error"


def test_a_retry_of_what_is_not_to_be_retried_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """I-19: the class of the error is overlooked."""
    scenario = Scenario(1, [Sequence([Do("a", "final", retries=2)])], [Act(0, "start", 0)], [])
    assert breaks(scenario) is None
    monkeypatch.setattr("pikkupy.workers.attempts.NonRetryableError", ())
    assert breaks(scenario) == "attempts"


ACTS = ("start", "signal", "approve", "resume", "cancel", "retry", "fork", "accept", "delete")
ASKED = Gather([Wait("s0"), Wait("a0", approval=True), Gate("g0"), Child("c", Sleep(7_200_000_000))])


@pytest.mark.parametrize("does", ACTS)
def test_what_was_written_for_a_caller_who_gives_up_is_done(does: str) -> None:
    """He is cancelled while he waits for the disk. Nobody waits in vain for what has come of it, or is forgotten."""
    program = Sequence([ASKED if does != "retry" else Do("a"), Give()])
    changes = [Fault("deploy", after=60_000_000, change="insert")] if does == "accept" else []
    name = "a0" if does == "approve" else "s0"
    at_us = 10_000_000_000 if does == "delete" else 120_000_000
    for patience_us in range(100, 5_000, 200):
        act = Act(at_us, does, 0, name, patience_us=patience_us)
        acts = [act] if does == "start" else [Act(0, "start", 0), act]
        scenario = Scenario(patience_us, [program], acts, changes, resident_runs=0, unload_after_us=0)
        assert breaks(scenario) is None, scenario


@pytest.mark.parametrize("by", ["inline", "function", "thread"])
def test_no_body_begins_after_the_journal_has_failed(by: str) -> None:
    """I12: when a run has come back after a crash, and before. Its outcome would have no place."""
    program = Gather([Do("a", by=by, lasts_us=1_000), Do("b", by=by), Sleep(1_000_000)])
    for seed in range(2, 14):
        for commit in (1, 2, 3):
            faults = [Fault("crash", after=2_000 + 100 * seed), Fault("io_error", "before_commit", commit)]
            scenario = Scenario(seed, [program], [Act(0, "start", 0)], faults, "process")
            assert breaks(scenario) is None, scenario


HOUR_US = 3_600_000_000
WAITING: dict[str, tuple[Node, list[Act]]] = {
    "sleep": (Sleep(HOUR_US), []),
    "signal": (Wait("s0", HOUR_US), [Act(60_000_000, "signal", 0, "s0")]),
    "child": (Child("c", Sleep(HOUR_US)), []),
    "cancel": (Child("c", Sleep(HOUR_US)), [Act(60_000_000, "cancel", 0)]),
    "retry": (Sequence([Do("a"), Give()]), [Act(60_000_000, "retry", 0)]),
    "start": (Do("a"), []),
    "start soon": (Do("a"), []),
}


@pytest.mark.parametrize("name", WAITING)
def test_a_read_that_fails_once_loses_no_waking(name: str) -> None:
    """The engine tries again, or stops for the next one to go on (I-22, I-41)."""
    program, acts = WAITING[name]
    start = Act(0, "start", 0, delay_us={"start": HOUR_US, "start soon": 1_000_000}.get(name, 0))
    for crashes in ([], [Fault("crash", after=30_000_000)]):
        for read in range(1, 16):
            faults = [*crashes, Fault("read", "before_read", read)]
            scenario = Scenario(read, [program], [start, *acts], faults, resident_runs=0, unload_after_us=0)
            assert breaks(scenario) is None, scenario


def test_a_caller_who_waits_for_an_end_in_vain_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run has ended, and he is not told (I-41)."""
    scenario = Scenario(3, [Sleep(1_000_000)], [Act(0, "start", 0)], [])
    assert breaks(scenario) is None
    monkeypatch.setattr(Residents, "tell", lambda *_: None)
    assert breaks(scenario) == "told"


def test_an_engine_that_is_left_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """I-42: a step that does not stop is waited for, and not left behind after its grace of a second."""
    stubborn = Do("a", "stubborn", timeout_us=60_000_000)
    scenario = Scenario(2, [stubborn], [Act(0, "start", 0)], [Fault("leave", after=1_000_000)])
    assert breaks(scenario) is None
    until_empty = Workers._until_empty
    monkeypatch.setattr(Workers, "_until_empty", lambda self, patience_s: until_empty(self, 10 * patience_s))
    assert breaks(scenario) == "left"


@pytest.mark.parametrize(
    ("what", "place", "code"),
    [("busy", "before_begin", sqlite3.SQLITE_BUSY), ("full", "before_commit", sqlite3.SQLITE_FULL)],
)
def test_an_engine_that_stops_for_what_passes_is_found(
    what: str, place: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I12: it is to pause, and to try again. After an error of the disk it stops, and is right."""
    for fault in (Fault("io_error", "before_commit", 2), Fault(what, place, 2)):
        scenario = Scenario(1, [Do("a")], [Act(0, "start", 0)], [fault])
        assert breaks(scenario) is None
    monkeypatch.setattr("pikkupy.store.writer._PAUSE", writer._PAUSE - {code})
    monkeypatch.setattr("pikkupy.store.writer._STOP", writer._STOP | {code})
    assert breaks(scenario) == "stopped"


def test_a_signal_for_a_wait_of_another_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: what the run has got was sent to it, but as another signal."""
    scenario = Scenario(
        1, [Sequence([Sleep(1_000_000), Wait("s0")])], [Act(0, "start", 0), Act(9_000, "signal", 0, "s1")], []
    )
    assert breaks(scenario) is None
    take = Inbox.take
    monkeypatch.setattr(Inbox, "take", lambda self, _, before: take(self, "s1", before))
    assert breaks(scenario) == "value"


def test_a_task_that_hangs_after_it_was_cancelled_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """I-42: only bodies that do not stop are left behind."""

    async def hangs() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1e6)

    def opened(self: Waker) -> None:
        task = asyncio.get_running_loop().create_task(hangs())
        asyncio.get_running_loop().call_later(0.1, task.cancel)
        opens(self)

    scenario = Scenario(1, [Do("a")], [Act(0, "start", 0)], [Fault("leave", after=1_000_000)])
    assert breaks(scenario) is None
    opens = Waker.open
    monkeypatch.setattr(Waker, "open", opened)
    assert breaks(scenario) == "left"


def test_a_workflow_that_is_gone_is_missed_although_the_disk_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """C113: it is looked for as soon as all is told that is on disk."""

    async def busy(host: Host, _: object) -> None:
        host.write([])

    deploys = [Fault("deploy", after=10_000_000, change="missing")]
    scenario = Scenario(1, [Sleep(36_000_000_000)], [Act(0, "start", 0)], deploys, resident_runs=0, unload_after_us=0)
    assert breaks(scenario) is None
    monkeypatch.setattr("pikkupy.engine.engine.see_to_missing", busy)
    assert breaks(scenario) == "missing"


def test_a_timer_that_oversleeps_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """I-22: the clock is set to when it is due, and nobody looks."""
    scenario = Scenario(
        1, [Sleep(36_000_000_000)], [Act(0, "start", 0)], [Fault("forward", after=1_000_000, size=36_000_000_000)]
    )
    assert breaks(scenario) is None
    monkeypatch.setattr("pikkupy.timers.LONGEST_NAP_S", 86_400.0)
    assert breaks(scenario) == "late"


def test_changed_code_that_is_not_noticed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is renamed while its retry waits; what is left of the scenario is that."""
    waits = Do("a", "fail", failures=1, retries=1, delay_us=60_000_000)
    faults = [
        Fault("busy", "before_begin"),
        Fault("crash", "before_commit"),
        Fault("deploy", after=10_000_000, change="rename"),
        Fault("crash", "after_commit"),
    ]
    scenario = Scenario(1, [Sequence([waits, Do("b")])], [Act(0, "start", 0), Act(1, "signal", 0, "s0")], faults)
    assert breaks(scenario) is None
    monkeypatch.setattr("pikkupy.execution.execution.mismatch", lambda recorded, asked: None)
    assert breaks(scenario) == "mismatch"

    smallest = shrink(scenario, "mismatch")

    assert breaks(smallest) == "mismatch"
    assert [fault.what for fault in smallest.faults] == ["deploy"]
    assert [act.does for act in smallest.acts] == ["start"]


GENEROUS = """
import sys
from pikkupy.engine import active
from pikkupy.testing.simulation.__main__ import main

decided = active.after_failure
active.after_failure = lambda policy, failures, *rest: decided(policy, failures - 1, *rest)
sys.exit(main(sys.argv[1:]))
"""


def test_a_violation_is_told_with_its_seed_and_its_smallest_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the command fails."""
    decided = decide.after_failure
    with monkeypatch.context() as patched:
        patched.setattr(
            "pikkupy.engine.active.after_failure", lambda policy, failures, *rest: decided(policy, failures - 1, *rest)
        )
        seed = next(seed for seed in SEEDS if breaks(draw(seed)) == "attempts")

    ended = subprocess.run(
        [sys.executable, "-c", GENEROUS, "--only", str(seed)], cwd=ROOT, capture_output=True, text=True
    )

    assert ended.returncode == 1, ended.stderr
    first, _, *scenario = ended.stdout.splitlines()
    assert first.startswith(f"seed {seed}: attempts: ")
    assert json.loads("\n".join(scenario))["seed"] == seed


HANGS = """
import sys, time
from pikkupy.testing.simulation import __main__ as command

sound = command.one
def one(seed):
    while seed == 2:
        time.sleep(1)
    return sound(seed)
command.one = one
sys.exit(command.main(sys.argv[1:]))
"""


def test_a_history_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With its seed; what lies behind it is done all the same. Also if there were enough before it was noticed."""
    monkeypatch.setattr(simulation, "COMMAND", [sys.executable, "-c", HANGS])
    monkeypatch.setattr(simulation, "LONGEST_S", 4.0)
    monkeypatch.setattr(simulation, "CHUNK", 4)
    monkeypatch.setattr(logging.getLogger("pikkupy"), "setLevel", lambda _: None)  # of the tests' own process
    for crashes in ("3", "60"):
        assert simulation.main(["--seed", "1", "--crashes", crashes, "--jobs", "1", "--json"]) == 1

        told = json.loads(capsys.readouterr().out)
        assert told["violations"] == [{"seed": 2, "violation": "hang: the history has not ended within 4 s"}]
        assert told["histories"] > 1


@pytest.mark.parametrize("is_terminal", [False, True], ids=["file", "terminal"])
def test_progress_is_told_as_often_as_it_is_wanted(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal as a bar that stays in its line and is gone at the end, elsewhere as lines."""
    screen, now_s = io.StringIO(), [0.0]
    monkeypatch.setattr(screen, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(simulation, "monotonic_s", lambda: now_s[0])
    progress = simulation.Progress(200)
    for done in (0, 50, 100):
        now_s[0] += simulation.LINE_S / 2
        progress.tell(done)
    progress.clear()

    lines = [
        "0 of 200 crashes, 0/s, 1,000 s to go",
        "50 of 200 crashes, 5/s, 30 s to go",
        "100 of 200 crashes, 7/s, 15 s to go",
    ]
    bars = [" " * 30, "#" * 7 + " " * 23, "#" * 15 + " " * 15]
    if is_terminal:
        told = "".join(f"\r[{bar}] {line}\x1b[K" for bar, line in zip(bars, lines, strict=True))
        assert screen.getvalue() == f"{told}\r\x1b[K"
    else:
        assert screen.getvalue() == f"{lines[1]}\n"


@pytest.mark.parametrize("option", ["--crashes", "--jobs"])
@pytest.mark.parametrize("value", ["0", "-5", "1.5", "many"])
def test_a_number_that_none_can_be_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is simulated."""
    with pytest.raises(SystemExit) as ended:
        simulation.main([option, value])
    assert ended.value.code == 2
    assert f"argument {option}: {value!r}: use a whole number of 1 or more" in capsys.readouterr().err


def test_progress_is_told_in_plain_lines_where_no_terminal_is() -> None:
    """No control characters; the table at the end names what cannot happen."""
    ended = simulate("--seed", "1", "--crashes", "40", "--jobs", "1")
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout + ended.stderr
    assert "-: cannot happen" in ended.stdout
    assert re.search(r"^0: \d+ that can happen have not; ", ended.stdout, re.MULTILINE)
    assert "from seed 1 (version " in ended.stdout
