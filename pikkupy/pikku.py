"""`Pikku`: where an application declares its functions and workflows, and opens engines for them."""

from __future__ import annotations

import os
from functools import partial
from typing import Literal, Unpack, overload

from pikkupy.config import Config, Settings
from pikkupy.control import Client, Member, serving
from pikkupy.core.clock import Clock
from pikkupy.durations import Duration
from pikkupy.engine import Engine
from pikkupy.errors import BadType, BadValue, PikkuError
from pikkupy.mounting import AsgiApp, HttpConfig
from pikkupy.registry import Registry


class Pikku(Registry):
    """A plain registry: no I/O, no threads, no global state. Declare with `function` and `workflow`, then `open`."""

    @overload
    def open(
        self,
        path: str | os.PathLike[str],
        *,
        services: object = None,
        clock: Clock | None = None,
        config: Config | None = None,
        role: Literal["engine"] = "engine",
        **settings: Unpack[Settings],
    ) -> Engine: ...
    @overload
    def open(
        self,
        path: str | os.PathLike[str],
        *,
        services: object = None,
        clock: Clock | None = None,
        config: Config | None = None,
        role: Literal["auto"],
        wait: Duration = "5s",
        **settings: Unpack[Settings],
    ) -> Member: ...
    def open(
        self,
        path: str | os.PathLike[str],
        *,
        services: object = None,
        clock: Clock | None = None,
        config: Config | None = None,
        role: Literal["engine", "auto"] = "engine",
        wait: Duration | None = None,
        **settings: Unpack[Settings],
    ) -> Engine | Member:
        """An engine on the SQLite file at `path` (or ":memory:"), to be entered with `async with`.

        `services` is any object; functions read its attributes through their first argument. `clock` is a
        `pikkupy.testing.VirtualClock`, or `None` for the system's. Settings are the fields of `Config`, given one by
        one or as `config`, not both. Nothing is opened before the engine is entered.

        With `role="auto"` several processes can open the same file, the workers of a web server for instance: the first
        is the engine, the others are clients of it, and one of them takes over when it goes. Calls wait for an engine
        for `wait` at most.
        """
        if config is not None and settings:
            raise BadType(f"open() got config= and also {', '.join(settings)}; give the settings in one place")
        if clock is not None and (isinstance(clock, type) or not getattr(clock, "virtual", False)):
            raise BadType(f"clock={clock!r}: use a pikkupy.testing.VirtualClock, or None for the system's clock")
        if config is not None and not isinstance(config, Config):
            raise BadType(f"config={config!r}: use a pikkupy.Config, or give the settings as keyword arguments")
        unknown = settings.keys() - Settings.__annotations__.keys()
        if unknown:
            raise BadType(
                f"open() has no setting {min(unknown)!r}; the settings are {', '.join(Settings.__annotations__)}"
            )
        config = Config(**settings) if config is None else config
        served = config.control_socket and os.fspath(path) != ":memory:"
        beside = partial(serving, registry=self, path=os.fspath(path)) if served else None
        make = partial(Engine, path, self, services, clock, config, beside=beside, mount=_mount)
        if role == "engine":
            if wait is not None:
                raise BadType(f"wait={wait!r}: it is for role='auto'")
            return make()
        if role != "auto":
            raise BadValue(f"role={role!r}: use 'engine' or 'auto'")
        if not served:
            raise BadValue("role='auto' needs a file, and its control socket: other processes have to reach the engine")
        return Member(path, self, "5s" if wait is None else wait, make, _mount)

    def connect(self, path: str | os.PathLike[str], *, wait: Duration = "5s") -> Client:
        """A client of the engine that has the file open in another process, to be entered with `async with`.

        It waits so long for one to appear: when it is entered, and for calls that can be asked again after the engine
        has gone. The workflows of this `Pikku` give values their types; it need not have any.
        """
        return Client(path, self, wait, _mount)


def _mount(engine: Engine | Client, path: str, config: HttpConfig) -> AsgiApp:
    """The door to the web, which is an extra."""
    try:
        from pikkupy.http import application  # noqa: PLC0415 - it may be missing

        pages = None
        if config.console:
            from pikkupy.console import CONSOLE  # noqa: PLC0415

            pages = CONSOLE
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] == "pikkupy":
            raise
        extra = "console" if config.console else "http"
        raise PikkuError(
            f"asgi() needs {missing.name}, which is not installed: pip install 'pikkupy[{extra}]'"
        ) from None
    return application(engine, path, config, pages)
