"""Opens files whose columns hold whatever an attacker would write, under an audit hook: `python -m` with a folder.

Everything that the engine can do is done to them. Prints what happened because of them that only code may cause:
imports, evaluation, unpickling, processes, files. Nothing may. Files that were opened are counted, by what they are.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from pikkupy import Pikku, PikkuError, Services, StepFailed, Workflow, current_step
from pikkupy.store import rows

FORBIDDEN = {
    "import",
    "exec",
    "compile",
    "code.__new__",
    "pickle.find_class",
    "marshal.loads",
    "marshal.load",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "subprocess.Popen",
    "ctypes.dlopen",
    "ctypes.dlsym",
    "os.remove",
    "os.rename",
    "os.putenv",
    "socket.connect",
    "socket.getaddrinfo",
    "shutil.rmtree",
    "urllib.Request",
}


BESIDE = ("", "-wal", "-shm", "-journal", ".lock", ".owner", ".sock", ".port")  # a journal, and what lies beside it
MOUNTS = "/proc/self/mountinfo"
CASE = "/case/"  # nothing is there: that it is tried to be opened tells who watches which file is next


class Touch:
    """Unpickled, it makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("open('pwned', 'w')",)


class Order(msgspec.Struct):
    card: str


HOSTILE: dict[str, str] = {
    "pickle": pickle.dumps(Touch(), protocol=0).decode("latin-1"),
    "pickle, binary": json.dumps(pickle.dumps(Touch()).decode("latin-1")),
    "function": '{"$t":"os:system","v":["touch pwned"]}',
    "function of builtins": '{"$t":"builtins:exec","v":"open(\'pwned\',\'w\')"}',
    "module that is not imported": '{"$t":"antigravity:fly","v":{}}',
    "class": '{"$t":"subprocess:Popen","v":{"args":["touch","pwned"]}}',
    "class with extras": '{"$t":"tests.security.hostile:Order","v":{"card":"x"},"x":{"__class__":"os.system"}}',
    "dunder": '{"$t":"tests.security.hostile:Order.__init__.__globals__","v":{}}',
    "other libraries": '{"py/reduce":[{"py/function":"os.system"},{"py/tuple":["touch pwned"]}],"!!python/object":1}',
    "expression": "__import__('os').system('touch pwned')",
    "expression as text": json.dumps("__import__('os').system('touch pwned')"),
    "dotted name": "os.system",
    "deep list": "[" * 50_000,
    "deep list, closed": "[" * 5_000 + "]" * 5_000,
    "deep tags": '{"$t":"tuple","v":[' * 400 + "]}" * 400,
    "huge integer": "9" * 5_000,
    "huge float": "1e999",
    "huge count": '{"$t":"deque","v":[],"maxlen":99999999999999999999}',
    "bad date": '{"$t":"datetime","v":"999999-99-99T99:99:99"}',
    "bad tag": '{"$t":["list"],"v":1}',
    "no content": '{"$t":"tuple"}',
    "encoded": '{"$t":"encoded","k":"x","v":"!!!"}',
    "unreadable": '{"$t":"unreadable","why":{"deep":[1]}}',
    "SQL": "'; DROP TABLE pikkupy_runs; ATTACH '/tmp/pwned' AS p; --",
    "NUL": "\0\0",
    "NUL in JSON": '"\\u0000"',
    "escapes": "\x1b[2J\x1b]0;pwned\x07\u202e\ufeff",
    "surrogate": '"\\ud800"',
    "no UTF-8": "\udced\udca0\udc80",
    "empty": "",
    "null": "null",
    "format": "%s%n{0.__class__}{{",
}

