"""`pikku run`: an engine as a process."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import pytest

from pikkupy.cli.http import tokens_in
from pikkupy.errors import BadValue
from pikkupy.http import Caller, Scope
from tests.children import child
from tests.cli.shell import command, environment, piped

SHOP = """
import time
from pikkupy import Pikku, Services, Workflow

pikku = Pikku()

@pikku.function
def slow(services: Services, data: str) -> str:
    open(data, "a").write("begun\\n")
    time.sleep(30)
    return "slow"

@pikku.workflow
async def hello(workflow: Workflow, data: str) -> str:
    workflow.logger.info("greeting", name=data)
    return await workflow.do("greet", lambda: f"hello {data}")

@pikku.workflow
async def lasting(workflow: Workflow, data: str) -> str:
    return await workflow.do("slow", slow, data)

def make():
    return pikku.open("made.db", shutdown_grace=0)

def make_of(path):
    return pikku.open(path)

async def make_later():
    return make()

def make_nothing():
    pass

class Order:
    def __init__(self, number):
        self.number = number

def hide(text):
    return text.replace("s3cret", "***")

opened = pikku.open("opened.db", role="auto")
number = 3
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with an application."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@contextmanager
def running(shop: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with child(
        command("run", *arguments, "--app-dir", "."), cwd=shop, stderr=subprocess.PIPE, env=environment()
    ) as process:
        yield process


def lines(process: subprocess.Popen[bytes]) -> list[dict[str, object]]:
    assert process.stderr is not None
    return [json.loads(line) for line in process.stderr.read().splitlines()]


@pytest.mark.parametrize(
    ("arguments", "file"),
    [(("shop:pikku", "app.db"), "app.db"), (("shop:make",), "made.db"), (("shop:opened",), "opened.db")],
)
def test_an_engine_runs_until_it_is_told_to_end(arguments: tuple[str, ...], file: str, shop: Path) -> None:
    """Its log is JSON, also the lines of workflows; the exit code is 0."""
    with running(shop, *arguments) as process:
        done = piped("start", shop / file, "hello", "-d", '"ada"', "--wait", "--engine-wait", "30s")
        assert (done.code, done.out) == (0, '"hello ada"\n')
        process.send_signal(signal.SIGTERM)
        logged = lines(process)
        assert process.wait(20) == 0
    events = [line["event"] for line in logged]
    assert events[0] == "engine_opened" and events[-1] == "engine_closed"
    greeting = next(line for line in logged if line["event"] == "greeting")
    assert (greeting["name"], greeting["workflow"], greeting["level"]) == ("ada", "hello", "info")


def test_running_steps_get_their_time_and_a_second_signal_ends_it_at_once(shop: Path) -> None:
    """The run goes on in the next life."""
    begun = shop / "begun"
    with running(shop, "shop:pikku", "app.db", "--grace", "1h") as process:
        piped("start", shop / "app.db", "lasting", "-d", json.dumps(str(begun)), "--id", "r", "--engine-wait", "30s")
        while not begun.exists():
            pass
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    with running(shop, "shop:pikku", "app.db", "--grace", "0ms", "--log", "text") as process:
        while begun.read_text() != "begun\nbegun\n":
            pass
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        text = process.stderr.read().decode()
        assert process.wait(20) == 0
    assert "run_recovered" in text and text.splitlines()[-1].endswith("engine_closed path=app.db")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("shop", "app.db"), "use module:name"),
        (("shop:", "app.db"), "use module:name"),
        (("nowhere:pikku", "app.db"), "there is no module 'nowhere'"),
        (("shop.more:pikku", "app.db"), "there is no module 'shop.more'"),
        (("shop:nothing", "app.db"), "shop has no 'nothing'"),
        (("shop:number", "app.db"), "shop:number is int: use a Pikku, as shop:pikku is"),
        (("shop:hello", "app.db"), "shop:hello is a workflow: use a Pikku, as shop:pikku is"),
        (("shop:slow", "app.db"), "shop:slow is a function of a Pikku: use a Pikku, as shop:pikku is"),
        (("shop:Order", "app.db"), "shop:Order is a class: use a Pikku, as shop:pikku is"),
        (("shop:make_of",), "shop:make_of takes arguments: use a Pikku, as shop:pikku is"),
        (("shop:make_later",), "shop:make_later is async: use a Pikku, as shop:pikku is"),
        (("shop:make_nothing",), "shop:make_nothing gives NoneType: use a Pikku, as shop:pikku is"),
        (("shop:pikku",), "which journal?"),
        (("shop:make", "app.db"), "it has its own file"),
    ],
)
def test_what_cannot_be_run_is_said(arguments: tuple[str, ...], said: str, shop: Path) -> None:
    """Before anything is opened."""
    done = piped("run", *arguments, "--app-dir", ".", cwd=shop)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not list(shop.glob("*.db"))


