"""Containers fitted item by item: what msgspec cannot convert as a whole, and what it gives no path for."""

from __future__ import annotations

import collections.abc
from collections.abc import Callable, Iterable
from typing import Any

from pikkupy.codec.convert import convert
from pikkupy.codec.lost import Lost
from pikkupy.codec.refusal import Refused, class_name, key_step

Fit = Callable[[Any], Any]

LISTED = (list, tuple, set, frozenset)
SETS = (collections.abc.Set, collections.abc.MutableSet)


def items(annotation: Any, fit_item: Fit, cls: Any) -> Fit:
    """Lists, sets, tuples of one type; of an abstract class a value of any of these stays what it is."""
    abstract = cls not in LISTED
    made: Any = set if cls in SETS else list if abstract else cls

    def fit(value: Any) -> Any:
        if type(value) not in LISTED:
            raise mismatch(annotation, value)
        fitted = [at(f"[{index}]", fit_item, item) for index, item in enumerate(value)]
        return _made(type(value) if abstract and isinstance(value, cls) else made, fitted)

    return fit


def row(annotation: Any, fits: list[Fit]) -> Fit:
    """Tuples with a type for each place."""

    def fit(value: Any) -> Any:
        if type(value) not in (list, tuple):
            raise mismatch(annotation, value)
        if len(value) != len(fits):
            raise Refused(f"expected {len(fits)} items, got {len(value)}")
        return tuple(at(f"[{index}]", one, item) for index, (one, item) in enumerate(zip(fits, value, strict=True)))

    return fit


def pairs(annotation: Any, fit_key: Fit, fit_value: Fit, key_type: Any) -> Fit:
    """Dicts. `key_type`: the annotation that `fit_key` is of."""
    fit_text_key = _key_fitter(fit_key, key_type)

    def fit(value: Any) -> Any:
        if type(value) is not dict:
            raise mismatch(annotation, value)
        keys = [at(key_step(key), fit_text_key, key) for key in value]
        values = [at(key_step(key), fit_value, item) for key, item in value.items()]
        return _made(dict, zip(keys, values, strict=True))

    return fit


def _key_fitter(fit_key: Fit, key_type: Any) -> Fit:
    """Fits a key; in JSON every key is text, so the text of a number counts as the number."""

    def fit(key: Any) -> Any:
        try:
            return fit_key(key)
        except Refused:
            if type(key) is not str:
                raise
            form: dict[Any, None] = convert({key: None}, dict[key_type, None], str_keys=True)
            return next(iter(form))

    return fit


def at(step: str, fit: Fit, item: Any) -> Any:
    """The item fitted; a refusal learns where it was."""
    try:
        return fit(item)
    except Refused as refused:
        refused.under(step)
        raise


def _made(cls: Any, items: Iterable[Any]) -> Any:
    """The container of those items. Raises `Refused` for a set or dict of what cannot be hashed."""
    try:
        return cls(items)
    except TypeError as error:
        raise Refused(str(error)) from error


def mismatch(annotation: Any, value: Any) -> Refused:
    """The refusal of a value that is of another type than annotated."""
    if type(value) is Lost:
        return Refused(value.reason)
    return Refused(f"expected `{class_name(annotation)}`, got `{class_name(type(value))}`")
