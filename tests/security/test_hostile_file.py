"""A file that somebody else has written says what is in it, and no more: no name in it is imported or called."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.disk import kills
from tests.security.hostile import BESIDE, CASE, MOUNTS

ROOT = Path(__file__).parents[2]
CALLS = (
    "open,openat,creat,execve,unlink,unlinkat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mkdir,mkdirat,"
    "connect"
)
TEMPORARY = "etilqs_"  # how SQLite calls files that it makes to sort, and deletes while they are open
OVERCOMMIT = "/proc/sys/vm/overcommit_memory"  # glibc looks at it when the heap of a thread shrinks
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


class Found(NamedTuple):
    """What a run over the hostile files has said, and the system calls that it has made with names of files."""

    said: dict[str, Any]
    calls: list[str] | None  # None: nobody could watch

    def strange(self) -> list[str]:
        """The calls since the first case that have nothing to do with the file of their case."""
        strange, number = [], -1
        ours, case = {*self.said["sources"], MOUNTS, OVERCOMMIT}, set[str]()
        for call in self.calls or ():
            for name in QUOTED.findall(call):
                if name.startswith(CASE):
                    number = int(name.removeprefix(CASE))
                    path = self.said["paths"][number]
                    case = {str(Path(path).parent), *(f"{path}{end}" for end in BESIDE)}  # the folder is synced
                elif number >= 0 and name not in ours | case and not Path(name).name.startswith(TEMPORARY):
                    strange.append(f"case {number}: {call}")
        return strange


def run_hostile(folder: Path, *options: str) -> Found:
    log = folder / "calls"
    watched = ["strace", "-f", "-qq", "--seccomp-bpf", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(log)]
    done = subprocess.run(
        [
            *(watched if kills.has_strace() else ()),
            sys.executable,
            "-m",
            "tests.security.hostile",
            str(folder),
            *options,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = log.read_text(errors="replace").splitlines() if log.exists() else None
    return Found(json.loads(done.stdout.splitlines()[-1]), calls)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Sixty files, each opened, listed, stepped through, forked, resumed, retried, streamed and pruned."""
    return run_hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """What must not happen, done on purpose."""
    yield run_hostile(tmp_path_factory.mktemp("control"), "--control")
    for name in ("pwned", "pwned by SQL"):
        (ROOT / name).unlink()


@pytest.mark.slow
def test_nothing_is_imported_evaluated_or_unpickled_because_of_a_file(found: Found) -> None:
    """Whatever is in them is given as a value or as text, or refused with an error of pikkupy's."""
    assert found.said["cases"] >= 60
    assert found.said["violations"] == []
    assert found.said["odd"] == []
    assert not list(ROOT.glob("pwned*"))


@pytest.mark.slow
def test_nothing_else_is_opened_than_the_file_and_what_lies_beside_it(found: Found) -> None:
    """Counted by the audit hook: twice in each case there is an owner to be named and a lock to be taken."""
    opened = found.said["opened"]

    assert set(opened) <= {*BESIDE, "mounts", "source"}
    assert opened[".owner"] >= 2 * found.said["cases"] and opened[".lock"] >= 2 * found.said["cases"]


@pytest.mark.slow
@pytest.mark.skipif(not kills.has_strace(), reason="there is no strace that may trace")
def test_sqlite_opens_nothing_else_either(found: Found) -> None:
    """Counted by the system, which sees what no audit hook does; nothing else is made, renamed or deleted."""
    assert found.strange() == []
    [*_, last] = found.said["paths"]
    assert len([call for call in found.calls or () if f'"{last}"' in call and "O_RDWR" in call]) >= 2


def test_the_watch_sees_what_it_is_there_for(control: Found) -> None:
    """Unpickling and importing under the same hook are seen."""
    seen = " ".join(control.said["violations"])

    assert all(event in seen for event in ("pickle.find_class", "exec", "compile", "import", "open 'pwned'"))


@pytest.mark.skipif(not kills.has_strace(), reason="there is no strace that may trace")
def test_the_system_sees_what_the_hook_does_not(control: Found) -> None:
    """A file that SQLite opens."""
    assert "pwned by SQL" in " ".join(control.strange())
    assert "pwned by SQL" not in " ".join(control.said["violations"])
