"""JSON Schema of users' types, as far as there is one: to make forms of, and to describe what a workflow takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
from msgspec import inspect

from pikkupy.codec import is_pydantic

_FORMATS = {None: "date-time", True: "date-time", False: "date-time-local"}  # by whether there has to be a time zone


def schema_of(annotation: Any) -> dict[str, Any]:
    """JSON Schema of a type; one that says nothing for what there is none of."""
    if annotation is object:
        return {}
    parts = dict[str, Any]()
    try:
        schema = msgspec.json.schema(annotation, schema_hook=partial(_of_class, parts=parts))
        say_moments(inspect.type_info(annotation), schema, schema.get("$defs", {}))
    except Exception:  # noqa: BLE001 - whatever users' types do
        return {}
    if parts:
        schema.setdefault("$defs", {}).update(parts)
    return schema


def _of_class(cls: type[Any], parts: dict[str, Any]) -> dict[str, Any]:
    """Of a class that msgspec does not know: a pydantic model says it itself, with `parts` that are named in it.

    Of any other there is its name: msgspec takes no schema that is empty.
    """
    if is_pydantic(cls):
        prefix = f"{cls.__module__}.{cls.__qualname__}."
        with suppress(Exception):  # it holds what there is no schema of
            schema: dict[str, Any] = cls.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
            parts |= {f"{prefix}{name}": part for name, part in schema.pop("$defs", {}).items()}
            return schema
    return {"title": cls.__name__}


def say_moments(kind: inspect.Type, schema: dict[str, Any], components: Mapping[str, dict[str, Any]]) -> None:
    """Say of which texts they are moments: msgspec says so only of those that must have a time zone."""
    seen, left = set[str](), [(kind, schema)]
    while left:
        kind, schema = left.pop()
        while isinstance(kind, inspect.Metadata):
            kind = kind.type
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name in seen or name not in components:
                continue
            seen.add(name)
            schema = components[name]
        if isinstance(kind, inspect.DateTimeType):
            schema.setdefault("format", _FORMATS[kind.tz])
        elif isinstance(kind, inspect.TimeType):
            schema.setdefault("format", "time")
        else:
            left += _parts(kind, schema)


def _parts(kind: inspect.Type, schema: Mapping[str, Any]) -> Iterator[tuple[inspect.Type, dict[str, Any]]]:
    """What a type is made of, each with its place in the schema."""
    match kind:
        case inspect.StructType() | inspect.TypedDictType() | inspect.DataclassType() | inspect.NamedTupleType():
            named, listed = schema.get("properties", {}), schema.get("prefixItems", [])
            places = listed[len(listed) - len(kind.fields) :] or [named[field.encode_name] for field in kind.fields]
            yield from zip((field.type for field in kind.fields), places, strict=True)
        case inspect.CollectionType() if "items" in schema:
            yield kind.item_type, schema["items"]
        case inspect.TupleType():
            yield from zip(kind.item_types, schema.get("prefixItems", ()), strict=True)
        case inspect.DictType() | inspect.FrozenDictType() if "additionalProperties" in schema:
            yield kind.value_type, schema["additionalProperties"]
        case inspect.UnionType():
            yield from _choices(kind, schema)
        case _:
            pass


def _choices(kind: inspect.UnionType, schema: Mapping[str, Any]) -> Iterator[tuple[inspect.Type, dict[str, Any]]]:
    """The same of a union, whose records come last, under one roof if there are several and others."""
    records: dict[Any, inspect.Type] = {}
    others = list[inspect.Type]()
    for one in kind.types:
        real = one
        while isinstance(real, inspect.Metadata):
            real = real.type
        if isinstance(real, inspect.StructType) and not real.array_like:
            records[real.tag] = real
        elif not isinstance(real, inspect.NoneType):
            others.append(one)
    places = schema["anyOf"]
    rest = places[len(others) :]
    if len(records) > 1 and "anyOf" in rest[0]:
        rest = rest[0]["anyOf"]
    yield from zip(others, places, strict=False)
    yield from zip(records.values(), rest, strict=False)
