"""Which index leads to the runs that are asked for, and the statement that follows it.

Every way walks runs from the newest down, so that a page costs what it shows and what it passes over on the way there.
The way with the fewest runs on it is taken; to learn which, each is counted up to a limit. Beyond the second limit none
is short, and matches are so many that walking from the newest finds a page soon.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from pikkupy.core.model import RunFilter, RunStatus
from pikkupy.store.queries import QUERIES

# Runs on a way, counted to these: the first takes 0.1 ms, the second, for ways that are all long, some ms.
FEW, MANY = 2_000, 100_000

MOST_CALLED = 20  # workflows that a text finds by a way: each is five parts of its statement


class Way(msgspec.Struct, frozen=True):
    """One way to the runs."""

    kind: str  # tags, prefix, text, statuses or all
    parts: tuple[str, ...]  # each finds runs in the order of their numbers; together they find each run once
    counted: tuple[str, ...]  # what is counted of them

    def covers(self, condition: str) -> bool:
        """True if the way itself leads to nothing else."""
        return condition in _COVERED[self.kind]


_COVERED = {
    "tags": frozenset[str](),  # one of them; it costs nothing to ask for it again
    "prefix": frozenset({"and_prefix"}),
    "text": frozenset({"and_text"}),
    "statuses": frozenset({"and_statuses", "and_workflow"}),
    "all": frozenset[str](),
}


def numbers(db: sqlite3.Connection, which: RunFilter, limit: int, before: int) -> list[int]:
    """The numbers of the newest runs below `before` that fit, newest first."""
    wanted = wanted_statuses(which)
    if wanted is not None and not wanted:
        return []
    names = called(db, which)
    parameters = parameters_of(which, limit, before, names)
    way = _shortest(db, ways(which, names), parameters)
    return [number for (number,) in db.execute(statement(way, which), parameters).fetchall()]


def wanted_statuses(which: RunFilter) -> tuple[RunStatus, ...] | None:
    """The statuses that can fit, None for all: only a failed run has an error."""
    if which.error is None:
        return which.statuses
    wanted = (RunStatus.FAILED,)
    return wanted if which.statuses is None or RunStatus.FAILED in which.statuses else ()


def called(db: sqlite3.Connection, which: RunFilter) -> tuple[str, ...] | None:
    """The workflows of runs whose names have the text; None: they are too many for a way."""
    if which.text is None:
        return ()
    if which.workflow is not None:
        return (which.workflow,) if which.text in which.workflow else ()
    rows = db.execute(QUERIES["workflows_called"], {"text": which.text, "most": MOST_CALLED + 1}).fetchall()
    return tuple(name for (name,) in rows) if len(rows) <= MOST_CALLED else None


def ways(which: RunFilter, names: Sequence[str] | None = ()) -> list[Way]:
    """All ways that there are, the best first for matches without number. `names`: of `called`."""
    found = [
        Way("tags", (_named("listed_of_tag", name=f"name{n}", value=f"value{n}"),), (_count_of_tag(n),))
        for n in range(len(which.tags))
    ]
    wanted = wanted_statuses(which)
    dated = which.created_after is not None or which.created_before is not None
    if wanted is not None or which.workflow is not None or dated:
        parts = tuple(_of_status(which.workflow, status) for status in wanted or RunStatus)
        found.append(Way("statuses", parts, parts))
    if not found:
        part = QUERIES["listed"]
        found.append(Way("all", (part,), (part,)))
    if which.id_prefix is not None:
        part = _named("listed_of_prefix", prefix="prefix")
        found.append(Way("prefix", (part,), (part,)))
    if which.text is not None and names is not None:
        found.append(_way_of_text(which, wanted, names))
    return found


def _way_of_text(which: RunFilter, wanted: tuple[RunStatus, ...] | None, names: Sequence[str]) -> Way:
    """The runs whose ids begin with the text, then others of workflows whose names have it, then other failures.

    The failures are not counted: a text that few of them have is not found sooner in any other way.
    """
    by_id = _named("listed_of_prefix", prefix="text")
    by_name = [
        _of_status(name, status, parameter=f"called{n}")
        for n, name in enumerate(names)
        for status in wanted or RunStatus
    ]
    parts = [by_id, *("\n".join([part, QUERIES["and_not_begun_so"]]) for part in by_name)]
    if wanted is None or RunStatus.FAILED in wanted:
        failed = _of_status(which.workflow, RunStatus.FAILED)
        others = [QUERIES["and_not_begun_so"], QUERIES["and_not_called_so"], _named("and_error", error="text")]
        parts.append("\n".join([failed, *others]))
    return Way("text", tuple(parts), (by_id, *by_name))


def _of_status(workflow: str | None, status: RunStatus, *, parameter: str = "workflow") -> str:
    if workflow is None:
        return _named("listed_of_status", status=f"status_{status}")
    return _named("listed_of_workflow", status=f"status_{status}", workflow=parameter)


def statement(way: Way, which: RunFilter) -> str:
    """The whole statement: the way, and what else has to be true of a run on it."""
    rest = [text for name, text in _conditions(which) if not way.covers(name)]
    parts = ["\n".join([part, *rest]) for part in way.parts]
    return "\n".join(["\nUNION ALL\n".join(parts), QUERIES["order_listed"]])


def parameters_of(which: RunFilter, limit: int, before: int, names: Sequence[str] | None = ()) -> dict[str, object]:
    """What the statements ask for. `names`: of `called`."""
    parameters: dict[str, object] = {
        "workflow": which.workflow,
        "prefix": which.id_prefix,
        "error": which.error,
        "error_json": None if which.error is None else json_text(which.error),
        "text": which.text,
        "text_json": None if which.text is None else json_text(which.text),
        "created_after": which.created_after,
        "created_before": which.created_before,
        "statuses": json.dumps([status.value for status in wanted_statuses(which) or RunStatus]),
        "limit": limit,
        "before": before,
    }
    parameters |= {f"status_{status}": status.value for status in RunStatus}
    parameters |= {f"called{n}": name for n, name in enumerate(names or ())}
    for n, (name, value) in enumerate(which.tags):
        parameters |= {f"name{n}": name, f"value{n}": value}
    return parameters


def json_text(text: str) -> str:
    """The text as it is inside of a JSON text that the journal has written: character by character."""
    return msgspec.json.encode(text).decode()[1:-1]


def _conditions(which: RunFilter) -> Iterator[tuple[str, str]]:
    present = {
        "and_created_after": which.created_after,
        "and_created_before": which.created_before,
        "and_workflow": which.workflow,
        "and_statuses": wanted_statuses(which),
        "and_prefix": which.id_prefix,
    }
    yield from ((name, QUERIES[name]) for name, value in present.items() if value is not None)
    yield from (("and_tag", _named("and_tag", name=f"name{n}", value=f"value{n}")) for n in range(len(which.tags)))
    if which.error is not None:  # last: it takes the longest
        yield "and_error", _named("and_error", error="error")
    if which.text is not None:
        yield "and_text", QUERIES["and_text"]


def _shortest(db: sqlite3.Connection, found: list[Way], parameters: dict[str, object]) -> Way:
    if len(found) == 1:
        return found[0]
    for most in (FEW, MANY):
        lengths = [_length(db, way, parameters, most) for way in found]
        shortest = min(lengths)
        if shortest < most:
            return found[lengths.index(shortest)]
    return found[0]


def _length(db: sqlite3.Connection, way: Way, parameters: dict[str, object], most: int) -> int:
    """How many runs are on the way, counted until `most`."""
    length = 0
    for part in way.counted:
        count = QUERIES["how_many"].replace("{part}", part)
        [(found,)] = db.execute(count, parameters | {"most": most - length}).fetchall()
        length += found
        if length >= most:
            break
    return length


def _count_of_tag(n: int) -> str:
    return _named("how_many_of_tag", name=f"name{n}", value=f"value{n}")


def _named(query: str, **parameters: str) -> str:
    """The part with its parameters under names of their own."""
    text = QUERIES[query]
    for placeholder, name in parameters.items():
        text = text.replace(f"{{{placeholder}}}", name)
    return text
