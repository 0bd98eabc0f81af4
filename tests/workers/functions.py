"""Functions that a worker process can import."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from pikkupy import NonRetryableError, Services, current_step
from pikkupy.registry import Registry

registry = Registry()


class Order(msgspec.Struct):
    price: int
    count: int


class Sum(msgspec.Struct):
    total: int


class Declined(Exception):
    def __init__(self, code: int, reason: str) -> None:  # such a class does not survive pickling
        super().__init__(f"{code}: {reason}")


@registry.function(worker="process")
def total(services: Services, data: Order) -> Sum:
    return Sum(data.price * data.count)


@registry.function(worker="process")
def untyped(services, data):
    return {"total": data["price"] * data["count"]}


@registry.function(worker="process")
async def context(services: Services) -> dict[str, Any]:
    await asyncio.sleep(0)
    step, current = services.workflow_step, current_step()
    assert step is not None and current is not None
    return {"same": step == current, "attempt": step.attempt_count, "key": step.invocation_id, "pid": os.getpid()}


@registry.function(worker="process")
def pid(services: Services) -> int:
    return os.getpid()


@registry.function(worker="process")
def group(services: Services) -> int:
    return os.getpgrp()


@registry.function(worker="process")
def crm(services: Any) -> Any:
    return services.crm


@registry.function(worker="process")
def chatter(services: Services) -> str:
    print("to standard output", flush=True)
    subprocess.run([sys.executable, "-c", "print('from a child'); input()"], stderr=subprocess.DEVNULL, check=False)
    return sys.stdin.read()


@registry.function(worker="process")
def declined(services: Services) -> None:
    raise Declined(51, "insufficient funds")


@registry.function(worker="process")
def hopeless(services: Services) -> None:
    raise NonRetryableError("no such account")


@registry.function(worker="process")
def leave(services: Services) -> None:
    raise SystemExit(3)


@registry.function(worker="process")
async def leave_async(services: Services) -> None:
    raise KeyboardInterrupt


@registry.function(worker="process")
def lambda_out(services: Services) -> Any:
    return lambda: None


@registry.function(worker="process")
def die(services: Services, data: int) -> None:
    os._exit(data)


@registry.function(worker="process")
def die_by_signal(services: Services) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@registry.function(worker="process")
def die_and_leave_a_fork(services: Services, data: str) -> None:
    """The fork, which writes its process id, holds the pipe to the engine open."""
    if os.fork() == 0:
        Path(data + ".new").write_text(str(os.getpid()))
        Path(data + ".new").rename(data)
        time.sleep(60)
        os._exit(0)
    while not Path(data).exists():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


@registry.function(worker="process")
def hang(services: Services, data: str) -> None:
    """Write the own process id, then hang."""
    Path(data + ".new").write_text(str(os.getpid()))
    Path(data + ".new").rename(data)
    time.sleep(600)


@registry.function(worker="process")
def wait_for_file(services: Services, data: str) -> str:
    Path(data + ".ready").touch()
    while not Path(data).exists():
        time.sleep(0.001)
    return "there it is"


def plain(services: Services) -> None:
    """Registered nowhere."""


@registry.function
def on_a_thread(services: Services) -> None:
    """Registered, but for threads."""


def later(services: Services) -> str:
    return "later"


registered_later = registry.function(name="laterOn", worker="process")(later)
