"""Shared by all tests: coroutine tests run under anyio's plugin on asyncio, and none of them can hang the whole run."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import inspect
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

TAKING_DOWN_S = 60.0
"""What a test may take beyond its timeout. pytest-timeout interrupts a test once, and nothing that fails after that."""
WOULD_NOT_END = 70
"""How a process ends whose test would not: a status that pytest itself does not use."""


@pytest.fixture
def anyio_backend() -> str:
    """pikkupy is for asyncio alone."""
    return "asyncio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every `async def test_…` is an anyio test without saying so."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            item.add_marker(pytest.mark.anyio)
            item.fixturenames.append("anyio_backend")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Path]:
    """The path of a journal that does not exist yet."""
    yield tmp_path / "app.db"


class Guard(threading.Thread):
    """Ends the process, and says where each thread and task stands, when a test outlives even its timeout.

    pytest-timeout raises in the test, and pytest drops every timer when a test has failed: a `finally`, a fixture or a
    loop that waits for ever after that would be waited for.
    """

    def __init__(self, stderr: int) -> None:
        super().__init__(name="guard of the tests", daemon=True)
        self._stderr = stderr
        self._watched: tuple[str, float] | None = None  # the test, and when it has to be over

    def watch(self, test: pytest.Item) -> None:
        marker = test.get_closest_marker("timeout")
        timeout_s = float(marker.args[0] if marker else test.config.getini("timeout"))
        self._watched = (test.nodeid, monotonic() + timeout_s + TAKING_DOWN_S)

    def rest(self) -> None:
        self._watched = None

    def run(self) -> None:
        while True:
            sleep(1.0)
            watched = self._watched
            if watched is not None and monotonic() > watched[1]:
                self._give_up(watched[0])

    def _give_up(self, test: str) -> None:
        with os.fdopen(self._stderr, "w") as stderr:
            print(f"\n{test} does not end, not even after its timeout. Its threads:", file=stderr, flush=True)
            faulthandler.dump_traceback(stderr)
            for task in [thing for thing in gc.get_objects() if isinstance(thing, asyncio.Task) and not thing.done()]:
                task.print_stack(file=stderr)
        os._exit(WOULD_NOT_END)


GUARD = pytest.StashKey[Guard]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[GUARD] = Guard(os.dup(2))  # where nothing is captured
    config.stash[GUARD].start()


def pytest_enter_pdb(config: pytest.Config) -> None:
    """Somebody looks at the test, for as long as that takes."""
    config.stash[GUARD].rest()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    guard = item.config.stash[GUARD]
    guard.watch(item)
    try:
        return (yield)
    finally:
        guard.rest()
