"""Durations: the grammar of the contract, and nothing beside it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pikkupy import DurationError
from pikkupy.durations import MAX_US, microseconds


@pytest.mark.parametrize(
    ("duration", "us"),
    [
        ("5s", 5_000_000),
        ("30min", 1_800_000_000),
        ("1440min", 86_400_000_000),
        ("2hours", 7_200_000_000),
        ("007ms", 7_000),
        ("1week", 604_800_000_000),
        ("0s", 0),
        (5000, 5_000_000),
        (0.4, 400),
        (0.0001, 1),
        (timedelta(microseconds=1), 1),
        (timedelta(days=30), 30 * 86_400_000_000),
        ("36525d", MAX_US),
    ],
)
def test_a_duration_is_text_a_number_of_milliseconds_or_a_timedelta(duration: object, us: int) -> None:
    """Fractions are kept to the microsecond, rounded up."""
    assert microseconds(duration) == us  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " 5s",
        "5s ",
        "5 s",
        "5S",
        "s",
        "5",
        "-5s",
        "5.5s",
        "5secs",
        "5mins",
        "5hr",
        "\u0665s",
        "5s\n",
        "1h30m",
        "99999999w",
        "9" * 400 + "s",
        -1,
        -0.5,
        float("nan"),
        float("inf"),
        10**30,
        1e300,
        -1.797693134862316e305,
        True,
        None,
        b"5s",
        [],
        timedelta(seconds=-1),
        timedelta(days=40_000),
    ],
)
def test_anything_else_is_refused_with_the_input_and_the_units(bad: object) -> None:
    """The error is a ValueError, quotes the input and lists the units, for numbers too."""
    with pytest.raises(DurationError) as refused:
        microseconds(bad)  # type: ignore[arg-type]

    assert isinstance(refused.value, ValueError)
    assert repr(bad)[:20] in str(refused.value)
    assert "ms, millisecond" in str(refused.value)
    assert len(str(refused.value)) < 500


@given(st.text(max_size=12) | st.floats() | st.integers())
def test_whatever_comes_is_a_length_or_a_duration_error(anything: object) -> None:
    """No input gives another exception, and no length is negative or beyond 100 years."""
    try:
        us = microseconds(anything)  # type: ignore[arg-type]
    except DurationError:
        return
    assert 0 <= us <= MAX_US
