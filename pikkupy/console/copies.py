"""A run's input as what a form begins with: only as far as what is shown is what it is."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import quote_plus

from msgspec import UNSET

from pikkupy.engine import Run
from pikkupy.errors import EngineClosed, WorkflowNotFound
from pikkupy.http.asked import Ask
from pikkupy.plain import plain
from pikkupy.showing.words import json_of

HIDDEN = "it holds what is hidden here, so a copy would not be the same"
NOT_JSON = (
    "it holds what JSON has not (as tuples, bytes or NaN), or a value of a class not known here (as an enum's), "
    "so a copy would not be the same"
)
LARGE = "it is too large for a form"


class Copy(NamedTuple):
    """What can be copied."""

    given: Any = UNSET
    why_not: str | None = None
    """Why some of it, or all, cannot."""

    @property
    def text(self) -> str:
        """As it is written; nothing, if some of it cannot be copied."""
        return "" if self.why_not or self.given is UNSET else json_of(self.given, indent=2)


async def copy_of(ask: Ask, run: Run) -> Copy:
    """The input in plain JSON; of an object without the parts that are hidden."""
    real = plain(run.input)
    try:
        if not await ask.engine.has_input(run.id, real):
            return Copy(why_not=NOT_JSON)
    except (EngineClosed, WorkflowNotFound) as error:
        return Copy(why_not=str(error))
    shown = ask.shown.value(real, plain_already=True)
    if shown != real:
        if not isinstance(real, dict):
            return Copy(why_not=HIDDEN)
        open_parts = {name: value for name, value in real.items() if shown.get(name, UNSET) == value}
        return Copy(open_parts, HIDDEN)
    copy = Copy(real)
    return Copy(why_not=LARGE) if len(quote_plus(copy.text)) > ask.api.config.max_body else copy
