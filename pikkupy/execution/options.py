"""The keyword options of `do`, checked and turned into a `Policy` before anything happens."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, TypedDict

from pikkupy.core.commands import Policy
from pikkupy.durations import DAY_US, Duration, named_microseconds
from pikkupy.errors import BadType, BadValue

DEFAULT_MAX_RETRY_DELAY_US = DAY_US  # an exponential wait beyond a day is rarely meant
MAX_DESCRIPTION = 1_000  # characters


class StepOptions(TypedDict, total=False):
    """What `do` takes besides name, target, data and `result_type`."""

    retries: int
    """Attempts after the first; default 0."""
    retry_delay: Duration
    """Wait before the second attempt, and with fixed back-off before each; default 0."""
    backoff: Literal["fixed", "exponential"]
    """`exponential` doubles the wait from retry to retry; default `fixed`."""
    max_retry_delay: Duration
    """Upper limit of an exponential wait; default 1 day."""
    jitter: float
    """Each wait is lengthened by a random part of up to this fraction of it, 0.0 to 1.0; default 0.0."""
    retry_if: Callable[[BaseException], object]
    """A plain function, called with the error of a failed attempt that has retries left; a false answer ends the
    retries."""
    timeout: Duration | None
    """Limit of one attempt, counted from the start of its body; default none. An inline callable that does not await
    cannot be stopped: its attempt fails when it returns."""
    description: str | None
    """For the reader of the code, at most 1,000 characters; it is neither recorded nor shown."""
    at_most_once: bool
    """Record the start before it runs, and do not run again an attempt that a crash cut off; default False."""


_NO_OPTIONS = Policy(max_delay_us=DEFAULT_MAX_RETRY_DELAY_US)


def policy_of(options: StepOptions) -> Policy:
    """The `Policy` that `options` describe. Raises `BadValue`, `DurationError` or `BadType` naming the option."""
    if not options:
        return _NO_OPTIONS
    unknown = options.keys() - StepOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(["result_type", *StepOptions.__annotations__])
        raise BadType(f"do() has no option {min(unknown)!r}; the options are {known}")
    timeout = options.get("timeout")
    _check_description(options.get("description"))
    return Policy(
        retries=_retries(options.get("retries", 0)),
        delay_us=named_microseconds("retry_delay", options.get("retry_delay", 0)),
        exponential=_exponential(options.get("backoff", "fixed")),
        max_delay_us=named_microseconds("max_retry_delay", options.get("max_retry_delay", "1d")),
        jitter=_jitter(options.get("jitter", 0.0)),
        retry_if=_callable(options.get("retry_if")),
        timeout_us=None if timeout is None else named_microseconds("timeout", timeout),
        at_most_once=_flag("at_most_once", options.get("at_most_once", False)),
    )


def _retries(retries: object) -> int:
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        raise BadValue(f"retries={retries!r}: use a whole number of 0 or more (attempts after the first)")
    return retries


def _exponential(backoff: object) -> bool:
    if backoff not in ("fixed", "exponential"):
        raise BadValue(f"backoff={backoff!r}: use 'fixed' or 'exponential'")
    return backoff == "exponential"


def _jitter(jitter: object) -> float:
    if isinstance(jitter, bool) or not isinstance(jitter, int | float) or not 0 <= jitter <= 1:
        raise BadValue(f"jitter={jitter!r}: use a fraction from 0.0 to 1.0")
    return float(jitter)


def _callable(retry_if: Any) -> Callable[[BaseException], object] | None:
    if retry_if is not None and not callable(retry_if):
        raise BadType(f"retry_if={retry_if!r}: use a function that takes the exception")
    if _is_async(retry_if) or _is_async(type(retry_if).__call__):
        raise BadType(
            f"retry_if={retry_if!r}: it is async, and what it returns would always count as true; use a `def`"
        )
    return retry_if  # type: ignore[no-any-return]


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _check_description(description: object) -> None:
    if description is None:
        return
    if not isinstance(description, str):
        raise BadType(f"description={description!r}: use a str, or None")
    if len(description) > MAX_DESCRIPTION:
        raise BadValue(f"description has {len(description)} characters: use at most {MAX_DESCRIPTION}")


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadType(f"{name}={value!r}: use True or False")
    return value
