"""Stories: what some workflows and their caller do, told once undisturbed, and again after a kill at every commit."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pikkupy import Engine, Pikku, RunStateError, Services, Workflow, current_step
from pikkupy.durations import Duration, microseconds
from pikkupy.testing import VirtualClock
from tests.kills.copies import Copies, Moment, each_change_alone, passing
from tests.kills.facts import Facts

BEGAN = VirtualClock().now()
SETTINGS: dict[str, Any] = {"durability": "process", "show_running_after": "1h", "watchdog_after": None}
"""Of all engines here: nothing happens by real time, and what is asked is what a kill leaves, not loss of power."""

Effect = tuple[str, str, int]  # run, step, attempt


class Ledger(Services):
    """What steps have done, outside of any journal."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []


def mark(workflow: Workflow, value: Any = None, *, failures: int = 0) -> Callable[[], Any]:
    """The body of a step that leaves an effect, fails as often, and returns `value`."""

    def body() -> Any:
        step = current_step()
        assert step is not None
        workflow.services.effects.append((step.run_id, step.step_name, step.attempt_count))
        if step.attempt_count <= failures:
            raise ConnectionError(f"{step.step_name} at attempt {step.attempt_count}")
        return value

    return body


class Known(msgspec.Struct, frozen=True):
    """What the world outside of a journal knows at one moment."""

    now: datetime
    issued: int  # calls that the caller has made
    acknowledged: int  # of these that had returned
    effects: int  # how many the steps of this life had had


class Call(msgspec.Struct, frozen=True):
    """One call of an engine that changes something."""

    make: Callable[[Engine], Awaitable[Any]]
    is_made: Callable[[Facts], bool]  # whether it is on disk
    is_kept: Callable[[Facts], bool] | None = None  # what is true once it has returned, if that is more
    refusal: type[Exception] | None = None  # what a second one raises, once the first is on disk
    may_be_refused: bool = False  # a second one may raise that: what the first has written may do without it


class Caller:
    """Makes calls, one after another. After a kill it makes again what was not acknowledged and is not on disk."""

    def __init__(self, engine: Engine, clock: VirtualClock, before: Known, facts: Facts | None) -> None:
        self.engine = engine
        self.calls: list[Call] = []
        self.retried: set[str] = set()  # runs, in this life
        self.issued, self.acknowledged = before.issued, before.acknowledged
        self._clock = clock
        self._before = before
        self._facts = facts
        self._signals: Counter[tuple[str, str]] = Counter()

    async def at(self, after: Duration) -> None:
        """Let everything happen until so long after the beginning of the story."""
        target = BEGAN + timedelta(microseconds=microseconds(after))
        await self._clock.advance(max(target - self._clock.now(), timedelta(0)))

    async def start(self, workflow: str, run_id: str, data: Any = None, **terms: Any) -> None:
        async def make(engine: Engine) -> None:
            await engine.start(workflow, data, run_id=run_id, **terms)

        await self._call(Call(make, lambda facts: run_id in facts.runs))

    async def signal(self, run_id: str, name: str, payload: Any = None) -> None:
        self._signals[run_id, name] += 1
        nth = self._signals[run_id, name]
        await self._call(
            Call(lambda engine: engine.signal(run_id, name, payload), lambda facts: facts.signals[run_id, name] >= nth)
        )

    async def approve(self, run_id: str, name: str, decision: Any) -> None:
        await self._call(
            Call(
                lambda engine: engine.approve(run_id, name, decision),
                lambda facts: facts.status(run_id, name) == "succeeded",
                refusal=RunStateError,
            )
        )

    async def cancel(self, run_id: str, reason: str = "enough") -> None:
        """Once it has returned, the runs below have ended, too."""
        await self._call(
            Call(
                lambda engine: engine.cancel(run_id, reason),
                lambda facts: facts.runs[run_id].status == "cancelled",
                lambda facts: all(run.over for run in facts.below(run_id)),
                RunStateError,
            )
        )

    async def resume(self, run_id: str, *gates: str) -> None:
        await self._call(
            Call(
                lambda engine: engine.resume(run_id),
                lambda facts: all(facts.status(run_id, gate) == "succeeded" for gate in gates),
            )
        )

    async def accept(self, run_id: str) -> None:
        """Let the run go on with the code as it is."""
        await self._call(
            Call(
                lambda engine: engine.resume(run_id, accept="new"),
                lambda facts: facts.runs[run_id].parked is None,
                lambda facts: facts.runs[run_id].over or not facts.orphans(),
                RunStateError,
                may_be_refused=True,
            )
        )

    async def retry(self, run_id: str) -> None:
        async def make(engine: Engine) -> None:
            await engine.retry(run_id)
            self.retried.add(run_id)

        await self._call(
            Call(
                make,
                lambda facts: facts.runs[run_id].status != "failed",
                refusal=RunStateError,
            )
        )

    async def fork(self, run_id: str, at: str, new_run_id: str) -> None:
        await self._call(
            Call(
                lambda engine: engine.fork(run_id, at=at, new_run_id=new_run_id),
                lambda facts: new_run_id in facts.runs,
            )
        )

    async def _call(self, call: Call) -> None:
        self.calls.append(call)
        number = len(self.calls)
        if number <= self._before.acknowledged:
            return
        self.issued = max(self.issued, number)
        in_doubt = self._facts if number <= self._before.issued else None
        if in_doubt is not None and call.refusal is not None and call.may_be_refused:
            with suppress(call.refusal):
                await call.make(self.engine)
        elif in_doubt is None or not call.is_made(in_doubt):
            await call.make(self.engine)
        elif call.refusal is not None:
            with pytest.raises(call.refusal):
                await call.make(self.engine)
        self.acknowledged = number


