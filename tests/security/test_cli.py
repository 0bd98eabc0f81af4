"""What is in a file cannot drive the terminal that shows it, nor let a command run anything (S13, S18)."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pikkupy.cli.app import run
from tests.children import child
from tests.cli.shell import COLOURS, command, environment, minds_ctrl_c, on_terminal, piped
from tests.cli.test_console import Shown
from tests.journals import cut_off, fill
from tests.security.hostile import HOSTILE, NAMES, VALUES, ids, make, poison

NASTY = HOSTILE | {
    "clear": "\x1b[2J\x1b[H\x1b]0;owned\x07\x1b]52;c;AAAA\x07",
    "C1": "\x9b2J\x9d0;owned\x9c\x90q\x9c\x85",
    "bidi": "\u202eevil\u202c\u2066\u2067\u2068\u2069\u200e\u200f\u061c",
    "invisible": "\u200b\u200c\u200d\u2060\ufeff\u00ad\U000e0041",
    "lines": "a\r\nfailed\tfake\n\u2028\u2029\x0b\x0c",
    "markup": "[red]x[/red] [link=file:///etc/passwd]y[/link] :smile:",
    "JSON in JSON": json.dumps("\x1b[31m\u202e\x7f\x9b"),
    "JSON of everything": json.dumps(
        {"\x1b": ["\x1b[2J", "\u202e", {"$t": "tuple", "v": ["\x9b"]}]}, ensure_ascii=False
    ),
}
TIMES = {
    "pikkupy_runs": ("created_at", "updated_at", "ended_at", "starts_at"),
    "pikkupy_steps": ("started_at", "ended_at", "wake_at"),
    "pikkupy_attempts": ("started_at", "ended_at"),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clean") / "app.db"
    asyncio.run(make(path))
    return path.read_bytes()


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
@pytest.mark.parametrize("columns", [NAMES, VALUES], ids=["names", "values"])
@pytest.mark.parametrize("terminal", ["", "1"], ids=["pipe", "terminal"])
def test_nothing_in_a_file_drives_the_terminal(
    clean: bytes,
    db: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    columns: dict[str, tuple[str, ...]],
    terminal: str,
) -> None:
    """Whatever stands in every name or value, only printable characters and the colours of our own come out.

    No command ends with a traceback, and JSON is JSON.
    """
    monkeypatch.setenv("COLUMNS", "100")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    db.write_bytes(clean)
    poison(db, text, columns, checksums=True)
    shown = [["show", str(db), run_id] for run_id in ids(db)[:4]]
    commands = [["counts", str(db)], ["doctor", str(db)], ["runs", "list", str(db)]]
    commands += [["runs", *one] for one in shown]
    asked = [[*one, *option] for one in commands for option in ([], ["--json"])]
    asked += [
        ["runs", "tail", str(db), run_id, "--engine-wait", "0s", *option]
        for run_id in ids(db)[:4]
        for option in ([], ["--jsonl"])
    ]
    asked += [["export", str(db), run_id] for run_id in ids(db)[:4]]
    for one in asked:
        code, (out, err) = run(one), capsys.readouterr()
        assert code in {0, 1, 3, 4, 124}
        if one[0] == "export" and code == 0:
            document = db.with_name("exported.json")
            document.write_text(out, encoding="utf-8")
            assert run(["replay", str(document), "tests.security.hostile:program"]) in {0, 1, 4, 6}
            out += "".join(capsys.readouterr())
        for line in f"{out}{err}".split("\n"):
            for field in line.split("\t"):
                assert COLOURS.sub("", field).isprintable(), field
        if code == 0 and "--json" in one:
            json.loads(out)
        if code == 0 and "--jsonl" in one:
            [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("time", [1 << 62, -(1 << 62)])
def test_times_that_no_calendar_has_are_damage(
    clean: bytes, db: Path, capsys: pytest.CaptureFixture[str], time: int
) -> None:
    """They are said to be; the other runs are shown."""
    for columns in ({"pikkupy_runs": ("created_at",)}, TIMES):
        db.write_bytes(clean)
        poison(db, str(time), columns, checksums=True)
        for one in (["runs", "list", str(db)], ["runs", "show", str(db), "failing"]):
            assert run(one) == 1
            err = capsys.readouterr().err
            assert "a recorded time is none" in err and "Traceback" not in err
        assert run(["doctor", str(db)]) in {0, 1}
    db.write_bytes(clean)
    poison(db, str(time), {"pikkupy_steps": ("started_at",), "pikkupy_attempts": ("started_at",)}, checksums=True)
    assert run(["runs", "show", str(db), "failing"]) == 1
    assert "a recorded time" in capsys.readouterr().err


def test_a_terminal_gets_colours_and_nothing_else(db: Path) -> None:
    """On a real one: no title, no cursor, no alternate screen."""
    asyncio.run(fill(db))
    for arguments in (["runs", "list", db], ["runs", "show", db, "declined"], ["doctor", db], ["counts", db]):
        out = on_terminal(*arguments).plain
        assert out.replace("\n", "").isprintable()


WATCH = """
import sys
FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class"}
FORBIDDEN |= {"socket.connect", "marshal.load"}
if {"tail", "console"} & set(sys.argv):
    FORBIDDEN.remove("socket.connect")  # they ask whether an engine has the file open
