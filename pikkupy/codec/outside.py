"""What comes from outside: over HTTP, from the command line, out of a form. A key that nothing takes is a mistake.

What an application hands over, and what is read back from a file, may have keys that a class does not have (any more);
they are dropped, as by msgspec. Classes of pydantic say themselves what becomes of such keys, and are left alone.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import NoneType, UnionType
from typing import Annotated, Any, Union

import msgspec

from pikkupy.codec.fit import fitter, hints_of, is_typed_dict, unqualified
from pikkupy.codec.refusal import Refused, class_name, key_step
from pikkupy.codec.shapes import AttributesShape, StructShape, shape_of
from pikkupy.errors import PayloadError
from pikkupy.names import some


class Outside(msgspec.Struct, frozen=True):
    """A value that comes from there: JSON, or what a client has made of it."""

    value: Any

    def fitting(self, annotation: Any, what: str) -> Any:
        """The value, if no key in it is one too many. Raises `PayloadError` with its path; `what` names the value."""
        try:
            check_keys(annotation, self.value)
        except Refused as refused:
            raise PayloadError(f"{what}: {refused.path}: {refused.reason}") from None
        except RecursionError:
            raise PayloadError(f"{what}: $: nested too deeply for Python's stack; keep it flat") from None
        return self.value


def check_keys(annotation: Any, value: Any) -> None:
    """Raises `Refused` for a key of an object that is to be of a class which has no such field."""
    if type(value) not in (dict, list):
        return
    for step, inner, item in _parts(annotation, value):
        try:
            check_keys(inner, item)
        except Refused as refused:
            refused.under(step)
            raise


def _parts(annotation: Any, value: Any) -> Iterator[tuple[str, Any, Any]]:
    """What the value is made of, each with its step of a path and its annotation."""
    while isinstance(annotation, typing.NewType):
        annotation = annotation.__supertype__
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if "TypeAliasType" in (type(annotation).__name__, type(origin).__name__):
        with suppress(NameError, TypeError):  # one that cannot be used: fitting says so
            meant = annotation.__value__
            yield "", meant[arguments] if arguments else meant, value
    elif origin is Annotated:
        yield "", arguments[0], value
    elif origin is Union or origin is UnionType:
        yield "", _member(arguments, value), value
    elif isinstance(value, list):
        yield from _items(arguments, value)
    elif isinstance(origin or annotation, type):
        yield from _members(origin or annotation, arguments, value)


def _member(members: tuple[Any, ...], value: Any) -> Any:
    """The one of a union that the value is for: the first that it fits with all of its keys, else the first it fits."""
    fitting = [member for member in members if member is not NoneType and _fits(member, value)]
    return next((member for member in fitting if not _has_more(member, value)), fitting[0] if fitting else Any)


def _fits(annotation: Any, value: Any) -> bool:
    try:
        fitter(annotation)(value)
    except (Refused, TypeError):
        return False
    return True


def _has_more(annotation: Any, value: Any) -> bool:
    try:
        check_keys(annotation, value)
    except Refused:
        return True
    return False


def _items(arguments: tuple[Any, ...], value: list[Any]) -> Iterator[tuple[str, Any, Any]]:
    if len(arguments) == 1 or (len(arguments) == 2 and arguments[1] is ...):
        arguments = arguments[:1] * len(value)
    for index, (inner, item) in enumerate(zip(arguments, value, strict=False)):
        yield f"[{index}]", inner, item


def _members(cls: type, arguments: tuple[Any, ...], value: dict[Any, Any]) -> Iterator[tuple[str, Any, Any]]:
    try:
        shape, hints = shape_of(cls), hints_of(cls)
    except Exception:  # noqa: BLE001 - a class that cannot be kept, or annotations that cannot be used: fitting says so
        return
    names: Mapping[str, str] = {name: name for name in hints}
    if isinstance(shape, StructShape | AttributesShape):
        names, tag = _names(shape)
        for key in value:
            if key not in names and key != tag:
                raise Refused(f"{class_name(cls)} has no field {key!r}; it has: {some(names)}")
    elif not is_typed_dict(cls):  # of which other keys stay
        hints, names = dict.fromkeys(value, arguments[1]) if len(arguments) == 2 else {}, {key: key for key in value}
    for key, item in value.items():
        yield key_step(key), unqualified(hints.get(names.get(key, ""), Any)), item


def _names(shape: StructShape | AttributesShape) -> tuple[dict[str, str], str | None]:
    """Keys of the JSON form, each with its field; and that which says which class it is."""
    if isinstance(shape, StructShape):
        return shape.keys, shape.cls.__struct_config__.tag_field
    return {name: name for name in shape.names}, None
