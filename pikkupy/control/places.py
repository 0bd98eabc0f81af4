"""Where the control socket of a file is: a Unix socket beside it, or a port of the loopback with a token.

Both are for the user who owns the file alone. A Unix socket has mode 0600, and the system says of whoever connects
which user it is. Where there are none, or where the path is too long for one, the engine listens on 127.0.0.1 and
leaves the port and a token in a file of mode 0600.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from pikkupy.errors import JournalError
from pikkupy.private import MODE, NotPrivate, read_own, write_new

LONGEST_PATH = 103  # bytes of a Unix socket's path, without the last NUL: 104 on macOS, 108 on Linux (unix(7))
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of SO_PEERCRED


class Port(msgspec.Struct, frozen=True):
    """What is in the file beside the journal that leads to a port."""

    port: int
    token: str


def real_path(path: str) -> str:
    """Where the journal is, links followed: its lock and its socket are beside that."""
    return os.path.realpath(path)


def socket_path(real: str) -> Path:
    """Of the Unix socket of the journal at the absolute path `real`."""
    return Path(f"{real}.sock")


def port_path(real: str) -> Path:
    """Of the file that leads to the port, where there is no Unix socket."""
    return Path(f"{real}.port")


def can_have_socket(real: str) -> bool:
    """Whether there are Unix sockets here, and the path is short enough for one."""
    return hasattr(socket, "AF_UNIX") and len(os.fsencode(socket_path(real))) <= LONGEST_PATH


def bound_socket(real: str) -> socket.socket:
    """The Unix socket of a journal that this process owns; what a killed owner has left there is removed."""
    path = socket_path(real)
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise JournalError(f"{path} is no socket; remove it, it has the name of the engine's control socket")
        path.unlink()
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(OSError):
            os.fchmod(bound.fileno(), MODE)  # on Linux the file has this mode from its first moment on
        bound.bind(str(path))
        path.chmod(MODE)
    except BaseException:
        bound.close()
        raise
    return bound


def bound_port(real: str) -> tuple[socket.socket, Port]:
    """A port of the loopback, with the file that leads there."""
    # With the protocol named, asyncio sets TCP_NODELAY on its connections: without it an answer takes 40 ms.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.bind(("127.0.0.1", 0))
        port = Port(bound.getsockname()[1], secrets.token_urlsafe(32))
        path = port_path(real)
        path.unlink(missing_ok=True)
        write_new(path, msgspec.json.encode(port))
    except BaseException:
        bound.close()
        raise
    return bound, port


def remove(real: str) -> None:
    """Nobody listens any more. Only for the owner of the journal."""
    for path in (socket_path(real), port_path(real)):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def port_of(real: str) -> Port | None:
    """Where the file leads, if there is one that belongs to this user alone."""
    try:
        return msgspec.json.decode(read_own(port_path(real)), type=Port)
    except NotPrivate as error:
        raise JournalError(str(error)) from None
    except (OSError, msgspec.MsgspecError):
        return None  # there is none, or it is being written


class Peer(NamedTuple):
    """The process at the other end of a Unix socket, as the system names it."""

    pid: int
    uid: int


def peer_of(other: socket.socket) -> Peer | None:
    """Who is at the other end; `None` where nobody can say."""
    if not hasattr(socket, "SO_PEERCRED") or other.family != socket.AF_UNIX:
        return None
    found = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return Peer(pid, uid)


def is_own(peer: Peer | None) -> bool:
    """Whether the process is of this user, or root's. True where nobody can say: the socket's mode kept others out."""
    return peer is None or peer.uid in (0, os.getuid())
