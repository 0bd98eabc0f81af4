"""The timeline of a run as it is drawn in a browser: numbers for an SVG, with a line per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from pikkupy.engine import Attempt, Run, Step
from pikkupy.showing.bars import Scale, bars_of, scale_of
from pikkupy.showing.words import clean, lasted, local

WIDTH = 1000  # of the part with the bars, which is stretched to the room that there is
ROW = 24
THIN = 4  # of a sleep's bar
THICK = 14
EDGE = 4  # at the right of all bars
LEAST = 2.0  # width of a bar, however short it was
NAME = 34  # characters of a name that are drawn; the whole name is in the title


class Block(NamedTuple):
    """A part of a bar."""

    kind: str  # a class of the style sheet
    x: float
    y: float
    width: float
    height: float
    title: str
    goes_on: bool
    """It ends now, whenever that is."""


class Line(NamedTuple):
    """A step."""

    name: str
    title: str
    y: float
    blocks: list[Block]


class Drawing(NamedTuple):
    """All of it."""

    width: int
    end: int
    """Where the last moment of the scale is."""
    height: int
    lines: list[Line]
    begin: str
    length: str
    now: float | None
    pace: float
    """By how much that moves on in a second."""
    at_ms: int
    """When it was so: each drawing has its own."""
    says_now: bool
    """There is room for the word."""
    shapes: list[str]  # those that are in it, for the legend


def drawing_of(
    run: Run, steps: Sequence[Step], attempts: Mapping[str, Sequence[Attempt]], now: datetime, *, whole: bool
) -> Drawing:
    """The drawing of these steps; `whole`: they are all that the run has."""
    scale = scale_of(run, steps, now, whole=whole)
    lines, shapes = list[Line](), dict[str, None]()
    for number, step in enumerate(steps):
        y = number * ROW
        blocks = []
        for shape, begin, end in bars_of(step, attempts.get(step.name, ()), now):
            shapes[shape] = None
            x, until = _x(scale, begin), _x(scale, end)
            height = THIN if shape.name in ("SLEEP", "WAIT") else THICK
            said = f"{clean(step.name)}: {shape}, {local(begin)}, {lasted(end - begin)}"
            top, width = y + (ROW - height) / 2, max(LEAST, round(until - x, 1))
            blocks.append(Block(shape.name.lower(), x, top, width, height, said, end == scale.now))
        name = clean(step.name)
        lines.append(Line(name if len(name) <= NAME else name[: NAME - 1] + "…", name, y, blocks))
    now_x = None if scale.now is None else _x(scale, scale.now)
    height = len(steps) * ROW + 8
    length = f"+{lasted(scale.end - scale.begin)}"
    if scale.now is not None and scale.now == scale.end:
        length = f"now, {length}"
    says_now = now_x is not None and 200 < now_x < WIDTH - 100
    return Drawing(
        width=WIDTH,
        end=WIDTH - EDGE,
        height=height,
        lines=lines,
        begin=local(scale.begin),
        length=length,
        now=now_x,
        pace=(WIDTH - EDGE) / (scale.end - scale.begin).total_seconds(),
        at_ms=round(1_000 * now.timestamp()),
        says_now=says_now,
        shapes=list(shapes),
    )


def _x(scale: Scale, when: datetime) -> float:
    share = (when - scale.begin) / (scale.end - scale.begin)
    return round(min(1.0, max(0.0, share)) * (WIDTH - EDGE), 1)
