"""What an open engine consists of, and how runs are found in it by their ids."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from pikkupy.codec import Outside
from pikkupy.core.model import RunRow
from pikkupy.engine.asking import Asked, types_of
from pikkupy.engine.host import Host
from pikkupy.engine.residents import Residents
from pikkupy.engine.starts import Starts
from pikkupy.errors import PayloadError
from pikkupy.registry import WorkflowFunction


class Parts(NamedTuple):
    """The rooms of one open engine."""

    host: Host
    residents: Residents
    starts: Starts

    @property
    def asked(self) -> Asked:
        """Whom questions go to."""
        host = self.host
        return Asked(host.journal, host.values, self.residents, partial(types_of, host.registry), host.now_us)

    async def row(self, run_id: str) -> RunRow:
        """The run as it stands on disk. Raises `RunNotFound`, and `TypeError` for an id that is no text."""
        return await self.asked.row(run_id)

    async def number(self, run_id: str) -> int:
        """The number of the run, once its start is on disk. Raises as `row` does."""
        await self.starts.settled(run_id)
        active = self.residents.active.get(run_id)
        return (await self.row(run_id)).number if active is None else active.run.number


def encoded_input(host: Host, workflow: WorkflowFunction[Any, Any], data: Any) -> str:
    """The input of a run as it is recorded. Raises `PayloadError`; of what comes `Outside` also for a key too many."""
    if isinstance(data, Outside):
        data = data.fitting(workflow.data_type, f"input of workflow {workflow.name!r}")
    if not workflow.takes_data and data is not None:
        raise PayloadError(f"input of workflow {workflow.name!r}: it takes no data, got {type(data).__name__}")
    given = workflow.default if data is None else data
    return host.values.encode(given, workflow.data_type, what="input of workflow", name=workflow.name)
