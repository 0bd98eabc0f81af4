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
FOLDER = ROOT / "benchmarks"

ABOUT = {"machine", "python", "sqlite", "pikkupy", "aiosqlite", "msgspec", "pragmas", "write_and_sync_us"}
SPREAD = {"least", "greatest"}

# By file: what `about` says beside the surroundings, the questions in their order, and the fields of each line.
BENCHMARKS: dict[str, tuple[set[str], list[str], set[str]]] = {
    "sequential": (
        {"repeat"},
        ["pikkupy", "pikkupy, on the loop", "bare aiosqlite", "bare sqlite3"],
        {"question", "durability", "payload_bytes", "steps", "steps_per_s", *SPREAD, "p50_ms", "p99_ms"},
    ),
    "throughput": (
        {"repeat", "runs", "steps_per_run", "times_events_were_lost"},
        ["pikkupy", "pikkupy, log to a file", "pikkupy, events are read", "bare sqlite3"],
        {
            *("question", "durability", "payload_bytes", "steps", "steps_per_s", *SPREAD, "p50_ms", "p99_ms"),
            *("peak_mb", "file_bytes_per_step", "syncs_per_step"),
        },
    ),
    "start_rate": (
        {"repeat"},
        ["runs that end at once", "runs that only sleep"],
        {"question", "durability", "callers", "starts_per_s", *SPREAD, "p50_ms", "p99_ms"},
    ),
    "pages": (
        {"repeat", "every_s", "payload", "large"},
        [
            *("the list", "the list by status", "the list by workflow and time", "the list by a text in the error"),
            *("a run", "list_runs", "get_run", "start_run", "steps, nobody asks", "steps, somebody asks"),
            "what is left of the steps",
        ],
        {"question", "runs", "figure", "median", *SPREAD, "p99"},
    ),
    "rpc": (
        {"repeat"},
        [
            *("inline", "function on the event loop", "function on a thread", "function in a worker process"),
            *("run_in_executor and aiosqlite", "anyio.to_process and aiosqlite"),
            *("worker process, first call", "worker process, next call after it was killed"),
            "worker process, next call after it was killed at work",
            "worker process, next call after it was killed at once",
        ],
        {"question", "durability", "calls", "p50_ms", *SPREAD, "p99_ms"},
    ),
    "signals": (
        {"repeat"},
        ["one at a time", "all at once"],
        {"question", "runs_wait", "durability", "runs", "p50_ms", *SPREAD, "p99_ms"},
    ),
    "busy_loop": (
        {"repeat", "durability", "connections", "runs_beside_requests"},
        ["steps of a run", "bare aiosqlite", "requests, no engine", "requests, engine at full load"],
        {"question", "turn_ms", "figure", "median", *SPREAD},
    ),
    "sleepers": (
        {"durability", "callers", "wake_rate", "wake_for_s"},
        ["asleep for a month", "a second, all at once"],
        {
            *("question", "runs", "starts_per_s", "rss_mb", "bytes_per_run", "file_mb", "open_s", "open_rss_mb"),
            *("late_p50_ms", "late_p99_ms", "late_max_ms", "all_ended_s"),
        },
    ),
    "recovery": (
        {"repeat", "runs", "steps_per_run"},
        ["pikkupy is imported", "`open` has returned", "all runs have ended"],
        {"question", "durability", "runs_left", "steps_left", "seconds", *SPREAD},
    ),
    "replay": (
        {"repeat", "open_without_history_ms", "memory_mb"},
        ["replayed", "at once, live", "at once, replayed"],
        {"question", "steps", "seconds", *SPREAD, "us_per_step", "growth_per_tenfold"},
    ),
    "growth": (
        {"repeat", "durability"},
        [
            *("`open`, runs ended", "`list_runs`, runs ended", "`get_run`, runs ended", "a step, runs ended"),
            *("`start`, runs asleep", "replay, steps"),
        ],
        {"question", "size", "ms", *SPREAD, "per_tenfold"},
    ),
    "memory": (
        {
            *("mb_per_100_000_runs", "objects_per_100_000_runs", "within_limit"),
            *("bytes_per_sleeping_run", "bytes_per_parked_run"),
        },
        ["ended", "asleep", "parked, in memory"],
        {"question", "runs", "rss_mb", "gc_objects", "tasks", "open_files", "runs_per_s"},
    ),
    "compare": (
        {"repeat", "limit_s", "peers"},
        ["sequential", "late_p50", "late_p99", "recovery", "replay"],
        {
            *("question", "size", "system", "durability", "unit"),
            *("median", *SPREAD, "times_as_fast", "note"),
        },
    ),
}

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def run(folder: Path, *options: str) -> str:
    """What `benchmarks/all.py` prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / "all.py"), *options],
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


@pytest.mark.parametrize("page", ["README.md", "benchmarks/README.md"])
def test_every_benchmark_is_run_here_and_named_in_the_readme(page: str) -> None:
    """One that nobody runs would rot."""
    files = {path.stem for path in FOLDER.glob("*.py")} - {"_common"}

    assert files == {*BENCHMARKS, "all"}
    text = (ROOT / page).read_text(encoding="utf-8")
    assert all(f"python benchmarks/{name}.py" in text for name in files)


@pytest.mark.parametrize("name", BENCHMARKS)
@linux
def test_a_benchmark_tells_what_it_has_found(name: str, tmp_path: Path) -> None:
    """As one JSON document with its surroundings; `all.py` puts it under its name."""
    about, questions, fields = BENCHMARKS[name]
    found: dict[str, Any] = json.loads(run(tmp_path, "--quick", "--json", "--only", name))

    assert set(found["about"]) == ABOUT
    assert set(found["benchmarks"]) == {name}
    document = found["benchmarks"][name]
    assert set(document["about"]) == ABOUT | about
    assert list(dict.fromkeys(line["question"] for line in document["lines"])) == questions
    assert all(set(line) == fields for line in document["lines"])


@linux
def test_without_json_they_print_tables(tmp_path: Path) -> None:
    """Each with a heading over each column and a row for each line, under the name of the benchmark."""
    memory, replay = run(tmp_path, "--quick", "--only", "memory", "replay").split("== ")[1:]
    heading, *rows = memory.split("\n\n")[1].splitlines()

    assert heading.split() == ["question", "runs", "rss", "mb", "gc", "objects", "tasks", "open", "files", "runs/s"]
    assert len(rows) == 6
    assert replay.startswith("replay\n")


def pages(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """That benchmark by itself, with a small file."""
    small = ("--runs=40", "--payload=30", "--large=20", "--seconds=0.3", "--every=0.01", "--repeat=1", "--json")
    return subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / "pages.py"), *small, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@linux
def test_what_is_beyond_the_goal_is_told(tmp_path: Path) -> None:
    """With the figure, after all that was found, and by the exit code; or it is only measured."""
    done = pages(tmp_path, "--goal-ms", "0", "--goal-percent", "-900")

    assert done.returncode == 1
    assert json.loads(done.stdout)["lines"]
    told = done.stderr.splitlines()
    assert any(line.startswith("beyond the goal: a run: ") and line.endswith("at most 0") for line in told)
    assert told[-1].startswith("beyond the goal: what is left of the steps: ")
    for options in (("--goal-ms", "0", "--no-goal"), ("--goal-ms", "1e9", "--goal-percent", "100")):
        done = pages(tmp_path, *options)
        assert (done.returncode, done.stderr) == (0, "")


def test_all_are_run_when_none_is_named() -> None:
    """The list of `all.py` is complete."""
    listed = subprocess.run(
        [sys.executable, str(FOLDER / "all.py"), "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert f"{{{','.join(BENCHMARKS)}}}" in "".join(listed.split())