def repeated(effects: Iterable[Effect], facts: Facts, retried: Container[str]) -> set[tuple[str, str]]:
    """Run and step of those effects that a step had which was over by then, or whose run was.

    A failed step may run again if its run was retried, by itself or with one from which it descends.
    """
    return {(run_id, step) for run_id, step, _ in effects if _is_over(run_id, step, facts, retried)}


def _is_over(run_id: str, step: str, facts: Facts, retried: Container[str]) -> bool:
    run = facts.runs.get(run_id)
    if run is None:
        return False
    line = [run, *facts.above(run)]
    final = {"succeeded", "completed", "cancelled"}
    if not any(one.run_id in retried for one in line):
        final.add("failed")
    return run.status in final or facts.status(run_id, step) in final


Body = Callable[..., Awaitable[Any]]
Script = Callable[[Caller], Awaitable[None]]


@dataclass(frozen=True)
class Story:
    """Workflows by name, what their caller does, and how it all has to end, whatever was killed."""

    workflows: Mapping[str, Body]
    script: Script
    ends: Mapping[str, str]  # the status of every run that there is in the end, by id
    outputs: Mapping[str, Any] = field(default_factory=dict)
    effects: frozenset[tuple[str, str]] | None = None  # run and step of all that happened, if that is fixed
    reasons: Mapping[str, str] = field(default_factory=dict)  # of runs, as far as they are told here
    always: Callable[[Facts], object] = lambda facts: None  # asserts what is true at every moment
    before: Story | None = None  # an earlier life that left in good order, perhaps with other code
    astray: frozenset[str] = frozenset()  # children that may go on although nobody waits for them

    def pikku(self) -> Pikku:
        """The application."""
        pikku = Pikku()
        for name, body in self.workflows.items():
            pikku.workflow(name=name)(body)
        return pikku


async def survives(story: Story, folder: Path, settings: Mapping[str, Any]) -> int:
    """Tell the story, and again from each commit of it on, and from those of every second recovery; how many kills.

    Moments that differ in nothing that a next life can see count once.
    """
    with each_change_alone():
        moments = await _undisturbed(story, folder, settings)
        kills = _Kills(story, folder, settings)
        for number, moment in enumerate(moments):
            where = f"killed at moment {number} of {len(moments)}"
            recovery = await kills.at(moment, where)
            for again, second in enumerate(recovery if number % 2 else ()):
                await kills.at(second, f"{where}, and at moment {again} of the recovery")
    return len(kills.seen)


async def _undisturbed(story: Story, folder: Path, settings: Mapping[str, Any]) -> list[Moment[Known]]:
    db = folder / "app.db"
    before = Known(BEGAN, 0, 0, 0)
    if story.before is not None:
        clock = VirtualClock()
        earlier = story.before.pikku()
        async with earlier.open(db, clock=clock, services=Ledger(), **SETTINGS, **settings) as engine:
            await story.before.script(Caller(engine, clock, before, None))
        before = Known(clock.now(), 0, 0, 0)
    return (await _Life(story, db, before, None, settings).live())[0]


