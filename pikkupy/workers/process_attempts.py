"""Attempts in worker processes."""

from __future__ import annotations

import asyncio

import msgspec

from pikkupy.core.outcomes import Failed, Outcome, Succeeded
from pikkupy.errors import PayloadError
from pikkupy.failures import describe
from pikkupy.services import outlet_in
from pikkupy.workers.loop_attempts import TaskAttempt
from pikkupy.workers.messages import News, Reply, Request, called


class ProcessAttempt(TaskAttempt):
    """A function in a worker process, which is killed if it must end: after the grace if it is only asked to."""

    _killed = False

    def _run(self) -> None:
        self._spawn(self._converse())

    def _ask_to_end(self) -> None:
        if self._has_begun:
            self._arm(self._premises.cancel_grace_us, self._interrupt)
        else:
            self._interrupt()

    def drop(self) -> None:
        if not self._has_begun:  # the process is asked already, or will be by its task
            self.stop()

    def halt(self) -> None:
        self.stop()
        if not self.over:
            self._interrupt()

    def _interrupt(self) -> None:
        if not self._killed:  # a second cancel would cut off the wait for the killed process
            self._killed = True
            super()._interrupt()

    async def _converse(self) -> Outcome:
        try:
            answer = await self._premises.processes.call(
                called(self.call.body.fn), self._request(), self._begin, self._told, self.step
            )
            return self._reply(msgspec.msgpack.decode(answer, type=Reply))
        except asyncio.CancelledError as error:
            return self._interrupted(error)
        except Exception as error:  # noqa: BLE001 - a lost worker, or an answer that makes no sense
            return Failed(describe(error), None, final=isinstance(error, PayloadError))

    async def _told(self, message: bytes) -> None:
        assert self.call.variables is not None  # only sleeps have none
        outlet = outlet_in(self.call.variables)
        if outlet is not None:
            news = msgspec.msgpack.decode(message, type=News)
            if news.progress is not None:
                outlet.progress(self.step, news.progress)
            await outlet.relay(self.step, news.texts)

    def _request(self) -> bytes:
        return msgspec.msgpack.encode(Request(function=called(self.call.body.fn), step=self.step, data=self.call.data))

    def _reply(self, reply: Reply) -> Outcome:
        if reply.error is not None:
            return Failed(reply.error, None, reply.final)
        return Succeeded(self._as_asked(reply.output or "null"))

    def _as_asked(self, output: str) -> str:
        """The process encodes to the function's own annotation; the call may have named another `result_type`."""
        call, values = self.call, self._premises.values
        annotation = call.body.result_type
        if annotation is call.result_type or annotation == call.result_type:
            return output
        what = f"output of step {self.step.step_name!r}"
        return values.encode(values.decode(output, annotation, what=what), call.result_type, what=what)
