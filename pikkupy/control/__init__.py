"""Other processes talk to the engine that owns a file: over a Unix socket beside it, of this user alone."""

from pikkupy.control.client import Client
from pikkupy.control.member import Member
from pikkupy.control.server import serving

__all__ = ["Client", "Member", "serving"]
