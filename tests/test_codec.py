"""What a value is after it was written down and read back, and what is refused."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import enum
import functools
import importlib.util
import json
import math
import pathlib
import subprocess
import sys
import textwrap
import threading
import types
import typing
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from typing_extensions import TypeAliasType

from pikkupy.codec import Codec, check_annotation
from pikkupy.errors import PayloadError

T = TypeVar("T")
CODEC = Codec()


class Profile(msgspec.Struct):
    id: int
    email: str


class Admin(Profile):
    rights: set[str]


class Loose(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="loose", forbid_unknown_fields=True):
    any_value: Any = None
    other_value: Any = ()


class Row(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    first: int
    second: int = 0


class Unset(msgspec.Struct, dict=True):
    maybe: int | msgspec.UnsetType = msgspec.UNSET


class Doubling(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        self.number *= 2


class Growing(msgspec.Struct):
    items: list[int]

    def __post_init__(self) -> None:
        self.items.append(0)


class Box(msgspec.Struct, Generic[T]):
    content: T


@dataclasses.dataclass
class Item:
    sku: str
    price: Any = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    inner: Any
    note: str = "none"


@dataclasses.dataclass
class Computed:
    width: int
    height: int
    scale: dataclasses.InitVar[int]
    area: int = dataclasses.field(init=False)
    unit: str = dataclasses.field(default="m", init=False)

    def __post_init__(self, scale: int) -> None:
        self.area = self.width * self.height * scale
        self.cache = {"area": (self.area,)}

    @functools.cached_property
    def lock(self) -> threading.Lock:
        return threading.Lock()


@dataclasses.dataclass(eq=False)
class NoEq:
    value: Any


@dataclasses.dataclass(slots=True)
class Empty:
    pass


@dataclasses.dataclass
class ListLike(list):  # type: ignore[type-arg]
    name: str = ""


@dataclasses.dataclass
class Generic1(Generic[T]):
    held: T


@dataclasses.dataclass
class Propertied:
    number: int

    @property  # type: ignore[no-redef]
    def number(self) -> int:
        return 1

    @number.setter
    def number(self, value: int) -> None:
        pass


@attrs.define
class Account:
    _owner: str
    limits: tuple[int, ...] = attrs.field(converter=tuple)
    level: int = attrs.field(init=False, default=3)


@attrs.define(frozen=True, cache_hash=True)
class Key:
    name: str


@attrs.define(slots=False)
class Open:
    value: Any


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str = pydantic.Field(alias="fullName")
    tags: set[str] = pydantic.Field(default_factory=set)
    when: datetime | None = None
    any_value: Any = None
    _secret: Any = pydantic.PrivateAttr(default=None)


class Point(NamedTuple):
    x: float
    y: Any = None


class Color(enum.Enum):
    RED = (1, 2)
    CRIMSON = (1, 2)  # noqa: PIE796 - an alias
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1


class Mood(enum.StrEnum):
    GOOD = "good"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Outer:
    class Inner(msgspec.Struct):
        value: int


class Person(TypedDict):
    name: str
    color: Color
    age: typing.NotRequired[int]


@dataclasses.dataclass
class WithLock:
    inner: Color
    lock: typing.ClassVar[int] | Nowhere  # type: ignore[name-defined]  # noqa: F821


class Node(msgspec.Struct):
    value: Any
    children: list[Node] = []


class OddZone(tzinfo):
    pass


UserId = NewType("UserId", int)


def encode(value: object, annotation: Any = Any) -> str:
    return CODEC.encode(value, annotation, what="it")


def decode(text: str, annotation: Any = Any) -> Any:
    return CODEC.decode(text, annotation, what="it")


def there_and_back(value: object, annotation: Any = Any) -> Any:
    text = encode(value, annotation)
    back = decode(text, annotation)
    assert encode(back, annotation) == text
    return back


def reason(value: object, annotation: Any = Any) -> str:
    with pytest.raises(PayloadError) as caught:
        encode(value, annotation)
    return str(caught.value)


PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**63,
    -(2**64) - 1,
    10**4299,
    1.5,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    "",
    "text with \0, é, \N{GRINNING FACE} and $t",
    [],
    {},
    [1, [2.0, "x", None], {"a": {"b": []}}],
    {"b": 1, "a": 2},
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:20])
def test_plain_json_values_are_written_as_themselves(value: object) -> None:
    """What JSON can say needs no tags, and comes back equal and of the same types."""
    text = encode(value)

    assert json.loads(text) == value
    assert repr(decode(text)) == repr(value)


TAGGED = [
    (),
    (1, (2, [3])),
    {1, 2},
    frozenset({"a", ("b",)}),
    b"\0\xff",
    bytearray(b"ab"),
    datetime(2026, 1, 2, 3, 4, 5, 678901),
    datetime(2026, 1, 2, tzinfo=UTC),
    datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-5, minutes=-30, seconds=7))),
    datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=1), "Home")),
    datetime(2026, 1, 2, fold=1),
    date(1, 1, 1),
    time(23, 59, 59, 999999),
    time(1, 2, tzinfo=UTC),
    timedelta(days=-1, microseconds=1),
    timedelta.max,
    Decimal("1.10"),
    Decimal("-0E+5"),
    Decimal("1E-999999"),
    Decimal("-Infinity"),
    Decimal("NaN123"),
    Decimal("sNaN"),
    UUID(int=5),
    complex(-0.0, 1.5),
    complex(math.inf, -math.inf),
    math.inf,
    -math.inf,
    math.nan,
    pathlib.PurePosixPath("/a/b"),
    pathlib.PureWindowsPath("c:/x"),
    pathlib.Path("rel"),
    deque([1, (2,)], maxlen=3),
    deque([1]),
    {1: "a", (2, 3): {"x"}, None: 1.0, "s": 2, 1.5: True},
    {"$t": "tuple", "v": [1]},
    {"a": [{"$t": {"$t": 1}}]},
    msgspec.UNSET,
]


@pytest.mark.parametrize("value", TAGGED, ids=lambda value: type(value).__name__)
def test_builtin_types_that_json_lacks_come_back_as_they_were(value: object) -> None:
    """The repr says type and content, NaN and the sign of zero included."""
    back = there_and_back([value])[0]

    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_the_text_can_be_read_by_a_person() -> None:
    """A tagged object has the tag, and beside it the content."""
    assert encode((1, 2)) == '{"$t":"tuple","v":[1,2]}'
    assert encode(datetime(2026, 1, 2, tzinfo=UTC)) == '{"$t":"datetime","v":"2026-01-02T00:00:00+00:00"}'
    assert json.loads(encode(Profile(1, "a@x")))["v"] == {"id": 1, "email": "a@x"}


def test_the_order_of_keys_is_kept() -> None:
    """A dict comes back in the order in which it was written."""
    assert list(there_and_back({"z": 1, "a": 2, "m": 3})) == ["z", "a", "m"]
    assert list(there_and_back({3: 1, 1: 2, 2: 3})) == [3, 1, 2]


def test_a_time_zone_is_kept_by_its_key_and_the_wall_time() -> None:
    """The same zone object, the same hour, the same side of a clock change."""
    paris = ZoneInfo("Europe/Paris")
    value = datetime(2025, 10, 26, 2, 30, tzinfo=paris, fold=1)
    back = there_and_back(value)

    assert back.tzinfo is paris
    assert (back, back.fold, back.utcoffset()) == (value, 1, timedelta(hours=1))
    assert there_and_back(time(2, 30, tzinfo=paris)).tzinfo is paris


def test_a_time_zone_that_is_no_zoneinfo_is_refused() -> None:
    """Zones of other libraries could come back as another zone."""
    assert "zoneinfo" in reason({"at": datetime(2026, 1, 1, tzinfo=OddZone())})


@pytest.mark.parametrize("offset", ["Z", "+05:45", "-03:00"])
def test_the_time_zones_that_pydantic_makes_are_kept(offset: str) -> None:
    """A model that was read from JSON holds zones of pydantic's own type."""
    value = Model.model_validate_json(f'{{"fullName": "a", "when": "2026-01-02T00:00:00{offset}"}}')
    back = there_and_back(value)

    assert back == value
    assert type(back.when.tzinfo) is type(value.when.tzinfo)  # type: ignore[union-attr]


