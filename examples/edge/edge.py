"""A box that reads a sensor and uploads means, on a line that is down for hours."""

import os
import random
from pathlib import Path

from pikkupy import Pikku, Services, Workflow

PAUSE = os.environ.get("EDGE_PAUSE", "10min")
UPLOADED = Path(os.environ.get("EDGE_UPLOADED", "uploaded.txt"))  # stands for a server far away

pikku = Pikku()


@pikku.function
def read_sensor(services: Services) -> float:
    """A thread of its own: it may block."""
    return round(20 + random.random(), 2)  # noqa: S311 - a temperature


@pikku.function
def upload(services: Services, data: tuple[int, float]) -> str:
    """Tried until the line is there; the server knows a repetition by the id."""
    step = services.workflow_step
    assert step is not None
    with UPLOADED.open("a") as far_away:
        far_away.write(f"{step.invocation_id} {data[0]} {data[1]}\n")
    return step.invocation_id


@pikku.workflow
async def shift(workflow: Workflow, number: int) -> float:
    """Six readings, and their mean."""
    readings = []
    for _ in range(6):
        readings.append(await workflow.do("Read", read_sensor, retries=3, retry_delay="5s"))
        await workflow.sleep("Pause", PAUSE)
    mean = round(sum(readings) / len(readings), 2)
    await workflow.do("Upload", upload, (number, mean), retries=100_000, retry_delay="1min")
    return mean
