"""The HTTP API beside an engine that is run by `pikku`: the options, and what they mean."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter

from pikkupy import Engine, Member
from pikkupy.errors import BadValue, PikkuError
from pikkupy.log import logger
from pikkupy.mounting import AsgiApp, HttpConfig
from pikkupy.registry import Registry

Serving: TypeAlias = Callable[[AsgiApp, str], AbstractAsyncContextManager[str]]


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
        app = engine.asgi(
            hosts=self.allow_host or [], read_only=self.read_only, console=self.console
        )  # it says what is not installed
        from pikkupy.http.serving import Tls, address_of, check_reach, serving  # noqa: PLC0415 - the extra is there

        address = address_of(self.http)
        tls = None
        if self.tls_certificate is not None and self.tls_key is not None:
            tls = Tls(self.tls_certificate, self.tls_key)
        check_reach(address, tls, insecure=self.insecure)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # that it begins and ends is said by others
        async with serving(app, address, tls) as url:
            logger().info("http_serving", url=url)
            yield


def serving_of(found: Any, path: str, registry: Registry, config: HttpConfig) -> tuple[AsgiApp, Serving, str]:
    """The application for an engine, a client or a look, what serves it, and the token. Raises `PikkuError`."""
    try:
        from pikkupy.console import CONSOLE  # noqa: PLC0415 - the extra may be missing
        from pikkupy.http import application  # noqa: PLC0415
        from pikkupy.http.serving import address_of, check_reach, serving  # noqa: PLC0415
        from pikkupy.http.tokens import token_of_file  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise PikkuError(f"{missing.name} is not installed: pip install 'pikkupy[cli,console]'") from None

    def serve(app: AsgiApp, text: str) -> AbstractAsyncContextManager[str]:
        address = address_of(text)
        check_reach(address, None, insecure=False)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        return serving(app, address)

    return application(found, path, registry, config, CONSOLE), serve, token_of_file(path)