def test_the_folder_that_one_is_in_is_not_searched(shop: Path) -> None:
    """Unless that is asked for."""
    done = piped("run", "shop:pikku", "app.db", cwd=shop)
    assert done.code == 2
    assert "--app-dir ." in done.err


def test_an_error_of_the_application_is_its_own(shop: Path) -> None:
    """A module that it lacks is not said to be the target."""
    (shop / "broken.py").write_text("import missing_thing")
    done = piped("run", "broken:pikku", "app.db", "--app-dir", str(shop), cwd=shop)
    assert done.code == 1
    assert "No module named 'missing_thing'" in done.err


@pytest.mark.parametrize(
    ("code", "frames", "said"),
    [
        ("def (", 1, "SyntaxError: "),
        ("import missing_thing", 1, "No module named 'missing_thing'"),
        ("def of(n):\n    return 1 / n\npikku = of(0)", 2, "ZeroDivisionError: "),
        ("import shop\ndef pikku():\n    return {}['x']", 1, "KeyError: 'x'"),
    ],
)
def test_of_an_error_of_the_application_its_own_lines_are_shown(code: str, frames: int, said: str, shop: Path) -> None:
    """And none of what has called it."""
    (shop / "broken.py").write_text(code)
    done = piped("run", "broken:pikku", "app.db", "--app-dir", ".", "--log", "text", cwd=shop)
    lines = done.err.splitlines()
    assert done.code == 1
    assert [line for line in lines if line.startswith("  File ") and "broken.py" not in line] == []
    assert len([line for line in lines if line.startswith("  File ")]) == frames
    assert said in done.err
    assert lines[-1] in ("pikku: broken cannot be imported", "pikku: broken:pikku makes nothing")


def test_a_file_that_is_held_is_a_conflict(shop: Path) -> None:
    """That it is served is not said before; and what is said is of use at a terminal."""
    with running(shop, "shop:pikku", "app.db"):
        piped("start", shop / "app.db", "hello", "-d", '"x"', "--engine-wait", "30s")
        done = piped("run", "shop:pikku", "app.db", "--app-dir", ".", "--http", "127.0.0.1:0", cwd=shop)
        told = piped("run", "shop:pikku", "app.db", "--app-dir", ".", "--log", "text", cwd=shop)
    assert (done.code, told.code) == (5, 5)
    assert "`pikku runs`" in told.err and "role=" not in told.err
    line = json.loads(done.err)
    assert (line["event"], line["level"], line["exit_code"]) == ("command_failed", "error", 5)
    assert "is held by process" in line["error"]
    assert told.err.startswith("pikku: ") and "is held by process" in told.err


