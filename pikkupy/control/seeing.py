"""What users see of the runs, steps and chunks that an engine has sent."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, structs

from pikkupy.control import messages
from pikkupy.control.messages import values
from pikkupy.engine import Chunk, Run, Step


class NotHere(Exception):
    """A value is of a class that this process does not have, and it came without its plain form."""


def run_of(sent: messages.SentRun, types: tuple[Any, Any], final: bool) -> Run:
    """With input and output of these types. `final` as of `_value`, as of all of these functions."""
    given = structs.asdict(sent)
    for name, annotation in zip(("input", "output"), types, strict=True):
        given[name] = _value(given[name], given.pop(f"plain_{name}"), annotation, final)
    return Run(**given)


def step_of(sent: messages.SentStep, final: bool) -> Step:
    """One step."""
    given = structs.asdict(sent)
    given["output"] = _value(sent.output, given.pop("plain_output"), Any, final)
    return Step(**given)


def chunk_of(sent: messages.SentChunk, final: bool) -> Chunk:
    """One chunk."""
    given = structs.asdict(sent)
    given["value"] = _value(sent.value, given.pop("plain_value"), Any, final)
    return Chunk(**given)


def _value(text: Raw, plain: messages.Plain, annotation: Any, final: bool) -> Any:
    """The value, else what the engine shows of it.

    Raises `NotHere` if it can be asked for that; `final`: it has been, so what can be read without it is all there is.
    """
    data = bytes(text).decode()
    if data == "null":
        return None
    try:
        return values.decode(data, annotation, what="value")
    except Exception:  # noqa: BLE001 - to show something beats to show nothing
        if plain:
            return msgspec.json.decode(plain[0])
        if messages.holds_classes(text) and not final:
            raise NotHere from None
        return values.decode_plain(data)
