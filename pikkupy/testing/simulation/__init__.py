"""A simulator: the real engine and real SQLite in one thread and in virtual time, and everything that can go wrong.

    python -m pikkupy.testing.simulation --crashes 20000 [--seed S]

One seed decides everything: the programs, what people do, how long each thing takes, where the process dies. The same
seed gives the same history, again and again.
"""

from __future__ import annotations

from pikkupy.testing.simulation.asked import Violation
from pikkupy.testing.simulation.history import History, Report
from pikkupy.testing.simulation.scenario import Scenario, draw

__all__ = ["History", "Report", "Scenario", "Violation", "draw"]
