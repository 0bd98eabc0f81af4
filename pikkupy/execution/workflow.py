"""`Workflow`: what a workflow function gets as its first argument."""

from __future__ import annotations

import random as random_module
from asyncio import Future
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from datetime import datetime
from types import FunctionType
from typing import Any, NoReturn, TypeVar, Unpack, cast, overload
from uuid import UUID

from pikkupy.codec import check_annotation
from pikkupy.core.commands import Policy, StepCall
from pikkupy.core.machine import FINAL_STEPS
from pikkupy.core.model import ErrorInfo, StepKind
from pikkupy.durations import Duration, microseconds, named_microseconds
from pikkupy.errors import BadType, BadValue, DurationError, FunctionNotFound, PayloadError, WorkflowMisuse
from pikkupy.execution.approvals import Decided, Expired, recorded_type
from pikkupy.execution.execution import Execution
from pikkupy.execution.options import StepOptions, policy_of
from pikkupy.failures import describe
from pikkupy.log import Logger
from pikkupy.moments import checked_us, moment
from pikkupy.names import check_name, check_step_name, short
from pikkupy.progress import Progress, check_progress
from pikkupy.registry import Function, Registry, WorkflowFunction, inline_result_type
from pikkupy.run_loop import Unwind

In = TypeVar("In")
Out = TypeVar("Out")

_NO_POLICY = policy_of({})
_BAD_CALLS = (BadValue, BadType, DurationError, FunctionNotFound, WorkflowMisuse)


def _check_type(name: str, annotation: Any) -> None:
    try:
        check_annotation(annotation)
    except TypeError as error:
        raise BadType(f"{name}={annotation!r} cannot be used: {error}") from None


