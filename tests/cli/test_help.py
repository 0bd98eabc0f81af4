"""The page with the help of every command is what they print."""

from __future__ import annotations

import re

from tests.cli.help import COLUMNS, PAGE, names_of, page
from tests.cli.shell import ROOT, piped


def test_the_page_has_the_help_of_every_command() -> None:
    """Also of groups of them."""
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.cli.help"


def test_a_command_prints_what_stands_in_the_page() -> None:
    """As a process does, on a pipe."""
    text = PAGE.read_text(encoding="utf-8")
    for name in ("", "runs list", "console"):
        printed = piped(*name.split(), "--help", COLUMNS=str(COLUMNS)).out
        lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
        assert "\n".join([f"$ {f'pikku {name}'.rstrip()} --help", *lines, "```"]) in text


def test_the_page_is_found() -> None:
    """From the README and the page of the command line."""
    assert "(cli-help.md)" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert "(docs/cli-help.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_has_a_heading() -> None:
    """And no other."""
    from pikkupy.cli.app import app

    headings = re.findall(r"^## pikku ?(.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == ["", *names_of(app, "")]
