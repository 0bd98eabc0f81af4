"""A failing scenario, made smaller as long as it breaks the same promise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import structs

from pikkupy.testing.simulation.asked import Violation
from pikkupy.testing.simulation.history import History, Report
from pikkupy.testing.simulation.programs import Child, Gather, Node, Race, Sequence, Within
from pikkupy.testing.simulation.scenario import Scenario

TRIES = 400


def shrink(scenario: Scenario, promise: str) -> Scenario:
    """The smallest scenario that was found to break `promise`."""
    tries = 0
    found = True
    while found:
        found = False
        for smaller in _smaller(scenario):
            tries += 1
            if tries > TRIES:
                return scenario
            if breaks(smaller) == promise:
                scenario, found = smaller, True
                break
    return scenario


def lived(scenario: Scenario) -> Report | str:
    """What came of it, or the promise that it breaks: its name, a colon, and what has happened."""
    try:
        return History(scenario).run()
    except Violation as violation:
        return str(violation)
    except Exception as error:  # noqa: BLE001 - of the engine or of the simulation: it is told like a violation
        return f"error: {error!r}"


def breaks(scenario: Scenario) -> str | None:
    """The name of the promise that the scenario breaks."""
    came = lived(scenario)
    return came.split(":", 1)[0] if isinstance(came, str) else None


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    for half in (True, False):
        for faults in _without(scenario.faults, half=half):
            yield structs.replace(scenario, faults=faults)
        for acts in _without(scenario.acts, half=half):
            if any(act.does == "start" for act in acts):
                yield structs.replace(scenario, acts=acts)
    for number, program in enumerate(scenario.programs):
        for node in _parts(program):
            programs = list(scenario.programs)
            programs[number] = node
            yield structs.replace(scenario, programs=programs)


def _without(items: list[Any], *, half: bool) -> Iterator[list[Any]]:
    size = max(1, len(items) // 2) if half else 1
    for first in range(0, len(items), size):
        yield items[:first] + items[first + size :]


def _parts(node: Node) -> Iterator[Node]:
    """The node with something of it left out."""
    match node:
        case Sequence(parts) | Gather(parts) | Race(parts):
            for number, part in enumerate(parts):
                if len(parts) > 1:
                    yield type(node)(parts[:number] + parts[number + 1 :])
                for smaller in _parts(part):
                    yield type(node)([*parts[:number], smaller, *parts[number + 1 :]])
            if len(parts) == 1:
                yield parts[0]
        case Within(us, part):
            yield part
            for smaller in _parts(part):
                yield Within(us, smaller)
        case Child():
            for smaller in _parts(node.part):
                yield structs.replace(node, part=smaller)
        case _:
            return
