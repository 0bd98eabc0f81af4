"""People who act on runs, in the middle of everything, and who help when nothing goes wrong any more."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import structs

from pikkupy.core.model import StepKind, StepStatus
from pikkupy.engine import Engine
from pikkupy.errors import EngineClosed, JournalError, PikkuError, RunCancelled, RunFailed, WorkflowNotFound
from pikkupy.testing.simulation.asked import Violation, unless_refused
from pikkupy.testing.simulation.code import Code
from pikkupy.testing.simulation.oracle import Oracle
from pikkupy.testing.simulation.programs import APPROVALS, LONGEST_US, SECOND
from pikkupy.testing.simulation.scenario import Act, Scenario

_BELOW = "SELECT run_id FROM pikkupy_runs WHERE run_id GLOB ? ORDER BY number"
_ENDED = "SELECT run_id FROM pikkupy_runs WHERE parent IS NULL AND ended_at IS NOT NULL"
_WITH_VALUES, _WITH_OUTCOME = (StepKind.INLINE, StepKind.FUNCTION), (StepStatus.SUCCEEDED, StepStatus.FAILED)
_TAGS = {"of": "a simulation"}


class People:
    """Those of one history. What was not done for sure when a life ended is done again in the next one."""

    def __init__(
        self,
        scenario: Scenario,
        oracle: Oracle,
        code: Code,
        query: Callable[..., list[Any]],
        rng: random.Random,
        note: Callable[[str], None],
    ) -> None:
        self.to_do = list(scenario.acts)
        self.violation: Violation | None = None
        self.life = 0
        self._doing: dict[asyncio.Task[None], Act] = {}
        self._again: list[Act] = []
        self._waiters: dict[asyncio.Task[None], str] = {}  # for the ends of which runs
        self._untold: dict[asyncio.Task[None], float] = {}  # since when, by the loop
        self._scenario = scenario
        self._oracle = oracle
        self._code = code
        self._query = query
        self._rng = rng
        self._note = note
        self._sent = self._forks = 0

    @property
    def busy(self) -> bool:
        """Whether anybody is acting."""
        return bool(self._doing)

    @property
    def under_way(self) -> set[str]:
        """What people are doing."""
        return {act.does for act in self._doing.values()}

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """Of this life."""
        return {*self._doing, *self._waiters}

    def begin(self, engine: Engine, act: Act) -> None:
        """Somebody does that now."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._perform(engine, act))
        self._doing[task] = act
        if act.patience_us:
            loop.call_later(act.patience_us / 1e6, task.cancel)
        task.add_done_callback(lambda _: self._doing.pop(task, None))

    def check_told(self) -> None:
        """At a moment when nothing is on its way: who waits for a run that has ended was told a moment ago."""
        now_s = asyncio.get_running_loop().time()
        ended = {run_id for (run_id,) in self._query(_ENDED)}
        untold = {waiter: run_id for waiter, run_id in self._waiters.items() if not waiter.done() and run_id in ended}
        for waiter, run_id in untold.items():
            if self._untold.setdefault(waiter, now_s) < now_s:
                raise Violation(f"told: run {run_id!r} has ended, and a caller waits for that (I-41)")

    def next_life(self, life: int) -> None:
        """What was under way is done again."""
        self.to_do = [*self._again, *self._doing.values(), *self.to_do]
        self._doing, self._again = {}, []
        self._waiters, self._untold = {}, {}
        self.life = life

    async def _perform(self, engine: Engine, act: Act) -> None:
        try:
            await self._guarded(self._act(engine, act))
        except (JournalError, EngineClosed, WorkflowNotFound):
            self._again.append(act)  # it is not known whether it was done, or it cannot be done in this life
        except asyncio.CancelledError:
            self._note(f"{act.does} given up")
            if act.does == "start":
                self.begin(engine, structs.replace(act, patience_us=0))
            raise
        except PikkuError as refused:
            self._note(f"{act.does} refused {type(refused).__name__}")

    async def _guarded(self, doing: Awaitable[None]) -> None:
        try:
            await doing
        except Violation as violation:
            self.violation = self.violation or violation
        except PikkuError:
            raise
        except Exception as error:  # noqa: BLE001 - of the engine or of the simulation: nobody else would hear of it
            self.violation = self.violation or Violation(f"error: {error!r}")

    async def _act(self, engine: Engine, act: Act) -> None:
        self._note(act.does)
        run_id = self._meant(act)
        match act.does:
            case "start":
                await self._start(engine, act, run_id)
            case "signal":
                await self._signal(engine, run_id, act.name, times=1 + act.twice)
            case "approve":
                await self._approve(engine, run_id, act.name, act.at_us % 100)
            case "resume":
                await self._resume(engine, run_id)
            case "accept":
                await self._accept(engine, run_id)
            case "cancel":
                with unless_refused(self._oracle.wants_cancelled(run_id)):
                    await engine.cancel(run_id, "enough")
                self._oracle.has_cancelled(run_id)
            case "retry":
                with unless_refused(self._oracle.is_retried(run_id)):
                    await engine.retry(run_id)
            case "fork":
                await self._fork(engine, run_id)
            case _:
                await self._delete(engine, act, run_id)

    def _meant(self, act: Act) -> str:
        """The run itself, or one below it."""
        run_id = f"r{act.run}"
        below = [found for (found,) in self._query(_BELOW, f"{run_id}/*")] if act.deep else []
        return below[act.deep % len(below)] if below else run_id

    async def _start(self, engine: Engine, act: Act, run_id: str) -> None:
        if self._oracle.asked.is_gone(run_id):
            return  # it had been started before the last crash, has ended, and was deleted
        data = msgspec.to_builtins(self._scenario.programs[act.run])
        delay = act.delay_us / 1_000 or None
        handle = await engine.start("program", data, run_id=run_id, delay=delay, tags=_TAGS)
        self._oracle.started(run_id)
        if self._rng.random() < 0.5:
            waiter = asyncio.get_running_loop().create_task(self._guarded(self._wait(handle.result(), run_id)))
            self._waiters[waiter] = run_id

    async def _wait(self, result: Awaitable[Any], run_id: str) -> None:
        with suppress(JournalError, EngineClosed):
            status, value = "completed", None
            try:
                value = await result
            except RunFailed:
                status = "failed"
            except RunCancelled:
                status = "cancelled"
            self._oracle.told(run_id, status, repr(value))

    async def _signal(self, engine: Engine, run_id: str, name: str, *, times: int = 1) -> None:
        self._sent += 1
        payload = [self._sent]
        for _ in range(times):
            with unless_refused(self._oracle.given.offers(run_id, name, repr(payload))):
                await engine.signal(run_id, name, payload)
            self._oracle.accepts(run_id, name)

    async def _approve(self, engine: Engine, run_id: str, name: str, decision: int) -> None:
        with unless_refused(self._oracle.given.decides(run_id, name, decision)):
            await engine.approve(run_id, name, decision)
        self._oracle.accepts(run_id, name)

    async def _resume(self, engine: Engine, run_id: str) -> None:
        shut = self._oracle.given.shut_gates(run_id)
        with unless_refused(self._oracle.given.resumes(run_id)):
            await engine.resume(run_id)
        self._oracle.given.has_resumed(run_id, shut)

    async def _accept(self, engine: Engine, run_id: str) -> None:
        with unless_refused(self._oracle.takes_code(run_id), self._oracle.given.resumes(run_id)):
            await engine.resume(run_id, accept="new")
        self._oracle.takes_code(run_id)
        self._code.accepted(run_id, self.life)

    async def _fork(self, engine: Engine, source: str) -> None:
        root = source.split("/", 1)[0]
        steps = await engine.steps(source)
        if source != root or self._code.is_changed(root) or not steps:
            return
        place = self._rng.randrange(len(steps))
        shared = [step.name for step in steps[:place] if step.kind in _WITH_VALUES and step.status in _WITH_OUTCOME]
        overrides = dict.fromkeys(shared[:1], self._sent)
        self._forks += 1
        fork = f"f{self._forks}"
        self._oracle.given.forks(source, fork)
        self._code.forked(root, fork, self._scenario.programs[int(root[1:])])
        with unless_refused(self._oracle.asked.forks(fork, place)):
            await engine.fork(source, at=steps[place].name, overrides=overrides, new_run_id=fork)
        self._oracle.started(fork)
        self._oracle.check_forked(source, fork, place, overrides)

    async def _delete(self, engine: Engine, act: Act, run_id: str) -> None:
        if act.does == "delete":
            with unless_refused(self._oracle.deletes(run_id)):
                await engine.delete_run(run_id)
            self._oracle.has_deleted(run_id)
        else:
            self._oracle.prunes += 1
            try:
                await engine.prune(older_than=LONGEST_US / 1_000, keep=act.deep)
            except PikkuError:
                self._oracle.prunes -= 1
                raise
            self._oracle.prunes -= 1

    async def clear_up(self, engine: Engine) -> None:
        """Delete a run that has ended, or all."""
        ended = [run_id for (run_id,) in self._query(_ENDED)]
        if ended:
            act = Act(0, self._rng.choice(("delete", "prune")), 0)
            with suppress(PikkuError):
                await self._delete(engine, act, self._rng.choice(ended))

    async def help(self, engine: Engine) -> bool:
        """Give every run what it waits for; False if all have ended."""
        page = await engine.list_runs(status=["running", "suspended"], limit=500)
        for run in page.runs:
            if run.status == "suspended":
                with suppress(PikkuError):
                    await (self._accept(engine, run.id) if self._takes_code(run) else self._resume(engine, run.id))
            for step in await engine.steps(run.id):
                if step.kind is StepKind.SIGNAL and step.ended_at is None:
                    with suppress(PikkuError):
                        await self._give(engine, run.id, step.name.split("#", 1)[0])
        return bool(page.runs)

    def _takes_code(self, run: Any) -> bool:
        return "ReplayMismatch" in (run.reason or "") and self._rng.random() < 0.7

    async def _give(self, engine: Engine, run_id: str, name: str) -> None:
        if name in APPROVALS:
            await self._approve(engine, run_id, name, 1)
        else:
            await self._signal(engine, run_id, name)

    async def pause(self, leaves: asyncio.Event, seconds: float) -> bool:
        """Let the time pass; True if the engine is to be left meanwhile."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await leaves.wait()
        except TimeoutError:
            return False
        return True

    async def idle(self, leaves: asyncio.Event) -> bool:
        """As `pause`, for about as long as people take."""
        return await self.pause(leaves, self._rng.choice((1.0, 60.0, LONGEST_US / SECOND)))
