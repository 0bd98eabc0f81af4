"""What must be true, whatever happens: kept outside of the engine, and checked while a history runs.

Everything that an oracle remembers carries the number of commits after which it was so; a loss of power that leads back
to an earlier commit takes away what came later, and nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from pikkupy.core.model import OWN_BITS
from pikkupy.store.plan import Kind, Op
from pikkupy.testing.simulation.asked import Asked, Known, TakeBack, Violation, counted, is_among
from pikkupy.testing.simulation.bodies import Bodies
from pikkupy.testing.simulation.clock import SimulatedClock
from pikkupy.testing.simulation.disk import SimulatedDisk
from pikkupy.testing.simulation.given import Given
from pikkupy.testing.simulation.programs import Do, Leaf, Sleep, Wait

_IS_THERE = "SELECT 1 FROM pikkupy_runs WHERE run_id = ?"
_OUTCOME = """
SELECT steps.seq, steps.status, steps.wake_at, steps.attempts, steps.ended_at FROM pikkupy_steps AS steps
JOIN pikkupy_runs AS runs ON runs.number = steps.run WHERE steps.position = ? AND runs.run_id = ?
"""
_SHARED = """
SELECT steps.name, steps.status, steps.output, steps.error FROM pikkupy_steps AS steps
JOIN pikkupy_runs AS runs ON runs.number = steps.run
WHERE runs.run_id = ? AND steps.position < ? AND steps.seq IS NOT NULL
"""
_KEYED = {
    Kind.STEP,
    Kind.SUCCEEDED,
    Kind.ATTEMPT,
    Kind.TIMER,
    Kind.SIGNAL,
    Kind.TAKEN,
    Kind.CHUNK,
    Kind.REOPEN,
    Kind.KEPT,
    Kind.BACK,
}
_ALL = {Kind.DELETE, Kind.SWEEP}  # what may be of any runs


class Cursor:
    """How far one execution of a workflow's body is."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.place = 0  # in what was seen
        self.newest = 0  # place in the history of the outcome that it saw last
        self.now_us = 0  # when that came
        self.own_sleeps: dict[int, int] = {}  # since when they are


class Forgotten(NamedTuple):
    """What was known of a run, in case that it goes on from where it was."""

    run_id: str
    times: int  # that it was forgotten, with this one
    final: Known | None
    seen: dict[int, Known]
    begun: dict[tuple[str, int, int], Known]


