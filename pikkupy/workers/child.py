"""One process of the operating system: started at once, watched by a thread, and killed with all that it has started.

Not by asyncio's subprocesses: a loop that ends while one of those starts can wait for it for ever, and how they watch
for the end of a process differs from one version to the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import threading


class Child:
    """A process; make it on the event loop. `connection` is the other end of its standard input and output, in one."""

    def __init__(self, command: list[str]) -> None:
        """In a session of its own: Ctrl-C in the terminal is for this process. Raises `OSError`."""
        self.connection, its_own = socket.socketpair()
        try:
            with its_own:
                ends = its_own.fileno()
                self._process = subprocess.Popen(command, stdin=ends, stdout=ends, start_new_session=True)  # noqa: S603 - the command is the caller's
        except BaseException:
            self.connection.close()
            raise
        self.pid = self._process.pid
        self.dead = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            threading.Thread(target=self._wait, name=f"pikkupy process {self.pid}", daemon=True).start()
        except RuntimeError as error:  # the system has no more threads to give
            self.connection.close()
            self._process.kill()
            self._process.wait()
            raise OSError(str(error)) from error

    def kill(self) -> None:
        """Kill it, unless it is dead, and whatever it has started and left in its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS says the latter
            os.killpg(self.pid, signal.SIGKILL)

    def obituary(self) -> str:
        """What has become of it, to follow "worker process 7 "."""
        code = self._process.returncode
        if code is None:
            return "closed its pipe"
        return f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with code {code}"

    def _wait(self) -> None:
        """On the thread."""
        self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self.dead.set)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
