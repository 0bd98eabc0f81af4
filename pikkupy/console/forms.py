"""A form made of a JSON Schema, for what has named parts of simple types; anything else is written as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pikkupy.http.problems import Refused

PREFIX = "field:"


class Field(NamedTuple):
    """One part."""

    name: str
    kind: str  # text, number, integer, boolean, answer (which has to be given), choice, moment, json
    required: bool
    value: str
    choices: Sequence[str] = ()
    said: str = ""

    @property
    def key(self) -> str:
        """Of the form."""
        return PREFIX + self.name


def fields_of(schema: Mapping[str, Any], given: Any = None) -> list[Field] | None:
    """The parts of an object, filled with what is `given`; `None` if it is no object with named parts."""
    found = _resolved(schema, schema)
    properties = found.get("properties")
    if found.get("type") != "object" or not isinstance(properties, dict) or not properties:
        return None
    required = set(found.get("required", ()))
    values = given if isinstance(given, Mapping) else {}
    return [
        _field(name, _resolved(part, schema), name in required, values.get(name, part.get("default")))
        for name, part in properties.items()
    ]


def decision_fields(schema: Mapping[str, Any]) -> tuple[list[Field], bool]:
    """The parts of a decision; True: there is one, which is the decision itself."""
    found = fields_of(schema)
    if found is not None:
        return found, False
    part = _resolved(schema, schema)
    if part.get("type") == "boolean":
        return [Field("decision", "answer", True, "")], True
    return [_field("decision", part, True, None)], True


def decision_of(fields: Sequence[Field], whole: bool, form: Mapping[str, str]) -> Any:
    """The decision that a form means. Raises `Refused`."""
    found = value_of_fields(fields, form)
    return found.get("decision") if whole else found


def value_of_fields(fields: Sequence[Field], form: Mapping[str, str]) -> dict[str, Any]:
    """The object that a form means. Raises `Refused`, naming the part that is wrong; what is left empty is left out."""
    found: dict[str, Any] = {}
    for field in fields:
        text = form.get(field.key, "")
        if field.kind == "boolean":
            found[field.name] = text == "true"
        elif text == "" and not (field.required and field.kind == "text"):
            continue
        elif field.kind in ("text", "choice", "moment"):
            found[field.name] = text
        else:
            try:
                found[field.name] = msgspec.json.decode(text.encode())
            except (msgspec.DecodeError, RecursionError, ValueError) as error:
                raise Refused(422, "Unprocessable content", f"{field.name}: {error}") from None
    return found


def _field(name: str, part: Mapping[str, Any], required: bool, value: Any) -> Field:
    said = str(part.get("description", ""))
    if "enum" in part and all(isinstance(one, str) for one in part["enum"]):
        return Field(name, "choice", required, "" if value is None else str(value), part["enum"], said)
    kind = part.get("type")
    if kind == "string":
        shown = "" if value is None else str(value)
        return Field(name, "moment" if part.get("format") == "date-time" else "text", required, shown, (), said)
    if kind in ("integer", "number", "boolean"):
        shown = "" if value is None else msgspec.json.encode(value).decode()
        return Field(name, kind, required, shown, (), said)
    shown = "" if value is None else msgspec.json.encode(value).decode()
    return Field(name, "json", required, shown, (), said)


def _resolved(part: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part itself, where it is named in another place; of what may be null what it is otherwise."""
    for _ in range(10):
        if "$ref" in part:
            part = schema.get("$defs", {}).get(part["$ref"].rpartition("/")[2], {})
            continue
        others = [one for one in part.get("anyOf", ()) if one != {"type": "null"}]
        if len(others) != 1:
            break
        part = others[0]
    return part