def test_a_set_is_written_in_the_same_order_in_every_process() -> None:
    """Text hashes differ between processes; the recorded text must not."""
    assert encode({"b", "a", "c"}) == '{"$t":"set","v":["a","b","c"]}'


INSTANCES = [
    Profile(1, "a"),
    Profile("not checked", ()),  # type: ignore[arg-type]
    Admin(1, "a", {"x"}),
    Loose(any_value=(1, {2}), other_value={"$t": 1}),
    Row(1, 2),
    Unset(),
    Box(content=Decimal(1)),
    Node(1, [Node((2,), [Node({3})])]),
    Outer.Inner(3),
    Item("a", (1, [Profile(1, "x")])),
    Frozen(inner=frozenset({Frozen(inner=1)})),
    Computed(2, 3, scale=2),
    NoEq({1: NoEq(())}),
    Empty(),
    Generic1[int](5),
    Account("ada", [1, 2]),  # type: ignore[arg-type]
    Key("k"),
    Open((1,)),
    Model(fullName="Ada", any_value=(1, b"x"), further={"a": {1}}),
    Model.model_construct(name="no set", tags={"a"}),
    Point(1.0, {1}),
    Point(1),
    Color.RED,
    Color.CRIMSON,
    Level.LOW,
    Mood.GOOD,
    Right.READ,
    Right.READ | Right.WRITE,
    Right(0),
    {Color.RED: [Level.LOW]},
]


def same(left: Any, right: Any) -> bool:
    """Equal in type and content, without asking the classes."""
    if type(left) is not type(right):
        return False
    if isinstance(left, enum.Enum):
        return left is right
    if isinstance(left, dict):
        return list(map(repr, left)) == list(map(repr, right)) and all(map(same, left.values(), right.values()))
    if isinstance(left, list | tuple) and not hasattr(left, "_fields"):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, msgspec.Struct):
        return same(msgspec.structs.asdict(left), msgspec.structs.asdict(right))
    if dataclasses.is_dataclass(left):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    return bool(left == right) and repr(left) == repr(right)


