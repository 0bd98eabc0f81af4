"""The timeline of a run as it is drawn in a terminal: a bar per step, each thing in it of a shape of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.cells import set_cell_size
from rich.text import Text

from pikkupy import Attempt, Run, Step
from pikkupy.showing.bars import Bar, Scale, Shape, bars_of, scale_of
from pikkupy.showing.words import clean, lasted, local

NAMES = 28  # characters of a step's name at most
LEAST = 10  # characters of a bar at least


# What a shape looks like: symbol, the same in ASCII, colour.
LOOKS: dict[Shape, tuple[str, str, str]] = {
    Shape.WORK: ("█", "#", "green"),
    Shape.FAILED: ("▒", "x", "red"),
    Shape.RUNNING: ("▶", ">", "cyan"),
    Shape.RETRY: ("·", ".", "yellow"),
    Shape.SLEEP: ("─", "-", "blue"),
    Shape.WAIT: ("┄", "~", "magenta"),
    Shape.CHILD: ("═", "=", "cyan"),
}


def draw(bars: Sequence[Bar], scale: Scale, width: int, *, symbols: bool) -> Text:
    """The bars in so many columns. What lasted is seen, however short it was."""
    cells: list[tuple[str, str]] = [(" ", "")] * width
    if scale.now is not None:
        cells[min(width - 1, scale.column(scale.now, width))] = ("│" if symbols else "|", "dim")
    for shape, begin, end in bars:
        symbol, ascii_symbol, style = LOOKS[shape]
        first = min(width - 1, scale.column(begin, width))
        for column in range(first, max(first + 1, scale.column(end, width))):
            cells[column] = (symbol if symbols else ascii_symbol, style)
    line = Text()
    for symbol, style in cells:
        line.append(symbol, style)
    return line


def timeline(
    run: Run,
    steps: Sequence[Step],
    attempts: Mapping[str, Sequence[Attempt]],
    now: datetime,
    *,
    whole: bool,
    width: int,
    symbols: bool,
) -> list[Text]:
    """The lines of the drawing: an axis, a line per step, and what the shapes mean."""
    names = min(NAMES, max((len(clean(step.name)) for step in steps), default=0))
    columns = max(LEAST, width - names - 1)
    scale = scale_of(run, steps, now, whole=whole)
    lines = [_axis(scale, names, columns)]
    seen: set[Shape] = set()
    for step in steps:
        bars = list(bars_of(step, attempts.get(step.name, ()), now))
        seen |= {bar.shape for bar in bars}
        line = Text(f"{set_cell_size(clean(step.name), names)} ")
        lines.append(line + draw(bars, scale, columns, symbols=symbols))
    legend = Text(" " * (names + 1))
    for shape in Shape:
        if shape in seen:
            symbol, ascii_symbol, style = LOOKS[shape]
            legend.append(symbol if symbols else ascii_symbol, style).append(f" {shape}  ", "dim")
    if scale.now is not None:
        legend.append("│" if symbols else "|", "dim").append(" now", "dim")
    return [*lines, legend]


def _axis(scale: Scale, names: int, columns: int) -> Text:
    begin, end = local(scale.begin), f"+{lasted(scale.end - scale.begin)}"
    return Text(" " * (names + 1) + begin + end.rjust(max(1 + len(end), columns - len(begin))), "dim")
