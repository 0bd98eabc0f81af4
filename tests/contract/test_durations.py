"""Durations, at every door that takes one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from pikkupy import Config, DurationError, Pikku, PikkuError, Workflow
from pikkupy.testing import VirtualClock

UNITS = ("ms", "s", "sec", "m", "min", "h", "hour", "d", "day", "w", "week")


async def slept(duration: Any) -> timedelta:
    """How long `workflow.sleep` sleeps; `DurationError` is the workflow's own."""
    pikku = Pikku()
    errors: list[DurationError] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        try:
            nap = workflow.sleep("nap", duration)
        except DurationError as error:
            errors.append(error)
        else:
            await nap

    clock = VirtualClock(autojump=True)
    begun = clock.now()
    async with pikku.open(":memory:", clock=clock) as engine:
        await engine.run(flow, run_id="r")
        if errors:
            assert await engine.steps("r") == []
            raise errors[0]
    return clock.now() - begun


@pytest.mark.parametrize(
    "words",
    [
        "ms millisecond milliseconds",
        "s sec second seconds",
        "m min minute minutes",
        "h hour hours",
        "d day days",
        "w week weeks",
    ],
)
async def test_these_are_the_units(words: str) -> None:
    """C68: the abbreviations of the contract and the spelled-out singulars and plurals."""
    assert len({await slept(f"7{word}") for word in words.split()}) == 1


@pytest.mark.parametrize("unit", ["secs", "mins", "hr", "hrs", "msec", "msecs", "us", "month", "y", "year", "wk", "D"])
async def test_these_are_no_units(unit: str) -> None:
    """C68: nothing else; the error quotes the input and names the units."""
    with pytest.raises(DurationError) as error:
        await slept(f"5{unit}")

    assert f"5{unit}" in str(error.value)
    for known in UNITS:
        assert known in str(error.value)


@pytest.mark.parametrize(
    "text", ["٣s", "1.5s", "5S", "5Min", "\uff15s", "²s", " 5s", "5s ", "5 s", "5s\n", "", "s", "5", "1e3s"]
)
async def test_digits_are_ascii_and_letters_small(text: str) -> None:
    """C69: the whole text is digits and a unit."""
    with pytest.raises(DurationError):
        await slept(text)


async def test_leading_zeros_are_allowed() -> None:
    """C69: and change nothing."""
    assert await slept("0005s") == timedelta(seconds=5)
    assert await slept("0s") == timedelta(0)


@pytest.mark.parametrize("bad", [True, False, None, b"5s", [5], (5, "s"), {"s": 5}, object(), Decimal(5), 5j])
async def test_other_types_are_refused(bad: Any) -> None:
    """C70: also bools and None."""
    with pytest.raises(DurationError, match="units"):
        await slept(bad)


@pytest.mark.parametrize("bad", [-1, -0.001, float("nan"), float("inf"), -float("inf"), timedelta(microseconds=-1)])
async def test_bad_numbers_are_refused_with_the_units(bad: Any) -> None:
    """C73: negative, NaN and infinite; the error names the units, too."""
    with pytest.raises(DurationError, match=r"min.*hour"):
        await slept(bad)


@pytest.mark.parametrize(
    ("duration", "us"),
    [
        (0.4, 400),
        (0.0004, 1),
        (1.0001, 1001),
        (1e-300, 1),
        (timedelta(microseconds=1), 1),
        (0, 0),
        (-0.0, 0),
        (5, 5000),
    ],
)
async def test_fractions_are_kept_to_the_microsecond_and_rounded_up(duration: Any, us: int) -> None:
    """C71: never shorter than asked."""
    assert await slept(duration) == timedelta(microseconds=us)


@pytest.mark.parametrize(
    "long",
    ["99999999w", 10**30, 1e300, "9" * 4000 + "ms", "36526d", timedelta.max, timedelta(days=36525, microseconds=1)],
)
async def test_the_limit_is_a_hundred_years(long: Any) -> None:
    """C72: DurationError in the call."""
    with pytest.raises(DurationError):
        await slept(long)


async def test_a_hundred_years_can_be_slept() -> None:
    """C72: the limit itself is allowed."""
    assert await slept("36525d") == timedelta(days=36525)


async def test_the_error_is_a_value_error_of_the_tree() -> None:
    """Durations: DurationError is a ValueError and a PikkuError."""
    assert issubclass(DurationError, ValueError)
    assert issubclass(DurationError, PikkuError)


@pytest.mark.parametrize("bad", ["5 s", -1, True, float("nan")])
async def test_every_door_checks_its_duration(bad: Any) -> None:
    """C9, C70: `advance`, `result`, and the settings, as well."""
    clock = VirtualClock()
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        for option in ("retry_delay", "max_retry_delay", "timeout"):
            with pytest.raises(DurationError):
                workflow.do("step", lambda: 1, **{option: bad})  # type: ignore[misc]

    begun = clock.now()
    with pytest.raises(DurationError):
        await clock.advance(bad)
    with pytest.raises(DurationError):
        Config(shutdown_grace=bad)
    with pytest.raises(DurationError):
        pikku.open(":memory:", cancel_grace=bad)
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow)
        with pytest.raises(DurationError):
            await handle.result(timeout=bad)
        await handle.result()

    assert clock.now() == begun


async def test_numbers_are_milliseconds_in_every_call_of_ours() -> None:
    """C9: in `advance` and `result` too; asyncio's own calls stay in seconds."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> float:
        begun = workflow.now()
        await asyncio.sleep(1)
        await workflow.sleep("nap", 1)
        return (workflow.now() - begun) / timedelta(milliseconds=1)

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow)
        waiting = asyncio.ensure_future(handle.result(timeout=1002))
        await clock.advance(1000)
        assert not waiting.done()
        await clock.advance(1)
        assert await waiting == 1001