@pytest.mark.parametrize("value", INSTANCES, ids=lambda value: repr(value)[:40])
def test_instances_come_back_equal_with_the_types_of_all_they_hold(value: object) -> None:
    """Whatever the fields are annotated with, their content keeps its types."""
    assert same(there_and_back(value), value)
    assert same(there_and_back([{"x": (value,)}]), [{"x": (value,)}])
    assert same(there_and_back(value, type(value)), value)


def test_attributes_that_are_no_fields_are_kept_too() -> None:
    """What `__post_init__` left on the instance is there after a replay, and it is not run again."""
    back = there_and_back(Computed(2, 3, scale=5))

    assert back.cache == {"area": (30,)}
    assert back.area == 30
    assert back.unit == "m"


def test_a_cached_property_is_not_part_of_the_value() -> None:
    """It is computed anew, so it may hold what cannot be kept."""
    value = Computed(1, 1, scale=1)
    assert value.lock

    assert "lock" not in vars(there_and_back(value))


def test_a_cached_hash_is_not_carried_into_another_process() -> None:
    """The hash of text differs between processes; attrs computes it anew."""
    value = Key("k")
    hash(value)
    text = encode(value)

    assert str(hash(value)) not in text
    assert decode(text) in {value}


def test_constructor_code_of_a_struct_cannot_change_the_recorded_value() -> None:
    """`__post_init__` runs, since a Struct has no other way to be made; the recorded fields win."""
    assert there_and_back(Doubling(4)).number == 8


def test_an_instance_that_would_come_back_different_is_refused() -> None:
    """Here the constructor changes a list in place, again on each reading."""
    assert "would come back different" in reason(Growing([1]))


def test_the_private_state_of_a_pydantic_model_is_kept() -> None:
    """Private attributes, extra fields and the set of given fields come back."""
    value = Model(fullName="Ada", further=(1,))
    value._secret = {"k": (1,)}
    back = there_and_back(value)

    assert back == value
    assert (back._secret, back.further) == ({"k": (1,)}, (1,))
    assert back.model_fields_set == {"name", "further"}


def test_attributes_of_slots_beside_the_fields_are_kept() -> None:
    """A base class may hold state of its own."""
    value = Slotted(1)
    value.more = (2,)

    assert there_and_back(value).more == (2,)


class SlottedBase:
    __slots__ = ("more",)


@dataclasses.dataclass(slots=True)
class Slotted(SlottedBase):
    number: int


def a_function() -> None: ...


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "object"),
        ((item for item in "ab"), "generator"),
        (a_function, "function"),
        (math, "module"),
        (len, "builtin"),
        (threading.Lock(), "lock"),
        (ValueError("x"), "exception"),
        (Profile, "class"),
        (asyncio.sleep, "function"),
        (collections.defaultdict(list), "defaultdict"),
        (collections.Counter("aab"), "Counter"),
        (collections.OrderedDict(a=1), "OrderedDict"),
        (type("Text", (str,), {})("x"), "subclass of str"),
        (type("Number", (int,), {})(1), "subclass of int"),
        (ListLike("x"), "ListLike"),
        (Propertied(1), "property"),
        (types.SimpleNamespace(a=1), "SimpleNamespace"),
        (..., "ellipsis"),
        ("\ud800", "surrogate"),
        (datetime(2026, 1, 1, tzinfo=timezone(timedelta(0), "\ud800")), "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        (10**4300, "digits"),
        (-(10**4299), "digits"),
        (1 << 100_000, "digits"),
    ],
    ids=lambda value: str(type(value)),
)
def test_what_cannot_be_kept_is_refused_with_its_path(value: object, named: str) -> None:
    """The message says where it is, what it is and what to do."""
    message = reason({"order": {"items": [0, value]}})

    assert message.startswith("it: $.order.items[1]")
    assert named in message


