"""The commands of `pikku`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

import pikkupy
from pikkupy.cli.demo import demo

app = App(name="pikku", help="Durable workflows on one SQLite file.", version=pikkupy.__version__)


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
    """Run one command; its exit code (0 done, 1 failed, 2 usage)."""
    try:
        code = app(arguments, exit_on_error=False, print_error=True)
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except CycloptsError:
        return 2  # cyclopts has said what is wrong
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"pikku: {error}\n")
        return 1
    return code if isinstance(code, int) else 0
