"""JSON Schema of users' types, as far as there is one: to make forms of, and to describe what a workflow takes."""

from __future__ import annotations

from typing import Any

import msgspec


def schema_of(annotation: Any) -> dict[str, Any]:
    """JSON Schema of a type; one that says nothing for what there is none of."""
    try:
        return msgspec.json.schema(annotation, schema_hook=anything)
    except Exception:  # noqa: BLE001 - whatever users' types do
        return {}


def anything(_: type[Any]) -> dict[str, Any]:
    """Of a class that msgspec does not know."""
    return {}
