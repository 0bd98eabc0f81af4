"""What surrounds an engine fails it: signals, a full disk, permissions, files, threads, the system it finds itself in.

Each test names the fault as docs/reliability.md does.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pikkupy import JournalError, JournalLocked, Pikku, RunFailed, Services, Workflow, timers
from pikkupy.engine.looking import Look
from pikkupy.store import connection
from pikkupy.testing import VirtualClock
from tests.children import child
from tests.cli.shell import command, environment
from tests.contract.waiting import BOTH
from tests.disk.acknowledging import pikku as acknowledging
from tests.disk.hungry import pikku as hungry
from tests.disk.hungry import text_of
from tests.disk.test_errnos import check
from tests.store.samples import raw
from tests.test_docs import ROOT

FOR_EVER = 1_000_000  # runs: until it is ended from outside
IS_ROOT = os.geteuid() == 0


def life(
    path: Path, *arguments: str, before: Sequence[str] = (), env: dict[str, str] | None = None
) -> AbstractContextManager[subprocess.Popen[Any]]:
    """A process whose engine starts runs and says what it is told, behind another command if need be."""
    return child(
        [*before, sys.executable, "-B", "-m", "tests.disk.acknowledging", str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)} if env is None else env,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )


FORKS = """
import asyncio, os, sys
from pikkupy import Pikku, Workflow
from pikkupy.control import places
from pikkupy.store import is_locked

pikku = Pikku()

@pikku.workflow
async def flow(workflow: Workflow) -> int:
    await workflow.do("before", lambda: None)
    return await workflow.do("pid", os.getpid)

