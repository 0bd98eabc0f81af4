"""Shared by all tests: coroutine tests run under anyio's plugin on asyncio."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest


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
