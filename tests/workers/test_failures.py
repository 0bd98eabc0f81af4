"""Exceptions as they are recorded."""

from __future__ import annotations

from typing import Any

import pytest

from pikkupy.errors import PayloadError, PikkuError, StepFailed
from pikkupy.failures import MAX_MESSAGE, MAX_TRACEBACK, describe


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")

    __repr__ = __str__


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_error_is_named_with_its_bases() -> None:
    """Dotted names, built-ins without their module, `object` left out."""
    described = describe(PayloadError("$.a"))

    assert described.type == "pikkupy.errors.PayloadError"
    assert described.bases == ("pikkupy.errors.PikkuError", "Exception", "BaseException")
    failed = StepFailed("a", 1, described.type, described.message, described.traceback, described.bases)
    assert failed.is_a(PikkuError) and failed.is_a(PayloadError) and not failed.is_a(ValueError)


def test_the_traceback_shows_the_users_code_and_its_causes() -> None:
    """As Python would print it."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner
    except ValueError as error:
        described = describe(error)

    assert 'raise KeyError("inner")' in described.traceback
    assert "direct cause" in described.traceback
    assert described.traceback.endswith("ValueError: outer\n")


def test_frames_of_pikkupy_above_the_users_are_left_out() -> None:
    """Those below stay: they are what the user's code has called."""

    def own(call: Any) -> None:
        call()

    code = own.__code__.replace(co_filename=describe.__code__.co_filename)
    ours = type(own)(code, globals())

    def users() -> None:
        ours(lambda: describe_badly())

    def describe_badly() -> None:
        raise ValueError

    try:
        ours(users)
    except ValueError as error:
        frames = error.__traceback__
        assert frames is not None
        described = describe(error.with_traceback(frames.tb_next))

    files = [line.split('"')[1].rpartition("/")[2] for line in described.traceback.splitlines() if 'File "' in line]
    assert files == ["test_failures.py", "failures.py", "test_failures.py", "test_failures.py"]


def test_a_group_lists_the_messages_of_its_parts() -> None:
    """Also those of groups in it."""
    group = ExceptionGroup("two tasks", [ValueError("bad"), ExceptionGroup("deep", [KeyError("k")])])
    described = describe(group)

    assert described.type == "ExceptionGroup"
    assert described.message == (
        "two tasks (2 sub-exceptions): ValueError: bad; ExceptionGroup: deep (1 sub-exception): KeyError: 'k'"
    )
    many = describe(ExceptionGroup("many", [ValueError(str(number)) for number in range(25)]))
    assert many.message.endswith("ValueError: 19; and 5 more")


def test_an_exception_that_cannot_show_itself_is_recorded() -> None:
    """With a placeholder for its message."""
    described = describe(raised(Mute()))

    assert described.type.endswith("Mute")
    assert described.message == "<str() of this Mute raised SystemExit>"
    assert "Mute" in described.traceback


@pytest.mark.parametrize("text", ["x" * 100_000, "€" * 40_000, "\udc80" * 40_000, "\0" * 100_000])
def test_long_texts_are_cut_in_the_middle(text: str) -> None:
    """By bytes in UTF-8, both ends kept, with a mark; nothing is left that SQLite or UTF-8 cannot take."""
    described = describe(raised(ValueError(f"begin {text} end")))

    assert len(described.message.encode()) <= MAX_MESSAGE
    assert len(described.message.encode()) > MAX_MESSAGE - 20
    assert described.message.startswith("begin ") and described.message.endswith(" end")
    assert "bytes, cut to 8192 …]" in described.message
    assert "\0" not in described.message
    assert len(described.traceback.encode()) <= MAX_TRACEBACK
    assert described.traceback.startswith("Traceback")


def test_texts_with_surrogates_and_nuls_are_escaped() -> None:
    """The rest is as it was."""
    assert describe(ValueError("a\udc80b\0c é")).message == "a\\udc80b\\x00c é"


def test_a_recursion_error_can_be_recorded() -> None:
    """Thousands of frames become a few lines."""

    def endless() -> None:
        endless()

    try:
        endless()
    except RecursionError as error:
        described = describe(error)

    assert described.type == "RecursionError"
    assert "Previous line repeated" in described.traceback
