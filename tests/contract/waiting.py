"""Engines for tests of runs that wait: in memory, and in the file, where each wait is followed by a replay."""

from __future__ import annotations

from typing import Any

IN_MEMORY: dict[str, Any] = {}
IN_THE_FILE: dict[str, Any] = {"resident_runs": 0, "unload_after": 0}
BOTH = [IN_MEMORY, IN_THE_FILE]
