"""The user's classes: what an instance is made of, and how to make an equal one.

Five families are known: Enum, msgspec Struct, pydantic model, dataclass or attrs class, NamedTuple. An instance is
taken apart into its fields and its further state (`extra`: attributes that are no fields, pydantic's private ones). It
is put together without running the class's code: no `__init__`, `__post_init__`, converter or validator. The exceptions
are Structs, which can only be made by their constructor (its effects are then written over), and records that lack a
field which the class has gained since, where the constructor has to supply it.

attrs and pydantic are recognised by what their classes carry and are never imported here.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
from abc import ABC, abstractmethod
from types import MemberDescriptorType
from typing import Any

import msgspec

from pikkupy.codec.refusal import Refused, class_name

Extra = dict[str, Any] | None

_NO_STATE = frozenset({"__orig_class__"})  # typing's note about how `Box[int](...)` was called, put on any instance
_ATTRS_HASH = "_attrs_cached_hash"  # kept as None, which makes attrs compute it anew: hashes differ between processes


class Shape(ABC):
    """How the instances of one class are taken apart and put together."""

    def __init__(self, cls: type) -> None:
        self.cls: Any = cls
        self.tag = tag_of(cls)

    @abstractmethod
    def take(self, value: Any) -> tuple[Any, Extra]:
        """The instance's fields, a dict or list of values (of an Enum its name), and its further state or None."""

    @abstractmethod
    def build(self, fields: Any, extra: Extra) -> Any:
        """An instance of those fields and that state. Raises `Refused` or whatever the class's code raises."""


class EnumShape(Shape):
    """A member is its name; a combination of flags, which has none, is its integer."""

    def take(self, value: Any) -> tuple[Any, Extra]:
        if self.cls.__members__.get(value._name_) is value:
            return value._name_, None
        if isinstance(value, enum.Flag):
            return value._value_, None
        raise Refused(f"{value._name_} is not the member of that name of {class_name(self.cls)}")

    def build(self, fields: Any, extra: Extra) -> Any:  # noqa: ARG002 - a member has no further state
        if isinstance(fields, str) and fields in self.cls.__members__:
            return self.cls.__members__[fields]
        if type(fields) is int and issubclass(self.cls, enum.Flag):
            return self.cls(fields)
        raise Refused(f"{class_name(self.cls)} has no member {fields!r}")


class StructShape(Shape):
    """A msgspec Struct: its fields, and `__dict__` with `dict=True`."""

    def __init__(self, cls: type) -> None:
        super().__init__(cls)
        self.names = frozenset(self.cls.__struct_fields__)
        self.has_dict = _has_dict(cls)
        self.derived = frozenset(_cached_properties(cls))
        self.strict = self.cls.__struct_config__.forbid_unknown_fields
        self.runs_code = hasattr(cls, "__post_init__")
        self.keys = dict(zip(self.cls.__struct_encode_fields__, self.cls.__struct_fields__, strict=True))

    def take(self, value: Any) -> tuple[Any, Extra]:
        return msgspec.structs.asdict(value), _further(value, self.names, self.derived) if self.has_dict else None

    def build(self, fields: Any, extra: Extra) -> Any:
        fields = _known(fields, self.names, self.cls, strict=self.strict)
        made = self.cls(**fields)
        if self.runs_code:
            for name, value in fields.items():
                msgspec.structs.force_setattr(made, name, value)
        _restore(made, extra)
        return made

    def key(self, key: Any, item: Any) -> tuple[str, str | None]:
        """Field and constructor argument of a key of the JSON form; no argument for a key that is to be ignored."""
        config = self.cls.__struct_config__
        if config.array_like or (config.tag_field == key and config.tag != item):
            raise Refused(f"another form than that of {class_name(self.cls)}")
        if key not in self.keys and self.strict and config.tag_field != key:
            raise Refused(f"{class_name(self.cls)} forbids the field {key!r}")
        return self.keys.get(key, ""), self.keys.get(key)


