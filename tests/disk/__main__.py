"""Break the disk in every way, and look at what the engine makes of it.

    python -m tests.disk [--images N] [--durability full|process|both] [--lying N] [--errors [--n MAX]] [--flips N]
                         [--kills [--points N]] [--writer thread|loop|both] [--seed S] [--jobs J] [--json]

Without a choice, all of it in the long form: 1,000,000 images of losses of power in `full`, 250,000 in `process` and
20,000 of an event loop that writes, 20,000 of a disk that ignores syncs, an error at every operation, 10,000 flips and
cuts, a kill before every operation. One image in ten of `process` is of lives with as few checkpoints as in production,
and so may go back further. A loop writes in `process` alone; errors and kills of a thread are in `full`.
The same seed gives the same. How far it is, is told on standard error; the last lines are a table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator

from tests.disk import errors, flips, kills, power
from tests.disk.life import FULL, LOOP, PROCESS, Way
from tests.disk.parallel import Result
from tests.disk.recording import recorded

LONG = {FULL: 1_000_000, PROCESS: 250_000, LOOP: 20_000}
LONG_LYING, LONG_FLIPS = 20_000, 10_000
FAR_SHARE = 10  # one image in so many of `process` is of a life that is rarely checkpointed


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with the long form for none."""
    parser = argparse.ArgumentParser(prog="python -m tests.disk", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, help="losses of power, in each durability")
    parser.add_argument("--durability", choices=["full", "process", "both"], default="both")
    parser.add_argument("--lying", type=int, help="losses of power of a disk that ignores syncs")
    parser.add_argument("--errors", action="store_true", help="the n-th operation of each kind fails, for all n")
    parser.add_argument("--n", type=int, help="for n up to that; of the reads a share of them")
    parser.add_argument("--flips", type=int, help="bits that flip, and cuts")
    parser.add_argument("--kills", action="store_true", help="a kill before each operation")
    parser.add_argument("--points", type=int, help="before so many operations only")
    parser.add_argument("--writer", choices=["thread", "loop", "both"], help="of lives (thread; of all: both)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    options = parser.parse_args(arguments)
    chosen = (options.images, options.lying, options.flips)
    options.all = not (options.errors or options.kills or any(number is not None for number in chosen))
    options.writer = options.writer or ("both" if options.all else "thread")
    if options.writer == "loop" and options.durability == "full":
        parser.error("--writer loop goes with --durability process alone")
    return options


def parts(options: argparse.Namespace) -> Iterator[tuple[str, Result]]:
    """One result after another, each with its name."""
    seed, jobs = options.seed, options.jobs
    for way, images in _losses(options):
        with recorded(way) as recording:
            yield f"power, {way}", power.explore(recording, seed, images, jobs)
    lying = LONG_LYING if options.all else options.lying
    if lying:
        with recorded(FULL) as recording:
            yield "power, syncs ignored", power.explore(recording, seed, lying, jobs, honest=False)
    writers = [way for way in (FULL, LOOP) if options.writer in {way.writer, "both"}]
    for way in writers if options.all or options.errors else ():
        yield f"errors, {way}", errors.loop(options.n, jobs, way)
    spoiled = LONG_FLIPS if options.all else options.flips
    if spoiled:
        with recorded(FULL) as recording:
            yield "flips", flips.explore(recording, seed, spoiled, jobs)
    for way in writers if options.all or options.kills else ():
        yield f"kills, {way}", kills.explore(options.points, seed, jobs, way)


def _losses(options: argparse.Namespace) -> Iterator[tuple[Way, int]]:
    """How the lives are led of which there are images, and how many images."""
    for way, long in LONG.items():
        images = long if options.all else options.images or 0
        wanted = options.durability in {way.durability, "both"} and options.writer in {way.writer, "both"}
        far = images // FAR_SHARE if way.durability == "process" else 0
        for chosen, count in ((way, images - far), (way.rarely_checkpointed, far)):
            if wanted and count:
                yield chosen, count


def main(arguments: list[str] | None = None) -> int:
    """0 if nothing was wrong."""
    options = parsed(arguments)
    found: dict[str, Result] = {}
    for name, result in parts(options):
        found[name] = result
        for wrong in result.wrong[:20]:
            sys.stderr.write(f"{name}: {wrong}\n")
    print(_document(found) if options.json else _table(found))
    return 1 if any(result.wrong for result in found.values()) else 0


def _document(found: dict[str, Result]) -> str:
    return json.dumps({name: {"counts": result.counts, "wrong": result.wrong} for name, result in found.items()})


def _table(found: dict[str, Result]) -> str:
    rows = []
    for name, result in found.items():
        rows.append(f"{name:44}{len(result.wrong):>10,} wrong")
        rows += [f"{'':44}{count:>10,} {what}" for what, count in result.counts.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
