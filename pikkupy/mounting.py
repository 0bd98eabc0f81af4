"""How a web application takes in an engine: as an ASGI application to mount, and as a lifespan.

What is here knows no web framework. `Pikku` gives engines and clients the door to `pikkupy.http`, which does, and
which is an extra.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypedDict, Unpack

import msgspec

from pikkupy.errors import BadType, BadValue, PikkuError
from pikkupy.names import check_name

PORT = 8799  # where it is served if nobody says otherwise
UNNAMED = "token"  # what a token without a name is called; with its scope, if it is not the one for everything
LEAST_TOKEN = 16  # characters; 128 bits if they are drawn from a base64 alphabet are 22

Connection: TypeAlias = MutableMapping[str, Any]  # what ASGI calls the scope
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Connection, Receive, Send], Awaitable[None]]


class Scope(StrEnum):
    """What a caller may do; each may do what those before it may."""

    READ = "read"
    """Look at runs, with their values and errors."""
    OPERATE = "operate"
    """Start, cancel, signal, approve, resume, retry and fork runs."""
    ADMIN = "admin"
    """Delete them."""

    def allows(self, needed: Scope) -> bool:
        """Whether a caller with this scope may do what `needed` is for."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


class Caller(msgspec.Struct, frozen=True):
    """Who calls, as the audit lines and decisions name it."""

    name: str
    scope: Scope = Scope.ADMIN


