"""What is said of a request that cannot be answered: RFC 9457 problem details, and which error has which status."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping

import msgspec
from starlette.responses import Response

from pikkupy.errors import (
    BadType,
    BadValue,
    DurationError,
    EngineClosed,
    EventsLost,
    FunctionNotFound,
    JournalError,
    PayloadError,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    RunStateError,
    WorkflowNotFound,
)
from pikkupy.log import logger

MEDIA_TYPE = "application/problem+json"

CURE = (
    "open the engine with the application: FastAPI(lifespan=engine.lifespan), or `async with engine:` around the server"
)

_STATUS: dict[type[BaseException], int] = {
    BadType: 422,
    BadValue: 422,
    DurationError: 422,
    PayloadError: 422,
    RunNotFound: 404,
    WorkflowNotFound: 404,
    FunctionNotFound: 404,
    RunConflict: 409,
    RunStateError: 409,
    RunFailed: 409,
    RunCancelled: 409,
    EventsLost: 410,
    TimeoutError: 408,
    EngineClosed: 503,
    JournalError: 503,
}

_log = logger()


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Problem details (RFC 9457)."""

    type: str
    """`urn:pikkupy:` and the name of the error, or `about:blank` where the status says it all."""
    title: str
    status: int
    detail: str | None = None
    """What happened, to which run, and what to do."""
    run_id: str | None = None
    cure: str | None = None
    error_id: str | None = None
    """What the log says more about, under this id."""


class Refused(Exception):
    """The request is answered with this problem."""

    def __init__(self, status: int, title: str, detail: str | None = None, **headers: str) -> None:
        super().__init__(title)
        self.problem = Problem("about:blank", title, status, detail)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def response_to(error: Exception, redact: Callable[[str], str] | None = None, cure: str | None = CURE) -> Response:
    """The problem that an error is for who has asked, as JSON."""
    problem, headers = problem_of(error, redact, cure)
    return Response(msgspec.json.encode(problem), problem.status, headers, MEDIA_TYPE)


def problem_of(
    error: Exception, redact: Callable[[str], str] | None = None, cure: str | None = CURE
) -> tuple[Problem, Mapping[str, str]]:
    """The problem that an error is for who has asked, with its headers; `redact` takes secrets out of it.

    `cure` is what helps if the engine is not open. What is nobody's fault but ours is logged, and not told.
    """
    if isinstance(error, Refused):
        return error.problem, error.headers
    status = next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), None)
    if status is None:
        error_id = str(uuid.uuid4())
        _log.error("http_call_failed", error_id=error_id, exc_info=error)
        return Problem("about:blank", "Something is broken here", 500, error_id=error_id), {}
    name = type(error).__name__
    words = re.sub("(?<=[a-z])(?=[A-Z])", " ", name)
    problem = Problem(
        f"urn:pikkupy:{words.replace(' ', '-').lower()}",
        words[0] + words[1:].lower(),
        status,
        str(error) if redact is None else redact(str(error)),
        run_id=error.run_id if isinstance(error, RunFailed | RunCancelled) else None,
        cure=cure if isinstance(error, EngineClosed) else None,
    )
    return problem, {"retry-after": "5"} if status == 503 else {}
