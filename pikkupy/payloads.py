"""The hook through which users' values go on their way to the file and back, and what they look like there.

In memory nothing is encoded. In the file an encoded value is `{"$t":"encoded","k":<key id>,"v":<base64>}`, which no
plain value can be: the codec of values puts every dict that has a `$t` of its own into another one.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Literal, Protocol, TypeAlias

import msgspec

from pikkupy.errors import PayloadUnreadable

PayloadKind: TypeAlias = Literal[
    "input", "output", "error", "reason", "progress", "step output", "step error", "attempt error", "signal", "chunk"
]

_ENCODED = '{"$t":"encoded",'
_UNREADABLE = '{"$t":"unreadable",'


class PayloadContext(msgspec.Struct, frozen=True, kw_only=True):
    """Whose value it is. A codec that binds to all of it refuses a value that was moved to another place."""

    run_id: str
    kind: PayloadKind
    """What the value is to the run: `input`, `output`, `error` (message and traceback), `reason`, `progress`; of a step
    `step output`, `step error`, `attempt error`; a `signal`, a `chunk` of its stream."""
    name: str | None = None
    """Of the step (`Step.name`) or signal; `None` where the run itself or an attempt is meant."""
    place: int | None = None
    """Of an attempt and a signal the place in the run's history, of a chunk its offset."""

    def binding(self) -> bytes:
        """Bytes that two contexts share exactly if they are equal: additional data to authenticate."""
        return msgspec.json.encode((self.run_id, self.kind, self.name, self.place))

    def __str__(self) -> str:
        return f"{_NAMES[self.kind].format(self.name, self.place)} of run {self.run_id!r}"


_NAMES: dict[PayloadKind, str] = {
    "input": "input",
    "output": "output",
    "error": "error",
    "reason": "reason",
    "progress": "progress",
    "step output": "output of step {0!r}",
    "step error": "error of step {0!r}",
    "attempt error": "error of the attempt at place {1}",
    "signal": "payload of signal {0!r}",
    "chunk": "chunk {1} of step {0!r}",
}


class Encoded(msgspec.Struct, frozen=True):
    """What a codec makes of a text: the id of the key that it has used, and the bytes."""

    key: str
    data: bytes


class PayloadCodec(Protocol):
    """What `Config.payload_codec` takes: it encrypts, or compresses, every value that a user hands over.

    Both methods are called on database threads, perhaps at the same time; they may block. What `encode` raises refuses
    the write: its caller is told, and a write of the engine's own stops the engine, as a disk that fails does. What
    `decode` raises is the reason of a `PayloadUnreadable`. A codec with an attribute `accept_plain` that is false is
    for files that are encoded from the beginning: values that are not are refused as unreadable.
    """

    def encode(self, text: str, context: PayloadContext, /) -> Encoded:
        """The text for the file."""
        ...

    def decode(self, encoded: Encoded, context: PayloadContext, /) -> str:
        """The text that was encoded for this context."""
        ...


class Cipher(msgspec.Struct, frozen=True):
    """`Encoded` as JSON holds it."""

    k: str
    v: str  # base64

    @classmethod
    def of(cls, encoded: Encoded) -> Cipher:
        """For the file."""
        return cls(encoded.key, b64encode(encoded.data).decode())

    def encoded(self) -> Encoded:
        """From the file. Raises `ValueError` if it is no base64."""
        return Encoded(self.k, b64decode(self.v, validate=True))


def text_of(cipher: Cipher) -> str:
    """An encoded value as a column of the file holds it."""
    return _ENCODED + msgspec.json.encode(cipher).decode()[1:]


def is_encoded(text: str) -> bool:
    """Whether a column of the file holds an encoded value."""
    return text.startswith(_ENCODED)


def cipher_in(text: str) -> Cipher | None:
    """What an encoded value in the file holds; None for a plain one."""
    if not is_encoded(text):
        return None
    try:
        return msgspec.json.decode(text, type=Cipher)
    except (msgspec.MsgspecError, UnicodeError):
        return Cipher("?", "?")  # cut short, or forged: nobody can decode it


def unreadable_text(why: str) -> str:
    """What stands in memory for a value that could not be decoded, where that is only shown."""
    return _UNREADABLE + msgspec.json.encode({"why": why}).decode()[1:]


def check_readable(text: str) -> None:
    """Raises `PayloadUnreadable` for what `unreadable_text` gives."""
    if text.startswith(_UNREADABLE):
        raise PayloadUnreadable(msgspec.json.decode(text)["why"])
