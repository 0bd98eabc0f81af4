"""One history: programs, what people do, what goes wrong; lives one after another until every run has ended."""

from __future__ import annotations

import asyncio
import random
import warnings
from collections import Counter
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import msgspec

from pikkupy.config import Config
from pikkupy.core.model import StepKind
from pikkupy.engine import Engine
from pikkupy.engine.host import Outside
from pikkupy.errors import EngineClosed, JournalError, PikkuError
from pikkupy.execution import Workflow
from pikkupy.pikku import Pikku
from pikkupy.services import Services, StepContext, current_step
from pikkupy.testing.simulation.disk import CODES, PLACES, SimulatedDisk
from pikkupy.testing.simulation.loop import Crash, SimulatedLoop, Stuck
from pikkupy.testing.simulation.oracle import Oracle, Violation
from pikkupy.testing.simulation.programs import (
    APPROVALS,
    LONGEST_US,
    SECOND,
    SIGNALS,
    Do,
    Generator,
    Node,
    interpret,
)

EPOCH_US = 1_893_456_000_000_000  # 2030-01-01; the loop's time begins at 0 there
WHATS = ("crash", "power", "busy", "full", "io_error", "clock", "leave")
ROUNDS = 60  # in which people give waiting runs what they wait for, once nothing goes wrong any more


