"""Round trips of arbitrary values, and arbitrary texts."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import pathlib
from collections import deque
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
from hypothesis import given, settings
from hypothesis import strategies as st

from pikkupy.codec import Codec
from pikkupy.errors import PayloadError

CODEC = Codec(max_payload=100_000_000)


class Record(msgspec.Struct, rename="kebab", tag=True):
    first_field: Any
    second: Any = None


class FrozenRecord(msgspec.Struct, frozen=True):
    value: Any


@dataclasses.dataclass
class Data:
    left: Any
    right: Any = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenData:
    value: Any


@attrs.define
class Attributes:
    _hidden: Any
    shown: Any = 0


class Model(pydantic.BaseModel):
    value: Any
    other: Any = None
    _private: Any = pydantic.PrivateAttr(default=None)


class Pair(NamedTuple):
    one: Any
    two: Any = 2


class Color(enum.Enum):
    RED = (1,)
    GREEN = "g"


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 0
    HIGH = 1


text = st.text(max_size=8) | st.sampled_from(["$t", "v", "x", "tuple", '"$t"'])
offsets = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
zones = st.sampled_from([ZoneInfo("Europe/Paris"), ZoneInfo("UTC"), ZoneInfo("Asia/Kathmandu")])
zone = st.none() | offsets | zones
folds = st.sampled_from([0, 1])
moments = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)),
    zone,
    folds,
)
times = st.builds(lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.times(), zone, folds)
paths = st.lists(st.text("abc. $", min_size=1, max_size=4), max_size=3).map(lambda parts: pathlib.PurePosixPath(*parts))

hashable_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    text,
    st.binary(max_size=8),
    moments,
    st.dates(),
    times,
    st.timedeltas(),
    st.decimals(allow_nan=None, allow_infinity=None).filter(lambda number: not number.is_snan()),
    st.uuids(),
    st.complex_numbers(),
    paths,
    paths.map(pathlib.Path),
    st.sampled_from([*Color, *Level, Access(0), Access(3), Access.READ]),
)
scalars = hashable_scalars | st.binary(max_size=8).map(bytearray) | st.sampled_from([Decimal("sNaN"), msgspec.UNSET])


def frozen_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Hashable values that hold hashable values."""
    return st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        inner.map(FrozenRecord),
        inner.map(FrozenData),
        st.builds(Pair, inner, inner),
    )


hashables = st.recursive(hashable_scalars, frozen_of, max_leaves=5)


def model(value: Any, other: Any, private: Any) -> Model:
    made = Model(value=value) if other is None else Model(value=value, other=other)
    made._private = private
    return made


def noted(value: Any, note: Any) -> Data:
    made = Data(value)
    made.note = note  # type: ignore[attr-defined]
    return made


