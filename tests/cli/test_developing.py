"""`pikku dev`: an engine with its console that begins anew when the code changes."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from pikkupy import Pikku
from pikkupy.http.serving import Tls
from tests.children import child
from tests.cli.shell import command, environment, piped
from tests.cli.test_console import shown
from tests.http.test_serving import tls as tls

SHOP = """
from pikkupy import Pikku, Workflow

pikku = Pikku()

@pikku.workflow
async def waiting(workflow: Workflow) -> str:
    before = await workflow.do("first", lambda: "{word}")
    await workflow.wait_for_signal("go")
    return before + await workflow.do("second", lambda: " and {word}")
"""


BLOCKING = """
import time
from pathlib import Path
from pikkupy import Pikku, Workflow

pikku = Pikku()

@pikku.workflow
async def blocks(workflow: Workflow) -> None:
    def block() -> None:
        Path("blocked").touch()
        while Path("blocked").exists():
            time.sleep(0.01)
    await workflow.do("block", block)
"""

SLOW = (
    """
import time
from pathlib import Path

Path("begins").touch()
while not Path("go").exists():
    time.sleep(0.01)
"""
    + SHOP
)

DEV = ("dev", "shop:pikku", "dev.db")


@pytest.mark.slow
def test_runs_in_flight_survive_a_change_of_the_code(tmp_path: Path) -> None:
    """What was recorded stands, what comes is new; code that cannot be imported is said, and waited for."""
    shop = tmp_path / "shop.py"
    shop.write_text(SHOP.replace("{word}", "old"))
    with shown(tmp_path, *DEV, "--http", ":0") as console:
        assert piped("start", tmp_path / "dev.db", "waiting", "--id", "r", "--engine-wait", "30s").code == 0
        while "waits for the signal go" not in console.ask("/console/runs/r")[1]:
            pass
        shop.write_text("this is no Python")
        console.until("changed: shop.py")
        console.until("SyntaxError")
        console.until(r"the engine has ended \(exit code 1\); it begins anew at the next change")
        shop.write_text(SHOP.replace("{word}", "new"))
        console.until("changed: shop.py")
        console.until("engine_opened")
        done = piped("runs", "signal", tmp_path / "dev.db", "r", "go", "--engine-wait", "30s")
        assert done.code == 0, done.err
        while (run := json.loads(console.ask("/api/runs/r")[1]))["status"] == "running":
            pass
        assert run["output"] == "old and new"


SERVED = (
    SHOP
    + """
engine = pikku.open("own.db", services="{word}")

def make():
    return engine

member = pikku.open("own.db", role="auto")

@pikku.workflow
async def asks(workflow: Workflow) -> str:
    return workflow.services