class Oracle:
    """Watches one history: what its workflows see, what its steps do, what its callers are told."""

    def __init__(self, disk: SimulatedDisk, clock: SimulatedClock, workers: int) -> None:
        self.counts: Counter[str] = Counter()
        self.asked = Asked()
        self.given = Given(disk, clock, self.asked)
        self.bodies = Bodies(disk, clock, self.asked, self.counts, workers)
        self.starts: dict[str, int] = {}  # acknowledged, by the commits at that time
        self.deleted: dict[str, int] = {}
        self.finals: dict[str, Known] = {}
        self.sent: list[Known] = []  # acknowledged signals and decisions: to which run, of which name
        self.seen: dict[str, dict[int, Known]] = {}  # what workflows got from awaits, by number
        self.prunes = 0  # calls of `prune` under way, or given up in this life
        self._forgotten: Counter[str] = Counter()  # how often what was known of a run was
        self._disk = disk
        self._clock = clock
        self._now_us = clock.now_us
        self._asked_at: dict[tuple[str, int], Known] = {}  # sleeps, and waits with a time-out
        self._own_ended: dict[tuple[str, int], Known] = {}  # sleeps of asyncio that some execution has seen the end of

    @property
    def commits(self) -> int:
        """How many there were so far."""
        return self._disk.commits

    # What workflows see

    def begins_again(self, run_id: str) -> Cursor:
        """The body of a run is run from the beginning: a replay, also one that is only a look at what it would do."""
        if self.asked.is_gone(run_id):
            self._forget([run_id])  # perhaps it is another run of the same id
        self.bodies.may_begin(run_id)
        return Cursor(run_id)

    def asks(self, cursor: Cursor, position: int, node: Leaf) -> None:
        """A workflow asks for something: what has a time counts from the first time.

        An `asyncio.sleep` counts from the outcome that the workflow has seen last, when its own time stands still.
        """
        step = (cursor.run_id, position)
        if not isinstance(node, Sleep | Wait):
            return
        if position < 0:
            cursor.own_sleeps[position] = cursor.now_us
        if step in self._asked_at:
            return  # it was asked for before; it may be a look at what the run would do, before that is on disk
        if position < 0 or not self._is_known(*step):
            self._asked_at[step] = Known(self._disk.commits, (self._now_us(), self._clock.jumps))

    def saw(self, cursor: Cursor, position: int, node: Leaf, what: str, *, remembers: bool) -> None:
        """A workflow has got something from an await. `remembers`: every replay gets the same, in the same order."""
        if position >= 0:
            self._check_outcome(cursor, position, node, what)
        elif isinstance(node, Sleep):
            self._check_own_sleep(cursor, position, node)
        if remembers:
            self._check_again(cursor, [getattr(node, "name", type(node).__name__), what])

    def _check_own_sleep(self, cursor: Cursor, position: int, node: Sleep) -> None:
        step = (cursor.run_id, position)
        if not node.us or step in self._own_ended or self.asked.has_another_past(cursor.run_id):
            return  # one of no time ends at once, and a replay may come after the clock was set back
        self._own_ended[step] = Known(self._disk.commits, None)
        asked = self._asked_at.get(step)
        if asked is None or asked.what[1] != self._clock.jumps:
            return
        if self._now_us() < cursor.own_sleeps[position] + node.us:
            raise Violation(f"early: asyncio.sleep {-position} of run {cursor.run_id!r} is too short (I7, I-21)")

    def _check_outcome(self, cursor: Cursor, position: int, node: Leaf, what: str) -> None:
        run_id = cursor.run_id
        rows = self._disk.query(_OUTCOME, position, run_id)
        if not rows and (run_id in self.asked.forking or self._was_deleted(run_id)):
            return  # it is looked at before it is written, or was deleted since it was read for a look
        if not rows or rows[0][1] not in ("succeeded", "failed"):
            raise Violation(f"durable: run {run_id!r} sees {what} of step {position} before it is on disk (I-10)")
        [(seq, status, wake_at, attempts, ended_at)] = rows
        if seq <= cursor.newest:
            raise Violation(f"order: run {run_id!r} sees the outcome of step {position} after a later one (I-32)")
        cursor.newest, cursor.now_us = seq, ended_at
        if self.asked.is_elsewhere(run_id, position):
            return
        where = f"step {position} of run {run_id!r}"
        # A wait that had its signal at once has no time.
        if isinstance(node, Sleep | Wait) and None not in (node.us, wake_at) and not self.asked.has_other_code(run_id):
            self._check_time(where, (run_id, position), node.us or 0, wake_at)
        if isinstance(node, Do):
            self.bodies.check_outcome(node, where, (run_id, position, attempts), status, what)
        else:
            self.given.check(node, where, (run_id, position), status, what, ended_at)

    def _was_deleted(self, run_id: str) -> bool:
        return self.asked.is_gone(run_id) and not self._disk.query(_IS_THERE, run_id)

    def _check_time(self, where: str, step: tuple[str, int], lasts_us: int, wake_at: int) -> None:
        """It is as long as it was asked for. From a jump of the clock on it counts from when it was written."""
        asked = self._asked_at.get(step)
        since_us = asked.what[0] if asked is not None and asked.what[1] == self._clock.jumps else 0
        if wake_at < since_us + lasts_us:
            raise Violation(f"early: {where} is shorter than asked for (I7, I-21)")

    def _is_known(self, run_id: str, position: int) -> bool:
        """Whether the step is on disk; a fork may have it from the run that it is made from before it is there."""
        run_is_there = bool(self._disk.query(_IS_THERE, run_id))
        return bool(self._disk.query(_OUTCOME, position, run_id)) or (run_id in self.asked.forking and not run_is_there)

    def _check_again(self, cursor: Cursor, what: Any) -> None:
        run_id, place = cursor.run_id, cursor.place
        seen = self.seen.setdefault(run_id, {})
        cursor.place += 1
        if place not in seen:
            seen[place] = Known(self._disk.commits, what)
            self.counts["seen"] += 1
        elif seen[place].what != what:
            raise Violation(
                f"replay: run {run_id!r} saw {seen[place].what!r} as number {place}, then {what!r} (I4, I10)"
            )
        else:
            self.counts["seen again"] += 1

    # What callers know

    def started(self, run_id: str) -> None:
        """`start` has returned."""
        self.starts.setdefault(run_id, self._disk.commits)

    def accepts(self, run_id: str, name: str) -> None:
        """`signal` or `approve` has returned."""
        self.sent.append(Known(self._disk.commits, (run_id, name)))

    def wants_cancelled(self, run_id: str) -> TakeBack:
        """`cancel` is called, by somebody or by the workflow itself."""
        return counted(self.asked.unwanted, run_id)

    def has_cancelled(self, run_id: str) -> None:
        """`cancel` has returned."""
        self.asked.cancelled[run_id] = self._disk.commits

    def is_retried(self, run_id: str) -> TakeBack:
        """`retry` is called: the run, and what failed below it, go on from an earlier point."""
        take_back = counted(self.asked.retried, run_id)
        known = {one: None for one in [*self.finals, *self.seen] if is_among(one, [run_id])}
        return partial(self._take_back, take_back, self._forget([*known]))

    def takes_code(self, run_id: str) -> TakeBack:
        """Changed code is accepted: what follows is another history."""
        take_back = counted(self.asked.accepted, run_id)
        return partial(self._take_back, take_back, self._forget([run_id]))

    def _take_back(self, take_back: TakeBack, forgotten: Iterable[Forgotten]) -> None:
        take_back()
        for one in forgotten:
            if one.times == self._forgotten[one.run_id] and not self.asked.may_have_changed(one.run_id):
                self._remember(one)

    def _forget(self, runs: list[str]) -> list[Forgotten]:
        self._forgotten.update(runs)
        return [
            Forgotten(
                run_id,
                self._forgotten[run_id],
                self.finals.pop(run_id, None),
                self.seen.pop(run_id, {}),
                self.bodies.forget(run_id),
            )
            for run_id in runs
        ]

    def _remember(self, one: Forgotten) -> None:
        """Nothing was done, and nobody else has done anything: what was, is."""
        if one.final is not None:
            self.finals[one.run_id] = one.final
        self.seen[one.run_id] = {**self.seen.get(one.run_id, {}), **one.seen}
        self.bodies.remember(one.begun)

    def deletes(self, run_id: str) -> TakeBack:
        """`delete_run` or `prune` may take the run away, and all below it."""
        return counted(self.asked.gone, run_id)

    def writes(self, batch: Iterable[Sequence[Op]]) -> None:
        """A batch is about to be written.

        What `prune` deletes may have ended after it was asked for: long ago, by a clock that was set back meanwhile.
        """
        for ops in batch:
            self._check_family(ops)
        deleted = [op.columns[0] for op in chain.from_iterable(batch) if op.kind is Kind.DELETE] if self.prunes else ()
        for number in deleted:
            for (run_id,) in self._disk.query("SELECT run_id FROM pikkupy_runs WHERE number = ?", number):
                self.deletes(run_id)

    def _check_family(self, ops: Sequence[Op]) -> None:
        """What belongs together is of one run, and of those above and below it."""
        new = {op.columns[0]: op.columns[1] for op in ops if op.kind in (Kind.RUN, Kind.STARTED)}
        some = [op for op in ops if op.kind not in _ALL]
        numbers = {op.columns[0] >> OWN_BITS if op.kind in _KEYED else op.columns[0] for op in some}
        runs = [new.get(number) or self._run_id(number) for number in numbers]
        families = {run_id.split("/", 1)[0] for run_id in runs if run_id is not None}
        if len(families) > 1:
            raise Violation(f"apart: {', '.join(sorted(families))} change in one piece (I-36)")

    def _run_id(self, number: int) -> str | None:
        rows = self._disk.query("SELECT run_id FROM pikkupy_runs WHERE number = ?", number)
        return rows[0][0] if rows else None

    def has_deleted(self, run_id: str) -> None:
        """`delete_run` has returned."""
        self.deleted[run_id] = self._disk.commits

    def told(self, run_id: str, status: str, value: str) -> None:
        """`result` has returned `value`, or raised: the run has that status on disk."""
        rows = self._disk.query("SELECT status, output, error FROM pikkupy_runs WHERE run_id = ?", run_id)
        if run_id in self.asked.retried or (not rows and self.asked.is_gone(run_id)):
            return
        if not rows or rows[0][0] != status:
            raise Violation(f"told: the caller of run {run_id!r} was told {status}, on disk is {rows} (I5, I-48)")
        if status == "completed" and value not in self.given.returned.get(run_id, ()):
            raise Violation(f"value: the caller of run {run_id!r} was told {value}, which it has not returned (I-5)")
        self.finals.setdefault(run_id, Known(self._disk.commits, rows[0]))

    # Lives

    def restored(self, commits: int) -> None:
        """The process has died, and the disk is what it was after so many commits."""
        self.prunes = 0
        self.bodies.restored(commits)
        self.given.restored(commits)
        for known in (self.starts, self.asked.cancelled, self.deleted):
            for run_id in [run_id for run_id, at in known.items() if at > commits]:
                del known[run_id]
        self.sent = [signal for signal in self.sent if signal.commits <= commits]
        for seen in self.seen.values():
            for place in [place for place, one in seen.items() if one.commits > commits]:
                del seen[place]
        self.finals = {run_id: known for run_id, known in self.finals.items() if known.commits <= commits}
        self._asked_at = {
            key: known
            for key, known in self._asked_at.items()
            if known.commits <= commits and (key[1] < 0 or self._is_known(*key))
        }
        self._own_ended = {key: known for key, known in self._own_ended.items() if known.commits <= commits}

    def check_forked(self, source: str, fork: str, position: int, overrides: dict[str, Any]) -> None:
        """What a fork shares with the run that it was made from is the same, but for the overrides.

        Where that one has no outcome, there is nothing to share: the fork has come to the step itself, perhaps by now.
        """
        if not self._disk.query(_IS_THERE, source):
            return  # it was deleted since then
        theirs = {name: rest for name, *rest in self._disk.query(_SHARED, source, position)}
        theirs |= {name: ["succeeded", json.dumps(value), None] for name, value in overrides.items()}
        for name, *rest in self._disk.query(_SHARED, fork, position):
            wanted = theirs.get(name, rest)
            if rest != wanted and source not in self.asked.accepted | self.asked.retried:
                raise Violation(f"fork: step {name!r} of {fork!r} is {rest}, and not {wanted}")
