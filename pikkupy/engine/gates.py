"""Gates: steps that only `engine.resume` ends. The status of their run is theirs."""

from __future__ import annotations

from functools import partial

from pikkupy.core.machine import RunEvent
from pikkupy.core.model import Change
from pikkupy.core.outcomes import Succeeded
from pikkupy.engine.events import EventKind
from pikkupy.engine.resident import Resident
from pikkupy.names import without_ordinal
from pikkupy.store import Done


def show(run: Resident) -> None:
    """Make the run's status that of its gates: suspended while one is shut."""
    gates = list(run.gates.values())
    changes: list[Change] = [step.unfinished_row() for step in gates if not step.recorded]
    for step in gates:
        step.recorded = True
    reason = "; ".join(without_ordinal(step.call.name) for step in gates) or None
    back = False  # at them, after a mend
    if run.parked is not None or reason != run.reason:
        back = bool(gates) and not changes and run.reason is None
        changes.append(run.moved(RunEvent.SUSPEND if gates else RunEvent.RESUME, reason))
        run.log().info("run_suspended" if gates else "run_resumed", **({"reason": reason} if reason else {}))
    if changes:
        run.host.write(changes, partial(_is_shown, run, run.host.now_us(), reason) if back else run.may_rest)


def _is_shown(run: Resident, now_us: int, reason: str | None) -> None:
    """It is on disk that the run is suspended again."""
    if run.home.events.listening:
        run.home.events.moved(run.run, EventKind.SUSPENDED, now_us, reason=reason)
    run.may_rest()


def resume(run: Resident, done: Done) -> bool:
    """Open every gate that is shut; False if none is. `done` is told when that is on disk."""
    if not run.gates or run.ending:
        return False
    gates, run.gates = list(run.gates.values()), {}
    for step in gates:
        del run.steps[step.call.position]
    now_us = run.host.now_us()
    rows = [step.settled_row(Succeeded("null"), run.next_seq(), now_us) for step in gates]
    run.log().info("run_resumed")
    run.land_all(rows, run.moved(RunEvent.RESUME, None), done)
    return True
