"""A process that starts runs until there is no memory left, and says of each when it is told that it is on disk."""

from __future__ import annotations

import asyncio
import resource
import sys
from itertools import count
from pathlib import Path

from pikkupy import Pikku, Workflow

pikku = Pikku()


def text_of(number: int) -> str:
    """What its step returns."""
    return "x" * (1_000 + number * 97 % 40_000)


@pikku.workflow
async def flow(workflow: Workflow, number: int) -> int:
    """Takes memory, and waits."""
    text = await workflow.do("text", lambda: text_of(number))
    return len(text) + await workflow.wait_for_signal("more", int)


async def main(path: str, spare: int) -> None:
    """Says `told <id>`. From the opening on it gets so many bytes more than it has."""
    async with pikku.open(path, control_socket=False) as engine:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + spare, has + spare))
        for number in count():
            await engine.start(flow, number, run_id=f"r{number}")
            print(f"told r{number}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
