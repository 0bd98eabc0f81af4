"""What step code is given: the application's services, a logger and the step that it is.

Three ways to the same facts: `services.workflow_step`, `services.logger` and, where no services are passed,
`current_step()`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import msgspec

from pikkupy.errors import RegistrationError
from pikkupy.log import ATTEMPT, RUN_ID, STEP, WORKFLOW, Logger, logger
from pikkupy.progress import Progress, check_progress

T = TypeVar("T")

INVOCATIONS = uuid.UUID("6d3f0f52-6d2e-5c43-9a52-6b1f2a7c9e10")  # random, and never to change: ids outlive releases

CHUNK_OVERHEAD = 500  # bytes that a chunk takes beside its value until it is on disk
OWN_NAMES = ("logger", "workflow_step")


def invocation_id(run_id: str, step_name: str) -> str:
    """The idempotency key of a step: the same on every attempt and in every life, different for every other step."""
    return str(uuid.uuid5(INVOCATIONS, f"{run_id}\0{step_name}"))


class Outlet(Protocol):
    """Where to what a running step tells goes. Any thread may call it."""

    def emit(self, step: StepContext, value: object) -> None:
        """As `StepContext.emit`."""
        ...

    def progress(self, step: StepContext, progress: Progress) -> None:
        """The step is that far."""
        ...


class Relay(Outlet, Protocol):
    """The outlet of an engine, which also takes what a worker process tells."""

    async def relay(self, step: StepContext, texts: Sequence[str]) -> None:
        """Emit values that are encoded already; returns when there is room for more."""
        ...


class StepContext(msgspec.Struct, frozen=True, dict=True):
    """The step that is running: what `services.workflow_step` and `current_step()` give. One object per attempt.

    Its `__dict__` holds what is not part of the record, and is not compared, shown or sent: the outlet, and what that
    keeps with it.
    """

    run_id: str
    workflow: str
    step_id: str
    step_name: str
    attempt_count: int  # failed attempts so far + 1
    position: int = 0  # 0, 1, 2 … in the order in which the run reached its steps

    @property
    def invocation_id(self) -> str:
        """The idempotency key to hand to an outside API; computed from the ids when asked for."""
        return invocation_id(self.run_id, self.step_name)

    def emit(self, value: object) -> None:
        """Append `value` to the run's stream, which `Engine.stream` reads; from any thread.

        It does not wait for the disk, but is there before the outcome of the attempt is. Once the attempt has its
        outcome, or the run has ended, it does nothing; an async attempt that is stopped may emit while it winds up.
        Raises `PayloadError` if the value cannot be kept. More than `Config.max_stream` bytes must not wait for the
        disk: then threads and worker processes wait here, and on the event loop, where nothing can wait here,
        `StreamFull` is raised.
        """
        outlet = outlet_of(self)
        if outlet is not None:
            outlet.emit(self, value)

    def progress(self, progress: Progress) -> None:
        """Say how far the attempt is: a fraction from 0 to 1, or a text of at most 1,000 characters.

        `Engine.steps` shows the latest while the attempt runs; nothing is written, so it may be called often. Raises
        `ValueError` or `TypeError` for anything else.
        """
        checked = check_progress(progress)
        outlet = outlet_of(self)
        if outlet is not None:
            outlet.progress(self, checked)


_current: ContextVar[StepContext | None] = ContextVar("pikkupy_step", default=None)
_outlet: ContextVar[Outlet | None] = ContextVar("pikkupy_outlet", default=None)


def current_step() -> StepContext | None:
    """The step whose code calls this, also from its tasks and `asyncio.to_thread`; `None` outside a step."""
    step = _current.get()
    return None if step is None else connect(step)


def connect(step: StepContext) -> StepContext:
    """Give `step` the outlet of the run in whose context this is called, so that it has it wherever it goes.

    Only steps that ask for themselves are connected: most never do, and every step would pay for it.
    """
    vars(step).setdefault("_outlet", _outlet.get())
    return step


def outlet_in(variables: Context) -> Relay | None:
    """The outlet of the run whose context that is; None if there is no engine around it, as in a test of workers."""
    return cast("Relay | None", variables.get(_outlet))


def outlet_of(step: StepContext) -> Outlet | None:
    """Where to what `step` tells goes; None if it was made by hand, as in a test of a function."""
    found: Outlet | None = vars(step).get("_outlet")
    return found


def enter(step: StepContext) -> None:
    """Make `step` the current one, for good, in the calling context, which belongs to one attempt."""
    _current.set(step)
    STEP.set(step.step_name)
    ATTEMPT.set(step.attempt_count)


def call_in(step: StepContext, call: Callable[[], T]) -> T:
    """As `enter`, and then call."""
    enter(step)
    return call()


def enter_run(run_id: str, workflow: str, outlet: Outlet) -> None:
    """Name the run in the calling context, which is the run's own: its steps inherit it, and the outlet."""
    RUN_ID.set(run_id)
    WORKFLOW.set(workflow)
    _outlet.set(outlet)
    if _current.get() is not None:
        _current.set(None)  # it was started by a step, which is not its own


