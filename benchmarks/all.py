"""All benchmarks, one after another, each in a process of its own.

    python benchmarks/all.py [--quick] [--only sequential ...] [--json]

`--quick` takes sizes so small that the figures mean nothing: to see that everything works. `--json` gives one document
with that of each benchmark under its name. One that fails, or is beyond its goal, is told at the end, after the others
have run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
from _common import Progress, parser_for, surroundings

# In the order of the questions: their small sizes.
QUICK = {
    "sequential": "--steps 5 --payload 0 10 --repeat 1",
    "throughput": "--runs 4 --steps 2 --payload 10 --repeat 1",
    "start_rate": "--callers 1 4 --seconds 0.02 --repeat 1",
    "pages": "--runs 1000 --payload 100 --large 10 --seconds 0.6 --every 0.01 --repeat 1 --no-goal",
    "rpc": "--calls 5 --kills 1 --repeat 1",
    "signals": "--runs 5 --at-once 10 --repeat 1",
    "busy_loop": "--turns 0.2 --seconds 0.1 --connections 2 --runs 2 --repeat 1",
    "sleepers": "--runs 20 --wake-rate 20 --wake-for 1 --lead 1 --settle 0 --naps 10",
    "recovery": "--runs 10 --steps 2 --repeat 1",
    "replay": "--steps 5 50 --concurrent 20 --repeat 2",
    "growth": "--smallest 2 --largest 20 --repeat 1",
    "memory": "--runs 50 --asleep 10 --parked 10 --samples 2 --settle 0",
    "compare": ("--only sqlite3 aiosqlite --sizes tiny --repeat 1 --questions sequential sleepers recovery replay"),
}

ALONE = [name for name in QUICK if name != "compare"]  # which installs the peers, 1.2 GB of them


def run(name: str, *, quick: bool, as_json: bool) -> subprocess.CompletedProcess[bytes]:
    """One benchmark; its table goes where ours goes, its document into the result."""
    warnings = (f"-W{option}" for option in sys.warnoptions)
    command = [sys.executable, *warnings, str(Path(__file__).with_name(f"{name}.py"))]
    options = [*(QUICK[name].split() if quick else ()), *(["--json"] if as_json else ())]
    return subprocess.run([*command, *options], check=False, stdout=subprocess.PIPE if as_json else None)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that everything works")
    parser.add_argument("--only", nargs="+", choices=QUICK, default=ALONE, help="these benchmarks (all but compare)")
    options = parser.parse_args()
    documents: dict[str, msgspec.Raw] = {}
    failed: list[str] = []
    for number, name in enumerate(options.only, start=1):
        with Progress() as progress:
            progress.tell(f"{number} of {len(options.only)}: {name}")
            if sys.stderr.isatty():
                print(file=sys.stderr)  # the benchmark's own line is below
        if not options.json:
            print(f"== {name}", flush=True)
        done = run(name, quick=options.quick, as_json=options.json)
        if done.returncode != 0:
            failed.append(name)
        if options.json and done.stdout:
            documents[name] = msgspec.Raw(done.stdout)
        elif not options.json and done.returncode == 0:
            print(flush=True)
    if options.json:
        document = msgspec.json.encode({"about": surroundings(), "benchmarks": documents})
        print(msgspec.json.format(document, indent=2).decode())
    if failed:
        raise SystemExit(f"these have failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
