"""How long pages and requests take with many runs in the file, while the engine works, and what they cost it.

    python benchmarks/pages.py [--runs 1000000] [--payload 10000] [--large 5000] [--seconds 8] [--every 0.5]
                               [--repeat 5] [--goal-ms 100] [--goal-percent 10] [--no-goal] [--json]

The file is made once: runs of two workflows, a tenth of them failed, the others completed. The newest `--large` of them
have a text of `--payload` characters in their input, and in the output of those that have one, as has the run that is
asked for; the others have an empty one. Then the engine works at
full speed, on runs of five steps begun by 200 callers, for `--seconds`, without and with a client in a process of its
own that asks for one page after another, in a random order, one every `--every` seconds, while a tab of the console is
open. A run that is asked for has 50 steps. The last lines say what the engine does in a second without and with them,
and what share is left.

If the median of a page is above `--goal-ms`, or more than `--goal-percent` of the steps are lost, that is told and the
exit code is 1; not with `--no-goal`.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import uvicorn
from _common import (
    answer,
    child_command,
    in_batches,
    median,
    new_file,
    parser_for,
    percentile,
    report,
    spread,
    surroundings,
)

from pikkupy import Engine, Pikku, RunFailed, Workflow

TOKEN = "a-token-of-the-benchmark"
CALLERS = 200
STEPS = 5
STEPS_OF_LONG = 50

PAGES = {
    "the list": "/console/",
    "the list by status": "/console/?status=failed",
    "the list by workflow and time": "/console/?workflow=orders&since=1h",
    "the list by a text in the error": "/console/?q=no+stock+of+777",
    "a run": "/console/runs/long",
    "list_runs": "/api/runs",
    "get_run": "/api/runs/long",
    "start_run": "",
}

pikku = Pikku()


class Given(msgspec.Struct):
    """What the runs in the file take, and give back."""

    number: int
    text: str = ""


class Order(msgspec.Struct):
    """What the asking process is told."""

    port: int
    seconds: float
    every: float


class Asked(msgspec.Struct):
    """What it has found: milliseconds of each request, by page."""

    took: dict[str, list[float]]


class Line(msgspec.Struct):
    """One line of the table."""

    question: str
    runs: int
    figure: str
    median: float | None
    least: float
    greatest: float
    p99: float | None


@pikku.workflow
async def orders(_workflow: Workflow, given: Given) -> Given:
    """Most of what is in the file."""
    return given


@pikku.workflow
async def failures(_workflow: Workflow, given: Given) -> None:
    """The rest."""
    raise ValueError(f"no stock of {given.number}")


@pikku.workflow
async def works(workflow: Workflow, given: Given) -> Given:
    """What the engine does meanwhile, in so many steps; and the run that is asked for."""
    for step in range(given.number):
        await workflow.do(f"step {step}", lambda: step)  # noqa: B023 - it is called at once
    return given


async def fill(path: Path, runs: int, payload: int, large: int) -> None:
    """The file."""
    async with pikku.open(path, durability="process") as engine:

        async def begin(number: int) -> None:
            with suppress(RunFailed):
                kind = failures if number % 10 == 0 else orders
                given = Given(number, "x" * payload if number >= runs - large else "")
                await engine.run(kind, given, run_id=f"{kind.name}-{number}" if number < 1_000 else None)

        await in_batches(range(runs), begin)
        await engine.run(works, Given(STEPS_OF_LONG, "x" * payload), run_id="long")


async def work(engine: Engine, seconds: float) -> float:
    """Steps a second."""
    done, until = 0, time.perf_counter() + seconds

    async def call() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await engine.run(works, Given(STEPS))
            done += STEPS

    begun = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return done / (time.perf_counter() - begun)


async def measure(path: Path, seconds: float, every: float) -> tuple[float, float, dict[str, list[float]]]:
    """Steps a second alone, and beside who asks; what that took."""
    async with pikku.open(path) as engine:
        alone = await work(engine, seconds)
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.bind(("127.0.0.1", 0))
        app = engine.asgi(token=TOKEN, console=True, starts_per_second=1e6)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        serving = asyncio.ensure_future(server.serve([bound]))
        order = Order(bound.getsockname()[1], seconds, every)
        asking = await asyncio.create_subprocess_exec(*child_command(__file__, order), stdout=asyncio.subprocess.PIPE)
        assert asking.stdout is not None
        await asking.stdout.readline()  # it is ready
        beside = await work(engine, seconds)
        told, _ = await asking.communicate()
        server.should_exit = True
        await serving
        bound.close()
    return alone, beside, msgspec.json.decode(told, type=Asked).took


def in_random_order(names: list[str]) -> Iterator[str]:
    """All of them again and again, so that none keeps meeting what the console does every few seconds."""
    while True:
        random.shuffle(names)
        yield from names


def ask(order: Order) -> Asked:
    """The other process: one page after another."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    took: dict[str, list[float]] = {name: [] for name in PAGES}

    def once(name: str, path: str) -> None:
        begun = time.perf_counter()
        if path:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", "/api/runs", b'{"workflow": "orders", "input": {"number": 1}}', headers)
        got = connection.getresponse()
        got.read()
        assert got.status < 300, (path, got.status)
        took[name].append(1e3 * (time.perf_counter() - begun))

    def listen() -> None:
        tab.request("GET", "/console/live", headers=headers)
        with suppress(OSError, ValueError, AttributeError, http.client.HTTPException):  # it is closed below
            tab.getresponse().read()

    connection, tab = (http.client.HTTPConnection("127.0.0.1", order.port) for _ in range(2))
    for name, path in PAGES.items():  # templates are compiled, and the file is in memory
        once(name, path)
        took[name].clear()
    threading.Thread(target=listen, daemon=True).start()
    print(flush=True)
    until = time.perf_counter() + order.seconds
    for name in in_random_order(list(PAGES)):
        if time.perf_counter() >= until:
            break
        once(name, PAGES[name])
        time.sleep(order.every)
    connection.close()
    tab.close()
    return Asked(took)