async def main() -> None:
    async with pikku.open(sys.argv[1], durability="process", database_thread=sys.argv[2] == "thread") as engine:
        assert await engine.run(flow) == os.getpid()
        starting = [asyncio.ensure_future(engine.run(flow)) for _ in range(20)]
        await asyncio.sleep(0)
        child = os.fork()
        if child == 0 and sys.argv[3] == "exits":
            os._exit(0)
        if child == 0:
            raise SystemExit  # asyncio goes on with the loop until all of it is cancelled
        os.waitpid(child, 0)
        if sys.argv[3] == "raises":
            owner, real = f"{sys.argv[1]}.owner", places.real_path(sys.argv[1])
            is_served = any(path.exists() for path in (places.socket_path(real), places.port_path(real)))
            print("keeps", is_locked(sys.argv[1]), os.path.exists(owner), is_served, flush=True)
            os._exit(0)  # the two have had one selector, and the other has taken its files out of it
        assert {await one for one in starting} == {os.getpid()}
        print("goes on", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        assert await engine.run(flow) == os.getpid()

asyncio.run(main())
"""


# Ends


@pytest.mark.parametrize("how", ["exits", "raises"])
@pytest.mark.parametrize("writer", ["thread", "loop"])
async def test_a_process_that_is_forked_from_an_engine_s_writes_nothing(how: str, writer: str, db: Path) -> None:
    """F17: also while asyncio closes the event loop there. When it exits it takes nothing from the engine: not its
    lock, nor its name or its socket beside the file."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORKS, str(db), writer, how),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # where asyncio complains in the fork
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    said = (await process.stdout.readline()).decode()
    if how == "exits":
        with pytest.raises(JournalLocked, match=f"process {process.pid} "):
            async with Pikku().open(db):
                pass
    await process.communicate(b"")
    assert (process.returncode, said) == (0, "goes on\n" if how == "exits" else "keeps True True True\n")
    assert raw(str(db), "PRAGMA integrity_check") == [("ok",)]
    outputs = raw(str(db), "SELECT DISTINCT output FROM pikkupy_steps WHERE name = 'pid'")
    assert outputs == [(str(process.pid),)]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_an_engine_that_crashes_loses_nothing_that_it_has_told(number: signal.Signals, db: Path) -> None:
    """F14: as a kill."""
    instant = random.randrange(2, 60)  # after `open` and the first that was told
    said = list[str]()
    with life(db, str(FOR_EVER)) as process:
        while len(said) < instant:
            said.append(process.stdout.readline().rstrip())
        process.send_signal(number)
        said += process.stdout.read().splitlines()

    assert process.returncode == -number, said
    assert [line for line in said if line.startswith("told ")], said
    asyncio.run(check(db, said))
    assert raw(str(db), "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("spare", [0, 1_000_000, 5_000_000])
async def test_an_engine_without_memory_loses_nothing_that_it_has_told(spare: int, db: Path) -> None:
    """F14: wherever that is met: in a step, in the engine, in SQLite, or in Python itself, which may crash."""
    command = [sys.executable, "-m", "tests.disk.hungry", db, str(spare)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, timeout=60)

    assert done.returncode != 0
    assert raw(str(db), "PRAGMA integrity_check") == [("ok",)]
    told = [int(line.removeprefix(b"told r")) for line in done.stdout.splitlines(keepends=True) if line.endswith(b"\n")]
    assert told
    async with hungry.open(db, control_socket=False) as engine:
        for number in told:
            handle = await engine.handle(f"r{number}")
            if (await engine.get_run(handle.id)).status == "failed":
                with pytest.raises(RunFailed, match="MemoryError"):
                    await handle.result()
            else:
                await handle.signal("more", number)
                assert await handle.result("60s") == len(text_of(number)) + number


BUSY = """
import asyncio
from pikkupy import Pikku, Workflow

pikku = Pikku()

@pikku.workflow
async def busy(workflow: Workflow, ledger: str) -> None:
    lasting = workflow.do("last", lambda: asyncio.sleep(3600))
    with open(ledger, "a", buffering=1) as seen:
        for number in range(1_000_000):
            value = await workflow.do("count", lambda: number)
            seen.write(f"{value}\\n")
    await lasting
"""
STORM = 2_000  # signals
BOTH_SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("numbers", [*([number] for number in BOTH_SIGNALS), BOTH_SIGNALS], ids=["TERM", "INT", "both"])
def test_a_storm_of_signals_ends_the_engine_as_a_second_one_does(numbers: list[signal.Signals], tmp_path: Path) -> None:
    """F16: at a random instant, in the middle of commits; what a workflow has seen is in the file."""
    db, ledger = tmp_path / "app.db", tmp_path / "ledger"
    (tmp_path / "shop.py").write_text(BUSY)
    asyncio.run(left_to_begin(db, str(ledger)))
    instant = random.randrange(1, 300)
    with child(
        command("run", "shop:pikku", db, "--app-dir", ".", "--grace", "1h"),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ) as process:
        while not ledger.exists() or ledger.read_bytes().count(b"\n") < instant:
            assert process.poll() is None
        for _ in range(STORM):  # without end it would keep the process from doing anything else
            if process.poll() is None:
                process.send_signal(random.choice(numbers))
        process.wait(60)

    # In its very last moments Python has no handlers any more: it is killed by the signal, which shells call the same.
    assert process.returncode in {128 + number for number in numbers} | {-number for number in numbers}
    assert raw(str(db), "PRAGMA integrity_check") == [("ok",)]
    seen = {int(line) for line in ledger.read_text().splitlines()}
    assert seen <= asyncio.run(counted(db))


async def left_to_begin(db: Path, ledger: str) -> None:
    """Start the run in a life that ends before it begins."""
    pikku = Pikku()

    @pikku.workflow
    async def busy(workflow: Workflow, ledger: str) -> None:
        raise AssertionError("it begins elsewhere")

    async with pikku.open(db, clock=VirtualClock(datetime(2020, 1, 1, tzinfo=UTC))) as engine:
        await engine.start("busy", ledger, run_id="r", delay="1min")


async def counted(db: Path) -> set[object]:
    """The values that are recorded of the run."""
    async with Look(db) as look:
        return {step.output for step in await look.steps("r") if step.status == "succeeded"}


# The disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs", place):
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def mounted(*arguments: str | Path) -> bool:
    """Whether the system has mounted that."""
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def fill(place: Path) -> None:
    """Leave no byte."""
    with (place / "filler").open("ab", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while filler.write(bytes(4096)):
            pass


@pytest.mark.parametrize("pages", [connection.CHECKPOINT_PAGES, 3], ids=["log", "checkpoint"])
async def test_a_full_disk_is_waited_for(pages: int, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F18: of the real system, with the log growing, and with a checkpoint after each commit: the file grows then."""
    monkeypatch.setattr(connection, "CHECKPOINT_PAGES", pages)
    db = small_disk / "app.db"
    async with acknowledging.open(db, control_socket=False) as engine:
        await engine.run("flow", 0, run_id="r0")
        fill(small_disk)
        journal = engine._use().host.journal
        runs = [asyncio.ensure_future(engine.run("flow", n, run_id=f"r{n}")) for n in range(1, 400)]
        while journal.waiting is None:
            await asyncio.sleep(0)
        assert "full" in journal.waiting
        assert (await engine.get_run("r0")).status == "completed"
        (small_disk / "filler").unlink()

        assert await asyncio.gather(*runs) == [2 * n for n in range(1, 400)]
    assert raw(str(db), "PRAGMA integrity_check") == [("ok",)]


async def test_an_engine_is_left_though_the_disk_is_full(small_disk: Path) -> None:
    """F18: the log cannot be brought into the file then; the next start has all that was told."""
    db = small_disk / "app.db"
    async with acknowledging.open(db, control_socket=False) as engine:
        for n in range(20):
            await engine.run("flow", n, run_id=f"r{n}")
        fill(small_disk)
    (small_disk / "filler").unlink()
    async with acknowledging.open(db, control_socket=False) as engine:
        assert [(await engine.get_run(f"r{n}")).output for n in range(20)] == [2 * n for n in range(20)]


# Permissions

BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if IS_ROOT else []  # root, whom modes bind


@pytest.mark.skipif(IS_ROOT and shutil.which("setpriv") is None, reason="modes bind root only under setpriv")
@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "says"),
    [
        (0o500, None, "cannot be written"),
        (0o500, 0o600, "cannot be written"),
        (0o000, 0o600, "cannot be written"),
        (0o700, 0o400, "cannot be read and written"),
        (0o700, 0o000, "cannot be read and written"),
    ],
)
def test_what_may_not_be_written_is_named_in_one_line(
    folder_mode: int, file_mode: int | None, says: str, tmp_path: Path
) -> None:
    """F22: with the path, and nothing is made."""
    folder = tmp_path / "folder"
    folder.mkdir()
    db = folder / "app.db"
    if file_mode is not None:
        db.touch()
        db.chmod(file_mode)
    before = sorted(folder.iterdir())
    folder.chmod(folder_mode)
    with life(db, before=BOUND) as process:
        said = process.stdout.read().splitlines()
    folder.chmod(0o700)

    assert len(said) == 1, said
    assert said[0].startswith("failed ") and str(db) in said[0] and says in said[0]
    assert sorted(folder.iterdir()) == before


async def test_a_read_only_file_system_is_named(small_disk: Path) -> None:
    """F22: it binds root as well."""
    db = small_disk / "app.db"
    async with acknowledging.open(db):
        pass
    before = {path.name: path.read_bytes() for path in small_disk.iterdir()}
    assert mounted("-o", "remount,ro", small_disk)

    with pytest.raises(JournalError, match=f"^{db}: the folder {small_disk} cannot be written"):
        async with acknowledging.open(db):
            pass
    async with Look(db) as look:
        assert (await look.list_runs()).runs == ()
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == before


# Copies


@pytest.mark.parametrize("kept", [0, 20])
async def test_a_copy_without_its_log_is_an_older_state(kept: int, db: Path, tmp_path: Path) -> None:
    """F24: what the last checkpoint has brought into the file, whole; the engine goes on from there."""
    copy = tmp_path / "copy.db"
    async with acknowledging.open(db) as engine:
        journal = engine._use().host.journal
        for n in range(kept):
            await engine.run("flow", n, run_id=f"r{n}")
        if kept:
            await journal._writer.run(lambda raw: raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())
        for n in range(kept, 40):
            await engine.run("flow", n, run_id=f"r{n}")
        # By another process: opening the file here would drop the engine's locks.
        subprocess.run(["cp", str(db), str(copy)], check=True)
    async with acknowledging.open(copy) as engine:
        found = {run.id: run.status for run in (await engine.list_runs(limit=100)).runs}
        assert await engine.run("flow", 50, run_id="r50") == 100

    assert found == {f"r{n}": "completed" for n in range(kept)}
    assert raw(str(copy), "PRAGMA integrity_check") == [("ok",)]


# Files and threads

SHORT_OF_FILES = """
import asyncio, json, os, resource, sys
from pikkupy import JournalError, JournalLocked, Pikku, RunFailed, Services, Workflow

pikku = Pikku()

@pikku.function(worker="process")
def double(services: Services, number: int) -> int:
    return 2 * number

@pikku.workflow
async def flow(workflow: Workflow, number: int) -> int:
    return await workflow.do("double", lambda: 2 * number)

@pikku.workflow
async def elsewhere(workflow: Workflow, number: int) -> int:
    return await workflow.do("double", double, number)

def taken(free: int) -> list[int]:
    numbers = []
    try:
        while True:
            numbers.append(os.dup(2))
    except OSError:
        for _ in range(free):
            os.close(numbers.pop())
    return numbers

async def said(engine, workflow, run_id):
    try:
        return await engine.run(workflow, 7, run_id=run_id)
    except RunFailed as failed:
        return str(failed)

async def main(path):
    found = {}
    async with pikku.open(path) as engine:
        await engine.run(flow, 7)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    for free in range(10):
        numbers = taken(free)
        try:
            async with pikku.open(path) as engine:
                found[free] = await said(engine, flow, f"here {free}")
        except JournalError as error:
            found[free] = str(error)
        for number in numbers:
            os.close(number)
    async with pikku.open(path) as engine:
        numbers = taken(0)
        found["none"] = [await said(engine, flow, "none"), await said(engine, elsewhere, "none elsewhere")]
        for number in numbers:
            os.close(number)
        found["again"] = [await said(engine, flow, "again"), await said(engine, elsewhere, "again elsewhere")]
    print(json.dumps(found))

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
"""


def test_an_engine_without_files_to_open_refuses_to_begin_or_does_what_it_can(db: Path, tmp_path: Path) -> None:
    """F25: so many file descriptors are left; a worker process needs some more, and fails its attempt alone."""
    script = tmp_path / "short.py"
    script.write_text(SHORT_OF_FILES)
    done = subprocess.run([sys.executable, str(script), str(db)], capture_output=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    lost = "no worker process could be started for step 'double': [Errno 24] Too many open files"
    for free in range(10):
        came = found[str(free)]
        assert came == 14 or (came.startswith(str(db)) and ("unable to open" in came or "Too many open files" in came))
    assert found["0"] != 14 and found["9"] == 14
    assert found["none"][0] == 14 and found["none"][1].endswith(lost)
    assert found["again"] == [14, 14]


async def test_a_system_without_threads_fails_the_attempt_alone(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F25: the next attempt finds one; what begins no thread goes on meanwhile. No engine is opened without one."""
    pikku = Pikku()

    @pikku.function
    def double(services: Services, number: int) -> int:
        return 2 * number

    @pikku.workflow
    async def flow(workflow: Workflow, number: int) -> list[int]:
        return [await workflow.do("here", lambda: number), await workflow.do("double", double, number, retries=1)]

    def refuse(_: Thread) -> None:
        monkeypatch.undo()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        await pikku.open(db).__aenter__()
    async with pikku.open(db) as engine:
        monkeypatch.setattr(Thread, "start", refuse)
        assert await engine.run(flow, 3, run_id="r") == [3, 6]
        attempts = [(one.step_name, one.status, one.error and one.error.message) for one in await engine.history("r")]

    assert attempts == [
        ("here", "succeeded", None),
        ("double", "failed", "can't start new thread"),
        ("double", "succeeded", None),
    ]


# The system


def test_an_engine_needs_nothing_of_its_system_but_the_folder(db: Path) -> None:
    """F30: no time zone, no home, no locale, hardly a variable."""
    with life(db, env={"LANG": "C", "PYTHONPATH": str(ROOT)}) as process:
        said = process.stdout.read().splitlines()

    assert said[-1] == "done", said
    asyncio.run(check(db, said))


STRANGER = [
    "unshare", "--mount", "--pid", "--fork", "sh", "-c",
    'mount -t tmpfs -o uid=54321,mode=700 tmpfs /mnt && mount -o remount,bind,ro / && exec "$@"', "sh",
    "setpriv", "--reuid=54321", "--regid=54321", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
]  # fmt: skip


def can_be_a_stranger() -> bool:
    """Whether another user in another view of the files can be made here."""
    try:
        return subprocess.run([*STRANGER, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_be_a_stranger(), reason="no user without a name can be made here")
def test_a_user_without_a_name_on_a_read_only_system_is_served() -> None:
    """F30: as in a container, of which it is process number 1; the folder of the file is all that can be written."""
    with life(Path("/mnt/app.db"), before=STRANGER, env={"LANG": "C", "PYTHONPATH": str(ROOT)}) as process:
        said = process.stdout.read().splitlines()

    assert said[-1] == "done", said
    assert not Path("/mnt/app.db").exists()


class WallClock:
    """A clock as the system's, that a test moves: nobody is told."""

    virtual = False

    def __init__(self) -> None:
        self.us = 1_900_000_000_000_000

    def now_us(self) -> int:
        return self.us

    def poke(self) -> None:
        """As with the system's."""


@pytest.mark.parametrize("settings", BOTH)
async def test_after_a_long_sleep_of_the_machine_timers_fire_in_due_order(
    settings: dict[str, Any], db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F32: eight hours pass of which the loop knows nothing; it looks at the clock again after a nap."""
    monkeypatch.setattr(timers, "LONGEST_NAP_S", 0.001)
    pikku, clock, woken = Pikku(), WallClock(), list[int]()

    @pikku.workflow
    async def nap(workflow: Workflow, hours: int) -> None:
        await workflow.sleep("nap", timedelta(hours=hours))
        woken.append(hours)

    engine = pikku.open(db, **settings)
    engine._clock = clock
    async with engine:
        for hours in (7, 3, 9, 1, 8, 5):
            await engine.start(nap, hours, run_id=f"r{hours}")
        while raw(str(db), "SELECT count(*) FROM pikkupy_steps") != [(6,)]:
            await asyncio.sleep(0)
        await engine._use().host.journal.commit([])  # all are told that their naps are on disk
        assert woken == []
        clock.us += 8 * 3_600_000_000
        for hours in (1, 3, 5, 7, 8):
            await (await engine.handle(f"r{hours}")).result()
        late = await engine.get_run("r9")

    assert woken == [1, 3, 5, 7, 8]
    assert late.status == "running"
