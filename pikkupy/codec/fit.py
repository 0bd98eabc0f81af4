"""Annotations: converts a value to the type that was annotated, or says why it does not fit.

The rule is msgspec's strict conversion, with what it lacks for values that are objects already: an instance of the
annotated class, or of a subclass, is kept as it is (its fields are not checked again: Python does not either), an Enum
member counts as itself, an abstract container keeps the type it came in, and every union works. The JSON form of a type
is accepted wherever the type is. A `Lost` value becomes an instance of the class that the annotation names.

`Any`, `object`, the bare containers and annotations that describe no value leave everything as it is.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import typing
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union

from pikkupy.codec.containers import LISTED, SETS, Fit, at, items, mismatch, pairs, row
from pikkupy.codec.convert import by_msgspec, check_msgspec, convert, validated
from pikkupy.codec.lost import Lost, holds_lost
from pikkupy.codec.refusal import Refused, class_name, key_step
from pikkupy.codec.shapes import AttributesShape, StructShape, is_pydantic, shape_of

_AS_IT_IS: tuple[Any, ...] = (
    Any, object, inspect.Parameter.empty, typing.NoReturn, typing.Never,
    dict, list, tuple, set, frozenset, typing.Dict, typing.List, typing.Tuple, typing.Set, typing.FrozenSet,  # noqa: UP006
)  # fmt: skip
_SEQUENCES = (
    collections.abc.Iterable,
    collections.abc.Collection,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
)
_FORMS = (str, int, float, list, tuple, dict)  # as what the JSON form of a class may come
_MAPPINGS = (collections.abc.Mapping, collections.abc.MutableMapping)


def fitter(annotation: Any) -> Fit:
    """The function that fits a value to `annotation`; it raises `Refused`. Raises `TypeError` if it is no type."""
    try:
        hash(annotation)
    except TypeError:
        return _compiled(annotation)
    return _cached(annotation)


def rebuild(cls: type, lost: Lost) -> Any:
    """An instance of `cls` from what was recorded of another class. Raises `Refused` if it does not fit."""
    shape = shape_of(cls)
    if shape is None:
        raise Refused(lost.reason)
    try:
        return shape.build(mend_fields(cls, lost.fields), lost.extra)
    except (Refused, RecursionError):
        raise
    except Exception as error:  # constructors and default factories are the user's code
        raise Refused(f"{class_name(cls)} cannot be made of what was recorded: {error}") from error


def mend_fields(cls: type, fields: Any) -> Any:
    """The fields of an instance of `cls`, with each `Lost` in them made an instance of what the field's type names."""
    if type(fields) is not dict:
        return fields
    try:
        hints = hints_of(cls)
    except Exception:  # noqa: BLE001 - unresolvable hints mend nothing; a `Lost` that is left is reported later
        return fields
    return {
        name: _mended(hints.get(name, Any), value) if holds_lost(value) else value for name, value in fields.items()
    }


@lru_cache(maxsize=1024)
def hints_of(cls: Any) -> dict[str, Any]:
    """The annotations of a class of the program's; those that are text are evaluated, once. Raises what they raise."""
    return typing.get_type_hints(cls, include_extras=True)


def _mended(hint: Any, value: Any) -> Any:
    try:
        return fitter(hint)(value)
    except (Refused, TypeError):
        return value


@lru_cache(maxsize=1024)
def _cached(annotation: Any) -> Fit:
    return _compiled(annotation)


def _compiled(annotation: Any) -> Fit:
    if annotation is None or annotation is NoneType:
        return _none
    if any(annotation is plain for plain in _AS_IT_IS):
        return _keep
    if isinstance(annotation, typing.NewType):
        return fitter(annotation.__supertype__)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if "TypeAliasType" in (type(annotation).__name__, type(origin).__name__):
        return _alias(annotation, arguments)
    if origin is Annotated:
        return _annotated(annotation, arguments[0], arguments[1:])
    if origin is Union or origin is UnionType:
        return _union(annotation, arguments)
    cls = annotation if origin is None else origin
    if isinstance(cls, type):
        if is_typed_dict(cls):
            return _typed_dict(annotation, cls)
        if _has_shape(cls):
            return _instance(annotation, cls)
        if arguments:
            return _container(annotation, cls, arguments) or _leaf(annotation)
    return _leaf(annotation)


def _keep(value: Any) -> Any:
    return value


