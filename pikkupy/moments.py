"""Moments: aware datetimes outside, epoch microseconds inside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pikkupy.durations import MAX_US
from pikkupy.errors import DurationError, PikkuError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(us: int) -> datetime:
    """Epoch microseconds as an aware `datetime` in UTC."""
    return EPOCH + timedelta(microseconds=us)


def us_of(when: datetime) -> int:
    """An aware `datetime` as epoch microseconds."""
    return (when - EPOCH) // timedelta(microseconds=1)


def checked_us(
    name: str, when: object, *, now_us: int | None = None, no_datetime: type[PikkuError] = DurationError
) -> int:
    """What a caller gave as the argument `name`, as epoch microseconds.

    Raises `no_datetime` for what is none, `DurationError` for a naive one, which names no moment, and for one more
    than 100 years after `now_us` if that is given.
    """
    if not isinstance(when, datetime):
        raise no_datetime(f"{name}={when!r}: use an aware datetime, not {type(when).__name__}")
    if when.utcoffset() is None:
        raise DurationError(f"{name}={when!r}: a naive datetime names no moment; make it aware, give it a tzinfo")
    us = us_of(when)
    if now_us is not None and us - now_us > MAX_US:
        raise DurationError(f"{name}={when.isoformat()}: more than 100 years ahead")
    return us
