"""Kills beside SQLite: a process dies before each call of Python's own that makes, writes or takes away a file.

    python -m tests.disk.beside FOLDER [--once]

These are the lock, the name of the owner, the socket, and the file itself when it is made: what is done to them while
an engine opens the file and while it leaves it. An audit hook sees the calls. After each kill another process opens the
file, is its owner by name, keeps others out, is reached through its socket, and leaves nothing but the file and the
lock behind. The last line is a JSON document. `--once`: one life without a kill, and its calls.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pikkupy import JournalLocked, Pikku, RunNotFound, Workflow
from pikkupy.store.owner import holder_of
from tests.disk.life import in_child

CALLS = {"open", "os.remove", "os.rename", "os.link", "os.truncate", "os.chmod", "fcntl.flock", "socket.bind"}
STALE = ("fresh", "left", "killed")  # there is no file yet, or one that was left in order, or whose owner was killed
BESIDE = {"", ".lock"}  # what an engine that was left leaves

pikku = Pikku()


@pikku.workflow
async def flow(workflow: Workflow) -> str:
    """One step."""
    return await workflow.do("step", lambda: "done")


class Wrong(AssertionError):
    """A promise was broken."""


def watch(db: Path, seen: Callable[[str, str], None]) -> None:
    """Tell of each of these calls in this process, before it is done: what it is, and the end of the file's name."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CALLS:
            name = _name_of(arguments[1] if event == "socket.bind" else arguments[0])
            if name.startswith(str(db)):
                seen(event, name.removeprefix(str(db)))

    sys.addaudithook(hook)


def _name_of(file: object) -> str:
    if isinstance(file, int):
        with suppress(OSError):
            return os.readlink(f"/proc/self/fd/{file}")  # noqa: PTH115 - within a hook
    return os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else ""


async def live(db: Path, run_id: str) -> None:
    """Open the file, let a run come to its end, say so, and leave."""
    async with pikku.open(db) as engine:
        assert await engine.run(flow, run_id=run_id) == "done"
        with db.with_name("told").open("a") as told:
            told.write(f"{run_id}\n")


async def look(db: Path) -> None:
    """The next engine. Raises `Wrong`."""
    async with pikku.open(db) as engine:
        holder = holder_of(str(db))
        if holder is None or (holder.pid, holder.host) != (os.getpid(), socket.gethostname()):
            raise Wrong(f"the owner is {os.getpid()}, and the file names {holder}")
        if Path(f"{db}.owner").stat().st_mode & 0o077:
            raise Wrong("others can read who the owner is")
        try:
            async with pikku.open(db):
                raise Wrong("there are two engines")
        except JournalLocked as locked:
            if f"process {os.getpid()} (this process)" not in str(locked):
                raise Wrong(f"the second engine was told: {locked}") from locked
        told = db.with_name("told")
        for run_id in told.read_text().split() if told.exists() else ():
            try:
                await engine.get_run(run_id)
            except RunNotFound as lost:
                raise Wrong(f"{run_id} was told, and is not there") from lost
        async with pikku.connect(db) as client:
            assert await (await client.start(flow)).result() == "done"
    left = {file.name.removeprefix(db.name) for file in db.parent.glob(f"{db.name}*")}
    if left != BESIDE:
        raise Wrong(f"these files are left: {left}")


def killed(db: Path, nth: int) -> str | None:
    """Kill a life before its n-th call: which that was; None if there are not so many."""

    def act() -> int:
        count = 0

        def seen(event: str, suffix: str) -> None:
            nonlocal count
            count += 1
            if count == nth:
                db.with_name("call").write_text(f"{event} {suffix}")
                os.kill(os.getpid(), signal.SIGKILL)

        watch(db, seen)
        asyncio.run(live(db, f"r{nth}"))
        return 0

    code = in_child(act)
    assert code in {0, -signal.SIGKILL}, f"a life has ended with {code}"
    return db.with_name("call").read_text() if code else None


def explore(folder: Path) -> dict[str, list[str]]:
    """Kills before each call in each kind of folder: which calls these were."""
    found: dict[str, list[str]] = {}
    for before in STALE:
        found[before] = []
        while True:
            nth = len(found[before]) + 1
            db = folder / f"{before}-{nth}" / "app.db"
            db.parent.mkdir()
            _prepare(db, before)
            call = killed(db, nth)
            if call is None:
                break
            if in_child(lambda db=db: asyncio.run(look(db)) or 0):  # type: ignore[misc]
                raise Wrong(f"after a kill before call {nth} ({call}), {before}")
            found[before].append(call)
    return found


def _prepare(db: Path, before: str) -> None:
    def act() -> int:
        asyncio.run(live(db, "before"))
        return 0

    def cut_off() -> int:
        async def dies() -> None:
            async with pikku.open(db):
                os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(dies())
        return 0

    if before != "fresh":
        assert in_child(act if before == "left" else cut_off) in {0, -signal.SIGKILL}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--once", action="store_true")
    options = parser.parse_args()
    logging.getLogger("pikkupy").setLevel(logging.CRITICAL)
    folder: Path = options.folder.resolve()
    if options.once:
        calls = list[tuple[str, str]]()
        watch(folder / "app.db", lambda event, suffix: calls.append((event, suffix)))
        asyncio.run(live(folder / "app.db", "r"))
        print(json.dumps(calls))
    else:
        print(json.dumps(explore(folder)))


if __name__ == "__main__":
    main()
