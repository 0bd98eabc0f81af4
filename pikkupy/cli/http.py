"""The HTTP API beside an engine that is run by `pikku`: the options, and what they mean."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from pikkupy import Engine, Member
from pikkupy.engine.looking import Look
from pikkupy.errors import BadValue, PikkuError
from pikkupy.log import logger
from pikkupy.mounting import (
    PORT,
    AsgiApp,
    Caller,
    Connection,
    HttpConfig,
    Receive,
    Scope,
    Send,
    check_token,
    check_token_name,
)
from pikkupy.private import read_own


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reach:
    """Who can reach what is served, and what of it is shown."""

    allow_host: Annotated[
        list[str] | None, Parameter(negative="", help="A name that requests may come to; repeat for several.")
    ] = None
    base_path: Annotated[
        str,
        Parameter(show_default=False, help="Below which a proxy has it, as in /pikku; it may take that away or not."),
    ] = ""
    redact: Annotated[
        str | None,
        Parameter(help="module:name of a function that takes secrets out of texts, not of names; it is imported."),
    ] = None
    audit: Annotated[
        Path | None,
        Parameter(
            help="A file to which a line of JSON is added for everything that is done over HTTP, before and after."
        ),
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

    @property
    def tls(self) -> tuple[Path, Path] | None:
        """The files of certificate and key."""
        return None if self.tls_certificate is None or self.tls_key is None else (self.tls_certificate, self.tls_key)

    def arguments(self) -> list[str]:
        """The same, for another command."""
        given = list[str]()
        for field in fields(Reach):
            option, value = f"--{field.name.replace('_', '-')}", getattr(self, field.name)
            if isinstance(value, bool):
                given += [option] if value else []
            else:
                given += [
                    word
                    for one in (value if isinstance(value, list) else [value])
                    if one
                    for word in (option, str(one))
                ]
        return given

    def check_place(self, text: str) -> None:
        """Raises `BadValue`, `OSError` if it cannot be served so; to be asked before anything is made."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise BadValue("a certificate has a key: give --tls-certificate and --tls-key")
        for one in self.tls or ():
            one.open("rb").close()
        # Who has an application has the extra.
        from pikkupy.http.serving import Tls, address_of, base_of, check_reach, check_tls  # noqa: PLC0415

        base_of(self.base_path)
        tls = None if self.tls is None else Tls(*self.tls)
        check_reach(address_of(text), tls, insecure=self.insecure)
        if tls is not None:
            check_tls(tls)

    @asynccontextmanager
    async def listening(self, app: AsgiApp, text: str) -> AsyncIterator[str]:
        """Serve the application at a place that was checked; its URL. Raises `BadValue` and `PikkuError`."""
        from pikkupy.http.serving import Tls, address_of, base_of, below, serving  # noqa: PLC0415 - as above

        base, tls = base_of(self.base_path), None if self.tls is None else Tls(*self.tls)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # that it begins and ends is said by others
        async with serving(_by_command(below(app, base)), address_of(text), tls) as url:
            yield f"{url}{base}"