def holders_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of every supported kind that hold values."""
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(text, inner, max_size=4),
        st.dictionaries(hashables, inner, max_size=3),
        st.sets(hashables, max_size=3),
        st.builds(deque, st.lists(inner, max_size=3), st.none() | st.integers(3, 5)),
        st.builds(Record, inner, inner),
        st.builds(Data, inner, inner),
        st.builds(noted, inner, inner),
        st.builds(Attributes, inner, inner),
        st.builds(model, inner, inner, inner),
        st.builds(Pair, inner, inner),
    )


values = st.recursive(scalars | hashables, holders_of, max_leaves=15)


def shown(value: Any) -> Any:
    """Type and content as something that can be compared: independent of the code under test and of `__eq__`."""
    kind = type(value).__name__
    if isinstance(value, enum.Enum):
        return (kind, "member", repr(value))
    if isinstance(value, dict):
        return (kind, [(shown(key), shown(item)) for key, item in value.items()])
    if isinstance(value, set | frozenset):
        return (kind, sorted(repr(shown(item)) for item in value))
    if isinstance(value, list | tuple | deque):
        return (kind, getattr(value, "maxlen", None), [shown(item) for item in value])
    if isinstance(value, datetime | time):
        return (kind, value.isoformat(), value.fold, repr(value.tzinfo))
    if isinstance(value, msgspec.Struct):
        return (kind, shown(msgspec.structs.asdict(value)))
    if isinstance(value, FrozenData):
        return (kind, shown(value.value))
    if isinstance(value, Attributes):
        return (kind, shown(value._hidden), shown(value.shown))
    if isinstance(value, Model):
        return (kind, shown(vars(value)), shown(value._private), sorted(value.model_fields_set))
    return (kind, shown(vars(value)) if isinstance(value, Data) else repr(value))


@given(values)
@settings(max_examples=300, deadline=None)
def test_every_supported_value_comes_back_equal_in_type_and_content(value: Any) -> None:
    """And the text of what came back is the same text, which replays and comparisons of inputs rely on."""
    text = CODEC.encode(value, what="it")
    back = CODEC.decode(text, what="it")

    assert shown(back) == shown(value)
    assert CODEC.encode(back, what="it") == text
    assert shown(CODEC.decode_plain(text)) == shown(value)


ANNOTATIONS: list[Any] = [
    list[Any],
    dict[str, Any],
    tuple[Any, ...],
    Record | Data | Attributes | Model | Pair,
    Record | None,
    list[Data],
    Data,
    Model,
    int | float | str | None,
    date | datetime,
    UUID | Decimal,
    dict[str, list[Record | Data]],
    Color | Level,
    float,
]


@given(values, st.sampled_from(ANNOTATIONS))
@settings(max_examples=300, deadline=None)
def test_a_value_that_fits_its_annotation_is_fitted_only_once(value: Any, annotation: Any) -> None:
    """Reading and writing again with the same annotation changes nothing more; nothing but `PayloadError` is raised."""
    try:
        text = CODEC.encode(value, annotation, what="it")
    except PayloadError:
        return
    back = CODEC.decode(text, annotation, what="it")

    assert CODEC.encode(back, annotation, what="it") == text
    assert shown(CODEC.decode(CODEC.encode(back, what="it"), what="it")) == shown(back)


@given(values)
@settings(max_examples=100, deadline=None)
def test_an_instance_of_the_annotated_class_is_untouched(value: Any) -> None:
    """The annotation of the whole says nothing of what fields that are annotated `Any` hold."""
    record = Record(value, [value])
    text = CODEC.encode(record, Record, what="it")

    assert shown(CODEC.decode(text, Record, what="it")) == shown(record)


tags = st.sampled_from(
    [
        "tuple",
        "set",
        "frozenset",
        "deque",
        "dict",
        "float",
        "bytes",
        "bytearray",
        "datetime",
        "date",
        "time",
        "timedelta",
        "decimal",
        "uuid",
        "complex",
        "unset",
        "PurePosixPath",
        "PosixPath",
        "WindowsPath",
        "nothing",
        "os:system",
        "builtins:dict",
        "enum:Enum",
        "msgspec:Struct",
        ":",
        "a:",
        ":b",
    ]
    + [f"{__name__}:{cls.__name__}" for cls in (Record, Data, FrozenData, Attributes, Model, Pair, Color, Access)]
    + [f"{__name__}:CODEC", f"{__name__}:shown", f"{__name__}:Record.__init__", f"{__name__}:Color.RED"]
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.sampled_from(["nan", "inf", "2026-01-01", "RED", "UTC", "AAAA", "READ", "1"])
)
names = st.sampled_from(
    [
        "v",
        "x",
        "zone",
        "name",
        "fold",
        "maxlen",
        "offset",
        "first_field",
        "second",
        "value",
        "left",
        "right",
        "_hidden",
        "set",
        "private",
        "extra",
    ]
) | st.text(max_size=3)


def nodes_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(names, inner, max_size=4),
        st.builds(lambda tag, rest: {"$t": tag, **rest}, tags | leaves, st.dictionaries(names, inner, max_size=4)),
        st.builds(lambda tag, content: {"$t": tag, "v": content}, tags, inner),
    )


@given(st.recursive(leaves, nodes_of, max_leaves=20), st.sampled_from([Any, *ANNOTATIONS]))
@settings(max_examples=500, deadline=None)
def test_texts_from_elsewhere_raise_nothing_but_payload_errors(tree: Any, annotation: Any) -> None:
    """Tags with any content decode to a value or to a `PayloadError`; for inspection always to a value."""
    hostile = json.dumps(tree)
    try:
        CODEC.decode(hostile, annotation, what="it")
    except PayloadError:
        pass
    CODEC.decode_plain(hostile)


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_at_all_is_read_or_refused(anything: str) -> None:
    """Most of it is no JSON."""
    try:
        CODEC.decode(anything, what="it")
    except PayloadError:
        assert CODEC.decode_plain(anything) == anything


@given(st.floats())
def test_every_float_is_kept_to_the_last_bit(number: float) -> None:
    """Zero keeps its sign; NaN is NaN."""
    back = CODEC.decode(CODEC.encode(number, what="it"), what="it")

    assert math.isnan(back) if math.isnan(number) else back.hex() == number.hex()