class Workflow:
    """The durable calls of one run. Each takes its place in the run when it is called, and returns an awaitable."""

    __slots__ = (
        "_execution",
        "_logger",
        "_make_logger",
        "_random",
        "_registry",
        "_uuids",
        "name",
        "run_id",
        "services",
    )

    def __init__(
        self, execution: Execution, registry: Registry, services: Any, make_logger: Callable[[Execution], Logger]
    ) -> None:
        self._execution = execution
        self._registry = registry
        self._random: random_module.Random | None = None
        self._uuids: random_module.Random | None = None
        self.run_id: str = execution.run.run_id
        self.name: str = execution.run.workflow
        self.services = services
        self._make_logger = make_logger
        self._logger: Logger | None = None

    @overload
    def do(
        self,
        step_name: str,
        target: Function[In, Any, Any] | str,
        data: In = ...,
        *,
        result_type: type[Out],
        **options: Unpack[StepOptions],
    ) -> Future[Out]: ...
    @overload
    def do(
        self, step_name: str, target: Callable[[], Any], *, result_type: type[Out], **options: Unpack[StepOptions]
    ) -> Future[Out]: ...
    @overload
    def do(  # for `int | None`, `Literal[...]` and what else is no `type`
        self,
        step_name: str,
        target: Function[Any, Any, Any] | WorkflowFunction[Any, Any] | str | Callable[[], Any],
        data: Any = ...,
        *,
        result_type: Any,
        **options: Unpack[StepOptions],
    ) -> Future[Any]: ...
    @overload
    def do(
        self, step_name: str, target: Function[None, Out, Any], data: None = None, **options: Unpack[StepOptions]
    ) -> Future[Out]: ...
    @overload
    def do(
        self, step_name: str, target: Function[In, Out, Any], data: In, **options: Unpack[StepOptions]
    ) -> Future[Out]: ...
    @overload
    def do(
        self, step_name: str, target: WorkflowFunction[None, Out], data: None = None, **options: Unpack[StepOptions]
    ) -> Future[Out]: ...
    @overload
    def do(
        self, step_name: str, target: WorkflowFunction[In, Out], data: In, **options: Unpack[StepOptions]
    ) -> Future[Out]: ...
    @overload
    def do(self, step_name: str, target: str, data: Any = None, **options: Unpack[StepOptions]) -> Future[Any]: ...
    @overload
    def do(
        self, step_name: str, target: Callable[[], Awaitable[Out]], **options: Unpack[StepOptions]
    ) -> Future[Out]: ...
    @overload
    def do(self, step_name: str, target: Callable[[], Out], **options: Unpack[StepOptions]) -> Future[Out]: ...
    def do(
        self, step_name: str, target: Any, data: Any = None, *, result_type: Any = None, **options: Any
    ) -> Future[Any]:
        """One durable step: `target` runs until its outcome is recorded, and never after that.

        `target` is the name of a function or workflow, a `@pikku.function` object, a `@pikku.workflow` object (it runs
        as a child run, of the id `<run id>/<step name>`), or a callable without arguments, sync or async, that is
        called on the application's event loop (an inline step). The options are those of `StepOptions`; `result_type`
        is the type that the result is converted to, in place of the target's annotation.

        Awaiting the result raises `StepFailed` when the attempts are used up. The call itself raises, before anything
        happens and naming step and run: `TypeError` or `ValueError` (name, options, target), `DurationError`,
        `FunctionNotFound`, and `WorkflowMisuse` outside of the workflow function.
        """
        self._execution.check_caller("do")
        try:
            name = check_step_name(step_name)
            policy = policy_of(cast(StepOptions, options)) if options else _NO_POLICY
            if result_type is not None:
                _check_type("result_type", result_type)
            if isinstance(target, str):
                found = self._registry.find(check_name(target, "target name"))
                if found is None:
                    return self._unregistered_step(name, target, policy, result_type)
                target = found
            if isinstance(target, Function):
                return self._function_step(name, self._registry.find_function(target), data, policy, result_type)
            if isinstance(target, WorkflowFunction):
                return self._child_step(name, self._registry.find_workflow(target), data, policy, result_type)
            return self._inline_step(name, target, data, policy, result_type)
        except _BAD_CALLS as error:
            raise self._placed("do", step_name, error) from None

    def sleep(self, step_name: str, duration: Duration) -> Future[None]:
        """A durable timer: its deadline is on disk before the wait begins, and a restart does not change it.

        A `str` like "5min", a number of **milliseconds**, or a `timedelta`. Raises `DurationError` in the call.
        """
        self._execution.check_caller("sleep")
        try:
            name = check_step_name(step_name)
            duration_us = microseconds(duration)
        except _BAD_CALLS as error:
            raise self._placed("sleep", step_name, error) from None
        return self._sleep_step(name, duration_us=duration_us)

    def sleep_until(self, step_name: str, when: datetime) -> Future[None]:
        """A durable timer that ends at `when`, an aware `datetime`; a past one goes on at once.

        Raises `DurationError` for a naive one, and beyond 100 years.
        """
        self._execution.check_caller("sleep_until")
        try:
            name = check_step_name(step_name)
            until_us = checked_us("when", when, now_us=self._execution.loop.now_us)
        except _BAD_CALLS as error:
            raise self._placed("sleep_until", step_name, error) from None
        # Not before 1970: a past moment goes on at once, and the first and last of `datetime` cannot be shown in UTC.
        return self._sleep_step(name, until_us=max(0, until_us))

    @overload
    def wait_for_signal(self, name: str, *, timeout: Duration | None = None) -> Future[Any]: ...
    @overload
    def wait_for_signal(self, name: str, type: type[Out], *, timeout: Duration | None = None) -> Future[Out]: ...
    @overload
    def wait_for_signal(self, name: str, type: Any, *, timeout: Duration | None = None) -> Future[Any]: ...
    def wait_for_signal(self, name: str, type: Any = Any, *, timeout: Duration | None = None) -> Future[Any]:
        """The payload of the next signal of that name, converted to `type`.

        A signal that came before the wait is kept for it; each is taken once, in the order of their arrival, by the
        wait that was called first. Awaiting the result raises `SignalTimeout` after `timeout` (a duration), and
        `PayloadError` for a payload that does not fit `type`; the signal is used up then. The call itself raises as
        `do` does.
        """
        self._execution.check_caller("wait_for_signal")
        try:
            return self._signal_step(name, type, timeout, approval=False)
        except _BAD_CALLS as error:
            raise self._placed("wait_for_signal", name, error) from None

    @overload
    def approval(self, name: str, *, timeout: Duration | None = None) -> Future[Decided[Any] | Expired]: ...
    @overload
    def approval(
        self, name: str, type: type[Out], *, timeout: Duration | None = None
    ) -> Future[Decided[Out] | Expired]: ...
    @overload
    def approval(self, name: str, type: Any, *, timeout: Duration | None = None) -> Future[Decided[Any] | Expired]: ...
    def approval(
        self, name: str, type: Any = Any, *, timeout: Duration | None = None
    ) -> Future[Decided[Any] | Expired]:
        """A decision of that name, made by `engine.approve`: `Decided(decision, decided_by)`, or `Expired()`.

        A decision is checked against `type` before it is accepted: one that does not fit is refused to its sender, and
        the run goes on waiting; so is one that comes after the first, or after `timeout`. The call raises as `do` does.
        """
        self._execution.check_caller("approval")
        try:
            return self._signal_step(name, type, timeout, approval=True)
        except _BAD_CALLS as error:
            raise self._placed("approval", name, error) from None

    def suspend(self, reason: str) -> Future[None]:
        """Hold the run, or this branch of it, until `engine.resume(run_id)`: a gate, and each call is one of its own.

        The run is `suspended` as long as a gate is shut; other branches go on. The step is named by the reason.
        """
        self._execution.check_caller("suspend")
        try:
            name = check_step_name(reason, "reason")
        except _BAD_CALLS as error:
            raise self._placed("suspend", reason, error) from None
        execution = self._execution
        return execution.place(
            StepCall(
                position=execution.reached,
                name=execution.name_step(name),
                kind=StepKind.SUSPEND,
                policy=_NO_POLICY,
            )
        )

    def changed(self, change_id: str) -> bool:
        """Whether this run takes the new way at a place where the code was changed under live runs.

        False for a run that was past this place before the change; True for all others, which is recorded. Every call
        with the same id gives the same answer in one run.
        """
        self._execution.check_caller("changed")
        try:
            return self._execution.changed(check_name(change_id, "change_id"))
        except _BAD_CALLS as error:
            raise self._placed("changed", change_id, error) from None

    def progress(self, progress: Progress) -> None:
        """Say how far the run is: a fraction from 0 to 1, or a text of at most 1,000 characters.

        `Engine.get_run` and the events of the run show the latest. Raises `ValueError` or `TypeError`.
        """
        self._execution.check_caller("progress")
        try:
            self._execution.tell(check_progress(progress))
        except _BAD_CALLS as error:
            raise self._placed("progress", progress, error) from None

    def cancel(self, reason: str) -> NoReturn:
        """End the run as `cancelled`, here and now: nothing after this call runs, whatever the code catches."""
        self._execution.check_caller("cancel")
        if not isinstance(reason, str):
            raise BadType(
                f"cancel(reason) of run {self.run_id!r}: the reason must be a str, not {type(reason).__name__}"
            )
        self._execution.cancel(reason)
        raise Unwind

    @property
    def logger(self) -> Logger:
        """A logger bound to the run; it says nothing while the run is replayed."""
        if self._logger is None:
            self._logger = self._make_logger(self._execution)
        return self._logger

    def now(self) -> datetime:
        """The recorded time (UTC) of the last outcome that reached the run, of its start before the first."""
        return moment(self._execution.loop.now_us)

    def random(self) -> random_module.Random:
        """The run's own generator, seeded from its id: the same numbers on every replay."""
        if self._random is None:
            self._random = random_module.Random(self.run_id)  # noqa: S311 - repeatable on purpose
        return self._random

    def uuid4(self) -> UUID:
        """A UUID (version 4) that is the same on every replay and different for every call and run.

        Derived from run id and start time, so whoever knows both can compute it: no secret.
        """
        if self._uuids is None:
            seed = f"uuid4\0{self.run_id}\0{self._execution.run.created_at}"
            self._uuids = random_module.Random(seed)  # noqa: S311
        return UUID(int=self._uuids.getrandbits(128), version=4)

    def _placed(self, call: str, step_name: object, error: Exception) -> Exception:
        """The error of a bad call, with the step and the run that it was made in."""
        return type(error)(f"{call}({short(step_name)}) of run {self.run_id!r}: {error}")

    def _unregistered_step(self, name: str, target: str, policy: Policy, result_type: Any) -> Future[Any]:
        """A step whose function is gone: a replay that has its outcome does not need it."""
        execution = self._execution
        recorded = execution.recorded(name, target)
        if recorded is None:
            raise FunctionNotFound(self._registry.not_found("function", target))
        noun = "workflow" if recorded.kind is StepKind.WORKFLOW else "function"
        call = StepCall(
            position=execution.reached,
            name=execution.name_step(name),
            kind=StepKind(noun),
            target=target,
            policy=policy,
            body=target,  # never called
            result_type=Any if result_type is None else result_type,
            variables=copy_context(),
        )
        # Who waits for a child run does not need its workflow, but who begins one.
        if recorded.status not in FINAL_STEPS and recorded.kind is not StepKind.WORKFLOW:
            execution.park_without_target(call, self._registry.not_found(noun, target))
        return execution.place(call)

    def _function_step(
        self, name: str, function: Function[Any, Any, Any], data: Any, policy: Policy, result_type: Any
    ) -> Future[Any]:
        return self._declared_step(StepKind.FUNCTION, name, function, data, policy, result_type)

    def _child_step(
        self, name: str, workflow: WorkflowFunction[Any, Any], data: Any, policy: Policy, result_type: Any
    ) -> Future[Any]:
        if policy.at_most_once:
            raise BadType(
                f"at_most_once=True is not for workflow {workflow.name!r}: a child run goes on where it was, its steps "
                "are at_most_once or not"
            )
        return self._declared_step(StepKind.WORKFLOW, name, workflow, data, policy, result_type)

    def _declared_step(
        self,
        kind: StepKind,
        name: str,
        declared: Function[Any, Any, Any] | WorkflowFunction[Any, Any],
        data: Any,
        policy: Policy,
        result_type: Any,
    ) -> Future[Any]:
        execution = self._execution
        name = execution.name_step(name)
        position = execution.reached
        text, refused = None, None
        if not execution.is_settled(position):
            text, refused = self._encode_data(name, declared, data)
        return execution.place(
            StepCall(
                position=position,
                name=name,
                kind=kind,
                target=declared.name,
                policy=policy,
                body=declared,
                data=text,
                refused=refused,
                result_type=declared.result_type if result_type is None else result_type,
                variables=copy_context(),
            )
        )

    def _encode_data(
        self, name: str, declared: Function[Any, Any, Any] | WorkflowFunction[Any, Any], data: Any
    ) -> tuple[str | None, ErrorInfo | None]:
        try:
            if declared.takes_data:
                what = f"data of step {name!r} for {declared.noun} {declared.name!r}"
                given = declared.default if data is None else data
                return self._execution.values.encode(given, declared.data_type, what=what), None
            if data is not None:
                raise PayloadError(f"data of step {name!r}: {declared.noun} {declared.name!r} takes none; leave it out")
        except Exception as error:  # noqa: BLE001 - PayloadError, or what the value's own code raises
            return None, describe(error)
        return None, None

    def _inline_step(
        self, name: str, body: Callable[[], Any], data: Any, policy: Policy, result_type: Any
    ) -> Future[Any]:
        if not callable(body):
            raise BadType(
                "the target must be a function's name, a @pikku.function object or a callable of no arguments, "
                f"not {type(body).__name__}"
            )
        if data is not None:
            raise BadType("an inline step takes no data; use it in the callable: lambda: f(data)")
        if type(body) is FunctionType and body.__code__.co_argcount > len(body.__defaults__ or ()):
            raise BadType(
                f"an inline step is called without arguments, and {body.__qualname__} needs some; "
                "give it what it needs: lambda: f(data)"
            )
        execution = self._execution
        if result_type is None:  # most are lambdas, which have no annotations
            result_type = inline_result_type(body)
        return execution.place(
            StepCall(
                position=execution.reached,
                name=execution.name_step(name),
                kind=StepKind.INLINE,
                policy=policy,
                body=body,
                result_type=result_type,
                variables=copy_context(),
            )
        )

    def _sleep_step(self, name: str, *, duration_us: int | None = None, until_us: int | None = None) -> Future[None]:
        execution = self._execution
        return execution.place(
            StepCall(
                position=execution.reached,
                name=execution.name_step(name),
                kind=StepKind.SLEEP,
                policy=_NO_POLICY,
                duration_us=duration_us,
                until_us=until_us,
            )
        )

    def _signal_step(self, name: str, type: Any, timeout: Duration | None, *, approval: bool) -> Future[Any]:
        signal = check_step_name(name, "signal name")
        _check_type("type", type)
        duration_us = None if timeout is None else named_microseconds("timeout", timeout)
        execution = self._execution
        if approval:
            execution.approvals |= {signal}
        return execution.place(
            StepCall(
                position=execution.reached,
                name=execution.name_step(signal),
                kind=StepKind.SIGNAL,
                policy=_NO_POLICY,
                body=signal,
                approval=approval,
                result_type=recorded_type(type) if approval else type,
                duration_us=duration_us,
            )
        )
