"""The record of what was done over HTTP: a file, or a function of the application. (S20)"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pikkupy.http import Caller, Scope
from pikkupy.http.tokens import token_path
from tests.http.shop import HOST, TOKEN, caller, pikku
from tests.http.test_api import audit_lines, opened, started

ADA = "the-token-of-ada"
TOKENS = {ADA: Caller("ada", Scope.READ)}
AS_ADA = {"authorization": f"Bearer {ADA}"}


def lines_of(place: Path) -> list[dict[str, Any]]:
    """What is recorded there."""
    return [json.loads(line) for line in place.read_text("ascii").splitlines()]


async def test_an_action_has_a_line_before_its_effect_and_one_after_it(db: Path, tmp_path: Path) -> None:
    """They belong together by their request; of what was refused there is the second alone. Looking leaves none."""
    place = tmp_path / "audit.jsonl"
    async with opened(db, audit=place, tokens=TOKENS) as (_, http):
        run_id = await started(http, "waiting", id="r\u202e")
        await http.delete(f"/api/runs/{run_id}")
        await http.delete(f"/api/runs/{run_id}", headers=AS_ADA)
        await http.get("/api/runs")
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    start, started_, delete, deleted, refused = lines_of(place)
    said = [(one["action"], one["by"], one.get("run_id"), one.get("status")) for one in lines_of(place)]
    assert said == [
        ("start_run", "token", None, None), ("start_run", "token", run_id, 202),
        ("delete_run", "token", run_id, None), ("delete_run", "token", run_id, 409),
        ("delete_run", "ada", run_id, 403),
    ]  # fmt: skip
    assert start["request"] == started_["request"] != delete["request"] == deleted["request"] != refused["request"]
    assert {one["address"] for one in lines_of(place)} == {"127.0.0.1"}
    assert all(datetime.fromisoformat(one["time"]).utcoffset() is not None for one in lines_of(place))


async def test_lines_are_added_to_a_file_and_one_that_was_cut_off_is_ended(db: Path, tmp_path: Path) -> None:
    place = tmp_path / "audit.jsonl"
    place.write_bytes(b'{"half": "a li')
    place.chmod(0o600)
    async with opened(db, audit=str(place)) as (_, http):
        await started(http, "waiting")
    half, *whole = place.read_text().splitlines()
    assert half == '{"half": "a li'
    assert [json.loads(line)["action"] for line in whole] == ["start_run", "start_run"]


async def test_what_cannot_be_recorded_is_not_done(db: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """503, and the log says why; whoever asks does not learn where the file is. Looking goes on."""
    folder = tmp_path / "audit"
    folder.mkdir()
    async with opened(db, audit=folder / "lines", console=True) as (engine, http):
        await started(http, "waiting", id="r")
        folder.rename(tmp_path / "gone")
        answers = [
            await http.post("/api/runs", json={"workflow": "waiting", "id": "s"}),
            await http.post("/api/runs/r/cancel", json={"reason": "x"}),
            await http.post("/console/runs/r/cancel", headers={"origin": HOST}),
            await http.post("/console/login", data={"token": TOKEN}, headers={"origin": HOST}),
        ]
        assert [answer.status_code for answer in answers] == [503] * 4
        assert all("nothing was done" in answer.text and str(tmp_path) not in answer.text for answer in answers)
        assert "set-cookie" not in answers[-1].headers
        assert [run.id for run in (await engine.list_runs()).runs] == ["r"]
        assert (await http.get("/api/runs/r")).json()["status"] == "running"
        assert "No such file" in str(audit_lines(caplog, "audit_lost")[0]["error"])
        (tmp_path / "gone").rename(folder)
        assert (await http.post("/api/runs/r/cancel", json={"reason": "x"})).status_code == 200


async def test_a_function_may_keep_the_record(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that raises keeps the action from being done; after the effect its line is lost to the log alone."""
    caplog.set_level(logging.INFO, "pikkupy")
    told = list[Mapping[str, Any]]()

    def keep(line: Mapping[str, Any]) -> None:
        told.append(line)
        if len(told) > 3:
            raise RuntimeError("the store of audit lines is away")

    async with opened(db, audit=keep) as (engine, http):
        await started(http, "waiting", id="r")
        assert [(line["action"], line.get("status")) for line in told] == [("start_run", None), ("start_run", 202)]
        caplog.clear()
        assert (await http.post("/api/runs/r/cancel", json={"reason": "x"})).status_code == 200
        assert (await engine.get_run("r")).status == "cancelled"
        [lost] = [one.pikku for one in caplog.records if getattr(one, "pikku", {}).get("event") == "audit_lost"]
        assert (lost["action"], lost["run_id"], lost["status"]) == ("cancel_run", "r", 200)
        assert [line["status"] for line in audit_lines(caplog)] == [200]
        assert (await http.delete("/api/runs/r")).status_code == 503
        assert (await engine.get_run("r")).status == "cancelled"


