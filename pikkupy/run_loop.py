"""A run's own event loop: a FIFO of ready callbacks, timers that somebody else fires, and nothing else.

Workflow code runs on it, so plain asyncio (`gather`, `TaskGroup`, `wait`, `timeout`, `Queue`, `Lock` …) does exactly
the same on every replay: the only things that enter are recorded outcomes, one at a time. Its `time()` is the run's
recorded time. There is no I/O in it, and whoever asks for some is told to wrap it in a step.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import sys
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from hashlib import blake2b
from typing import Any, NoReturn, TypeVar

from pikkupy.durations import MAX_US
from pikkupy.errors import DurationError, WorkflowMisuse

T = TypeVar("T")

TURN_LIMIT = 1_000_000  # callbacks in one turn; a body that spins on `sleep(0)` would block the application for ever
UNWIND_LIMIT = 1_000  # awaits that code may swallow while it is torn down before it is left alone

_CURE = "wrap it in `await workflow.do(name, ...)`, whose body runs on the application's event loop"


class Unwind(BaseException):
    """Thrown through a workflow body that must not go on; no `except Exception` can swallow it."""


class RunFuture(asyncio.Future[T]):
    """A future that hashes by creation number, so that a `set` of them is walked alike in every process."""

    def __init__(self, loop: RunLoop) -> None:
        self._number = loop.hashes = loop.hashes + 1
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class RunTask(asyncio.Task[T]):
    """A task that hashes by creation number and refuses to wait for futures of other loops."""

    def __init__(self, coro: Coroutine[Any, Any, T], *, loop: RunLoop, **options: Any) -> None:
        self._number = loop.hashes = loop.hashes + 1
        self._body = coro
        self._shell = _shell(coro, loop)
        super().__init__(self._shell, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number

    def close_body(self) -> None:
        """A task that was cancelled before its first step has never touched its coroutine: close it unawaited."""
        self._body.close()

    def unwind(self) -> None:
        """End the coroutine here and now; what it awaits in `finally` blocks is not waited for."""
        self._log_destroy_pending = False  # asyncio would report a task that is dropped unfinished
        self._shell.close()
        for _ in range(UNWIND_LIMIT):
            try:
                self._body.throw(Unwind())
            except BaseException:  # noqa: BLE001 - whatever it raises, it has ended, or a later throw finds it so
                if not _is_suspended(self._body):
                    return


class RunTimer(asyncio.TimerHandle):
    """A timer that a run has set, under its number."""

    __slots__ = ("delay_us", "due_us", "number")

    number: int
    due_us: int  # epoch
    delay_us: int  # from the run's time when it was set


class RunLoop(asyncio.AbstractEventLoop):
    """See the module. Not thread-safe; `turn` is called by the engine from a plain callback of the host loop."""

    def __init__(self, run_id: str, now_us: int) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._tasks: dict[int, RunTask[Any]] = {}
        self._timers: dict[int, RunTimer] = {}  # those that may still fire
        self._dues: list[int] = []  # when each timer was to fire, by number, cancelled ones too
        self._armed: list[RunTimer] = []
        self._dropped: list[int] = []
        # The hash of the newest task or future: a number that depends on the run and the order of creation alone.
        # Another start for each run: tasks of all runs meet in asyncio's own sets, where equal hashes would pile up.
        self.hashes = int.from_bytes(blake2b(run_id.encode(), digest_size=7).digest(), "big")
        self._stopped = False
        self._origin_us = now_us  # `time` counts from here, so that its floats are exact to the microsecond
        self.now_us = now_us

    # What the engine calls

    def turn(self) -> None:
        """Run what is ready, and what becomes ready, until nothing is or `stop` was called."""
        ready = self._ready
        host = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            for _ in range(TURN_LIMIT):
                if not ready or self._stopped:
                    return
                handle = ready.popleft()
                if not handle.cancelled():
                    try:
                        handle._run()
                    except (SystemExit, KeyboardInterrupt):
                        pass  # asyncio has put it into the task, whose end is looked at; the host loop is not meant
        finally:
            asyncio._set_running_loop(host)
        raise WorkflowMisuse(
            f"the workflow ran {TURN_LIMIT:,} callbacks without waiting for anything durable; "
            "do not spin on `asyncio.sleep(0)`: wait for a step, an `asyncio.Event` or `workflow.sleep`"
        )

    def stop(self) -> None:
        """Run nothing more: the run has ended, or must not go on."""
        self._stopped = True

    def advance(self, now_us: int) -> None:
        """Move the run's time to that of an outcome; it never goes back."""
        self.now_us = max(self.now_us, now_us)

    def fire(self, number: int) -> None:
        """Make a timer's callback ready, unless it was cancelled."""
        timer = self._timers.pop(number, None)
        if timer is not None and not timer.cancelled():
            self._ready.append(timer)

    def timer_due(self, number: int) -> int | None:
        """When the timer of that number was to fire, cancelled or not; None if the run has set no such timer."""
        return self._dues[number] if number < len(self._dues) else None

    def take_armed(self) -> list[RunTimer]:
        """The timers set since the last call that may still fire."""
        armed, self._armed = [timer for timer in self._armed if timer.number in self._timers], []
        return armed

    def take_dropped(self) -> list[int]:
        """The numbers of the timers cancelled since the last call."""
        dropped, self._dropped = self._dropped, []
        return dropped

    @property
    def waits_for_timer(self) -> bool:
        """True while a timer is set that has not been cancelled."""
        return bool(self._timers)

    def tear_down(self) -> None:
        """End every coroutine of the run; plain code in their `finally` blocks runs now."""
        self.stop()
        host = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            for task in [*self._tasks.values()]:
                if not task.done():
                    task.unwind()
        finally:
            asyncio._set_running_loop(host)
        for container in (self._ready, self._tasks, self._timers, self._armed):
            container.clear()

    # What asyncio calls

    def call_soon(  # type: ignore[override] # typeshed ties the arguments to the callback
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        if asyncio._get_running_loop() is self:
            raise WorkflowMisuse(f"a workflow body called loop.call_soon_threadsafe: it cannot use threads; {_CURE}")
        # A thread of some library answers a body that awaited it: an error would end the thread, which others need.
        # The answer is dropped, and the body, which nothing else can wake, is told.
        return asyncio.Handle(callback, args, self, context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        ahead = when - self.time()
        if not math.isfinite(ahead) or ahead * 1e6 > MAX_US:
            raise DurationError(f"asyncio timer in {ahead} s: use a finite number of seconds, at most 100 years")
        timer = RunTimer(when, callback, args, self, context)
        timer.number = len(self._dues)
        timer.due_us = max(self._origin_us + round(when * 1e6), self.now_us)
        timer.delay_us = timer.due_us - self.now_us
        self._dues.append(timer.due_us)
        self._timers[timer.number] = timer
        self._armed.append(timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        assert isinstance(handle, RunTimer)  # this loop makes no others
        if self._timers.pop(handle.number, None) is not None:
            self._dropped.append(handle.number)

    def time(self) -> float:
        return (self.now_us - self._origin_us) / 1e6

    def create_future(self) -> RunFuture[Any]:
        return RunFuture(self)

    def create_task(  # type: ignore[override] # typeshed's newer signatures differ from version to version
        self, coro: Coroutine[Any, Any, T], *, name: object = None, **options: Any
    ) -> RunTask[T]:
        if _called_by_as_completed():
            close = getattr(coro, "close", None)
            if close is not None:
                close()
            raise WorkflowMisuse(
                "asyncio.as_completed over bare coroutines starts them in an order that no replay can repeat; "
                "make tasks first: as_completed([asyncio.create_task(c) for c in coroutines])"
            )
        options.pop("eager_start", None)  # Python 3.14: an eager task would run before its number is known
        task = RunTask(coro, loop=self, **options)
        task.set_name(f"task-{task._number & 0xFFFF}" if name is None else str(name))
        self._tasks[task._number] = task
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(hash(task), None)
        if isinstance(task, RunTask):
            task.close_body()

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._stopped

    def get_task_factory(self) -> None:
        return None

    def get_exception_handler(self) -> None:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An error in a task that nobody awaited is the workflow's own affair, as in any replay of it."""

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """See `call_exception_handler`."""


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refused(self: RunLoop, *args: object, **options: object) -> NoReturn:  # noqa: ARG001
        raise WorkflowMisuse(f"a workflow body called loop.{name}: it cannot do I/O or use threads itself; {_CURE}")

    refused.__name__ = name
    return refused


def _refuse_the_rest() -> None:
    """Everything of an event loop that is not defined above is I/O, threads or signals: refused with the cure."""
    for name in dir(asyncio.AbstractEventLoop):
        if not name.startswith("_") and name not in vars(RunLoop):
            setattr(RunLoop, name, _refusal(name))


_refuse_the_rest()


def new_run_loop(run_id: str, now_us: int) -> RunLoop:
    """A loop for the run of that id, at that time."""
    return RunLoop(run_id, now_us)  # type: ignore[abstract] # what is missing above was filled in by _refuse_the_rest


async def _shell(coro: Coroutine[Any, Any, T], loop: RunLoop) -> T:
    return await _guarded(coro, loop)


@types.coroutine
def _guarded(coro: Coroutine[Any, Any, T], loop: RunLoop) -> Generator[Any, Any, T]:
    """Run `coro`, and let through to its task only futures of `loop`.

    asyncio itself would answer a foreign future with a RuntimeError that does not say what to do.
    """
    send, throw = coro.send, coro.throw
    error: BaseException | None = None
    try:
        while True:
            yielded = send(None) if error is None else throw(error)
            error = None
            if yielded is not None and getattr(yielded, "_loop", loop) is not loop:
                yielded._asyncio_future_blocking = False
                error = WorkflowMisuse(
                    f"a workflow body awaited {yielded!r}, which belongs to another event loop; {_CURE}"
                )
                continue
            try:
                yield yielded
            except GeneratorExit:
                raise  # `unwind` ends the body itself
            except BaseException as thrown:  # noqa: BLE001 - passed on
                error = thrown
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def _is_suspended(coro: Coroutine[Any, Any, Any]) -> bool:
    frame = getattr(coro, "cr_frame", None)
    return frame is not None


def _called_by_as_completed() -> bool:
    frame = sys._getframe(2)
    while frame.f_globals.get("__name__") == "asyncio.tasks":
        if "as_completed" in frame.f_code.co_qualname or "AsCompleted" in frame.f_code.co_qualname:
            return True
        if frame.f_back is None:
            break
        frame = frame.f_back
    return False
