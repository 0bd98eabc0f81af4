"""Exit codes: one table, in the code and in the docs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
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
from pikkupy.cli.screen import words_of
from pikkupy.errors import AddressTaken, BadValue, JournalNotFound
from pikkupy.private import read_own
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
        (AddressTaken("x"), 5),
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


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Path("there/no").read_bytes(), "'there/no' does not exist"),
        (lambda: Path("nowhere/no").read_bytes(), "nowhere/no: the folder nowhere does not exist; create it first"),
        (lambda: Path("there").mkdir(), "there is there already; give a name that is free"),
        (lambda: Path("file/no").mkdir(), "file/no: a file is in the place of a folder; give another name"),
        (lambda: Path("there").read_bytes(), "there is a directory; give the name of a file"),
        (lambda: read_own("there"), "there is a directory; give the name of a file"),
        (lambda: read_own("link"), "link is a symbolic link; give the name of the file itself"),
        (lambda: Path("x" * 300).read_bytes(), f"{'x' * 300}: File name too long"),
    ],
)
def test_an_error_of_the_system_is_told_with_its_file(
    make: Callable[[], object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with what to do; one that has words already keeps them."""
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("file").touch()
    Path("link").symlink_to("file")

    with pytest.raises(OSError) as error:
        make()

    assert words_of(error.value) == said
    assert words_of(FileNotFoundError("in words")) == "in words"