"""
)


@pytest.mark.parametrize("target", ["engine", "make", "member"])
def test_an_engine_with_settings_of_its_own_is_begun_anew(target: str, tmp_path: Path) -> None:
    """With its file, its services and whatever else it has."""
    shop = tmp_path / "shop.py"
    shop.write_text(SERVED.replace("{word}", "old").replace("role=", 'services="old", role='))
    with shown(tmp_path, "dev", f"shop:{target}", "--http", ":0") as console:
        assert console.token == (tmp_path / "own.db.token").read_text().strip()
        assert json.loads(console.ask("/api/workflows")[1])
        done = piped("start", tmp_path / "own.db", "asks", "--wait", "--engine-wait", "30s")
        assert (done.code, done.out) == (0, '"old"\n')
        shop.write_text(SERVED.replace("{word}", "new").replace("role=", 'services="new", role='))
        console.until("changed: shop.py")
        console.until("engine_opened")
        assert piped("start", tmp_path / "own.db", "asks", "--wait", "--engine-wait", "30s").out == '"new"\n'
    assert not (tmp_path / "dev.db").exists()


def test_an_engine_has_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SERVED)
    done = piped("dev", "shop:engine", "dev.db", "--http", ":0", cwd=tmp_path)
    assert done.code == 2
    assert "it has its own file and settings" in done.err and "#token" not in done.err


def block(folder: Path) -> None:
    """Start a run whose step lets nobody else do anything, not even answer who has started it."""
    with child(command("start", folder / "dev.db", "blocks", "--id", "r"), env=environment()) as start:
        while not (folder / "blocked").exists():
            pass
        start.kill()


def test_a_place_that_is_taken_is_said_and_no_link_leads_there(tmp_path: Path) -> None:
    """It would give the token to whoever listens there."""
    (tmp_path / "shop.py").write_text(SHOP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = piped(*DEV, "--http", f"127.0.0.1:{port}", cwd=tmp_path)

    assert done.code == 5
    assert done.err == (f"pikku: nothing can listen at 127.0.0.1:{port}: Address already in use; name another port\n")
    assert [path.name for path in tmp_path.iterdir()] == ["shop.py"]


def test_a_place_that_others_can_reach_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """Unless it is said that it is meant so."""
    (tmp_path / "shop.py").write_text(SHOP)

    done = piped(*DEV, "--http", "0.0.0.0:0", cwd=tmp_path)

    assert (done.code, done.out) == (2, "")
    assert "(--insecure)" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["shop.py"]


@pytest.mark.parametrize("option", ["--watch", "--app-dir"])
def test_a_folder_that_is_missing_is_said_before_anything_is_made(option: str, tmp_path: Path) -> None:
    done = piped("dev", "shop:pikku", option, "nowhere", cwd=tmp_path)

    assert (done.code, done.err) == (4, f"pikku: {option}='nowhere': it does not exist\n")
    assert list(tmp_path.iterdir()) == []


def test_it_is_reached_as_its_options_say(tmp_path: Path, tls: Tls) -> None:
    """From other machines, by TLS, by the name and below the path that a proxy has."""
    (tmp_path / "shop.py").write_text(SHOP)
    files = ("--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key))
    with shown(
        tmp_path, *DEV, "--http", "0.0.0.0:0", "--allow-host", "shop.example", "--base-path", "/pikku", *files
    ) as console:
        trusted = ssl.create_default_context(cafile=str(tls.certificate))
        trusted.check_hostname = False
        assert console.url.startswith("https://127.0.0.1:") and console.url.endswith("/pikku")
        assert console.ask_as("shop.example", "/console/", trusted)[0] == 200


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [("shop:nothing", 2, "shop has no 'nothing'"), ("shop:pikku", 5, "is held by process")],
)
async def test_what_keeps_it_from_its_first_beginning_ends_it(
    target: str, code: int, said: str, tmp_path: Path
) -> None:
    """With the exit code of that, and without a link."""
    (tmp_path / "shop.py").write_text(SHOP)
    async with Pikku().open(tmp_path / "dev.db"):
        done = piped("dev", target, "dev.db", "--app-dir", ".", "--http", ":0", cwd=tmp_path)

    assert (done.code, done.out) == (code, "")
    assert said in done.err and "#token" not in done.err


def test_a_second_ctrl_c_ends_it_though_a_step_blocks_the_event_loop(tmp_path: Path) -> None:
    """Nothing is lost that was recorded."""
    (tmp_path / "shop.py").write_text(BLOCKING)
    with shown(tmp_path, *DEV, "--http", ":0") as console:
        block(tmp_path)
        console.process.send_signal(signal.SIGINT)  # the second one is sent where the block ends
    assert json.loads(piped("runs", "show", tmp_path / "dev.db", "r", "--json").out)["run"]["status"] == "running"


def test_an_engine_ends_with_who_has_begun_it(tmp_path: Path) -> None:
    """Also if that is killed: the next one finds the port and the file free."""
    (tmp_path / "shop.py").write_text(SHOP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    place = ("--http", f"127.0.0.1:{port}")
    with child(command(*DEV, *place), cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment()) as dev:
        assert dev.stderr is not None
        assert any("#token=" in line for line in dev.stderr)
        dev.kill()
        assert any("engine_closed" in line for line in dev.stderr)  # to its end, which the engine's own end is
    with shown(tmp_path, *DEV, *place):
        pass


def test_what_changes_while_the_engine_begins_is_seen(tmp_path: Path) -> None:
    """The one that has begun with the old code begins anew."""
    shop = tmp_path / "shop.py"
    shop.write_text(SLOW)
    with child(
        command(*DEV, "--http", ":0"), cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment()
    ) as dev:
        while not (tmp_path / "begins").exists():
            pass
        shop.write_text(SHOP)
        (tmp_path / "go").touch()
        assert dev.stderr is not None
        said = []
        for line in dev.stderr:
            said.append(line)
            if "changed: shop.py" in line:
                break
        else:
            pytest.fail("".join(said))
        dev.send_signal(signal.SIGINT)
        assert dev.wait(20) == 0


@pytest.mark.slow
def test_an_engine_that_a_step_blocks_begins_anew_all_the_same(tmp_path: Path) -> None:
    """It is killed when its time is over."""
    shop = tmp_path / "shop.py"
    shop.write_text(BLOCKING)
    with shown(tmp_path, *DEV, "--http", ":0") as console:
        block(tmp_path)
        shop.write_text(BLOCKING.replace('Path("blocked").touch()', "pass"))
        console.until("the engine does not end: it is killed")
        (tmp_path / "blocked").unlink()
        told = piped("runs", "tail", tmp_path / "dev.db", "r", "--engine-wait", "30s")
        assert told.code == 0, told.err
