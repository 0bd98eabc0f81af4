"""Runs that wait in the file and whose workflow this engine does not have, or has again: each open notices.

A start-up brings into memory what has work to do. What waits in the file is left there until its time; but that a run
cannot go on is to be seen when the code has changed, not when it is due.
"""

from __future__ import annotations

import msgspec

from pikkupy.core.model import RunStatus
from pikkupy.engine.host import Host
from pikkupy.engine.residents import Residents
from pikkupy.engine.waker import CHUNK
from pikkupy.failures import storable
from pikkupy.registry import WorkflowFunction

AT_ONCE = 1_000  # runs that are seen to before `open` returns; the others follow while the engine works
WINDOW = 1_000  # places of an index that are looked at in one read


class _Place(msgspec.Struct):
    """How far the runs of one workflow are seen to."""

    workflow: str
    status: RunStatus | None  # of those that have to be suspended; None: those that go on
    after: int = 0


async def see_to_missing(host: Host, residents: Residents) -> None:
    """Suspend the runs whose workflow is gone, and let those go on that have it again: a few now, the others soon."""
    places = [place for name in await host.journal.workflows() for place in _places(host, name)]
    await _see_to(host, residents, places, AT_ONCE)
    if places:
        residents.run_errand(_see_to(host, residents, places))


def _places(host: Host, workflow: str) -> list[_Place]:
    if storable(workflow) != workflow:
        return []  # no text, so the row is damaged
    if isinstance(host.registry.find(workflow), WorkflowFunction):
        return [_Place(workflow, None)]
    return [_Place(workflow, RunStatus.RUNNING), _Place(workflow, RunStatus.SUSPENDED)]


async def _see_to(host: Host, residents: Residents, places: list[_Place], most: int | None = None) -> None:
    """Take from `places` what is done: all, or until about so many runs are seen to, or the engine is left."""
    seen = 0
    while places and host.dispatching and (most is None or seen < most):
        numbers, last = await _next(host, places[0])
        if last is None:
            places.pop(0)
        else:
            places[0].after = last
        for first in range(0, len(numbers), CHUNK):
            await residents.bring(numbers[first : first + CHUNK])
            await host.journal.commit([])  # what waits on is out of memory again, and seen as it will be
        seen += len(numbers) if last is None else max(len(numbers), CHUNK)


async def _next(host: Host, place: _Place) -> tuple[list[int], int | None]:
    """Some runs, and the number of the last one that was looked at if there may be more."""
    if place.status is not None:
        return await host.journal.waiting_of(place.workflow, place.status, after=place.after, limit=WINDOW)
    numbers = await host.journal.suspended_in_file(place.workflow, after=place.after, limit=CHUNK)
    return numbers, numbers[-1] if len(numbers) == CHUNK else None
