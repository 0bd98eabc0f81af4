"""Values as JSON text that anyone can read in a sqlite3 shell, and back: equal in type and content, all the way down.

Plain JSON values stand for themselves; everything else is a tagged object, `{"$t": "tuple", "v": [1, 2]}` or
`{"$t": "app.models:Profile", "v": {"id": 1}}`. `pack` makes the tree of a value and `unpack` the value of a tree; `fit`
deals with annotations, `shapes` with the user's classes, `scalars` and `moments` with the built-ins that JSON lacks.

What is kept is the value, not its identity: an object that is met twice comes back as two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pikkupy.codec.containers import Fit
from pikkupy.codec.fit import fitter
from pikkupy.codec.outside import Outside
from pikkupy.codec.pack import Packer, TooLarge
from pikkupy.codec.refusal import Refused, class_name
from pikkupy.codec.shapes import is_pydantic
from pikkupy.codec.unpack import Unpacker
from pikkupy.errors import PayloadError

__all__ = ["UNLIMITED", "Codec", "Outside", "check_annotation", "is_pydantic"]

UNLIMITED = 1 << 62  # bytes, for values that somebody else has limited, or that were recorded
_INT64 = 1 << 63

_json_encode = msgspec.json.Encoder().encode
_json_decode = msgspec.json.Decoder().decode


class Codec:
    """Encodes and decodes values. Holds nothing but its settings; any thread may use it."""

    def __init__(
        self,
        max_payload: int = 2_000_000,
        warn_payload: int = 262_144,
        on_large: Callable[[str, int], None] | None = None,
    ) -> None:
        """`max_payload`, `warn_payload`: bytes of UTF-8; `on_large(what, size)` is called from `warn_payload` on."""
        self.max_payload = max_payload
        self.warn_payload = warn_payload
        self.on_large = on_large

    def encode(self, value: object, annotation: Any = Any, *, what: str, name: str | None = None) -> str:
        """JSON text from which `decode` gives an equal value of equal types, after fitting it to `annotation`.

        `what` and `name` name the value in errors: "output of step 'Charge'". Raises `PayloadError` with the path
        (`$.order.items[1]`) if the value does not fit, cannot be kept exactly, or has more than `max_payload` bytes.
        """
        try:
            fit = None if annotation is Any else _fitter(annotation)
            kept = value if fit is None else fit(value)
            data = _json_encode(kept) if self._is_plain(kept) else self._encoded(kept, fit)
        except Refused as refused:
            raise PayloadError(f"{_named(what, name)}: {refused.path}: {refused.reason}") from refused.__cause__
        except RecursionError:
            raise PayloadError(f"{_named(what, name)}: $: nested too deeply for Python's stack; keep it flat") from None
        except TooLarge as large:
            raise PayloadError(f"{_named(what, name)}: {self._too_large(f'at least {large.size:,}')}") from None
        if len(data) > self.max_payload:
            raise PayloadError(f"{_named(what, name)}: {self._too_large(f'{len(data):,}')}")
        if len(data) >= self.warn_payload and self.on_large is not None:
            self.on_large(_named(what, name), len(data))
        return data.decode()

    def decode(self, text: str, annotation: Any = Any, *, what: str, name: str | None = None) -> Any:
        """The value that was encoded, fitted to `annotation`.

        Raises `PayloadError` naming `what`, type and path if it does not fit, or if a class of it is gone or changed
        and the annotation names none that it fits. Imports nothing and evaluates nothing, whatever the text.
        """
        try:
            if annotation is Any:
                return _parsed(text) if '"$t"' not in text else _decoded(text, None)
            return _decoded(text, _fitter(annotation))
        except Refused as refused:
            raise PayloadError(f"{_named(what, name)}: {refused.path}: {refused.reason}") from refused.__cause__
        except RecursionError:
            raise PayloadError(f"{_named(what, name)}: $: nested too deeply for Python's stack") from None

    def decode_plain(self, text: str) -> Any:
        """For inspection: as `decode` without annotation, and where a class is gone its fields as plain values.

        Never raises: what cannot be unpacked stays in its JSON form, and what cannot even be read (nested too deeply, a
        number out of range, no JSON) is given as its text.
        """
        try:
            return Unpacker(plain=True).unpack(_parsed(text))
        except (Refused, RecursionError):
            return text

    def _is_plain(self, value: object) -> bool:
        """True for what the packer would leave as it is. Most values; without the packer in a third of the time."""
        if type(value) is str:
            return value.isascii() and len(value) <= self.max_payload
        return value is None or type(value) is bool or (type(value) is int and -_INT64 < value < _INT64)

    def _encoded(self, value: object, fit: Fit | None) -> bytes:
        packer = Packer(self.max_payload)
        data = _json_encode(packer.tree(value))
        if packer.classes:
            _check_round_trip(data, packer, fit)
        return data

    def _too_large(self, size: str) -> str:
        return (
            f"{size} bytes are more than the limit of {self.max_payload:,} (max_payload); "
            "store the value elsewhere and hand over a reference to it"
        )


def _named(what: str, name: str | None) -> str:
    """Put together only when somebody is to read it: values that fit are encoded and decoded at every step."""
    return what if name is None else f"{what} {name!r}"


def check_annotation(annotation: Any) -> None:
    """Raise `TypeError` if no value could be fitted to `annotation`: a text, a number, a form that nobody knows."""
    fitter(annotation)


def _fitter(annotation: Any) -> Fit:
    try:
        return fitter(annotation)
    except TypeError as error:
        raise Refused(f"the annotation cannot be used: {error}") from error


def _parsed(text: str) -> Any:
    try:
        return _json_decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Refused(f"the recorded text is no JSON that can be read: {error}") from error


def _decoded(text: str, fit: Fit | None) -> Any:
    tree = _parsed(text)
    if '"$t"' not in text:
        return tree if fit is None else fit(tree)
    unpacker = Unpacker()
    value = unpacker.unpack(tree)
    if fit is not None:
        value = fit(value)
    if unpacker.losses:
        Packer(UNLIMITED).tree(value)  # refuses what is still lost, with its path
    return value


def _check_round_trip(data: bytes, packed: Packer, fit: Fit | None) -> None:
    """Refuse instances that would come back otherwise: of another class, with other content, or not at all.

    Packing says everything that is to be kept, so what comes back is compared by packing it again.
    """
    nameless = ", ".join(sorted(map(class_name, packed.nameless)))
    try:
        again = Packer(UNLIMITED)
        same = _json_encode(again.tree(_decoded(data.decode(), fit))) == data
    except Refused as refused:
        if nameless:
            refused.reason = (
                f"{nameless} cannot be found by name again; define it at the top of a module, or annotate it"
            )
        raise
    if not same or again.classes != packed.classes:
        names = nameless or ", ".join(sorted(map(class_name, packed.classes)))
        raise Refused(f"a value made of {names} would come back different; hand over plain data")
