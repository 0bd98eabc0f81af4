"""The command line (extra `cli`): cyclopts for the commands, rich for what people see."""

from pikkupy.cli.app import run

__all__ = ["run"]
