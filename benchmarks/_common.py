"""What the benchmarks share: where they run, how they show that they are at work, and how they tell what they found."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import msgspec


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


def rss_mb() -> float:
    """Memory of this process that is in RAM now, megabytes; Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Of values in order."""
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


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
    """A parser that shows the benchmark's docstring and knows `--json`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
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
