"""Conversion by msgspec and by pydantic, strictly, with their complaints as `Refused`."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import msgspec

from pikkupy.codec.refusal import Refused, class_name, key_step
from pikkupy.codec.shapes import is_pydantic

_OF_A_KEY = "key` in `"


def by_msgspec(annotation: Any) -> Callable[[Any], Any] | None:
    """Conversion by msgspec, None if it does not know the annotation."""
    try:
        check_msgspec(annotation)
    except TypeError:
        return None
    return lambda value: convert(value, annotation)


def check_msgspec(annotation: Any) -> None:
    """Raise `TypeError` if msgspec does not know the annotation."""
    try:
        msgspec.json.Decoder(annotation)
    except TypeError:
        raise
    except Exception as error:  # a forward reference that is not defined, in a class of the user's
        raise TypeError(f"{class_name(annotation)}: {error}") from error


def convert(value: Any, annotation: Any, *, str_keys: bool = False) -> Any:
    """msgspec's strict conversion. `str_keys`: the text of a number counts as a key that is a number."""
    try:
        return msgspec.convert(value, annotation, dec_hook=_other, str_keys=str_keys)
    except msgspec.ValidationError as error:
        raise _from_msgspec(str(error)) from None
    except RecursionError:
        raise
    except Exception as error:  # `__post_init__` and default factories are the user's code
        raise Refused(f"cannot be converted to `{class_name(annotation)}`: {error}") from error


def _other(cls: Any, value: Any) -> Any:
    """msgspec's hook for the types that it does not know: pydantic models and paths; it checks the result itself."""
    if isinstance(cls, type) and not isinstance(value, cls):
        if is_pydantic(cls):
            return validated(cls, value)
        if issubclass(cls, pathlib.PurePath) and type(value) is str:
            return cls(value)
    return value


def validated(cls: Any, value: Any) -> Any:
    """A pydantic model from its fields, strictly: as Python values, or else as the JSON form of them."""
    with contextlib.suppress(Exception):  # validators are the user's code; the second try reports
        return cls.model_validate(value, strict=True)
    try:
        return cls.model_validate_json(json.dumps(value, default=msgspec.to_builtins), strict=True)
    except Exception as error:
        raise _from_pydantic(error) from error


def _from_msgspec(message: str) -> Refused:
    # No pattern: the message may quote a very long text, and with `.*` each place in it could be the path.
    reason, _, place = message.rpartition(" - at `")
    path = place.removeprefix(_OF_A_KEY)
    if not (reason and path.startswith("$") and path.endswith("`")):
        return Refused(message)
    return Refused(f"{reason} as a key" if place != path else reason).under(path[1:-1])


def _from_pydantic(error: Any) -> Refused:
    if not hasattr(error, "errors"):
        return Refused(str(error))
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{step}]" if isinstance(step, int) else key_step(step) for step in first["loc"])
    return Refused(first["msg"]).under(path)
