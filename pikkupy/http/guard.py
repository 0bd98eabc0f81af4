"""What stands before every route: it lets in nobody whom it does not know, and no web page of somebody else."""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes

from starlette.responses import Response

from pikkupy.http.limits import Places
from pikkupy.http.problems import Refused, response_to
from pikkupy.http.tokens import Callers, Failures, bearer_in
from pikkupy.log import logger
from pikkupy.mounting import AsgiApp, Caller, Connection, HttpConfig, Receive, Send

CALLER = "pikkupy.caller"  # in the connection, for those behind the guard
BECOME_STREAM = "pikkupy.stream"  # in the connection: takes a place of streams for that of a request
HOSTS_ARE_NAMED = "pikkupy.hosts"  # in the connection: how that is done where nobody calls `asgi`; `{}` is the host
ENDS = "pikkupy.ends"  # in the connection where the server is ours: an event, set when no answer is to go on
LET_IN = "pikkupy.let_in"  # in the connection where the server is ours: is called when its caller is known
SLASH = "\udc2f"  # stands for a slash within a segment of a path; no path that was sent can have it
NO_STEP = "\u2028"  # before a name that browsers take for a step within the path, however it is quoted; no name has it
OPEN = frozenset({"/healthz", "/readyz"})
USUAL_PORTS = {"http": 80, "https": 443}
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
LOGINS = 4  # under way at once: it is strangers who log in

HEADERS: dict[bytes, bytes] = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}

_log = logger()


class Door(Protocol):
    """How a console lets people in."""

    entrance: str
    """The path of the form with the token, which is sent without one."""

    def ask(self, connection: Connection, refused: Refused) -> Response | None:
        """What somebody gets whom the guard does not know, if a person seems to ask."""
        ...


class Guard:
    """An ASGI application around another one."""

    def __init__(
        self, inner: AsgiApp, config: HttpConfig, callers: Callers, failures: Failures, door: Door | None = None
    ) -> None:
        self._inner = inner
        self._door = door if config.authenticate is None else None  # else the application lets people in
        self._callers = callers
        self._failures = failures
        self._hosts = frozenset(host.lower() for host in config.hosts)
        self._open_health = config.open_health
        self._requests = Places(config.max_requests, "try again soon", 1)
        detail = f"{config.max_requests} streams are open, as many as asgi(max_requests=...)"
        self._streams = Places(config.max_requests, detail, 5)
        self._logins = Places(LOGINS, "others are logging in just now; try again in some seconds", 5)

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Answer a request. There are no WebSockets, and the lifespan of an engine is its application's."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "there are no WebSockets here"})
            return
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        send = _sealed(send)
        with ExitStack() as place:
            try:
                scope = await self._admitted(scope)
                place.enter_context(self._place_of(scope))
            except Exception as error:  # noqa: BLE001 - it is answered
                await self._refused(scope, error)(scope, receive, send)
            else:
                await self._inner({**scope, BECOME_STREAM: partial(self._become_stream, place)}, receive, send)

    def _place_of(self, connection: Connection) -> AbstractContextManager[None]:
        """Who is known takes one of the places for requests; who logs in takes none of them, nor do probes."""
        if route_of(connection) in OPEN:
            return nullcontext()
        return self._logins.one() if self._is_login(connection) else self._requests.one()

    def _become_stream(self, place: ExitStack) -> None:
        """What lasts takes no place of what does not."""
        with place.pop_all():
            place.enter_context(self._streams.one())

    def _refused(self, connection: Connection, error: Exception) -> Response:
        connection, answer = _placed(connection), None
        if self._door is not None and isinstance(error, Refused):
            answer = self._door.ask(connection, error)
        answer = answer or response_to(error)
        if answer.status_code == 401 and self._callers.wrong_session(_headers_of(connection), connection):
            answer.delete_cookie(**self._callers.cookie_of(connection))
        return answer

    def _is_login(self, connection: Connection) -> bool:
        """Whether it says itself whether the token that it has is one."""
        door = self._door
        return door is not None and route_of(connection) == door.entrance and connection["method"] == "POST"

    async def _admitted(self, connection: Connection) -> Connection:
        """The connection with its caller, and with a path that can be taken apart. Raises `Refused`."""
        connection = _placed(connection)
        if not connection["query_string"].isascii():  # not every server refuses that itself
            raise Refused(400, "Bad request", "the query has to be percent-encoded")
        headers = _headers_of(connection)
        address = (connection.get("client") or ("-",))[0]
        try:
            self._check_host(headers, connection)
            _check_origin(headers, connection["method"])
            _check_forged(headers, connection["method"])
            caller = await self._known(headers, connection, address)
        except Refused as refused:
            if refused.problem.status != 401 or self._callers.has_tried(headers, self._callers.cookie_for(connection)):
                log_refused(refused, address)
            raise
        if caller is not None and LET_IN in connection:
            connection[LET_IN]()
        return {**connection, CALLER: caller}

    def _check_host(self, headers: dict[str, str], connection: Connection) -> None:
        host = headers.get("host", "").lower()
        if host in self._hosts:
            return
        name, port = _host_and_port(host, connection.get("scheme", "http"))
        server = connection.get("server")
        if name in LOOPBACK and server is not None and port == server[1]:
            return
        cure = connection.get(HOSTS_ARE_NAMED, "asgi(hosts=[{}])").format(repr(host))
        detail = f"Host {host!r} is not one of this server's; if it should be, name it: {cure}"
        raise Refused(421, "Misdirected request", detail)

    async def _known(self, headers: dict[str, str], connection: Connection, address: str) -> Caller | None:
        if (self._open_health and route_of(connection) in OPEN) or self._is_login(connection):
            return None
        cookie = self._callers.cookie_for(connection)
        caller = await self._callers.caller_of(headers, cookie)
        if caller is None:
            if self._callers.has_tried(headers, cookie):
                by_cookie = bearer_in(headers) is None
                self._failures.add(address, self._callers.wrong_session(headers, connection) if by_cookie else "")
            detail = "send `Authorization: Bearer TOKEN`; the token is in the file beside the journal, PATH.token, "
            detail += "or what asgi(token=...) was given"
            raise Refused(401, "Who are you?", detail, www_authenticate="Bearer")
        self._failures.let_in(address, caller)
        return caller


