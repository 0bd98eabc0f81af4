"""The statements of queries.sql and writing.sql by name."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_ROW = re.compile(r"(?<=VALUES )\([?, ]+\)")


def script(name: str) -> str:
    """The text of one of the SQL files of this room."""
    return (files("pikkupy.store") / name).read_text(encoding="utf-8")


def _statements(text: str) -> dict[str, str]:
    """By name. What others have in braces is put in there, and is none itself."""
    _, *parts = _NAME.split(text)
    assert len(set(parts[::2])) == len(parts[::2]), "two statements have one name"
    found = {
        name: "\n".join(line for line in body.splitlines() if line and not line.startswith("--"))
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
    shared = [name for name in found if f"{{{name}}}" in text and not found[name].startswith("CREATE")]
    for name in shared:
        part = found.pop(name)
        found = {other: body.replace(f"{{{name}}}", part) for other, body in found.items()}
    return found


QUERIES = _statements(script("queries.sql"))
WRITING = _statements(script("writing.sql"))


@cache
def insert(rows: int, *, usual: bool) -> str:
    """The statement that writes so many changes, the usual ones or any."""
    return _ROW.sub(lambda row: ", ".join([row.group()] * rows), WRITING["insert_usual" if usual else "insert"])
