"""The log: through the stdlib, and silent unless the application wants it."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from pikkupy import Pikku, RunFailed, Workflow
from pikkupy.log import EVENTS, logger

PACKAGE = Path(__file__).parent.parent / "pikkupy"
METHODS = {"debug", "info", "warning", "error", "exception", "critical"}


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "pikkupy")
    return caplog


def test_an_event_is_one_line_of_words(lines: pytest.LogCaptureFixture) -> None:
    """`event key=value`, quoted where a value is more than a word; a handler finds the fields on the record."""
    logger().bind(run_id="r 1").info("step_done", step="Charge", none=None, empty="", took=1.5, items=["a", 1])

    (record,) = lines.records
    assert record.getMessage() == "step_done run_id='r 1' step=Charge none=None empty='' took=1.5 items=['a', 1]"
    assert record.pikku == {  # type: ignore[attr-defined]
        "event": "step_done",
        "run_id": "r 1",
        "step": "Charge",
        "none": None,
        "empty": "",
        "took": 1.5,
        "items": ["a", 1],
    }


def test_a_line_stays_one_line(lines: pytest.LogCaptureFixture) -> None:
    """Control characters, lone surrogates and line separators are escaped, in the event as well."""
    logger().warning("two\nlines", text="a\x1b[31m\r\n\u2028\udc80", **{"a\nkey": 1})

    assert lines.messages == ["two\\nlines text='a\\x1b[31m\\r\\n\\u2028\\udc80' a\\nkey=1"]


def test_percent_signs_are_text(lines: pytest.LogCaptureFixture) -> None:
    """Unless there are arguments, which are formatted as in the stdlib; what does not fit is shown unformatted."""
    log = logger()
    log.info("100% done %s %d", share="50%")
    log.info("%s of %d", "one", 2)
    log.info("%d of", "one", "two")  # noqa: PLE1205

    assert lines.messages == ["100% done %s %d share=50%", "one of 2", "%d of one two"]


def test_a_value_that_cannot_be_shown_does_not_break_the_caller(lines: pytest.LogCaptureFixture) -> None:
    """A slip in a log line must not fail a step."""
    logger().info("event", value=Unshowable())

    assert lines.messages == ["event value=<repr() of this Unshowable raised RuntimeError>"]


def test_a_filter_that_raises_does_not_break_the_caller(
    lines: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does a handler; it is shown, as the stdlib shows what its handlers raise."""

    def refuse(record: logging.LogRecord) -> bool:
        raise LookupError("a filter of the application")

    stdlib = logging.getLogger("pikkupy")
    stdlib.addFilter(refuse)
    try:
        logger().info("one")
    finally:
        stdlib.removeFilter(refuse)
    logger().info("two")

    assert lines.messages == ["two"]
    assert "LookupError: a filter of the application" in capsys.readouterr().err


async def test_a_filter_that_raises_keeps_nobody_waiting(lines: pytest.LogCaptureFixture, db: Path) -> None:
    """Whoever waits for the end of a run is told after it was logged."""
    pikku = Pikku()

    @pikku.workflow
    async def child(workflow: Workflow) -> str:
        return await workflow.do("step", lambda: "done")

    @pikku.workflow
    async def parent(workflow: Workflow) -> str:
        return await workflow.do("child", child)

    def refuse(record: logging.LogRecord) -> bool:
        raise LookupError("a filter of the application")

    stdlib = logging.getLogger("pikkupy")
    stdlib.addFilter(refuse)
    try:
        async with pikku.open(db) as engine:
            assert await engine.run(parent) == "done"
    finally:
        stdlib.removeFilter(refuse)


def test_exceptions_are_shown_by_the_handler(lines: pytest.LogCaptureFixture) -> None:
    """`exc_info` and `exception` work as in the stdlib."""
    try:
        raise ValueError("inside")
    except ValueError as error:
        logger().exception("failed")
        logger().info("told", exc_info=error, stack_info=True)

    assert [record.exc_info is not None and record.exc_info[0] for record in lines.records] == [ValueError, ValueError]
    assert lines.records[1].stack_info is not None
    assert "ValueError: inside" in lines.text


def test_a_record_points_to_the_line_that_logged(lines: pytest.LogCaptureFixture) -> None:
    """Not into structlog; `stacklevel` works for helpers."""

    def helper() -> None:
        logger().info("two", stacklevel=2)

    logger().info("one")
    helper()
    logger().exception("three", exc_info=False)

    assert {record.funcName for record in lines.records} == {"test_a_record_points_to_the_line_that_logged"}
    assert {record.filename for record in lines.records} == {"test_log.py"}


def test_a_silent_logger_says_nothing(lines: pytest.LogCaptureFixture) -> None:
    """It is asked each time, also by loggers that were bound from it."""
    quiet = True
    log = logger(silent=lambda: quiet).bind(run_id="r")
    log.warning("while replaying")
    quiet = False
    log.warning("live")

    assert lines.messages == ["live run_id=r"]


async def test_a_run_that_fails_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """An application that shows no more than these hears of it; of what went well it does not."""
    caplog.set_level(logging.WARNING, "pikkupy")
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: str) -> None:
        await workflow.do("step", lambda: {}[data] if data else None)

    async with pikku.open(":memory:") as engine:
        await engine.run(flow, "", run_id="well")
        with pytest.raises(RunFailed):
            await engine.run(flow, "ill", run_id="ill")

    ends = [record for record in caplog.records if record.message.startswith("run_")]
    assert [(record.levelname, record.message.split()[0]) for record in ends] == [("WARNING", "run_failed")]
    assert "run_id=ill" in ends[0].message


def test_levels_are_those_of_the_stdlib(caplog: pytest.LogCaptureFixture) -> None:
    """What the level leaves out is not even rendered."""
    caplog.set_level(logging.WARNING, "pikkupy")
    logger().info("event", value=Unshowable())
    logger().error("shown")

    assert [(record.levelname, record.name, record.message) for record in caplog.records] == [
        ("ERROR", "pikkupy", "shown")
    ]


def test_structlog_itself_is_left_alone() -> None:
    """Neither configured by pikkupy nor a way in for its configuration."""
    assert not structlog.is_configured()


PROGRAM = """
import logging
{configuration}
from pikkupy.log import logger
logger().info("hello", step="a b")
logger().error("broken")
"""


@pytest.mark.parametrize(
    ("configuration", "shown"),
    [
        ("", ""),
        ("logging.basicConfig(level='INFO')", "INFO:pikkupy:hello step='a b'\nERROR:pikkupy:broken\n"),
        ("logging.basicConfig()", "ERROR:pikkupy:broken\n"),
        ("import structlog; structlog.configure(processors=[])", ""),
    ],
)
def test_the_application_decides_what_is_printed(configuration: str, shown: str) -> None:
    """With root logging configured the lines are shown; unconfigured nothing is printed, not even errors."""
    command = [sys.executable, "-c", PROGRAM.format(configuration=configuration)]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)

    assert (done.stdout, done.stderr) == ("", shown)


def test_every_event_of_pikkupy_is_in_the_table() -> None:
    """What the log can say is documented. Sentences, as the journal logs them through the stdlib, are no events."""
    used = {
        node.args[0].value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
        if node.args and isinstance(node.args[0], ast.Constant) and str(node.args[0].value).isidentifier()
    }

    assert {"step_abandoned", "worker_lost"} <= used
    assert used <= set(EVENTS)
    assert all(text.endswith(".") for text in EVENTS.values())
