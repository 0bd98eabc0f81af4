"""Types of what requests hold, with their limits: they are checked by them, and described by them in the document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType, inspect

from pikkupy.core.model import MAX_OWN, RunStatus
from pikkupy.names import MAX_NAME

NO_CONTROL = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
TAG = r"^[^:\u0000-\u001f\u007f-\u009f\u2028\u2029]{1,256}:[^\u0000-\u001f\u007f-\u009f\u2028\u2029]{0,256}$"
CURSOR = r"^[0-9]{1,18}$"
PLACE = r"^[0-9]{1,18}(\.end)?$"
WORDS = {  # for people; the document has the patterns
    NO_CONTROL: "a text without control characters",
    TAG: "`name:value`",
    CURSOR: "the `next_cursor` of a page",
    PLACE: "the number of an event",
}

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=NO_CONTROL)]
Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]
Delay: TypeAlias = Annotated[  # that it is none is said by who knows the units
    str, Meta(examples=["5s", "20min", "1d"], extra_json_schema={"pattern": "^[1-9][0-9]{0,3}(ms|s|min|h|d)$"})
]
Text: TypeAlias = Annotated[str, Meta(min_length=1)]
Cursor: TypeAlias = Annotated[str, Meta(pattern=CURSOR)]
Place: TypeAlias = Annotated[str, Meta(pattern=PLACE)]
Tag: TypeAlias = Annotated[str, Meta(pattern=TAG)]
Key: TypeAlias = Annotated[Name, Meta(extra_json_schema={"pattern": r"^[\u0020-\u007e]*$"})]  # others come as UTF-8


# Bodies


class StartRun(msgspec.Struct, forbid_unknown_fields=True):
    """A new run."""

    workflow: Name
    input: Any = None
    id: Annotated[
        Name | None,
        Meta(description="The same id with the same workflow and input is the same run; as `Idempotency-Key`."),
    ] = None
    tags: dict[str, str] | None = None
    at: Annotated[Moment | None, Meta(description="When its body begins.")] = None
    delay: Annotated[
        Delay | Annotated[int, Meta(ge=0)] | None,
        Meta(description="After which it begins: `5min`, or milliseconds. Not with `at`."),
    ] = None


class CancelRun(msgspec.Struct, forbid_unknown_fields=True):
    """Why."""

    reason: str = "cancelled over HTTP"


class SendSignal(msgspec.Struct, forbid_unknown_fields=True):
    """A signal."""

    name: Name
    payload: Any = None


class Decide(msgspec.Struct, forbid_unknown_fields=True):
    """The decision that an approval waits for."""

    name: Name
    decision: Any
    decided_by: Annotated[str | None, Meta(description="Left out: the caller's name.")] = None


class ResumeRun(msgspec.Struct, forbid_unknown_fields=True):
    """How a suspended run goes on."""

    accept: Annotated[
        Literal["new"] | None, Meta(description="`new`: with the code as it is, although it does not fit the record.")
    ] = None


class RetryRun(msgspec.Struct, forbid_unknown_fields=True):
    """There is nothing to say."""


class ForkRun(msgspec.Struct, forbid_unknown_fields=True):
    """A new run with the history of another one before its step `at`."""

    at: Name
    input: Annotated[Any, Meta(description="Left out: that of the other run.")] = UNSET
    overrides: Annotated[dict[str, Any] | None, Meta(description="Values of shared steps, by name.")] = None
    id: Annotated[Name | None, Meta(description="Of the new run.")] = None


# Parameters of queries. What was not sent is UNSET: the text `null` is a text like others.


class ListRuns(msgspec.Struct, forbid_unknown_fields=True):
    """Which runs."""

    workflow: Annotated[Name | UnsetType, Meta(description="Of this workflow.")] = UNSET
    status: Annotated[list[RunStatus] | UnsetType, Meta(description="In this status; repeat it for several.")] = UNSET
    tag: Annotated[list[Tag] | UnsetType, Meta(description="With this tag, `name:value`; or several.")] = UNSET
    id_prefix: Annotated[Name | UnsetType, Meta(description="With an id that begins so.")] = UNSET
    error: Annotated[Text | UnsetType, Meta(description="With this text in the type or message of the error.")] = UNSET
    text: Annotated[
        Text | UnsetType,
        Meta(description="With an id that begins so, or with that in the workflow's name or in the error."),
    ] = UNSET
    created_after: Annotated[Moment | UnsetType, Meta(description="Started at that time or later.")] = UNSET
    created_before: Annotated[Moment | UnsetType, Meta(description="Started before that time.")] = UNSET
    limit: Annotated[int, Meta(ge=1, le=500, description="At most so many.")] = 50
    cursor: Annotated[Cursor | UnsetType, Meta(description="The `next_cursor` of the page before.")] = UNSET
    values: Annotated[bool, Meta(description="With inputs and outputs; without them both are `null`.")] = True


class ListSteps(msgspec.Struct, forbid_unknown_fields=True):
    """Which steps."""

    first: Annotated[int, Meta(ge=0, le=MAX_OWN, description="From this one on; that of the first is 0.")] = 0
    limit: Annotated[int, Meta(ge=0, le=500, description="At most so many; 0: all.")] = 0


class ListenFrom(msgspec.Struct):
    """Where to go on."""

    after: Annotated[Place | UnsetType, Meta(description="As `Last-Event-ID`.")] = UNSET


class ListenTo(ListenFrom):
    """What to listen to."""

    step: Annotated[Name | UnsetType, Meta(description="Only what this step emits.")] = UNSET
    current: Annotated[bool, Meta(description="Without what a later execution of its step has replaced.")] = False


# Headers of requests

IdempotencyKey: TypeAlias = Annotated[
    Key | UnsetType,
    Meta(description="The id of the run, in UTF-8: asking again with the same one starts nothing new."),
]
Prefer: TypeAlias = Annotated[
    str | UnsetType, Meta(description="`wait=10`: answer when the run has ended, or after 10 s; at most 60 (RFC 7240).")
]


class NewRunHeaders(msgspec.Struct, rename={"idempotency_key": "Idempotency-Key"}):
    """For a new run."""

    idempotency_key: IdempotencyKey = UNSET


class WaitHeaders(msgspec.Struct, rename={"prefer": "Prefer"}):
    """For who would wait."""

    prefer: Prefer = UNSET


class StartHeaders(NewRunHeaders, rename={"idempotency_key": "Idempotency-Key", "prefer": "Prefer"}):
    """For who starts one, and would wait."""

    prefer: Prefer = UNSET


class ListenHeaders(msgspec.Struct, rename={"last_event_id": "Last-Event-ID"}):
    """For who listens."""

    last_event_id: Annotated[Place | UnsetType, Meta(description="Go on after the event of this id.")] = UNSET


# What they are


def in_words(error: msgspec.ValidationError) -> str:
    """What does not fit, with the patterns told in words."""
    said = str(error)
    for pattern, words in WORDS.items():
        said = said.replace(f"`str` matching regex {pattern!r}", words)
    return said


def holds(annotation: Any, wanted: type[inspect.Type]) -> bool:
    """Whether a type is one of that sort, or a union with one."""
    found = inspect.type_info(annotation)
    while isinstance(found, inspect.Metadata):
        found = found.type
    members = found.types if isinstance(found, inspect.UnionType) else (found,)
    return any(isinstance(one.type if isinstance(one, inspect.Metadata) else one, wanted) for one in members)