def _none(value: Any) -> None:
    if value is not None:
        raise mismatch(None, value)


def _leaf(annotation: Any) -> Fit:
    """What msgspec converts by itself. Raises `TypeError` for an annotation that it does not know."""
    check_msgspec(annotation)
    exact = annotation if isinstance(annotation, type) else None

    def fit(value: Any) -> Any:
        return value if type(value) is exact else convert(value, annotation)

    return fit


def _alias(annotation: Any, arguments: tuple[Any, ...]) -> Fit:
    """`type Name = ...`: looked into only when it is used, since it may contain itself."""

    def fit(value: Any) -> Any:
        try:
            meant = annotation.__value__
            fit_meant = fitter(meant[arguments] if arguments else meant)
        except (NameError, TypeError) as error:
            raise Refused(f"the annotation {annotation} cannot be used: {error}") from error
        return fit_meant(value)

    return fit


def _annotated(annotation: Any, base: Any, notes: tuple[Any, ...]) -> Fit:
    """`Annotated[base, *notes]`: the notes that are a `msgspec.Meta` constrain the value."""
    origin, arguments = typing.get_origin(base), typing.get_args(base)
    if isinstance(base, typing.NewType):
        return fitter(Annotated[base.__supertype__, *notes])
    if origin is Union or origin is UnionType:
        return _union(annotation, tuple(_with_notes(member, notes) for member in arguments))
    fit = fitter(base)
    kind = _concrete(origin)
    if kind is not None:
        return _bounded(fit, kind, fitter(Annotated[kind, *notes]))
    cls = base if origin is None else origin
    if isinstance(cls, type) and (_has_shape(cls) or is_typed_dict(cls)):
        return fit
    return _leaf(annotation)


def _concrete(origin: Any) -> Any:
    """The built-in container that has the bounds of `origin`, None for what is no container."""
    if origin in (*LISTED, dict):
        return origin
    if origin in SETS:
        return set
    return list if origin in _SEQUENCES else dict if origin in _MAPPINGS else None


def _bounded(fit: Fit, kind: Any, bounds: Fit) -> Fit:
    def fit_and_check(value: Any) -> Any:
        fitted = fit(value)
        bounds(kind(fitted))
        return fitted

    return fit_and_check


def _with_notes(member: Any, notes: tuple[Any, ...]) -> Any:
    """The member of a union with the notes that go with its type: a bound says nothing of `None`."""
    noted = Annotated[member, *notes]
    try:
        fitter(noted)
    except TypeError:
        return member
    return noted


def _union(annotation: Any, members: tuple[Any, ...]) -> Fit:
    fits = [fitter(member) for member in members if member not in (None, NoneType)]
    optional = len(fits) < len(members)
    whole = by_msgspec(annotation)

    def fit(value: Any) -> Any:
        if value is None and optional:
            return None
        if len(fits) == 1:
            return fits[0](value)
        fitted = [result for result in (_tried(one, value) for one in fits) if result is not _UNFIT]
        for result in fitted:
            if _unchanged(result, value):  # as it is, before anything converted
                return result
        if whole is not None and len(fitted) != 1:
            return whole(value)
        return _only(fitted, annotation, value)

    return fit


_UNFIT = object()


def _tried(fit: Fit, value: Any) -> Any:
    try:
        return fit(value)
    except Refused:
        return _UNFIT


def _unchanged(result: Any, value: Any) -> bool:
    """Did fitting leave the value as it was, but for copies of its containers?"""
    if result is value:
        return True
    if type(result) is not type(value) or type(result) not in (*LISTED, dict) or len(result) != len(value):
        return False
    if type(result) in (set, frozenset):
        return {*map(id, result)} == {*map(id, value)}
    if type(result) is dict:
        return all(_unchanged(*pair) for pair in zip(result.items(), value.items(), strict=True))
    return all(_unchanged(*pair) for pair in zip(result, value, strict=True))


def _only(fitted: list[Any], annotation: Any, value: Any) -> Any:
    """The one result; of several classes that a `Lost` fits, the one that still has its name."""
    if type(value) is Lost and len(fitted) > 1:
        fitted = [result for result in fitted if type(result).__name__ == value.simple_name]
    if len(fitted) == 1:
        return fitted[0]
    if fitted:
        raise Refused(f"{type(value).__name__} fits more than one of `{class_name(annotation)}`; hand over an instance")
    raise mismatch(annotation, value)


