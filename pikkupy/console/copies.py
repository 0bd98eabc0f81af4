"""A run's input as what a form begins with: only as far as what is shown is what it is."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import quote_plus

from msgspec import UNSET

from pikkupy.codec import Codec
from pikkupy.engine import Run
from pikkupy.engine.asking import types_of
from pikkupy.errors import PayloadError
from pikkupy.http.asked import Ask
from pikkupy.plain import plain
from pikkupy.showing.words import json_of

HIDDEN = "it holds what is hidden here, so a copy would not be the same"
NOT_JSON = "it holds what JSON has not (as tuples, bytes or NaN), so a copy would not be the same"
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


def copy_of(ask: Ask, run: Run) -> Copy:
    """The input in plain JSON; of an object without the parts that are hidden."""
    real, annotation = plain(run.input), types_of(ask.registry, run.workflow)[0]
    shown = ask.shown.value(real, plain_already=True)
    if not _is_same(real, run.input, annotation):
        return Copy(why_not=NOT_JSON)
    if shown != real:
        if not isinstance(real, dict):
            return Copy(why_not=HIDDEN)
        open_parts = {name: value for name, value in real.items() if shown.get(name, UNSET) == value}
        return Copy(open_parts, HIDDEN)
    copy = Copy(real)
    return Copy(why_not=LARGE) if len(quote_plus(copy.text)) > ask.api.config.max_body else copy


def _is_same(copy: Any, value: Any, annotation: Any) -> bool:
    codec = Codec()
    try:
        texts = [codec.encode(one, annotation, what="input") for one in (copy, value)]
    except PayloadError:
        return False
    return texts[0] == texts[1]
