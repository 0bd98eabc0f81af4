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
from collections.abc import Callable, Coroutine, Sequence
from threading import get_ident
from typing import Any, NoReturn, TypeVar

import msgspec

from pikkupy.durations import MAX_US
from pikkupy.errors import BadType, DurationError, WorkflowMisuse

T = TypeVar("T")

TURN_LIMIT = 1_000_000  # callbacks in one turn; a body that spins on `sleep(0)` would block the application for ever
SPREAD = 0x9E37_79B9_7F4A_7C15  # 2**64 / golden ratio: multiples of it are far apart (Knuth, TAOCP 3, 6.4)
UNWIND_LIMIT = 1_000  # awaits that code may swallow while it is torn down before it is left alone

_NOT_OF_THE_USER = ("asyncio", "contextlib", "pikkupy.execution", __name__)  # modules, with what is in them

# Of a coroutine, a generator and an asynchronous generator.
_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED = ("cr_await", "gi_yieldfrom", "ag_await")

Intruded = Callable[[int, str], None]
"""Called, from whatever thread, with a run's number and what code outside of its workflow function did to it."""

CURE = "wrap it in `await workflow.do(name, ...)`, whose body runs on the application's event loop"


class Unwind(BaseException):
    """Thrown through a workflow body that must not go on; no `except Exception` can swallow it."""


class RunFuture(asyncio.Future[T]):
    """A future that hashes by creation number, so that a `set` of them is walked alike in every process."""

    __slots__ = ("_number",)

    def __init__(self, loop: RunLoop) -> None:
        self._number = loop.hashes = loop.hashes + 1
        asyncio.Future.__init__(self, loop=loop)

    def __hash__(self) -> int:
        return self._number


class RunTask(asyncio.Task[T]):
    """A task that hashes by creation number and refuses to wait for futures of other loops."""

    __slots__ = ("_body", "_number")

    def __init__(self, coro: Coroutine[Any, Any, T], *, loop: RunLoop, **options: Any) -> None:
        self._number = loop.hashes = loop.hashes + 1
        self._body = coro
        super().__init__(_Guarded(coro, loop), loop=loop, **options)

    def __hash__(self) -> int:
        return self._number

    def close_body(self) -> None:
        """A task that was cancelled before its first step has never touched its coroutine: close it unawaited."""
        self._body.close()

    def unwind(self) -> None:
        """End the coroutine here and now; what it awaits in `finally` blocks is not waited for."""
        self._log_destroy_pending = False  # asyncio would report a task that is dropped unfinished
        for _ in range(UNWIND_LIMIT):
            try:
                self._body.throw(Unwind())
            except BaseException:  # noqa: BLE001 - whatever it raises, it has ended, or a later throw finds it so
                if not _is_suspended(self._body):
                    break
        # What it waits for and the task itself hold each other. Runs that leave memory should not need the garbage
        # collector: with thousands of others in memory it costs more than everything else that leaving takes.
        waiter: Any = self._fut_waiter  # type: ignore[attr-defined]
        if waiter is not None:
            asyncio.Future.cancel(waiter)


def _of_the_body(name: str) -> property:
    return property(lambda guarded: getattr(guarded._body, name))


class _Guarded(Coroutine[Any, Any, T]):
    """A coroutine that lets through to its task only futures of the run's own loop.

    asyncio itself would answer a foreign future with a RuntimeError that does not say what to do.
    """

    __slots__ = ("_body", "_loop")

    # What else a coroutine shows, for `repr` and stacks of tasks. With a `__getattr__` every look at a field is slower.
    __name__ = _of_the_body("__qualname__")  # pyright: ignore[reportAssignmentType] # of the instance, as coroutines do
    cr_await = _of_the_body("cr_await")
    cr_code = _of_the_body("cr_code")
    cr_frame = _of_the_body("cr_frame")
    cr_running = _of_the_body("cr_running")

    def __init__(self, body: Coroutine[Any, Any, T], loop: RunLoop) -> None:
        self._body = body
        self._loop = loop

    def send(self, value: Any) -> Any:
        loop, yielded = self._loop, self._body.send(value)
        return yielded if yielded is None or getattr(yielded, "_loop", loop) is loop else self._refuse(yielded)

    def throw(self, *error: Any) -> Any:
        loop, yielded = self._loop, self._body.throw(*error)
        return yielded if yielded is None or getattr(yielded, "_loop", loop) is loop else self._refuse(yielded)

    def close(self) -> None:
        """Nothing: the body is ended by `RunTask`."""

    def __await__(self) -> Any:
        return self._body.__await__()

    def _refuse(self, yielded: Any) -> Any:
        while yielded is not None and getattr(yielded, "_loop", self._loop) is not self._loop:
            yielded._asyncio_future_blocking = False
            yielded = self._body.throw(
                WorkflowMisuse(f"a workflow body awaited {yielded!r}, which belongs to another event loop; {CURE}")
            )
        return yielded