VALUES = {
    "pikkupy_runs": ("input", "output", "error", "reason", "progress"),
    "pikkupy_steps": ("output", "error"),
    "pikkupy_set_aside": ("output", "error"),
    "pikkupy_attempts": ("error",),
    "pikkupy_signals": ("payload",),
    "pikkupy_chunks": ("value",),
}
NAMES = {
    "pikkupy_runs": ("run_id", "workflow", "forked_from", "tags"),
    "pikkupy_steps": ("name", "target"),
    "pikkupy_set_aside": ("name", "target"),
    "pikkupy_attempts": ("name",),
    "pikkupy_signals": ("name",),
    "pikkupy_chunks": ("name",),
    "pikkupy_changes": ("change_id",),
    "pikkupy_tags": ("name", "value"),
    "pikkupy_journal": ("owner_host",),
}
CHECKSUMS: dict[str, tuple[int, Callable[[Any], Any], tuple[str, ...]]] = {
    "pikkupy_runs": (rows.RUN_FIELDS, rows._run_checksums, ("start_checksum", "move_checksum")),
    "pikkupy_steps": (rows.STEP_FIELDS, rows._step_checksum, ("checksum",)),
    "pikkupy_set_aside": (rows.STEP_FIELDS, rows._step_checksum, ("checksum",)),
    "pikkupy_attempts": (8, rows._checksum, ("checksum",)),
    "pikkupy_signals": (5, rows._checksum, ("checksum",)),
    "pikkupy_chunks": (8, rows._checksum, ("checksum",)),
}


def program(*, changed: bool = False) -> Pikku:
    """Workflows that leave something in every table; `changed` begins them otherwise."""
    pikku = Pikku()

    def fails() -> NoReturn:
        raise ValueError("no")

    @pikku.function
    async def stream(services: Services, card: str) -> list[str]:
        assert services.workflow_step is not None
        services.workflow_step.emit({"card": card})
        return [card]

    @pikku.workflow
    async def child(workflow: Workflow, order: Order) -> Order:
        return await workflow.wait_for_signal("go", Order)

    @pikku.workflow
    async def done(workflow: Workflow, order: Order) -> list[str]:
        workflow.progress("soon")
        return await workflow.do("Stream", stream, order.card)

    @pikku.workflow
    async def failing(workflow: Workflow, order: Order) -> None:
        await workflow.do("First", lambda: order)
        await workflow.do("Fail", fails, retries=1)

    @pikku.workflow
    async def waiting(workflow: Workflow, order: Order) -> Any:
        workflow.changed("way")
        await workflow.do("Emit", lambda: current_step().emit(order))
        try:
            await workflow.do("Fail", fails, retries=1)
        except StepFailed as failed:
            assert failed.is_a(ValueError)
        if changed:
            await workflow.do("New", lambda: 1)
        await workflow.wait_for_signal("early", Order)
        await workflow.wait_for_signal("never", Order)

    @pikku.workflow
    async def parent(workflow: Workflow, order: Order) -> Order:
        return await workflow.do("Child", child, order)

    @pikku.workflow
    async def gate(workflow: Workflow, order: Order) -> None:
        await workflow.suspend("a gate")

    return pikku


async def make(path: Path) -> None:
    """A file with something in every table."""
    async with program().open(path) as engine:
        await engine.run("done", Order("x"), run_id="done", tags={"customer": "7"})
        failing = await engine.start("failing", Order("x"), run_id="failing")
        while await failing.status() != "failed":
            await asyncio.sleep(0.001)
        for name in ("waiting", "parent", "gate"):
            await engine.start(name, Order("x"), run_id=name)
        await engine.start("waiting", Order("x"), run_id="aside")
        for run_id in ("waiting", "aside"):
            await engine.signal(run_id, "early", Order("y"))
            await engine.signal(run_id, "kept", Order("z"))
        await engine.fork("done", at="Stream", new_run_id="forked")
        await engine.cancel((await engine.start("waiting", Order("x"), run_id="cancelled")).id, "enough")
        while (await engine.get_run("gate")).status != "suspended":
            await asyncio.sleep(0.001)
        while len(await engine.steps("parent")) < 1 or len(await engine.steps("aside")) < 4:
            await asyncio.sleep(0.001)
    async with program(changed=True).open(path) as engine:
        await engine.resume("aside", accept="new")
        while len(await engine.steps("aside")) < 4:
            await asyncio.sleep(0.001)


PROGRAMS = {changed: program(changed=changed) for changed in (False, True)}
PATIENCE_S = 20.0


