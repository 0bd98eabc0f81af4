"""What workflows may get from what is no body of a step: from people, and from their child runs."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from pikkupy.execution import Decided, Expired
from pikkupy.testing.simulation.asked import Asked, Known, TakeBack, Violation, counted
from pikkupy.testing.simulation.clock import SimulatedClock
from pikkupy.testing.simulation.disk import SimulatedDisk
from pikkupy.testing.simulation.programs import Child, Gate, Leaf, Wait

_CHILDREN = """
SELECT child.run_id, child.created_at FROM pikkupy_runs AS child
JOIN pikkupy_runs AS parent ON parent.number = child.parent WHERE child.parent_position = ? AND parent.run_id = ?
ORDER BY child.number
"""
_EXPIRED = repr(Expired())
_SHUT = """
SELECT steps.name FROM pikkupy_steps AS steps JOIN pikkupy_runs AS runs ON runs.number = steps.run
WHERE steps.kind = 'suspend' AND steps.status = 'pending' AND runs.parked IS NULL AND runs.run_id = ?
"""
_CANCELLED = re.compile(r"pikkupy\.errors\.RunCancelled: run '([^']*)' was cancelled")


class Given:
    """Whatever was given in one history, acknowledged or not."""

    def __init__(self, disk: SimulatedDisk, clock: SimulatedClock, asked: Asked) -> None:
        self._offered: Counter[tuple[str, str, str]] = Counter()  # how often each payload was sent: run, name, payload
        self.returned: dict[str, dict[str, None]] = {}  # by the bodies of workflows
        self._decided: Counter[tuple[str, str, str]] = Counter()
        self._sources: dict[str, str] = {}  # of forks, which bring along what was sent there
        self._resumed: Counter[str] = Counter()
        self._opened: list[Known] = []  # acknowledged: run and gates
        self._disk = disk
        self._clock = clock
        self._asked = asked

    def offers(self, run_id: str, name: str, payload: str) -> TakeBack:
        """`signal` is called."""
        return counted(self._offered, (run_id, name, payload))

    def decides(self, run_id: str, name: str, decision: Any) -> TakeBack:
        """`approve` is called."""
        return counted(self._decided, (run_id, name, repr(Decided(decision, None))))

    def forks(self, source: str, fork: str) -> None:
        """`fork` is called."""
        self._sources[fork] = source

    def offered(self, run_id: str, name: str, payload: str) -> int:
        """How often the payload was sent to the run under that name, or to the one that it is made from."""
        return sum(self._offered[one, name, payload] for one in self._and_source(run_id))

    def _and_source(self, run_id: str) -> set[str]:
        return {run_id, self._sources.get(run_id, run_id)}

    def returns(self, run_id: str, value: str) -> None:
        """The body of a workflow returns that."""
        self.returned.setdefault(run_id, {})[value] = None

    def resumes(self, run_id: str) -> TakeBack:
        """`resume` is called."""
        return counted(self._resumed, run_id)

    def shut_gates(self, run_id: str) -> set[str]:
        """What `resume` means."""
        return {name for (name,) in self._disk.query(_SHUT, run_id)}

    def has_resumed(self, run_id: str, shut: set[str]) -> None:
        """`resume` has returned: the gates that were shut are open from now on, unless the run is just being ended."""
        self._opened.append(Known(self._disk.commits, (run_id, shut)))

    def restored(self, commits: int) -> None:
        """The process has died, and the disk is what it was after so many commits."""
        self._opened = [known for known in self._opened if known.commits <= commits]

    def check_gates(self, *, at_rest: bool) -> None:
        """What was opened is open. Not `at_rest`: runs that somebody may be ending are left out."""
        for _, (run_id, shut) in self._opened:
            if self._asked.has_other_code(run_id) or self._asked.was_retried(run_id):
                continue  # it may not have fitted, or comes to gates of these names again
            if not at_rest and ("/" in run_id or run_id in self._asked.unwanted):
                continue
            still = shut & self.shut_gates(run_id)
            if still:
                raise Violation(f"resume: resume({run_id!r}) had returned, and {sorted(still)} is shut (I5)")

    def check(self, node: Leaf, where: str, step: tuple[str, int], status: str, what: str, ended_at: int) -> None:
        """A workflow has got that of a step."""
        run_id, position = step
        if isinstance(node, Child):
            children = self._disk.query(_CHILDREN, position, run_id)
            if children or not self._asked.is_gone_below(run_id):
                self._check_child(where, children, status, what)
                # The time of changed code may be another step's.
                if status == "failed" and node.timeout_us is not None and not self._asked.has_other_code(run_id):
                    _check_time(where, children, node.timeout_us, what, ended_at)
        elif status == "succeeded" and not self._is_known(node, run_id, what):
            raise Violation(f"value: {what} is seen of {where}, which nobody has given (I4)")

    def _is_known(self, node: Leaf, run_id: str, what: str) -> bool:
        if isinstance(node, Wait):
            if not node.approval:
                return self.offered(run_id, node.name, what) > 0
            return what == _EXPIRED or any((one, node.name, what) in self._decided for one in self._and_source(run_id))
        return what == "None" and (not isinstance(node, Gate) or run_id in self._resumed)

    def _check_child(self, where: str, children: list[Any], status: str, what: str) -> None:
        if status == "succeeded":
            if not any(what in self.returned.get(child, ()) for child, _ in children):
                raise Violation(f"value: {what} is seen of {where}, which no child run of it has returned (I4)")
            return
        cancelled = _CANCELLED.match(_error_in(what))
        if cancelled and not self._asked.is_unwanted(cancelled[1]):
            raise Violation(f"cancel: run {cancelled[1]!r} is cancelled, and nobody has asked for it (I-28)")


def _check_time(where: str, children: list[Any], timeout_us: int, what: str, ended_at: int) -> None:
    """It ends no earlier than its time after the beginning of its last child run, by the clock of the engine."""
    if _error_in(what).startswith("TimeoutError: ") and ended_at < children[-1][1] + timeout_us:
        raise Violation(f"early: the time of {where} is up, which was not (I7)")


def _error_in(failed: str) -> str:
    return failed.partition(" after ")[2].partition(": ")[2]