def test_a_lowered_limit_of_digits_is_a_payload_error() -> None:
    """The process may allow fewer digits than pikkupy does."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert "digits" in reason([10**1000])
    finally:
        sys.set_int_max_str_digits(limit)


def test_an_awaitable_is_refused_with_the_advice_to_await_it() -> None:
    """A forgotten await is the likely cause."""
    coroutine = asyncio.sleep(0)

    assert "await" in reason([coroutine])
    coroutine.close()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a b": object()}, "$['a b']"),
        ({(1, 2): object()}, "$[(1, 2)]"),
        ({object: 1}, "$[<class 'object'>]"),
        ((1, {object()}), "$[1][*]"),
        (Item("x", [Profile(1, object())]), "$.price[0].email"),  # type: ignore[arg-type]
        (Point(1, object()), "$[1]"),
    ],
)
def test_paths_lead_through_every_kind_of_container(value: object, path: str) -> None:
    """Names are written with dots, everything else in brackets."""
    assert reason(value).startswith(f"it: {path}: ")


def test_values_that_contain_themselves_are_refused() -> None:
    """A cycle of lists, dicts or instances ends in a refusal, not in the stack."""
    items: list[Any] = []
    items.append(items)
    table: dict[str, Any] = {}
    table["t"] = [table]
    node = Node(1)
    node.children.append(node)

    assert all("contains itself" in reason(value) for value in (items, table, node))


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_two_hundred_levels_are_kept_and_more_are_refused() -> None:
    """The limit holds for lists, tuples and instances alike."""
    assert there_and_back(nested(200)) == nested(200)
    assert "200 levels" in reason(nested(201))
    deep: Any = None
    for _ in range(200):
        deep = Item("x", deep)
    assert there_and_back(deep) == deep
    assert "200 levels" in reason((deep,))
    table: Any = None
    for _ in range(100):
        table = {1: {table}} if table is None else {1: (table,)}
    assert there_and_back(table) == table


@pytest.mark.parametrize("annotation", [Any, list[Any], list, list[list[Any]], Sequence[Any], None])
def test_deep_input_never_exhausts_the_stack(annotation: Any) -> None:
    """A `RecursionError` would take down whoever holds the value."""
    with pytest.raises(PayloadError):
        encode(nested(100_000), annotation)
    with pytest.raises(PayloadError):
        decode("[" * 100_000 + "]" * 100_000, annotation)
    with pytest.raises(PayloadError):
        decode('{"$t":"tuple","v":[' * 500 + "]}" * 500, annotation)


def test_many_references_to_one_value_cannot_blow_it_up() -> None:
    """Sixty doublings of a list would be more text than the world has memory for."""
    value: list[Any] = [1]
    for _ in range(60):
        value = [value, value]

    assert "limit" in reason(value)


# Classes that cannot be found by name


def test_a_local_class_is_refused_unless_an_annotation_names_it() -> None:
    """After a restart nothing else could lead to it."""

    @dataclasses.dataclass
    class Local:
        value: Any

    class Wrapper(msgspec.Struct):
        inner: Any

    assert "Local" in reason(Local(1))
    assert "<locals>" in reason([Local(1)], list)
    assert there_and_back(Local((1,)), Local) == Local((1,))
    assert there_and_back([Local(1)], list[Local]) == [Local(1)]
    assert there_and_back({"a": Local(1)}, dict[str, Local | None]) == {"a": Local(1)}
    assert "Local" in reason(Wrapper(Local(1)), Wrapper)


def test_a_local_class_is_found_through_the_fields_of_another() -> None:
    """The annotation of a field counts as an annotation."""
    inner = msgspec.defstruct("Inner", [("value", int)], module=__name__)
    outer = dataclasses.make_dataclass("Outer2", [("inner", inner), ("more", list[inner])])  # type: ignore[valid-type]
    value = outer(inner(1), [inner(2)])

    assert there_and_back(value, outer) == value


def test_a_class_that_another_of_the_same_name_hides_is_refused() -> None:
    """Reading it back would give the other class."""
    hidden = dataclasses.make_dataclass("Item", ["sku", "price"], namespace={"__module__": __name__})

    assert "Item" in reason(hidden("a", 1))


def test_classes_of_main_are_kept_by_their_qualified_name(tmp_path: pathlib.Path) -> None:
    """A script may define its types itself."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import msgspec
            from pikkupy.codec import Codec
            class Here(msgspec.Struct):
                x: int
            text = Codec().encode(Here(1), what="it")
            assert "__main__:Here" in text
            assert Codec().decode(text, what="it") == Here(1)
        """)
    )
    subprocess.run([sys.executable, script], check=True, env={"PYTHONPATH": ":".join(sys.path)})


# Annotations


@pytest.mark.parametrize(
    ("given", "annotation", "kept"),
    [
        ({"id": 1, "email": "a"}, Profile, Profile(1, "a")),
        ([{"id": 1, "email": "a"}], list[Profile], [Profile(1, "a")]),
        ({"sku": "a"}, Item, Item("a")),
        ({"_owner": "a", "limits": [1]}, Account, Account("a", [1])),  # type: ignore[arg-type]
        ({"fullName": "a", "tags": ["t"], "when": "2026-01-02T00:00:00Z"}, Model, None),
        ([1.0, 2], Point, Point(1.0, 2)),
        ([1], Row, Row(1)),
        ({"anyValue": 1}, Loose, Loose(any_value=1)),
        ("2026-01-02", date, date(2026, 1, 2)),
        ("2026-01-02T00:00:00Z", datetime, datetime(2026, 1, 2, tzinfo=UTC)),
        ("00000000-0000-0000-0000-000000000005", UUID, UUID(int=5)),
        ("1.10", Decimal, Decimal("1.10")),
        ("AP8=", bytes, b"\x00\xff"),
        ("a/b", pathlib.Path, pathlib.Path("a/b")),
        (1, float, 1.0),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([1, "a"], tuple[int, str], (1, "a")),
        ((1, 2), list[int], [1, 2]),
        ([1, 2], set[int], {1, 2}),
        ({"1": "a"}, dict[int, str], {1: "a"}),
        ("good", Mood, Mood.GOOD),
        (1, Level, Level.LOW),
        ("good", Mood | int, Mood.GOOD),
        (7, UserId, 7),
        ("x", Literal["x", "y"], "x"),
        ({"content": 1}, Box[int], Box(content=1)),
        ({"id": 1, "email": "a"}, Profile | None, Profile(1, "a")),
        ({"sku": "a"}, Item | Profile, Item("a")),
        ([{"sku": "a"}, {"id": 1, "email": "b"}], list[Item | Profile], [Item("a"), Profile(1, "b")]),
        ([], list[int] | None, []),
        (5, Annotated[int, msgspec.Meta(gt=0)], 5),
        ({"id": 1, "email": "a"}, Annotated[Profile, "a note"], Profile(1, "a")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_json_form_of_a_type_is_accepted_where_the_type_is(given: Any, annotation: Any, kept: Any) -> None:
    """What is recorded and handed over is the converted value."""
    back = there_and_back(given, annotation)

    if kept is not None or given is None:
        assert same(back, kept)
    else:
        assert back == Model(fullName="a", tags={"t"}, when=datetime(2026, 1, 2, tzinfo=UTC))
    assert same(decode(encode(given), annotation), back)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (Profile(1, "a"), Profile),
        (Admin(1, "a", {"r"}), Profile),
        ([Admin(1, "a", {"r"}), Profile(2, "b")], list[Profile]),
        ({"x": Admin(1, "a", set())}, dict[str, Profile | None]),
        ([Color.RED, Color.BLUE], list[Color]),
        ({Color.RED: 1}, dict[Color, int]),
        ([Model(fullName="a")], list[Model]),
        ((Item("a"), Profile(1, "x")), tuple[Item, Profile]),
        ((1, 2), Sequence[int]),
        ([1, 2], Sequence[int]),
        ({1: (2,)}, Mapping[int, Any]),
        ({"name": "a", "color": Color.RED, "unnamed": (1,)}, Person),
        ((1, [2]), list),
        ({"a": (1, 2)}, dict),
        ({1}, frozenset),
        ({"a": (1, {2})}, dict[str, Any]),
        ("2026-01-02", str | date),
        (1, int | float),
        ([1], list[float] | list[int]),
        (Loose(any_value=(1,)), Loose | Profile),
        (Box(content=(1,)), Box[Any]),
        (datetime(2026, 1, 2, tzinfo=ZoneInfo("Europe/Paris")), datetime),
        (complex(1, 2), complex),
        (Right.READ | Right.WRITE, Right),
        (None, None),
        (None, type(None)),
        (None, Profile | None),
        ([Item("a"), None], Annotated[list[Item | None], msgspec.Meta(max_length=2)]),
        (3, Annotated[int | None, msgspec.Meta(gt=2)]),
        ((Item("a"),), Annotated[Sequence[Item], msgspec.Meta(max_length=1)]),
        ({"name": "a", "color": Color.RED, "more": 1}, Annotated[Person, "a note"]),
        (deque([1]), deque),
        (Node(1, [Node(2)]), Node),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_that_already_is_of_the_annotated_type_stays_as_it_is(value: Any, annotation: Any) -> None:
    """Subclasses keep their class, and fields that are annotated `Any` keep what they hold."""
    assert same(there_and_back(value, annotation), value)


@pytest.mark.parametrize(
    ("value", "annotation", "path"),
    [
        ("1", int, "$"),
        (1.0, int, "$"),
        (True, int, "$"),
        (1, str, "$"),
        (0, None, "$"),
        ("", type(None), "$"),
        (None, int, "$"),
        ({"id": "1", "email": "a"}, Profile, "$.id"),
        ({"id": 1}, Profile, "$"),
        (Item("a"), Profile, "$"),
        (Profile(1, "a"), Admin, "$"),
        ({"a": {"b": [1, "x"]}}, dict[str, dict[str, list[int]]], "$.a.b[1]"),
        ([Item("a"), 5], list[Item], "$[1]"),
        ((1, "a", 2), tuple[int, str], "$"),
        ({"name": "a"}, Person, "$"),
        ({"name": 1, "color": Color.RED}, Person, "$.name"),
        ({"fullName": 1}, Model, "$.fullName"),
        ({"fullName": "a", "tags": [1]}, Model, "$.tags[0]"),
        ([{"fullName": "a"}, {}], list[Model], "$[1]"),
        ("z", Literal["x"], "$"),
        ("green", Color, "$"),
        (0, Annotated[int, msgspec.Meta(gt=0)], "$"),
        (0, Annotated[int | None, msgspec.Meta(gt=0)], "$"),
        ([Item("a")] * 3, Annotated[list[Item], msgspec.Meta(max_length=2)], "$"),
        ((Item("a"), Item("b")), Annotated[Sequence[Item], msgspec.Meta(max_length=1)], "$"),
        ({"a": 1}, Annotated[Mapping[str, int], msgspec.Meta(min_length=2)], "$"),
        ([1, 2], Annotated[list, msgspec.Meta(max_length=1)], "$"),
        ({"inner": 1, "lock": 2}, WithLock, "$"),
        ({"sku": "a", "id": 1, "email": "b"}, Item | Profile, "$"),
        (1.5, int | str, "$"),
        ("text", Sequence[str], "$"),
        ([[]], set[list], "$"),
        ({1: 2}, dict[str, int], "$"),
        ({"a": "b"}, Growing, "$"),
        ([1], Mapping[str, int], "$"),
        ([1], dict[str, int], "$"),
        (5, deque, "$"),
        (1, "int", "$"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_that_disagrees_with_its_annotation_is_refused(value: Any, annotation: Any, path: str) -> None:
    """The conversion is strict, when writing and when reading."""
    assert reason(value, annotation).startswith(f"it: {path}")
    with pytest.raises(PayloadError, match=r"^it: "):
        decode(encode(value), annotation)


def test_type_aliases_are_followed_even_into_themselves() -> None:
    """As in `type Tree = dict[str, Tree] | int` of Python 3.12, and with parameters."""
    tree: Any = type("TypeAliasType", (), {})()
    tree.__value__ = dict[str, tree] | int
    many = TypeAliasType("many", list[T], type_params=(T,))

    assert there_and_back({"a": {"b": 1}}, tree) == {"a": {"b": 1}}
    assert reason({"a": {"b": "x"}}, tree).startswith("it: $")
    assert there_and_back(["1"], many[str]) == ["1"]
    assert reason([1], many[str]).startswith("it: $[0]")


def test_the_main_module_of_a_worker_process_is_the_main_module() -> None:
    """multiprocessing calls it `__mp_main__` in its workers."""
    made = msgspec.defstruct("Made", ["a"], module="__mp_main__")

    assert '"__main__:Made"' in encode(made(1), made)


def test_a_dict_for_a_class_may_hold_objects_in_its_fields() -> None:
    """Enum members, instances of subclasses, and unions that msgspec does not know, beside plain values."""
    given = {"who": Admin(1, "a", {"r"}), "level": Hue.RED, "lines": [{"sku": "a"}, Profile(1, "x")]}
    kept = Mixed(Admin(1, "a", {"r"}), Hue.RED, [Item("a"), Profile(1, "x")])

    assert there_and_back(given, Mixed) == kept
    assert reason({**given, "level": 7}, Mixed).startswith("it: $.level: ")
    assert reason({**given, "lines": [5]}, Mixed).startswith("it: $.lines[0]: ")
    assert reason({"who": Profile(1, "a")}, Mixed).startswith("it: $: ")
    assert reason({"anyValue": Hue.RED, "more": Hue.RED}, Loose).startswith("it: $")
    assert reason({"type": "other", "inner": Hue.RED}, Tight).startswith("it: $")
    assert there_and_back({"type": "tight", "inner": Hue.RED}, Tight) == Tight(Hue.RED)


class Hue(enum.Enum):
    RED = 1


class Mixed(msgspec.Struct):
    who: Profile
    level: Hue
    lines: list[Item | Profile]


class Tight(msgspec.Struct, tag="tight", forbid_unknown_fields=True):
    inner: Hue


def test_the_fields_of_an_instance_are_not_checked_again() -> None:
    """An instance counts as what it says it is; only its own class could object."""
    assert there_and_back(Profile("1", None), Profile).id == "1"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "annotation",
    [Any, None, int, Profile, list[Profile | Item], dict, Model, Color, Person, T, typing.NoReturn, object],
)
def test_annotations_of_every_kind_are_accepted_at_registration(annotation: Any) -> None:
    """The check is lenient: it refuses only what no value could fit."""
    check_annotation(annotation)


@pytest.mark.parametrize("annotation", ["Profile", 5, list["Nowhere"], typing.ClassVar[int]])  # noqa: F821
def test_an_annotation_that_is_no_type_is_a_type_error(annotation: Any) -> None:
    """It is reported when it is registered, before there is a value."""
    with pytest.raises(TypeError):
        check_annotation(annotation)


# Code that has changed since


def module(source: str) -> types.ModuleType:
    """A module `shop`, imported as such, of this source."""
    made = types.ModuleType("shop")
    sys.modules["shop"] = made
    exec(textwrap.dedent(source), vars(made))
    return made


@pytest.fixture(autouse=True)
def _forget_shop() -> typing.Iterator[None]:
    yield
    sys.modules.pop("shop", None)


KINDS = {
    "struct": "import msgspec\nclass Order(msgspec.Struct):\n",
    "dataclass": "import dataclasses\n@dataclasses.dataclass\nclass Order:\n",
    "attrs": "import attrs\n@attrs.define\nclass Order:\n",
    "pydantic": "import pydantic\nclass Order(pydantic.BaseModel):\n",
    "namedtuple": "import typing\nclass Order(typing.NamedTuple):\n",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_added_with_a_default_is_filled_in(kind: str) -> None:
    """Old records go on with new code."""
    text = encode(module(KINDS[kind] + "    a: int").Order(a=1))
    shop = module(KINDS[kind] + "    a: int\n    b: str = 'new'")

    assert decode(text) == shop.Order(a=1, b="new")
    assert decode(text, shop.Order) == shop.Order(a=1, b="new")


@pytest.mark.parametrize("kind", KINDS)
def test_a_required_field_that_was_not_recorded_is_a_payload_error(kind: str) -> None:
    """Nobody can say what it should hold; the message names value, class and reason."""
    text = encode([module(KINDS[kind] + "    a: int").Order(a=1)])
    shop = module(KINDS[kind] + "    a: int\n    b: str")

    for annotation in (Any, list[shop.Order]):
        with pytest.raises(PayloadError, match=r"it: \$\[0\]: .*shop[:.]Order.*'?b'?"):
            decode(text, annotation)
    assert CODEC.decode_plain(text) == [{"a": 1}] or kind == "namedtuple"


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"namedtuple"}))
def test_a_field_that_was_removed_is_dropped(kind: str) -> None:
    """As msgspec does with fields that it does not know."""
    text = encode(module(KINDS[kind] + "    a: int\n    b: int").Order(a=1, b=2))
    shop = module(KINDS[kind] + "    a: int")

    assert decode(text) == shop.Order(a=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_was_renamed_is_found_through_the_annotation(kind: str) -> None:
    """What the tag no longer leads to, the annotation does; without one it is a payload error."""
    shop = module(KINDS[kind] + "    a: int")
    text = encode({"x": [shop.Order(a=1)]})
    del shop.Order
    renamed = module((KINDS[kind] + "    a: int\n    b: int = 2").replace("Order", "Purchase")).Purchase

    assert decode(text, dict[str, list[renamed]]) == {"x": [renamed(a=1)]}
    with pytest.raises(PayloadError, match=r"it: \$\.x\[0\]: the class shop:Order"):
        decode(text)
    with pytest.raises(PayloadError, match=r"it: \$\.x\[0\]: the class shop:Order"):
        decode(text, dict[str, Any])


def test_a_renamed_class_inside_another_is_found_through_the_field() -> None:
    """Types of fields lead on from the class that was found."""
    source = """
        import msgspec, dataclasses
        class Line(msgspec.Struct):
            sku: str
        @dataclasses.dataclass
        class Order:
            lines: list[Line]
            ratio: float = 1
    """
    shop = module(source)
    text = encode(shop.Order([shop.Line("a")]))
    shop = module(source.replace("Line", "Position"))

    back = decode(text)
    assert back == shop.Order([shop.Position("a")])
    assert type(back.ratio) is int


def test_a_moved_class_is_told_from_its_neighbours_by_its_name() -> None:
    """In a union of classes with the same fields the name decides."""
    shop = module("import msgspec\nclass Item(msgspec.Struct):\n    sku: str")
    text = encode(shop.Item("a"))
    del shop.Item
    other = dataclasses.make_dataclass("Other", [("sku", str)])

    assert decode(text, other | Item) == Item("a")
    assert decode(text, Profile | Item) == Item("a")
    with pytest.raises(PayloadError):
        decode(text, other | dataclasses.make_dataclass("Another", [("sku", str)]))


def test_a_renamed_enum_is_found_by_the_name_of_its_member() -> None:
    """A member that is gone is a payload error."""
    shop = module("import enum\nclass Old(enum.Enum):\n    BLUE = 1\n    GREEN = 2")
    blue, green = encode(shop.Old.BLUE), encode(shop.Old.GREEN)
    del shop.Old

    assert decode(blue, Color) is Color.BLUE
    with pytest.raises(PayloadError, match="GREEN"):
        decode(green, Color)


def test_a_recorded_value_of_another_type_than_annotated_is_a_payload_error() -> None:
    """The annotation has changed since: never a silent wrong value."""
    with pytest.raises(PayloadError, match="output of step 'x'"):
        CODEC.decode(encode(Item("a")), Profile, what="output of step 'x'")
    with pytest.raises(PayloadError):
        decode("5", str)


# Inspection


def test_for_inspection_a_lost_class_is_shown_by_its_fields() -> None:
    """Whoever looks at an old run sees its values though the code is gone."""
    shop = module("import msgspec\nclass Order(msgspec.Struct):\n    a: object")
    text = encode([shop.Order((1, shop.Order(2))), Color.RED])
    del shop.Order

    assert CODEC.decode_plain(text) == [{"a": (1, {"a": 2})}, Color.RED]


@pytest.mark.parametrize(
    "text",
    ['{"$t":5}', '{"$t":"nope","v":1}', '{"$t":"decimal","v":"x"}', '{"$t":"set","v":[[]]}', '{"$t":"a:b"}', "[1]"],
)
def test_for_inspection_nothing_that_is_json_is_refused(text: str) -> None:
    """What cannot be unpacked is shown as it is written."""
    assert CODEC.decode_plain(text) in (json.loads(text), None)


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "1" * 5000, "no JSON"])
def test_for_inspection_what_cannot_be_read_is_shown_as_text(text: str) -> None:
    """A console shows the row, whatever is in it."""
    assert CODEC.decode_plain(text) == text


# Text from elsewhere

HOSTILE = [
    "",
    "{",
    "nul",
    '"\ud800"',
    "1e999",
    "1" * 5000,
    '{"$t":null}',
    '{"$t":"tuple"}',
    '{"$t":"tuple","v":"ab"}',
    '{"$t":"dict","v":[[1]]}',
    '{"$t":"dict","v":[[[],1]]}',
    '{"$t":"deque","v":[],"maxlen":-1}',
    '{"$t":"set","v":[{}]}',
    '{"$t":"float","v":"1e5"}',
    '{"$t":"float","v":["nan"]}',
    '{"$t":"complex","v":[1,2,3]}',
    '{"$t":"bytes","v":"!"}',
    '{"$t":"datetime","v":"yesterday"}',
    '{"$t":"datetime","v":"2026-01-01","zone":"../../etc/passwd"}',
    '{"$t":"datetime","v":"2026-01-01","zone":"os/path"}',
    '{"$t":"datetime","v":"2026-01-01","zone":["x"]}',
    '{"$t":"datetime","v":"2026-01-01","fold":7}',
    '{"$t":"time","v":5}',
    '{"$t":"timedelta","v":[99999999999,0,0]}',
    '{"$t":"decimal","v":[0,[1],2]}',
    '{"$t":"uuid","v":""}',
    '{"$t":"WindowsPath","v":"x"}' if sys.platform != "win32" else '{"$t":"PosixPath","v":"x"}',
    '{"$t":"os:system","v":"true"}',
    '{"$t":"builtins:eval","v":"1"}',
    '{"$t":"builtins:object","v":{}}',
    '{"$t":"antigravity:x","v":{}}',
    '{"$t":":","v":{}}',
    '{"$t":"subprocess:Popen","v":{"args":"true"}}',
    '{"$t":"MODULE:Profile","v":{"id":1}}',
    '{"$t":"MODULE:Profile","v":[1]}',
    '{"$t":"MODULE:Profile"}',
    '{"$t":"MODULE:Profile","v":{"id":1,"email":"x"},"x":[1]}',
    '{"$t":"MODULE:Profile","v":{"id":1,"email":"x"},"x":{"y":1}}',
    '{"$t":"MODULE:Profile.__init__","v":{}}',
    '{"$t":"MODULE:Color","v":"PURPLE"}',
    '{"$t":"MODULE:Color","v":["RED"]}',
    '{"$t":"MODULE:Point","v":[1,2,3]}',
    '{"$t":"MODULE:Model","v":{"name":"x"},"x":{"set":5}}',
    '{"$t":"MODULE:Model","v":{"name":"x"},"x":{"extra":5}}',
    '{"$t":"MODULE:ListLike","v":{"name":"x"}}',
    '{"$t":"MODULE:CODEC","v":{}}',
]
HOSTILE = [text.replace("MODULE", __name__) for text in HOSTILE]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("annotation", [Any, Profile, list[Item]])
def test_text_that_the_codec_did_not_write_is_a_payload_error(text: str, annotation: Any) -> None:
    """Whatever was done to the file, decoding raises nothing else."""
    with pytest.raises(PayloadError, match=r"^it: "):
        decode(text, annotation)


def test_reading_imports_and_evaluates_nothing() -> None:
    """Names in the text lead only to classes that are already there."""
    script = f"""
        import sys
        from pikkupy.codec import Codec
        from pikkupy.errors import PayloadError
        from decimal import Decimal
        codec, hostile, seen = Codec(), {HOSTILE!r}, []
        def refused(text):
            try:
                codec.decode(text, what="it")
            except PayloadError:
                pass
        refused(hostile[0])
        events = ("import", "exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class")
        sys.addaudithook(lambda event, args: seen.append((event, args)) if event in events else None)
        for text in hostile:
            refused(text)
        assert not seen, seen
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_a_lazy_module_is_not_loaded_by_a_tag() -> None:
    """Looking a name up in it would run it."""
    spec = importlib.util.find_spec("this")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    sys.modules["this"] = lazy
    spec.loader.exec_module(lazy)
    try:
        with pytest.raises(PayloadError):
            decode('{"$t":"this:s","v":{}}')
        assert "s" not in object.__getattribute__(lazy, "__dict__")
    finally:
        del sys.modules["this"]


