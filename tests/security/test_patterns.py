"""Every regular expression of the package takes time in proportion to what it is given, whatever that is."""

from __future__ import annotations

import ast
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pikkupy"
CPU_S = 20  # of one process, for two or three of work: what backtracks takes hours
TRY = """
import json, re, sys
pattern, pieces, size = json.load(sys.stdin)
for piece in pieces:
    for end in ("", "!", "\\n", "\\x00"):
        text = piece * (size // len(piece)) + end
        re.search(pattern, text)
        re.fullmatch(pattern, text)
"""
PIECES = [
    "0", "9a", "a", "s", "aB", "/", "a/", "_", "#1", "#",
    "\\", "\\0", "\\012", '"', '\\"', "[", "{", "}", ":", "~.", "/.", "/a.",
    '"$t":"', " ", "\n", "(", "?, ", "VALUES (", "VALUES (?", "-- name: a", '  File "', '  File "a", line 1', " - at `",
    "`", " - at `key` in `$", "\u2028", "\x7f",
]  # fmt: skip


def patterns() -> Iterator[str]:
    """The patterns of the package, as they stand or by a name of their module: what is handed to `re`, and what msgspec
    checks texts by.
    """
    for path in PACKAGE.rglob("*.py"):
        module = ast.parse(path.read_text(encoding="utf-8"))
        named = {
            target.id: node.value
            for node in module.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(module):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            if (
                isinstance(function, ast.Attribute)
                and isinstance(function.value, ast.Name)
                and function.value.id == "re"
            ):
                given = [node.args[0]]
            else:
                given = [word.value for word in node.keywords if word.arg == "pattern"]
            for one in (named.get(one.id, one) if isinstance(one, ast.Name) else one for one in given):
                if isinstance(one, ast.Constant):
                    yield one.value.decode() if isinstance(one.value, bytes) else one.value


def test_the_patterns_are_found() -> None:
    """As many as there are calls of `re`, and texts with a pattern."""
    assert len(set(patterns())) >= 20


@pytest.mark.parametrize("pattern", sorted(set(patterns())))
def test_a_pattern_takes_no_more_than_its_share(pattern: str) -> None:
    """S10: over texts of 100,000 characters that repeat what it looks for, in a process whose time is limited."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", TRY],
        input=json.dumps([pattern, PIECES, 100_000]),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S)),
    )

    assert done.returncode == 0, (done.returncode, done.stderr)


ENUM = """
import enum, sys
from pikkupy import PayloadError
from pikkupy.codec import Codec

Colour = enum.Enum("Colour", {"RED": "red"})
try:
    Codec(2_000_000, 2_000_000, lambda *_: None).encode(" - at `$" * 240_000, Colour, what="input")
except PayloadError as error:
    print(len(str(error)))
"""


def test_a_refusal_that_quotes_a_long_text_takes_no_more_than_its_share() -> None:
    """S10: msgspec quotes the value, and its message is taken apart to find the path."""
    done = subprocess.run(
        [sys.executable, "-c", ENUM],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S)),
    )

    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout
