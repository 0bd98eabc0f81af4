"""How far something is, as steps and workflows tell it."""

from __future__ import annotations

from typing import TypeAlias

from pikkupy.errors import BadType, BadValue
from pikkupy.names import short

MAX_TEXT = 1_000  # characters of a progress

Progress: TypeAlias = float | str
"""How far something is: a fraction from 0 to 1, or a text."""


def check_progress(progress: Progress) -> Progress:
    """A fraction as a float, a text without lone surrogates. Raises `BadValue` or `BadType`."""
    if isinstance(progress, str):
        if len(progress) > MAX_TEXT:
            raise BadValue(f"progress(text): {len(progress):,} characters are more than {MAX_TEXT:,}")
        return progress.encode("utf-8", "backslashreplace").decode()
    if isinstance(progress, bool) or not isinstance(progress, int | float):
        raise BadType(
            f"progress({short(progress)}): use a fraction from 0 to 1 or a str, not {type(progress).__name__}"
        )
    if not 0 <= progress <= 1:
        raise BadValue(f"progress({short(progress)}): a fraction is from 0 to 1")
    return float(progress)
