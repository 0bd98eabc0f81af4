"""What `list_runs` is asked for, checked before anything happens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pikkupy.core.model import RunFilter, RunStatus
from pikkupy.engine.tags import checked_tags
from pikkupy.errors import BadType, BadValue
from pikkupy.moments import checked_us
from pikkupy.names import check_name
from pikkupy.registry import WorkflowFunction

MAX_PAGE = 500  # runs on one page of `list_runs`


def filter_of(
    *,
    workflow: str | WorkflowFunction[Any, Any] | None,
    status: RunStatus | str | Iterable[RunStatus | str] | None,
    tags: Mapping[str, str] | None,
    id_prefix: str | None,
    error: str | None,
    text: str | None,
    created_after: datetime | None,
    created_before: datetime | None,
) -> RunFilter:
    """The filter that the arguments mean. Raises `BadType`, or a `ValueError` of ours, naming argument and value."""
    return RunFilter(
        workflow=None if workflow is None else _workflow_name(workflow),
        statuses=None if status is None else statuses_of("status", status),
        tags=checked_tags(tags),
        id_prefix=None if id_prefix is None else check_name(id_prefix, "id_prefix"),
        error=None if error is None else _text("error", error),
        text=None if text is None else _text("text", text),
        created_after=_aware_us("created_after", created_after),
        created_before=_aware_us("created_before", created_before),
    )


def check_limit(limit: int) -> int:
    """`limit`, if it is 1 to 500. Raises `BadValue`."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_PAGE:
        raise BadValue(f"limit={limit!r}: use a whole number from 1 to {MAX_PAGE}")
    return limit


def number_of(cursor: str | None) -> int | None:
    """The number of the last run that was shown. Raises `BadValue`."""
    if cursor is None:
        return None
    if not isinstance(cursor, str) or not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise BadValue(f"cursor={cursor!r}: use the next_cursor of a page of list_runs")
    return int(cursor)


def statuses_of(argument: str, status: RunStatus | str | Iterable[RunStatus | str]) -> tuple[RunStatus, ...]:
    """One status or several, each once, in the order of the model. Raises `BadValue`, also for none at all."""
    given = [status] if isinstance(status, str) or not isinstance(status, Iterable) else status
    wanted = {_status(argument, one) for one in given}
    if not wanted:
        raise BadValue(f"{argument}={status!r}: name at least one of {', '.join(RunStatus)}")
    return tuple(one for one in RunStatus if one in wanted)


def _status(argument: str, status: object) -> RunStatus:
    try:
        return RunStatus(status)  # type: ignore[arg-type]  # anything else is a ValueError, too
    except ValueError:
        raise BadValue(f"{argument}={status!r}: use one of {', '.join(RunStatus)}") from None


def _workflow_name(workflow: str | WorkflowFunction[Any, Any]) -> str:
    if isinstance(workflow, WorkflowFunction):
        return workflow.name
    if not isinstance(workflow, str):
        raise BadType(f"workflow={workflow!r}: use a workflow's name, or an object made by @pikku.workflow")
    return check_name(workflow, "workflow")


def _text(argument: str, text: object) -> str:
    if not isinstance(text, str):
        raise BadType(f"{argument}={text!r}: use a str")
    if not text:
        raise BadValue(f"{argument}={text!r}: use a text that is not empty")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadValue(f"{argument}={text!r}: lone surrogates are in no recorded text")
    return str.__str__(text)


def _aware_us(argument: str, when: datetime | None) -> int | None:
    return None if when is None else checked_us(argument, when, no_datetime=BadType)