class Served(NamedTuple):
    """Where an engine is served."""

    url: str
    has_console: bool
    link: str | None = None
    """What lets its reader into the console, if one token does."""

    def log(self) -> None:
        """Say so, once there is an engine that answers."""
        console = {"console": f"{self.url}/console/"} if self.has_console else {}
        logger().info("http_serving", url=self.url, **console)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Http(Reach):
    """Where the API of an engine is served, and for whom."""

    http: Annotated[
        str | None,
        Parameter(help=f"Serve the HTTP API at HOST:PORT, as in 127.0.0.1:{PORT}. The token is in FILE.token."),
    ] = None
    http_tokens: Annotated[
        Path | None,
        Parameter(
            help="A file of tokens in place of FILE.token: `scope token` or `scope token name` a line; scopes: read, "
            "operate, admin."
        ),
    ] = None
    open_health: Annotated[
        bool, Parameter(negative="", show_default=False, help="/healthz and /readyz need no token.")
    ] = False
    console: Annotated[
        bool, Parameter(negative="", show_default=False, help="With the console for people, at /console/.")
    ] = False

    @asynccontextmanager
    async def served(
        self, engine: Engine | Member, redact: Callable[[str], str] | None = None
    ) -> AsyncIterator[Served | None]:
        """Serve the engine as long as the block lasts, if that was asked for.

        `redact` is what `self.redact` names. Raises `BadValue` and `PikkuError`.
        """
        if self.http is None:
            self._check_needless()
            yield None
            return
        with suppress(ModuleNotFoundError):  # `asgi` says what is not installed
            self.check_place(self.http)
        app = engine.asgi(
            tokens={} if self.http_tokens is None else tokens_in(self.http_tokens),
            hosts=self.allow_host or [],
            read_only=self.read_only,
            console=self.console,
            open_health=self.open_health,
            redact=redact,
            audit=self.audit,
        )
        async with self.listening(app, self.http) as url:
            if not self.console or self.http_tokens is not None:
                yield Served(url, has_console=self.console)
                return
            from pikkupy.http.tokens import token_of_file  # noqa: PLC0415 - as above

            yield Served(url, has_console=True, link=link(url, token_of_file(engine._path)))

    def _check_needless(self) -> None:
        given = [field.name for field in fields(self) if getattr(self, field.name)]
        if given:
            raise BadValue(f"--{given[0].replace('_', '-')} is for --http, which was not given")


def _by_command(app: AsgiApp) -> AsgiApp:
    """The application, which says by what option of a command its hosts are named."""
    from pikkupy.http.guard import HOSTS_ARE_NAMED  # noqa: PLC0415 - as above

    async def served(connection: Connection, receive: Receive, send: Send) -> None:
        await app({**connection, HOSTS_ARE_NAMED: "--allow-host {}"}, receive, send)

    return served


def link(url: str, token: str) -> str:
    """What lets its reader into the console at this URL; every address of a machine is also its loopback's."""
    return f"{url.replace('//0.0.0.0:', '//127.0.0.1:').replace('//[::]:', '//[::1]:')}/console/#token={token}"


def tokens_in(path: Path) -> dict[str, Scope | str | Caller]:
    """The tokens in a file of its owner's alone, with their scopes, or as callers if they have names.

    Raises `OSError`, and `BadValue` with the line.
    """
    found, names = dict[str, Scope | str | Caller](), set[str]()
    for number, line in enumerate(read_own(path).decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if len(words) not in (2, 3) or words[0] not in list(Scope):
                cure = "use a scope, a token and, if you like, a name for it, `read TOKEN ci`"
                raise BadValue(f"{cure}; scopes are {', '.join(Scope)}")
            scope, token, *name = words
            check_token(token)
            if token in found:
                raise BadValue("the token is that of a line before")
            for one in name:
                check_token_name(one)
                if one in names:
                    raise BadValue(f"a token of a line before is named {one!r}")
                names.add(one)
        except BadValue as error:
            raise BadValue(f"{path}, line {number}: {error}") from None
        found[token] = Caller(name[0], Scope(scope)) if name else Scope(scope)
    if not found:
        raise BadValue(f"{path} has no token: write `admin TOKEN`, with one of 16 characters or more")
    return found


def console_of(
    look: Look, path: str, meet: Callable[[], Awaitable[tuple[Any, str | None]]], config: HttpConfig
) -> tuple[AsgiApp, str]:
    """The application with the console of a file, and its token; `meet` says who answers. Raises `PikkuError`."""
    try:
        from pikkupy.console import CONSOLE  # noqa: PLC0415 - the extra may be missing
        from pikkupy.http import application  # noqa: PLC0415
        from pikkupy.http.tokens import token_of_file  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise PikkuError(f"{missing.name} is not installed: pip install 'pikkupy[cli,console]'") from None
    engine: Any = look  # it has what the pages need of an engine
    return application(engine, path, config, CONSOLE, meet), token_of_file(path)
