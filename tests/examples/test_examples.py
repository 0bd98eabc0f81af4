"""Each example is started as its README says, and used."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.shell import environment

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def started(folder: Path, *command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process, and whatever it starts, as long as the block lasts."""
    with subprocess.Popen(command, cwd=folder, text=True, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def answered(http: httpx2.Client, method: str, path: str, **options: Any) -> Any:
    """The answer, asked for again while a worker comes up, or the engine has just died."""
    ends = time.monotonic() + 60
    while True:
        try:
            answer = http.request(method, path, **options)
            if answer.status_code < 500:
                return answer.json()
        except httpx2.TransportError:
            pass
        assert time.monotonic() < ends, path
        time.sleep(0.05)


def workers(http: httpx2.Client, count: int, without: int = 0) -> dict[int, str]:
    """The workers that answer, by process; those who ask on a new connection get any of them."""
    found: dict[int, str] = {}
    ends = time.monotonic() + 60
    while len(found) < count or list(found.values()).count("engine") != 1:
        who = answered(http, "GET", "/who")
        if who["pid"] != without:
            found[who["pid"]] = who["role"]
        if len(found) > count:
            found.clear()
        assert time.monotonic() < ends, found
    return found


async def test_a_link_is_clicked_again_or_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while no worker is the engine: each has an answer that its caller can do something with."""
    monkeypatch.chdir(tmp_path)
    example: dict[str, Any] = runpy.run_path(str(EXAMPLES / "onboarding" / "app.py"))
    engine, transport = example["engine"], httpx2.ASGITransport(example["app"])
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        async with engine:
            for name in ("ada", "bob"):
                await http.post("/signup", params={"email": name})
            assert (await http.post("/confirm/signup:ada")).status_code == 200
            await (await engine.handle("signup:ada")).result()
            await engine.cancel("signup:bob", "no")
            found = [(await http.post(f"/confirm/signup:{name}")).status_code for name in ("ada", "bob", "eve")]
        closed = await http.post("/confirm/signup:ada")
    assert (found, closed.status_code, closed.headers["retry-after"]) == ([200, 410, 404], 503, "1")


@pytest.mark.slow
def test_onboarding_with_four_workers_of_which_one_is_killed(tmp_path: Path) -> None:
    """Four uvicorn workers on one file; the engine's is killed, another one takes over, and nothing is lost."""
    (tmp_path / "app.py").write_text((EXAMPLES / "onboarding" / "app.py").read_text())
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "app:app",
        "--workers",
        "4",
        "--port",
        str(port),
        "--log-level",
        "error",
    ]
    http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, headers={"connection": "close"})
    with started(tmp_path, *command, env=environment()), http:
        before = workers(http, 4)
        assert sorted(before.values()) == ["client", "client", "client", "engine"]
        runs = [answered(http, "POST", "/signup", params={"email": f"u{n}@example.org"})["run"] for n in range(8)]
        assert runs == [f"signup:u{n}@example.org" for n in range(8)]
        [engine] = [pid for pid, role in before.items() if role == "engine"]
        for run in runs[:4]:
            answered(http, "POST", f"/confirm/{run}")
        os.kill(engine, signal.SIGKILL)
        for run in runs[4:]:
            if "thanks" not in answered(http, "POST", f"/confirm/{run}"):
                raise AssertionError(run)
        for number, run in enumerate(runs):
            while (state := answered(http, "GET", f"/signup/{run}"))["status"] != "completed":
                assert state["status"] == "running"
            assert state["user"] == f"user-u{number}"
            assert state["steps"] == ["Create user", "Send link", "confirmed", "Welcome"]
            assert answered(http, "POST", f"/confirm/{run}") == {"thanks": run}
        after = workers(http, 4, without=engine)
        assert engine not in after
        token = (tmp_path / "onboarding.db.token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        page = answered(http, "GET", "/pikku/api/counts", headers=headers)
        assert page == {"onboarding": {"completed": 8}}
        assert http.get("/pikku/console/", headers=headers).status_code == 200


def test_the_bot_goes_on_with_a_conversation_after_it_was_killed(tmp_path: Path) -> None:
    command = (sys.executable, str(EXAMPLES / "bot" / "bot.py"))
    before = list[str]()
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment()}

    def says(process: subprocess.Popen[str], said: str, answer: str) -> None:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{said}\n")
        process.stdin.flush()
        hears(process, answer)

    def hears(process: subprocess.Popen[str], answer: str) -> None:
        """What was said when the process died may be said once more: steps are done at least once."""
        assert process.stdout is not None
        while (line := process.stdout.readline()) != f"-> {answer}\n":
            assert line in before, line
        before.append(line)

    with started(tmp_path, *command, **pipes) as bot:
        says(bot, "ada: hello", "ada: What shall I remind you of?")
        says(bot, "bob: hi", "bob: What shall I remind you of?")
        says(bot, "ada: the tea", "ada: In how many seconds?")
        bot.kill()
    with started(tmp_path, *command, **pipes) as bot:
        says(bot, "ada: soon", "ada: In how many seconds?")
        for no_number in ("²", "-1", "9" * 30):
            says(bot, f"ada: {no_number}", "ada: In how many seconds?")
        says(bot, "ada: 0", "ada: I will.")
        hears(bot, "ada: Remember: the tea")
        says(bot, "bob: the cake", "bob: In how many seconds?")
        assert bot.stdin is not None
        bot.stdin.close()
        assert bot.wait(20) == 0