def _instance(annotation: Any, cls: type) -> Fit:
    """A class of the user's: instances as they are, else by its JSON form."""
    if is_pydantic(cls):
        by_form: Fit = functools.partial(validated, cls)
    else:
        by_form = by_msgspec(annotation) or functools.partial(_unknown_form, annotation)

    def fit(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if type(value) is Lost:
            return rebuild(cls, value)
        if type(value) not in _FORMS:
            raise mismatch(annotation, value)
        try:
            return by_form(value)
        except Refused:
            if annotation is not cls or type(value) is not dict or is_pydantic(cls):
                raise
            return _by_fields(cls, value)

    return fit


def _unknown_form(annotation: Any, value: Any) -> Any:
    raise mismatch(annotation, value)


def _by_fields(cls: type, value: dict[Any, Any]) -> Any:
    """An instance from a dict that holds what msgspec does not convert: objects, unions that it does not know."""
    shape = shape_of(cls)
    if not isinstance(shape, StructShape | AttributesShape):
        raise mismatch(cls, value)
    given = {}
    try:
        hints = hints_of(cls)
        for key, item in value.items():
            name, argument = shape.key(key, item)
            if argument is not None:
                given[argument] = at(key_step(key), fitter(hints.get(name, Any)), item)
        return cls(**given)
    except (Refused, RecursionError):
        raise
    except Exception as error:  # hints that cannot be resolved or used, and constructors, are the user's code
        raise Refused(f"{class_name(cls)} cannot be made: {error}") from error


def _typed_dict(annotation: Any, cls: Any) -> Fit:
    """A TypedDict: its keys are fitted; keys that it does not name stay, since nothing says that there are none."""
    try:
        hints = hints_of(cls)
    except Exception as error:  # a name that is not defined, or whatever else evaluating an annotation raises
        raise TypeError(f"{class_name(cls)}: {error}") from error
    fits = {key: fitter(unqualified(hint)) for key, hint in hints.items()}
    required = [key for key, hint in hints.items() if _is_required(hint, key in cls.__required_keys__)]

    def fit(value: Any) -> Any:
        if type(value) is not dict:
            raise mismatch(annotation, value)
        for key in required:
            if key not in value:
                raise Refused(f"{class_name(cls)} needs the key {key!r}")
        return {key: at(key_step(key), fits.get(key, _keep), item) for key, item in value.items()}

    return fit


def _is_required(hint: Any, unless_said: bool) -> bool:
    """`__required_keys__` does not see qualifiers in annotations that were strings, as all are by a future import."""
    qualifier = getattr(typing.get_origin(hint), "_name", None)
    return {"Required": True, "NotRequired": False}.get(str(qualifier), unless_said)


def unqualified(hint: Any) -> Any:
    """Without `Required[...]`, `NotRequired[...]`, `ReadOnly[...]`."""
    while getattr(typing.get_origin(hint), "_name", None) in ("Required", "NotRequired", "ReadOnly"):
        hint = typing.get_args(hint)[0]
    return hint


def _container(annotation: Any, cls: type, arguments: tuple[Any, ...]) -> Fit | None:
    """A container of something: by msgspec as far as that goes, else item by item, which also finds the path."""
    if cls in _SEQUENCES or cls in SETS:
        return items(annotation, fitter(arguments[0]), cls)
    if cls in _MAPPINGS:
        return pairs(annotation, fitter(arguments[0]), fitter(arguments[1]), arguments[0])
    if cls is dict:
        slow = pairs(annotation, fitter(arguments[0]), fitter(arguments[1]), arguments[0])
    elif cls is tuple and not (len(arguments) == 2 and arguments[1] is ...):
        slow = row(annotation, [fitter(argument) for argument in arguments])
    elif cls in LISTED:
        slow = items(annotation, fitter(arguments[0]), cls)
    else:
        return None
    fast = by_msgspec(annotation)
    if fast is None:
        return slow

    def fit(value: Any) -> Any:
        try:
            return fast(value)
        except Refused:
            return slow(value)

    return fit


def _has_shape(cls: type) -> bool:
    try:
        return shape_of(cls) is not None
    except Refused:
        return True


def is_typed_dict(cls: type) -> bool:
    return hasattr(cls, "__required_keys__") and hasattr(cls, "__total__") and issubclass(cls, dict)
