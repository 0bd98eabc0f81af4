"""What an open engine consists of, and how runs are found in it by their ids."""

from __future__ import annotations

from typing import Any, NamedTuple

from pikkupy.core.model import RunRow
from pikkupy.engine.host import Host
from pikkupy.engine.residents import Residents
from pikkupy.engine.starts import Starts
from pikkupy.errors import BadType, PayloadError, RunNotFound
from pikkupy.failures import storable
from pikkupy.registry import WorkflowFunction


class Parts(NamedTuple):
    """The rooms of one open engine."""

    host: Host
    residents: Residents
    starts: Starts

    async def row(self, run_id: str) -> RunRow:
        """The run as it stands on disk. Raises `RunNotFound`, and `TypeError` for an id that is no text."""
        row: RunRow | None = await self.host.journal.run(run_id) if _can_be(run_id) else None
        if row is None:
            raise not_found(run_id)
        return row

    async def number(self, run_id: str) -> int:
        """The number of the run, once its start is on disk. Raises as `row` does."""
        await self.starts.settled(run_id)
        active = self.residents.active.get(run_id)
        return (await self.row(run_id)).number if active is None else active.run.number


def not_found(run_id: str) -> RunNotFound:
    """The error that says so."""
    return RunNotFound(f"no run with the id {run_id!r}")


def encoded_input(host: Host, workflow: WorkflowFunction[Any, Any], data: Any) -> str:
    """The input of a run as it is recorded. Raises `PayloadError`."""
    if not workflow.takes_data and data is not None:
        raise PayloadError(f"input of workflow {workflow.name!r}: it takes no data, got {type(data).__name__}")
    given = workflow.default if data is None else data
    return host.values.encode(given, workflow.data_type, what="input of workflow", name=workflow.name)


def _can_be(run_id: object) -> bool:
    """True if a run may have that id. Raises `TypeError` for what is no text."""
    if not isinstance(run_id, str):
        raise BadType(f"run_id must be a str, not {type(run_id).__name__}: {run_id!r}")
    return run_id.isascii() or storable(run_id) == run_id
