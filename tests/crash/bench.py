"""Cases, done by some processes side by side."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tests.crash.cases import Outcome, kills_of, total

SAY_S = 30.0  # between two lines where there is no terminal
CLEAR = "\r\x1b[K"  # the line
LOOK_S = 0.2  # between two looks at what has come

Job = Callable[[Path], Outcome]


class Bench:
    """Some processes: each takes the next case, and writes what has come of it in a file."""

    def __init__(self, root: Path, jobs: int, *, show: bool) -> None:
        self._root, self._jobs, self._show = root, jobs, show
        self._number = 0
        self._said = 0.0  # seconds after the beginning

    def do(self, title: str, cases: Sequence[Job], enough: Callable[[list[Outcome]], bool]) -> list[Outcome]:
        """What has come of the cases, in the order in which they ended, until it is `enough`."""
        self._number += 1
        self._said = 0.0
        folder = self._root / f"{self._number}"
        folder.mkdir()
        tickets, results = folder / "tickets", folder / "results"
        tickets.write_bytes(b"".join(number.to_bytes(4, "big") for number in range(len(cases))))
        results.touch()
        taken = os.open(tickets, os.O_RDONLY)  # one position for all processes: each ticket is read once
        pids = [self._fork(taken, results, folder, cases) for _ in range(self._jobs)]
        os.close(taken)
        begun = time.monotonic()
        done: list[Outcome] = []
        while pids:
            pids = [pid for pid in pids if os.waitpid(pid, os.WNOHANG) == (0, 0)]
            lines = results.read_bytes().splitlines()
            for line in lines[len(done) :]:
                done.append(msgspec.json.decode(line, type=Outcome))
            if pids and enough(done):
                tickets.write_bytes(b"")
            self._progress(title, done, len(cases), time.monotonic() - begun)
            time.sleep(LOOK_S)
        lines = results.read_bytes().splitlines()
        done = [msgspec.json.decode(line, type=Outcome) for line in lines]
        self._progress(title, done, len(cases), time.monotonic() - begun, end="\n")
        return done

    def _fork(self, taken: int, results: Path, folder: Path, cases: Sequence[Job]) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            file = os.open(results, os.O_WRONLY | os.O_APPEND)
            while ticket := os.read(taken, 4):
                number = int.from_bytes(ticket, "big")
                os.write(file, msgspec.json.encode(cases[number](folder / f"case {number}")) + b"\n")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _progress(self, title: str, done: list[Outcome], cases: int, seconds: float, end: str = "") -> None:
        live = sys.stderr.isatty()
        if not self._show or (not live and not end and seconds < self._said + SAY_S):
            return
        self._said = seconds
        so_far = total(done)
        kills, clear = kills_of(so_far), CLEAR if live else ""
        print(
            f"{clear}{title}: {len(done)} of {cases} cases, {kills} kills, {kills / max(seconds, 0.1):.0f}/s, "
            f"{len(so_far.violations)} violations",
            end=end or ("" if live else "\n"),
            file=sys.stderr,
            flush=True,
        )
