"""Everything that is tried, in its long form: some three hours on two cores, with nothing beside it.

    python -m tests.long [--seed S] [--jobs J] [--only NAME ...] [--small]

A million simulated crashes; 1,270,000 losses of power, an error of the disk at every operation, flips and kills before
every operation; kills at all pairs of failpoints and 10,000 at random instants; all defects. Each tells how far it is,
and what it finds broken, as it does alone. The last lines are a table with the commit; the exit code is 1 if a promise
was broken. `--small` takes a minute, and shows that the command works.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = {
    "simulation": "pikkupy.testing.simulation --crashes 1000000",
    "disk": "tests.disk",
    "kills": "tests.crash --long",
    "defects": "tests.mutants",
}
SMALL = {
    "simulation": "pikkupy.testing.simulation --crashes 200",
    "disk": "tests.disk --images 50 --lying 10 --flips 10 --kills --points 2",
    "kills": "tests.crash --kills 4 --pairs 0",
    "defects": "tests.mutants --list",
}
WITHOUT_SEED = {"defects"}  # nothing of it is drawn


def command_of(part: str, options: argparse.Namespace) -> list[str]:
    """How the part is called."""
    seed = [] if part in WITHOUT_SEED else ["--seed", str(options.seed)]
    words = (SMALL if options.small else PARTS)[part].split()
    return [sys.executable, "-m", *words, *seed, "--jobs", str(options.jobs)]


def commit() -> str:
    """Of the checkout, with a + if something was changed; empty if it is none."""
    described = ["git", "describe", "--always", "--dirty=+"]
    found = subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def main() -> int:
    """0 if no promise was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.long", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seed", type=int, default=int.from_bytes(os.urandom(3), "big"), help="(another one each time)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some of them (all)")
    parser.add_argument("--small", action="store_true", help="sizes that say nothing, to see that it works")
    options = parser.parse_args()
    rows, broken, at = [], False, commit()
    for part in options.only:
        command, begun = command_of(part, options), time.monotonic()
        sys.stdout.write(f"== {part}: python {' '.join(command[1:])}\n")
        sys.stdout.flush()
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        broken = broken or code != 0
        rows.append(f"{part:12}{'held' if code == 0 else f'broken ({code})':14}{time.monotonic() - begun:10,.0f} s")
    today = time.strftime("%Y-%m-%d", time.gmtime())
    sys.stdout.write("\n".join(["", f"{today}, {at or 'no commit'}, seed {options.seed}", *rows, ""]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
