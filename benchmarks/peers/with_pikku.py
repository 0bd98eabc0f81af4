"""Pikku on Node.js with `InMemoryWorkflowService`; the questions are asked in `pikku_node.mjs`.

Nothing is durable: this is what its steps cost without a database. The services for databases, SQLite among them, are
not part of the package.

- sequential, throughput: `workflow.do` with a function. rpc: with the name of a registered function.
"""

from __future__ import annotations

from functools import partial

from _adapter import answer
from _node import ask

PROGRAM = "pikku_node.mjs"

if __name__ == "__main__":
    nothing = "its workflows are kept in memory alone"
    answer(
        __doc__,
        dict.fromkeys(("sequential", "throughput", "rpc"), partial(ask, PROGRAM)),
        cannot={
            "sleepers": "its timers need a queue service beside the workflows",
            "recovery": nothing,
            "replay": nothing,
        },
    )
