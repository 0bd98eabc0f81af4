"""One history: programs, what people do, what goes wrong; lives one after another until every run has ended."""

from __future__ import annotations

import asyncio
import random
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import Any

import msgspec

from pikkupy.config import Config
from pikkupy.engine import Engine
from pikkupy.engine.host import BEGINS_AT_ONCE, Surroundings
from pikkupy.engine.residents import Residents
from pikkupy.errors import EngineClosed, JournalError
from pikkupy.testing.simulation import phases
from pikkupy.testing.simulation.application import application
from pikkupy.testing.simulation.asked import Violation
from pikkupy.testing.simulation.bodies import MANY
from pikkupy.testing.simulation.checks import Checks
from pikkupy.testing.simulation.clock import SimulatedClock
from pikkupy.testing.simulation.code import Code
from pikkupy.testing.simulation.disk import CODES, PLACES, SimulatedDisk
from pikkupy.testing.simulation.loop import Crash, SimulatedLoop, Stuck
from pikkupy.testing.simulation.oracle import Oracle
from pikkupy.testing.simulation.people import People
from pikkupy.testing.simulation.programs import LONGEST_US, SECOND
from pikkupy.testing.simulation.scenario import MOST_BACK, Fault, Scenario
from pikkupy.testing.simulation.threads import SimulatedThreads

ROUNDS = 100  # in which people give waiting runs what they wait for, once nothing goes wrong any more
PATIENCE_S = 10.0  # after a jump of the clock; the engine notices one after a second
LATE_US = 5 * SECOND  # of a run that waits in the file
CLEARED_UP = 0.35  # how often people delete something while they wait
GRACE_S, LEAVING_S = 1, 0.5  # for what is under way when the engine is left, and for all but what has to be cancelled
CANCEL_GRACE_S = (1, 5)  # a stubborn step takes two
FURTHER = 16  # the most commits that are drawn to be taken away by a loss of power are up to so many times as many
LONGEST_BODY_S = 120  # and its waiting for a slot
WORKERS = (1, 2, MANY)  # attempts that run at once, on the loop and on threads
DOWN_S = (0.0, 0.0, 0.001, 5.0, 4_000.0)  # between two lives
STOPS = ("io_error", "ghost", "read")  # what an engine stops for; the other errors of a disk pass, and are waited for
ON_LOOP = 2  # of so many seeds in `process` durability, one writes on the loop
AT_ONCE = (1, 2, 3, BEGINS_AT_ONCE)  # steps of one run in a turn of the loop, by the seed


class Report(msgspec.Struct):
    """What came of a history."""

    crashes: int
    lives: int
    trace: str
    cells: dict[str, int]  # faults by phase: "crash in outcome"
    counts: dict[str, int]


class _Left(Exception):
    """The engine was left in order, because a fault says so."""


