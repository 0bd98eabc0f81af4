"""What tests of applications need: a clock that they move themselves."""

from pikkupy.testing.clock import VirtualClock

__all__ = ["VirtualClock"]
