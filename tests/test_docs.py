"""README, changelog and docs say what is true: their code runs, their tables list what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pikkupy import Config
from pikkupy.log import EVENTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_python_blocks_of_the_readme_run_twice(number: int, tmp_path: Path) -> None:
    """As a user would run them, in an empty folder; the second time the journal is there already."""
    for _ in range(2):
        done = run_script("example.py", BLOCKS[number], tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert done.stderr == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_blocks_of_a_page_are_one_program(page: Path, tmp_path: Path) -> None:
    """They run one after another in one namespace, each on the line on which it stands in the page."""
    done = run_script(page.name, program_of(page.read_text(encoding="utf-8")), tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def run_script(name: str, source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What became of a script that was run in that folder, with warnings as errors."""
    script = folder / name
    script.write_text(source, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def program_of(page: str) -> str:
    """The page with all that is no Python left blank, so that a traceback names the page's lines."""
    lines, inside = list[str](), False
    for line in page.splitlines():
        fence = line.startswith("```")
        lines.append(line if inside and not fence else "")
        inside = line == "```python" if fence else inside
    return "\n".join(lines)


def test_the_example_on_the_first_screen_has_about_fifteen_lines() -> None:
    """What comes first decides whether anybody reads on."""
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]

    assert len(lines) <= 16


def test_every_event_is_in_the_readme_and_every_logged_name_is_an_event() -> None:
    """A log line that nobody can look up, or a documented one that never comes, fails here."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "pikkupy").rglob("*.py"))
    logged = set(re.findall(r"\.(?:info|warning|error|debug)\(\s*\"([a-z_]+)\"", sources))
    logged |= {"run_completed", "run_failed", "run_cancelled", "run_suspended"}  # f"run_{status}"

    assert logged - {"creating"} == set(EVENTS)
    for event, meaning in EVENTS.items():
        assert f"| `{event}` | {meaning} |" in README


def test_the_readme_shows_the_list_and_a_run_in_light_and_dark() -> None:
    """All the pictures that `python -m tests.console.pictures` makes."""
    pictures = {f"docs/pictures/{path.name}" for path in (ROOT / "docs" / "pictures").iterdir()}

    assert len(pictures) == 4
    assert set(re.findall(r"\"(docs/pictures/[^\"]+)\"", README)) == pictures


def test_every_setting_is_in_the_readme() -> None:
    """With its name as it is written in code."""
    for field in Config.__struct_fields__:
        assert f"`{field}`" in README


def test_each_claim_about_security_names_a_test_that_exists() -> None:
    """A table row without a test, or with one that is gone, fails here."""
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    promises = page.partition("## What is promised")[2].partition("## What is not promised")[0]
    rows = [
        line for line in promises.splitlines() if line.startswith("| ") and not line.startswith(("| claim", "| ---"))
    ]
    assert len(rows) > 25
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            path = ROOT / file if "/" in file else ROOT / "tests" / "security" / file
            assert f"def {test}(" in path.read_text(encoding="utf-8"), test
    assert "(SECURITY.md)" in README


def test_each_fault_names_where_it_is_tried_or_why_it_is_not() -> None:
    """A file that is gone, or a fault that is left out, fails here; what the tests cite is in the list."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| F(\d+) \| (.+) \| (.+) \|$", page.partition("## Faults, one by one")[2], re.MULTILINE)

    assert [int(number) for number, _, _ in rows] == list(range(1, 61))
    named = ""
    for number, _, where in rows:
        named = where if not where.startswith("the same") else where.replace("the same", named, 1)
        files = re.findall(r"`([\w/]+\.py)`", named)
        modules = re.findall(r"`python -m ([\w.]+)[^`]*`", named)
        assert files or modules or named.startswith("not tried: "), number
        for file in [*files, *(f"{module.replace('.', '/')}/__main__.py" for module in modules)]:
            assert (ROOT / file).is_file(), file
        if "tests/test_environment.py" in files:
            assert f"F{number}: " in (ROOT / "tests" / "test_environment.py").read_text(encoding="utf-8")


def test_each_invariant_names_a_test_that_exists_or_why_there_is_none() -> None:
    """As the faults do."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    part = page.partition("## Invariants, one by one")[2]
    rows = re.findall(r"^\| I-(\d+) \| (.+) \| (.+) \|$", part, re.MULTILINE)

    assert [int(number) for number, _, _ in rows] == list(range(1, 53))
    for number, _, where in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", where)
        assert named or where.startswith("not tried: "), number
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), (number, test)


def test_the_readme_s_commands_are_those_of_ci() -> None:
    """The two commands stand in the README as they are run."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    setup = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest -n 2 --dist worksteal"

    assert setup in README
    assert ci.endswith(f"{setup}\n")