class History:
    """Runs one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._rng = random.Random(scenario.seed ^ 0x5EED)  # noqa: S311
        self._disk = SimulatedDisk(self._at_place, self._can_go_back)
        self._clock = SimulatedClock()
        workers = WORKERS[scenario.seed % len(WORKERS)]
        self.oracle = Oracle(self._disk, self._clock, workers)
        self.code = Code()
        self.people = People(scenario, self.oracle, self.code, self._disk.query, self._rng, self.note)
        self.life = 0
        self._checks = Checks(self._disk.query, self.oracle)
        self._faults = list(reversed(scenario.faults))
        self._passed = 0
        self._trace = blake2b(digest_size=8)
        self._cells: Counter[str] = Counter()
        self._crashes = 0
        self._now_s = 0.0
        self._back = 0
        self._deploys: list[Fault] = []  # for the next life
        self._disk_has_failed = False  # in this life
        self._opening = True
        self.stubborn: set[asyncio.Task[Any]] = set()
        self._later: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._leaves = asyncio.Event()
        self._engine: Engine | None = None
        self._cancel_grace_s = CANCEL_GRACE_S[scenario.seed % len(CANCEL_GRACE_S)]
        self._config = Config(
            durability=scenario.durability,  # type: ignore[arg-type]
            database_thread=scenario.durability == "full" or scenario.seed % ON_LOOP != 0,
            watchdog_after=None,
            show_running_after="1s",
            max_payload=100_000,
            shutdown_grace=f"{GRACE_S}s",
            cancel_grace=f"{self._cancel_grace_s}s",
            async_workers=workers,
            thread_workers=workers,
            resident_runs=scenario.resident_runs,
            max_cut_offs=scenario.max_cut_offs,
            unload_after=scenario.unload_after_us / 1_000,
        )
        self.oracle.bodies.loop_writes = not self._config.database_thread
        self._pikku, self._pikku_without = application(self, whole=True), application(self, whole=False)

    def run(self) -> Report:
        """Live until every run has ended. Raises `Violation`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                while not self._lived():
                    if self.life > 4 * len(self.scenario.faults) + 40:
                        raise Violation("stuck: one life follows another, and nothing goes wrong any more (I-40)")
            finally:
                self._disk.close()
        return Report(self._crashes, self.life, self._trace.hexdigest(), self._cells, self.oracle.counts)

    def note(self, what: str) -> None:
        """Something has happened: the same in each execution of the history."""
        assert self._clock.loop is not None
        self._trace.update(f"{self._clock.loop.now_s:.6f} {what}\n".encode())

    def watch(self, life: int, check: Callable[[], None]) -> None:
        """Check something on behalf of code that must not see a violation; nothing if its life is over."""
        if life == self.life:
            try:
                check()
            except Violation as violation:
                self.people.violation = self.people.violation or violation
            except Exception as error:  # noqa: BLE001 - of the simulation: a workflow might keep it to itself
                self.people.violation = self.people.violation or Violation(f"error: {error!r}")

    @property
    def has_stopped(self) -> bool:
        """Whether the journal has failed."""
        parts = None if self._engine is None else self._engine._parts
        return parts is not None and parts.host.journal.failure is not None

    # Lives

    def _lived(self) -> bool:
        loop = self._clock.loop = SimulatedLoop(self._now_s, self._rng)
        self._disk_has_failed = False
        self._later = None
        self.stubborn.clear()
        self.life += 1
        self._change_code()
        self.people.next_life(self.life)
        pikku = self._pikku_without if self.code.missing else self._pikku
        at_once = AT_ONCE[self.scenario.seed % len(AT_ONCE)]
        surroundings = Surroundings(self._disk.open_journal, self._rng.randbytes, SimulatedThreads, at_once)
        engine = self._engine = Engine(":memory:", pikku, None, self._clock, self._config, surroundings)
        life, ended = self.life, False
        asyncio.set_event_loop(loop)
        try:
            ended = loop.run_until_complete(self._live(engine))
        except Crash:
            self._crashes += 1
        except Stuck as stuck:
            if self.people.violation is None:
                raise Violation(f"stuck: {stuck} (I-41)") from None
        finally:
            self._bury(loop, engine)
        if self.people.violation is not None:
            raise self.people.violation
        self.life = life
        self._now_s = loop.now_s + self._rng.choice(DOWN_S)
        return ended

    def _change_code(self) -> None:
        self.code.missing = False
        for fault in self._deploys:
            self.oracle.asked.changed.add(f"r{fault.run}")
            self.code.deploy(f"r{fault.run}", self.scenario.programs[fault.run], fault)
        self._deploys.clear()

    async def _live(self, engine: Engine) -> bool:
        """True once every run has ended. Without `async with`: a crash leaves nothing in order."""
        self._leaves = asyncio.Event()
        self._opening = True
        self._arm()
        ended = False
        try:
            await engine.__aenter__()
            self._opening = False
            host, residents, _ = engine._use()
            self._checks.opened()
            self._checks.look()
            self.oracle.given.check_gates(at_rest=False)
            if not host.journal.busy:
                self._checks.facts()
                self._check_workflows(residents)
            else:
                self._later = asyncio.get_running_loop().create_task(self._check_workflows_later(engine))
            await self._work(engine)
            await self._heal(engine)
            ended = True
        except (JournalError, EngineClosed, _Left):
            self._check_it_had_a_reason(engine)
        except Violation as violation:
            self.people.violation = self.people.violation or violation
        await self._leave(engine)
        await self._check_nothing_is_left()
        return ended

    def _check_workflows(self, residents: Residents) -> None:
        def is_coming(number: int) -> bool:
            return residents.resident(number) is not None or residents.holds.is_held(number)

        self._checks.workflows(is_coming, whole=not self.code.missing)

    async def _check_workflows_later(self, engine: Engine) -> None:
        """While something is on disk that was not told yet, any run may be on its way because of that."""
        host, residents, _ = engine._use()
        while host.journal.busy:
            await host.journal.idle()
        if engine._parts is not None and host.dispatching:
            self.watch(self.life, partial(self._check_workflows, residents))

    def _check_it_had_a_reason(self, engine: Engine) -> None:
        failure = None if engine._parts is None else engine._parts.host.journal.failure
        if failure is not None and not self._disk_has_failed and self.people.violation is None:
            self.people.violation = Violation(f"stopped: {failure}, and nothing was wrong (I12)")

    async def _leave(self, engine: Engine) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        await engine.__aexit__(None, None, None)
        took_s = loop.time() - begun_s
        if took_s > GRACE_S + self._cancel_grace_s + LEAVING_S:
            raise Violation(f"left: it took {took_s:g} s to leave the engine (I-42)")

    async def _work(self, engine: Engine) -> None:
        people, loop = self.people, asyncio.get_running_loop()
        while people.to_do:
            await self._pause(people.to_do[0].at_us / 1e6 - loop.time())
            if people.to_do:
                people.begin(engine, people.to_do.pop(0))
            engine._use()
        while people.busy or (self._faults and await self._help(engine)):
            await self._idle()
            if self._rng.random() < CLEARED_UP:
                await people.clear_up(engine)
            engine._use()

    async def _heal(self, engine: Engine) -> None:
        self._faults.clear()
        self._arm()
        if self.code.missing:
            if self._later is not None:
                await self._later
            raise _Left
        for _ in range(ROUNDS):
            if not await self._help(engine):
                break
            await self._pause(LONGEST_US / SECOND)
        self._checks.at_the_end()
        await self._check_nothing_wakes()

    async def _check_nothing_wakes(self) -> None:
        """Every run has ended: nothing is written any more, once the last bodies have, however long one waits."""
        await self._pause(LONGEST_BODY_S)
        commits = self._disk.commits
        await self._pause(2 * LONGEST_US / SECOND)
        self.people.check_told()
        if self._disk.commits > commits:
            raise Violation("end: something was written long after every run had ended (I-25)")

    async def _help(self, engine: Engine) -> bool:
        host, residents, _ = engine._use()
        if not (residents.busy or host.journal.busy):
            self._checks.look()
            self._checks.facts()
            self.oracle.given.check_gates(at_rest=True)
            calm_us = host.now_us() if self._clock.is_calm_since(PATIENCE_S) else None
            self._checks.next_moves(residents.active, calm_us, LATE_US)
            self.people.check_told()
        try:
            return await self.people.help(engine)
        except JournalError:
            if host.journal.failure is not None:
                raise
            return True  # one read has failed

    async def _pause(self, seconds: float) -> None:
        if await self.people.pause(self._leaves, seconds):
            raise _Left

    async def _idle(self) -> None:
        if await self.people.idle(self._leaves):
            raise _Left

    async def _check_nothing_is_left(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)  # callers are told that the engine was left
        if self._disk.is_open:
            raise Violation("open: a transaction was left open (I-44)")
        own: set[asyncio.Task[Any] | None] = {asyncio.current_task(), self._later, *self.people.tasks}
        tasks = [] if self._clock.loop is None else self._clock.loop.tasks
        # A body that does not stop when it is asked to is left behind.
        own.update(task for task in self.stubborn if task.cancelling())
        left = [task for task in tasks if not (task.done() or task in own)]
        if left and self.people.violation is None:
            raise Violation(f"left: {left[0]!r} remains after the engine was left (I13, I-42)")

    def _bury(self, loop: SimulatedLoop, engine: Engine) -> None:
        """End what is left of a life, without letting it do anything."""
        self.life = -1
        loop.set_exception_handler(lambda *_: None)  # what was thrown away reports nothing
        if self._timer is not None:
            self._timer.cancel()
        back, self._back = self._back, 0
        if self._disk.die(back):
            self._checks.went_back()
        loop._ready.clear()  # type: ignore[attr-defined]
        loop._scheduled.clear()  # type: ignore[attr-defined]
        if engine._parts is not None:
            engine._parts.host.dispatching = False
            loop.call_soon(engine._parts.residents.leave, EngineClosed("crashed"))
            loop.call_soon(loop.stop)
            with suppress(BaseException):
                loop.run_forever()
        for task in loop.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(BaseException):
                    task.get_coro().close()
        loop.tasks.clear()
        loop._ready.clear()  # type: ignore[attr-defined]
        loop._scheduled.clear()  # type: ignore[attr-defined]
        loop.close()
        asyncio.set_event_loop(None)
        self.oracle.restored(self._disk.commits)

    # Faults

    def _arm(self) -> None:
        """Get ready for the next fault."""
        self._passed = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = self._clock.loop
        if self._faults and self._faults[-1].place == "" and loop is not None:
            self._timer = loop.call_later(self._faults[-1].after / 1e6, partial(self._strike, ""))

    def _can_go_back(self) -> bool:
        return any(fault.what == "power" and fault.size > 0 for fault in self._faults)

    def _at_place(self, place: str) -> str | None:
        self.note(place)
        if place == "before_begin":
            self.watch(self.life, partial(self.oracle.writes, self._disk.batch))
        if self.people.violation is not None:
            raise Crash
        if not self._faults or self._faults[-1].place != place:
            return None
        self._passed += 1
        return self._strike(place) if self._passed >= self._faults[-1].after else None

    def _strike(self, place: str) -> str | None:
        fault = self._faults.pop()
        self.note(fault.what)
        self._timer = None
        self._disk_has_failed |= fault.what in STOPS
        if fault.what == "act":
            self._act_now()
        else:
            self._count(fault, place)
        if fault.what in ("crash", "power"):
            self._back = fault.size if fault.size < MOST_BACK else fault.size * (1 + self.scenario.seed % FURTHER)
            raise Crash
        if fault.what in ("back", "forward"):
            self._clock.jump(fault.size)
        if fault.what in ("leave", "deploy"):
            self._leaves.set()
        if fault.what == "deploy":
            self._deploys.append(fault)
        self._arm()
        return fault.what if fault.what in CODES else None

    def _act_now(self) -> None:
        """A person acts in the middle of a write."""
        engine = self._engine
        if self.people.to_do and engine is not None and engine._parts is not None and not self._opening:
            asyncio.get_running_loop().call_soon(self.people.begin, engine, self.people.to_do.pop(0))

    def _count(self, fault: Fault, place: str) -> None:
        parts = None if self._engine is None else self._engine._parts
        residents = None if parts is None else parts.residents
        met = phases.of_batch(self._disk.batch, place, residents) if place in PLACES else set[str]()
        if fault.what == "read" and residents is not None:
            met = phases.of_read(residents, self.people.under_way)
        elif parts is not None and not place:
            waiting = [logical.ops for logical in parts.host.journal._committer._queue]
            met = phases.of_batch(waiting, "", residents) | phases.of_memory(parts.residents)
        if self._opening:
            met.add("recovery")
        self.oracle.counts["struck"] += 1
        self.oracle.counts["idle crashes"] += fault.what in ("crash", "power") and not met
        for phase in met or {"idle"}:
            self._cells[f"{fault.what} in {phase}"] += 1
