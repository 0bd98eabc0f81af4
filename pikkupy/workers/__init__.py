"""Where the code of steps runs: on the event loop, on threads, in worker processes. Nowhere else is it called.

Whatever a step does, it comes back as one outcome: a value, an error, or that it was stopped.
"""

from pikkupy.workers.attempts import Attempt
from pikkupy.workers.workers import Workers

__all__ = ["Attempt", "Workers"]