def beyond(lines: list[Line], goal_ms: float, goal_percent: float) -> list[str]:
    """What is not as it should be."""
    found = []
    for line in lines:
        if line.figure == "ms" and line.median is not None and line.median > goal_ms:
            found.append(f"{line.question}: {line.median} ms, and the goal is at most {goal_ms:g}")
        if line.figure == "%" and line.median is not None and line.median < 100 - goal_percent:
            found.append(f"{line.question}: {line.median} %, and the goal is at least {100 - goal_percent:g}")
    return found


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="in the file (1,000,000)")
    parser.add_argument("--payload", type=int, default=10_000, help="characters of a text in large inputs (10,000)")
    parser.add_argument("--large", type=int, default=5_000, help="of the newest runs that have it (5,000)")
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement (8)")
    parser.add_argument("--every", type=float, default=0.5, help="seconds from one page to the next (0.5)")
    parser.add_argument("--repeat", type=int, default=5, help="measurements of each figure (5)")
    parser.add_argument("--goal-ms", type=float, default=100, help="that the median of a page may take (100)")
    parser.add_argument("--goal-percent", type=float, default=10, help="of the steps that may be lost (10)")
    parser.add_argument("--no-goal", action="store_true", help="only measure")
    options = parser.parse_args()
    if options.child:
        answer(ask(msgspec.json.decode(options.child, type=Order)))
        sys.stdout.flush()
        os._exit(0)  # the tab still listens
    with new_file() as path:
        asyncio.run(fill(path, options.runs, options.payload, options.large))
        found = [asyncio.run(measure(path, options.seconds, options.every)) for _ in range(options.repeat)]
    lines = []
    for name in PAGES:
        all_took = sorted(ms for _, _, took in found for ms in took[name])
        medians = [statistics.median(took[name]) for _, _, took in found if took[name]]
        if not medians:
            continue
        p99 = round(percentile(all_took, 99), 1)
        lines.append(Line(name, options.runs, "ms", median(all_took, 1), *spread(medians, 1)[1:], p99))
    alone, beside = [one for one, _, _ in found], [one for _, one, _ in found]
    shares = [100 * one / other for one, other in zip(beside, alone, strict=True)]
    for name, figures in (("steps, nobody asks", alone), ("steps, somebody asks", beside)):
        lines.append(Line(name, options.runs, "steps/s", *spread(figures, 0), None))
    lines.append(Line("what is left of the steps", options.runs, "%", *spread(shares, 1), None))
    about = {"repeat": options.repeat, "every_s": options.every, "payload": options.payload, "large": options.large}
    report({**surroundings(), **about}, lines, as_json=options.json)
    if not options.no_goal and (wrong := beyond(lines, options.goal_ms, options.goal_percent)):
        sys.exit("\n".join(f"beyond the goal: {one}" for one in wrong))


if __name__ == "__main__":
    main()
