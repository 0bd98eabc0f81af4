"""Forms of types: what is sent untouched is what they were filled with, and what is written is what is meant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from pikkupy import WorkflowInfo
from pikkupy.console.forms import Field, Form, fields_of, form_of, refilled, value_of_fields, value_of_form
from pikkupy.console.rendering import rendered
from pikkupy.http.problems import Refused
from pikkupy.mounting import Caller, Scope
from pikkupy.plain import plain
from pikkupy.schemas import schema_of


class Address(msgspec.Struct):
    """Nested."""

    street: str


class Given(msgspec.Struct):
    """One field of each kind."""

    name: str
    count: int
    ratio: float = 0.5
    sure: bool = False
    address: Address | None = None
    words: list[str] = []


def test_a_form_is_made_of_a_type() -> None:
    fields = fields_of(schema_of(Given), {"name": "ada", "count": 3, "words": ["a"]})
    assert fields is not None
    assert [(one.name, one.kind, one.required, one.value) for one in fields] == [
        ("name", "text", True, "ada"),
        ("count", "integer", True, "3"),
        ("ratio", "number", False, "0.5"),
        ("sure", "boolean", False, "false"),
        ("address", "json", False, ""),
        ("words", "json", False, '["a"]'),
    ]
    sent = {"field:name": "", "field:count": "7", "field:sure": "true", "json:address": '{"street": "x"}'}
    assert value_of_fields(fields, sent) == {"name": "", "count": 7, "sure": True, "address": {"street": "x"}}
    with pytest.raises(Refused) as refused:
        value_of_fields(fields, {"field:count": "many"})
    assert "count" in str(refused.value.problem.detail)


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("field:count", "1,5", "count: '1,5' is no whole number; write it as 12"),
        ("field:count", "true", "count: 'true' is no whole number; write it as 12"),
        ("field:count", "1.5", "count: '1.5' is no whole number; write it as 12"),
        ("field:ratio", "1,5", "ratio: '1,5' is no number; write it as 12.5"),
        ("field:ratio", '"1.5"', "ratio: '\"1.5\"' is no number; write it as 12.5"),
        ("field:ratio", "NaN", "ratio: 'NaN' is no number; write it as 12.5"),
        ("field:sure", "maybe", "sure: choose one of yes, no"),
        ("json:words", "hello", 'words: this is no JSON (JSON is malformed: invalid character (byte 0)); '
         'a text needs quotes: "text"'),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told_in_the_words_of_its_part(key: str, text: str, said: str) -> None:
    fields = fields_of(schema_of(Given))
    assert fields is not None
    with pytest.raises(Refused) as refused:
        value_of_fields(fields, {"field:name": "", "field:count": "1", key: text})
    assert refused.value.problem.detail == said


@pytest.mark.parametrize("annotation", [Any, str, int, list[int], dict[str, int], Given | Address, None])
def test_what_has_no_named_parts_is_written_as_json(annotation: Any) -> None:
    assert fields_of(schema_of(annotation)) is None


@pytest.mark.parametrize(
    ("annotation", "form", "decision"),
    [
        (bool, {"field:decision": "true"}, True), (bool, {"field:decision": "false"}, False),
        (str, {"field:decision": ""}, ""),
        (Literal["air", "sea"], {"field:decision": '"sea"'}, "sea"), (int, {"field:decision": "7"}, 7),
        (Given, {"field:name": "x", "field:count": "1"}, {"name": "x", "count": 1, "address": None}),
        (Any, {"json:decision": '{"a": 1}'}, {"a": 1}), (list[int], {"json:decision": "[1]"}, [1]),
        (bool | None, {"field:decision": "null"}, None), (str | None, {"empty:decision": "null"}, None),
        (Given | None, {"field:name": "", "field:count": "", "null": "true"}, None),
        (Given | None, {"field:name": "x", "field:count": "1"}, {"name": "x", "count": 1, "address": None}),
    ],
)  # fmt: skip
def test_a_decision_is_made_by_a_form_of_its_type(annotation: Any, form: dict[str, str], decision: object) -> None:
    assert value_of_form(form_of(schema_of(annotation), "decision"), form) == decision


def test_bytes_are_asked_for_as_they_are_written() -> None:
    """Or a word is taken for the base64 of other bytes. None at all are bytes, too."""

    class Blob(msgspec.Struct):
        data: bytes
        more: bytes | None = None

    fields = fields_of(schema_of(Blob), {"data": "", "more": "aGVsbG8="})
    assert fields is not None
    assert [(one.kind, one.hint, one.value) for one in fields] == [
        ("formatted", "base64: aGVsbG8=", ""), ("formatted", "base64: aGVsbG8=", "aGVsbG8=")
    ]  # fmt: skip
    assert value_of_fields(fields, untouched(fields)) == {"data": "", "more": "aGVsbG8="}


def test_null_is_taken_only_where_it_may_be() -> None:
    """Also if there is something in the parts: the audit line says null."""
    with pytest.raises(Refused) as refused:
        value_of_form(form_of(schema_of(Given), "decision"), {"field:name": "x", "field:count": "1", "null": "true"})
    assert refused.value.problem.detail == "it may not be null"


class Every(TypedDict):
    """A part of each kind, that may be null or not, and be left out or not."""

    text: str
    text_or_null: str | None
    maybe_text: NotRequired[str]
    maybe_text_or_null: NotRequired[str | None]
    yes: bool
    yes_or_null: bool | None
    maybe_yes: NotRequired[bool]
    maybe_yes_or_null: NotRequired[bool | None]
    count: int
    count_or_null: int | None
    maybe_count: NotRequired[int | None]
    ratio: float
    choice: Literal["a", "", "b\r\n"]
    choice_or_null: NotRequired[Literal["a", "b", None]]
    number: NotRequired[Literal[1, 2] | None]
    moment: datetime
    moment_or_null: NotRequired[datetime | None]
    words: list[str]
    anything: NotRequired[Any]


class Defaults(msgspec.Struct):
    """What is not given is something else than null."""

    text: str = "x"
    text_or_null: str | None = "x"
    null: str | None = None
    yes: bool | None = True
    no: bool = False
    count: int | None = 7
    choice: Literal["a", "b"] | None = "b"
    words: list[str] = []


SCHEMA, DEFAULTS = schema_of(Every), schema_of(Defaults)


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a machine that is busy


class Sent(HTMLParser):
    """What a browser sends of a form that nobody has touched."""

    def __init__(self) -> None:
        super().__init__()
        self.form: dict[str, str] = {}
        self._name = self._text = ""
        self._chosen: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        match tag:
            case "input" if found.get("type") != "radio" or "checked" in found:
                self.form[found["name"]] = found.get("value", "")
            case "select" | "textarea":
                self._name, self._text, self._chosen = found["name"], "", None
            case "option" if self._chosen is None or "selected" in found:
                self._chosen = found["value"]
            case _:
                pass

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            text = self._text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
            self.form[self._name] = text.removeprefix("\n")
        elif tag == "select" and self._chosen is not None:
            self.form[self._name] = self._chosen


def untouched(fields: list[Field]) -> dict[str, str]:
    """The form that a page with these fields sends."""
    sent = Sent()
    request = SimpleNamespace(url=SimpleNamespace(path="/"))
    ask: Any = SimpleNamespace(
        base="", caller=Caller("a", Scope.OPERATE), read_only=False, away=None, session="", request=request
    )
    workflow = WorkflowInfo(name="w", description=None, input={}, output={})
    asked = Form(fields, whole=False, nullable=False)
    values = {"workflow": workflow, "takes": {}, "asked": asked, "typed": {}, "why_not": None, "fresh": ""}
    sent.feed(rendered(ask, "start.html", **values))
    sent.close()
    return {name: text for name, text in sent.form.items() if ":" in name}


def test_a_form_that_nobody_has_touched_means_what_it_was_filled_with() -> None:
    """For every kind of part: texts with line breaks, empty ones, null, and what is not there."""
    texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
        ["", "\n", "a\nb", "\r\nx", "\0", "null"]
    )
    numbers = st.integers(-(1 << 63), (1 << 63) - 1)
    moments = st.datetimes(timezones=st.just(UTC)).map(plain)
    floats = st.floats(allow_nan=False, allow_infinity=False)
    needed: dict[str, st.SearchStrategy[Any]] = {
        "text": texts, "text_or_null": st.none() | texts,
        "yes": st.booleans(), "yes_or_null": st.none() | st.booleans(),
        "count": numbers, "count_or_null": st.none() | numbers, "ratio": floats,
        "choice": st.sampled_from(["a", "", "b\r\n"]), "moment": moments, "words": st.lists(texts, max_size=2),
    }  # fmt: skip
    maybe = {
        "maybe_text": texts, "maybe_text_or_null": st.none() | texts,
        "maybe_yes": st.booleans(), "maybe_yes_or_null": st.none() | st.booleans(),
        "maybe_count": st.none() | numbers, "choice_or_null": st.sampled_from(["a", "b", None]),
        "number": st.sampled_from([1, 2, None]), "moment_or_null": st.none() | moments,
        "anything": st.none() | st.booleans() | texts | st.dictionaries(texts, numbers, max_size=2),
    }  # fmt: skip

    @patient
    @given(st.fixed_dictionaries(needed, optional=maybe))
    def check(value: dict[str, Any]) -> None:
        fields = fields_of(SCHEMA, value)
        assert fields is not None
        form = untouched(fields)
        empty = fields_of(SCHEMA)
        assert empty is not None
        assert value_of_fields(empty, form) == value
        again = refilled(empty, form)
        assert untouched(again) == form

    @patient
    @given(st.builds(Defaults, text=texts, text_or_null=st.none() | texts, null=st.none() | texts,
                     yes=st.none() | st.booleans(), no=st.booleans(), count=st.none() | numbers))  # fmt: skip
    @example(Defaults())
    def check_defaults(value: Defaults) -> None:
        for fields in (fields_of(DEFAULTS, plain(value)), fields_of(DEFAULTS) if value == Defaults() else None):
            if fields is not None:
                assert msgspec.convert(value_of_fields(fields, untouched(fields)), Defaults) == value

    check()
    check_defaults()


class Times(msgspec.Struct):
    """Each kind of text that has a format, as users write their types."""

    when: datetime
    until: datetime | None
    day: date
    hour: time
    long: timedelta
    key: UUID
    price: Decimal
    here: Annotated[datetime, Meta(tz=False)]
    maybe: datetime | None = None
    later: datetime = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_text_with_a_format_says_how_it_is_written() -> None:
    """And left empty it is null, if it may be: no moment is the empty text."""
    fields = fields_of(schema_of(Times))
    assert fields is not None
    assert {one.kind for one in fields} == {"formatted"}
    assert {one.name: one.empties for one in fields if one.empties} == {
        "until": ["null"], "maybe": ["null"], "later": ["absent"]
    }  # fmt: skip
    written = {one.key: one.hint for one in fields}
    value = msgspec.convert(value_of_fields(fields, written), Times)
    assert (value.when, value.long) == (datetime(2026, 12, 24, 18, tzinfo=UTC), timedelta(minutes=90))
    left = {one.key: "" if one.empties else one.hint for one in fields}
    value = msgspec.convert(value_of_fields(fields, left), Times)
    assert (value.until, value.maybe, value.later) == (None, None, datetime(2026, 1, 1, tzinfo=UTC))


class Node(msgspec.Struct, tag=True):
    """One that holds its like."""

    at: datetime
    others: list[Node] = []


class Leaf(msgspec.Struct, tag=True, array_like=True):
    """A list with a tag in front."""

    at: datetime


class Twig(msgspec.Struct, tag=True):
    """Another record."""

    at: datetime


class Spot(NamedTuple):
    """A place and a time."""

    name: str
    at: datetime


@dataclass
class Held:
    """Of each kind of type that holds others."""

    node: Node
    leaf: Leaf
    spot: Spot
    pair: tuple[str, datetime]
    many: dict[str, set[datetime] | None]
    one_of: Node | Twig
    any_of: list[str] | Node | Twig | None
    either: Annotated[datetime | Twig | None, Meta(description="Some")]
    own: Annotated[str, Meta(extra_json_schema={"format": "email"})]
    far: Annotated[Any, Meta(extra_json_schema={"$ref": "https://shop.example/schemas/far"})]


def test_a_moment_is_one_wherever_it_is_in_a_type() -> None:
    schema = schema_of(Held)
    moment = {"type": "string", "format": "date-time"}
    parts, held = schema["$defs"], schema["$defs"]["Held"]["properties"]
    for name in ("Node", "Twig"):
        assert parts[name]["properties"]["at"] == moment
    assert parts["Leaf"]["prefixItems"] == [{"enum": ["Leaf"]}, moment]
    assert parts["Spot"]["prefixItems"] == held["pair"]["prefixItems"] == [{"type": "string"}, moment]
    assert held["many"]["additionalProperties"]["anyOf"][0]["items"] == moment
    assert held["either"]["anyOf"][0] == moment
    assert held["own"]["format"] == "email"
    assert held["any_of"]["anyOf"][0] == {"type": "array", "items": {"type": "string"}}


@pytest.mark.parametrize(
    ("annotation", "moments"),
    [
        (Node | Twig, 2), (Node | Twig | None, 2), (list[str] | Twig | Node, 2), (datetime | Twig | Node | None, 3),
        (datetime | Leaf, 2), (datetime, 1), (list[Annotated[datetime | None, Meta(title="x")]], 1), (str, 0),
    ],
)  # fmt: skip
def test_no_other_text_is_one(annotation: Any, moments: int) -> None:
    assert str(schema_of(annotation)).count("date-time") == moments


def test_what_is_no_object_with_these_parts_is_written_as_json() -> None:
    """So that nothing of it is lost."""
    assert fields_of(DEFAULTS, None) is None
    assert fields_of(DEFAULTS, {"text": "x", "other": 1}) is None


class Strange:
    """A class that nobody can say anything of."""


class Parcel(pydantic.BaseModel):
    """A pydantic model, with another one in it, and itself."""

    name: str = pydantic.Field(description="Whose")
    count: int = 3
    to: Street | None = None
    within: list[Parcel] = []


class Street(pydantic.BaseModel):
    """Part of it."""

    name: str
    at: Literal["door", "shop"] = "door"


class Unsaid(pydantic.BaseModel):
    """One that has no JSON Schema."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    strange: Strange


