"""How statuses look: never by colour alone, each has a sign of its own as well."""

from __future__ import annotations

from typing import NamedTuple


class Mark(NamedTuple):
    """One look, with Unicode and where there is none."""

    symbol: str
    plain: str
    style: str
    """Of rich."""


RUNS: dict[str, Mark] = {
    "running": Mark("▶", ">", "cyan"),
    "suspended": Mark("‖", "=", "yellow"),
    "completed": Mark("✔", "+", "green"),
    "failed": Mark("✘", "x", "red"),
    "cancelled": Mark("∅", "-", "dim"),
}
STEPS: dict[str, Mark] = {
    "pending": Mark("·", ".", "dim"),
    "scheduled": Mark("◷", "o", "yellow"),
    "running": RUNS["running"],
    "succeeded": RUNS["completed"],
    "failed": RUNS["failed"],
    "cancelled": RUNS["cancelled"],
}
LEVELS: dict[str, Mark] = {"ok": RUNS["completed"], "warn": Mark("!", "!", "yellow"), "bad": RUNS["failed"]}
SIGNS = {status: mark.symbol for status, mark in (RUNS | STEPS).items()}
