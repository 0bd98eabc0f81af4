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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from cyclopts import App

from pikkupy.cli.app import app
from pikkupy.engine.health import checks_of, code_check
from pikkupy.store import back_up, facts_of
from tests.children import child
from tests.cli.shell import COLOURS, ROOT, environment
from tests.journals import fill
from tests.test_docs import program_of, run_script

PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def examples(text: str) -> list[tuple[str, str]]:
    """Each command, and what it shows."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = [example for block in blocks for example in re.split(r"^(?=\$ )", block, flags=re.MULTILINE) if example]
    return [(first.removeprefix("$ "), shown) for first, _, shown in (example.partition("\n") for example in found)]


ERASED = re.compile(r"\r[^\r\n]*\x1b\[K")  # how far it was
ALONE, _, AS_JSON = PAGE.partition("## As JSON, command by command")
EXAMPLES, SHOWN_AS_JSON = examples(ALONE), examples(AS_JSON)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the journal of the page, and `pikku` beside it."""
    return shop_in(tmp_path_factory.mktemp("shop"))


def shop_in(folder: Path) -> Path:
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
    elif command.startswith("pikku restore"):
        (shop / "copy.db").unlink(missing_ok=True)
        back_up(str(shop / "shop.db"), str(shop / "copy.db"))

    told = on_terminal(command, shop)

    assert fits(told, shown), told


def fits(told: str, shown: str) -> bool:
    """Whether it is what the page shows."""
    lines, wanted = unwrapped(told), unwrapped(shown)
    patterns = [r"\s+".join(re.escape(word).replace("…", ".*") for word in line.split()) for line in wanted]
    return len(lines) == len(wanted) and all(
        re.fullmatch(pattern, line.strip()) for line, pattern in zip(lines, patterns, strict=True)
    )


def unwrapped(text: str) -> list[str]:
    """Its lines, with a last column in one: what of that is in the first depends on how long ago something was."""
    lines = list[str]()
    for line in text.rstrip().splitlines():
        if lines and line.startswith(20 * " "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return lines


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Another such folder, with an engine at work."""
    folder = shop_in(tmp_path_factory.mktemp("busy"))
    with engine_in(folder):
        yield folder


@pytest.mark.parametrize(("command", "shown"), SHOWN_AS_JSON, ids=[command for command, _ in SHOWN_AS_JSON])
def test_what_the_page_shows_as_json_is_what_is_said(busy: Path, command: str, shown: str) -> None:
    """One after another; a run is acted on as soon as it has come so far."""
    ends = time.monotonic() + 30
    while not fits(told := on_terminal(command, busy), shown) and time.monotonic() < ends:
        assert told.startswith("pikku: "), told
    assert fits(told, shown), told


def test_every_command_that_gives_json_shows_it_in_the_page() -> None:
    """Also the one that gives a line for each."""
    shown = [command for command, _ in SHOWN_AS_JSON]
    for name, command in commands_of(app, ""):
        options = {option for argument in command.assemble_argument_collection() for option in argument.names}
        for option in options & {"--json", "--jsonl"}:
            if (name, option) not in {("demo", "--json"), ("runs list", "--jsonl")}:  # of the README, and further up
                assert any(one.startswith(f"pikku {name} ") and option in one for one in shown), (name, option)


def on_terminal(command: str, folder: Path) -> str:
    """What people see of the command, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    with child(
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
    return ERASED.sub("", COLOURS.sub("", told.decode()).replace("\r\n", "\n"))


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
    path = f"{shop / 'bin'}:{os.environ['PATH']}"
    with engine_in(shop):
        for line in block.splitlines():
            done = subprocess.run(["sh", "-c", line], cwd=shop, capture_output=True, env=environment(PATH=path))
            assert done.returncode == 0, (line, done.stderr)


@contextmanager
def engine_in(shop: Path) -> Iterator[None]:
    """With the page's workflows, on its journal."""
    (shop / "shop.py").write_text(program_of(PAGE).partition("async def main")[0])
    (shop / "engine.py").write_text(SERVE)
    with child(
        [sys.executable, "engine.py"], cwd=shop, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as engine:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"open\n"
        yield
        assert engine.stdin is not None
        engine.stdin.close()
        assert engine.wait(20) == 0


SERVE = """
import asyncio, sys
from shop import pikku

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
