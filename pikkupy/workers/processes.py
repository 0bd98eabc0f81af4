"""Worker processes: one attempt at a time in each, kept for the next, killed and replaced when one goes wrong.

Once a function has begun, a spare is started beside its process, in the background: it imports what the functions that
have begun so far need, and takes the place of the next process that is lost, or the next place that is needed at all.

Not built on `anyio.to_process`: that keeps its processes per event loop and not per engine, does not say how a process
died, leaves one behind when it is cancelled while it starts, throws away what the function writes to stderr, and sends
pickles.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator

import msgspec

from pikkupy.errors import WorkerLost
from pikkupy.log import Logger
from pikkupy.services import StepContext
from pikkupy.workers.child import Child
from pikkupy.workers.line import Line
from pikkupy.workers.messages import NEWS, Application, Called, Preparation, source_of_main

START_S = 120.0  # real time that a process may take to start and import the application, before it counts as hung
Told = Callable[[bytes], Awaitable[None]]

EXIT_S = 1.0  # real time that a process may take to end by itself, before it is killed

# The first line that a process reads is the module search path of this one: what it needs to import anything else. The
# second is what it may run.
# Standard input is read through a descriptor of its own, which what the function starts does not inherit.
_BOOT = (
    "import json, os, sys; pipe = os.fdopen(os.dup(0), 'rb'); sys.path[:] = json.loads(pipe.readline() or sys.exit()); "
    "from pikkupy.workers.process import main; main(pipe)"
)


class Processes:
    """The worker processes of one engine. The lane in front limits how many there are, beside the spares."""

    def __init__(
        self, max_payload: int, warn_payload: int, functions: Iterable[Called], log: Logger, spares: int
    ) -> None:
        """`functions` are those that can be called; each call adds its own, for those that are registered later."""
        self._settings = (str(max_payload), str(warn_payload))
        self._functions = frozenset(functions)
        self._log = log
        self._alive: set[_Worker] = set()  # until they are seen to be dead
        self._idle: list[_Worker] = []  # that have served
        self._spares: list[_Worker] = []  # that have not, the oldest first; the last may still be starting
        self._spares_wanted = spares
        self._spares_replaced = False  # one that died as a spare was replaced, and nothing has begun since
        self._refilling: asyncio.Task[None] | None = None
        self._begun: dict[str, Called] = {}  # by module, as it is a module that is imported: the first that has begun

    async def call(
        self, called: Called, request: bytes, begun: Callable[[], None], told: Told, step: StepContext
    ) -> bytes:
        """The process's answer to `request`; `begun` is called when the function begins, `told` with each of its news.

        Raises `WorkerLost` if the process dies or cannot be started. Cancelled, it kills the process.
        """
        self._functions |= {called}

        def begins() -> None:
            begun()
            self._has_begun(called)

        for worker in self._standing():
            if called not in worker.functions:
                await worker.end()  # it was started before the function was registered
                continue
            try:
                return await self._use(worker, request, begins, told, step)
            except _DiedIdle:
                continue
        try:
            worker = await self._start()
        except OSError as error:
            raise WorkerLost(f"no worker process could be started for step {step.step_name!r}: {error}") from error
        return await self._use(worker, request, begins, told, step)

    async def close(self) -> None:
        """End every process."""
        self._spares_wanted = 0
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.wait([self._refilling])
        self._idle, self._spares = [], []
        await asyncio.gather(*(worker.end() for worker in self._alive))

    def _standing(self) -> Iterator[_Worker]:
        """Those that wait for a request, to be tried in this order. One spare at most: each that dies costs a start."""
        while self._idle:
            yield self._idle.pop()
        if self._spares:
            yield self._spares.pop(0)

    async def _start(self) -> _Worker:
        """Raises `OSError`."""
        worker = await _Worker.start(self._settings, self._functions, self._has_died)
        self._alive.add(worker)
        return worker

    async def _use(
        self, worker: _Worker, request: bytes, begun: Callable[[], None], told: Told, step: StepContext
    ) -> bytes:
        try:
            answer = await worker.ask(request, begun, told)
        except BaseException as error:
            worker.kill()
            await worker.gone()
            if not isinstance(error, WorkerLost):
                raise
            self._log.warning("worker_lost", run_id=step.run_id, step=step.step_name, pid=worker.pid, reason=str(error))
            raise WorkerLost(f"{error} while it ran step {step.step_name!r}") from None
        self._idle.append(worker)
        return answer

    def _has_begun(self, called: Called) -> None:
        """A function runs, so its process may be lost: see to the spares.

        Not before it runs: what cannot even be imported would take one process after another along.
        """
        self._spares_replaced = False
        if called.module not in self._begun:
            self._begun[called.module] = called
            for worker in self._spares:
                worker.prepare([called])
        self._refill()

    def _has_died(self, worker: _Worker) -> None:
        """Of those that ran something, their call has heard."""
        self._alive.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker in self._spares:
            self._spares.remove(worker)
            if not self._spares_replaced:
                self._spares_replaced = True  # by one only, should they all die
                self._refill()

    def _refill(self) -> None:
        if len(self._spares) < self._spares_wanted and self._refilling is None:
            self._refilling = asyncio.get_running_loop().create_task(self._start_spares(), name="pikkupy spare process")
            self._refilling.add_done_callback(self._refilled)

    def _refilled(self, _task: asyncio.Task[None]) -> None:
        self._refilling = None

    async def _start_spares(self) -> None:
        """One after another, so that they leave the machine to those that work; the first failure ends it.

        Whatever keeps a spare from starting is told by the call that comes to need a process.
        """
        while len(self._spares) < self._spares_wanted:
            try:
                worker = await self._start()
            except OSError:
                return
            self._spares.append(worker)
            worker.prepare(list(self._begun.values()))
            if not await worker.prepared():
                return


class _DiedIdle(Exception):
    """A process that had waited was found dead before it began: another one can be asked."""


class _Worker:
    """One process and the conversation with it. `died` is called when it is dead, but not when the loop ends."""

    def __init__(
        self,
        child: Child,
        line: Line,
        functions: frozenset[Called],
        died: Callable[[_Worker], None],
    ) -> None:
        self.pid = child.pid
        self.functions = functions
        self._child = child
        self._line = line
        self._died = died
        self._unsent = self._application()
        self._has_waited = False  # for a request; what it dies of before it begins is then not the request's fault
        self._is_hung = False
        self._preparing: asyncio.Task[None] | None = None
        self._gone = asyncio.get_running_loop().create_task(self._watch(), name=f"pikkupy worker process {self.pid}")
        self._gone.add_done_callback(self._hang_up)

    @classmethod
    async def start(
        cls, settings: tuple[str, ...], functions: frozenset[Called], died: Callable[[_Worker], None]
    ) -> _Worker:
        """Raises `OSError`."""
        child = Child([sys.executable, "-P", "-c", _BOOT, *settings])
        try:
            _, line = await asyncio.get_running_loop().create_unix_connection(Line, sock=child.connection)
        except BaseException:
            child.connection.close()
            child.kill()
            await child.dead.wait()
            raise
        return cls(child, line, functions, died)

    def prepare(self, functions: list[Called]) -> None:
        """Let it import what these need, as far as it knows them, before it is asked for anything."""
        self._has_waited = True
        message = msgspec.msgpack.encode(Preparation(functions=functions))
        self._preparing = asyncio.get_running_loop().create_task(self._prepare(message, self._preparing))

    async def _prepare(self, message: bytes, before: asyncio.Task[None] | None) -> None:
        """A death is noticed by whoever waits for the process."""
        if before is not None:
            await asyncio.wait([before])
        with contextlib.suppress(WorkerLost):
            await self._send(NEWS + message)
            await self._receive()

    async def prepared(self) -> bool:
        """Return when it has imported what it was to, True if it lives."""
        while self._preparing is not None and not self._preparing.done():
            await asyncio.wait([self._preparing])  # and once more if there is more to prepare by then
        return not self._child.dead.is_set()

    async def ask(self, request: bytes, begun: Callable[[], None], told: Told) -> bytes:
        """One request, one answer, news in between. Raises `WorkerLost`, or `_DiedIdle`."""
        patience = asyncio.get_running_loop().call_later(START_S, self._give_up)  # `asyncio.timeout` costs much more
        try:
            await self.prepared()
            await self._send(request)
            early = await self._receive()
        except WorkerLost:
            if self._is_hung:
                reason = f"worker process {self.pid} did not begin the function within {START_S:g} s"
                raise WorkerLost(reason) from None
            if self._has_waited:
                raise _DiedIdle from None
            raise
        finally:
            patience.cancel()
        self._has_waited = True
        if early:
            return early  # refused before it began
        begun()
        while (message := await self._receive()).startswith(NEWS):
            await told(message[len(NEWS) :])  # a process that tells more than there is room for waits meanwhile
        return message

    def _give_up(self) -> None:
        self._is_hung = True
        self.kill()

    def kill(self) -> None:
        """Kill it, unless it is dead."""
        if not self._child.dead.is_set():
            self._child.kill()

    async def end(self) -> None:
        """Let it end by itself; kill it if it does not, or is still starting and would only notice later."""
        try:
            if self._preparing is None or self._preparing.done():
                self._line.transport.close()
                await asyncio.wait([self._gone], timeout=EXIT_S)
        finally:
            self.kill()
            await self.gone()

    async def gone(self) -> None:
        """Return when it is dead and the connection is closed."""
        await asyncio.wait([self._gone])
        if self._preparing is not None:
            await asyncio.wait([self._preparing])

    async def _watch(self) -> None:
        """Lives as long as the process; a loop that ends cancels it, and so ends the process."""
        try:
            await self._child.dead.wait()
        finally:
            # Also after its own death, but then at once: the number of a group is taken as long as it has members.
            self._child.kill()
            self._line.transport.abort()  # which wakes whoever reads: what it has forked may hold the other end open
            await self._child.dead.wait()
        self._died(self)

    def _hang_up(self, _watch: asyncio.Task[None]) -> None:
        """A loop that ends may have cancelled the watch before it began."""
        self.kill()
        self._line.transport.abort()

    async def _send(self, message: bytes) -> None:
        unsent, self._unsent = self._unsent, b""
        try:
            await self._line.send(message, unsent)
        except OSError:
            raise WorkerLost(await self._obituary()) from None

    def _application(self) -> bytes:
        """The two lines that it reads first."""
        path = json.dumps([str(entry) for entry in sys.path]).encode()
        return b"%b\n%b\n" % (path, msgspec.json.encode(Application(self.functions, source_of_main())))

    async def _receive(self) -> bytes:
        try:
            return await self._line.receive()
        except OSError:
            raise WorkerLost(await self._obituary()) from None

    async def _obituary(self) -> str:
        await asyncio.wait([self._gone], timeout=EXIT_S)
        return f"worker process {self.pid} {self._child.obituary()}"
