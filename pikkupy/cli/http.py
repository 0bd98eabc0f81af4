"""The HTTP API beside an engine that is run by `pikku`: the options, and what they mean."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pikkupy import Engine, Member
from pikkupy.engine.looking import Look
from pikkupy.errors import BadValue, PikkuError
from pikkupy.log import logger
from pikkupy.mounting import AsgiApp, HttpConfig, Scope, check_token
from pikkupy.private import read_own

BasePath = Annotated[
    str, Parameter(show_default=False, help="Below which a proxy has it, as in /pikku; it may take that away or not.")
]
Redact = Annotated[
    str | None, Parameter(help="module:name of a function that takes secrets out of a text; it is imported.")
]


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
    base_path: BasePath = ""
    http_tokens: Annotated[
        Path | None,
        Parameter(help="A file of tokens in place of FILE.token: `scope token` a line; scopes: read, operate, admin."),
    ] = None
    open_health: Annotated[
        bool, Parameter(negative="", show_default=False, help="/healthz and /readyz need no token.")
    ] = False
    redact: Redact = None
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
    async def served(self, engine: Engine | Member, redact: Callable[[str], str] | None = None) -> AsyncIterator[None]:
        """Serve the engine as long as the block lasts, if that was asked for. Raises `BadValue` and `PikkuError`.

        `redact` is what `self.redact` names.
        """
        self.check()
        if self.http is None:
            yield
            return
        # It says what is not installed.
        app = engine.asgi(
            tokens={} if self.http_tokens is None else tokens_in(self.http_tokens),
            hosts=self.allow_host or [],
            read_only=self.read_only,
            console=self.console,
            open_health=self.open_health,
            redact=redact,
        )
        tls = None
        if self.tls_certificate is not None and self.tls_key is not None:
            tls = (self.tls_certificate, self.tls_key)
        async with listening(app, self.http, tls, base_path=self.base_path, insecure=self.insecure) as url:
            logger().info("http_serving", url=url)
            yield


def tokens_in(path: Path) -> dict[str, Scope]:
    """The tokens in a file of its owner's alone, with their scopes. Raises `OSError`, and `BadValue` with the line."""
    found = dict[str, Scope]()
    for number, line in enumerate(read_own(path).decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if len(words) != 2 or words[0] not in list(Scope):
                raise BadValue(f"use a scope and a token, `read TOKEN`; scopes are {', '.join(Scope)}")
            check_token(words[1])
            if words[1] in found:
                raise BadValue("the token is that of a line before")
        except BadValue as error:
            raise BadValue(f"{path}, line {number}: {error}") from None
        found[words[1]] = Scope(words[0])
    if not found:
        raise BadValue(f"{path} has no token: write `admin TOKEN`, with one of 16 characters or more")
    return found


@asynccontextmanager
async def listening(
    app: AsgiApp, text: str, tls: tuple[Path, Path] | None = None, *, base_path: str = "", insecure: bool = False
) -> AsyncIterator[str]:
    """Serve the application at the address that a text means; its URL. Raises `BadValue` and `PikkuError`."""
    # Who has an application has the extra.
    from pikkupy.http.serving import Tls, address_of, base_of, below, check_reach, serving  # noqa: PLC0415

    base = base_of(base_path)
    address, files = address_of(text), None if tls is None else Tls(*tls)
    check_reach(address, files, insecure=insecure)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # that it begins and ends is said by others
    async with serving(below(app, base), address, files) as url:
        yield f"{url}{base}"


def console_of(
    look: Look,
    path: str,
    meet: Callable[[], Awaitable[tuple[Any, str | None]]],
    *,
    read_only: bool,
    redact: Callable[[str], str] | None,
) -> tuple[AsgiApp, str]:
    """The application with the console of a file, and its token; `meet` says who answers. Raises `PikkuError`."""
    try:
        from pikkupy.console import CONSOLE  # noqa: PLC0415 - the extra may be missing
        from pikkupy.http import application  # noqa: PLC0415
        from pikkupy.http.tokens import token_of_file  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise PikkuError(f"{missing.name} is not installed: pip install 'pikkupy[cli,console]'") from None
    config = HttpConfig(read_only=read_only, console=True, redact=redact)
    engine: Any = look  # it has what the pages need of an engine
    return application(engine, path, config, CONSOLE, meet), token_of_file(path)
