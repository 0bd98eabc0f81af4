"""What commands that act are given: values as JSON, and which runs they are meant for."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
from cyclopts import Parameter

from pikkupy import Client, Pikku
from pikkupy.cli.places import ENV, AsJson, file_and, file_and_perhaps, moment_of, tags_of
from pikkupy.core.model import RunStatus
from pikkupy.durations import microseconds
from pikkupy.errors import BadValue, DurationError, EngineClosed, JournalNotFound
from pikkupy.many import Child, child_of

Data: TypeAlias = Annotated[
    str | None,
    Parameter(name=["--data", "-d"], allow_leading_hyphen=True, help="JSON, @FILE with JSON, or - for standard input."),
]
Yes: TypeAlias = Annotated[
    bool, Parameter(negative="", show_default=False, help="Do it to all that fit, without asking.")
]
Wait: TypeAlias = Annotated[str, Parameter(name="--engine-wait", help="How long to wait for an engine to appear.")]

PATIENCE = "5s"


@asynccontextmanager
async def connected(file: str, wait: str) -> AsyncIterator[Client]:
    """To the engine that has the file open. It knows no workflow, and so no type: values are plain JSON.

    The file may not be there yet, as that engine may be about to make it; `JournalNotFound` if it has not come.
    """
    check_duration("--engine-wait", wait)
    try:
        async with Pikku().connect(file, wait=wait) as client:
            yield client
    except EngineClosed:
        if Path(file).exists():  # noqa: ASYNC240 - the command has nothing else to do
            raise
        raise JournalNotFound(f"{file!r} does not exist, and no engine has made it within {wait}") from None


def check_duration(option: str, text: str) -> None:
    """Raises `BadValue`, in the words of a command line."""
    try:
        microseconds(text)
    except DurationError:
        raise BadValue(f"{option}={text!r}: use a number with its unit, such as 30s, 5m, 2h or 7d") from None


def value_of(option: str, text: str | None) -> Any:
    """The value that the JSON text means. Raises `BadValue`."""
    if text is None:
        return None
    try:
        if text == "-":
            data = sys.stdin.buffer.read()
        elif text.startswith("@"):
            data = Path(text[1:]).read_bytes()
        else:
            data = text.encode()
    except OSError as error:
        raise BadValue(f"{option} {text}: {error.strerror or error}") from None
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadValue(f"{option}: this is no JSON ({error}); a text needs quotes: {option} '\"text\"'") from None


def values_of(option: str, pairs: list[str]) -> dict[str, Any]:
    """`name=JSON` each."""
    values = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise BadValue(f"{option} {pair!r}: use name=JSON")
        if name in values:
            raise BadValue(f"{option} {name!r} is given twice: give it once")
        values[name] = value_of(option, text)
    return values


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which runs: those that all filters fit."""

    workflow: Annotated[str | None, Parameter(help="Runs of this workflow alone.")] = None
    status: Annotated[list[RunStatus] | None, Parameter(negative="", help="In this status. Several: repeat it.")] = None
    tag: Annotated[list[str] | None, Parameter(negative="", help="With this tag, name=value. Several: repeat it.")] = (
        None
    )
    id_prefix: Annotated[str | None, Parameter(help="With an id that begins so.")] = None
    error: Annotated[str | None, Parameter(help="With this text in the type or message of the error.")] = None
    text: Annotated[
        str | None, Parameter(help="With an id that begins so, or with that in the workflow's name or in the error.")
    ] = None
    since: Annotated[str | None, Parameter(help="Started so long ago or later ('2h', '30d'), or since a time.")] = None
    until: Annotated[str | None, Parameter(help="Started before that.")] = None

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return any(
            (self.workflow, self.status, self.tag, self.id_prefix, self.error, self.text, self.since, self.until)
        )

    def arguments(self, now: datetime) -> dict[str, Any]:
        """Of `list_runs`."""
        return {
            "workflow": self.workflow,
            "status": self.status,
            "tags": tags_of(self.tag or []),
            "id_prefix": self.id_prefix,
            "error": self.error,
            "text": self.text,
            "created_after": moment_of("--since", self.since, now),
            "created_before": moment_of("--until", self.until, now),
        }


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Which(Filters):
    """The runs that are meant, where none is named, and how they are asked for."""

    yes: Yes = False
    engine_wait: Wait = PATIENCE
    json: AsJson = False


def named(file: str | None, run: str | None) -> tuple[str, str]:
    """The journal and the run. Raises `BadValue` if they were not given."""
    if file is None:
        raise BadValue(f"which run? Give FILE and RUN, or set {ENV} and give RUN")
    return file_and(file, run, "RUN")


def meant(file: str | None, run: str | None, filters: Filters) -> tuple[str, str | None]:
    """The journal, and the run that was named, or None where there are filters. Raises `BadValue` for both or none."""
    if not filters.given:
        try:
            return named(file, run)
        except BadValue as error:
            raise BadValue(f"{error}; for all that fit give filters, as --workflow or --status") from None
    path, one = file_and_perhaps(file, run)
    if one is not None:
        raise BadValue("give a RUN or filters, not both")
    return path, None


async def runs_of(client: Client, arguments: dict[str, Any], able: Iterable[RunStatus]) -> dict[str, Child | None]:
    """All runs that fit these arguments of `list_runs`, newest first: ids, with what is to be known of children only,
    as there may be a million. If no status is asked for, those in the statuses `able`.
    """
    arguments = {**arguments, "status": arguments["status"] or sorted(able)}
    found, cursor = dict[str, Child | None](), None
    while True:
        page = await client.list_runs(**arguments, limit=500, cursor=cursor, values=False)
        found |= {run.id: child_of(run) for run in page.runs}
        cursor = page.next_cursor
        if cursor is None:
            return found