async def test_a_login_is_recorded_with_its_name_and_strangers_fill_no_file(db: Path, tmp_path: Path) -> None:
    place = tmp_path / "audit.jsonl"
    async with opened(db, audit=place, console=True, tokens=TOKENS) as (_, http):
        del http.headers["authorization"]
        await http.post("/console/login", data={"token": "wrong"}, headers={"origin": HOST})
        assert lines_of(place) == []
        await http.post("/console/login", data={"token": ADA}, headers={"origin": HOST})
        assert [(one["by"], one.get("status")) for one in lines_of(place)] == [("ada", None), ("ada", 303)]


async def test_both_lines_say_what_is_done(db: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S20: what is decided, why, and of what; texts without what is hidden, cut, and never a payload."""
    caplog.set_level(logging.INFO, "pikkupy")
    place, origin = tmp_path / "audit.jsonl", {"origin": HOST}

    def hide(text: str) -> str:
        return text.replace("secret", "***")

    async with opened(db, audit=place, console=True, redact=hide) as (engine, http):
        for run_id in ("a", "b", "x", "y"):
            await engine.start("waiting" if run_id > "c" else "asking", run_id=run_id)
        long = "secret " * 100
        for path, sent in (
            ("/api/runs", {"workflow": "waiting", "id": "w", "tags": {"payload": "1"}}),
            ("/api/runs/w/signal", {"name": "go", "payload": "payload"}),
            ("/api/runs/a/approve", {"name": "ok", "decision": True, "decided_by": "the secret boss"}),
            ("/api/runs/w/fork", {"at": "go", "id": "f", "input": "payload"}),
            ("/api/runs/f/cancel", {"reason": long}),
            ("/api/runs/x/resume", {"accept": "new"}),
        ):
            await http.post(path, json=sent)
        for path, form in (
            ("/console/start", {"workflow": "waiting", "id": "v"}),
            ("/console/runs/v/signal", {"name": "go", "value": '"payload"'}),
            ("/console/runs/b/approve", {"name": "ok", "field:decision": "true"}),
            ("/console/runs/x/fork", {"at": "go", "fresh": "g"}),
            ("/console/runs/g/cancel", {"reason": "a secret"}),
            ("/console/runs/x/resume", {"accept": "new"}),
            ("/console/all/cancel?q=nothing", {"reason": "all"}),
        ):
            await http.post(path, data=form, headers=origin)
        await http.get("/console/runs/a/value/output")
    assert "payload" not in place.read_text() and "secret" not in place.read_text()
    known = {"time", "action", "by", "address", "request", "status", "run_id", "new_run_id", "done", "refused", "event"}

    def said(lines: Iterable[Mapping[str, Any]], *, after: bool) -> list[tuple[str, dict[str, Any]]]:
        chosen = [line for line in lines if ("status" in line) is after]
        return [(one["action"], {name: one[name] for name in one.keys() - known}) for one in chosen]

    cut = ("*** " * 100)[:200]
    recorded = lines_of(place)
    assert said(recorded, after=False) == [
        ("start_run", {"workflow": "waiting"}),
        ("signal_run", {"name": "go"}),
        ("approve_run", {"name": "ok", "decision": "true", "decided_by": "the *** boss"}),
        ("fork_run", {"at": "go", "input_edited": True}),
        ("cancel_run", {"reason": cut}),
        ("resume_run", {"accept": "new"}),
        ("start_in_console", {"workflow": "waiting"}),
        ("signal_in_console", {"name": "go"}),
        ("approve_in_console", {"name": "ok", "decision": "true", "decided_by": "token"}),
        ("fork_in_console", {"at": "go", "input_edited": False}),
        ("cancel_in_console", {"reason": "a ***"}),
        ("resume_in_console", {"accept": "new"}),
        ("act_on_all", {"verb": "cancel", "filter": "q=nothing", "reason": "all"}),
        ("value_file", {"which": "output"}),
    ]
    assert said(recorded, after=True) == said(audit_lines(caplog), after=True) == said(recorded, after=False)


@pytest.mark.parametrize(
    ("audit", "error", "said"),
    [
        ("nowhere/lines", FileNotFoundError, "nowhere"), ("others", PermissionError, "chmod 600"),
        ("link", OSError, "link"), ("pipe", OSError, "pipe"), ("", ValueError, "audit=''"), (7, TypeError, "audit=7"),
    ],
)  # fmt: skip
def test_a_place_that_makes_no_sense_is_said_before_there_is_a_token(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit: Any, error: type[Exception], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "others").touch(0o644)
    (tmp_path / "link").symlink_to("else")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(error, match=said):
        pikku.open(db).asgi(audit=audit)
    assert not token_path(str(db)).exists() and not (tmp_path / "else").exists()


def test_a_function_that_is_async_would_record_nothing(db: Path) -> None:
    async def keep(line: Mapping[str, Any]) -> None:
        pass

    with pytest.raises(TypeError, match="async"):
        pikku.open(db).asgi(audit=keep, token=TOKEN)


async def test_by_default_there_is_the_log_line_alone(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pikkupy")
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN)) as http:
        await started(http, "waiting")
    [line] = audit_lines(caplog)
    assert "request" not in line and line["status"] == 202
