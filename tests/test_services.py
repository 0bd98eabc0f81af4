"""What step code is given."""

from __future__ import annotations

import logging
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from pikkupy.errors import RegistrationError
from pikkupy.services import (
    Services,
    StepContext,
    bind,
    bind_in_worker_process,
    check_services,
    current_step,
    invocation_id,
)

STEP = StepContext("run-1", "order", "run-1/Charge", "Charge", 2)


class AppServices(Services):
    def __init__(self, crm: str) -> None:
        self.crm = crm

    @property
    def mailer(self) -> str:
        return f"mailer of {self.crm}"

    @property
    def broken(self) -> str:
        return self.no_such_thing  # type: ignore[attr-defined, no-any-return]


def test_services_made_by_hand_serve_outside_a_workflow() -> None:
    """They log, know of no step, and take what a test puts there."""
    services = AppServices("crm")
    services.logger.info("hello")

    assert services.workflow_step is None
    assert Services().workflow_step is None
    services.workflow_step = STEP
    assert services.workflow_step is STEP
    with pytest.raises(AttributeError, match="'AppServices' object has no attribute 'other'"):
        services.other  # type: ignore[attr-defined]


@pytest.mark.parametrize("application", [AppServices("crm"), SimpleNamespace(crm="crm", mailer="mailer of crm")])
def test_bound_services_read_the_applications_attributes(application: Any) -> None:
    """Any object will do; what it has later is seen as well."""
    services: Any = bind(application, STEP)

    assert isinstance(services, Services)
    assert (services.crm, services.mailer, services.workflow_step) == ("crm", "mailer of crm", STEP)
    application.crm = "changed"
    assert services.crm == "changed"


def test_a_missing_service_is_named() -> None:
    """With the place where it should have been given."""
    for application in (None, AppServices("crm")):
        services: Any = bind(application, STEP)
        with pytest.raises(AttributeError, match=r"services\.db: it was not given to pikku\.open\(services=\.\.\.\)"):
            services.db
    assert not hasattr(bind(None, STEP), "db")


def test_an_error_inside_the_applications_property_is_its_own() -> None:
    """It is not taken for a missing service."""
    services: Any = bind(AppServices("crm"), STEP)

    with pytest.raises(AttributeError, match="no_such_thing"):
        services.broken


def test_a_worker_process_has_only_logger_and_step() -> None:
    """Anything else says so."""
    services: Any = bind_in_worker_process(STEP)

    assert services.workflow_step == STEP
    services.logger.info("fine")
    with pytest.raises(AttributeError, match=r"services\.crm: a function with worker='process' has only logger"):
        services.crm


def test_the_logger_is_bound_to_the_step(caplog: pytest.LogCaptureFixture) -> None:
    """Run, workflow, step and attempt are on every line, and the logger is made once."""
    services = bind(None, STEP)
    with caplog.at_level(logging.INFO, "pikkupy"):
        services.logger.info("creating", attempts_left=1)

    assert caplog.messages == ["creating run_id=run-1 workflow=order step=Charge attempt=2 attempts_left=1"]
    assert services.logger is services.logger


@pytest.mark.parametrize("name", ["logger", "workflow_step"])
def test_an_application_must_not_hide_the_two_own_names(name: str) -> None:
    """Wherever it has them: on the object, its class, or a base of that."""

    class Slotted:
        __slots__ = (name,)

    by_class = type("ByClass", (Services,), {name: property(lambda self: None)})
    by_base = type("ByBase", (by_class,), {})
    for application in (SimpleNamespace(**{name: 1}), by_class(), by_base(), Slotted()):
        with pytest.raises(RegistrationError, match=name):
            check_services(application)


def test_other_applications_pass_the_check() -> None:
    """None, plain services, subclasses, and classes that only annotate the names."""

    class Annotated(Services):
        logger: Any

    used = AppServices("crm")
    used.logger.info("before open")
    for application in (None, Services(), used, Annotated(), SimpleNamespace(log=1), {"logger": 1}):
        check_services(application)


def test_the_invocation_id_is_of_run_and_step() -> None:
    """The same on every attempt, a UUIDv5 in canonical text, another for any other run or step, and for ever."""
    again = StepContext("run-1", "order", "run-1/Charge", "Charge", 7)

    assert STEP.invocation_id == again.invocation_id == invocation_id("run-1", "Charge")
    assert STEP.invocation_id == "ca024ca1-f7c2-5bc0-a423-35312523e468"
    assert uuid.UUID(STEP.invocation_id).version == 5
    assert len({invocation_id("a", "b/c"), invocation_id("a/b", "c"), invocation_id("a", "b"), STEP.invocation_id}) == 4


def test_a_step_context_cannot_be_changed() -> None:
    """It is shared by everything that asks for the current step."""
    with pytest.raises(AttributeError):
        STEP.attempt_count = 3  # type: ignore[misc]


def test_there_is_no_current_step_outside_a_step() -> None:
    """`None`, and no error."""
    assert current_step() is None
