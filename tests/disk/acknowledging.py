"""A process that starts runs one after another, says of each when it is told that it is on disk, and how it went."""

from __future__ import annotations

import asyncio
import logging
import sys

from pikkupy import JournalError, Pikku, Workflow

RUNS = 60

pikku = Pikku()


@pikku.workflow
async def flow(workflow: Workflow, number: int) -> int:
    """One step."""
    return await workflow.do("double", lambda: 2 * number)


async def main(path: str, runs: int) -> None:
    """Says `open`, `told <id>` and `ended <id>`; at last `done`, or `failed` with the error."""
    try:
        async with pikku.open(path, control_socket=False) as engine:
            print("open", flush=True)
            for number in range(runs):
                handle = await engine.start(flow, number, run_id=f"r{number}")
                print(f"told {handle.id}", flush=True)
                await handle.result()
                print(f"ended {handle.id}", flush=True)
        print("done", flush=True)
    except JournalError as error:
        print(f"failed {error}", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level="WARNING", stream=sys.stdout, format="log %(message)s")
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else RUNS))
