"""A thread that notices when the event loop does not turn, and says whose code keeps it.

It asks the loop for a sign of life, waits for it, and sleeps for half the limit before it asks again: an idle
engine pays for two short wake-ups a second, and no step pays anything. Who blocks the loop is read off the stack of the
loop's thread when it is too late, from what the rooms between the loop and the user's code have in their variables.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from queue import Empty, SimpleQueue
from threading import Thread, get_ident
from types import FrameType
from typing import NamedTuple

from pikkupy.clock import monotonic_s, worked_s
from pikkupy.core.model import RunRow
from pikkupy.durations import Duration, microseconds
from pikkupy.log import ATTEMPT, RUN_ID, STEP, WORKFLOW, Logger
from pikkupy.services import StepContext

SLICES = 4  # waits into which the limit is divided; see `_Wait`
MOST_FRAMES = 50  # of a stack, the innermost; of a deep recursion the rest says nothing more
JOIN_S = 1.0  # how long leaving waits for the thread, which ends at once unless a log handler holds it up

ROOMS = ("pikkupy.engine.", "pikkupy.execution.", "pikkupy.workers.")  # that know for which run or step they work
MACHINERY = ("asyncio.", "pikkupy.")  # between the loop and the user's code
ONE_CALLBACK = asyncio.Handle._run.__code__  # what is outside of its frame is the loop itself


class Watchdog:
    """Watches the loop that it is made on. `limit_s` is real time, whatever clock the engine lives by.

    A loop that stands still for 1.5 times the limit is always noticed, for less than the limit never. That the process
    was stopped or did not get a core is not held against the loop.
    """

    def __init__(self, limit_s: float, log: Logger) -> None:
        self._loop = asyncio.get_running_loop()
        self._ident = get_ident()
        self._limit_s = limit_s
        self._log = log
        self._signs: SimpleQueue[bool] = SimpleQueue()  # True: the loop has turned; False: watch no more
        # A daemon: an engine that is never left must not keep the process alive.
        self._thread = Thread(target=self._watch, name="pikkupy watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; the thread has ended when this returns."""
        self._signs.put(False)
        self._thread.join(JOIN_S)

    # On the thread

    def _watch(self) -> None:
        while self._wait(self._limit_s / 2).sign is None and self._ask() and self._turns():
            pass

    def _ask(self) -> bool:
        """Ask for a sign of life. False: the loop is closed, though the engine was not left."""
        try:
            self._loop.call_soon_threadsafe(self._signs.put, True)
        except RuntimeError:
            return False
        return True

    def _turns(self) -> bool:
        """Wait until the loop turns, and tell if that takes too long. False: there is nothing to watch any more."""
        since_s = monotonic_s()
        told = False
        while not self._loop.is_closed():
            wait = self._wait(self._limit_s / SLICES)
            since_s += wait.absent_s
            blocked_s = round(monotonic_s() - since_s, 3)
            if wait.sign is not None:
                if told and wait.sign:
                    self._log.info("loop_free", blocked_s=blocked_s)
                return wait.sign
            if not told and blocked_s >= self._limit_s:
                told = self._tell(blocked_s)
        return False

    def _wait(self, wanted_s: float) -> _Wait:
        """Wait for a sign, for so long."""
        began_s, worked_before_s = monotonic_s(), worked_s()
        sign: bool | None = None
        try:
            sign = self._signs.get(timeout=wanted_s)
        except Empty:
            pass
        present_s = max(wanted_s, worked_s() - worked_before_s)
        return _Wait(sign, max(0.0, monotonic_s() - began_s - present_s))

    def _tell(self, blocked_s: float) -> bool:
        """Log what the loop is at, unless it is doing nothing."""
        frame = sys._current_frames().get(self._ident)
        if frame is None or not self._loop.is_running() or _is_idle(frame):
            return False
        frames, whose = _blocker(frame)
        if not self._signs.empty():
            return False  # it has turned meanwhile: this may be the stack of something else
        stack = "".join(traceback.StackSummary.extract(iter(frames), limit=-MOST_FRAMES).format())
        self._log.warning("loop_blocked", blocked_s=blocked_s, **whose, stack=stack)
        return True


def watchdog_of(after: Duration | None, log: Logger) -> Watchdog | None:
    """The watchdog of the running loop, if one is wanted."""
    limit_us = 0 if after is None else microseconds(after)
    return Watchdog(limit_us / 1e6, log) if limit_us else None


class _Wait(NamedTuple):
    """How a wait for a sign of life has ended.

    A wait that lasts longer than it was to, while the process did not work, was a stop of the whole process (SIGSTOP, a
    laptop that slept, a machine without a free core). If it did work, C code did not let go of the interpreter lock: a
    regular expression, say, which blocks the loop as much as Python does.
    """

    sign: bool | None
    absent_s: float  # seconds in which the process was stopped


def _is_idle(frame: FrameType) -> bool:
    """True if the loop itself waits for something to happen: then nobody blocks it, it has no core to run on."""
    caller = frame.f_back
    return _module(frame) == "selectors" and caller is not None and caller.f_code.co_name == "_run_once"


def _blocker(frame: FrameType | None) -> tuple[list[tuple[FrameType, int]], dict[str, object]]:
    """The stack of the code that is at work, outermost frame first, and whose it is as fields for the log."""
    inside: list[tuple[FrameType, int]] = []
    whose: dict[str, object] | None = None
    while frame is not None and whose is None:
        inside.append((frame, frame.f_lineno))
        whose = _whose(frame)
        frame = frame.f_back
    inside.reverse()
    users = next((n for n, (frame, _) in enumerate(inside) if not _module(frame).startswith(MACHINERY)), 0)
    return inside[users:], whose or {}


def _whose(frame: FrameType) -> dict[str, object] | None:
    """For which step or run the frame works; empty if for none, None if one has to look further outside."""
    if frame.f_code is ONE_CALLBACK:
        # Tasks that the step has made are not in the engine's hands, but have its context; the field is private.
        context = frame.f_locals["self"]._context
        named = {"run_id": RUN_ID, "workflow": WORKFLOW, "step": STEP, "attempt": ATTEMPT}
        return {name: context[variable] for name, variable in named.items() if variable in context}
    if not _module(frame).startswith(ROOMS):
        return None
    here = frame.f_locals
    owner = here.get("self")
    for step in (here.get("step"), getattr(owner, "step", None)):
        if isinstance(step, StepContext):
            return {
                "run_id": step.run_id,
                "workflow": step.workflow,
                "step": step.step_name,
                "attempt": step.attempt_count,
            }
    run = getattr(owner, "run", None)
    return {"run_id": run.run_id, "workflow": run.workflow} if isinstance(run, RunRow) else None


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