class _Kills:
    """The kills of one story: what was seen in the files that they left, and where each is kept."""

    def __init__(self, story: Story, folder: Path, settings: Mapping[str, Any]) -> None:
        self.seen: set[tuple[object, ...]] = set()
        self._story, self._folder, self._settings = story, folder, settings

    async def at(self, moment: Moment[Known], where: str) -> list[Moment[Known]]:
        """The life that follows a kill at that moment; the moments of its recovery."""
        db = moment.restore(self._folder / f"after {len(self.seen)}")
        facts, known = Facts(db), moment.state
        as_seen = (*facts.rows, known.now, known.issued, known.acknowledged)
        if as_seen in self.seen:
            shutil.rmtree(db.parent)
            return []
        self.seen.add(as_seen)
        try:
            life = _Life(self._story, db, known, facts, self._settings)
            moments, recovered = await life.live()
            life.check_calls(facts)
        except Exception as error:
            error.add_note(f"{where}: {known}\n{facts}")
            raise
        return moments[:recovered]


class _Life:
    """One life of an engine, in which the story is told to its end."""

    def __init__(self, story: Story, db: Path, before: Known, facts: Facts | None, settings: Mapping[str, Any]) -> None:
        self._story, self._db, self._before, self._facts = story, db, before, facts
        self._settings = {**SETTINGS, **settings}
        self._ledger = Ledger()
        self._clock = VirtualClock(start=before.now)
        self._caller: Caller | None = None

    async def live(self) -> tuple[list[Moment[Known]], int]:
        """Every moment of it, and how many of them belong to the recovery."""
        copies = Copies(self._db, self._known)
        pikku = self._story.pikku()
        try:
            with passing(copies.reach, copies.reads):
                engine = pikku.open(self._db, clock=self._clock, services=self._ledger, **self._settings)
                await engine.__aenter__()
            try:
                caller = self._caller = Caller(engine, self._clock, self._before, self._facts)
                recovered = await self._recover(engine, copies)
                await self._story.script(caller)
                await self._clock.advance(0)
                await self._check_end(engine)
            finally:
                await engine.__aexit__(None, None, None)
        finally:
            copies.close()
        self._check_effects()
        return copies.moments, recovered

    def _known(self) -> Known:
        caller = self._caller
        issued, acknowledged = (
            (self._before.issued, self._before.acknowledged) if caller is None else (caller.issued, caller.acknowledged)
        )
        return Known(self._clock.now(), issued, acknowledged, self._before.effects + len(self._ledger.effects))

    async def _recover(self, engine: Engine, copies: Copies[Known]) -> int:
        if self._facts is None:
            return 0
        self._story.always(self._facts)
        await self._clock.advance(0)
        found = Facts(self._db)
        assert found.orphans() <= self._story.astray, f"children that nobody waits for go on\n{found}"
        self._check_next_moves(engine, found)
        return len(copies.moments)

    async def _check_end(self, engine: Engine) -> None:
        story, found = self._story, Facts(self._db)
        story.always(found)
        assert found.statuses() == dict(story.ends), f"\n{found}"
        for run_id, output in story.outputs.items():
            assert (await engine.get_run(run_id)).output == output
        for run_id, reason in story.reasons.items():
            assert reason in str((await engine.get_run(run_id)).reason), run_id
        self._check_next_moves(engine, found)

    def _check_next_moves(self, engine: Engine, found: Facts) -> None:
        """I9."""
        assert engine._parts is not None
        forgotten = found.forgotten(engine._parts.residents.active, self._clock.now_us())
        assert not forgotten, f"nothing brings {forgotten} on\n{found}"

    def _check_effects(self) -> None:
        """I1, I2, I8: nothing that was over before this life, or has run in it already, runs in it."""
        effects = self._ledger.effects
        twice = [effect for effect, count in Counter(effects).items() if count > 1]
        assert not twice, f"effects that one life has twice: {twice}"
        steps = {(run, step) for run, step, _ in effects}
        if self._facts is None:
            assert self._story.effects is None or steps == self._story.effects
            return
        facts = self._facts
        again = repeated(effects, facts, () if self._caller is None else self._caller.retried)
        assert not again, f"what was over has run again: {again}"
        orphans = ({run for run, _ in steps} & facts.orphans()) - self._story.astray
        assert not orphans, f"children that nobody waited for went on: {orphans}"
        assert self._story.effects is None or steps <= self._story.effects, "something else happened"

    def check_calls(self, facts: Facts) -> None:
        """I5: what was acknowledged before the kill is in the file."""
        assert self._caller is not None
        for number, call in enumerate(self._caller.calls[: self._before.acknowledged]):
            assert call.is_made(facts), f"call {number} was acknowledged, and is lost"
            assert call.is_kept is None or call.is_kept(facts), f"call {number} was acknowledged too early"
