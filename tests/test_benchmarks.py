"""The benchmarks run, with tiny numbers, and tell what they say they tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

ABOUT = {"machine", "python", "sqlite", "pikkupy", "aiosqlite", "msgspec", "pragmas", "write_and_sync_us"}

# By file: options, what `about` says beside the surroundings, the questions and the fields of each line.
BENCHMARKS: dict[str, tuple[list[str], set[str], list[str | None], set[str]]] = {
    "steps_per_second": (
        ["--steps", "5", "--runs", "2", "--repeat", "1"],
        {"repeat", "peak_memory_mb"},
        [
            name
            for name in ("1 run of 5 steps", "2 runs of 5 steps", "bare sqlite3, 5 commits")
            for _ in ("full", "process")
        ],
        {"question", "durability", "steps", "steps_per_s", "least", "greatest", "p50_ms", "p99_ms"},
    ),
    "replay": (
        ["--steps", "5", "50", "--concurrent", "20", "--repeat", "2"],
        {"repeat", "open_without_history_ms", "memory_mb"},
        ["replayed", "replayed", "at once, live", "at once, replayed"],
        {"question", "steps", "seconds", "least", "greatest", "us_per_step", "growth_per_tenfold"},
    ),
    "memory": (
        ["--runs", "50", "--asleep", "10", "--samples", "2", "--settle", "0"],
        {"mb_per_100_000_runs", "objects_per_100_000_runs", "within_limit", "bytes_per_sleeping_run"},
        ["ended", "ended", "ended", "asleep"],
        {"question", "runs", "rss_mb", "gc_objects", "tasks", "open_files", "runs_per_s"},
    ),
    "sleepers": (
        ["--runs", "20", "--wake-rate", "20", "--wake-for", "1", "--lead", "1", "--settle", "0"],
        {"durability", "callers", "wake_rate", "wake_for_s"},
        [None],
        {
            *("runs", "starts_per_s", "rss_mb", "bytes_per_run", "file_mb", "open_s", "open_rss_mb"),
            *("late_p50_ms", "late_p99_ms", "late_max_ms"),
        },
    ),
    "compare": (
        [
            *("--only", "sqlite3", "aiosqlite", "--sizes", "tiny", "--repeat", "1"),
            *("--questions", "sequential", "sleepers", "recovery", "replay"),
        ],
        {"repeat", "limit_s", "peers"},
        [
            name
            for name in ("sequential", "late_p50", "late_p99", "recovery", "replay")
            for _ in ("pikkupy", "pikkupy-process", "sqlite3", "aiosqlite")
        ],
        {
            *("question", "size", "system", "durability", "unit"),
            *("median", "least", "greatest", "times_as_fast", "note"),
        },
    ),
}


def run(name: str, options: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "benchmarks" / f"{name}.py"), *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(folder.iterdir()) == []  # it cleans up
    return done.stdout


def test_every_benchmark_is_run_here_and_named_in_the_readme() -> None:
    """One that nobody runs would rot."""
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"_common"}

    assert files == set(BENCHMARKS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"python benchmarks/{name}.py" in readme for name in files)


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_benchmark_tells_what_it_has_found(name: str, tmp_path: Path) -> None:
    """As one JSON document with its surroundings."""
    options, about, questions, fields = BENCHMARKS[name]
    document: dict[str, Any] = json.loads(run(name, [*options, "--json"], tmp_path))

    assert set(document["about"]) == ABOUT | about
    assert [line.get("question") for line in document["lines"]] == questions
    assert all(set(line) == fields for line in document["lines"])


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_without_json_it_prints_a_table(tmp_path: Path) -> None:
    """With a heading over each column and a row for each line."""
    options, _, questions, _ = BENCHMARKS["memory"]
    heading, *rows = run("memory", options, tmp_path).split("\n\n")[1].splitlines()

    assert heading.split() == ["question", "runs", "rss", "mb", "gc", "objects", "tasks", "open", "files", "runs/s"]
    assert len(rows) == len(questions)
