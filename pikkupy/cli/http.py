"""The HTTP API beside an engine that is run by `pikku`: the options, and what they mean."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pikkupy import Engine, Member
from pikkupy.errors import BadValue
from pikkupy.log import logger


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
        app = engine.asgi(hosts=self.allow_host or [], read_only=self.read_only)  # it says what is not installed
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
