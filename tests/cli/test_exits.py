"""Exit codes: one table, in the code and in the docs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pikkupy import (
    EngineClosed,
    JournalFormatError,
    JournalLocked,
    PayloadError,
    PikkuError,
    ReplayMismatch,
    RunCancelled,
    RunNotFound,
)
from pikkupy.cli.exits import MEANINGS, Exit, exit_of
from pikkupy.errors import BadValue, JournalNotFound
from tests.cli.shell import command, environment


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PikkuError("x"), 1),
        (JournalFormatError("x"), 1),
        (RuntimeError("x"), 1),
        (PermissionError("x"), 1),
        (BadValue("x"), 2),
        (PayloadError("x"), 2),
        (RunCancelled("r", "x"), 3),
        (RunNotFound("x"), 4),
        (JournalNotFound("x"), 4),
        (FileNotFoundError("x"), 4),
        (JournalLocked("x"), 5),
        (FileExistsError("x"), 5),
        (ReplayMismatch("x"), 6),
        (TimeoutError("x"), 124),
        (EngineClosed("x"), 124),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_code(error: BaseException, code: int) -> None:
    """That of its class, or of the nearest base that has one."""
    assert exit_of(error) == code


def test_every_code_is_in_the_docs() -> None:
    """With the meaning that `--help` gives."""
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|$", page, re.MULTILINE)

    assert set(MEANINGS) == set(Exit)
    assert rows == [(str(code.value), meaning) for code, meaning in MEANINGS.items()]


@pytest.mark.parametrize(
    ("closed", "arguments", "code", "said"),
    [
        (">&-", ("--version",), 0, ""),
        ("2>&-", ("runs", "list", "no.db"), 4, ""),
        ("<&-", ("start", "no.db", "order", "-d", "-"), 2, "--data: this is no JSON"),
        ("<&- >&- 2>&-", ("init", "new"), 0, ""),
    ],
)
def test_a_closed_stream_is_one_to_nowhere(
    closed: str, arguments: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    """The code is that of the command, and no file that is opened takes its place."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command(*arguments)],
        cwd=tmp_path,
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
