"""What the engine and the application's own work on the same event loop do to each other.

    python benchmarks/busy_loop.py [--turns 0.2 1 3] [--seconds 1] [--connections 8] [--runs 100] [--repeat 3] [--json]

Steps beside a busy task: it computes for `--turns` milliseconds, lets the loop go on (`await asyncio.sleep(0)`), and
computes again. How many steps of one run, one after another, are made per turn; beside it the same with bare
`aiosqlite`, one INSERT and commit for each step.

Requests beside steps: a small HTTP server on the loop, and `--connections` clients in another process, each of which
asks again as soon as it has its answer; without an engine, and with one at full load: `--runs` runs that never rest.

Each measurement takes `--seconds`; the durability is `full`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from _common import (
    Spread,
    alternate,
    answer,
    answer_of,
    bare_aiosqlite,
    child_command,
    parser_for,
    percentile,
    report,
    spread,
    surroundings,
)

from pikkupy import Pikku, Workflow

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
END_OF_HEAD = b"\r\n\r\n"

pikku = Pikku()


class Setting(msgspec.Struct, frozen=True):
    """What some lines of the table measure."""

    question: str
    seconds: float
    turn_ms: float | None = None  # of the busy task
    connections: int = 0  # of the clients
    runs: int = 1  # that make steps


class Order(msgspec.Struct):
    """What the process of the clients is to do."""

    port: int
    connections: int
    seconds: float


class Answered(msgspec.Struct):
    """Seconds that each request took, in order."""

    waits: list[float]


class Line(msgspec.Struct):
    """One line of the table: one figure, the median of several measurements."""

    question: str
    turn_ms: float | None
    figure: str
    median: float
    least: float
    greatest: float


class Counter:
    """Counts the steps of a measurement that is under way."""

    def __init__(self) -> None:
        self.steps = 0
        self.over = False


counter = Counter()


@pikku.workflow
async def restless(workflow: Workflow) -> None:
    """One step after another, until the measurement is over."""
    while not counter.over:
        await workflow.do("step", lambda: None)
        counter.steps += 1


async def with_pikkupy(setting: Setting, path: Path) -> dict[str, float]:
    """Steps of one run beside the busy task."""
    async with pikku.open(path) as engine:
        run = await engine.start(restless)
        found = await beside_turns(setting)
        await run.result()
    return found


async def with_aiosqlite(setting: Setting, path: Path) -> dict[str, float]:
    """The same, one INSERT and commit for each step."""
    async with bare_aiosqlite(path, "full") as db:

        async def insert() -> None:
            while not counter.over:
                await db.execute("INSERT INTO steps VALUES (1, ?, 'null')", (counter.steps,))
                counter.steps += 1

        inserting = asyncio.create_task(insert())
        found = await beside_turns(setting)
        await inserting
    return found


async def beside_turns(setting: Setting) -> dict[str, float]:
    """What was counted while the busy task computed."""
    assert setting.turn_ms is not None
    turn_s, turns, before, begun = setting.turn_ms / 1e3, 0, counter.steps, time.perf_counter()
    while (now := time.perf_counter()) < begun + setting.seconds:
        while time.perf_counter() < now + turn_s:
            pass
        turns += 1
        await asyncio.sleep(0)
    counter.over = True
    steps = counter.steps - before
    return {"steps/turn": steps / turns, "steps/s": steps / (time.perf_counter() - begun)}


async def requests_alone(setting: Setting, _path: Path) -> dict[str, float]:
    """Requests without an engine."""
    return await serve(setting)


async def requests_beside_runs(setting: Setting, path: Path) -> dict[str, float]:
    """Requests with an engine at full load."""
    async with pikku.open(path) as engine:
        runs = [await engine.start(restless) for _ in range(setting.runs)]
        before, begun = counter.steps, time.perf_counter()
        found = await serve(setting)
        steps_per_s = (counter.steps - before) / (time.perf_counter() - begun)
        counter.over = True
        await asyncio.gather(*(run.result() for run in runs))
    return {**found, "steps/s": steps_per_s}


async def serve(setting: Setting) -> dict[str, float]:
    """What the clients in another process say of a server on this loop."""
    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        command = child_command(__file__, Order(port, setting.connections, setting.seconds))
        waits = (await asyncio.to_thread(answer_of, command, Answered)).waits
    return {
        "p50 ms": 1e3 * percentile(waits, 50),
        "p99 ms": 1e3 * percentile(waits, 99),
        "requests/s": len(waits) / setting.seconds,
    }


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: one answer after another."""
    try:
        while True:
            await reader.readuntil(END_OF_HEAD)
            writer.write(RESPONSE)
    except asyncio.IncompleteReadError:
        writer.close()


async def ask(order: Order) -> Answered:
    """What the process of the clients does."""
    waits: list[float] = []
    until = time.perf_counter() + order.seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", order.port)
        asked = time.perf_counter()
        while asked < until:
            writer.write(REQUEST)
            await reader.readexactly(len(RESPONSE))
            waits.append(time.perf_counter() - asked)
            asked = time.perf_counter()
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(order.connections)))
    return Answered(sorted(waits))


BESIDE_TURNS = {"steps of a run": with_pikkupy, "bare aiosqlite": with_aiosqlite}
BESIDE_REQUESTS = {"requests, no engine": requests_alone, "requests, engine at full load": requests_beside_runs}

Measure = Callable[[Setting, Path], Awaitable[dict[str, float]]]
QUESTIONS: dict[str, Measure] = {**BESIDE_TURNS, **BESIDE_REQUESTS}


def measure(setting: Setting, path: Path) -> dict[str, float]:
    """One measurement: figures by name."""

    async def run() -> dict[str, float]:
        return await QUESTIONS[setting.question](setting, path)

    counter.steps, counter.over = 0, False
    return asyncio.run(run())


def lines_of(setting: Setting, measured: list[dict[str, float]]) -> list[Line]:
    """A line for each figure."""
    figures: dict[str, Spread] = {name: spread([one[name] for one in measured], 3) for name in measured[0]}
    return [Line(setting.question, setting.turn_ms, name, *figure) for name, figure in figures.items()]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--turns", type=float, nargs="+", default=[0.2, 1, 3], help="ms that the busy task computes")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement (1)")
    parser.add_argument("--connections", type=int, default=8, help="clients (8)")
    parser.add_argument("--runs", type=int, default=100, help="runs of the engine beside requests (100)")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each figure (3)")
    options = parser.parse_args()
    if options.child is not None:
        answer(asyncio.run(ask(msgspec.json.decode(options.child, type=Order))))
        return
    settings = [
        Setting(question, options.seconds, turn_ms=turn_ms) for turn_ms in options.turns for question in BESIDE_TURNS
    ] + [
        Setting(question, options.seconds, connections=options.connections, runs=options.runs)
        for question in BESIDE_REQUESTS
    ]
    found = alternate(settings, measure, options.repeat)
    lines = [line for setting, measured in found.items() for line in lines_of(setting, measured)]
    about = {
        **surroundings(),
        "repeat": options.repeat,
        "durability": "full",
        "connections": options.connections,
        "runs_beside_requests": options.runs,
    }
    report(about, lines, as_json=options.json)


if __name__ == "__main__":
    main()