class AttributesShape(Shape):
    """A dataclass or attrs class: its fields are attributes, in `__dict__` or in slots."""

    def __init__(self, cls: type, arguments: dict[str, str | None]) -> None:
        """`arguments`: field name to the name of its constructor argument, None for a field that is no argument."""
        super().__init__(cls)
        self.arguments = arguments
        self.names = tuple(arguments)
        self.known = frozenset(arguments)
        members = {name: _class_attribute(cls, name) for name in arguments}
        for name, member in members.items():
            if hasattr(type(member), "__set__") and not isinstance(member, MemberDescriptorType):
                raise Refused(f"the field {name!r} of {class_name(cls)} is a property, not a place to keep a value")
        self.slots = tuple(_slots(cls))
        self.other_slots = tuple(name for name in self.slots if name not in arguments)
        self.only_dict = not self.slots and _has_dict(cls)
        self.derived = frozenset(_cached_properties(cls))

    def take(self, value: Any) -> tuple[Any, Extra]:
        state = value.__dict__ if self.only_dict else getattr(value, "__dict__", {})
        if self.only_dict and state.keys() == self.known:
            return {name: state[name] for name in self.names}, None
        fields = {name: _attribute(value, name) for name in self.names}
        extra = _further(value, self.known, self.derived) or {}
        for name in self.other_slots:
            try:
                extra[name] = object.__getattribute__(value, name)
            except AttributeError:  # never set
                continue
            if name == _ATTRS_HASH:
                extra[name] = None
        return fields, extra or None

    def build(self, fields: Any, extra: Extra) -> Any:
        fields = _known(fields, self.known, self.cls)
        if len(fields) == len(self.names):
            made = object.__new__(self.cls)
        else:
            made = self.cls(**{arg: fields[name] for name, arg in self.arguments.items() if arg and name in fields})
        if self.only_dict:
            made.__dict__.update(fields)
        else:
            for name, value in fields.items():
                object.__setattr__(made, name, value)
        _restore(made, extra, self.other_slots)
        return made

    def key(self, key: Any, item: Any) -> tuple[str, str | None]:  # noqa: ARG002 - as for a Struct
        """Field and constructor argument of a key of the JSON form; no argument for a key that is to be ignored."""
        return key, self.arguments.get(key)


class PydanticShape(Shape):
    """A pydantic model: fields, extra fields, which fields were set, private attributes."""

    def __init__(self, cls: type) -> None:
        super().__init__(cls)
        self.names = frozenset(self.cls.__pydantic_fields__)
        self.strict = self.cls.model_config.get("extra") == "forbid"

    def take(self, value: Any) -> tuple[Any, Extra]:
        state = value.__dict__
        fields = {name: _attribute(value, name) for name in self.cls.__pydantic_fields__}
        extra: dict[str, Any] = {}
        given = value.__pydantic_fields_set__
        if given != state.keys() & self.names:
            extra["set"] = [name for name in (*fields, *(value.__pydantic_extra__ or ())) if name in given]
        if value.__pydantic_extra__:
            extra["extra"] = value.__pydantic_extra__
        if value.__pydantic_private__:
            extra["private"] = value.__pydantic_private__
        return fields, extra or None

    def build(self, fields: Any, extra: Extra) -> Any:
        fields = _known(fields, self.names, self.cls, strict=self.strict)
        recorded = set(fields)
        fields = {name: self._field(name, field, fields) for name, field in self.cls.__pydantic_fields__.items()}
        extra = extra or {}
        made = object.__new__(self.cls)
        further = extra.get("extra", {} if self.cls.model_config.get("extra") == "allow" else None)
        if further is not None and type(further) is not dict:
            raise Refused(f"the extra fields of {class_name(self.cls)} are malformed")
        # The four places that pydantic's own `__setstate__` fills.
        object.__setattr__(made, "__dict__", fields)
        object.__setattr__(made, "__pydantic_extra__", further)
        object.__setattr__(made, "__pydantic_fields_set__", set(extra.get("set", recorded)))
        object.__setattr__(made, "__pydantic_private__", self._private(extra.get("private", {})))
        return made

    def _field(self, name: str, field: Any, recorded: dict[str, Any]) -> Any:
        if name in recorded:
            return recorded[name]
        if field.is_required():
            raise Refused(f"{class_name(self.cls)} needs the field {name!r}, which was not recorded")
        return field.get_default(call_default_factory=True, validated_data=recorded)

    def _private(self, recorded: dict[str, Any]) -> dict[str, Any] | None:
        declared = self.cls.__private_attributes__
        if not declared and not recorded:
            return None
        defaults = {name: private.get_default() for name, private in declared.items() if name not in recorded}
        kept = {name: value for name, value in defaults.items() if type(value).__name__ != "PydanticUndefinedType"}
        return kept | recorded


