"""The record of what was done, beside the log: a line of a file each, or a call of a function of the application."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

from pikkupy.clock import now
from pikkupy.http.problems import Refused
from pikkupy.log import logger
from pikkupy.mounting import Audit
from pikkupy.private import append_own

_log = logger()


class AuditLines:
    """Where they are kept; nowhere for `None`. Raises `OSError` if a file can be neither made nor written."""

    def __init__(self, to: Audit | None) -> None:
        self._keep = to if to is None or callable(to) else partial(_append, to)
        if not (to is None or callable(to)):
            append_own(to, b"")

    def add(self, **facts: Any) -> None:
        """One more. Raises `Refused` if it cannot be kept, which is logged, with what it says."""
        if self._keep is None:
            return
        time = now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            self._keep({"time": time, **facts})
        except Exception as error:  # noqa: BLE001 - whatever the function raises
            _log.error("audit_lost", **facts, error=f"{type(error).__name__}: {error}")
            detail = "what is done here is recorded, and that failed, so nothing was done; the log says why"
            raise Refused(503, "It cannot be recorded", detail, retry_after="5") from None


def _append(path: str | os.PathLike[str], line: dict[str, Any]) -> None:
    append_own(path, f"{json.dumps(line)}\n".encode("ascii"))