def poison(path: Path, text: str, columns: dict[str, tuple[str, ...]], *, checksums: bool, bare: bool = False) -> None:
    """Write `text` into every one of the columns; errors get it in each of their fields, unless `bare`."""
    error = {"type": "os.system", "message": text, "traceback": text, "bases": ["builtins.eval", text], "steps": [text]}
    with sqlite3.connect(path, isolation_level=None) as db:
        db.text_factory = lambda data: str(data, "utf-8", "surrogateescape")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        for table, names in columns.items():
            for name in names:
                new = json.dumps(error) if name == "error" and "\udced" not in text and not bare else text
                ending = " || number" if name == "run_id" else ""
                change = f"UPDATE OR IGNORE {table} SET {name} = CAST(? AS TEXT){ending} WHERE {name} IS NOT NULL"
                db.execute(change, (new.encode("utf-8", "surrogateescape"),))
        if checksums:
            for table in CHECKSUMS:
                _with_checksums(db, table)
        db.execute("COMMIT")
    db.close()


def _with_checksums(db: sqlite3.Connection, table: str) -> None:
    """What stands in the table gets the checksums that pikkupy would have given it."""
    count, checksum, into = CHECKSUMS[table]
    sets = ", ".join(f"{name} = ?" for name in into)
    for row in db.execute(f"SELECT * FROM {table}").fetchall():
        key = row[0]
        if table != "pikkupy_runs":
            row = row[1:]
        try:
            sums = checksum(row[:count])
        except UnicodeError:
            continue  # no UTF-8: no checksum can be right
        values = [*(sums if isinstance(sums, tuple) else (sums,)), key]
        db.execute(f"UPDATE {table} SET {sets} WHERE rowid = ?", values)


def ids(path: Path) -> list[str]:
    """The ids of its runs, for an API that takes text."""
    with sqlite3.connect(path) as db:
        db.text_factory = lambda data: str(data, "utf-8", "replace")
        found = [row[0] for row in db.execute("SELECT run_id FROM pikkupy_runs ORDER BY number")]
    db.close()
    return found


async def everything(path: Path, run_ids: list[str]) -> list[str]:
    """All that an engine can do with a file and each of its runs; what raised something that is no answer."""
    odd: list[str] = []

    async def attempt(what: str, doing: Callable[[], Any]) -> Any:
        begun = asyncio.get_running_loop().time()
        try:
            return await asyncio.wait_for(doing(), PATIENCE_S)
        except (PikkuError, TimeoutError, StopAsyncIteration) as error:
            if asyncio.get_running_loop().time() - begun >= PATIENCE_S:
                odd.append(f"{what}: hangs: {error!r}")
            return None
        except Exception as error:
            odd.append(f"{what}: {error!r}")

    async def streamed(engine: Any, run_id: str) -> None:
        reading = engine.stream(run_id)
        await asyncio.wait_for(anext(reading), 0.003)

    for changed in (False, True):
        try:
            async with PROGRAMS[changed].open(path, durability="process") as engine:
                await attempt("list", engine.list_runs)
                await attempt("list by error", lambda e=engine: e.list_runs(error="os.system"))
                await attempt("counts", engine.counts)
                for run_id in run_ids:
                    for name in ("get_run", "steps", "history", "handle", "resume", "retry"):
                        await attempt(name, lambda n=name, r=run_id, e=engine: getattr(e, n)(r))
                    await attempt("stream", lambda r=run_id, e=engine: streamed(e, r))
                    await attempt("fork", lambda r=run_id, e=engine: e.fork(r, at="Stream"))
                    await attempt("fork", lambda r=run_id, e=engine: e.fork(r, at="Fail"))
                    await attempt("signal", lambda r=run_id, e=engine: e.signal(r, "never", Order("n")))
                    await attempt("accept", lambda r=run_id, e=engine: e.resume(r, accept="new"))
                    handle = await attempt("handle", lambda r=run_id, e=engine: e.handle(r))
                    if handle is not None:
                        await attempt("result", lambda h=handle: h.result(timeout=0))
                    if changed:
                        await attempt("cancel", lambda r=run_id, e=engine: e.cancel(r, "enough"))
                await attempt("prune", lambda e=engine: e.prune(older_than=0))
        except PikkuError:
            pass
    return odd


