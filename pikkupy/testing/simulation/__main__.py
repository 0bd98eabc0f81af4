"""Simulate crashes until there were enough of them, and say what was found.

    python -m pikkupy.testing.simulation [--crashes N] [--seed S] [--jobs J] [--json]
    python -m pikkupy.testing.simulation --only SEED

Each history has a seed of its own, counted from `--seed`; the same seed gives the same history. A history that breaks
a promise is told in one line that repeats it, and again as the smallest scenario that breaks the same promise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from select import select
from typing import IO

import msgspec

from pikkupy.clock import monotonic_s
from pikkupy.testing.simulation.history import Report
from pikkupy.testing.simulation.phases import PHASES, is_possible
from pikkupy.testing.simulation.scenario import FAULTS, draw
from pikkupy.testing.simulation.shrink import lived, shrink

COMMAND = [sys.executable, "-m", "pikkupy.testing.simulation"]
LONGEST_S = 120.0  # of one history; a few hundredths of a second are usual
LOOK_S = 1.0  # between two looks whether one takes longer
CHUNK = 200  # histories that one process is asked for at a time
VERSION = version("pikkupy")
BAR_S, LINE_S = 0.2, 10.0  # between two looks at how far it is


class Line(msgspec.Struct):
    """What a process says of one history."""

    seed: int
    report: Report | None = None
    violation: str | None = None


def main(arguments: list[str] | None = None) -> int:
    """0 if no promise was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m pikkupy.testing.simulation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--crashes", type=_at_least_one, default=1_000, help="simulated crashes (1000)")
    parser.add_argument("--seed", type=int, help="of the first history (another one each time)")
    parser.add_argument("--jobs", type=_at_least_one, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument(
        "--only", type=int, metavar="SEED", help="one history: its trace, or the promise that it breaks"
    )
    parser.add_argument("--histories", type=int, help=argparse.SUPPRESS)  # what this process is to do for another one
    options = parser.parse_args(arguments)
    logging.getLogger("pikkupy").setLevel(logging.CRITICAL + 1)
    if options.only is not None:
        return _only(options.only)
    first = int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed
    if options.histories is not None:
        return _work(first, options.histories)
    return _all(first, options.crashes, options.jobs, as_json=options.json)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: use a whole number of 1 or more")
    return int(text)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def one(seed: int) -> Line:
    """Run the history of that seed."""
    came = lived(draw(seed))
    return Line(seed, violation=came) if isinstance(came, str) else Line(seed, came)


def _work(first: int, histories: int) -> int:
    for seed in range(first, first + histories):
        _say(msgspec.json.encode(one(seed)).decode())
    return 0


def _only(seed: int) -> int:
    line = one(seed)
    if line.report is not None:
        _say(f"seed {seed}: {line.report.crashes} crashes, {line.report.lives} lives, trace {line.report.trace}")
        return 0
    _say(f"seed {seed}: {line.violation}")
    smallest = shrink(draw(seed), str(line.violation).split(":", 1)[0])
    _say("smallest scenario that breaks the same promise:")
    _say(msgspec.json.format(msgspec.json.encode(smallest)).decode())
    return 1


def _all(first: int, crashes: int, jobs: int, *, as_json: bool) -> int:
    progress, total = Progress(crashes), Totals()
    for line in _lines(first, jobs, lambda: total.crashes >= crashes):
        total.add(line)
        if line.violation is not None:
            progress.clear()
            sys.stderr.write(f"{line.violation}\n  {_again(line.seed)}\n")
        progress.tell(total.crashes)
    progress.clear()
    _say(total.document(first, progress.took_s) if as_json else total.table(first, progress.took_s))
    return 1 if total.violations else 0


def _again(seed: int) -> str:
    return f"repeat it: python -m pikkupy.testing.simulation --only {seed}  # pikkupy {VERSION}, code {_code()}"


def _code() -> str:
    """The beginning of a SHA-256 of the package's sources: another code has other histories."""
    package = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _lines(first: int, jobs: int, enough: Callable[[], bool]) -> Iterator[Line]:
    """What processes say of histories, until there are enough; those under way then are waited for."""
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker()) for _ in range(jobs)]
        while not enough():
            for worker in workers:
                if worker.is_idle:
                    worker.ask(first, CHUNK)
                    first += CHUNK
            yield from _said(workers)
        waiting = {worker: worker.left for worker in workers if not worker.is_idle}
        while waiting := {worker: left for worker, left in waiting.items() if worker.left == left}:
            yield from _said(list(waiting))


def _said(workers: Sequence[_Worker]) -> Iterator[Line]:
    """The next history of each that has ended one, or is late."""
    ready, _, _ = select([worker.output for worker in workers], [], [], LOOK_S)
    for worker in workers:
        if worker.output in ready:
            yield worker.line()
        elif worker.late:
            yield worker.give_up()