# Size


def test_a_value_above_the_limit_is_refused_with_size_and_limit() -> None:
    """The advice is to keep the value elsewhere."""
    codec = Codec(max_payload=1_000)

    assert len(codec.encode("x" * 998, what="it")) == 1_000
    with pytest.raises(PayloadError, match=r"it: .*1,001 bytes.*1,000.*reference"):
        codec.encode("x" * 999, what="it")
    with pytest.raises(PayloadError, match=r"1,000"):
        codec.encode("é" * 500, what="it")
    with pytest.raises(PayloadError, match=r"1,000"):
        codec.encode([b"x" * 999], what="it")
    with pytest.raises(PayloadError, match=r"1,000"):
        codec.encode({i: i for i in range(600)}, what="it")


def test_bytes_are_measured_by_their_text() -> None:
    """Base64 is a third longer than the bytes, and no more is charged for it."""
    codec = Codec(max_payload=1_000)

    assert codec.decode(codec.encode(b"x" * 720, what="it"), what="it") == b"x" * 720


def test_a_huge_value_is_refused_before_its_text_is_built() -> None:
    """A million references to one long text would be terabytes."""
    with pytest.raises(PayloadError, match="limit"):
        CODEC.encode(["x" * 1_000_000] * 1_000_000, what="it")


def test_a_large_value_is_announced_once_with_its_size() -> None:
    """From `warn_payload` bytes on, limit included."""
    seen: list[tuple[str, int]] = []
    codec = Codec(warn_payload=100, on_large=lambda what, size: seen.append((what, size)))
    codec.encode("x" * 97, what="small")
    codec.encode("x" * 98, what="large")

    assert seen == [("large", 100)]
    assert Codec(warn_payload=1).encode("x", what="quiet") == '"x"'


@pytest.mark.parametrize("value", [12_345, True, None, "abc", [1, 2]])
def test_the_limit_holds_for_small_values_too(value: object) -> None:
    """Also for those that need no packer."""
    with pytest.raises(PayloadError, match="max_payload"):
        Codec(max_payload=3).encode(value, what="value")
