"""The commands of `pikku`, put together; how a command ends."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

import pikkupy
from pikkupy.cli.beginning import init
from pikkupy.cli.console import console
from pikkupy.cli.demo import demo
from pikkupy.cli.developing import dev
from pikkupy.cli.exits import MEANINGS, Exit, exit_of
from pikkupy.cli.files import backup, counts, doctor, restore
from pikkupy.cli.replays import check, export, replay
from pikkupy.cli.running import TheUsers
from pikkupy.cli.running import run as run_command
from pikkupy.cli.runs import runs
from pikkupy.cli.screen import Output, nobody_reads, open_closed, say, whoever_reads, words_of
from pikkupy.cli.steering import prune, start

CODES = "Exit codes: " + "; ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items()) + "."

app = App(
    name="pikku",
    help="Durable workflows on one SQLite file.",
    help_epilogue=CODES,
    version=pikkupy.__version__,
    default_parameter=Parameter(show_env_var=False),
)
app.register_install_completion_command(
    help="Let the shell complete commands and options: bash, zsh or fish. It adds a line to ~/.bashrc or ~/.zshrc."
)
app.command(init)
app.command(run_command, name="run")
app.command(dev)
app.command(console)
app.command(start)
app.command(runs)
app.command(counts)
app.command(doctor)
app.command(backup)
app.command(restore)
app.command(prune)
app.command(export)
app.command(replay)
app.command(check)


@app.command(name="demo")
def demo_command(
    *,
    fast: Annotated[bool, Parameter(negative="", help="Sleep and wait a fraction of the time.")] = False,
    json: Annotated[bool, Parameter(negative="", help="One JSON document at the end instead of the tables.")] = False,
    keep: Annotated[Path | None, Parameter(help="Keep the journal and the ledger in this folder.")] = None,
) -> int:
    """A real workflow on a real file, killed with SIGKILL twice, and what came of it."""
    return demo(fast=fast, as_json=json, keep=keep)


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code, by the table in `exits`."""
    open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal has no character for is an escape
    try:
        code = app(
            arguments,
            exit_on_error=False,
            print_error=True,
            console=Output(),
            error_console=Console(stderr=True),
            result_action="return_value",
        )
        with whoever_reads():
            sys.stdout.flush()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.FAILED
    except CycloptsError:
        return Exit.USAGE  # cyclopts has said what is wrong
    except BrokenPipeError:
        nobody_reads()
        return Exit.DONE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except (pikkupy.PikkuError, OSError, RuntimeError) as error:
        if isinstance(error, TheUsers):
            sys.stderr.write(error.lines)
        say(words_of(error))
        return exit_of(error)
    return code if isinstance(code, int) else Exit.DONE