class _Worker:
    """A process that runs histories."""

    def __init__(self) -> None:
        self.left = 0  # histories
        self._process: subprocess.Popen[bytes] | None = None
        self._seed = 0  # of the one under way
        self._since_s = 0.0

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def is_idle(self) -> bool:
        return self.left == 0

    @property
    def output(self) -> IO[bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def late(self) -> bool:
        """Whether the history under way takes too long to end at all."""
        return monotonic_s() - self._since_s > LONGEST_S

    def ask(self, first: int, histories: int) -> None:
        """Run the next histories."""
        self._end()
        command = [*COMMAND, "--seed", str(first), "--histories", str(histories)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)  # noqa: S603 - ourselves
        self.left, self._seed, self._since_s = histories, first, monotonic_s()

    def line(self) -> Line:
        """The history that has ended."""
        text = self.output.readline()
        if not text:
            raise SystemExit("a process of the simulation has died; its last words are above")
        self.left, self._seed, self._since_s = self.left - 1, self._seed + 1, monotonic_s()
        return msgspec.json.decode(text, type=Line)

    def give_up(self) -> Line:
        """Go on behind the history under way."""
        hung = Line(self._seed, violation=f"hang: the history has not ended within {LONGEST_S:g} s")
        self.ask(self._seed + 1, self.left - 1)
        return hung

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


class Totals:
    """What all histories came to."""

    def __init__(self) -> None:
        self.histories = self.crashes = self.lives = 0
        self.violations: list[Line] = []
        self.cells: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def add(self, line: Line) -> None:
        """One more history."""
        self.histories += 1
        if line.report is None:
            self.violations.append(line)
            return
        self.crashes += line.report.crashes
        self.lives += line.report.lives
        self.cells.update(line.report.cells)
        self.counts.update(line.report.counts)

    @property
    def missed(self) -> list[str]:
        """Cells that can be hit, and were not."""
        cells = [f"{what} in {phase}" for what in FAULTS for phase in PHASES if is_possible(what, phase)]
        return [cell for cell in cells if not self.cells[cell]]

    def table(self, first: int, took_s: float) -> str:
        """For people: what the engine was doing, by fault."""
        head = f"{'':12}" + "".join(f"{what:>10}" for what in FAULTS)
        rows = [f"{phase:12}" + "".join(f"{self._cell(what, phase):>10}" for what in FAULTS) for phase in PHASES]
        struck = self.counts["struck"]
        said = (
            f"{self.histories:,} histories from seed {first} (version {VERSION}), {self.lives:,} lives, "
            f"{struck:,} faults ({struck / max(self.histories, 1):.1f} a history), {self.counts['bodies']:,} step "
            f"bodies, {self.counts['seen again']:,} values seen again: {self.crashes:,} crashes, "
            f"{self.counts['idle crashes']:,} of them while nothing was under way, in {took_s:,.0f} s "
            f"({self.crashes / max(took_s, 1e-9):,.0f}/s), {len(self.violations)} violations"
        )
        notes = ["-: cannot happen. A fault counts in each line that it meets."]
        if self.missed:
            notes.append(f"0: {len(self.missed)} that can happen have not; 20,000 crashes have met all.")
        return "\n".join([head, *rows, *notes, "", said])

    def _cell(self, what: str, phase: str) -> str:
        return f"{self.cells[f'{what} in {phase}']:,}" if is_possible(what, phase) else "-"

    def document(self, first: int, took_s: float) -> str:
        """For machines."""
        cells = {
            what: {phase: self.cells[f"{what} in {phase}"] for phase in PHASES if is_possible(what, phase)}
            for what in FAULTS
        }
        counts = {"histories": self.histories, "lives": self.lives, "crashes": self.crashes, **self.counts}
        broken = [{"seed": line.seed, "violation": line.violation} for line in self.violations]
        about = {"version": VERSION, "seed": first, "seconds": took_s, **counts}
        return json.dumps({**about, "violations": broken, "missed": self.missed, "faults": cells})


class Progress:
    """Says how far it is: a bar on a terminal, a line now and then otherwise."""

    def __init__(self, crashes: int) -> None:
        self._crashes = crashes
        self._begun_s = monotonic_s()
        self._said_s = self._begun_s
        self._is_terminal = sys.stderr.isatty()

    @property
    def took_s(self) -> float:
        """Since the beginning."""
        return monotonic_s() - self._begun_s

    def tell(self, done: int) -> None:
        """So many crashes were simulated."""
        now_s = monotonic_s()
        if now_s - self._said_s < (BAR_S if self._is_terminal else LINE_S):
            return
        self._said_s = now_s
        rate = max(done, 1) / self.took_s
        text = (
            f"{done:,} of {self._crashes:,} crashes, {rate:,.0f}/s, {max(0, self._crashes - done) / rate:,.0f} s to go"
        )
        if self._is_terminal:
            bar = "#" * min(30, 30 * done // max(self._crashes, 1))
            text = f"\r[{bar:30}] {text}\x1b[K"
        sys.stderr.write(text if self._is_terminal else f"{text}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Make room for something else."""
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")


if __name__ == "__main__":
    sys.exit(main())
