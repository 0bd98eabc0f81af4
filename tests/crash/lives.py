"""Lives: forks of this process, which has imported everything, that open the engine, do their work, and are killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import time
import traceback
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import msgspec

from tests.crash import failpoints
from tests.crash.application import Code, pikku
from tests.crash.caller import OLD_IS_OVER, Caller, Life
from tests.crash.ledger import CALLED_OFF, KILLED, LIFE, PATH, ROBBED, Ledger, read_ledger
from tests.kills.facts import Facts

LONGEST_LIFE_S = 30.0  # one takes a fraction of a second; beyond it, it hangs
ORPHANS_S = 10.0  # they end at once, but one may be importing
ERRORS = "stderr"  # file of what the lives of a case write there, and worker processes whose engine is gone
LEFT = 3  # exit code of a life that was told to end, and has left its engine

Mode = Literal["resident", "unloading", "processes"]
MODES: dict[Mode, dict[str, Any]] = {
    "resident": {},
    "unloading": {"resident_runs": 0, "unload_after": 0, "durability": "process", "database_thread": False},
    "processes": {"durability": "process"},
}
"""Settings of the engine: runs that wait stay in memory; or leave it at once, and the event loop writes the file; or
steps are in worker processes. To a kill both durabilities are the same, and one of them is quicker."""


class Kill(StrEnum):
    """How a life is disturbed."""

    NOTHING = "nothing"
    FAILPOINT = "failpoint"  # it kills itself with SIGKILL
    KILL = "SIGKILL"
    TERM = "SIGTERM"
    TERM_TWICE = "SIGTERM twice"
    INTERRUPT = "SIGINT"
    STOP = "SIGSTOP, SIGCONT, SIGKILL"
    PAUSE = "SIGSTOP, SIGCONT"
    WORKER = "SIGKILL of a worker process"
    GROUP = "SIGKILL of the process group"


class Plan(msgspec.Struct, frozen=True):
    """What happens in one life."""

    how: Kill = Kill.NOTHING
    failpoint: str | None = None
    nth: int = 1
    after_s: float = 0.0
    pause_s: float = 0.0  # while it is stopped, between two signals


class Ended(StrEnum):
    """How a life has ended."""

    KILLED = "killed"
    LEFT = "left"  # told to end, it has left its engine
    DONE = "done"


class Case:
    """One database and one ledger, and the lives that belong to them."""

    def __init__(self, folder: Path, mode: Mode) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.mode: Mode = mode
        self.db = folder / "app.db"
        self.ledger = folder / "ledger.jsonl"
        self.report = folder / "report.json"
        self.lives = 0
        self.struck = False  # whether the last life, or a worker process of it, was there to get its signal

    def copy(self, folder: Path) -> Case:
        """The same, as it is now, in another folder."""
        copy = Case(folder, self.mode)
        for file in (self.db, Path(f"{self.db}-wal"), self.ledger):
            if file.exists():
                shutil.copy(file, folder)
        copy.lives = self.lives
        return copy

    def live(self, plan: Plan) -> Ended:
        """One life. Raises `AssertionError` for one that fails or hangs."""
        self.lives += 1
        self.report.unlink(missing_ok=True)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until it can be caught
        pid = os.fork()
        if pid == 0:
            self._be_born(plan, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        with suppress(PermissionError):  # both do it, so that there is a group before it is needed
            os.setpgid(pid, pid)
        status = self._disturb(pid, plan)
        if os.WIFSIGNALED(status):
            by = os.WTERMSIG(status)
            expected = {Kill.TERM: {signal.SIGTERM}, Kill.TERM_TWICE: {signal.SIGTERM}}.get(plan.how, {signal.SIGKILL})
            assert by in expected, f"a life was killed by signal {by}"
            self.tell(KILLED)
            return Ended.KILLED
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, LEFT), f"a life ended with {code}"
        if code == LEFT:
            self.tell(CALLED_OFF)
            return Ended.LEFT
        return Ended.DONE

    def life(self) -> Life:
        """The report of the last life, which has come to its end."""
        return msgspec.json.decode(self.report.read_bytes(), type=Life)

    def tell(self, what: str) -> None:
        """A line of the ledger about the life as a whole."""
        ledger = Ledger(self.ledger, self.lives)
        ledger.add(what, "", "")
        ledger.close()

    def facts(self) -> Facts | None:
        """What is in the file; None before it has tables."""
        try:
            return Facts(self.db)
        except sqlite3.OperationalError as error:
            # The last: it was killed before WAL mode, and what it had begun there has to be rolled back.
            reasons = ("no such table", "unable to open", "readonly database")
            assert any(reason in str(error) for reason in reasons), error
            return None

    # The process that lives

    def _be_born(self, plan: Plan, mask: set[signal.Signals]) -> None:
        """In the new process. Does not return."""
        status = 1
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.setpgid(0, 0)
            os.dup2(os.open(self.folder / ERRORS, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            in_writes = plan.how in (Kill.NOTHING, Kill.FAILPOINT)
            status = self._live(failpoints.install(plan.failpoint, plan.nth, in_writes=in_writes))
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        except KeyboardInterrupt:  # before it was in its loop, or after that
            status = LEFT
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _live(self, passed: dict[str, int]) -> int:
        os.environ |= {PATH: str(self.ledger), LIFE: str(self.lives)}
        begun = time.monotonic()
        try:
            results = asyncio.run(self._main())
        except (asyncio.CancelledError, KeyboardInterrupt):
            return LEFT
        took_s = time.monotonic() - begun
        self.report.write_bytes(msgspec.json.encode(Life(results, passed, took_s)))
        return 0

    async def _main(self) -> dict[str, Any]:
        """What an application does by the book: told to end, it leaves its engine; told so twice, it ends."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def leave() -> None:
            loop.remove_signal_handler(signal.SIGTERM)
            task.cancel()

        loop.add_signal_handler(signal.SIGTERM, leave)
        ledger, lines = Ledger(self.ledger, self.lives), read_ledger(self.ledger)
        facts = self.facts()
        if not any(line.what == "told" and line.step == OLD_IS_OVER for line in lines):
            Code.version = "old"
            async with self._open(ledger) as engine:
                await Caller(engine, ledger, lines, facts).old()
            ledger.add("told", "", OLD_IS_OVER)  # all of it is on disk, also what was told at once
            facts = self.facts()
        Code.version = "new"
        async with self._open(ledger) as engine:
            return await Caller(engine, ledger, lines, facts).new(in_processes=self.mode == "processes")

    def _open(self, ledger: Ledger) -> Any:
        return pikku.open(self.db, services=ledger, watchdog_after=None, shutdown_grace="1s", **MODES[self.mode])

    # The process that kills

    def _disturb(self, pid: int, plan: Plan) -> int:
        """Do to the life what is planned; its wait status."""
        if plan.how in (Kill.NOTHING, Kill.FAILPOINT):
            return _wait(pid, LONGEST_LIFE_S)
        time.sleep(plan.after_s)  # the moment of the kill is what is tried; nothing is waited for
        workers = workers_of(pid)
        self.struck = bool(workers) if plan.how is Kill.WORKER else _runs(pid)
        getattr(self, f"_{plan.how.name.lower()}")(pid, plan)
        status = _wait(pid, LONGEST_LIFE_S)
        _await_orphans(workers)
        return status

    def _kill(self, pid: int, plan: Plan) -> None:
        os.kill(pid, signal.SIGKILL)

    def _group(self, pid: int, plan: Plan) -> None:
        os.killpg(pid, signal.SIGKILL)

    def _term(self, pid: int, plan: Plan) -> None:
        os.kill(pid, signal.SIGTERM)

    def _interrupt(self, pid: int, plan: Plan) -> None:
        os.kill(pid, signal.SIGINT)

    def _term_twice(self, pid: int, plan: Plan) -> None:
        os.kill(pid, signal.SIGTERM)
        time.sleep(plan.pause_s)
        os.kill(pid, signal.SIGTERM)

    def _stop(self, pid: int, plan: Plan) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(plan.pause_s)
        os.kill(pid, signal.SIGCONT)
        time.sleep(plan.pause_s)
        os.kill(pid, signal.SIGKILL)

    def _pause(self, pid: int, plan: Plan) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(plan.pause_s)
        os.kill(pid, signal.SIGCONT)

    def _worker(self, pid: int, plan: Plan) -> None:
        for worker in workers_of(pid)[:1]:
            self.tell(ROBBED)
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def workers_of(pid: int) -> list[int]:
    """The worker processes of a life."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(child) for child in children.read_text(encoding="ascii").split()]
    except FileNotFoundError:
        return []


def _await_orphans(workers: list[int]) -> None:
    """Worker processes end by themselves when their engine is gone."""
    deadline = time.monotonic() + ORPHANS_S
    while workers := [pid for pid in workers if _runs(pid)]:
        assert time.monotonic() < deadline, f"worker processes {workers} outlive their engine"
        time.sleep(0.001)


def _runs(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait(pid: int, patience_s: float) -> int:
    deadline = time.monotonic() + patience_s
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"a life did not end within {patience_s} s")
        time.sleep(0.001)