seen = []
READ = (".db", ".db.owner", ".db.port")  # the doctor reads how the first begins, who asks an engine where it is
MADE = (".pikku-backup-", "made.", "app.db.token")  # what becomes the copy, what was asked for, the key of the console
def hook(event, arguments):
    if event in ("open", "os.remove", "os.rename") and not isinstance(arguments[0], int):
        folder = arguments[1] if event == "os.remove" else -1
        path = os.path.join(HERE if folder == -1 else os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(arguments[0]))
        is_here, made = path.startswith(f"{HERE}/"), path.removeprefix(f"{HERE}/").startswith(MADE)
        if not (made or event == "open" and (not is_here or path.endswith(READ))):
            seen.append(f"{event} {path}")
    elif event in FORBIDDEN or (event == "ctypes.dlopen" and arguments[0]):
        seen.append(event)
import os
HERE = os.getcwd()
sys.addaudithook(hook)
from pikkupy.__main__ import main
code = main()
here = [str(module.__file__) for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
seen += [f"import {file}" for file in here if file.startswith(HERE)]
print(seen, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "list"],
        ["runs", "show", "done"],
        ["runs", "tail", "done"],
        ["counts"],
        ["doctor"],
        ["runs", "list", "--json"],
        ["export", "done"],
        ["export", "done", "--output", "made.json"],
        ["prune", "--older-than", "0ms", "--dry-run"],
        ["backup", "made.db"],
    ],
    ids=" ".join,
)
def test_commands_that_read_run_nothing_of_the_folder_they_are_in(tmp_path: Path, arguments: list[str]) -> None:
    """Neither an application, nor what has the name of a library, nor a configuration: no such file is even opened."""
    lay_traps(tmp_path)

    done = subprocess.run(
        [sys.executable, "-P", "-c", WATCH, *arguments],
        cwd=tmp_path,
        env=environment(PIKKU_DB="app.db"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert not (tmp_path / "pwned").exists()


def test_the_console_of_a_file_runs_nothing_of_the_folder_it_is_in(tmp_path: Path) -> None:
    """Nor do the pages that it shows."""
    lay_traps(tmp_path)
    arguments = [sys.executable, "-P", "-c", WATCH, "console", "app.db", "--engine-wait", "0s", "--http", "127.0.0.1:0"]

    with child(
        arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=minds_ctrl_c
    ) as process:
        console = Shown(process)
        pages = [console.ask(f"/console/{path}")[0] for path in ("", "runs/done", "runs/done/events", "overview")]
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
        code = process.wait(20)

    assert (code, pages) == (0, [200] * 4), said
    assert said.splitlines()[-1] == "[]"
    assert not (tmp_path / "pwned").exists()


def lay_traps(folder: Path) -> None:
    """A journal, beside files that would be run or read by who looks for them there."""
    for name in ("app", "sitecustomize", "usercustomize", "rich", "cyclopts", "msgspec", "pikkupy", "json"):
        (folder / f"{name}.py").write_text("open('pwned', 'w')\n")
    (folder / "app.pth").write_text("import os; open('pwned', 'w')\n")
    for name in ("pikkupy.toml", "pyproject.toml", ".env"):
        (folder / name).write_text("[tool.pikkupy]\napp = 'app:pikku'\n")
    journal = folder / "app.db"
    cut_off(journal)
    poison(journal, HOSTILE["class"], VALUES, checksums=True)


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_no_command_leaves_a_file_that_others_can_read(tmp_path: Path, umask: str) -> None:
    """A backup has mode 0600; the others make no file (S15)."""
    asyncio.run(fill(tmp_path / "app.db"))
    before = {path.name for path in tmp_path.iterdir()}
    for arguments in (["runs", "list"], ["runs", "show", "done"], ["counts"], ["doctor"], ["backup", "out.db"]):
        done = subprocess.run(
            ["sh", "-c", f'umask {umask}; exec "$@"', "sh", *command(*arguments)],
            cwd=tmp_path,
            env=environment(PIKKU_DB="app.db"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    assert {path.name for path in tmp_path.iterdir()} - before == {"out.db"}
    assert (tmp_path / "out.db").stat().st_mode & 0o777 == 0o600
    assert piped("counts", tmp_path / "out.db").code == 0