Audit: TypeAlias = str | os.PathLike[str] | Callable[[Mapping[str, Any]], object]
Authenticate: TypeAlias = Callable[[Mapping[str, str]], "Caller | Awaitable[Caller | None] | None"]


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one ASGI application: `engine.asgi(...)` takes them as keyword arguments.

    Raises `ValueError` or `TypeError` on one that makes no sense.
    """

    token: str | None = None
    """What `Authorization: Bearer …` has to say, at least 16 characters, for everything. `None`: 256 random bits, made
    once and kept in a file beside the journal, `<path>.token`, that only its owner can read."""

    tokens: Mapping[str, Scope | str | Caller] = {}
    """More tokens, each with its scope: `{"…": "read"}`; or with a name as well: `{"…": Caller("ci", Scope.READ)}`,
    by which audit lines, decisions and limits know who calls. All without one are `token:read` and so on."""

    authenticate: Authenticate | None = None
    """Instead of tokens: gets the headers of a request (names in lower case), and gives the `Caller`, or `None` for
    nobody. It may be `async`."""

    hosts: Sequence[str] = ()
    """What the header `Host` may say, beside the loopback's names with the server's port: `example.com`, or
    `example.com:8443`. Everything else is refused, which keeps out web pages that rebind a name to this machine."""

    read_only: bool = False
    """Nothing can be changed, whatever the caller's scope."""

    console: bool = False
    """Serve the console for people at `/console/` as well (extra `console`)."""

    open_health: bool = False
    """`/healthz` and `/readyz` need no token: they say nothing but whether the engine is well."""

    redact: Callable[[str], str] | None = None
    """What every text in users' values, errors and reasons goes through before it is sent: it takes secrets out. Names
    and ids stay, and the reason of a gate is the name of its step."""

    audit: Audit | None = None
    """Where lines on what was done are kept beside the log: a file (mode 0600) to which each is added as a JSON
    document, or a function that is called with each, on the event loop. An action has one before its effect, and one
    with its `status` after it, with the same `request`. What cannot be recorded is not done: 503."""

    max_body: int = 1_048_576
    """Bytes of a request's body, counted as they arrive; beyond it 413."""

    max_depth: int = 64
    """Levels of nesting of the JSON in a body; beyond it 422."""

    max_keys: int = 10_000
    """Keys of all objects in a body together; beyond it 422."""

    max_requests: int = 64
    """Requests of known callers under way at once, and beside them as many streams; beyond it 503. `/healthz` and
    `/readyz` are answered all the same. Of one caller a quarter may wait for the end of a run; beyond it 429."""

    max_streams: int = 8
    """Streams of events that one caller, or one session of the console, may have open, and all sessions of one token
    together four times as many; beyond it 429."""

    starts_per_second: float = 100.0
    """New runs of one caller, in the long run, after twice as many at once; beyond it 429."""

    def __post_init__(self) -> None:
        _check_tokens(self)
        if isinstance(self.hosts, str) or not all(isinstance(host, str) and host for host in self.hosts):
            raise BadType(f"hosts={self.hosts!r}: use a list of names, each with its port if it is not the usual one")
        if self.redact is not None and not callable(self.redact):
            raise BadType(f"redact={self.redact!r}: use a function from text to text, or None")
        _check_audit(self.audit)
        for name in ("max_body", "max_depth", "max_keys", "max_requests", "max_streams"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadValue(f"{name}={value!r}: use a whole number of 1 or more")
        if isinstance(self.starts_per_second, bool) or not isinstance(self.starts_per_second, int | float):
            raise BadType(f"starts_per_second={self.starts_per_second!r}: use a number")
        if not 0 < self.starts_per_second < float("inf"):
            raise BadValue(f"starts_per_second={self.starts_per_second!r}: use a number greater than 0")


def check_token(token: object) -> None:
    """Raises `TypeError` or `ValueError`, without saying what it is, for a token that is no good one."""
    if not isinstance(token, str):
        raise BadType(f"a token must be a str, not {type(token).__name__}")
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise BadValue(f"a token of {len(token)} characters: use {LEAST_TOKEN} or more ASCII ones, without spaces")


def check_token_name(name: object) -> None:
    """Raises `TypeError` or `ValueError` for what cannot be the name of a token."""
    checked = check_name(name, "the name of a token")
    if checked == UNNAMED or checked.startswith(f"{UNNAMED}:"):
        raise BadValue(f"{checked!r} is the name of tokens that have no name: use another one")


def _check_audit(audit: object) -> None:
    if inspect.iscoroutinefunction(audit):
        raise BadType(f"audit={audit!r}: use a function that is not async, so that it has recorded when it returns")
    if audit is None or callable(audit) or isinstance(audit, os.PathLike):
        return
    if not isinstance(audit, str):
        raise BadType(f"audit={audit!r}: use the path of a file, or a function that takes a line")
    if not audit or "\0" in audit:
        raise BadValue(f"audit={audit!r}: use the path of a file, or a function that takes a line")


def _check_tokens(config: HttpConfig) -> None:
    for token in ([] if config.token is None else [config.token]) + list(config.tokens):
        check_token(token)
    if config.token in config.tokens:
        raise BadValue("the token of token= is among tokens= as well: give it once")
    names = set[str]()
    for given in config.tokens.values():
        scope: object = given
        if isinstance(given, Caller):
            check_token_name(given.name)
            if given.name in names:
                raise BadValue(f"two tokens are named {given.name!r}: name each once")
            names.add(given.name)
            scope = given.scope
        if scope not in list(Scope):
            raise BadValue(f"tokens={{…: {scope!r}}}: use one of {', '.join(Scope)}")
    if config.authenticate is not None:
        if not callable(config.authenticate):
            raise BadType(f"authenticate={config.authenticate!r}: use a function from headers to a Caller")
        if config.token is not None or config.tokens:
            raise BadValue("authenticate= is instead of token= and tokens=: give the one or the others")


class HttpSettings(TypedDict, total=False):
    """The fields of `HttpConfig` as keyword arguments of `asgi`; a test keeps the two equal."""

    token: str | None
    tokens: Mapping[str, Scope | str | Caller]
    authenticate: Authenticate | None
    hosts: Sequence[str]
    read_only: bool
    console: bool
    open_health: bool
    redact: Callable[[str], str] | None
    audit: Audit | None
    max_body: int
    max_depth: int
    max_keys: int
    max_requests: int
    max_streams: int
    starts_per_second: float


class Mount(Protocol):
    """Makes the ASGI application of an engine or client."""

    def __call__(self, engine: Any, path: str, config: HttpConfig) -> AsgiApp: ...


class Mounted:
    """What engines, clients and members have in common for web frameworks."""

    _mount: Mount | None
    _path: str

    def asgi(self, **settings: Unpack[HttpSettings]) -> AsgiApp:
        """The HTTP API as an ASGI application, to be mounted into one of Starlette, FastAPI or Litestar.

        Settings are the fields of `pikkupy.http.HttpConfig`. It neither opens nor leaves the engine: give `lifespan` to
        the application for that. As long as the engine is not open, it answers 503. Raises `ValueError` or `TypeError`
        for a setting, `OSError` if there can be no file for the token, and `PikkuError` if the extra `http` is not
        installed.
        """
        unknown = settings.keys() - HttpSettings.__annotations__.keys()
        if unknown:
            known = ", ".join(HttpSettings.__annotations__)
            raise BadType(f"asgi() has no setting {min(unknown)!r}; the settings are {known}")
        if self._mount is None:
            raise PikkuError("asgi() is for what pikku.open or pikku.connect has made")
        return self._mount(self, self._path, HttpConfig(**settings))

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:  # noqa: ARG002 - what frameworks call it with
        """Open it for as long as the application is up: `FastAPI(lifespan=engine.lifespan)`."""
        async with self:  # type: ignore[attr-defined]  # those that it is mixed into
            yield
