"""What ends a run of the tests that would hang: `conftest.Guard`."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import WOULD_NOT_END

HANGS = """
import asyncio
import os

from tests.conftest import TAKING_DOWN_S, Guard


class Test:
    nodeid = "test_it.py::test_that_hangs"

    class config:
        getini = staticmethod({"timeout": -TAKING_DOWN_S}.get)

    def get_closest_marker(self, name):
        return None


async def hang():
    await asyncio.Event().wait()


guard = Guard(os.dup(2))
guard.watch(Test())
guard.start()
asyncio.run(hang())
"""


def test_a_test_that_outlives_its_timeout_ends_its_process_and_tells_where_it_stood() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", HANGS], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60
    )

    assert ran.returncode == WOULD_NOT_END
    assert "test_it.py::test_that_hangs does not end" in ran.stderr
    assert "in run_forever" in ran.stderr
    assert "coro=<hang()" in ran.stderr
