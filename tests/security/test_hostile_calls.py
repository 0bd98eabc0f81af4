"""Names, ids, tags, reasons and payloads that try to be SQL, patterns or markup are themselves (S9, S10)."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pikkupy import DurationError, Pikku, PikkuError, RunNotFound, Workflow
from pikkupy.core.model import RunFilter
from pikkupy.durations import MAX_US, microseconds
from pikkupy.names import check_name, check_step_name
from pikkupy.store.listing import numbers, parameters_of, statement, ways
from tests.store.samples import empty_journal

INJECTIONS = [
    "'; DROP TABLE pikkupy_runs; --",
    '" OR ""="',
    "' OR 1=1 --",
    "') UNION SELECT name FROM sqlite_master --",
    "x' AND randomblob(1000000000) --",
    "%", "_", "%_%", "*", "?", "[a-z]", "[^a]", "\\", "\\%", "{workflow}", "{name}", ":limit", "?1", "@a", "$t", "NULL",
    "x'41'", "ATTACH DATABASE '/tmp/x' AS y", "PRAGMA writable_schema=1", "<script>alert(1)</script>",
    "../../etc/passwd",
    "\u202e\ufeff", "\u017f", "İ", "é", "e\u0301", "😀", "a#b", "a/b", "--", "/*", "*/", ";", "''", "0", "1e9",
]  # fmt: skip
pieces = st.sampled_from([*INJECTIONS, "a", "A", "ab", "b", " "])
texts = st.lists(pieces, min_size=1, max_size=3).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.just("$t"), inner, max_size=3),
    max_leaves=6,
)


class Given(msgspec.Struct):
    """A run to start, and the model of what is found of it."""

    run_id: str
    workflow: str
    tags: dict[str, str]
    fails: str | None


runs = st.lists(
    st.builds(
        Given,
        run_id=texts,
        workflow=texts,
        tags=st.dictionaries(texts, texts, max_size=2),
        fails=st.none() | texts,
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda run: run.run_id,
)
filters = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "workflow": texts,
            "status": st.sampled_from(["failed", "completed", ["failed", "completed"], "running"]),
            "tags": st.dictionaries(texts, texts, min_size=1, max_size=2),
            "id_prefix": texts,
            "error": texts,
            "text": texts,
        },
    ),
    min_size=1,
    max_size=8,
)


def expected(run: Given, wanted: dict[str, Any]) -> bool:
    """The filter as a sentence of Python."""
    status = "completed" if run.fails is None else "failed"
    return (
        wanted.get("workflow", run.workflow) == run.workflow
        and status in wanted.get("status", status)
        and all(run.tags.get(name) == value for name, value in wanted.get("tags", {}).items())
        and run.run_id.startswith(wanted.get("id_prefix", ""))
        and (
            "error" not in wanted
            or (run.fails is not None and (wanted["error"] in run.fails or wanted["error"] in "ValueError"))
        )
        and (
            "text" not in wanted
            or run.run_id.startswith(wanted["text"])
            or wanted["text"] in run.workflow
            or (run.fails is not None and (wanted["text"] in run.fails or wanted["text"] in "ValueError"))
        )
    )


@settings(max_examples=60, deadline=None)
@given(runs, filters, st.data())
def test_filters_find_what_python_would(given_runs: list[Given], wanted: list[dict[str, Any]], data: Any) -> None:
    """Half of the filters are made of what there is."""
    pick: Callable[[Any], Any] = lambda choice: data.draw(st.sampled_from(choice))  # noqa: E731
    for run in given_runs:
        start = run.run_id[: data.draw(st.integers(1, len(run.run_id)))]
        wanted.append(
            pick(
                [
                    {"id_prefix": start},
                    {"workflow": run.workflow},
                    {"tags": run.tags},
                    {"error": run.fails or start},
                    {"text": pick([start, run.workflow, run.fails or start])},
                ]
            )
        )
    wanted = [one for one in wanted if one.get("tags") != {}]

    async def scenario() -> list[list[str]]:
        pikku = Pikku()
        for name in {run.workflow for run in given_runs}:

            @pikku.workflow(name=name)
            async def either(workflow: Workflow, message: str | None) -> None:
                if message is not None:
                    raise ValueError(message)

        async with pikku.open(":memory:") as engine:
            for run in given_runs:
                handle = await engine.start(run.workflow, run.fails, run_id=run.run_id, tags=run.tags)
                while await handle.status() == "running":
                    await asyncio.sleep(0)
            return [[run.id for run in (await engine.list_runs(**one)).runs] for one in wanted]

    found = asyncio.run(scenario())

    for one, ids in zip(wanted, found, strict=True):
        assert ids == [run.run_id for run in reversed(given_runs) if expected(run, one)], one


@settings(max_examples=60, deadline=None)
@given(run_id=texts, step=texts, signal=texts, reason=texts, payload=values)
def test_names_and_payloads_come_back_as_they_were(
    run_id: str, step: str, signal: str, reason: str, payload: Any
) -> None:
    """Through every call that takes one; and the tables are still there."""
    step, signal = step + ".", signal + "."  # not the end of a repeated step

    async def scenario() -> None:
        pikku = Pikku()

        @pikku.workflow(name=signal)
        async def echo(workflow: Workflow, data: Any) -> Any:
            done = await workflow.do(step, lambda: data)
            told = await workflow.wait_for_signal(signal)
            workflow.progress(reason[:1000])
            return [done, told]

        async with pikku.open(":memory:") as engine:
            run = await engine.start(signal, payload, run_id=run_id, tags={signal: reason})
            await engine.signal(run_id, signal, payload)
            assert await run.result() == [payload, payload]
            found = await engine.get_run(run_id)
            assert (found.id, found.workflow, found.input, found.tags) == (run_id, signal, payload, {signal: reason})
            assert [one.name for one in await engine.steps(run_id)] == [step, signal if signal != step else f"{step}#1"]
            await engine.start(signal, payload, run_id="other" + run_id)
            await engine.cancel("other" + run_id, reason)
            assert (await engine.get_run("other" + run_id)).reason == reason
            for call in (engine.get_run, engine.steps, engine.history, engine.resume, engine.retry, engine.delete_run):
                with pytest.raises(RunNotFound):
                    await call(run_id + "'")
            assert await engine.prune(older_than=0) == 2

    asyncio.run(scenario())


@given(
    workflow=st.none() | texts,
    tags=st.lists(st.tuples(texts, texts), max_size=4).map(tuple),
    prefix=st.none() | texts,
    error=st.none() | texts,
)
def test_no_text_of_a_caller_is_part_of_a_statement(
    workflow: str | None, tags: Any, prefix: str | None, error: str | None
) -> None:
    """The statements for a filter are the same, whatever its texts are; each text is a parameter."""
    which = RunFilter(workflow=workflow, tags=tags, id_prefix=prefix, error=error)
    tame = RunFilter(
        workflow=workflow and "a",
        tags=tuple(("a", "a") for _ in tags),
        id_prefix=prefix and "a",
        error=error and "a",
    )

    assert [statement(way, which) for way in ways(which)] == [statement(way, tame) for way in ways(tame)]
    parameters = parameters_of(which, 1, 1)
    assert all(text in parameters.values() for text in (workflow, prefix, error))


def test_a_hostile_filter_takes_no_more_work_than_a_tame_one() -> None:
    """Counted in steps of SQLite's machine: there is no pattern in it that could run away."""
    work = {}
    with empty_journal() as db:
        db.executemany(
            "INSERT INTO pikkupy_runs (number, run_id, workflow, status, error, input, created_at, updated_at,"
            " starts_at, ended_at, start_checksum, move_checksum) "
            "VALUES (?, ?, 'w', 'failed', ?, '1', 0, 0, 0, 0, 0, 0)",
            [(n, f"r{n}", '{"type":"E","message":"%s","traceback":""}' % ("a" * 200)) for n in range(1, 300)],
        )
        for text in ("b" * 256, "%" * 256, "a*" * 128, "[a-" * 85, "_" * 256, "a" * 255 + "b"):
            ticks = 0

            def tick() -> int:
                nonlocal ticks
                ticks += 1
                return 0

            db.set_progress_handler(tick, 10)
            assert numbers(db, RunFilter(error=text, id_prefix=text), 50, 10_000) == []
            assert numbers(db, RunFilter(error=text), 50, 10_000) == []
            db.set_progress_handler(None, 0)
            work[text] = ticks

    assert max(work.values()) <= 2 * min(work.values())


