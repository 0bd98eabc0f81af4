"""The house: imports point down, the core is pure, there are no circles, and each thing has its one place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pikkupy"

# Floor by room. A room is a file or folder of the package; it imports rooms of lower floors only, and itself.
FLOORS: dict[str, int] = {
    "errors": 0,
    "durations": 1,
    "names": 1,
    "payloads": 1,
    "plain": 1,
    "private": 1,
    "log": 1,
    "tuning": 1,
    "turns": 1,
    "config": 2,
    "progress": 2,
    "core": 2,
    "moments": 2,
    "failures": 3,
    "clock": 3,
    "codec": 3,
    "registry": 3,
    "run_loop": 3,
    "store": 3,
    "timers": 3,
    "services": 4,
    "mounting": 4,
    "execution": 4,
    "schemas": 4,
    "workers": 5,
    "engine": 6,
    "encryption": 7,
    "control": 7,
    "many": 7,
    "showing": 7,
    "http": 8,
    "console": 9,
    "pikku": 10,
    "testing": 11,
    "__init__": 11,
    "cli": 12,
    "__main__": 13,
}

IMPURE = {"asyncio", "time", "random", "os", "sqlite3", "aiosqlite", "structlog", "anyio", "threading", "socket"}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every absolute import in the file, wherever it stands, also under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_room_has_its_floor() -> None:
    """A new file needs a floor before it can be imported."""
    assert {room_of(path) for path in files()} <= set(FLOORS)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """Rooms on one floor do not know each other."""
    room = room_of(path)
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] != "pikkupy":
            continue
        other = parts[1] if len(parts) > 1 and parts[1] in FLOORS else "__init__"
        assert other == room or FLOORS[other] < FLOORS[room], f"{path}:{line}: {room} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=lambda path: path.stem)
def test_the_core_is_pure(path: Path) -> None:
    """No clock, no I/O, no randomness: not even `datetime.now`."""
    for line, name in imports(path):
        assert name.split(".")[0] not in IMPURE, f"{path}:{line}: the core imports {name}"
    source = path.read_text(encoding="utf-8")
    assert ".now()" not in source and "utcnow" not in source and "today()" not in source


def test_there_are_no_import_circles() -> None:
    """Between files, also within a room, also for types."""
    modules = {module_name(path): path for path in files()}
    graph = {
        name: {target for _, imported in imports(path) for target in (closest(imported, modules),) if target != name}
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def closest(imported: str, modules: dict[str, Path]) -> str:
    """The module of ours that an import means; text that is none of ours has no arrows."""
    return imported if imported in modules else imported.rpartition(".")[0]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_thing_has_its_one_place(path: Path) -> None:
    """SQL is in `store/`, real time in `clock`, user steps in `workers/`, and nothing prints or configures logging."""
    source = path.read_text(encoding="utf-8")
    room = room_of(path)
    names = {name.split(".")[0] for _, name in imports(path)}
    if room != "store" and path.name != "disk.py":  # the disk of the simulation stands in for the store's connections
        assert not names & {"sqlite3", "aiosqlite", "filelock"}
    if room not in {"clock", "cli", "store"}:
        assert not names & {"time"}
    assert "structlog.configure" not in source
    assert "pickle" not in names
    if room not in {"cli", "core", "__main__"}:
        assert "print(" not in source


SECRET = re.compile("token|digest|signature|signed|secret|seal", re.IGNORECASE)  # in the name of what holds one
COMPARED = {"control/server.py": 1, "http/tokens.py": 3}  # so often in constant time


@pytest.mark.parametrize("room", ["console", "control", "http"])
def test_secrets_are_compared_in_constant_time(room: str) -> None:
    """S7: by `hmac.compare_digest`, and never by `==`, which ends at the first difference.

    A digest may be looked up (`in`): who does not know the secret cannot choose how a digest of a guess begins.
    """
    counted = dict[str, int]()
    for path in sorted((PACKAGE / room).rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "hmac.compare_digest":
                counted[name] = counted.get(name, 0) + 1
            if isinstance(node, ast.Compare) and any(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops):
                assert not secrets_in(node), f"{path}:{node.lineno}: {ast.unparse(node)}"
    assert counted == {name: times for name, times in COMPARED.items() if name.startswith(f"{room}/")}


def secrets_in(node: ast.AST) -> set[str]:
    """Names in it that say that they hold a secret; how long one is may be known."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "len":
        return set()
    own = {getattr(node, "id", ""), getattr(node, "attr", "")}
    return {name for name in own if SECRET.search(name)}.union(*map(secrets_in, ast.iter_child_nodes(node)))
