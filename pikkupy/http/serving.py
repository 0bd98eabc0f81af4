"""A server for the HTTP API where there is no application to mount it into: uvicorn, on one address."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pikkupy.clock import monotonic_s
from pikkupy.errors import AddressTaken, BadValue, PikkuError
from pikkupy.http.guard import ENDS, LET_IN
from pikkupy.mounting import PORT, AsgiApp, Connection, Receive, Send

OWN = frozenset({"api", "console", "healthz", "openapi.json", "readyz", "workflow"})  # first parts of our own paths
LONGEST_HEAD = 16_384  # bytes of a request's line and headers
HEAD_S = 10.0  # that these may take to arrive
KEPT_S = 5  # that a connection may stay without a request
MOST_CONNECTIONS = 128  # twice as many as requests that are answered at once, if nobody has set that
GRACE_S = 3  # for answers under way when it ends; streams, and waits for the end of a run, are ended before


class Tls(NamedTuple):
    """The files of a certificate, and of its key."""

    certificate: Path
    key: Path


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback


def address_of(text: str) -> Address:
    """`HOST:PORT`, `HOST`, `PORT` or `:PORT`; the loopback and port 8799 if they are left out. Raises `BadValue`."""
    host, colon, port = text.rpartition(":")
    if not text:
        raise BadValue(f"'': use HOST:PORT, as in '127.0.0.1:{PORT}'")
    if not colon:
        host, port = ("", text) if text.isascii() and text.isdigit() else (text, str(PORT))
    elif text.endswith("]") or (host.count(":") and not host.startswith("[")):
        host, port = text, str(PORT)  # IPv6 without a port
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise BadValue(f"{text!r}: use HOST:PORT, as in '127.0.0.1:{PORT}'; a port is a number up to 65535")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise BadValue(
                f"{text!r}: {host!r} is no address of this machine; use an IP address, or localhost"
            ) from None
    return Address(host, int(port))


def check_reach(address: Address, tls: Tls | None, *, insecure: bool) -> None:
    """Raises `BadValue` if others could reach the address, and could read along."""
    if not address.is_loopback and tls is None and not insecure:
        raise BadValue(
            f"{address.host} can be reached from other machines, and the token would go there in plain text: give a "
            "TLS certificate and key, put a proxy with TLS before 127.0.0.1, or say that it is meant so (--insecure)"
        )


def check_tls(tls: Tls) -> None:
    """Raises `BadValue` if that is no certificate, or if the key is another's."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key)
    except ssl.SSLError as error:
        raise BadValue(
            f"{tls.certificate} and {tls.key} are no certificate and its key ({error.reason or error})"
        ) from None


def base_of(text: str) -> str:
    """The path that is meant, as in `/pikku`; empty for none. Raises `BadValue`."""
    base = text.rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", base):
        raise BadValue(f"{text!r}: use a path, as in '/pikku'")
    if base.partition("/")[2].partition("/")[0] in OWN:
        raise BadValue(f"{text!r}: there are routes of that name; use another path, as in '/pikku'")
    return base


def below(app: AsgiApp, base: str) -> AsgiApp:
    """The application below the path `base`, whether who forwards requests leaves that there or takes it away."""
    if not base:
        return app

    async def found(connection: Connection, receive: Receive, send: Send) -> None:
        if connection["type"] == "http":
            before = "" if f"{connection['path']}/".startswith(f"{base}/") else base
            places = {"path": before + connection["path"], "raw_path": before.encode() + connection["raw_path"]}
            connection = {**connection, **places, "root_path": base}
        await app(connection, receive, send)

    return found


@asynccontextmanager
async def serving(app: AsgiApp, address: Address, tls: Tls | None = None) -> AsyncIterator[str]:
    """Answer requests at the address as long as the block lasts; its URL. Raises as `bound_to`; `tls` was checked."""
    bound, ends = bound_to(address), asyncio.Event()
    try:
        config = uvicorn.Config(
            _told_of(ends, app),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # who is at the other end is what the system says
            server_header=False,
            h11_max_incomplete_event_size=LONGEST_HEAD,
            timeout_keep_alive=KEPT_S,
            timeout_graceful_shutdown=GRACE_S,
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else tls.key,
        )
        config.load()
        server = _Server(config)
        serving_ = asyncio.ensure_future(server.serve([bound]))
    except BaseException:
        bound.close()
        raise
    try:
        await server.ready.wait()
        host, port = bound.getsockname()[:2]
        yield f"{'http' if tls is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        ends.set()
        server.should_exit = True
        await serving_
        bound.close()


def _told_of(ends: asyncio.Event, app: AsgiApp) -> AsgiApp:
    async def told(connection: Connection, receive: Receive, send: Send) -> None:
        await app({**connection, ENDS: ends}, receive, send)

    return told


class _Server(uvicorn.Server):
    """One of several things that a process does: signals are for the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """As it is, but that who waits for its beginning is told of its end as well."""
        try:
            await super().serve(sockets)
        finally:
            self.ready.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As it is, with word of it, and with as little patience for the beginning of TLS as for a head."""
        await super().startup([])
        tls, loop = self.config.ssl, asyncio.get_running_loop()
        for bound in sockets or ():
            listening = await loop.create_server(
                self._connection,
                sock=bound,
                backlog=self.config.backlog,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else HEAD_S,
            )
            self.servers.append(listening)
        self.ready.set()

    def _connection(self) -> _Impatient:
        return _Impatient(self.config, self.server_state, self.lifespan.state)

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


class _Impatient(H11Protocol):
    """Closes connections on which no whole head of a request comes in time, and those that are too many."""

    _late: asyncio.TimerHandle | None = None
    _is_let_in = False
    _heard_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app = self._telling(self.app)
        self._heard_s = monotonic_s()
        self._make_room()
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._heard_s = monotonic_s()
        super().data_received(data)
        self._watch()

    def _telling(self, app: Any) -> Any:
        async def telling(connection: Connection, receive: Receive, send: Send) -> None:
            await app({**connection, LET_IN: self._let_in}, receive, send)

        return telling

    def _let_in(self) -> None:
        self._is_let_in = True

    def _make_room(self) -> None:
        """Of too many the one goes that has said nothing for longest, of those on which nobody was let in; or this."""
        if len(self.connections) <= MOST_CONNECTIONS:
            return
        there = [one for one in self.connections if isinstance(one, _Impatient) and not one.transport.is_closing()]
        if len(there) > MOST_CONNECTIONS:
            strangers = [one for one in there if not one._is_let_in and one is not self]
            min(strangers, key=lambda one: one._heard_s, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._late is not None:
            self._late.cancel()

    def _watch(self) -> None:
        """Time runs from the first byte of a head to its last; between requests it is uvicorn that waits."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self._late is not None:
                self._late.cancel()
            self._late = None
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_S, self.timeout_keep_alive_handler)


def bound_to(address: Address) -> socket.socket:
    """A socket that has the address; port 0: any that is free. Raises `AddressTaken`, and `PikkuError`."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY on its connections: without it an answer takes 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address.host, address.port))
    except OSError as error:
        bound.close()
        words = f"nothing can listen at {address.host}:{address.port}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            raise AddressTaken(f"{words}; name another port") from None
        raise PikkuError(words) from None
    return bound
