"""What the bodies of simulated steps return: each type that the codec has to give back as it was."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

VALUES: tuple[Any, ...] = (
    None,
    0,
    False,
    "",
    [],
    {},
    -1.5,
    2**70,
    "\u00e4\U0001f600",
    b"\x00\xff",
    (1, "two", (3,)),
    {1, 2, 3},
    frozenset({4, 5}),
    Decimal("1.10"),
    datetime(2030, 1, 1, 12, tzinfo=UTC),
    date(2030, 1, 1),
    timedelta(days=1, microseconds=1),
    UUID(int=7),
    {"nested": [{"deep": (1, None)}]},
    {1: "one", (2, 3): "pair"},
)