class _PlainLogger:
    """The `logger` of services that belong to no step. Not kept on the object: the name is not the application's."""

    def __get__(self, services: Services | None, kind: type[Services]) -> Logger:
        return logger()


class _StepLogger(_PlainLogger):
    """The `logger` of one step's services, made when it is first wanted and kept."""

    def __get__(self, services: Services | None, kind: type[Services]) -> Logger:
        step = None if services is None else services.workflow_step
        if step is None:
            return logger()
        bound = logger().bind(
            run_id=step.run_id, workflow=step.workflow, step=step.step_name, attempt=step.attempt_count
        )
        vars(services)["logger"] = bound
        return bound


class Services:
    """The first parameter of a function. Subclass it to type what the application gives to `pikku.open(services=...)`.

    `logger` and `workflow_step` are always there. `Services()`, or the subclass, can be made by hand to call a function
    outside a workflow: its `workflow_step` is `None`.
    """

    logger = _PlainLogger()
    workflow_step: StepContext | None = None


class _BoundServices(Services):
    """The services of one attempt: the step's own two, and everything else as the application has it."""

    logger = _StepLogger()

    def __init__(self, application: object, step: StepContext, absence: str) -> None:
        self.workflow_step = connect(step)
        self.__application = application
        self.__absence = absence

    def __repr__(self) -> str:
        return f"<services of step {self.workflow_step and self.workflow_step.step_id!r}: {self.__application!r}>"

    if not TYPE_CHECKING:  # a type checker would take every name for granted

        def __getattr__(self, name: str) -> Any:
            application = self.__application
            try:
                return getattr(application, name)
            except AttributeError as error:
                if error.obj is not application or error.name != name:
                    raise  # the application's own property has failed
                raise AttributeError(f"services.{name}: {self.__absence}", name=name, obj=self) from None


def bind(application: object | None, step: StepContext) -> Services:
    """The services for one attempt of `step` in this process."""
    return _BoundServices(application, step, "it was not given to pikku.open(services=...)")


def bind_in_worker_process(step: StepContext) -> Services:
    """The services for one attempt of `step` in a worker process, where the application's objects cannot be."""
    return _BoundServices(None, step, "a function with worker='process' has only logger and workflow_step")


def check_services(application: object) -> None:
    """Raise `RegistrationError` if the application's object has a `logger` or `workflow_step` of its own."""
    for name in OWN_NAMES:
        if name in getattr(application, "__dict__", ()) or any(name in vars(kind) for kind in _kinds(application)):
            raise RegistrationError(
                f"services: {type(application).__name__}.{name} would be hidden by the {name} that every step gets; "
                "give it another name"
            )


def _kinds(application: object) -> list[type]:
    return [kind for kind in type(application).__mro__ if kind not in (Services, object)]
