"""What a client and an engine's control socket say to each other, and how it is laid on the wire.

A connection carries one call at a time: the client sends a call, the engine answers with an item for each of what there
are many of, and at last with a value or a problem. Whoever closes the connection takes the call back. A message is four
bytes of length and JSON; users' values are in it as the journal holds them, so they arrive with their types.
"""

from __future__ import annotations

import re
import struct
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Raw

from pikkupy import errors
from pikkupy.codec import UNLIMITED, Codec
from pikkupy.core.model import ErrorInfo, RunStatus
from pikkupy.engine import Chunk, Run, Step
from pikkupy.errors import BadType, BadValue, PayloadError, PikkuError, RunCancelled, RunFailed
from pikkupy.names import short

PROTOCOL: Final = 1
LONGEST: Final = 1 << 30  # bytes of a message: of many values each has one of its own
LONGEST_CALL: Final = 1 << 26  # what a call carries is bounded by `max_payload`, which has a default of 2 MB
HEAD: Final = struct.Struct(">I")
NULL: Final = Raw(b"null")


def _name_of(call: str) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", call).lower()


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="call", tag=_name_of):
    """One call of the engine's method of that name. Durations are microseconds."""


class Act(Call, frozen=True):
    """One that changes something: it leaves an audit line."""


class Show(Call, frozen=True, kw_only=True):
    """One that is answered with users' values."""

    plain: bool = False
    """Whether those that hold classes are sent in plain JSON as well: the client does not have the classes."""


class Start(Act, frozen=True):
    workflow: str
    run_id: str
    data: Raw = NULL
    tags: dict[str, str] | None = None
    at: datetime | None = None
    delay_us: int | None = None
    outside: bool = False  # the data is as `codec.Outside` says


class HasInput(Call, frozen=True):
    run_id: str
    data: Raw


class Result(Call, frozen=True):
    run_id: str
    timeout_us: int | None = None


class GetRun(Show, frozen=True):
    run_id: str


class ListRuns(Show, frozen=True):
    workflow: str | None = None
    status: list[str] | None = None
    tags: dict[str, str] | None = None
    id_prefix: str | None = None
    error: str | None = None
    text: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    limit: int = 50
    cursor: str | None = None
    values: bool = True


class Counts(Call, frozen=True):
    pass


class GetLoad(Call, frozen=True, tag="load"):
    pass


class Workflows(Call, frozen=True):
    pass


class Steps(Show, frozen=True):
    run_id: str


class SomeSteps(Show, frozen=True):
    run_id: str
    first: int
    limit: int
    with_errors: bool


class SomeEvents(Call, frozen=True):
    run_id: str
    after: int | None
    limit: int


class OpenSteps(Show, frozen=True):
    run_ids: list[str]


class History(Call, frozen=True):
    run_id: str


class Events(Call, frozen=True):
    after: int | None = None


class RunEvents(Call, frozen=True):
    run_id: str
    after: int | None = None


class Stream(Show, frozen=True):
    run_id: str
    after: int = -1
    step: str | None = None
    current: bool = False


class Cancel(Act, frozen=True):
    run_id: str
    reason: str


class Signal(Act, frozen=True):
    run_id: str
    name: str
    payload: Raw = NULL
    outside: bool = False  # the payload is as `codec.Outside` says


class Approve(Act, frozen=True):
    run_id: str
    name: str
    decision: Raw
    decided_by: str | None = None


class Approvals(Call, frozen=True):
    run_id: str


class AwaitedSignals(Call, frozen=True):
    run_id: str


class Resume(Act, frozen=True):
    run_id: str
    accept: str | None = None


class Retry(Act, frozen=True):
    run_id: str


class Fork(Act, frozen=True):
    run_id: str
    at: str
    new_run_id: str | None = None
    data: Raw = NULL
    overrides: dict[str, Raw] = {}
    has_data: bool = False  # else the data is that of the run
    outside: bool = False  # as of `Start`


class DeleteRun(Act, frozen=True):
    run_id: str


class Prune(Act, frozen=True):
    older_than_us: int
    statuses: list[str] | None = None
    keep: int = 0


class Stay(Call, frozen=True):
    """No method: it is answered when the engine is left, so that who waits for that learns of it at once."""


AnyCall = (
    Start
    | Result
    | GetRun
    | ListRuns
    | Counts
    | GetLoad
    | HasInput
    | Workflows
    | Steps
    | SomeSteps
    | SomeEvents
    | OpenSteps
    | History
    | Events
    | RunEvents
    | Stream
    | Cancel
    | Signal
    | Approve
    | Approvals
    | AwaitedSignals
    | Resume
    | Retry
    | Fork
    | DeleteRun
    | Prune
    | Stay
)


