"""Declaring: functions, workflows, services, names."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import uuid
from typing import Any

import msgspec
import pytest

import pikkupy
from pikkupy import (
    FunctionNotFound,
    Pikku,
    RegistrationError,
    RunFailed,
    Services,
    StepContext,
    StepFailed,
    Workflow,
    WorkflowNotFound,
    current_step,
)


class Order(msgspec.Struct):
    id: str


async def refused(workflow: Workflow) -> None:
    """A workflow to register where registering must fail."""


def test_what_is_declared_is_still_the_plain_function() -> None:
    """Declaring: callable, with name, docstring and signature, bare or with arguments."""
    pikku = Pikku()

    @pikku.function(name="other")
    def bare(services: Services, data: int) -> int:
        """Adds one."""
        return data + 1

    @pikku.workflow()
    async def flow(workflow: Workflow, data: int) -> int:
        """Flows."""
        return data

    assert bare(Services(), 1) == 2
    assert (bare.__name__, bare.__doc__) == ("bare", "Adds one.")
    assert list(inspect.signature(bare).parameters) == ["services", "data"]
    assert (flow.__name__, flow.__doc__) == ("flow", "Flows.")
    assert list(inspect.signature(flow).parameters) == ["workflow", "data"]


@pytest.mark.parametrize("kinds", ["ff", "fw", "wf", "ww"])
def test_functions_and_workflows_share_one_namespace(kinds: str) -> None:
    """Declaring: registering a name twice raises at once, and the first stays."""
    pikku = Pikku()

    def declare(kind: str) -> None:
        if kind == "w":
            pikku.workflow(name="same")(refused)
        else:
            pikku.function(name="same")(lambda services: None)

    declare(kinds[0])
    with pytest.raises(RegistrationError, match="'same'"):
        declare(kinds[1])


async def test_services_can_be_any_object() -> None:
    """C11: attributes of whatever was given are read through `services.<name>`."""

    class Typed(Services):
        def __init__(self) -> None:
            self.crm = "typed"

    class Plain:
        crm = "plain"

    pikku = Pikku()

    @pikku.function
    async def ask(services: Any) -> str:
        return str(services.crm)

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        return await workflow.do("ask", ask)

    for application in (Typed(), Plain()):
        async with pikku.open(":memory:", services=application) as engine:
            assert await engine.run(flow) == application.crm


@pytest.mark.parametrize("name", ["logger", "workflow_step"])
async def test_services_must_not_hide_our_two_names(name: str) -> None:
    """C12: RegistrationError for an attribute of either name, of the object or of its class."""

    class Application:
        pass

    application = Application()
    setattr(application, name, None)
    inherited = type("Inherited", (type("Base", (), {name: 1}),), {})()
    for services in (application, inherited):
        with pytest.raises(RegistrationError, match=name):
            async with Pikku().open(":memory:", services=services):
                pass


@pytest.mark.parametrize("worker", ["async", "thread", "Process", "", 5, True, ["thread"]])
def test_a_worker_that_does_not_fit_is_refused_at_once(worker: Any) -> None:
    """C15: `async` on a def, `thread` on an async def, and anything unknown."""

    def plain(services: Services) -> None: ...

    async def coroutine(services: Services) -> None: ...

    target: Any = coroutine if worker == "thread" else plain
    with pytest.raises(RegistrationError, match="worker"):
        Pikku().function(worker=worker)(target)


def test_a_nested_process_function_is_refused_at_once() -> None:
    """C16: so is a lambda: a worker process could not import either."""

    def nested(services: Services) -> None: ...

    for function in (nested, lambda services: None):
        with pytest.raises(RegistrationError, match="process"):
            Pikku().function(worker="process", name="f")(function)  # type: ignore[arg-type]


def no_parameter() -> None: ...
def three(services: Any, data: Any, more: Any) -> None: ...
def keyword_only(services: Any, *, data: Any) -> None: ...
def variable(*services: Any) -> None: ...


@pytest.mark.parametrize("function", [no_parameter, three, keyword_only, variable])
def test_a_wrong_signature_is_refused_at_once(function: Any) -> None:
    """C17: the error shows the signature; so for workflows."""
    shown = str(inspect.signature(function))

    async def flow(*args: Any, **kwargs: Any) -> None: ...

    flow.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    with pytest.raises(RegistrationError) as wrong:
        Pikku().function(function)
    with pytest.raises(RegistrationError) as wrong_flow:
        Pikku().workflow(flow)  # type: ignore[call-overload]

    assert shown in str(wrong.value)
    assert shown in str(wrong_flow.value)


def test_a_workflow_must_be_async() -> None:
    """C17: a plain `def` is refused at once, showing the signature."""

    def flow(workflow: Workflow, data: int) -> None: ...

    with pytest.raises(RegistrationError, match=r"flow\(workflow.*data"):
        Pikku().workflow(flow)  # type: ignore[call-overload]


@pytest.mark.parametrize("what", [5, "name", object(), max, type])
def test_what_is_no_function_is_refused_at_once(what: Any) -> None:
    """C17: also a built-in without a signature and a class."""
    for declare in (Pikku().function, Pikku().workflow):
        with pytest.raises(RegistrationError):
            declare(what)


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", 5])
def test_a_name_that_is_none_is_refused_at_once(name: Any) -> None:
    """Declaring: names of functions and workflows are checked when they are registered."""
    with pytest.raises(RegistrationError):
        Pikku().function(name=name)(lambda services: None)
    with pytest.raises(RegistrationError):
        Pikku().workflow(name=name)(refused)


async def test_data_for_a_function_that_takes_none_is_refused() -> None:
    """C18: PayloadError unless it is None, at both doors, and nothing runs."""
    pikku = Pikku()
    ran: list[str] = []

    @pikku.function
    async def nothing(services: Services) -> None:
        ran.append("function")

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        await workflow.do("none", nothing, None)
        try:
            await workflow.do("some", "nothing", 0, retries=3)
        except StepFailed as failed:
            return f"{failed.attempts} {failed.error_type}"
        return "ran"

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow, None) == "1 pikkupy.errors.PayloadError"
        with pytest.raises(pikkupy.PayloadError, match="flow"):
            await engine.start("flow", False)
        assert len((await engine.list_runs()).runs) == 1

    assert ran == ["function"]


async def test_late_registration_is_seen() -> None:
    """C19: names are looked up when they are used."""
    pikku = Pikku()
    async with pikku.open(":memory:") as engine:

        @pikku.workflow
        async def flow(workflow: Workflow) -> int:
            return int(await workflow.do("late", "late"))

        @pikku.function
        async def late(services: Services) -> int:
            return 7

        assert await engine.run("flow") == 7


async def test_an_object_of_another_pikku_is_not_found() -> None:
    """C20: even if a namesake is registered here; named in the error."""
    pikku, other = Pikku(), Pikku()
    ours = pikku.function(name="same")(lambda services: 1)
    theirs = other.function(name="same")(lambda services: 2)
    their_flow = other.workflow(name="flow")(refused)

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        with pytest.raises(FunctionNotFound, match="'same'"):
            workflow.do("theirs", theirs)
        return int(await workflow.do("ours", ours))

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow) == 1
        with pytest.raises(WorkflowNotFound, match="'flow'"):
            await engine.start(their_flow)


@pytest.mark.parametrize("target", [refused, 5, None, b"flow", ["flow"]])
async def test_starting_what_is_no_workflow_is_told(target: Any) -> None:
    """Running: what is neither a name nor a workflow object (a function that was never decorated) is not found."""
    async with Pikku().open(":memory:") as engine:
        with pytest.raises((WorkflowNotFound, TypeError), match="workflow"):
            await engine.start(target)


async def test_starting_a_function_is_not_found() -> None:
    """Running: a function is no workflow, by name and by object; the message does not send the user astray."""
    pikku = Pikku()

    @pikku.function
    async def send(services: Services) -> None: ...

    async with pikku.open(":memory:") as engine:
        for target in ("send", send):
            with pytest.raises(WorkflowNotFound, match="'send'") as error:
                await engine.start(target)  # type: ignore[call-overload]
            assert "another Pikku" not in str(error.value)


async def test_the_ids_of_a_step_are_text_and_of_the_step() -> None:
    """C21, C22, C24: `str` both, the same on every attempt, other for other steps, and found in `Step`."""
    pikku = Pikku()
    seen: list[StepContext] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        def flaky() -> None:
            step = current_step()
            assert step is not None
            seen.append(step)
            if len(seen) == 1:
                raise OSError

        await workflow.do("a", flaky, retries=1)
        await workflow.do("a", flaky)

    async with pikku.open(":memory:") as engine:
        await engine.run(flow, run_id="r")
        steps = await engine.steps("r")

    first, again, other = seen
    assert isinstance(first.step_id, str)
    assert str(uuid.UUID(first.invocation_id)) == first.invocation_id
    assert uuid.UUID(first.invocation_id).version == 5
    assert (first.step_id, first.invocation_id) == (again.step_id, again.invocation_id)
    assert (first.attempt_count, again.attempt_count) == (1, 2)
    assert first.step_id != other.step_id
    assert first.invocation_id != other.invocation_id
    assert [(step.step_id, step.invocation_id) for step in steps] == [
        (first.step_id, first.invocation_id),
        (other.step_id, other.invocation_id),
    ]


async def test_a_repeated_name_has_its_ordinal_everywhere() -> None:
    """C23: in the context, in `StepFailed`, in `Step` and in `Attempt`."""
    pikku = Pikku()
    seen: list[str] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        def fail() -> None:
            step = current_step()
            assert step is not None
            seen.append(step.step_name)
            raise OSError

        for _ in range(2):
            try:
                await workflow.do("a", fail)
            except StepFailed as failed:
                seen.append(failed.step_name)
        return ""

    async with pikku.open(":memory:") as engine:
        await engine.run(flow, run_id="r")
        assert [step.name for step in await engine.steps("r")] == ["a", "a#1"]
        assert [attempt.step_name for attempt in await engine.history("r")] == ["a", "a#1"]

    assert seen == ["a", "a", "a#1", "a#1"]


async def test_current_step_is_there_in_all_step_code() -> None:
    """C25: in async and thread functions, inline, in tasks and in `to_thread` calls that they start."""
    pikku = Pikku()

    def name() -> str:
        step = current_step()
        return "none" if step is None else step.step_name

    @pikku.function
    async def in_async(services: Services) -> list[str]:
        return [name(), await asyncio.create_task(asyncio.sleep(0, name())), await asyncio.to_thread(name)]

    @pikku.function
    def on_thread(services: Services) -> list[str]:
        assert threading.current_thread() is not threading.main_thread()
        return [name()]

    async def inline() -> list[str]:
        return [name(), await asyncio.to_thread(name)]

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[Any]:
        return [
            name(),
            await workflow.do("1", in_async),
            await workflow.do("2", on_thread),
            await workflow.do("3", inline),
            await workflow.do("4", lambda: name()),
        ]

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow) == ["none", ["1", "1", "1"], ["2"], ["3", "3"], "4"]
    assert name() == "none"


async def test_log_lines_go_through_the_stdlib_logger(caplog: pytest.LogCaptureFixture) -> None:
    """C26: under `pikkupy`, with run, workflow, step and attempt."""
    pikku = Pikku()

    @pikku.function
    async def speak(services: Services) -> None:
        services.logger.info("hello there", extra_fact=5)

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        workflow.logger.info("from the body")
        await workflow.do("speak", speak)

    with caplog.at_level(logging.INFO):
        async with pikku.open(":memory:") as engine:
            await engine.run(flow, run_id="run-7")

    (line,) = [record for record in caplog.records if "hello there" in record.getMessage()]
    assert line.name.split(".")[0] == "pikkupy"
    for part in ("run-7", "flow", "speak", "extra_fact"):
        assert part in line.getMessage()
    assert [record.name.split(".")[0] for record in caplog.records if "from the body" in record.getMessage()] == [
        "pikkupy"
    ]


def test_names_for_annotations_are_public() -> None:
    """C27: besides those used in the text."""
    for name in ("Config", "Engine", "RunHandle", "Run", "Step", "Attempt", "Page", "Clock"):
        assert name in pikkupy.__all__
        assert isinstance(getattr(pikkupy, name), type)


async def test_annotations_that_cannot_be_resolved_are_refused_at_open() -> None:
    """C81: RegistrationError naming the function, before anything is opened."""
    pikku = Pikku()

    @pikku.function
    async def bad(services: Services, data: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(RegistrationError, match=r"bad.*Nowhere"):
        async with pikku.open(":memory:"):
            pass


async def test_a_string_that_names_nothing_is_not_found_in_the_call() -> None:
    """C7, C28: FunctionNotFound naming it; caught, the run goes on; uncaught, it fails the run with that type."""
    pikku = Pikku()

    @pikku.workflow
    async def catching(workflow: Workflow) -> str:
        try:
            workflow.do("a", "nowhere")
        except FunctionNotFound as error:
            return str(error)
        return ""

    @pikku.workflow
    async def letting(workflow: Workflow) -> None:
        await workflow.do("a", "nowhere")

    async with pikku.open(":memory:") as engine:
        assert "'nowhere'" in await engine.run(catching)
        with pytest.raises(RunFailed) as failed:
            await engine.run(letting)

    assert failed.value.error.type == "pikkupy.errors.FunctionNotFound"
