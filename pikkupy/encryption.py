"""Encryption of what the file holds of users' values: a payload codec (extra `encryption`)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pikkupy.errors import BadType, BadValue, PayloadUnreadable
from pikkupy.names import check_name
from pikkupy.payloads import Encoded, PayloadContext

__all__ = ["AesGcm"]

KEY_SIZE = 32  # bytes: AES-256
NONCE_SIZE = 12  # bytes; NIST SP 800-38D: random ones of this size serve 2**32 messages of one key


class AesGcm:
    """AES-256-GCM with a random nonce; key id, run, step and kind of value are authenticated with the text.

    `keys` are 32 random bytes each, by ids of your own; `current` is the id of the one that encrypts, the others only
    decrypt. To rotate, add a key, make it the current one, and keep the older ones as long as runs of theirs are kept.
    A key may encrypt 2**32 values: rotate before that. Any thread may use it.
    """

    def __init__(self, keys: Mapping[str, bytes], current: str, *, accept_plain: bool = True) -> None:
        """`accept_plain=False` refuses values that are not encrypted, for a file that has been from its beginning: then
        nobody who can write the file but has no key can put a value of his own into it.

        Raises `ValueError` or `TypeError` for a key that is not 32 bytes and for a `current` that is not there.
        """
        for name, key in keys.items():
            check_name(name, "id of a key")
            if not isinstance(key, bytes | bytearray | memoryview):
                raise BadType(f"key {name!r}: use bytes, not {type(key).__name__}")
            if len(key) != KEY_SIZE:
                raise BadValue(f"key {name!r} has {len(key)} bytes; use {KEY_SIZE}, from os.urandom(32)")
        if current not in keys:
            raise BadValue(f"current={current!r} is no key; there are {', '.join(map(repr, keys)) or 'none'}")
        self._ciphers = {name: AESGCM(bytes(key)) for name, key in keys.items()}
        self._current = current
        self.accept_plain = accept_plain

    def __repr__(self) -> str:
        return f"AesGcm(keys={sorted(self._ciphers)}, current={self._current!r})"

    def encode(self, text: str, context: PayloadContext, /) -> Encoded:
        """The text under the current key."""
        nonce = os.urandom(NONCE_SIZE)
        sealed = self._ciphers[self._current].encrypt(nonce, text.encode(), _bound(self._current, context))
        return Encoded(self._current, nonce + sealed)

    def decode(self, encoded: Encoded, context: PayloadContext, /) -> str:
        """The text. Raises `PayloadUnreadable` if its key is not here, or if it was not encrypted for this place."""
        cipher = self._ciphers.get(encoded.key)
        if cipher is None:
            known = ", ".join(map(repr, self._ciphers))
            raise PayloadUnreadable(f"there is no key {encoded.key!r}, only {known}; add it to the keys of AesGcm")
        nonce, sealed = encoded.data[:NONCE_SIZE], encoded.data[NONCE_SIZE:]
        try:
            return cipher.decrypt(nonce, sealed, _bound(encoded.key, context)).decode()
        except (InvalidTag, ValueError):
            raise PayloadUnreadable(
                "it was changed, or moved here from another run, step or place, or its key has another id's name"
            ) from None


def _bound(key: str, context: PayloadContext) -> bytes:
    """What is authenticated with the text. No key id has a NUL."""
    return key.encode() + b"\0" + context.binding()
