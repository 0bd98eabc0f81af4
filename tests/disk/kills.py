"""Kills: a real process dies before each operation that changes one of its files; another one goes on."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from pikkupy import PikkuError
from tests.disk.contents import State, digest
from tests.disk.errors import untouched
from tests.disk.life import Way, in_child, lives
from tests.disk.opening import Wrong, check_end, check_known, tables_in
from tests.disk.parallel import Result, in_forks
from tests.disk.recording import memory
from tests.disk.records import OPERATIONS, Operation, Record, Rows, read_log
from tests.disk.shim import Fault
from tests.disk.workload import LIVES

SYSCALLS = ("pwrite64", "fdatasync", "fsync", "ftruncate", "unlink")


def killed(way: Way, nth: int) -> Result:
    """The life that is killed before its n-th operation, and what it leaves."""
    result = Result()
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        try:
            _killed(way, nth, Path(folder), result)
        except (Wrong, AssertionError, PikkuError) as wrong:
            result.wrong.append(f"{way}, killed before operation {nth}: {type(wrong).__name__}: {wrong}")
    return result


def _killed(way: Way, nth: int, folder: Path, result: Result) -> None:
    count = 0

    def strike(_operation: Operation) -> Fault | None:
        nonlocal count
        count += 1
        if count == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    if in_child(lambda: lives(folder, way, LIVES, strike=strike)) != -signal.SIGKILL:
        raise Wrong("harness: the life was not killed")
    result.counts["kills"] += 1
    asyncio.run(check_killed(folder / "app.db", read_log(folder / "log"), result))


async def check_killed(db: Path, records: list[Record], result: Result) -> None:
    """The file is what was committed last, or what was about to be, and all runs come to their ends. Raises `Wrong`."""
    tables = await tables_in(db)
    states = [record for record in records if isinstance(record, Rows)]
    last = max((place for place, state in enumerate(states) if state.committed), default=-1)
    legal = {state.digest for state in states[max(last, 0) :]} | ({""} if last < 0 else set())
    if digest(tables) not in legal:
        raise Wrong("lost: the file is neither what was committed last nor what was about to be")
    check_known(records, State(tables))
    await check_end(db, State(tables), records)
    result.counts["run to the end"] += 1


def explore(kills: int | None, seed: int, jobs: int, way: Way) -> Result:
    """A kill before each operation, or before so many of them."""
    counts = untouched(way)
    points = range(1, sum(counts[kind] for kind in OPERATIONS) + 1)
    chosen = points if kills is None else random.Random(f"{seed} kills").sample(points, min(kills, len(points)))
    return in_forks(f"kills, {way}", partial(killed, way), chosen, jobs)


# With strace, which sees the system calls themselves


def has_strace() -> bool:
    """Whether there is one that may trace."""
    strace = shutil.which("strace")
    return strace is not None and subprocess.run([strace, "-o", "/dev/null", "true"], check=False).returncode == 0


def traced(folder: Path) -> tuple[Counter[tuple[str, str]], list[Record]]:
    """A whole life: how often which system call came for which file, and the log of the layer below SQLite."""
    trace = folder / "trace"
    options = ["-f", "-y", "-o", str(trace), "-e", f"trace={','.join(SYSCALLS)}"]
    life = [sys.executable, "-m", "tests.disk.life", str(folder)]
    subprocess.run(["strace", *options, *life], check=True, capture_output=True)
    calls: Counter[tuple[str, str]] = Counter()
    for line in trace.read_text().splitlines():
        found = re.search(r"(\w+)\(\d*<?\"?[^>\",]*/app\.db(-wal|-journal)?[>\"]", line)
        if found and not line.endswith("ENOENT (No such file or directory)"):
            calls[found[1], found[2] or ""] += 1
    return calls, read_log(folder / "log")
