"""Journals for the tests of the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pikkupy.store import Journal
from tests.store.samples import open_journal


@pytest.fixture
def anyio_backend() -> str:
    """pikkupy is for asyncio alone."""
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a journal can be."""
    return str(tmp_path / "app.db")


@pytest.fixture
async def journal(path: str) -> AsyncIterator[Journal]:
    """An open journal at `path`."""
    opened = await open_journal(path)
    yield opened
    await opened.close()