class ReadyHandle(msgspec.Struct, eq=False):
    """A ready callback: to its callers what asyncio's own handle is, and cheap to make; a step takes several."""

    _callback: Callable[..., object]
    _args: tuple[Any, ...]
    _context: contextvars.Context
    _cancelled: bool = False

    def cancel(self) -> None:
        """Never call the callback."""
        self._cancelled = True

    def cancelled(self) -> bool:
        """True after `cancel`."""
        return self._cancelled


class RunTimer(asyncio.TimerHandle):
    """A timer that a run has set, under its number."""

    __slots__ = ("delay_us", "due_us", "number", "place")

    number: int
    due_us: int  # epoch
    delay_us: int  # from the run's time when it was set
    place: tuple[str, int]  # file and line of the code that has set it


class _Timers:
    """The timers of one run."""

    __slots__ = ("armed", "dropped", "dues", "set")

    def __init__(self) -> None:
        self.set: dict[int, RunTimer] = {}  # those that may still fire
        self.dues: list[int] = []  # when each timer was to fire, by number, cancelled ones too
        self.armed: list[RunTimer] = []  # since the engine asked last
        self.dropped: list[int] = []  # since the engine asked last


class RunLoop(asyncio.AbstractEventLoop):
    """See the module. Not thread-safe; `turn` is called by the engine from a plain callback of the host loop."""

    def __init__(self, number: int, now_us: int, intruded: Intruded) -> None:
        self._host = asyncio._get_running_loop()  # in whose callbacks all of this happens
        self._number = number
        self._intruded = intruded
        self._misuse: str | None = None  # found in this turn, where it could not be raised
        self._ready: list[ReadyHandle | RunTimer] = []
        self._main: RunTask[Any] | None = None
        self._tasks: dict[int, RunTask[Any]] | None = None  # the others; most runs have none
        self._timers: _Timers | None = None  # most runs set none
        # The hash of the newest task or future: a number that depends on the run and the order of creation alone.
        # Another start for each run: tasks of all runs meet in asyncio's own sets, where equal hashes would pile up.
        self.hashes = number * SPREAD & 0xFFFF_FFFF_FFFF_FFF
        self._created = 0  # tasks
        # The identity of the thread that is at work on the run, 0 if none is: from the moment when the engine hands
        # something in to the end of the turn that follows.
        self.thread = 0
        self._stopped = False
        self._origin_us = now_us  # `time` counts from here, so that its floats are exact to the microsecond
        self.now_us = now_us  # the run's time: that of the newest outcome

    # What the engine calls

    def turn(self) -> None:
        """Run what is ready, and what becomes ready, until nothing is or `stop` was called."""
        asyncio._set_running_loop(self)
        self.thread = get_ident()
        left = TURN_LIMIT
        try:
            while left > 0:
                if not self._ready:
                    return
                ready, self._ready = self._ready, []
                left -= len(ready)
                for handle in ready:
                    if self._stopped:
                        return
                    if handle._cancelled:
                        continue
                    try:
                        handle._context.run(handle._callback, *handle._args)  # type: ignore[union-attr]
                    except BaseException:  # noqa: BLE001, S110 - see `call_exception_handler`
                        # SystemExit and KeyboardInterrupt, too: asyncio has put them into the task, whose end is looked
                        # at; the host loop is not meant.
                        pass
        finally:
            self.thread = 0
            asyncio._set_running_loop(self._host)
            if self._misuse is not None:
                raise WorkflowMisuse(self._misuse)
        raise WorkflowMisuse(
            f"the workflow ran {TURN_LIMIT:,} callbacks without waiting for anything durable; "
            "do not spin on `asyncio.sleep(0)`: wait for a step, an `asyncio.Event` or `workflow.sleep`"
        )

    def start(
        self, body: Coroutine[Any, Any, T], variables: contextvars.Context, finished: Callable[[asyncio.Task[T]], None]
    ) -> None:
        """Make the run's main task ready; `finished` is called, on this loop, when it is done."""
        self.thread = get_ident()
        self._main = task = RunTask(body, loop=self, name="main", context=variables)
        task.add_done_callback(finished, context=variables)

    def error(self) -> BaseException | None:
        """What the run's body has raised, if it has ended so."""
        main = self._main
        return main.exception() if main is not None and main.done() and not main.cancelled() else None

    def stop(self) -> None:
        """Run nothing more: the run has ended, or must not go on."""
        self._stopped = True

    def fire(self, number: int) -> None:
        """Make a timer's callback ready, unless it was cancelled."""
        timer = None if self._timers is None else self._timers.set.pop(number, None)
        if timer is not None and not timer.cancelled():
            self._ready.append(timer)

    def timer_due(self, number: int) -> int | None:
        """When the timer of that number was to fire, cancelled or not; None if the run has set no such timer."""
        timers = self._timers
        return None if timers is None or number >= len(timers.dues) else timers.dues[number]

    def timer_place(self, number: int) -> str | None:
        """`file:line` of the code that has set a timer, if it may still fire."""
        timer = None if self._timers is None else self._timers.set.get(number)
        return None if timer is None else "{}:{}".format(*timer.place)

    def main_place(self) -> str | None:
        """`file:line` of the code of the main task that waits, as deep as it is the user's own."""
        place: str | None = None
        waits: Any = None if self._main is None else self._main._body
        while waits is not None:
            frame = _first_of(waits, _FRAMES)
            if frame is not None and not _is_ours(frame.f_globals.get("__name__", "")):
                place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            waits = _first_of(waits, _AWAITED)
        return place

    def take_timers(self) -> tuple[Sequence[RunTimer], Sequence[int]]:
        """The timers set since the last call that may still fire, and the numbers of those cancelled since."""
        timers = self._timers
        if timers is None:
            return (), ()
        armed = [timer for timer in timers.armed if timer.number in timers.set]
        dropped = timers.dropped
        timers.armed, timers.dropped = [], []
        return armed, dropped

    @property
    def has_timers(self) -> bool:
        """True if the run has ever set a timer."""
        return self._timers is not None

    @property
    def waits_for_timer(self) -> bool:
        """True while a timer is set that has not been cancelled."""
        return self._timers is not None and bool(self._timers.set)

    def tear_down(self) -> None:
        """End every coroutine of the run; plain code in their `finally` blocks runs now."""
        self._stopped = True
        main, others = self._main, self._tasks
        if others:
            self._unwind([*(() if main is None else (main,)), *others.values()])
        elif main is not None and not main.done():
            self._unwind((main,))
        self._ready = []
        self._main = self._tasks = self._timers = None

    def _unwind(self, tasks: Sequence[RunTask[Any]]) -> None:
        asyncio._set_running_loop(self)
        try:
            for task in tasks:
                if not task.done():
                    task.unwind()
        finally:
            asyncio._set_running_loop(self._host)

    # What asyncio calls

    def call_soon(  # type: ignore[override] # typeshed ties the arguments to the callback
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> ReadyHandle:
        handle = ReadyHandle(callback, args, contextvars.copy_context() if context is None else context)
        if self.thread == get_ident():
            self._ready.append(handle)
        elif not self._stopped:
            self._intruded(
                self._number,
                "code outside of the workflow function ended something that the workflow waits for (a future, task, "
                "event or queue), which no replay can repeat; return it from a step: "
                "`await workflow.do(name, ...)`",
            )
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        what = f"a workflow body called loop.call_soon_threadsafe: it cannot use threads; {CURE}"
        if self.thread != get_ident():
            # A thread of some library answers a body that awaited it: an error would end the thread, which others need.
            # The answer is dropped, and the run, which it would have woken, ends with the misuse.
            if not self._stopped:
                self._intruded(self._number, f"a workflow body waits for the answer of a thread; {CURE}")
        elif sys._getframe(1).f_globals.get("__name__") == "asyncio.futures":
            self._misuse = what  # wrap_future of a finished future, which would swallow and print what is raised here
            self.stop()
        else:
            raise WorkflowMisuse(what)
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
        timers = self._timers
        if timers is None:
            timers = self._timers = _Timers()
        timer = RunTimer(when, callback, args, self, context)
        timer.number = len(timers.dues)
        timer.due_us = max(self._origin_us + round(when * 1e6), self.now_us)
        timer.delay_us = timer.due_us - self.now_us
        timer.place = place_of_call()
        timers.dues.append(timer.due_us)
        timers.set[timer.number] = timer
        timers.armed.append(timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        assert isinstance(handle, RunTimer)  # this loop makes no others
        timers = self._timers
        if timers is not None and timers.set.pop(handle.number, None) is not None:
            timers.dropped.append(handle.number)

    def time(self) -> float:
        return (self.now_us - self._origin_us) / 1e6

    def create_future(self) -> RunFuture[Any]:
        return RunFuture(self)

    def create_task(  # type: ignore[override] # typeshed's newer signatures differ from version to version
        self, coro: Coroutine[Any, Any, T], *, name: object = None, **options: Any
    ) -> RunTask[T]:
        if not asyncio.iscoroutine(coro):
            raise BadType(
                f"create_task takes a coroutine, not {coro!r}: a durable call has begun already; await it, give it to "
                "asyncio.gather as it is, or call it in an `async def`"
            )
        if _called_by_as_completed():
            close = getattr(coro, "close", None)
            if close is not None:
                close()
            raise WorkflowMisuse(
                "asyncio.as_completed over bare coroutines starts them in an order that no replay can repeat; "
                "make tasks first: as_completed([asyncio.create_task(c) for c in coroutines])"
            )
        options.pop("eager_start", None)  # Python 3.14: an eager task would run before its number is known
        # asyncio would number the tasks of the whole process; in there, a run's tasks are numbered by themselves.
        task = RunTask(coro, loop=self, name=f"task-{self._created}" if name is None else name, **options)
        self._created += 1
        if self._tasks is None:
            self._tasks = {}
        self._tasks[task._number] = task
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        if self._tasks is not None:
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
        raise WorkflowMisuse(f"a workflow body called loop.{name}: it cannot do I/O or use threads itself; {CURE}")

    refused.__name__ = name
    return refused


def _refuse_the_rest() -> None:
    """Everything of an event loop that is not defined above is I/O, threads or signals: refused with the cure."""
    for name in dir(asyncio.AbstractEventLoop):
        if not name.startswith("_") and name not in vars(RunLoop):
            setattr(RunLoop, name, _refusal(name))


_refuse_the_rest()


def new_run_loop(number: int, now_us: int, intruded: Intruded) -> RunLoop:
    """A loop for the run of that number, at that time."""
    return RunLoop(number, now_us, intruded)  # type: ignore[abstract] # what is missing above was filled in by _refuse_the_rest


def _is_suspended(coro: Coroutine[Any, Any, Any]) -> bool:
    frame = getattr(coro, "cr_frame", None)
    return frame is not None


def _first_of(waits: object, names: Sequence[str]) -> Any:
    return next((part for name in names if (part := getattr(waits, name, None)) is not None), None)


def _is_ours(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _NOT_OF_THE_USER)


def place_of_call() -> tuple[str, int]:
    """File and line of the nearest caller that is no code of asyncio or of the rooms that workflows call."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _called_by_as_completed() -> bool:
    frame = sys._getframe(2)
    while frame.f_globals.get("__name__") == "asyncio.tasks":
        if "as_completed" in frame.f_code.co_qualname or "AsCompleted" in frame.f_code.co_qualname:
            return True
        if frame.f_back is None:
            break
        frame = frame.f_back
    return False
