"""The HTTP API beside an engine that is run by `pikku`: the options, and what they mean."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pikkupy import Engine, Member
from pikkupy.engine.looking import Look
from pikkupy.errors import BadValue, PikkuError
from pikkupy.log import logger
from pikkupy.mounting import AsgiApp, HttpConfig


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Http:
    """Where it is served, and for whom."""

    http: Annotated[
        str | None, Parameter(help="Serve the HTTP API at HOST:PORT, as in 127.0.0.1:8799. The token is in FILE.token.")
    ] = None
    allow_host: Annotated[
        list[str] | None, Parameter(negative="", help="A name that requests may come to; repeat for several.")
    ] = None
    tls_certificate: Annotated[Path | None, Parameter(help="Serve HTTPS with it; with --tls-key.")] = None
    tls_key: Annotated[Path | None, Parameter(help="Of the certificate.")] = None
    console: Annotated[
        bool, Parameter(negative="", show_default=False, help="With the console for people, at /console/.")
    ] = False
    read_only: Annotated[bool, Parameter(negative="", show_default=False, help="Nothing can be changed over HTTP.")] = (
        False
    )
    insecure: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Plain HTTP where other machines can reach it: they are trusted.",
        ),
    ] = False

    def check(self) -> None:
        """Raises `BadValue` for options that mean nothing without others."""
        given = [field.name for field in fields(self) if getattr(self, field.name)]
        if self.http is None and given:
            raise BadValue(f"--{given[0].replace('_', '-')} is for --http, which was not given")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise BadValue("a certificate has a key: give --tls-certificate and --tls-key")

    @asynccontextmanager
    async def served(self, engine: Engine | Member) -> AsyncIterator[None]:
        """Serve the engine as long as the block lasts, if that was asked for. Raises `BadValue` and `PikkuError`."""
        self.check()
        if self.http is None:
            yield
            return
        # It says what is not installed.
        app = engine.asgi(hosts=self.allow_host or [], read_only=self.read_only, console=self.console)
        tls = None
        if self.tls_certificate is not None and self.tls_key is not None:
            tls = (self.tls_certificate, self.tls_key)
        async with listening(app, self.http, tls, insecure=self.insecure) as url:
            logger().info("http_serving", url=url)
            yield


def listening(
    app: AsgiApp, text: str, tls: tuple[Path, Path] | None = None, *, insecure: bool = False
) -> AbstractAsyncContextManager[str]:
    """Serve the application at the address that a text means; its URL. Raises `BadValue` and `PikkuError`."""
    from pikkupy.http.serving import Tls, address_of, check_reach, serving  # noqa: PLC0415 - who has an app has the extra

    address, files = address_of(text), None if tls is None else Tls(*tls)
    check_reach(address, files, insecure=insecure)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # that it begins and ends is said by others
    return serving(app, address, files)


def console_of(
    look: Look, path: str, meet: Callable[[], Awaitable[tuple[Any, str | None]]], *, read_only: bool
) -> tuple[AsgiApp, str]:
    """The application with the console of a file, and its token; `meet` says who answers. Raises `PikkuError`."""
    try:
        from pikkupy.console import CONSOLE  # noqa: PLC0415 - the extra may be missing
        from pikkupy.http import application  # noqa: PLC0415
        from pikkupy.http.tokens import token_of_file  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise PikkuError(f"{missing.name} is not installed: pip install 'pikkupy[cli,console]'") from None
    config = HttpConfig(read_only=read_only, console=True)
    engine: Any = look  # it has what the pages need of an engine
    return application(engine, path, config, CONSOLE, meet), token_of_file(path)