class Hello(msgspec.Struct, frozen=True):
    """The first message of a connection, from the engine."""

    protocol: int
    pid: int


class Token(msgspec.Struct, frozen=True):
    """The first message of a connection over a port, from the client."""

    token: str


class Item(msgspec.Struct, frozen=True, tag_field="answer", tag="item"):
    """One of many; more follow."""

    value: Raw


class Value(msgspec.Struct, frozen=True, tag_field="answer", tag="value"):
    """The end of an answer: what the method has returned, or `null`."""

    value: Raw = NULL


class Problem(msgspec.Struct, frozen=True, tag_field="answer", tag="problem", omit_defaults=True):
    """The end of an answer: what the method has raised."""

    type: str
    message: str
    run_id: str | None = None
    error: ErrorInfo | None = None
    reason: str | None = None

    def error_of(self) -> Exception:
        """The error to be raised in the client: of the same class, if it is one of pikkupy's."""
        if self.type == "RunFailed" and self.run_id is not None and self.error is not None:
            return RunFailed(self.run_id, self.error)
        if self.type == "RunCancelled" and self.run_id is not None:
            return RunCancelled(self.run_id, self.reason or "")
        if self.type == "TimeoutError":
            return TimeoutError(self.message)
        found = _SAID.get(self.type)
        return PikkuError(f"the engine failed: {self.type}: {self.message}") if found is None else found(self.message)


AnyAnswer = Item | Value | Problem

_SAID: dict[str, type[PikkuError]] = {  # that are made of their message alone
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type)
    and issubclass(found, PikkuError)
    and not issubclass(found, errors.StepFailed | RunFailed | RunCancelled)
}


def problem_of(error: Exception) -> Problem:
    """What is sent of an error."""
    if isinstance(error, RunFailed) and isinstance(error.error, ErrorInfo):
        return Problem("RunFailed", str(error), run_id=error.run_id, error=error.error)
    if isinstance(error, RunCancelled):
        return Problem("RunCancelled", str(error), run_id=error.run_id, reason=error.reason)
    return Problem(type(error).__name__, str(error))


# What users see, with values as the journal holds them


class Outcome(msgspec.Struct, frozen=True):
    """What `Result` gives."""

    workflow: str
    output: Raw


Plain = tuple[Raw, ...]
"""The value in plain JSON, as an engine shows it that knows its classes; nothing where that says no more."""


class SentRun(Run, frozen=True, kw_only=True):
    """A run on the wire."""

    input: Raw
    output: Raw
    plain_input: Plain = ()
    plain_output: Plain = ()


class SentStep(Step, frozen=True, kw_only=True):
    """A step on the wire."""

    output: Raw
    plain_output: Plain = ()


class SentOpenSteps(msgspec.Struct, frozen=True):
    """Those of one run on the wire."""

    run_id: str
    steps: list[SentStep]


class SentChunk(Chunk, frozen=True, kw_only=True):
    """A chunk on the wire."""

    value: Raw
    plain_value: Plain = ()


SentCounts = dict[str, dict[RunStatus, int]]

values = Codec(UNLIMITED, UNLIMITED)
"""Users' values on the wire. The engine has limits of its own, which it names in its errors."""

_CLASS = re.compile(rb'"\$t":"[^"]*:')  # the tag of an instance, which a class has to be found by

_encode = msgspec.json.Encoder().encode
read_call = msgspec.json.Decoder(AnyCall).decode
read_answer = msgspec.json.Decoder(AnyAnswer).decode


def tag_of(call: Call) -> str:
    """The name of the engine's method."""
    return str(type(call).__struct_config__.tag)


def holds_classes(text: Raw) -> bool:
    """Whether there are instances of users' classes in the value of that text."""
    return _CLASS.search(text) is not None


def json_of(value: Any) -> Raw:
    """As it stands in a message."""
    return Raw(_encode(value))


def message_of(value: msgspec.Struct) -> bytes:
    """As it is sent. Raises `PikkuError` for one that is too long, `BadType` and `BadValue` for what cannot be sent."""
    try:
        body = _encode(value)
    except TypeError as error:
        raise BadType(f"{value.__struct_config__.tag}: {error}") from None
    except UnicodeEncodeError as error:
        raise BadValue(f"{short(error.object)} cannot be sent: it holds half of a surrogate pair") from None
    if isinstance(value, Call) and len(body) > LONGEST_CALL:
        raise PayloadError(
            f"a call of {len(body):,} bytes is more than {LONGEST_CALL:,}; "
            "store the value elsewhere and hand over a reference"
        )
    if len(body) > LONGEST:
        raise PikkuError(f"an answer of {len(body):,} bytes is more than {LONGEST:,}; ask for less at once (limit=)")
    return HEAD.pack(len(body)) + body
