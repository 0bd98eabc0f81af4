"""How one attempt of a step can end."""

from __future__ import annotations

import msgspec

from pikkupy.core.model import ErrorInfo


class Succeeded(msgspec.Struct, frozen=True, gc=False):
    """The body returned this value, encoded."""

    output: str


class Failed(msgspec.Struct, frozen=True):
    """The body raised, took too long, or lost its worker."""

    error: ErrorInfo
    exception: BaseException | None  # what was raised, for `retry_if`; None if it was raised in a worker process
    final: bool  # no other attempt may follow, whatever retries are left


class Stopped(msgspec.Struct, frozen=True):
    """The attempt was asked to stop, or never began: it has no result."""


Outcome = Succeeded | Failed | Stopped
OUTCOME = (Succeeded, Failed, Stopped)  # for isinstance, which takes a tuple faster than a union
