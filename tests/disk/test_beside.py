"""Kills before each call that makes, writes or takes away a file beside the database, and that they would be seen."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.disk import kills
from tests.test_docs import ROOT

SYSCALLS = {"openat": "open", "unlink": "os.remove", "bind": "socket.bind", "fchmod": "os.chmod", "chmod": "os.chmod"}
UNSIGNED = """
import sys
from pathlib import Path
from pikkupy.store.owner import Lock
from tests.disk.beside import explore

sign = Lock._sign
Lock._sign = lambda lock, holder: None if lock._owner.exists() else sign(lock, holder)
explore(Path(sys.argv[1]))
"""


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_kills_at_opening_and_leaving(tmp_path: Path) -> None:
    """The next engine owns the file by name, whatever the killed one has left: lock, owner, socket."""
    done = python("-m", "tests.disk.beside", tmp_path)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {before: len(calls) >= 10 for before, calls in found.items()} == dict.fromkeys(
        ("fresh", "left", "killed"), True
    )
    assert {"open .owner", "os.remove .owner", "socket.bind .sock", "fcntl.flock .lock", "open "} <= {*found["fresh"]}


def test_a_name_of_a_killed_owner_that_stays_is_seen(tmp_path: Path) -> None:
    """An engine that does not write its own over it."""
    done = python("-c", UNSIGNED, tmp_path)

    assert "and the file names" in done.stderr


@pytest.mark.skipif(not kills.has_strace(), reason="there is no strace that may trace")
def test_the_hook_sees_what_the_system_sees(tmp_path: Path) -> None:
    """Of lock, owner and socket."""
    trace = tmp_path / "trace"
    traced = "trace=openat,unlink,unlinkat,rename,link,bind,chmod,fchmod,ftruncate"
    options = ["-f", "-y", "-qq", "-o", trace, "-e", traced]
    command = ["strace", *options, sys.executable, "-m", "tests.disk.beside", "--once", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    lines = re.findall(r"(\w+)\(.*/app\.db(\.lock|\.owner|\.sock|\.port)\b", trace.read_text())
    calls = {(call, suffix) for call, suffix in json.loads(done.stdout) if suffix and call in SYSCALLS.values()}
    assert {(SYSCALLS[call], suffix) for call, suffix in lines} == calls