def test_an_error_of_the_application_is_a_line_of_the_log(shop: Path) -> None:
    """With its own lines: what reads the log finds JSON alone."""
    (shop / "broken.py").write_text("1 / 0")
    done = piped("run", "broken:pikku", "app.db", "--app-dir", ".", cwd=shop)
    line = json.loads(done.err)
    assert (done.code, line["error"]) == (1, "broken cannot be imported")
    assert line["exception"].startswith("Traceback") and "ZeroDivisionError" in line["exception"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_person_is_told_the_link_of_the_console(is_terminal: bool, shop: Path) -> None:
    """On a terminal: a log is no place for a token."""
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    arguments = command("run", "shop:pikku", "app.db", "--app-dir", ".", "--http", "127.0.0.1:0", "--console")
    with child(arguments, cwd=shop, stderr=theirs, env=environment(), start_new_session=True) as process:
        os.close(theirs)
        said = b""
        while b"engine_opened" not in said or (is_terminal and b"#token=" not in said):
            said += os.read(ours, 65_536)
        process.send_signal(signal.SIGTERM)
        with suppress(OSError):  # of a terminal that nobody writes to any more
            while more := os.read(ours, 65_536):
                said += more
        assert process.wait(20) == 0
    os.close(ours)
    token = (shop / "app.db.token").read_text().strip()
    assert (f"/console/#token={token}" in said.decode()) is is_terminal
    assert said.decode().count(token) == is_terminal


def asked(url: str, token: str, **wanted: object) -> tuple[int, dict[str, object]]:
    """Status and body."""
    request = urllib.request.Request(
        url, headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    )
    if wanted:
        request.data = json.dumps(wanted).encode()
        request.add_header("Prefer", "wait=30")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_it_serves_the_http_api(shop: Path) -> None:
    """From before the engine is open until after it was left: then it says that it is not ready."""
    with running(shop, "shop:pikku", "app.db", "--http", "127.0.0.1:0", "--grace", "20s") as process:
        assert process.stderr is not None
        next(line for line in map(json.loads, process.stderr) if line["event"] == "engine_opened")
        url = next(line["url"] for line in map(json.loads, process.stderr) if line["event"] == "http_serving")
        token = (shop / "app.db.token").read_text().strip()
        assert asked(f"{url}/readyz", token)[0] == 200
        assert asked(f"{url}/readyz", "wrong")[0] == 401
        status, run = asked(f"{url}/api/runs", token, workflow="hello", input="ada")
        assert (status, run["output"]) == (200, "hello ada")
        piped("start", shop / "app.db", "lasting", "-d", json.dumps(str(shop / "begun")), "--engine-wait", "30s")
        while not (shop / "begun").exists():
            pass
        process.send_signal(signal.SIGTERM)
        while asked(f"{url}/readyz", token)[0] == 200:
            pass
        status, problem = asked(f"{url}/readyz", token)
        assert (status, problem["type"]) == (503, "urn:pikkupy:engine-closed")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--http", "0.0.0.0:0"), "--insecure"),
        (("--http", "nowhere:80"), "no address of this machine"),
        (("--read-only",), "--http"),
        (("--http", "0", "--tls-key", "x"), "--tls-certificate"),
        (("--http-tokens", "tokens"), "--http"),
        (("--audit", "lines"), "--http"),
        (("--http", "0", "--http-tokens", "tokens"), "tokens, line 3: use a scope, a token"),
        (("--http", "0", "--base-path", "pikku"), "use a path"),
        (("--http", "0", "--redact", "shop:number"), "--redact: shop:number is no function"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_is_opened(
    shop: Path, arguments: tuple[str, ...], said: str
) -> None:
    (shop / "tokens").write_text("# for probes\nread may-look-at-everything\nowner may-do-whatever-it-likes\n")
    (shop / "tokens").chmod(0o600)
    done = piped("run", "shop:pikku", "app.db", "--app-dir", ".", *arguments, cwd=shop)
    assert done.code == 2
    assert said in done.err
    assert "may-do-whatever" not in done.err
    assert not (shop / "app.db").exists() and not (shop / "app.db.token").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--http", "0", "--tls-certificate", "shop.py", "--tls-key", "no.key"), "'no.key' does not exist"),
        (("--http", "0", "--http-tokens", "nowhere/tokens"), "nowhere/tokens: the folder nowhere does not exist"),
        (("--http", "0", "--audit", "nowhere/lines"), "nowhere/lines: the folder nowhere does not exist"),
        (("--app-dir", "nowhere"), "--app-dir='nowhere': it does not exist"),
    ],
)
def test_a_file_that_is_missing_is_named_before_anything_is_opened(
    shop: Path, arguments: tuple[str, ...], said: str
) -> None:
    app_dir = () if "--app-dir" in arguments else ("--app-dir", ".")
    done = piped("run", "shop:pikku", "app.db", *app_dir, *arguments, cwd=shop)
    assert (done.code, done.out) == (4, "")
    assert said in done.err and "Errno" not in done.err
    assert not (shop / "app.db").exists() and not (shop / "app.db.token").exists()