class Act(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a person does at a time, in µs from the beginning."""

    at_us: int
    does: str  # start, signal, approve, resume, cancel, retry, fork
    run: int  # number of the program
    name: str = ""


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that goes wrong, counted from the fault before it."""

    what: str  # crash, power, busy, full, io_error, clock, leave
    place: str = ""  # of the disk; none: at a time
    after: int = 1  # passings of that place, or µs
    size: int = 0  # commits that power takes away; µs that the clock jumps


class Scenario(msgspec.Struct, frozen=True):
    """All that a history depends on."""

    seed: int
    programs: list[Node]
    acts: list[Act]
    faults: list[Fault]
    durability: str = "full"
    resident: bool = True


def draw(seed: int) -> Scenario:
    """The scenario of that seed."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    programs = [Generator(rng, 12).program() for _ in range(rng.choice((1, 1, 2, 3)))]
    acts = [Act(_time(rng) // 20, "start", number) for number in range(len(programs))]
    for _ in range(rng.randint(0, 10)):
        does = rng.choice(("signal",) * 5 + ("approve",) * 2 + ("resume",) * 2 + ("cancel", "retry"))
        name = rng.choice(APPROVALS if does == "approve" else SIGNALS)
        acts.append(Act(_time(rng), does, rng.randrange(len(programs)), name))
    durability = rng.choice(("full", "full", "process"))
    faults = [_fault(rng, durability) for _ in range(rng.choice((2, 6, 12, 25)))]
    return Scenario(seed, programs, sorted(acts, key=lambda act: act.at_us), faults, durability, rng.random() < 0.5)


def _time(rng: random.Random) -> int:
    return int(rng.expovariate(1 / (2 * LONGEST_US)))


def _fault(rng: random.Random, durability: str) -> Fault:
    what = rng.choice(("crash",) * 6 + ("power", "busy", "full", "io_error", "clock", "leave"))
    if what == "clock":
        size = rng.choice((-LONGEST_US, -SECOND, SECOND, 10 * LONGEST_US))
        return Fault(what, after=_time(rng), size=size)
    if what == "leave" or (what in ("crash", "power") and rng.random() < 0.25):
        return Fault(what, after=_time(rng), size=rng.randint(0, 4) if durability == "process" else 0)
    places = {"busy": ("before_begin",), "full": ("after_begin", "before_commit"), "io_error": PLACES[:4]}
    place = rng.choice(places.get(what, PLACES))
    size = rng.randint(0, 4) if what == "power" and durability == "process" else 0
    return Fault(what, place, rng.choice((1, 1, 2, 3, 5, 8)), size)


class Report(msgspec.Struct):
    """What came of a history."""

    crashes: int
    lives: int
    trace: str
    cells: dict[str, int]  # faults by phase: "crash in work"
    counts: dict[str, int]


class _Clock:
    """The engine's clock: the loop's time, with the jumps that were made."""

    virtual = False

    def __init__(self) -> None:
        self.loop: SimulatedLoop | None = None
        self.offset_us = 0

    def now_us(self) -> int:
        assert self.loop is not None
        return EPOCH_US + round(self.loop.now_s * 1e6) + self.offset_us

    def poke(self) -> None:
        """Nobody waits for that."""


class _Left(Exception):
    """The engine was left in order, because a fault says so."""


class History:
    """Runs one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._rng = random.Random(scenario.seed ^ 0x5EED)  # noqa: S311
        self._disk = SimulatedDisk(self._at_place, keeps_images=scenario.durability == "process")
        self._oracle = Oracle(self._disk)
        self._clock = _Clock()
        self._faults = list(reversed(scenario.faults))
        self._passed = 0
        self._acts = list(scenario.acts)
        self._trace = blake2b(digest_size=8)
        self._cells: Counter[str] = Counter()
        self._crashes = self._lives = 0
        self._now_s = 0.0
        self._life = 0
        self._sent = 0
        self._back = 0
        self._phase = "start"
        self._violation: Violation | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._leaves = asyncio.Event()
        self._pikku = _application(self)

    def run(self) -> Report:
        """Live until every run has ended. Raises `Violation`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while not self._lived():
                self._lives += 1
                if self._lives > 4 * len(self.scenario.faults) + 20:
                    raise Violation("stuck: one life follows another, and nothing goes wrong any more")
        return Report(self._crashes, self._lives + 1, self._trace.hexdigest(), self._cells, self._oracle.counts)

    # Lives

    def _lived(self) -> bool:
        loop = self._clock.loop = SimulatedLoop(self._now_s, self._rng)
        self._life += 1
        engine = self._engine()
        ended = False
        asyncio.set_event_loop(loop)
        try:
            ended = loop.run_until_complete(self._live(engine))
        except Crash:
            self._crashes += 1
        except Stuck:
            if self._violation is None:
                raise Violation("stuck: nothing is ready, and no timer is set") from None
        finally:
            self._bury(loop, engine)
        if self._violation is not None:
            raise self._violation
        self._now_s = loop.now_s + self._rng.choice((0.0, 0.001, 5.0, 4_000.0))
        return ended

    def _engine(self) -> Engine:
        settings: dict[str, Any] = {} if self.scenario.resident else {"resident_runs": 0, "unload_after": 0}
        config = Config(
            durability=self.scenario.durability,  # type: ignore[arg-type]
            watchdog_after=None,
            show_running_after="1s",
            max_payload=100_000,
            shutdown_grace="1s",
            **settings,
        )
        outside = Outside(self._disk.open_journal, self._rng.randbytes)
        return Engine(":memory:", self._pikku, None, self._clock, config, outside)

    async def _live(self, engine: Engine) -> bool:
        """True once every run has ended. Without `async with`: a crash leaves nothing in order."""
        self._leaves = asyncio.Event()
        self._arm()
        ended = False
        try:
            await engine.__aenter__()
            self._oracle.look()
            self._phase = "work"
            await self._work(engine)
            self._phase = "heal"
            await self._heal(engine)
            ended = True
        except (JournalError, EngineClosed, _Left):
            self._phase = "stopped"
        except Violation as violation:
            self._violation = self._violation or violation
        await engine.__aexit__(None, None, None)
        return ended

    async def _work(self, engine: Engine) -> None:
        loop, people = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        while self._acts:
            act = self._acts[0]
            await self._pause(act.at_us / 1e6 - loop.time())
            self._acts.remove(act)
            task = loop.create_task(self._perform(engine, act))
            people.add(task)
            task.add_done_callback(people.discard)
            engine._use()
        while people or (self._faults and await self._help(engine)):
            await self._pause(self._rng.choice((1.0, 60.0, 3_600.0)))
            engine._use()

    async def _heal(self, engine: Engine) -> None:
        self._faults.clear()
        self._arm()
        for _ in range(ROUNDS):
            if not await self._help(engine):
                break
            await self._pause(LONGEST_US / SECOND)
        self._oracle.at_the_end()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._leaves.wait()
        except TimeoutError:
            return
        raise _Left

    def _bury(self, loop: SimulatedLoop, engine: Engine) -> None:
        """End what is left of a life, without letting it do anything."""
        self._life += 1
        if self._timer is not None:
            self._timer.cancel()
        back, self._back = self._back, 0
        self._disk.die(back)
        parts = engine._parts
        if parts is not None:
            parts.host.dispatching = False
            loop.call_soon(parts.residents.leave, EngineClosed("crashed"))
            loop.call_soon(loop.stop)
            with suppress(BaseException):
                loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with suppress(BaseException):
                task.get_coro().close()
        loop._ready.clear()  # type: ignore[attr-defined]
        loop._scheduled.clear()  # type: ignore[attr-defined]
        loop.close()
        asyncio.set_event_loop(None)
        self._oracle.restored(self._disk.image.commits)

    # Faults

    def _arm(self) -> None:
        """Get ready for the next fault."""
        self._passed = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = self._clock.loop
        if self._faults and self._faults[-1].place == "" and loop is not None:
            self._timer = loop.call_later(self._faults[-1].after / 1e6, self._strike)

    def _at_place(self, place: str) -> str | None:
        self._note(place)
        if self._violation is not None:
            raise Crash
        if not self._faults or self._faults[-1].place != place:
            return None
        self._passed += 1
        return self._strike() if self._passed >= self._faults[-1].after else None

    def _strike(self) -> str | None:
        fault = self._faults.pop()
        self._cells[f"{fault.what} in {self._phase}"] += 1
        self._note(fault.what)
        self._timer = None
        if fault.what in ("crash", "power"):
            self._back = fault.size
            raise Crash
        if fault.what == "clock":
            self._clock.offset_us += fault.size
        if fault.what == "leave":
            self._leaves.set()
        self._arm()
        return fault.what if fault.what in CODES else None

    def _note(self, what: str) -> None:
        assert self._clock.loop is not None
        self._trace.update(f"{self._clock.loop.now_s:.6f} {what}\n".encode())

    # People

    async def _perform(self, engine: Engine, act: Act) -> None:
        run_id = f"r{act.run}"
        try:
            await self._act(engine, act, run_id)
        except Violation as violation:
            self._violation = self._violation or violation
        except (JournalError, EngineClosed):
            self._acts.insert(0, act)  # it is not known whether it was done: it is done again
        except PikkuError as refused:
            self._note(f"{act.does} refused {type(refused).__name__}")

    async def _act(self, engine: Engine, act: Act, run_id: str) -> None:
        self._note(act.does)
        match act.does:
            case "start":
                await engine.start("program", msgspec.to_builtins(self.scenario.programs[act.run]), run_id=run_id)
                self._oracle.started(run_id)
            case "signal":
                self._sent += 1
                await engine.signal(run_id, act.name, [self._sent])
                self._oracle.sent(run_id)
            case "approve":
                await engine.approve(run_id, act.name, act.at_us % 100)
            case "resume":
                await engine.resume(run_id)
            case "cancel":
                await engine.cancel(run_id, "enough")
                self._oracle.cancelled(run_id)
            case "retry":
                self._oracle.is_retried(run_id)
                await engine.retry(run_id)

    async def _help(self, engine: Engine) -> bool:
        """Give every run what it waits for; False if all have ended."""
        parts = engine._use()
        if not (parts.residents.busy or parts.host.journal.busy):
            self._oracle.look()
            self._oracle.check_next_moves(parts.residents.active)
        page = await engine.list_runs(status=["running", "suspended"], limit=500)
        for run in page.runs:
            if run.status == "suspended":
                with suppress(PikkuError):
                    await engine.resume(run.id)
            for step in await engine.steps(run.id):
                if step.kind is StepKind.SIGNAL and step.ended_at is None:
                    name = step.name.split("#")[0]
                    with suppress(PikkuError):
                        if name in APPROVALS:
                            await engine.approve(run.id, name, 1)
                        else:
                            self._sent += 1
                            await engine.signal(run.id, name, [self._sent])
        return bool(page.runs)


def _application(history: History) -> Pikku:
    pikku = Pikku()

    @pikku.workflow
    async def program(workflow: Workflow, data: dict[str, Any]) -> Any:
        history._oracle.left_memory(workflow.run_id)
        node: Any = msgspec.convert(data, Node)
        return await interpret(node, workflow, _Observer(history, history._life))

    @pikku.function
    async def act(services: Services, data: dict[str, Any]) -> Any:  # noqa: ARG001
        return await _Observer(history, history._life).act(msgspec.convert(data, Do))

    return pikku


class _Observer:
    """What the workflows and steps of one life tell, as long as it lasts."""

    def __init__(self, history: History, life: int) -> None:
        self._history = history
        self._life = life

    def saw(self, run_id: str, what: Any) -> None:
        history = self._history
        if history._life != self._life:
            return
        try:
            history._oracle.saw(run_id, what)
        except Violation as violation:
            history._violation = history._violation or violation

    async def act(self, node: Do) -> Any:
        history, step = self._history, current_step()
        assert step is not None
        if history._life != self._life:
            return None
        try:
            history._oracle.begins(node, step, self._life)
        except Violation as violation:
            history._violation = history._violation or violation
        history._note(f"{step.run_id} {step.step_name} {step.attempt_count}")
        if node.lasts_us:
            await asyncio.sleep(node.lasts_us / SECOND)
        return await _effect(node, step)


async def _effect(node: Do, step: StepContext) -> Any:
    match node.acts:
        case "fail":
            if step.attempt_count <= node.failures:
                raise OSError(f"attempt {step.attempt_count}")
        case "hang":
            await asyncio.sleep(1e6)
        case "stubborn":
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1e6)
            await asyncio.sleep(2)
            return "late"
        case "huge":
            return "x" * 200_000
        case "unfit":
            return object()
        case "exit":
            raise SystemExit(3)
    return [step.step_name, step.attempt_count]
