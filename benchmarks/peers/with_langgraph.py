"""LangGraph with `AsyncSqliteSaver`.

Durable to loss of power: the saver sets WAL and leaves SQLite's default, `synchronous=FULL`; `durability="sync"` waits
for the checkpoint of each step before the next begins.

- A run is a thread of a graph with one node that leads to itself; a step is one turn of it.
- throughput: many `ainvoke`, started at once on one saver.
- recovery: nothing goes on by itself; the second process invokes each thread again.
- replay: the node waits in `interrupt`; the second process invokes the thread with `Command(resume=...)`. A graph is
  not replayed, it goes on from its latest checkpoint.
- rpc: a node is a registered function; measured from one turn to the next.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

from _adapter import (
    SETTLE_S,
    STEPS_PER_RUN,
    WARM_UP,
    Answer,
    Middle,
    Task,
    answer,
    die,
    live_on,
    lives,
    round_trips,
)
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

turns_at: list[float] = []


class State(TypedDict):
    """What is kept of a run."""

    number: int
    steps: int
    total: int


Node = Callable[[State], Awaitable[dict[str, int]]]


async def turn(state: State) -> dict[str, int]:
    """The step."""
    turns_at.append(time.perf_counter())
    return {"number": state["number"] + 1, "total": state["total"] + state["number"]}


def graph(saver: AsyncSqliteSaver, node: Node = turn) -> Any:
    """The graph that takes the step until there were enough."""
    builder = StateGraph(State)
    builder.add_node("turn", node)
    builder.add_edge(START, "turn")
    builder.add_conditional_edges("turn", lambda state: "turn" if state["number"] < state["steps"] else END)
    return builder.compile(checkpointer=saver)


def config(thread: str, steps: int) -> dict[str, object]:
    """Of one run."""
    return {"configurable": {"thread_id": thread}, "recursion_limit": steps + 2}


async def invoke(compiled: Any, thread: str, steps: int, again: object = None, *, first: bool = True) -> int:
    """The total of a run; `first` begins it, else it goes on with `again`."""
    begin = {"number": 0, "steps": steps, "total": 0} if first else again
    state = await compiled.ainvoke(begin, config(thread, steps), durability="sync")
    return int(state["total"])


def many(task: Task, runs: int, steps: int) -> Answer:
    """So many runs, started at once."""

    async def measure() -> float:
        async with AsyncSqliteSaver.from_conn_string(str(task.path)) as saver:
            compiled = graph(saver)
            await invoke(compiled, "warm up", WARM_UP)
            turns_at.clear()
            begun = time.perf_counter()
            totals = await asyncio.gather(*(invoke(compiled, f"run:{number}", steps) for number in range(runs)))
            seconds = time.perf_counter() - begun
            assert totals == [sum(range(steps))] * runs
            return seconds

    return {"seconds": asyncio.run(measure()), "steps": runs * steps}


def sequential(task: Task) -> Answer:
    """One run."""
    return many(task, 1, task.size)


def throughput(task: Task) -> Answer:
    """Many."""
    return many(task, task.size, STEPS_PER_RUN)


def rpc(task: Task) -> Answer:
    """One run, turn by turn."""
    many(task, 1, task.size)
    return round_trips([later - earlier for earlier, later in itertools.pairwise(turns_at)])


def recovery(task: Task) -> Answer:
    """Many runs, killed in the middle."""
    if not task.life:
        return lives(task)
    middle, gate = Middle(task), asyncio.Event()
    arrived = itertools.count(1)

    async def counted(state: State) -> dict[str, int]:
        if not gate.is_set() and next(arrived) == task.size:
            gate.set()  # every run has its first checkpoint
        await gate.wait()
        middle.step()
        return await turn(state)

    async def live() -> None:
        if task.life == 2:
            gate.set()
        async with AsyncSqliteSaver.from_conn_string(str(task.path)) as saver:
            compiled = graph(saver, counted)
            names = [f"run:{number}" for number in range(task.size)]
            runs = (invoke(compiled, name, STEPS_PER_RUN, first=task.life == 1) for name in names)
            totals = await asyncio.gather(*runs)
            live_on(middle.ran, totals.count(sum(range(STEPS_PER_RUN))))

    asyncio.run(live())
    return {}


def replay(task: Task) -> Answer:
    """A run that waits after many steps."""
    if not task.life:
        return lives(task)
    middle = Middle(task)

    async def counted(state: State) -> dict[str, int]:
        if state["number"] == task.size:
            interrupt("go on")
            middle.goes_on()
        middle.step()
        return await turn(state)

    async def live() -> None:
        async with AsyncSqliteSaver.from_conn_string(str(task.path)) as saver:
            compiled = graph(saver, counted)
            if task.life == 1:
                await invoke(compiled, "waiting", task.size + 1)
                await asyncio.sleep(SETTLE_S)
                die(middle.ran)
            await invoke(compiled, "waiting", task.size + 1, Command(resume=True), first=False)

    asyncio.run(live())
    return {}


if __name__ == "__main__":
    answer(
        __doc__,
        {"sequential": sequential, "throughput": throughput, "recovery": recovery, "replay": replay, "rpc": rpc},
        cannot={"sleepers": "it has no durable timer"},
    )