def _headers_of(connection: Connection) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in connection.get("headers", [])}


def log_refused(refused: Refused, address: str) -> None:
    """That somebody was not let in."""
    _log.info("http_refused", status=refused.problem.status, why=refused.problem.title, address=address)


def route_of(connection: Connection) -> str:
    """The path below where this application is mounted."""
    path: str = connection["path"]
    return path.removeprefix(connection.get("root_path", ""))


def caller_in(connection: MutableMapping[str, Any]) -> Caller | None:
    """Whom the guard has let in."""
    caller: Caller | None = connection[CALLER]
    return caller


def segment(text: str) -> str:
    """A name from a path, as it was meant."""
    return text.removeprefix(NO_STEP).replace(SLASH, "/")


def quoted(text: str) -> str:
    """A name as a segment of a path."""
    return quote(NO_STEP + text if text in (".", "..") else text, safe="")


def _check_origin(headers: dict[str, str], method: str) -> None:
    """Other sites' pages are not let in; clients that are no browser send none of these headers."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin == "null" and site == "same-origin":
        origin = None  # a form of our own page, which has no referrer to tell; the browser knows where it is from
    own = {f"{scheme}://{headers.get('host', '')}".lower() for scheme in USUAL_PORTS}
    if origin is not None and origin.lower() not in own:
        raise Refused(403, "Forbidden origin", f"a page of {origin} must not call this server")
    if site in (None, "same-origin", "none"):
        return
    follows_link = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate" and origin is None
    if not (follows_link and headers.get("sec-fetch-dest") == "document"):
        raise Refused(403, "Forbidden origin", f"a page of another site must not call this server ({site})")


def _check_forged(headers: dict[str, str], method: str) -> None:
    """Who is known by a cookie, which browsers send by themselves, has to say from which page it comes."""
    by_cookie = "cookie" in headers and bearer_in(headers) is None
    if by_cookie and method not in ("GET", "HEAD") and not {"origin", "sec-fetch-site"} & headers.keys():
        raise Refused(403, "Forbidden origin", "a request with a cookie has to say where it comes from: send `Origin`")


def _host_and_port(host: str, scheme: str) -> tuple[str, int | None]:
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        return host, USUAL_PORTS.get(scheme)
    return name, int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else None


def _placed(connection: Connection) -> Connection:
    """The connection with its whole path, slashes within a name told apart, and what of it leads to this application.

    Starlette leaves the path whole and says in `root_path` what leads here; Litestar takes that away, adds a slash at
    the end, and says nothing; what was sent is in `raw_path`, if the server has it.
    """
    raw: bytes | None = connection.get("raw_path")
    if raw is None:
        return connection
    segments = (unquote_to_bytes(part).decode("utf-8", "replace") for part in raw.split(b"/"))
    whole = "/".join(segment.replace("/", SLASH) for segment in segments)
    sent, path = whole.replace(SLASH, "/"), connection["path"]
    if sent == path:
        return {**connection, "path": whole}
    sent, path = sent.rstrip("/"), path.rstrip("/")
    if not sent.endswith(path):
        return connection
    return {**connection, "path": whole, "root_path": sent.removesuffix(path)}


def _sealed(send: Send) -> Send:
    """`send`, with the headers that every answer has."""

    async def sealed(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", []))
            have = {name.lower() for name, _ in given}
            message["headers"] = given + [pair for pair in HEADERS.items() if pair[0] not in have]
        await send(message)

    return sealed
