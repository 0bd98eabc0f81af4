"""Make one defect after another in a copy of the project, and see that something finds each.

    python -m tests.mutants [--only NAME ...] [--quick] [--jobs J] [--json] [--list]

First the tests that should notice a defect soonest look for it, then the simulator, then all tests. What has found it
is asked again in a copy without it, and counts if it finds nothing there. A defect that nothing finds is told, and the
exit code is 1. Before that, the first tests and the simulator pass in a copy without a defect. `--quick` makes the ten
that every run of the tests makes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.mutants.defects import DEFECTS, QUICK, Defect

PROJECT = Path(__file__).parents[2]
CRASHES = 2_000  # simulated, for a defect that the first tests let pass
LONGEST_S = 3600.0  # of one command; all tests, one after another, take half of it
LINE = 160  # characters of what is said of one finding
FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", re.MULTILINE)
TEST = re.compile(r"tests/[\w/]+\.py(?:::\w+)*")  # with all its parameters
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "dist", "build")
SIMULATOR = ["-m", "pikkupy.testing.simulation", "--crashes", str(CRASHES), "--seed", "1", "--jobs", "1"]
# Of the copy, not of the defect: that texts say what the code does, and that defects find their places.
NOT_ASKED = ("tests/test_house.py", "tests/test_docs.py", "tests/test_public_names.py", "tests/test_mutants.py")


class Verdict(msgspec.Struct, frozen=True):
    """What became of one defect."""

    name: str
    file: str
    found_by: str | None
    seconds: float


def look(defect: Defect) -> Verdict:
    """Make the defect in a copy of the project, and look for it until it is found."""
    begun = time.monotonic()
    with copy() as folder:
        defect.apply(folder)
        try:
            found_by = _first_finder(folder, defect)
        except subprocess.TimeoutExpired:
            found_by = None
    return Verdict(defect.name, defect.file, found_by, round(time.monotonic() - begun, 1))


def _first_finder(folder: Path, defect: Defect) -> str | None:
    """Of the first tests, the simulator and all tests: what objects to the copy, and not to one without the defect."""
    for who, arguments in (("", pytest_of(defect.tests.split())), ("the simulator: ", SIMULATOR), ("", pytest_of([]))):
        objection = what_objects(folder, arguments)
        if objection is None:
            continue
        test = TEST.match(objection)
        again = pytest_of([test[0].removeprefix("tests/")]) if test else arguments
        with copy() as sound:
            if what_objects(sound, again) is None:
                return who + objection
    return None


def pytest_of(names: Sequence[str]) -> list[str]:
    """The arguments of Python that run these files and folders of `tests/`, or all but those that are not asked."""
    which = [f"tests/{name}" for name in names] or ["tests", *(f"--ignore={name}" for name in NOT_ASKED)]
    return ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *which]


def what_objects(folder: Path, arguments: Sequence[str]) -> str | None:
    """None if the command ends well in the copy, else the first that it says against it. Its children end with it.

    Raises `subprocess.TimeoutExpired`: a slow machine finds nothing, and what hangs is ended by pytest.
    """
    command = [sys.executable, *arguments]
    variables = os.environ | {"PYTHONPATH": str(folder)}  # one that is set would lead to another tree
    with subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=LONGEST_S)
        finally:
            _end_group(process.pid)
    if process.returncode == 0:
        return None
    failed = FAILED.search(said)
    return (failed.group(1) if failed else next(iter(said.splitlines()), f"exit code {process.returncode}"))[:LINE]


def _end_group(leader: int) -> None:
    try:
        os.killpg(leader, 9)
    except ProcessLookupError:
        pass  # nobody is left of it


@contextmanager
def copy() -> Iterator[Path]:
    """A copy of the project to be changed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        shutil.copytree(PROJECT, folder, ignore=LEFT_OUT)
        yield folder


def main() -> int:
    """0 if every defect was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="defects with one of these texts in their names")
    parser.add_argument("--quick", action="store_true", help="the ten that every run of the tests makes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="copies at once (one per core)")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    parser.add_argument("--list", action="store_true", help="say which defects there are, and make none")
    options = parser.parse_args()
    chosen = [
        defect
        for defect in DEFECTS
        if (not options.quick or defect.name in QUICK)
        and (not options.only or any(text in defect.name for text in options.only))
    ]
    if not chosen:
        parser.error("no defect has such a name; see --list")
    if options.list:
        _say("\n".join(f"{defect.name}: {defect.file}" for defect in chosen))
        return 0
    asked = sorted({name for defect in chosen for name in defect.tests.split()})
    with copy() as folder:
        objection = what_objects(folder, pytest_of(asked)) or what_objects(folder, SIMULATOR)
        if objection is not None:
            _say(f"{objection} fails without any defect")
            return 1
    verdicts = list(_all(chosen, options.jobs, quiet=options.json))
    missed = [verdict.name for verdict in verdicts if verdict.found_by is None]
    if options.json:
        _say(json.dumps({"defects": msgspec.to_builtins(verdicts), "missed": missed}, indent=2))
    else:
        _say(
            f"{len(verdicts) - len(missed)} of {len(verdicts)} defects found"
            + "".join(f"\n  missed: {one}" for one in missed)
        )
    return 1 if missed else 0


def _all(chosen: Sequence[Defect], jobs: int, *, quiet: bool) -> Iterator[Verdict]:
    with ThreadPoolExecutor(jobs) as threads:
        for done, verdict in enumerate(threads.map(look, chosen), 1):
            if not quiet:
                found = "NOT FOUND" if verdict.found_by is None else f"found by {verdict.found_by}"
                _say(f"{done:3} of {len(chosen)}  {verdict.name}: {found}, {verdict.seconds:g} s")
            yield verdict


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
