"""The timeline of a run as it is drawn in a terminal: a bar per step, each thing in it of a shape of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

from rich.cells import set_cell_size
from rich.text import Text

from pikkupy import Attempt, Run, Step
from pikkupy.cli.words import clean, lasted, local
from pikkupy.core.model import AttemptStatus, StepKind, StepStatus

NAMES = 28  # characters of a step's name at most
LEAST = 10  # characters of a bar at least


class Shape(Enum):
    """What a part of a bar says: symbol, the same in ASCII, colour, words."""

    WORK = ("█", "#", "green", "attempt")
    FAILED = ("▒", "x", "red", "failed attempt")
    RUNNING = ("▶", ">", "cyan", "under way")
    RETRY = ("·", ".", "yellow", "wait before a retry")
    SLEEP = ("─", "-", "blue", "sleep")
    WAIT = ("┄", "~", "magenta", "signal or gate")
    CHILD = ("═", "=", "cyan", "child run")


class Bar(NamedTuple):
    """A part of a step's time."""

    shape: Shape
    begin: datetime
    end: datetime


class Scale(NamedTuple):
    """Which times the columns stand for, and whether there is a now among them."""

    begin: datetime
    end: datetime
    now: datetime | None

    def column(self, when: datetime, width: int) -> int:
        """From 0 to `width`."""
        share = (when - self.begin) / (self.end - self.begin)
        return min(width, max(0, int(share * width)))


def scale_of(run: Run, steps: Sequence[Step], now: datetime, *, whole: bool) -> Scale:
    """From the beginning of the run, or of the first of `steps` if they are not all, to its end.

    Of an unfinished run what is to come gets a quarter at most, however far it is: a sleep of a month does not squeeze
    the past.
    """
    starts = [step.started_at for step in steps if step.started_at is not None]
    begin = min([*starts, run.starts_at]) if whole or not starts else min(starts)
    if run.ended_at is not None:
        last = max([run.ended_at, *(step.ended_at for step in steps if step.ended_at is not None)])
        return Scale(begin, max(last, begin + timedelta(milliseconds=1)), None)
    past = max(now - begin, timedelta(milliseconds=1))
    waking = [step.wake_at for step in steps if step.wake_at is not None and step.ended_at is None]
    to_come = min(max([now, *waking]) - now, past / 3)
    return Scale(begin, begin + past + to_come, now)


def bars_of(step: Step, attempts: Sequence[Attempt], now: datetime) -> Iterator[Bar]:
    """The parts of one step, in the order of time; what is below another one comes first."""
    if step.started_at is None:
        return
    end = step.ended_at or max(now, step.wake_at or now)
    match step.kind:
        case StepKind.SLEEP:
            yield Bar(Shape.SLEEP, step.started_at, end)
            return
        case StepKind.SIGNAL | StepKind.SUSPEND:
            yield Bar(Shape.WAIT, step.started_at, step.ended_at or now)
            return
        case _:
            pass
    work = Shape.CHILD if step.kind is StepKind.WORKFLOW else Shape.WORK
    if len(attempts) > 1 or step.status is StepStatus.SCHEDULED:
        yield Bar(Shape.RETRY, step.started_at, end if step.status is StepStatus.SCHEDULED else step.ended_at or now)
    for attempt in attempts:
        failed = attempt.status is AttemptStatus.FAILED
        yield Bar(Shape.FAILED if failed else work, attempt.started_at, attempt.ended_at)
    if step.status is StepStatus.RUNNING:
        began = max([step.started_at, *(attempt.ended_at for attempt in attempts)])
        if attempts and step.wake_at is not None and began < step.wake_at <= now:
            yield Bar(Shape.RETRY, began, step.wake_at)
            began = step.wake_at
        yield Bar(Shape.CHILD if work is Shape.CHILD else Shape.RUNNING, began, now)
    elif not attempts and step.ended_at is not None:
        yield Bar(work, step.started_at, step.ended_at)


def draw(bars: Sequence[Bar], scale: Scale, width: int, *, symbols: bool) -> Text:
    """The bars in so many columns. What lasted is seen, however short it was."""
    cells: list[tuple[str, str]] = [(" ", "")] * width
    if scale.now is not None:
        cells[min(width - 1, scale.column(scale.now, width))] = ("│" if symbols else "|", "dim")
    for shape, begin, end in bars:
        symbol, ascii_symbol, style, _ = shape.value
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
            symbol, ascii_symbol, style, words = shape.value
            legend.append(symbol if symbols else ascii_symbol, style).append(f" {words}  ", "dim")
    if scale.now is not None:
        legend.append("│" if symbols else "|", "dim").append(" now", "dim")
    return [*lines, legend]


def _axis(scale: Scale, names: int, columns: int) -> Text:
    begin, end = local(scale.begin), f"+{lasted(scale.end - scale.begin)}"
    return Text(" " * (names + 1) + begin + end.rjust(max(1 + len(end), columns - len(begin))), "dim")