class NamedTupleShape(Shape):
    """A NamedTuple or `collections.namedtuple`: its items in order."""

    def __init__(self, cls: type) -> None:
        super().__init__(cls)
        self.has_dict = _has_dict(cls)
        self.derived = frozenset(_cached_properties(cls))

    def take(self, value: Any) -> tuple[Any, Extra]:
        return list(tuple.__iter__(value)), _further(value, frozenset(), self.derived) if self.has_dict else None

    def build(self, fields: Any, extra: Extra) -> Any:
        names, defaults = self.cls._fields, self.cls._field_defaults
        if not isinstance(fields, list) or len(fields) > len(names):
            raise Refused(f"{class_name(self.cls)} has {len(names)} fields, other than what was recorded")
        gained = names[len(fields) :]
        missing = [name for name in gained if name not in defaults]
        if missing:
            raise Refused(f"{class_name(self.cls)} needs the field {missing[0]!r}, which was not recorded")
        made = tuple.__new__(self.cls, [*fields, *(defaults[name] for name in gained)])
        _restore(made, extra)
        return made


def tag_of(cls: type) -> str:
    """How a class is named in the journal: `module:QualName`. The colon tells it from the tags of built-ins."""
    # multiprocessing gives the main module this name in its workers, and finds it under both there.
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    return f"{module}:{cls.__qualname__}"


def find_class(tag: str) -> type | None:
    """The class of that tag if its module is already imported and has it. Runs nothing: no import, no descriptor."""
    module, _, qualname = tag.partition(":")
    first, *inner = qualname.split(".")
    try:
        # Past the `__getattribute__` of a lazy module, which would load it.
        found: Any = object.__getattribute__(sys.modules[module], "__dict__").get(first)
    except (AttributeError, KeyError):
        return None
    for name in inner:
        found = vars(found).get(name) if issubclass(type(found), type) else None
    return found if issubclass(type(found), type) else None


@functools.lru_cache(maxsize=1024)
def shape_of(cls: type) -> Shape | None:
    """The shape of a class of the five families, None for any other. Raises `Refused` if it cannot be rebuilt."""
    if issubclass(cls, enum.Enum):
        return EnumShape(cls)
    if issubclass(cls, msgspec.Struct):
        return StructShape(cls) if cls is not msgspec.Struct else None
    if is_pydantic(cls):
        return PydanticShape(cls)
    if dataclasses.is_dataclass(cls):
        return AttributesShape(
            cls, {field.name: field.name if field.init else None for field in dataclasses.fields(cls)}
        )
    attributes = getattr(cls, "__attrs_attrs__", None)
    if isinstance(attributes, tuple):
        return AttributesShape(cls, {field.name: field.alias if field.init else None for field in attributes})
    if issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple):
        return NamedTupleShape(cls)
    return None


def is_pydantic(cls: type) -> bool:
    """Is it a pydantic (version 2) model class?"""
    return all(hasattr(cls, mark) for mark in ("model_validate", "model_dump", "__pydantic_fields__"))


def _known(fields: Any, names: frozenset[str], cls: type, *, strict: bool = False) -> dict[str, Any]:
    """The recorded fields that the class still has; the others are dropped unless the class forbids them."""
    if type(fields) is not dict:
        raise Refused(f"{class_name(cls)} has named fields, other than what was recorded")
    if fields.keys() <= names:
        return fields
    if strict:
        raise Refused(f"{class_name(cls)} forbids the recorded field {min(fields.keys() - names)!r}")
    return {name: value for name, value in fields.items() if name in names}


def _attribute(value: object, name: str) -> Any:
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        raise Refused("this field has no value").under(f".{name}") from None


def _further(value: object, fields: frozenset[str], derived: frozenset[str]) -> Extra:
    """What `__dict__` holds beside the fields. Values of cached properties are left out: they come again when asked."""
    state: dict[str, Any] = getattr(value, "__dict__", {})
    extra = {
        name: None if name == _ATTRS_HASH else held
        for name, held in state.items()
        if name not in fields and name not in derived and name not in _NO_STATE
    }
    return extra or None


def _restore(made: Any, extra: Extra, slots: tuple[str, ...] = ()) -> None:
    """Put further state back, past the class's own `__setattr__` and descriptors."""
    for name, held in (extra or {}).items():
        if name in slots:
            object.__setattr__(made, name, held)
        else:
            made.__dict__[name] = held


def _has_dict(cls: type) -> bool:
    return cls.__dictoffset__ != 0


def _class_attribute(cls: type, name: str) -> Any:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _slots(cls: type) -> list[str]:
    members = (member for base in reversed(cls.__mro__) for member in vars(base).items())
    return [name for name, member in members if isinstance(member, MemberDescriptorType) and name not in _NO_STATE]


def _cached_properties(cls: type) -> list[str]:
    members = (member for base in cls.__mro__ for member in vars(base).items())
    return [name for name, member in members if isinstance(member, functools.cached_property)]
