"""What engine and worker process say to each other, and how both find the function that is meant.

A message is a length of eight bytes, big-endian, and that many bytes of msgpack. The process answers a `Request` with
an empty message when the body begins, if it gets that far, and a `Reply` when it has ended. In between it may send
`News`, each behind a byte that no msgpack begins with. It answers a `Preparation`, which is behind such a byte too,
with an empty message.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, reduce
from importlib import import_module
from typing import Any, Protocol, cast

import msgspec

from pikkupy.core.model import ErrorInfo
from pikkupy.errors import RegistrationError
from pikkupy.progress import Progress
from pikkupy.services import StepContext

LENGTH = 8  # bytes in front of each message that say how long it is
NEWS = b"\xc1"  # in front of news, and of preparations


class Called(msgspec.Struct, frozen=True):
    """Where a function's code is: what a worker process imports, and the name to look up there."""

    module: str
    name: str  # qualified


class Main(msgspec.Struct, frozen=True):
    """Where the program's `__main__` comes from, as far as it can be imported again."""

    module: str | None  # of `python -m module`
    path: str | None  # of `python path`


class Application(msgspec.Struct, frozen=True):
    """What a worker process is told when it starts, and goes by for good: no request can make it run anything else."""

    functions: frozenset[Called]
    main: Main


class Preparation(msgspec.Struct, frozen=True, kw_only=True):
    """Import now what these functions need: they may be asked for."""

    functions: list[Called]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Run this function."""

    function: Called
    step: StepContext
    data: str | None  # encoded


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """It returned `output`, encoded, or failed with `error`."""

    output: str | None = None
    error: ErrorInfo | None = None
    final: bool = False


class News(msgspec.Struct, frozen=True, kw_only=True):
    """What the function has told since the last news: encoded chunks, and how far it is."""

    texts: list[str] = []
    progress: Progress | None = None


class Registered(Protocol):
    """What is needed here of a registered function."""

    name: str
    fn: Any
    takes_data: bool

    @property
    def data_type(self) -> Any: ...
    @property
    def result_type(self) -> Any: ...


def called(fn: Callable[..., object]) -> Called:
    """How a worker process finds the function."""
    return Called(fn.__module__, fn.__qualname__)


def framed(message: bytes) -> bytes:
    """`message` as it goes through a pipe."""
    return len(message).to_bytes(LENGTH, "big") + message


def source_of_main() -> Main:
    """What a worker process needs to know to import this program's `__main__` again."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return Main(module=None if spec is None else spec.name, path=getattr(main, "__file__", None))


def find_function(called: Called, application: Application) -> Registered:
    """The function registered with `worker="process"` whose code that is; imports its module.

    Raises `RegistrationError` for anything else that is there, so that a process runs registered functions only, and
    imports nothing for a function that the engine did not have when the process was started.
    """
    if called not in application.functions:
        raise RegistrationError(
            f"worker='process': {called.module}.{called.name} is no function of this engine; it was not looked for"
        )
    return _look_up(called)


@cache  # of what was found; an error is looked into again
def _look_up(called: Called) -> Registered:
    module, name = called.module, called.name
    imported = import_module(module)
    try:
        found = reduce(getattr, name.split("."), imported)
    except AttributeError:
        raise RegistrationError(f"worker='process': module {module!r} has no {name!r} when it is imported") from None
    for candidate in (found, *vars(imported).values()):  # it may have been registered under another variable
        if _is_registered(candidate) and (candidate is found or candidate.fn is found):
            return cast(Registered, candidate)
    raise RegistrationError(
        f"worker='process': {module}.{name} is no function registered with worker='process' when {module!r} is "
        "imported; register it where it is defined, at the top of the module"
    )


def _is_registered(candidate: Any) -> bool:
    return getattr(type(candidate), "__pikku_function__", False) and candidate.worker == "process"
