"""The page with the help of every command: `python -m tests.cli.help` writes it anew."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App
from rich.console import Console

from pikkupy.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "cli-help.md"
COLUMNS = 100
HEAD = """# The help of every command

What `pikku … --help` prints, on 100 columns; [cli.md](cli.md) says what the commands are for. The page is compared with
the commands in the tests, and written anew by `python -m tests.cli.help`.
"""


def page() -> str:
    """What stands in it."""
    parts = [HEAD]
    for name in ("", *names_of(app, "")):
        command = f"pikku {name}".rstrip()
        parts.append(f"## {command}\n\n```console\n$ {command} --help\n{help_of(name)}\n```\n")
    return "\n".join(parts)


def names_of(group: App, name: str) -> Iterator[str]:
    """Every command and group of commands, with the names of the groups that it is in."""
    for one in group:
        if not one.startswith("-"):
            whole = f"{name} {one}".strip()
            yield whole
            yield from names_of(group[one], whole)


def help_of(name: str) -> str:
    """As it is printed where there are no colours."""
    out = io.StringIO()
    console = Console(file=out, width=COLUMNS, color_system=None, force_terminal=False)
    app([*name.split(), "--help"], console=console, exit_on_error=False, result_action="return_value")
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
