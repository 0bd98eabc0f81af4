"""Worker processes: one attempt at a time in each, kept for the next, killed and replaced when one goes wrong.

Not built on `anyio.to_process`: that keeps its processes per event loop and not per engine, does not say how a process
died, leaves one behind when it is cancelled while it starts, throws away what the function writes to stderr, and sends
pickles.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from pikkupy.errors import WorkerLost
from pikkupy.log import Logger
from pikkupy.services import StepContext
from pikkupy.workers.child import Child
from pikkupy.workers.line import Line
from pikkupy.workers.messages import NEWS, Application, Called, source_of_main

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
    """The worker processes of one engine. The lane in front of it limits how many there are."""

    def __init__(self, max_payload: int, warn_payload: int, functions: Iterable[Called], log: Logger) -> None:
        """`functions` are those that can be called; each call adds its own, for those that are registered later."""
        self._settings = (str(max_payload), str(warn_payload))
        self._functions = frozenset(functions)
        self._log = log
        self._alive: set[_Worker] = set()  # until they are seen to be dead
        self._idle: list[_Worker] = []

    async def call(
        self, called: Called, request: bytes, begun: Callable[[], None], told: Told, step: StepContext
    ) -> bytes:
        """The process's answer to `request`; `begun` is called when the function begins, `told` with each of its news.

        Raises `WorkerLost` if the process dies or cannot be started. Cancelled, it kills the process.
        """
        self._functions |= {called}
        while self._idle:
            worker = self._idle.pop()
            if called not in worker.functions:
                await worker.end()  # it was started before the function was registered
                continue
            try:
                return await self._use(worker, request, begun, told, step)
            except _DiedIdle:
                continue
        try:
            worker = await self._start()
        except OSError as error:
            raise WorkerLost(f"no worker process could be started for step {step.step_name!r}: {error}") from error
        return await self._use(worker, request, begun, told, step)

    async def close(self) -> None:
        """End every process."""
        self._idle = []
        await asyncio.gather(*(worker.end() for worker in self._alive))

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

    def _has_died(self, worker: _Worker) -> None:
        """Of those that ran something, their call has heard."""
        self._alive.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)


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

    async def ask(self, request: bytes, begun: Callable[[], None], told: Told) -> bytes:
        """One request, one answer, news in between. Raises `WorkerLost`, or `_DiedIdle`."""
        try:
            async with asyncio.timeout(START_S):
                await self._send(request)
                early = await self._receive()
        except TimeoutError:
            raise WorkerLost(f"worker process {self.pid} did not begin the function within {START_S:g} s") from None
        except WorkerLost:
            if self._has_waited:
                raise _DiedIdle from None
            raise
        self._has_waited = True
        if early:
            return early  # refused before it began
        begun()
        while (message := await self._receive()).startswith(NEWS):
            await told(message[len(NEWS) :])  # a process that tells more than there is room for waits meanwhile
        return message

    def kill(self) -> None:
        """Kill it, unless it is dead."""
        if not self._child.dead.is_set():
            self._child.kill()

    async def end(self) -> None:
        """Let it end by itself, kill it if it does not."""
        try:
            self._line.transport.close()
            await asyncio.wait([self._gone], timeout=EXIT_S)
        finally:
            self.kill()
            await self.gone()

    async def gone(self) -> None:
        """Return when it is dead and the connection is closed."""
        await asyncio.wait([self._gone])

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
