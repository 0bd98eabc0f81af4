"""Where output goes: data to stdout, talk to stderr; tables for people, tabs and JSON for programs."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pikkupy.errors import JournalLocked
from pikkupy.showing.marks import Mark
from pikkupy.showing.words import clean, json_of
from pikkupy.store import OTHERS

WIDEST = 48  # characters of a column
REASON = 30  # columns that the last one of a list has at least for reasons; else they are below
MOST_OF_REASON = 200  # characters of a reason in a list
_OR_USE_IT = ", or use it: `pikku start`, `pikku runs` and `pikku console` ask the engine that has the file"
PIPE_WIDTH = 120  # characters of a line that goes to no terminal, unless COLUMNS says otherwise


class Entry(NamedTuple):
    """One thing of a list: a row of a table; or two lines, where the terminal is too narrow for that."""

    cells: Sequence[Text | str]
    """Of the row."""
    head: Text
    """Else the first line, and"""
    facts: Sequence[str]
    """what the second one begins with."""
    why: Text
    """What either ends with: nothing of it is cut off, and it is not left out."""


class Output(Console):
    """Standard output for rich. That its reader has gone is the same error as in every other write."""

    def on_broken_pipe(self) -> None:
        """Called where that was caught."""
        raise BrokenPipeError


class Screen:
    """Standard output."""

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
        self.console = Output(highlight=False, markup=False, emoji=False, width=width)

    @property
    def is_terminal(self) -> bool:
        """True if people look at it."""
        return self.console.is_terminal

    @property
    def width(self) -> int:
        """Characters of a line."""
        return self.console.width

    @property
    def has_symbols(self) -> bool:
        """Whether it takes more than ASCII."""
        return self.console.encoding.lower().startswith("utf")

    def marked(self, mark: Mark, words: str = "") -> Text:
        """The symbol, and the words after it."""
        symbol = mark.symbol if self.has_symbols else mark.plain
        return Text(f"{symbol} {words}" if words else symbol, mark.style)

    def show(self, *parts: Text | Table | Padding | str) -> None:
        """Print each on lines of its own."""
        for part in parts:
            self.console.print(part, soft_wrap=isinstance(part, str))

    def entries(self, headings: Sequence[str], entries: Sequence[Entry], right: Sequence[str] = ()) -> None:
        """A list for people."""
        short = table(*headings, right=right)
        made = table(*headings, "", right=right)
        for one in entries:
            short.add_row(*one.cells)
            made.add_row(*one.cells, one.why)
        columns = short.__rich_measure__(self.console, self.console.options.update(max_width=sys.maxsize)).maximum
        longest = max((one.why.cell_len for one in entries), default=0)
        if columns + min(longest, REASON) <= self.width:
            self.show(made if longest else short)
            return
        for one in entries:
            self.show(one.head)
            second = Text("  ").join([*(Text(fact) for fact in one.facts if fact), *([one.why] if one.why else [])])
            self.show(Padding(second, (0, 0, 0, 2), expand=False))

    def rows(self, rows: Iterable[Sequence[str]]) -> None:
        """For programs: a line for each, with tabs between; there are none in the texts, they are escapes there."""
        for row in rows:
            sys.stdout.write("\t".join(map(clean, row)) + "\n")

    def json(self, document: object) -> None:
        """One document."""
        sys.stdout.write(json_of(document, indent=2) + "\n")

    def jsonl(self, documents: Iterable[object]) -> None:
        """One document a line."""
        for document in documents:
            sys.stdout.write(json_of(document) + "\n")


def open_closed() -> None:
    """Let a standard stream that is closed lead nowhere: the next file that is opened would be in its place."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            found = os.open(os.devnull, os.O_RDWR)
            if found != number:
                os.dup2(found, number)
                os.close(found)
            os.set_inheritable(number, True)  # as they are
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def nobody_reads() -> None:
    """Whoever read has had enough, as `head` does: what is written to standard output from here on goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def whoever_reads() -> Iterator[None]:
    """For what ends with a verdict, and does so also if its reader goes: the work goes on."""
    try:
        yield
    except BrokenPipeError:
        nobody_reads()


def say(words: str) -> None:
    """Tell the person at the keyboard, not the program behind the pipe."""
    sys.stderr.write(f"pikku: {clean(words)}\n")


def words_of(error: BaseException) -> str:
    """What is said of an error; of one of the system, which file it was and what to do, not only its own words."""
    if isinstance(error, JournalLocked):
        return str(error).replace(OTHERS, _OR_USE_IT)
    if not isinstance(error, OSError) or error.strerror is None or not isinstance(error.filename, str | PathLike):
        return str(error)
    path = Path(error.filename)
    match error.errno:
        case errno.ENOENT if not path.parent.exists():
            return f"{path}: the folder {path.parent} does not exist; create it first"
        case errno.ENOENT:
            return f"{str(error.filename)!r} does not exist"
        case errno.EEXIST:
            return f"{path} is there already; give a name that is free"
        case errno.ENOTDIR:
            return f"{path}: a file is in the place of a folder; give another name"
        case errno.EISDIR:
            return f"{path} is a directory; give the name of a file"
        case errno.ELOOP:
            return f"{path} is a symbolic link; give the name of the file itself"
        case _:
            return f"{path}: {error.strerror}"


def tell(words: str) -> None:
    """How far it is: on a terminal, on one line of standard error that the next call writes anew; empty: clear it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{words}\x1b[K")
        sys.stderr.flush()


def table(*headings: str, right: Sequence[str] = (), gives: str = "") -> Table:
    """A table without lines. Where there is no room, the column `gives` gives way first."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in headings:
        made.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=heading != gives,
            max_width=None if heading == gives else WIDEST,
        )
    return made


def whole(words: str, style: str = "") -> Text:
    """A cell that is shown to its last character, on several lines if need be: what is copied from there."""
    return Text(clean(words), style, no_wrap=False, overflow="fold")


def reason(words: str, style: str) -> Text:
    """The same for a reason, which may be very long: the beginning of it then."""
    return whole(words if len(words) <= MOST_OF_REASON else f"{words[:MOST_OF_REASON]} …", style)
