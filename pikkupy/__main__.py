"""The console script `pikku`, also as `python -m pikkupy`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line, or say what it needs."""
    try:
        from pikkupy.cli import run  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] == "pikkupy":
            raise
        print(f"pikku: {missing.name} is not installed; pip install 'pikkupy[cli]'", file=sys.stderr)  # noqa: T201
        return 2
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
