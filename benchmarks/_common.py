"""What the benchmarks share: where they run, how they show that they are at work, and how they tell what they found."""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, TypeVar

import aiosqlite
import msgspec

Durability = Literal["full", "process"]
Setting = TypeVar("Setting", bound=msgspec.Struct)
Measured = TypeVar("Measured")

BATCH = 1_000  # runs that are begun at once where many are needed

DURABILITIES: tuple[Durability, ...] = ("full", "process")
SYNCHRONOUS: dict[Durability, str] = {"full": "FULL", "process": "NORMAL"}


@contextmanager
def new_file() -> Iterator[Path]:
    """The path of a journal that does not exist yet, on the disk of the working directory."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        gc.collect()
        yield Path(folder, "b.db")


class Progress:
    """One line on a terminal that says what is being measured; nothing if stderr is none."""

    def __enter__(self) -> Progress:
        return self

    def tell(self, what: str) -> None:
        """It is at `what` now."""
        if sys.stderr.isatty():
            print(f"\r{what}".ljust(70), end="", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if sys.stderr.isatty():
            print("\r".ljust(71), end="\r", file=sys.stderr, flush=True)


def alternate(
    settings: Sequence[Setting], measure: Callable[[Setting, Path], Measured], repeat: int
) -> dict[Setting, list[Measured]]:
    """What each setting gives, `repeat` times, each time on a new file.

    They take turns, so that a machine that slows down slows all of them.
    """
    found: dict[Setting, list[Measured]] = {setting: [] for setting in settings}
    with Progress() as progress:
        for turn in range(repeat):
            for setting in settings:
                words = (_shown(value) for value in msgspec.structs.astuple(setting))
                progress.tell(f"{turn + 1}/{repeat} {', '.join(filter(None, words))}")
                with new_file() as path:
                    found[setting].append(measure(setting, path))
    return found


async def in_batches(runs: range, begin: Callable[[int], Awaitable[object]]) -> None:
    """Begin a run for each number, 1,000 at once; the next when these are done."""
    for first in range(runs.start, runs.stop, BATCH):
        await asyncio.gather(*(begin(number) for number in range(first, min(first + BATCH, runs.stop))))


class Spread(NamedTuple):
    """The median of several measurements, with the least and the greatest."""

    median: float
    least: float
    greatest: float


def spread(values: Sequence[float], digits: int) -> Spread:
    """Of at least one value; rounded."""
    figures = statistics.median(values), min(values), max(values)
    return Spread(*(round(figure, digits) for figure in figures))


def median(values: Sequence[float | None], digits: int) -> float | None:
    """Of those that were measured, rounded; None if none was."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), digits) if known else None


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Of values in order."""
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def per_tenfold(smaller: tuple[float, float], greater: tuple[float, float]) -> float | None:
    """By what a cost grows when the size grows by ten, from two pairs of size and cost; None for one size."""
    if smaller[0] == greater[0]:
        return None
    return round(10 ** (math.log(greater[1] / smaller[1]) / math.log(greater[0] / smaller[0])), 2)


def rss_mb() -> float:
    """Memory of this process that is in RAM now, megabytes; Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """The most memory of this process that was in RAM so far, megabytes; Linux only."""
    # Not `ru_maxrss`: Linux lets it begin with the peak of the process that has started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6, 1)


def child_command(script: str, order: msgspec.Struct) -> list[str]:
    """The command that lets a process of its own carry out `order`, which the script's `main` finds in `--child`."""
    warnings = (f"-W{option}" for option in sys.warnoptions)
    return [sys.executable, *warnings, script, "--child", msgspec.json.encode(order).decode()]


def answer_of(command: Sequence[str], kind: type[Measured]) -> Measured:
    """What the process has printed, as JSON."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(done.stdout, type=kind)


def answer(value: msgspec.Struct | Sequence[msgspec.Struct]) -> None:
    """Print what `answer_of` reads."""
    print(msgspec.json.encode(value).decode(), flush=True)


@contextmanager
def bare_sqlite(path: Path, durability: Durability) -> Iterator[sqlite3.Connection]:
    """A connection to a new file with the engine's pragmas and a bare table of steps; each statement is a commit."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={SYNCHRONOUS[durability]}")
        db.execute("CREATE TABLE steps (run INTEGER, position INTEGER, output TEXT, PRIMARY KEY (run, position))")
        yield db


@asynccontextmanager
async def bare_aiosqlite(path: Path, durability: Durability) -> AsyncIterator[aiosqlite.Connection]:
    """The same on a thread of its own: each `await` is a hop there and back."""
    with bare_sqlite(path, durability):
        pass
    async with aiosqlite.connect(path, isolation_level=None) as db:
        await db.execute(f"PRAGMA synchronous={SYNCHRONOUS[durability]}")
        yield db


def sync_us() -> float:
    """The median of a 4 KiB write with fdatasync here, microseconds: what `full` has to wait for."""
    with tempfile.NamedTemporaryFile(dir=Path.cwd()) as file:
        times = []
        for _ in range(200):
            begun = time.perf_counter()
            os.pwrite(file.fileno(), b"x" * 4096, 0)
            getattr(os, "fdatasync", os.fsync)(file.fileno())
            times.append(time.perf_counter() - begun)
    return round(1e6 * statistics.median(times), 1)


def surroundings() -> dict[str, object]:
    """What has to be known to compare the figures with others."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in ("pikkupy", "aiosqlite", "msgspec")},
        "pragmas": "journal_mode=WAL, synchronous=FULL (full) or NORMAL (process)",
        "write_and_sync_us": sync_us(),
    }


def parser_for(doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows the benchmark's docstring and knows `--json`, and `--child` of `child_command`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def report(about: dict[str, object], lines: Sequence[msgspec.Struct], *, as_json: bool) -> None:
    """Print what was found: a table for people, or a document with `about` and `lines`."""
    if as_json:
        document = {"about": about, "lines": msgspec.to_builtins(lines)}
        print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return
    for name, value in about.items():
        print(f"{name}: {value}")
    print()
    rows = [[field.replace("_per_", "/").replace("_", " ") for field in lines[0].__struct_fields__]]
    rows += [[_shown(value) for value in msgspec.structs.astuple(line)] for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *figures in rows:
        cells = [name.ljust(widths[0]), *(map(str.rjust, figures, widths[1:]))]
        print("  ".join(cells).rstrip())


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
        case _:
            return str(value)
