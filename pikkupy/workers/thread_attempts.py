"""Attempts on threads."""

from __future__ import annotations

import sys
import traceback
from functools import partial
from threading import Thread

from pikkupy.core.outcomes import Outcome, Stopped
from pikkupy.errors import PayloadError
from pikkupy.services import enter
from pikkupy.workers.attempts import Attempt, failure, refusal, variables_of


class ThreadAttempt(Attempt):
    """A `def` function on a thread. Nothing can end a thread, so it is left behind at once."""

    _thread: Thread | None = None

    def _run(self) -> None:
        self._begin()
        context = variables_of(self.call)
        name = f"pikkupy {self.step.step_name}"
        try:
            self._thread = self._premises.threads.submit(name, partial(context.run, self._work), self.end)
        except RuntimeError as error:  # the system has no more threads to give
            self.end(failure(error))

    def _ask_to_end(self) -> None:
        self.abandon()

    def _expire(self) -> None:
        self.abandon()

    def _work(self) -> Outcome:
        """On the thread."""
        if self.over or self._premises.held:
            return Stopped()  # before the thread got to it: a body that nobody waits for must not begin
        enter(self.step)
        try:
            arguments = self._arguments()
        except PayloadError as error:
            return refusal(error)
        try:
            value = self.call.body.fn(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its failure
            return failure(error)
        return self._success(value)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0) if self._thread else None
        return "" if frame is None else "".join(traceback.format_stack(frame))