def lines_run(call: Callable[[], object]) -> int:
    """Lines of Python that the call takes: a measure that no busy neighbour changes."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except (PikkuError, ValueError):
        pass
    finally:
        sys.settrace(before)
    return count


@given(st.text(max_size=256) | st.from_regex(r"[0-9]{1,240}[a-z]{0,16}", fullmatch=True))
def test_a_duration_of_any_text_is_read_or_refused_at_once(text: str) -> None:
    """A bounded number of lines, each linear in the text."""
    assert lines_run(lambda: microseconds(text)) < 60
    try:
        assert 0 <= microseconds(text) <= MAX_US
    except DurationError as error:
        assert len(str(error)) < 500


@pytest.mark.parametrize("number", [10**5_000, -(10**5_000), 1e308, float("inf"), float("nan"), 2**63], ids=range(6))
def test_a_duration_of_any_number_is_read_or_refused(number: float) -> None:
    """Also one that Python does not write out."""
    with pytest.raises(DurationError):
        microseconds(number)


@pytest.mark.parametrize(
    "evil", ["0" * 255 + "!", "9" * 256, "s" * 256, "1" + "s" * 255, " " * 256, "#1" * 128, "a" * 256]
)
def test_texts_that_make_patterns_backtrack_do_not(evil: str) -> None:
    """A bounded number of lines, each linear in the text."""
    for read in (microseconds, lambda text: check_step_name(text), lambda text: check_name(text, "name")):
        assert lines_run(lambda read=read: read(evil)) < 60


async def test_no_connection_lets_sql_out_of_the_file(tmp_path: Any) -> None:
    """Schemas are not trusted, extensions are off, nothing can be attached; the connection that reads cannot write."""
    pikku = Pikku()
    async with pikku.open(tmp_path / "j.db") as engine:
        journal = engine._parts.host.journal  # type: ignore[union-attr]
        for connection in (journal._reader, journal._writer):
            assert await connection.run(lambda db: db.execute("PRAGMA trusted_schema").fetchone()) == (0,)
            assert await connection.run(lambda db: db.execute("PRAGMA cell_size_check").fetchone()) == (1,)
            if sys.version_info >= (3, 12):
                assert await connection.run(lambda db: db.getconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE))
            with pytest.raises(sqlite3.OperationalError, match=r"not authorized|no such function"):
                await connection.run(lambda db: db.execute("SELECT load_extension('x')"))
            with pytest.raises(sqlite3.OperationalError, match="too many attached databases"):
                await connection.run(lambda db: db.execute("ATTACH ':memory:' AS other"))
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await journal._reader.run(lambda db: db.execute("DELETE FROM pikkupy_runs"))