class Shipment(msgspec.Struct):
    """What msgspec knows, with parts that it does not know."""

    number: int
    strange: Strange
    parcel: Parcel
    street: Street | None = None
    unsaid: Unsaid | None = None


def test_a_form_is_made_of_what_holds_classes_that_msgspec_does_not_know() -> None:
    """These are written as JSON."""
    fields = fields_of(schema_of(Shipment))
    assert fields is not None
    assert [(one.name, one.kind) for one in fields] == [
        ("number", "integer"), ("strange", "json"), ("parcel", "json"), ("street", "json"), ("unsaid", "json")
    ]  # fmt: skip
    assert fields_of(schema_of(Strange)) is None
    assert schema_of(object) == schema_of(Any) == {}


def test_a_form_is_made_of_a_pydantic_model() -> None:
    schema = schema_of(Parcel)
    fields = fields_of(schema)
    assert fields is not None
    assert [(one.name, one.kind, one.required, one.value) for one in fields] == [
        ("name", "text", True, ""), ("count", "integer", False, "3"), ("to", "json", False, ""),
        ("within", "json", False, "[]"),
    ]  # fmt: skip
    assert fields[0].said == "Whose"
    for annotation in (Parcel, Shipment, list[Parcel], Parcel | None):
        said = schema_of(annotation)
        refs = set(re.findall(r"'#/\$defs/([^']*)'", str(said)))
        assert refs and refs <= said["$defs"].keys()
        assert "'enum': ['door', 'shop']" in str(said)


def test_what_has_to_be_decided_has_no_answer_yet() -> None:
    """Neither a tick nor the first of a list is one."""

    class Verdict(msgspec.Struct):
        good: bool
        way: Literal["air", "sea"]
        again: bool = False

    fields = form_of(schema_of(Verdict), "decision").fields
    assert untouched(fields) == {"field:way": "", "field:again": "false"}
    for form in ({}, untouched(fields), {"field:good": "", "field:way": '"air"'}):
        with pytest.raises(Refused, match="Unprocessable"):
            value_of_fields(fields, form)
    assert value_of_fields(fields, {"field:good": "false", "field:way": '"air"'}) == {"good": False, "way": "air"}
