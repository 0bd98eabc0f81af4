"""The code of simulated programs, and how it changes from one life to the next."""

from __future__ import annotations

from typing import Any

import msgspec

from pikkupy.testing.simulation.programs import Node, changed
from pikkupy.testing.simulation.scenario import Fault


class Code:
    """What the body of each run without a parent is in the present life."""

    def __init__(self) -> None:
        self.missing = False  # workflows are not registered in this life
        self._settled: dict[str, Node] = {}  # other than what the run was started with, and fits its record
        self._changed: dict[str, Node] = {}  # perhaps it does not fit
        self._quiet: dict[str, int] = {}  # runs of which nothing is remembered in that life: the record has changed

    def node(self, run_id: str, data: Any) -> Node:
        """The program of a run that was started with `data`."""
        node = self._changed.get(run_id) or self._settled.get(run_id)
        return msgspec.convert(data, Node) if node is None else node

    def deploy(self, run_id: str, base: Node, fault: Fault) -> None:
        """Change the code of a run; code that was changed before is mended."""
        if fault.change == "missing":
            self.missing = True
        elif run_id in self._changed:
            del self._changed[run_id]
        else:
            node = changed(self._settled.get(run_id, base), fault.change, fault.size)
            code = self._settled if fault.change == "append" else self._changed
            code[run_id] = node

    def is_changed(self, run_id: str) -> bool:
        """Whether the run may not fit its code."""
        return run_id in self._changed

    def remembers(self, run_id: str, life: int) -> bool:
        """Whether what the run sees is what every later replay sees."""
        return run_id not in self._changed and self._quiet.get(run_id, 0) < life

    def accepted(self, run_id: str, life: int) -> None:
        """The run has taken the code as it is."""
        if run_id in self._changed:
            self._settled[run_id] = self._changed.pop(run_id)
        self._quiet[run_id] = life

    def forked(self, source: str, fork: str, base: Node) -> None:
        """A fork begins with the code of the run that it is made from."""
        self._settled[fork] = self._settled.get(source, base)
