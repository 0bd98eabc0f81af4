"""`pikku init`: what it makes runs, by the commands of its own README."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.shell import command, environment, piped


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A new project, and `pikku` beside it."""
    assert piped("init", tmp_path / "shop").code == 0
    script = tmp_path / "bin" / "pikku"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -P -W error -m pikkupy "$@"\n')
    script.chmod(0o755)
    return tmp_path / "shop"


def test_the_new_project_runs_by_its_own_readme(project: Path) -> None:
    """The engine, a run, a decision; killed in between, it goes on."""
    guide = (project / "README.md").read_text()
    engine, start, show, approve, tail = re.findall(r"^    (pikku .*)$", guide, re.M)
    [check] = re.findall(r"`(pikku check [^`]*)`", guide)
    variables = environment(PATH=f"{project.parent / 'bin'}:{os.environ['PATH']}")

    def sh(line: str) -> str:
        done = subprocess.run(
            ["sh", "-c", line], cwd=project, capture_output=True, text=True, env=variables, check=False
        )
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout

    words = engine.split()[1:]
    first = subprocess.Popen(command(*words), cwd=project, env=variables, stderr=subprocess.DEVNULL)
    try:
        assert sh(f"{start} --engine-wait 30s") == "ada\n"
        while "account" not in sh(show):
            pass
        first.kill()
        first.wait()
        first = subprocess.Popen(command(*words), cwd=project, env=variables, stderr=subprocess.DEVNULL)
        sh(f"{approve} --engine-wait 30s")
        assert sh(tail).splitlines()[-1].endswith("completed")
        assert sh(check) == ""
    finally:
        first.kill()
        first.wait()


def test_nothing_is_overwritten(project: Path) -> None:
    """The exit code says that something is in the way."""
    before = {path.name: path.read_text() for path in project.iterdir()}
    again = piped("init", project)
    assert again.code == 5
    assert "is there already" in again.err
    assert {path.name: path.read_text() for path in project.iterdir()} == before


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = piped("init", "file", cwd=tmp_path)

    assert (done.code, done.err) == (5, "pikku: file is there already; give a name that is free\n")


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    """It says which file it has written, in the home of the user alone."""
    variables = {"HOME": str(tmp_path), "SHELL": "/bin/bash"}
    done = piped("--install-completion", "--shell", "bash", **variables)
    assert done.code == 0, done.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("pikku" in path.read_text() for path in written)
    assert "doctor" in "".join(path.read_text() for path in written)
    assert str(tmp_path) in done.out + done.err


def test_what_was_made_is_told_to_programs(tmp_path: Path) -> None:
    told = json.loads(piped("init", tmp_path / "shop", "--json").out)

    assert told["folder"] == str(tmp_path / "shop")
    assert sorted(told["files"]) == sorted(path.name for path in (tmp_path / "shop").iterdir())
