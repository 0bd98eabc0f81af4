"""What an error says can be redacted before anybody sees it, and a traceback holds no values of variables (S14)."""

from __future__ import annotations

import logging
import re
import sqlite3
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pikkupy import NonRetryableError, Pikku, PikkuError, RunFailed, Services, StepFailed, Workflow
from pikkupy.failures import MAX_MESSAGE, describe, redacted

SECRET = "sk-0123456789"


def hide(text: str) -> str:
    return re.sub(r"sk-\d+", "[key]", text)


def raises(secret: str) -> NoReturn:
    try:
        raise KeyError(f"no {secret}")
    except KeyError as error:
        raise ValueError(f"{secret} was refused") from error


PROCESSES = Pikku()


@PROCESSES.function(worker="process")
def fails_elsewhere(services: Services, secret: str) -> None:
    raises(secret)


@PROCESSES.workflow
async def in_a_process(workflow: Workflow, secret: str) -> None:
    await workflow.do("Elsewhere", fails_elsewhere, secret)


def program() -> Pikku:
    pikku = Pikku()

    @pikku.function
    async def on_loop(services: Services, secret: str) -> None:
        raises(secret)

    @pikku.function
    def on_thread(services: Services, secret: str) -> None:
        raises(secret)

    @pikku.workflow
    async def child(workflow: Workflow, secret: str) -> None:
        raises(secret)

    @pikku.workflow
    async def everywhere(workflow: Workflow, secret: str) -> list[str]:
        told = []
        for name, target, data in (
            ("Loop", on_loop, secret),
            ("Thread", on_thread, secret),
            ("Inline", lambda: raises(secret), None),
            ("Child", child, secret),
        ):
            try:
                await workflow.do(name, target, data, retries=1)
            except StepFailed as failed:
                told += [failed.message, failed.traceback, str(failed)]
        try:
            await workflow.wait_for_signal("number", int)
        except PikkuError as error:
            told.append(str(error))
        return told

    @pikku.workflow
    async def own(workflow: Workflow, secret: str) -> None:
        raises(secret)

    @pikku.workflow
    async def grouped(workflow: Workflow, secret: str) -> None:
        raise ExceptionGroup("many", [ValueError(secret), NonRetryableError(f"{secret}!")])

    return pikku


async def test_a_secret_in_an_error_is_neither_recorded_nor_told_nor_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """I-50: on the loop, on threads, inline, in child runs, in the workflow's own body and in groups; with retries."""
    caplog.set_level(logging.DEBUG, "pikkupy")
    path = tmp_path / "j.db"
    async with program().open(path, redact=hide) as engine:
        run = await engine.start("everywhere", SECRET, run_id="all")
        await run.signal("number", 7)
        told = await run.result()
        for name in ("own", "grouped"):
            with pytest.raises(RunFailed) as failed:
                await engine.run(name, SECRET, run_id=name)
            told += [str(failed.value), failed.value.error.message, failed.value.error.traceback]
        history = await engine.history("all")
    with sqlite3.connect(path) as db:
        columns = db.execute(
            "SELECT error FROM pikkupy_steps UNION ALL SELECT error FROM pikkupy_attempts "
            "UNION ALL SELECT error FROM pikkupy_runs"
        ).fetchall()
    db.close()

    errors = [text for (text,) in columns if text is not None]
    assert len(errors) >= 4 + 8 + 3
    assert len(history) == 8
    assert "[key] was refused" in "".join(told)
    for seen in (*told, *errors, *(record.getMessage() + str(vars(record)) for record in caplog.records)):
        assert SECRET not in seen
    assert "[key]" in caplog.text


async def test_without_redaction_it_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The test above would see it."""
    caplog.set_level(logging.INFO, "pikkupy")
    async with program().open(":memory:") as engine:
        with pytest.raises(RunFailed, match=SECRET):
            await engine.run("own", SECRET)

    assert SECRET in caplog.text


async def test_errors_of_worker_processes_are_redacted() -> None:
    """When they arrive."""
    pikku = PROCESSES

    async with pikku.open(":memory:", redact=hide) as engine:
        with pytest.raises(RunFailed) as failed:
            await engine.run("in_a_process", SECRET)

    assert failed.value.error.message == "[key] was refused"
    assert SECRET not in failed.value.error.traceback and "raises(secret)" in failed.value.error.traceback


async def test_live_and_replay_tell_the_same_redacted_error(tmp_path: Path) -> None:
    """A run that leaves memory after each step sees the same text when it comes back."""
    path = tmp_path / "j.db"
    seen: list[list[str]] = []
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        try:
            await workflow.do("Fail", lambda: raises(SECRET))
        except StepFailed as failed:
            seen.append([failed.message, failed.traceback])
        await workflow.wait_for_signal("go")

    async with pikku.open(path, redact=hide, resident_runs=0) as engine:
        run = await engine.start("flow", run_id="f")
        while len(await engine.steps("f")) < 2:
            pass
        await run.signal("go")
        await run.result()

    assert len(seen) >= 1 and all(one == seen[0] for one in seen)
    assert seen[0][0] == "[key] was refused"


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda text: 1 / 0, "<left out: redact raised ZeroDivisionError>"),
        (lambda text: None, "<left out: redact gave NoneType>"),
    ],
    ids=["raises", "gives no text"],
)
async def test_a_redaction_that_fails_lets_nothing_out(
    broken: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And fails nothing else."""
    caplog.set_level(logging.INFO, "pikkupy")
    async with program().open(":memory:", redact=broken) as engine:
        with pytest.raises(RunFailed) as failed:
            await engine.run("own", SECRET)

    assert failed.value.error.message == failed.value.error.traceback == says
    assert SECRET not in caplog.text


def test_a_redaction_that_makes_texts_longer_keeps_their_limit() -> None:
    """The limits are those of the file."""
    error = redacted(describe(ValueError("x" * 100)), lambda text: text * 1000)

    assert len(error.message.encode()) <= MAX_MESSAGE


def test_a_traceback_has_source_lines_and_no_values() -> None:
    """Of an exception, its cause and the parts of a group."""

    def deep(password: str) -> None:
        hidden = password[::-1]
        try:
            raise KeyError(len(hidden))
        except KeyError as error:
            raise ExceptionGroup("many", [ValueError(1)]) from error

    try:
        deep("".join(["hunter", "2"]))
    except ExceptionGroup as error:
        shown = describe(error).traceback

    assert "hidden = password[::-1]" not in shown and "raise KeyError(len(hidden))" in shown
    assert "hunter2" not in shown and "2retnuh" not in shown


def test_a_redaction_has_to_be_callable() -> None:
    """Told at once."""
    with pytest.raises(TypeError, match="redact"):
        Pikku().open(":memory:", redact="sk-")  # type: ignore[arg-type]
