"""How many steps a second many runs make together, what each costs, and what log lines and a reader of events add.

    python benchmarks/throughput.py [--runs 2000] [--steps 5] [--payload 100 1000] [--beside nothing log events]
                                    [--repeat 3] [--json]

`--runs` runs of `--steps` steps are started at once; each step gives a text of `--payload` bytes (0 is possible).
`--beside` names what goes on beside them, a line each: `nothing`; a `log` of level INFO to a file; a reader of
`engine.events()`. The limit below writes the same texts by bare `sqlite3`, 1,000 rows in a transaction, on one thread.

Each measurement is a process of its own, so that its peak memory can be told. The bytes in the file are those beyond an
empty file and the texts themselves. Syncs are counted by `strace`, if there is one, in one more process, whose speed
does not count. Of large payloads there are fewer runs: none of the measurements writes more than `--most-mb`. Linux
only.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
from _common import (
    DURABILITIES,
    Durability,
    Progress,
    alternate,
    answer,
    answer_of,
    bare_sqlite,
    child_command,
    median,
    new_file,
    parser_for,
    peak_mb,
    percentile,
    report,
    spread,
    surroundings,
)

from pikkupy import Engine, EventsLost, Pikku, Workflow

ROWS = 1_000  # in a transaction of bare sqlite3
BARE = "bare sqlite3"
BESIDE = {"nothing": "pikkupy", "log": "pikkupy, log to a file", "events": "pikkupy, events are read"}

SYNC = re.compile(r"(\d+\.\d+) (?:fsync|fdatasync)\(")  # in what strace writes: the time, epoch seconds


class Setting(msgspec.Struct, frozen=True):
    """What one line of the table measures."""

    question: str
    durability: Durability
    payload: int
    runs: int
    steps: int  # of each run


class Order(msgspec.Struct):
    """What a process of its own is to measure."""

    setting: Setting
    path: str


class Measured(msgspec.Struct):
    """What it has found. The waits are from asking for a step to seeing its value."""

    begun_at: float
    ended_at: float  # both epoch seconds, as strace has them
    seconds: float
    p50_ms: float | None
    p99_ms: float | None
    peak_mb: float
    file_bytes: int = 0  # beyond those of an empty file
    events_lost: int = 0


class Line(msgspec.Struct):
    """One line of the table: medians of several measurements."""

    question: str
    durability: str
    payload_bytes: int
    steps: int
    steps_per_s: float
    least: float
    greatest: float
    p50_ms: float | None
    p99_ms: float | None
    peak_mb: float | None
    file_bytes_per_step: float | None  # beyond its payload
    syncs_per_step: float | None


def with_pikkupy(setting: Setting, path: Path) -> Measured:
    """All runs, started at once."""
    asyncio.run(open_and_leave(setting, path))
    empty = path.stat().st_size
    with log_to(path.with_suffix(".log")) if setting.question == BESIDE["log"] else nullcontext():
        measured = asyncio.run(many_runs(setting, path))
    measured.file_bytes = path.stat().st_size - empty
    return measured


async def open_and_leave(setting: Setting, path: Path) -> None:
    """A file without runs."""
    async with Pikku().open(path, durability=setting.durability):
        pass


async def many_runs(setting: Setting, path: Path) -> Measured:
    """Everything but the bytes in the file."""
    pikku, waits, reader, value = Pikku(), list[float](), EventReader(), "x" * setting.payload

    @pikku.workflow
    async def timed(workflow: Workflow) -> None:
        for _ in range(setting.steps):
            asked = time.perf_counter()  # the body may look at a clock that changes nothing of what it asks for
            await workflow.do("step", lambda: value)
            waits.append(time.perf_counter() - asked)

    async with pikku.open(path, durability=setting.durability) as engine:
        reading = [asyncio.create_task(reader.read(engine))] if setting.question == BESIDE["events"] else []
        await asyncio.sleep(0)  # the reader is there before the first event
        begun_at, begun = time.time(), time.perf_counter()
        await asyncio.gather(*(engine.run(timed) for _ in range(setting.runs)))
        seconds, ended_at = time.perf_counter() - begun, time.time()
        for task in reading:
            task.cancel()
    waits.sort()
    p50, p99 = (1e3 * percentile(waits, percent) for percent in (50, 99))
    return Measured(begun_at, ended_at, seconds, p50, p99, peak_mb(), events_lost=reader.lost)


class EventReader:
    """Reads what happens to all runs, and begins anew when it was too slow."""

    def __init__(self) -> None:
        self.lost = 0  # times

    async def read(self, engine: Engine) -> None:
        """Until it is cancelled."""
        while True:
            try:
                async for _ in engine.events():
                    pass
            except EventsLost:
                self.lost += 1


@contextmanager
def log_to(file: Path) -> Iterator[None]:
    """The engine's log, from INFO on, goes there."""
    log, handler = logging.getLogger("pikkupy"), logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def many_rows(setting: Setting, path: Path) -> Measured:
    """The limit: the same texts, many rows in a transaction."""
    value, count = "x" * setting.payload, setting.runs * setting.steps
    with bare_sqlite(path, setting.durability) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        empty = path.stat().st_size
        begun_at, begun = time.time(), time.perf_counter()
        for first in range(0, count, ROWS):
            rows = ((number, value) for number in range(first, min(first + ROWS, count)))
            db.execute("BEGIN")
            db.executemany("INSERT INTO steps VALUES (1, ?, ?)", rows)
            db.execute("COMMIT")
        seconds, ended_at = time.perf_counter() - begun, time.time()
    return Measured(begun_at, ended_at, seconds, None, None, peak_mb(), file_bytes=path.stat().st_size - empty)


