"""Kill real processes at named places and at random instants, and look for anything that is lost, repeated or wrong.

    python -m tests.crash [--long] [--kills N] [--pairs N] [--seed S] [--jobs N] [--json]
    python -m tests.crash --failpoints

A life is killed at each failpoint, in one mode of the engine; then the recovery from that is killed at another one, in
so many pairs that are drawn, or in all (`--pairs all`): for each kill at each failpoint that the recovery passes. Then
lives are killed at random instants, told to end, interrupted, stopped, robbed of a worker process. Every case goes on
until a life comes to its end; after each life the file is compared with a ledger outside the database. A line per
violation, whose files stay; the exit code is 1 if there is one, or if a failpoint was not reached. `--long` is all
pairs (each failpoint at its first passing, in one mode) and 10,000 kills by SIGKILL at random instants.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from tests.crash.bench import Bench, Job
from tests.crash.cases import Outcome, Undisturbed, at_failpoint, at_random, kills_of, total, undisturbed
from tests.crash.failpoints import FAILPOINTS
from tests.crash.lives import MODES, Mode

ALL = "all"
KILLS, PAIRS = 200, 40  # what is done if nothing else is said
LONG_KILLS = 10_000
SHARE_WITH_WORKERS = 10  # one random case of so many has worker processes, which take long to start
LOOKS = 5  # more lives of each mode at most, until every failpoint was passed
MOST_LINES = 20  # of what is wrong


class Report(msgspec.Struct):
    """What `--json` prints."""

    seed: int
    seconds: float
    kills: int
    outcome: Outcome
    unreached: list[str]


def failpoint_cases(known: dict[Mode, Undisturbed], seed: int, pairs: int | None) -> Iterator[Job]:
    """One for each failpoint; in worker processes only for what is passed nowhere else."""
    rng = random.Random(seed)
    modes = {name: [mode for mode in known if name in known[mode].passed] for name in FAILPOINTS}
    names = [name for name, passing in modes.items() if passing]
    rng.shuffle(names)
    for number, name in enumerate(names):
        mode = rng.choice([mode for mode in modes[name] if mode != "processes"] or modes[name])
        own_pairs = None if pairs is None else pairs // len(names) + (number < pairs % len(names))
        yield partial(at_failpoint, mode=mode, failpoint=name, seed=seed, alone=known[mode], pairs=own_pairs)


def random_cases(known: dict[Mode, Undisturbed], seed: int, kills: int) -> Iterator[Job]:
    """Enough of them for so many kills."""
    rng = random.Random(seed)
    for number in range(kills):
        mode: Mode = "processes" if number % SHARE_WITH_WORKERS == 0 else rng.choice(["resident", "unloading"])
        yield partial(at_random, mode=mode, seed=rng.getrandbits(32), alone=known[mode])


def undisturbed_lives(root: Path) -> dict[Mode, Undisturbed]:
    """One of each mode, and more until together they have passed every failpoint: what is passed depends on time."""
    known: dict[Mode, Undisturbed] = {mode: undisturbed(root / mode, mode) for mode in MODES}
    for again in range(LOOKS):
        if FAILPOINTS.keys() <= set[str]().union(*(one.passed for one in known.values())):
            break
        for mode, one in known.items():
            other = undisturbed(root / f"{mode} again {again}", mode)
            known[mode] = one._replace(passed=one.passed | other.passed)
    return known


def examine(root: Path, options: argparse.Namespace) -> Report:
    """Everything that was asked for."""
    begun = time.monotonic()
    bench = Bench(root, options.jobs, show=not options.json)
    known = undisturbed_lives(root)
    outcomes = bench.do("failpoints", list(failpoint_cases(known, options.seed, options.pairs)), lambda done: False)
    outcomes += bench.do(
        "random instants",
        list(random_cases(known, options.seed, options.kills)),
        lambda done: sum(map(kills_of, done)) >= options.kills,
    )
    whole = total(outcomes)
    unreached = sorted(FAILPOINTS.keys() - whole.kills.keys() - whole.recoveries.keys())
    return Report(options.seed, round(time.monotonic() - begun, 1), kills_of(whole), whole, unreached)


def show(report: Report) -> None:
    """A table of failpoints, a line of signals, what is wrong."""
    outcome = report.outcome
    print(f"{'failpoint':36}{'kills':>8}{'in a recovery':>16}")
    for name in FAILPOINTS:
        print(f"{name:36}{outcome.kills.get(name, 0):>8}{outcome.recoveries.get(name, 0):>16}")
    signals = {name: count for name, count in outcome.kills.items() if name not in FAILPOINTS}
    print("at random instants: " + ", ".join(f"{name} {count}" for name, count in sorted(signals.items())))
    for violation in outcome.violations[:MOST_LINES]:
        print(f"violation: {violation}")
    for name in report.unreached:
        print(f"never reached: {name}")
    for missed in outcome.missed[:MOST_LINES]:
        print(f"did not happen: {missed}")
    print(
        f"{report.kills} kills by SIGKILL, {outcome.pairs} pairs of failpoints, {outcome.lives} lives, "
        f"seed {report.seed}, {report.seconds} s: {len(outcome.violations)} violations, "
        f"{len(outcome.missed)} kills that did not happen"
    )


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help=f"all pairs and {LONG_KILLS:,} kills at random instants")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how many at random instants ({KILLS})")
    parser.add_argument("--pairs", default=f"{PAIRS}", help=f"how many pairs of failpoints, or {ALL} ({PAIRS})")
    parser.add_argument("--seed", type=int, help="of everything that is drawn; default: another one each time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (as many as cores)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--failpoints", action="store_true", help="print the table of failpoints, and do nothing")
    options = parser.parse_args()
    if options.long:
        options.kills, options.pairs = LONG_KILLS, ALL
    options.pairs = None if options.pairs == ALL else int(options.pairs)
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(3), "big")
    return options


def main() -> int:
    options = asked()
    if options.failpoints:
        for name, what in FAILPOINTS.items():
            print(f"{name:36}{what}")
        return 0
    root = Path(tempfile.mkdtemp(prefix="pikkupy-crash-"))
    report = examine(root, options)
    if options.json:
        print(msgspec.json.encode(report).decode())
    else:
        show(report)
    if report.outcome.violations or report.outcome.missed or report.unreached:
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
