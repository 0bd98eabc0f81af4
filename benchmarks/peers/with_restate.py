"""Restate: one node of the server, and a service with its Python SDK in a process of its own.

Durable to loss of power: the log server's RocksDB syncs its write-ahead log, as it comes.

- A run is an invocation of a handler, a step a `ctx.run_typed`.
- throughput: 256 callers ask the server over HTTP, each for one run after another. sleepers: one caller for each run.
- rpc: `ctx.service_call` of another handler, through the server.
- recovery: the service kills the server and itself in the middle. Both are started again; the clock stops when the
  server has told the results of all runs. replay: both are killed while the run waits for an awakeable.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from _adapter import (
    SETTLE_S,
    STEPS_PER_RUN,
    WARM_UP,
    Answer,
    Task,
    answer,
    checked,
    lateness,
    round_trips,
)

CALLERS = 256
SERVER = "node_modules/@restatedev/restate-server-*/bin/restate-server"
connections = threading.local()


@dataclass(frozen=True)
class Ports:
    """Where everything listens."""

    ingress: int
    admin: int
    node: int
    service: int


def free_ports() -> Ports:
    """Four that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return Ports(*ports)


def ask(port: int, method: str, path: str, body: object = None) -> Any:
    """One request on this thread's connection; the answer, decoded."""
    kept: dict[int, HTTPConnection] = connections.__dict__.setdefault("kept", {})
    connection = kept.setdefault(port, HTTPConnection("127.0.0.1", port, timeout=600))
    payload = None if body is None else json.dumps(body)
    connection.request(method, path, payload, {"content-type": "application/json"} if payload else {})
    reply = connection.getresponse()
    text = reply.read()
    if reply.status >= 300:
        raise RuntimeError(f"{path}: {reply.status} {text.decode()}")
    return json.loads(text) if text else None


def when_up(act: Callable[[], object]) -> None:
    """Do it as soon as the one that is asked listens and answers."""
    while True:
        try:
            act()
        except (OSError, RuntimeError):
            connections.__dict__.pop("kept", None)
            time.sleep(0.01)
        else:
            return


@contextmanager
def started(task: Task, ports: Ports, *, register: bool = True) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The service and the server are up, and know each other."""
    service = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("restate_service.py")), str(ports.service), str(task.folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = subprocess.Popen(
        [str(next(Path(sys.prefix).glob(SERVER))), "--no-logo", "--base-dir", str(task.folder / "restate")],
        env={
            **os.environ,
            "RESTATE_NODE_NAME": "peer",
            "RESTATE_BIND_IP": "127.0.0.1",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BIND_PORT": str(ports.node),
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{ports.node}",
            "RESTATE_INGRESS__BIND_PORT": str(ports.ingress),
            "RESTATE_ADMIN__BIND_PORT": str(ports.admin),
            "RESTATE_DISABLE_TELEMETRY": "true",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    both = [service, server]
    (task.folder / "server").write_text(str(server.pid), encoding="ascii")
    try:
        if register:
            deployment = {"uri": f"http://127.0.0.1:{ports.service}", "force": True}
            when_up(lambda: ask(ports.admin, "POST", "/deployments", deployment))
        when_up(lambda: ask(ports.ingress, "POST", "/peer/count"))
        yield both
    finally:
        kill(both)


def kill(both: Sequence[subprocess.Popen[bytes]]) -> None:
    """Both processes, and wait for them."""
    for process in both:
        process.send_signal(signal.SIGKILL)
        process.wait()
    connections.__dict__.pop("kept", None)


def call(ports: Ports, handler: str, body: object = None) -> Any:
    """Invoke a handler and wait for its result."""
    return ask(ports.ingress, "POST", f"/peer/{handler}", body)


def sequential(task: Task) -> Answer:
    """One run."""
    ports = free_ports()
    with started(task, ports):
        call(ports, "chain", WARM_UP)
        begun = time.perf_counter()
        total = call(ports, "chain", task.size)
        seconds = time.perf_counter() - begun
    assert total == sum(range(task.size))
    return {"seconds": seconds, "steps": task.size}


def throughput(task: Task) -> Answer:
    """Many."""
    ports = free_ports()
    with started(task, ports), ThreadPoolExecutor(CALLERS) as callers:
        call(ports, "chain", WARM_UP)
        begun = time.perf_counter()
        totals = list(callers.map(lambda _: call(ports, "chain", STEPS_PER_RUN), range(task.size)))
        seconds = time.perf_counter() - begun
    assert totals == [sum(range(STEPS_PER_RUN))] * task.size
    return {"seconds": seconds, "steps": task.size * STEPS_PER_RUN}


def sleepers(task: Task) -> Answer:
    """Many that sleep."""
    ports = free_ports()
    with started(task, ports), ThreadPoolExecutor(task.size) as callers:
        begun = time.perf_counter()
        late_s = list(callers.map(lambda number: call(ports, "nap", number), range(task.size)))
        seconds = time.perf_counter() - begun
    return lateness(seconds, late_s)


def rpc(task: Task) -> Answer:
    """One run that calls."""
    ports = free_ports()
    with started(task, ports):
        call(ports, "caller", WARM_UP)
        return round_trips(call(ports, "caller", task.size))


def recovery(task: Task) -> Answer:
    """Many runs, killed in the middle."""
    ports = free_ports()
    half = task.size * STEPS_PER_RUN // 2
    (task.folder / "middle").write_text(str(half), encoding="ascii")
    with started(task, ports) as both:
        ids = [ask(ports.ingress, "POST", "/peer/interrupted/send")["invocationId"] for _ in range(task.size)]
        (task.folder / "gate").touch()
        for process in both:
            assert process.wait() == -signal.SIGKILL
    (task.folder / "middle").unlink()
    begun = time.perf_counter()
    with started(task, ports, register=False):
        totals = [ask(ports.ingress, "GET", f"/restate/invocation/{one}/attach") for one in ids]
        seconds = time.perf_counter() - begun
        told = {"ran": call(ports, "count"), "runs": totals.count(sum(range(STEPS_PER_RUN)))}
    return checked(task, seconds, half, told)


def replay(task: Task) -> Answer:
    """A run that waits after many steps."""
    ports = free_ports()
    (task.folder / "gate").touch()
    named = task.folder / "awakeable"
    with started(task, ports):
        run = ask(ports.ingress, "POST", "/peer/waiting/send", task.size)["invocationId"]
        while not named.exists():
            time.sleep(0.01)
        time.sleep(SETTLE_S)
        ran_before = call(ports, "count")
    begun = time.perf_counter()
    with started(task, ports, register=False):
        ask(ports.ingress, "POST", f"/restate/awakeables/{named.read_text(encoding='ascii')}/resolve")
        ask(ports.ingress, "GET", f"/restate/invocation/{run}/attach")
        seconds = time.perf_counter() - begun
        return checked(task, seconds, ran_before, {"ran": call(ports, "count")})


if __name__ == "__main__":
    answer(
        __doc__,
        {
            "sequential": sequential,
            "throughput": throughput,
            "sleepers": sleepers,
            "recovery": recovery,
            "replay": replay,
            "rpc": rpc,
        },
    )
