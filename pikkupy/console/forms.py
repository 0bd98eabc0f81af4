"""A form made of a JSON Schema, for what has named parts of simple types; anything else is written as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from pikkupy.http.bodies import QUOTES
from pikkupy.http.problems import Refused

PREFIX = "field:"
JSON = "json:"  # instead of it, for what is written as JSON
EMPTY = "empty:"  # what a part means that is left empty
NULL = "null"  # of the button that says that there is nothing
TEXTS = ("text", "formatted")  # kinds that are written as they are
HINTS = {  # how texts are written that have a format
    "date-time": "2026-12-24T18:00:00Z",
    "date-time-local": "2026-12-24T18:00:00",
    "date": "2026-12-24",
    "time": "18:00:00",
    "partial-time": "18:00:00",
    "duration": "PT1H30M",
    "uuid": "6f1f2b9c-7d3e-4d7a-9a54-0c7b6f7f2d11",
    "decimal": "12.50",
    "base64": "base64: aGVsbG8=",
}
NUMBERS = {"integer": ("whole number", "12"), "number": ("number", "12.5")}
LOST_IN_TEXTS = "\r\0"  # what no browser gives back of the text in a form


class Field(NamedTuple):
    """One part."""

    name: str
    kind: str  # text, formatted, integer, number, boolean, choice, json
    required: bool
    value: str
    """A text as it is, all else as JSON."""
    choices: Sequence[tuple[str, str]] = ()
    """JSON, and how it is said."""
    said: str = ""
    empties: Sequence[str] = ()
    """What it may mean if it is left empty: `text`, `null`, `absent`; first what it means now."""
    hint: str = ""
    """How it is written."""

    @property
    def key(self) -> str:
        """Of the form."""
        return (JSON if self.kind == "json" else PREFIX) + self.name

    @property
    def empty_key(self) -> str:
        """The same for what it means if it is left empty."""
        return EMPTY + self.name


class Form(NamedTuple):
    """How a value is asked for."""

    fields: Sequence[Field]
    whole: bool
    """There is one part, which is the value itself."""
    nullable: bool
    """It has parts, and may be null all the same: there is a button for that."""

    @property
    def is_json(self) -> bool:
        """It is written as JSON, all in one."""
        return self.whole and self.fields[0].kind == "json"

    def refilled(self, form: Mapping[str, str]) -> Form:
        """The same with what a form says."""
        return self._replace(fields=refilled(self.fields, form))


def fields_of(schema: Mapping[str, Any], given: Any = UNSET) -> list[Field] | None:
    """The parts of an object, filled with what is `given`; `None` if one of the two is no object with named parts."""
    found, _ = _resolved(schema, schema)
    properties = found.get("properties")
    if found.get("type") != "object" or not isinstance(properties, dict) or not properties:
        return None
    values = {} if given is UNSET else given
    if not isinstance(values, Mapping) or values.keys() - properties.keys():
        return None
    required = set(found.get("required", ()))
    return [_field(name, part, schema, name in required, values.get(name, UNSET)) for name, part in properties.items()]


def form_of(schema: Mapping[str, Any], called: str, given: Any = UNSET) -> Form:
    """The form of any value, filled with what is `given`; one without named parts is a single part, so `called`."""
    fields = fields_of(schema, given)
    if fields is None:
        return Form([_field(called, schema, schema, True, given)], whole=True, nullable=False)
    return Form(fields, whole=False, nullable=_resolved(schema, schema)[1])


def value_of_form(asked: Form, form: Mapping[str, str]) -> Any:
    """The value that a form means. Raises `Refused`."""
    if form.get(NULL):
        if not asked.nullable:
            raise Refused(422, "Unprocessable content", "it may not be null")
        return None
    found = value_of_fields(asked.fields, form)
    return found[asked.fields[0].name] if asked.whole else found


def written_in(form: Mapping[str, str]) -> dict[str, str]:
    """What is written in the parts of a form, whatever it means."""
    return {key.partition(":")[2]: text for key, text in form.items() if key.startswith((PREFIX, JSON))}


def value_of_fields(fields: Sequence[Field], form: Mapping[str, str]) -> dict[str, Any]:
    """The object that a form means. Raises `Refused`, naming the part that is wrong or missing."""
    found: dict[str, Any] = {}
    for field in fields:
        kind = "json" if JSON + field.name in form else field.kind
        text = form.get((JSON if kind == "json" else PREFIX) + field.name, "")
        if text:
            found[field.name] = text if kind in TEXTS else _decoded(field._replace(kind=kind), text)
            continue
        match _meaning(field, form):
            case "text":
                found[field.name] = ""
            case "null":
                found[field.name] = None
            case _ if field.required:
                raise Refused(422, "Unprocessable content", f"{field.name}: it has to be given")
            case _:
                pass
    return found


def refilled(fields: Sequence[Field], form: Mapping[str, str]) -> list[Field]:
    """The same with what a form says, whether it can be meant or not."""
    return [
        field._replace(
            kind="json" if JSON + field.name in form else field.kind,
            value=form.get(JSON + field.name, form.get(PREFIX + field.name, "")),
            empties=sorted(field.empties, key=lambda one: one != _meaning(field, form)),
        )
        for field in fields
    ]


def _meaning(field: Field, form: Mapping[str, str]) -> str | None:
    """Of a part that is left empty."""
    said = form.get(field.empty_key)
    return said if said in field.empties else next(iter(field.empties), None)


def _decoded(field: Field, text: str) -> Any:
    """The value of a part that is no text. Raises `Refused`, in the words of what it is."""
    try:
        found = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise _refused(field, text, f"this is no JSON ({error}); {QUOTES}") from None
    if field.kind in NUMBERS and not _is_number(found, field.kind):
        raise _refused(field, text, "")
    return found


def _is_number(value: Any, kind: str) -> bool:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return not isinstance(value, bool) and (whole or (kind == "number" and isinstance(value, float)))


def _refused(field: Field, text: str, no_json: str) -> Refused:
    match field.kind:
        case "integer" | "number":
            called, example = NUMBERS[field.kind]
            why = f"{text!r:.80} is no {called}; write it as {example}"
        case "boolean" | "choice":
            why = f"choose one of {', '.join(said for _, said in field.choices)}"
        case _:
            why = no_json
    return Refused(422, "Unprocessable content", f"{field.name}: {why}")


def _field(name: str, declared: Mapping[str, Any], schema: Mapping[str, Any], required: bool, given: Any) -> Field:
    part, nullable = _resolved(declared, schema)
    default = {**declared, **part}.get("default", UNSET)
    kind, choices = _kind_of(part)
    present = default if given is UNSET else given
    written = _format_of(part)
    empties = ["text"] if kind in TEXTS and written in ("", "base64") else []  # no date and no UUID is empty
    if nullable and not choices:
        empties.append("null")
    leaves_out = default is UNSET or (default is not None and kind not in ("text", "boolean", "choice"))
    if not required and leaves_out:
        empties.append("absent")
    now = "absent" if present is UNSET else "null" if present is None else "text"
    empties.sort(key=lambda one: one != now)
    if nullable and choices:
        choices.append(("null", "null"))
    if present is UNSET or (present is None and nullable and not choices) or (present == "" and "text" in empties):
        value = ""
    elif kind in TEXTS and isinstance(present, str) and present and _is_kept(present, kind):
        value = present
    else:
        value = _json(present)
        if kind in TEXTS or (choices and value not in dict(choices)):
            kind = "json"
    said, hint = str({**declared, **part}.get("description", "")), HINTS[written] if kind == "formatted" else ""
    return Field(name, kind, required, value, choices, said, empties, hint)


def _kind_of(part: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """How a part is asked for, and what there is to choose from."""
    if part.get("type") == "boolean":
        return "boolean", [("true", "yes"), ("false", "no")]
    if "enum" in part:
        return "choice", [(_json(one), one if isinstance(one, str) else _json(one)) for one in part["enum"]]
    if part.get("type") == "string":
        return "formatted" if _format_of(part) in HINTS else "text", []
    return (part["type"] if part.get("type") in ("integer", "number") else "json"), []


def _format_of(part: Mapping[str, Any]) -> str:
    return str(part.get("format", part.get("contentEncoding", "")))


def _is_kept(text: str, kind: str) -> bool:
    """Whether a browser gives it back as it was."""
    return not any(one in text for one in LOST_IN_TEXTS + ("\n" if kind == "formatted" else ""))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _resolved(part: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The part itself, where it is named in another place; of what may be null what it is otherwise, and True."""
    nullable = False
    for _ in range(10):
        if "$ref" in part:
            part = schema.get("$defs", {}).get(part["$ref"].rpartition("/")[2], {})
            continue
        others = [one for one in part.get("anyOf", ()) if one != {"type": "null"}]
        if len(others) != 1:
            break
        nullable = nullable or len(others) < len(part["anyOf"])
        part = others[0]
    return part, nullable