def test_files_that_are_no_certificate_and_its_key_are_named(shop: Path) -> None:
    files = ("--tls-certificate", "shop.py", "--tls-key", "shop.py")
    done = piped("run", "shop:pikku", "app.db", "--app-dir", ".", "--http", ":0", *files, cwd=shop)
    assert done.code == 2
    assert "shop.py and shop.py are no certificate and its key" in done.err
    assert {path.name for path in shop.iterdir()} <= {"shop.py", "__pycache__"}


def test_a_folder_that_is_missing_is_no_such_file(shop: Path) -> None:
    """As it is for every command."""
    done = piped("run", "shop:pikku", "nowhere/app.db", "--app-dir", ".", cwd=shop)
    assert done.code == 4
    assert "the folder" in done.err and "create it first" in done.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no token"), ("# nothing\n\n", "has no token"), ("admin", "line 1: use a scope"),
        (f"read {'x' * 16}\nread {'y' * 16} my own", "line 2: use a scope"), ("read short", "line 1: a token of 5"),
        (f"read {'x' * 16} ci\nread {'y' * 16} ci", "line 2: a token of a line before is named 'ci'"),
        (f"read {'x' * 16} token:read", "line 1: 'token:read' is the name of tokens that have no name"),
        (f"\nread {'x' * 16}\n# more\nadmin {'x' * 16}\n", "line 4: the token is that of a line before"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_of_tokens_is_said_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    place = tmp_path / "tokens"
    place.write_text(text)
    place.chmod(0o600)
    with pytest.raises(BadValue, match=said):
        tokens_in(place)
    place.chmod(0o644)
    with pytest.raises(PermissionError, match=r"not this user's alone .*; chmod 600 "):
        tokens_in(place)


def test_tokens_in_a_file_may_have_names(tmp_path: Path) -> None:
    place = tmp_path / "tokens"
    place.write_text(f"operate {'x' * 16} ci\noperate {'y' * 16}  ada@example.org\nread {'z' * 16}\n")
    place.chmod(0o600)
    assert tokens_in(place) == {
        "x" * 16: Caller("ci", Scope.OPERATE),
        "y" * 16: Caller("ada@example.org", Scope.OPERATE),
        "z" * 16: Scope.READ,
    }


def test_it_is_served_for_several_callers_and_behind_a_proxy(shop: Path) -> None:
    """By the tokens of a file, below a path that the proxy takes away, without secrets, with a record."""
    (shop / "tokens").write_text("read may-look-at-everything\n\n# all\nadmin  may-do-whatever-it-likes ada\n")
    (shop / "tokens").chmod(0o600)
    options = ("--http-tokens", "tokens", "--open-health", "--base-path", "/shop/runs/", "--redact", "shop:hide")
    options += ("--audit", "audit.jsonl")
    with running(shop, "shop:pikku", "app.db", "--http", "127.0.0.1:0", "--console", *options) as process:
        assert process.stderr is not None
        told = next(line for line in map(json.loads, process.stderr) if line["event"] == "http_serving")
        base = str(told["url"])
        assert told["console"] == f"{base}/console/"
        assert base.endswith("/shop/runs")
        reader, admin = "may-look-at-everything", "may-do-whatever-it-likes"
        for url in (base, base.removesuffix("/shop/runs")):
            with urllib.request.urlopen(f"{url}/readyz", timeout=30) as answer:
                assert answer.status == 200
            assert asked(f"{url}/api/runs", reader, workflow="hello", input="ada")[0] == 403
            status, run = asked(f"{url}/api/runs", admin, workflow="hello", input="s3cret", id="r/1")
            assert (status, run["output"]) == (200, "hello ***")
            acted = (line for line in map(json.loads, process.stderr) if line["event"] == "http_action")
            assert [(line["by"], line["status"]) for line in islice(acted, 2)] == [("token:read", 403), ("ada", 200)]
            assert asked(f"{url}/api/runs/r%2F1", reader)[1]["input"] == "***"
            request = urllib.request.Request(f"{url}/console/", headers={"Authorization": f"Bearer {reader}"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert 'href="/shop/runs/console/runs/r%2F1"' in answer.read().decode()
        assert not (shop / "app.db.token").exists()
        recorded = [json.loads(line)["by"] for line in (shop / "audit.jsonl").read_text().splitlines()]
        assert recorded == ["token:read", "ada", "ada"] * 2