class Watch:
    """What Python does in one case after another."""

    def __init__(self, folder: Path) -> None:
        self.violations: set[str] = set()
        self.opened: Counter[str] = Counter()
        # Of code that is imported, for tracebacks.
        self.sources = {file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
        self._folder = str(folder)
        self._case, self._path = "-", ""
        self._number = 0

    def next(self, case: str, path: Path) -> None:
        """The next case is that file's."""
        self._case, self._path = case, str(path)
        try:
            os.open(f"{CASE}{self._number}", os.O_RDONLY)
        except FileNotFoundError:
            self._number += 1

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """The audit hook."""
        if event in FORBIDDEN:
            if event == "os.remove" and str(args[0]).startswith(self._folder):
                return  # the file that names the owner
            self.violations.add(f"{self._case}: {event} {args[:1]!r:.200}")
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            self._open(os.fsdecode(args[0]))

    def _open(self, name: str) -> None:
        beside = name.removeprefix(self._path)
        if name.startswith(("<", CASE)):
            return  # code that has no file; ours
        if name.startswith(self._path) and beside in BESIDE:
            self.opened[beside] += 1
        elif name in self.sources or name == MOUNTS:
            self.opened["mounts" if name == MOUNTS else "source"] += 1
        else:
            self.violations.add(f"{self._case}: open {name!r:.200}")


def main(folder: Path, *, control: bool) -> None:
    """Make the files, arm the hook, open them. `control`: do what the hook is to see instead."""
    template = folder / "template.db"
    asyncio.run(make(template))
    cases: list[tuple[str, Path, list[str]]] = []
    for number, (name, text) in enumerate(HOSTILE.items()):
        ways = [
            ("values", VALUES, True),
            ("errors", {"pikkupy_steps": ("error",), "pikkupy_attempts": ("error",)}, True),
        ]
        if number % 2 == 0:
            ways.append(("names", NAMES, True))
        if number % 4 == 0:
            ways.append(("values", VALUES, False))
            ways.append(("all", {table: (*VALUES.get(table, ()), *names) for table, names in NAMES.items()}, True))
        for of, columns, checksums in ways:
            path = folder / f"{len(cases)}.db"
            shutil.copy(template, path)
            poison(path, text, columns, checksums=checksums, bare=of == "errors")
            cases.append((f"{name} in {of}, checksums {'right' if checksums else 'wrong'}", path, ids(path)))
    warm = folder / "warm.db"
    shutil.copy(template, warm)
    odd = asyncio.run(everything(warm, ids(warm)))  # what is imported late is imported now
    odd += _warmed(folder, template)
    for ready in PROGRAMS.values():
        ready.resolve()

    watch = Watch(folder)
    sys.addaudithook(watch.hook)
    if control:
        cases.clear()
        watch.next("control", warm)
        pickle.loads(pickle.dumps(Touch(), protocol=0))
        import this  # noqa: F401

        with sqlite3.connect(":memory:", isolation_level=None) as db:
            db.execute("ATTACH 'pwned by SQL' AS other")
            db.execute("CREATE TABLE other.t (x)")
    for name, path, run_ids in cases:
        watch.next(name, path)
        odd += [f"{name}: {what}" for what in asyncio.run(everything(path, run_ids))]
    found = {"cases": len(cases), "violations": sorted(watch.violations), "odd": sorted(set(odd))}
    paths = [str(path) for _, path, _ in cases] or [str(warm)]
    print(json.dumps({**found, "opened": watch.opened, "paths": paths, "sources": sorted(watch.sources)}))


def _warmed(folder: Path, template: Path) -> list[str]:
    """What is wrong is told by code that nothing else imports, and typing evaluates the program's own annotations."""
    odd: list[str] = []
    for number, text in enumerate(("{", HOSTILE["class"], HOSTILE["encoded"])):
        path = folder / f"warm{number}.db"
        shutil.copy(template, path)
        poison(path, text, VALUES, checksums=True)
        odd += asyncio.run(everything(path, ids(path)))
    return odd


if __name__ == "__main__":
    main(Path(sys.argv[1]), control="--control" in sys.argv)
