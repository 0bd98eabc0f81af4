"""Processes that are really killed, at random instants, and started again until their work is done.

    python -m tests.kills.processes signals|children|forks FOLDER --kills N --seed S

Each life is a fork of this process, so that it has nothing to import. Its effects and what the engine has acknowledged
are lines of a ledger. The last line says how many kills there were; what goes wrong is raised.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from pikkupy import Engine, Pikku, RunConflict, Workflow
from tests.crash.workload import Effect, Ledger, effect, read_ledger
from tests.kills.facts import Facts

RUNS = 4
ROUNDS = 20
LONGEST_S = 0.02  # from when the engine is open, or one time in four is opened, to a kill
PATIENCE_S = 20.0  # a life that is not killed

pikku = Pikku()


def done(workflow: Workflow, value: Any) -> Callable[[], Any]:
    """The body of a step that leaves its effect in the ledger."""
    return lambda: effect(workflow.services, lambda step: value)


@pikku.workflow
async def listener(workflow: Workflow) -> list[Any]:
    got = []
    for number in range(ROUNDS):
        signals = [workflow.wait_for_signal("go") for _ in range(2)]
        got += await asyncio.gather(*signals)
        await workflow.do(f"took {number}", done(workflow, number))
    return got


@pikku.workflow
async def parent(workflow: Workflow) -> list[Any]:
    return [await workflow.do("part", child, number) for number in range(ROUNDS)]


@pikku.workflow
async def child(workflow: Workflow, data: int) -> int:
    await workflow.do("first", done(workflow, data))
    await workflow.sleep("nap", 1)
    return int(await workflow.do("second", done(workflow, data)))


@pikku.workflow
async def source(workflow: Workflow) -> list[Any]:
    shared = [await workflow.do(f"shared {number}", done(workflow, number)) for number in range(3)]
    await workflow.sleep("nap", 1)
    return [*shared, await workflow.do("own", done(workflow, workflow.run_id))]


class Caller(NamedTuple):
    """Who calls the engine in one life: what was on disk before it, if anything was, and the ledger."""

    engine: Engine
    ledger: Ledger
    before: Facts | None

    def is_there(self, run_id: str) -> bool:
        return self.before is not None and run_id in self.before.runs

    async def result(self, run_id: str) -> Any:
        return await (await self.engine.handle(run_id)).result(timeout=PATIENCE_S * 1_000)


async def send_signals(caller: Caller) -> None:
    """Send each run the numbers that are not in its file yet; it gets all of them in order."""
    for number in range(RUNS):
        await caller.engine.start(listener, run_id=f"r{number}")
    sent = Counter() if caller.before is None else caller.before.signals
    for value in range(2 * ROUNDS):
        for number in range(RUNS):
            if value >= sent[f"r{number}", "go"]:
                await caller.engine.signal(f"r{number}", "go", value)
                caller.ledger.add("signalled", f"r{number}")
    for number in range(RUNS):
        assert await caller.result(f"r{number}") == list(range(2 * ROUNDS))


async def start_parents(caller: Caller) -> None:
    """Start parents and wait for them."""
    for number in range(RUNS):
        await caller.engine.start(parent, run_id=f"p{number}")
        caller.ledger.add("started", f"p{number}")
    for number in range(RUNS):
        assert await caller.result(f"p{number}") == list(range(ROUNDS))


async def make_forks(caller: Caller) -> None:
    """Fork one run many times; what is there already is refused."""
    await caller.engine.start(source, run_id="s")
    await caller.result("s")
    for number in range(RUNS * ROUNDS):
        run_id = f"f{number}"
        try:
            await caller.engine.fork("s", at="own", new_run_id=run_id)
            assert not caller.is_there(run_id), f"{run_id} was forked twice"
        except RunConflict:
            assert caller.is_there(run_id), f"{run_id} is refused, and was not there"
        caller.ledger.add("started", run_id)
    for number in range(RUNS * ROUNDS):
        assert await caller.result(f"f{number}") == [0, 1, 2, f"f{number}"]


LIVES: dict[str, Callable[[Caller], Awaitable[None]]] = {
    "signals": send_signals,
    "children": start_parents,
    "forks": make_forks,
}
ALL_RUNS = {
    "signals": {f"r{number}" for number in range(RUNS)},
    "children": {f"p{number}" for number in range(RUNS)}
    | {f"p{number}/part{f'#{n}' if n else ''}" for number in range(RUNS) for n in range(ROUNDS)},
    "forks": {"s", *(f"f{number}" for number in range(RUNS * ROUNDS))},
}


def live(what: str, folder: Path, kill_after_s: float | None, *, early: bool) -> bool:
    """One life of a process; True if it was killed: so long after its engine was open, or after it began to open it."""
    before = known(folder)
    opened, opens = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(_live(what, folder, before, opens))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(opens)
    if kill_after_s is not None:
        if not early:
            os.read(opened, 1)
        time.sleep(kill_after_s)  # the moment of the kill is what is tried; nothing is waited for
        os.kill(pid, signal.SIGKILL)
    os.close(opened)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "a life has failed"
    return False


async def _live(what: str, folder: Path, before: Facts | None, opens: int) -> None:
    ledger = Ledger(folder / "ledger")
    async with pikku.open(folder / "app.db", services=ledger, watchdog_after=None) as engine:
        os.close(opens)  # which the other end reads as an end of file
        await LIVES[what](Caller(engine, ledger, before))


def known(folder: Path) -> Facts | None:
    """What is on disk; None before the tables are."""
    try:
        return Facts(folder / "app.db")
    except Exception as error:
        # The last: it was killed before the file was in WAL mode, and what it had begun there has to be rolled back.
        reasons = ("no such table", "unable to open", "readonly database")
        assert any(reason in str(error) for reason in reasons), error
        return None


def check(facts: Facts | None, effects: list[Effect]) -> None:
    """I5: nothing that was acknowledged is lost. A fork is whole."""
    if facts is None:
        assert not effects
        return
    acknowledged = Counter(line.run for line in effects if line.what == "signalled")
    assert all(facts.signals[run, "go"] >= count for run, count in acknowledged.items()), "a signal is lost"
    started = {line.run for line in effects if line.what == "started"}
    assert started <= facts.runs.keys(), f"lost: {started - facts.runs.keys()}"
    for run_id in facts.runs:
        if run_id.startswith("f"):
            shared = [facts.status(run_id, f"shared {number}") for number in range(3)]
            assert shared == ["succeeded"] * 3, f"half a fork: {run_id} {shared}"


def check_effects(facts: Facts | None, effects: list[Effect]) -> None:
    """I1, I2: what was recorded before a life does not happen in it."""
    begun = {(line.run, line.step) for line in effects if line.what == "begin"}
    again = {place for place in begun if facts is not None and facts.status(*place) == "succeeded"}
    assert not again, f"recorded steps ran again: {again}"


def main() -> None:
    """Live, be killed, live again; then once without a kill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=sorted(LIVES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    ended = dict.fromkeys(ALL_RUNS[options.what], "completed")
    kills = 0
    for number in range(options.kills + 1):
        lines = read_ledger(options.folder / "ledger")
        facts = known(options.folder)
        check(facts, lines)
        last = number == options.kills or (facts is not None and facts.statuses() == ended)
        kill_after_s = None if last else rng.uniform(0, LONGEST_S)
        kills += live(options.what, options.folder, kill_after_s, early=rng.random() < 0.25)
        check_effects(facts, read_ledger(options.folder / "ledger")[len(lines) :])
        if last:
            break
    facts = known(options.folder)
    check(facts, read_ledger(options.folder / "ledger"))
    assert facts is not None
    assert facts.statuses() == ended, facts
    print(f"{kills} kills")


if __name__ == "__main__":
    main()
