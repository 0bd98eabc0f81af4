"""The commands of docs/cli.md do what stands there, on a terminal of 100 columns."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cyclopts import App

from pikkupy.cli.app import app
from pikkupy.engine.health import checks_of, code_check
from pikkupy.store import facts_of
from tests.cli.shell import COLOURS, ROOT, environment
from tests.journals import fill
from tests.test_docs import program_of, run_script

PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = [
    tuple(example.removeprefix("$ ").partition("\n")[::2])
    for block in BLOCKS
    for example in re.split(r"^(?=\$ )", block, flags=re.MULTILINE)
    if example
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the journal of the page, and `pikku` beside it."""
    folder = tmp_path_factory.mktemp("shop")
    done = run_script("cli.py", program_of(PAGE), folder)
    assert done.returncode == 0, done.stderr
    (folder / "bin").mkdir()
    script = folder / "bin" / "pikku"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m pikkupy "$@"\n')
    script.chmod(0o755)
    return folder


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_a_command_of_the_page_shows_what_stands_there(shop: Path, command: str, shown: str) -> None:
    """`…` stands for what depends on the machine."""
    if command.startswith("pikku backup") and "echo" not in command:
        (shop / "copy.db").unlink(missing_ok=True)
    elif command.startswith("pikku backup"):
        (shop / "copy.db").touch()

    told = on_terminal(command, shop)

    lines = [line.rstrip() for line in told.splitlines()]
    wanted = [line.rstrip() for line in shown.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    assert len(lines) == len(wanted), told
    for line, pattern in zip(lines, wanted, strict=True):
        expression = r"\s+".join(re.escape(word).replace("…", ".*") for word in pattern.split())
        assert re.fullmatch(expression, line.strip()), told


def on_terminal(command: str, folder: Path) -> str:
    """What people see of the command, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["sh", "-c", command], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(PATH=path)
    ) as process:
        os.close(theirs)
        told = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:
                break
            if not part:
                break
            told += part
        process.wait()
    os.close(ours)
    return COLOURS.sub("", told.decode()).replace("\r\n", "\n")


def test_every_command_and_option_is_in_the_page() -> None:
    """A command that nobody can look up fails here, as does an option."""
    commands = dict(commands_of(app, ""))
    assert len(commands) > 10
    for name, command in commands.items():
        if name == "demo":  # of the README
            continue
        assert f"pikku {name} " in PAGE or f"pikku {name}\n" in PAGE
        for argument in command.assemble_argument_collection():
            for option in argument.names:
                assert option in PAGE or option.startswith(("--no-", "*")), f"{name} {option}"


def commands_of(group: App, name: str) -> Iterator[tuple[str, App]]:
    """All commands, with those of the groups in it."""
    names = [one for one in group if not one.startswith("-")]
    if not names:
        yield name, group
    for one in names:
        yield from commands_of(group[one], f"{name} {one}".strip())


def test_the_commands_that_act_do_what_stands_there(shop: Path) -> None:
    """On the page's journal, with an engine that has its workflows."""
    [block] = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    program = program_of(PAGE).partition("async def main")[0]
    (shop / "engine.py").write_text(f"{program}\n{SERVE}")
    path = f"{shop / 'bin'}:{os.environ['PATH']}"
    with subprocess.Popen(
        [sys.executable, "engine.py"], cwd=shop, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as engine:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"open\n"
        for line in block.splitlines():
            done = subprocess.run(["sh", "-c", line], cwd=shop, capture_output=True, env=environment(PATH=path))
            assert done.returncode == 0, (line, done.stderr)
        assert engine.stdin is not None
        engine.stdin.close()


SERVE = """
import sys

async def serve() -> None:
    async with pikku.open("shop.db", shutdown_grace=0):
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(serve())
"""


def test_every_check_of_the_doctor_is_in_the_page(db: Path) -> None:
    """By its name."""
    asyncio.run(fill(db))
    facts = msgspec.structs.replace(facts_of(str(db), 0, check=False), links=2)
    listed = re.findall(r"^\| `([a-z ]+)` \|", PAGE.partition("## Is all well?")[2], re.MULTILINE)

    assert listed == [check.name for check in [*checks_of(facts, 0), code_check(0, [])]]
