"""`pikku demo`: a child process runs a workflow, this one kills it with SIGKILL twice and starts it again."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pikkupy.cli.demo_app import REPORT, WAIT, Entry, Report, StepLine
from pikkupy.cli.screen import Output
from pikkupy.showing.marks import STEPS

PACE = 1.0
FAST_PACE = 0.2  # of the sleeps and waits
NUMBERS = {"attempts", "began", "failed", "done"}  # headings of columns of numbers


class Summary(msgspec.Struct):
    """What `--json` prints."""

    result: str | None
    kills: int
    lives: int
    seconds: float
    steps: list[StepLine]
    effects: dict[str, dict[str, int]]  # step -> what -> how often, from the ledger
    each_recorded_effect_once: bool


class Demo:
    """The lives of one journal, and what is shown of them."""

    def __init__(self, folder: Path, pace: float, screen: Screen) -> None:
        self.journal = folder / "demo.db"
        self.ledger = folder / "ledger.jsonl"
        self.lives = 0
        self.kills = 0
        self._pace = pace
        self._screen = screen

    def live(self, kill_in: str | None) -> Report | None:
        """One life of the child, until it ends (its last report) or the step `kill_in` is under way (None: killed)."""
        self.lives += 1
        code = "from pikkupy.cli.demo_app import run; run()"
        command = [sys.executable, "-c", code, str(self.journal), str(self.ledger), str(self._pace)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:  # noqa: S603 - our own module
            assert child.stdout is not None
            self._screen.begin(self.lives, child.pid)
            try:
                for line in child.stdout:
                    report = msgspec.json.decode(line, type=Report)
                    self._screen.show(report.steps)
                    if report.result is not None:
                        return report
                    if any(step.name == kill_in and self._under_way(step) for step in report.steps):
                        self._kill(child, kill_in)
                        return None
            finally:
                child.kill()
        raise RuntimeError(f"the application ended with exit code {child.returncode}; see its error above")

    def _under_way(self, step: StepLine) -> bool:
        """In the middle of it, so that the kill is seen to hurt."""
        if step.status == "running":
            time.sleep(0.3 * self._pace)
            return True
        return step.status == "scheduled" and step.wake_in_s is not None and step.wake_in_s < 2.0 * self._pace

    def _kill(self, child: subprocess.Popen[bytes], step: str | None) -> None:
        child.send_signal(signal.SIGKILL)
        child.wait()
        self.kills += 1
        self._screen.killed(child.pid, step or "")
        time.sleep(0.5 * self._pace)

    def entries(self) -> list[Entry]:
        """The ledger."""
        return [msgspec.json.decode(line, type=Entry) for line in self.ledger.read_bytes().splitlines()]


class Screen:
    """The timeline: a live table on a terminal, one plain line per change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._headline = ""
        self._pid = 0
        self._first: set[str] | None = None  # steps that had an outcome when this life began
        self._steps: list[StepLine] = []
        self._said: dict[str, tuple[str, int]] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """Show a live table while in here, if this is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=20) as self._live:
            yield

    def begin(self, life: int, pid: int) -> None:
        """A life of the child begins."""
        self._first, self._pid = None, pid
        self._headline = f"Life {life}, process {pid}"
        self._say(self._headline)

    def show(self, steps: list[StepLine]) -> None:
        """How the steps stand now."""
        if self._first is None:
            self._first = {step.name for step in steps if step.status == "succeeded"}
            for step in steps:
                if step.name in self._first:
                    self._say(f"  {step.name}: from the journal, not run again")
        self._steps = steps
        self._draw("bold")
        for step in steps:
            now = (step.status, step.attempts)
            if self._said.get(step.name) != now:
                self._said[step.name] = now
                self._say(f"  {step.name}: {self._words(step)}")

    def killed(self, pid: int, step: str) -> None:
        """The child was killed."""
        self._headline = f"kill -9 {pid}, in the middle of {step!r}"
        self._say(f"  *** {self._headline} ***")
        self._draw("bold red")

    def _draw(self, style: str) -> None:
        if self._live is not None:
            self._live.update(Group(Text(self._headline, style), self._table(self._steps)))

    def _say(self, line: str) -> None:
        if self._live is None and not self._console.quiet:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _table(self, steps: list[StepLine]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("", "step", "kind", "status", "attempts", ""):
            table.add_column(heading, justify="right" if heading == "attempts" else "left")
        for step in steps:
            mark = STEPS[step.status]
            attempts = str(step.attempts) if step.attempts else ""
            sign, status = Text(mark.symbol, mark.style), Text(step.status, mark.style)
            table.add_row(sign, step.name, step.kind, status, attempts, self._note(step))
        return table

    def _note(self, step: StepLine) -> Text:
        if self._first and step.name in self._first:
            return Text("from the journal", style="blue")
        if step.wake_in_s is not None:
            what = "wakes" if step.kind == "sleep" else "next attempt"
            return Text(f"{what} in {step.wake_in_s:.1f} s", style="yellow")
        return Text("")

    def _words(self, step: StepLine) -> str:
        if step.status == "scheduled" and step.wake_in_s is not None:
            what = "sleeping for" if step.kind == "sleep" else f"attempt {step.attempts} failed, next in"
            return f"{what} {step.wake_in_s:.1f} s more"
        return f"{step.status}, attempt {step.attempts}" if step.attempts else step.status


def demo(*, fast: bool, as_json: bool, keep: Path | None) -> int:
    """Run the demo; 0 if every recorded effect happened once."""
    console = Output(quiet=as_json)
    console.print("A workflow, its journal in one SQLite file, and two kill -9.", highlight=False)
    begun = time.monotonic()
    with _folder(keep) as folder:
        screen = Screen(console)
        run = Demo(folder, FAST_PACE if fast else PACE, screen)
        with screen.on():
            run.live(REPORT)
            run.live(WAIT)
            last = run.live(None)
        entries = run.entries()
    assert last is not None  # the last life is not killed
    summary = _summary(run, last, entries, time.monotonic() - begun)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode() + "\n")
    else:
        _show_summary(console, summary)
    return 0 if summary.each_recorded_effect_once else 1


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="pikku-demo-") as folder:
            yield Path(folder)
        return
    if (keep / "demo.db").exists():
        raise FileExistsError(f"{keep / 'demo.db'} is there already; name another folder or delete it")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep


def _summary(run: Demo, last: Report, entries: list[Entry], seconds: float) -> Summary:
    effects: dict[str, dict[str, int]] = {}
    for (step, what), count in Counter((entry.step, entry.what) for entry in entries).items():
        effects.setdefault(step, {})[what] = count
    return Summary(
        result=last.result,
        kills=run.kills,
        lives=run.lives,
        seconds=round(seconds, 1),
        steps=last.steps,
        effects=effects,
        each_recorded_effect_once=all(counts.get("done") == 1 for counts in effects.values()),
    )


def _show_summary(console: Console, summary: Summary) -> None:
    steps = [[step.name, step.kind, step.status, str(step.attempts or "")] for step in summary.steps]
    _show_table(console, "The steps, from the journal", ("step", "kind", "status", "attempts"), steps)
    counted = ("began", "failed", "done")
    effects = [[name, *(str(counts.get(what, "")) for what in counted)] for name, counts in summary.effects.items()]
    _show_table(console, "What really happened, by the ledger outside", ("step", *counted), effects)
    once = "Each recorded effect happened once" if summary.each_recorded_effect_once else "AN EFFECT HAPPENED TWICE"
    for line in (
        f"{summary.kills} kill -9, {summary.lives} lives, {summary.seconds} s. Result: {summary.result!r}.",
        f"{once}; what a kill cut off began again, with the same invocation id.",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _show_table(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal, plain lines elsewhere."""
    if console.is_terminal:
        table = Table(title=title, title_justify="left")
        for heading in headings:
            table.add_column(heading, justify="right" if heading in NUMBERS else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    console.print(f"{title}:", highlight=False)
    for row in rows:
        shown = [f"{heading} {cell}" for heading, cell in zip(headings[1:], row[1:], strict=True) if cell]
        console.print(f"  {row[0]}: {', '.join(shown)}", highlight=False, markup=False, soft_wrap=True)