def measure_here(order: Order) -> Measured:
    """What the process of its own does."""
    if order.setting.question == BARE:
        return many_rows(order.setting, Path(order.path))
    return with_pikkupy(order.setting, Path(order.path))


def measure(setting: Setting, path: Path) -> Measured:
    """One measurement, in a process of its own."""
    return answer_of(child_command(__file__, Order(setting, str(path))), Measured)


def tracing(written: Path) -> list[str] | None:
    """The words before a command that has its syncs written there; None without strace, or where it may not trace."""
    words = ["strace", "-f", "--seccomp-bpf", "-ttt", "-e", "trace=fsync,fdatasync", "-o", str(written)]
    if shutil.which("strace") is None:
        return None
    tried = subprocess.run([*words, "true"], check=False, capture_output=True)
    return words if tried.returncode == 0 else None


def syncs_per_step(setting: Setting) -> float | None:
    """From the first start to the last end; None if they cannot be counted."""
    with new_file() as path:
        written = path.with_suffix(".strace")
        words = tracing(written)
        if words is None:
            return None
        found = answer_of([*words, *child_command(__file__, Order(setting, str(path)))], Measured)
        times = map(float, SYNC.findall(written.read_text(encoding="ascii", errors="replace")))
        syncs = sum(found.begun_at <= at <= found.ended_at for at in times)
    return round(syncs / (setting.runs * setting.steps), 4)


def line(setting: Setting, measured: list[Measured], syncs: float | None) -> Line:
    """The medians of one setting."""
    steps = setting.runs * setting.steps
    rate = spread([steps / one.seconds for one in measured], 0)
    return Line(
        question=setting.question,
        durability=setting.durability,
        payload_bytes=setting.payload,
        steps=steps,
        steps_per_s=rate.median,
        least=rate.least,
        greatest=rate.greatest,
        p50_ms=median([one.p50_ms for one in measured], 3),
        p99_ms=median([one.p99_ms for one in measured], 3),
        peak_mb=median([one.peak_mb for one in measured], 1),
        file_bytes_per_step=median([one.file_bytes / steps - setting.payload for one in measured], 1),
        syncs_per_step=syncs,
    )


def most_runs(payload: int, runs: int, steps: int, most_mb: int) -> int:
    """`runs`, or so many that their values are not more than `most_mb`."""
    return max(1, min(runs, most_mb * 1_000_000 // max(payload * steps, 1)))


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--runs", type=int, default=2_000, help="runs, started at once (2000)")
    parser.add_argument("--steps", type=int, default=5, help="steps of each run (5)")
    parser.add_argument("--payload", type=int, nargs="+", default=[100, 1_000], help="bytes of a value (100 1000)")
    parser.add_argument("--beside", nargs="+", choices=BESIDE, default=list(BESIDE), help="what goes on beside (all)")
    parser.add_argument("--most-mb", type=int, default=100, help="megabytes of values in one measurement (100)")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each figure (3)")
    options = parser.parse_args()
    if options.child is not None:
        answer(measure_here(msgspec.json.decode(options.child, type=Order)))
        return
    settings = [
        Setting(
            question,
            durability,
            payload,
            most_runs(payload, options.runs, options.steps, options.most_mb),
            options.steps,
        )
        for payload in options.payload
        for question in (*(BESIDE[name] for name in options.beside), BARE)
        for durability in DURABILITIES
    ]
    found = alternate(settings, measure, options.repeat)
    lines = []
    with Progress() as progress:
        for setting, measured in found.items():
            progress.tell(f"count syncs: {setting.question}, {setting.durability}, {setting.payload:,}")
            lines.append(line(setting, measured, syncs_per_step(setting)))
    about = {
        **surroundings(),
        "repeat": options.repeat,
        "runs": options.runs,
        "steps_per_run": options.steps,
        "times_events_were_lost": sum(one.events_lost for measured in found.values() for one in measured),
    }
    report(about, lines, as_json=options.json)


if __name__ == "__main__":
    main()
