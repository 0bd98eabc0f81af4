"""Commands as people and programs run them: on a pseudo-terminal, on a pipe, and in this process."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import NamedTuple

from tests.children import child

ROOT = Path(__file__).parents[2]
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # all that a terminal gets beside printable text


class Ended(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def plain(self) -> str:
        """Its output without colours."""
        return COLOURS.sub("", self.out)

    @property
    def lines(self) -> list[list[str]]:
        """The fields of each line."""
        return [line.split("\t") for line in self.out.splitlines()]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "PIKKU_DB"}}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "TZ": "UTC", **more}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-P", "-W", "error", "-m", "pikkupy", *map(str, arguments)]


def minds_ctrl_c() -> None:
    """Of a new process: a shell lets what it starts in the background ignore SIGINT, and that is handed down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def piped(*arguments: str | Path, cwd: Path | None = None, **env: str) -> Ended:
    done = subprocess.run(
        command(*arguments), capture_output=True, cwd=cwd, env=environment(**env), check=False, timeout=60
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def unread(*arguments: str | Path, cwd: Path | None = None) -> Ended:
    """A command whose reader has gone before it writes anything."""
    theirs, ours = os.pipe()
    os.close(theirs)
    with os.fdopen(ours, "wb") as out:
        done = subprocess.run(
            command(*arguments), stdout=out, stderr=subprocess.PIPE, cwd=cwd, env=environment(), check=False, timeout=60
        )
    return Ended(done.returncode, "", done.stderr.decode())


def asked(*arguments: str | Path, answer: str | signal.Signals, **env: str) -> Ended:
    """A command with a person at a terminal who answers what it asks there, or presses Ctrl-C."""
    ours, theirs = pty.openpty()
    with child(
        command(*arguments),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(**env),
        preexec_fn=minds_ctrl_c,
    ) as process:
        os.close(theirs)
        said = b""
        while not said.endswith(b"? [y/N] "):
            said += os.read(ours, 65_536)
        if isinstance(answer, str):
            os.write(ours, f"{answer}\n".encode())
        else:
            process.send_signal(answer)
        assert process.stdout is not None
        out = process.stdout.read()
        said += os.read(ours, 65_536)
        code = process.wait(20)
    os.close(ours)
    return Ended(code, out.decode(), said.decode().replace("\r\n", "\n"))


def on_terminal(*arguments: str | Path, columns: int = 110, **env: str) -> Ended:
    """Standard output is a terminal of so many columns, standard error a pipe."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with child(
        command(*arguments), stdout=theirs, stdin=theirs, stderr=subprocess.PIPE, env=environment(**env)
    ) as process:
        os.close(theirs)
        out = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            out += part
        assert process.stderr is not None
        err = process.stderr.read()
        code = process.wait()
    os.close(ours)
    return Ended(code, out.decode().replace("\r\n", "\n"), err.decode())
