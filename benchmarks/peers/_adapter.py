"""What the adapters share: the command line, the line of JSON, and questions in which a process is killed.

Only the standard library: each adapter runs in an environment of its own.

    python ADAPTER QUESTION --size N --folder DIR [--variant NAME]

The answer is one line of JSON on stdout, with `seconds`, `steps` and what else the question asks for. A question that a
system cannot answer ends with the exit code 3 and the line `{"cannot": "why"}`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

STEPS_PER_RUN = 5  # of the questions that have many runs
WARM_UP = 5  # steps of the run that is not measured: imports, connections and caches are not the question
NAP_S = 1.0
SETTLE_S = 1.0  # a run that waits is left alone for so long before its process is killed
CANNOT = 3  # the exit code

Answer = dict[str, object]


@dataclass(frozen=True)
class Task:
    """What is asked."""

    question: str
    size: int  # of the question: steps of its one run, or runs
    folder: Path
    variant: str
    life: int  # 1: the process that is killed, 2: the one that goes on, 0: it lives once

    @property
    def path(self) -> Path:
        """The database."""
        return self.folder / "peer.db"


def answer(
    doc: str | None,
    asks: Mapping[str, Callable[[Task], Answer]],
    *,
    cannot: Mapping[str, str] | None = None,
    variants: Sequence[str] = ("",),
) -> None:
    """Read the command line, ask, print. The first of `variants` is the default."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=[*asks, *(cannot or {})])
    parser.add_argument("--size", type=int, required=True, help="steps, or runs")
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder")
    parser.add_argument("--variant", choices=variants, default=variants[0])
    parser.add_argument("--life", type=int, default=0, help=argparse.SUPPRESS)
    task = Task(**vars(parser.parse_args()))
    if cannot and task.question in cannot:
        tell({"cannot": cannot[task.question]})
        raise SystemExit(CANNOT)
    tell(asks[task.question](task))


def tell(line: Answer) -> None:
    """Print one line of JSON."""
    print(json.dumps(line), flush=True)


def refuse(why: str) -> NoReturn:
    """End here: this size, or this variant, cannot be answered."""
    tell({"cannot": why})
    raise SystemExit(CANNOT)


def percentile(values: Iterable[float], percent: int) -> float:
    """Of values in any order."""
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def lateness(seconds: float, late_s: Sequence[float]) -> Answer:
    """The answer to `sleepers`."""
    return {
        "seconds": seconds,
        "steps": len(late_s),
        "late_p50_ms": 1e3 * percentile(late_s, 50),
        "late_p99_ms": 1e3 * percentile(late_s, 99),
        "late_least_ms": 1e3 * min(late_s),  # below zero would be early
    }


def round_trips(waits_s: Sequence[float]) -> Answer:
    """The answer to `rpc`."""
    return {"seconds": sum(waits_s), "steps": len(waits_s), "p50_ms": 1e3 * statistics.median(waits_s)}


class Middle:
    """Counts the steps that ran in this process; the first life of `recovery` ends in the middle of all of them."""

    def __init__(self, task: Task) -> None:
        self.life = task.life
        self._lock = threading.Lock()
        self._last = task.size * STEPS_PER_RUN // 2 if (task.question, task.life) == ("recovery", 1) else None
        self.ran = 0

    def step(self) -> None:
        """One more."""
        with self._lock:
            self.ran += 1
            if self.ran == self._last:
                die(self.ran)

    def goes_on(self) -> NoReturn:
        """The step after the wait of `replay`: the second life is over. It must be the only one of this process."""
        self.step()
        live_on(self.ran, 1)


def die(ran: int) -> NoReturn:
    """The first life: tell how many steps ran, and be killed."""
    tell({"ran": ran})
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process went on")


def live_on(ran: int, runs: int) -> NoReturn:
    """The second life: tell how many steps ran, and of how many runs the right end was seen. That is all."""
    tell({"ran": ran, "runs": runs})
    os._exit(0)


def lives(task: Task, program: Sequence[str] = ()) -> Answer:
    """Let a first process be killed, and measure the second from its start until it tells that it has gone on.

    Each is `program`, this adapter unless told otherwise, with `--life` 1 and 2: the first ends with `die`, the second
    with `live_on`.
    """
    command = [
        *(program or [sys.executable, sys.argv[0]]),
        *(task.question, "--size", str(task.size), "--folder", str(task.folder)),
        *(["--variant", task.variant] if task.variant else []),
    ]
    first = subprocess.run([*command, "--life", "1"], stdout=subprocess.PIPE, text=True, check=False)
    if first.returncode != -signal.SIGKILL:
        raise SystemExit(f"the first process was not killed: {first.returncode} {first.stdout}")
    ran_before = json.loads(first.stdout)["ran"]
    begun = time.perf_counter()
    with subprocess.Popen([*command, "--life", "2"], stdout=subprocess.PIPE, text=True) as second:
        assert second.stdout is not None
        told = second.stdout.readline()
        seconds = time.perf_counter() - begun
        second.wait()
    if second.returncode != 0 or not told:
        raise SystemExit(f"the second process failed: {second.returncode} {told}")
    return checked(task, seconds, ran_before, json.loads(told))


def checked(task: Task, seconds: float, ran_before: int, told: Mapping[str, int]) -> Answer:
    """The answer, if the second process has gone on where the first had to stop."""
    if task.question == "replay":
        assert ran_before == task.size, f"{ran_before} steps ran"
        assert told["ran"] == 1, f"{told['ran']} steps ran after the restart"
        return {"seconds": seconds, "steps": task.size}
    total = task.size * STEPS_PER_RUN
    again = told["ran"] + ran_before - total
    assert told["runs"] == task.size, f"{told['runs']} runs have ended"
    assert again >= 0, f"{-again} steps never ran"
    return {"seconds": seconds, "steps": total, "steps_again": again}
