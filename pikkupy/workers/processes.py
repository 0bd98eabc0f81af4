"""Worker processes: one attempt at a time in each, kept for the next, killed and replaced when one goes wrong.

Built on `anyio.open_process` rather than on `anyio.to_process`: that one keeps its processes per event loop and not
per engine, does not say how a process died, leaves one behind when it is cancelled while it starts, throws away what
the function writes to stderr, and sends pickles.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable

import anyio
import msgspec
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from pikkupy.errors import WorkerLost
from pikkupy.log import Logger
from pikkupy.services import StepContext
from pikkupy.workers.messages import LENGTH, NEWS, Application, Called, framed, source_of_main

START_S = 120.0  # real time that a process may take to start and import the application, before it counts as hung
Told = Callable[[bytes], Awaitable[None]]

EXIT_S = 1.0  # real time that a process may take to end by itself, before it is killed

# The first line that a process reads is the module search path of this one: what it needs to import anything else. The
# second is what it may run.
# Standard input is read through a descriptor of its own, which what the function starts does not inherit.
_BOOT = (
    "import json, os, sys; pipe = os.fdopen(os.dup(0), 'rb'); sys.path[:] = json.loads(pipe.readline()); "
    "from pikkupy.workers.process import main; main(pipe)"
)


class Processes:
    """The worker processes of one engine. The lane in front of it limits how many there are."""

    def __init__(self, max_payload: int, warn_payload: int, functions: Iterable[Called], log: Logger) -> None:
        """`functions` are those that can be called; each call adds its own, for those that are registered later."""
        self._settings = (str(max_payload), str(warn_payload))
        self._functions = frozenset(functions)
        self._log = log
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()

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
                self._alive.discard(worker)
                await worker.end()  # it was started before the function was registered
                continue
            try:
                return await self._use(worker, request, begun, told, step)
            except _DiedIdle:
                continue
        try:
            worker = await _Worker.start(self._settings, self._functions)
        except OSError as error:
            raise WorkerLost(f"no worker process could be started for step {step.step_name!r}: {error}") from error
        self._alive.add(worker)
        return await self._use(worker, request, begun, told, step)

    async def close(self) -> None:
        """End every process."""
        workers, self._idle = list(self._alive), []
        self._alive.clear()
        await asyncio.gather(*(worker.end() for worker in workers))

    async def _use(
        self, worker: _Worker, request: bytes, begun: Callable[[], None], told: Told, step: StepContext
    ) -> bytes:
        try:
            answer = await worker.ask(request, begun, told)
        except BaseException as error:
            self._alive.discard(worker)
            worker.kill()
            await worker.gone()
            if not isinstance(error, WorkerLost):
                raise
            self._log.warning("worker_lost", run_id=step.run_id, step=step.step_name, pid=worker.pid, reason=str(error))
            raise WorkerLost(f"{error} while it ran step {step.step_name!r}") from None
        self._idle.append(worker)
        return answer


class _DiedIdle(Exception):
    """A process that had served before was found dead before it began: another one can be asked."""


class _Worker:
    """One process and the pipes to it."""

    def __init__(self, process: Process, functions: frozenset[Called]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        self.functions = functions
        self._process = process
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self._served = 0
        self._gone = asyncio.get_running_loop().create_task(self._watch(), name=f"pikkupy worker process {self.pid}")

    @classmethod
    async def start(cls, settings: tuple[str, ...], functions: frozenset[Called]) -> _Worker:
        """A process in a session of its own: Ctrl-C in the terminal is for the engine, which then ends its workers."""
        command = [sys.executable, "-P", "-c", _BOOT, *settings]
        process = await anyio.open_process(command, stderr=None, start_new_session=True)
        return cls(process, functions)

    async def ask(self, request: bytes, begun: Callable[[], None], told: Told) -> bytes:
        """One request, one answer, news in between. Raises `WorkerLost`, or `_DiedIdle`."""
        try:
            async with asyncio.timeout(START_S):
                await self._send(request)
                early = await self._receive()
        except TimeoutError:
            raise WorkerLost(f"worker process {self.pid} did not begin the function within {START_S:g} s") from None
        except WorkerLost:
            if self._served:
                raise _DiedIdle from None
            raise
        self._served += 1
        if early:
            return early  # refused before it began
        begun()
        while (message := await self._receive()).startswith(NEWS):
            await told(message[len(NEWS) :])  # a process that tells more than there is room for waits meanwhile
        return message

    def kill(self) -> None:
        """Kill it, unless it is dead."""
        if self._process.returncode is None:
            self._kill_group()

    async def end(self) -> None:
        """Let it end by itself, kill it if it does not."""
        try:
            await self._stdin.aclose()
            await asyncio.wait([self._gone], timeout=EXIT_S)
        finally:
            self.kill()
            await self.gone()

    async def gone(self) -> None:
        """Return when it is dead and its pipes are closed."""
        await asyncio.wait([self._gone])

    async def _watch(self) -> None:
        """Lives as long as the process; a loop that ends cancels it, and so ends the process."""
        try:
            await self._process.wait()
        finally:
            # Also after its own death, but then at once: the number of a group is taken as long as it has members.
            self._kill_group()
            with anyio.CancelScope(shield=True):
                await self._process.aclose()

    def _kill_group(self) -> None:
        """Kill it and whatever it has started and left in its group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # nobody is left; macOS says the latter
            pass

    async def _send(self, request: bytes) -> None:
        try:
            await self._stdin.send((b"" if self._served else self._application()) + framed(request))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise WorkerLost(await self._obituary()) from None

    def _application(self) -> bytes:
        """The two lines that it reads first."""
        path = json.dumps([str(entry) for entry in sys.path]).encode()
        return b"%b\n%b\n" % (path, msgspec.json.encode(Application(self.functions, source_of_main())))

    async def _receive(self) -> bytes:
        # Not the end of the pipe alone tells that the process is dead: what it has forked may hold the pipe open.
        reading = asyncio.ensure_future(self._read())
        try:
            await asyncio.wait([reading, self._gone], return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError):
            pass
        finally:
            reading.cancel()
        raise WorkerLost(await self._obituary())

    async def _read(self) -> bytes:
        length = int.from_bytes(await self._stdout.receive_exactly(LENGTH), "big")
        return await self._stdout.receive_exactly(length)

    async def _obituary(self) -> str:
        await asyncio.wait([self._gone], timeout=EXIT_S)
        code = self._process.returncode
        if code is None:
            return f"worker process {self.pid} closed its pipe"
        if code < 0:
            return f"worker process {self.pid} was killed by {_signal_name(-code)}"
        return f"worker process {self.pid} exited with code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