def directive(unit: str, name: str) -> str:
    """Of a systemd unit."""
    text = (EXAMPLES / "edge" / unit).read_text()
    [found] = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    return str(found)


def command_of(state: Path, port: int, command: str) -> list[str]:
    """Of a systemd unit, with other places for the files."""
    command = command.replace("/var/lib/edge", str(state)).replace("/opt/edge/.venv/bin/pikku", "PIKKU")
    command = command.replace("/opt/edge", str(EXAMPLES / "edge")).replace(":8799", f":{port}").replace("%%", "%")
    return shlex.split(command.replace("PIKKU", f"{sys.executable} -P -m pikkupy"))


@pytest.mark.parametrize("count", [0, 14, 20])
def test_the_last_copies_of_the_edge_box_stay(tmp_path: Path, count: int) -> None:
    """Fourteen of them; what is no copy is left alone."""
    (tmp_path / "backups").mkdir()
    copies = [f"edge-202601{day:02}T031000.db" for day in range(1, count + 1)]
    for name in [*copies, "notes.txt"]:
        (tmp_path / "backups" / name).touch()

    done = subprocess.run(
        command_of(tmp_path, 0, directive("pikku-backup.service", "ExecStartPost")), check=False, env=environment()
    )

    assert done.returncode == 0
    assert sorted(path.name for path in (tmp_path / "backups").iterdir()) == [*copies[-14:], "notes.txt"]
    assert directive("pikku-edge.service", "Restart") == "always"


def test_the_edge_box_goes_on_after_each_loss_of_its_process_and_its_copy_is_good(tmp_path: Path) -> None:
    """The commands are those of the units, with other places for the files."""
    state = tmp_path / "state"
    (state / "backups").mkdir(parents=True)
    port = free_port()
    here = partial(command_of, state, port)
    uploaded = tmp_path / "uploaded.txt"
    surroundings = environment(EDGE_PAUSE="50ms", EDGE_UPLOADED=str(uploaded))
    run = here(directive("pikku-edge.service", "ExecStart"))
    pikku = [sys.executable, "-P", "-m", "pikkupy"]

    def asked(*arguments: str) -> str:
        done = subprocess.run([*pikku, *arguments], capture_output=True, text=True, env=surroundings, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with started(state, *run, env=surroundings) as box:
        asked("start", str(state / "edge.db"), "shift", "-d", "7", "--id", "shift-7", "--engine-wait", "30s")
        box.kill()
    with started(state, *run, env=surroundings):  # Restart=always
        http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        headers = {"authorization": f"Bearer {(state / 'edge.db.token').read_text().strip()}", "prefer": "wait=30"}
        answered(http, "GET", "/readyz", headers=headers)
        found = answered(http, "GET", "/api/runs/shift-7", headers=headers)
        assert (found["status"], 20 <= found["output"] <= 21) == ("completed", True)
        backup = subprocess.run(
            here(directive("pikku-backup.service", "ExecStart")), env=surroundings, check=False, capture_output=True
        )
        assert backup.returncode == 0, backup.stderr
        http.close()
    assert len({line.split()[0] for line in uploaded.read_text().splitlines()}) == 1
    [copy] = (state / "backups").iterdir()
    assert "completed" in asked("runs", "list", str(copy))
    assert asked("doctor", str(copy))
    assert ".replaced" in asked("restore", str(copy), str(state / "edge.db"), "--json")
    assert "completed" in asked("runs", "list", str(state / "edge.db"))


def test_the_units_are_what_systemd_can_read() -> None:
    """Every line is a section, a comment or a directive with a value; nothing runs as root."""
    for unit in sorted((EXAMPLES / "edge").glob("pikku-*.*")):
        for line in unit.read_text().splitlines():
            assert not line or re.fullmatch(r"\[[A-Z]\w+\]|#.*|[A-Z]\w+=.+", line), (unit.name, line)
    for unit in ("pikku-edge.service", "pikku-backup.service"):
        assert directive(unit, "User") == "edge"
    for name in ("StateDirectoryMode", "UMask", "NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp"):
        assert directive("pikku-backup.service", name) == directive("pikku-edge.service", name)
