"""The control socket of an open engine: who connects, what comes in, what goes out."""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from msgspec import Raw

from pikkupy.control import messages, places
from pikkupy.control.answering import Answerer
from pikkupy.engine import Engine
from pikkupy.errors import BadType, PikkuError
from pikkupy.log import logger
from pikkupy.registry import Registry

MOST_CONNECTIONS = 1_000  # each may have one call under way
MOST_STRANGERS = 128  # connections to a port without the token yet: the next one takes the place of the first
TOKEN_S = 5.0  # that they may take to say it
LONGEST_TOKEN = 1_024  # bytes of what they say before
GOODBYE_S = 1.0  # how long those who are being told that the engine is left may take to read it

_log = logger()


@asynccontextmanager
async def serving(engine: Engine, registry: Registry, path: str) -> AsyncIterator[None]:
    """Serve the control socket of the engine that owns the journal at `path`, until it is left.

    An engine that cannot have one is still an engine: that is logged.
    """
    real = places.real_path(path)
    loop, answerer = asyncio.get_running_loop(), Answerer(engine, registry)
    connections, strangers = set[_Connection](), dict[_Connection, None]()
    try:
        bound, token = _bound(real)
    except (OSError, PikkuError) as error:
        _log.warning("control_socket_missing", path=real, error=str(error))
        yield
        return
    pid = os.getpid()
    hello = messages.message_of(messages.Hello(messages.PROTOCOL, pid))

    def connection() -> _Connection:
        return _Connection(answerer, connections, strangers, token, hello)

    create = loop.create_server if token is not None else loop.create_unix_server
    server = await create(connection, sock=bound)
    try:
        yield
    finally:
        if os.getpid() == pid:  # in a fork of it everything of this is the other's
            server.close()
            answerer.leave()
            ends = [asyncio.ensure_future(one.end()) for one in connections]
            if ends:
                await asyncio.wait(ends, timeout=GOODBYE_S)
            for one in [*connections, *strangers]:
                one.abort()
            places.remove(real)


def _bound(real: str) -> tuple[socket.socket, str | None]:
    """A bound socket, and the token that who connects has to know if everybody can reach it."""
    why: Exception | None = None
    if places.can_have_socket(real):
        try:
            return places.bound_socket(real), None
        except OSError as error:  # a file system without sockets
            why = error
    try:
        bound, port = places.bound_port(real)
    except OSError as error:
        raise error from why
    return bound, port.token


class _Connection(asyncio.Protocol):
    """One client. It has one call under way; when it goes, that is cancelled."""

    def __init__(
        self,
        answerer: Answerer,
        connections: set[_Connection],
        strangers: dict[_Connection, None],
        token: str | None,
        hello: bytes,
    ) -> None:
        self._answerer = answerer
        self._connections = connections
        self._strangers = strangers
        self._late: asyncio.TimerHandle | None = None
        self._token = token
        self._hello = hello
        self._transport: asyncio.Transport | None = None
        self._peer: places.Peer | None = None
        self._received = bytearray()
        self._call: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._leaving = False

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._peer = places.peer_of(transport.get_extra_info("socket"))
        if not places.is_own(self._peer):
            self._turn_away("of another user")
        elif self._token is None:
            self._greet()
        else:
            self._strangers[self] = None
            self._late = asyncio.get_running_loop().call_later(TOKEN_S, self._turn_away, "no token")
            if len(self._strangers) > MOST_STRANGERS:
                next(iter(self._strangers))._turn_away("too many without a token")

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._call is not None and len(self._received) > messages.LONGEST_CALL:
            self.abort()
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._connections.discard(self)
        self._is_no_stranger()
        self._writable.set()
        if self._call is not None:
            self._call.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # What the server calls

    async def end(self) -> None:
        """Return when the call under way is answered; the engine has told it that it is left."""
        self._leaving = True
        if self._call is not None:
            await asyncio.wait([self._call])
        if self._transport is not None:
            self._transport.close()  # what is written already is sent

    def abort(self) -> None:
        """Do not wait any more."""
        if self._transport is not None:
            self._transport.abort()

    # Calls

    def _next(self) -> None:
        """Begin the next call, if it has come in whole and none is under way."""
        while self._call is None and not self._leaving and len(self._received) >= messages.HEAD.size:
            [size] = messages.HEAD.unpack_from(self._received)
            if self._token is not None and size > LONGEST_TOKEN:
                self._turn_away("no token")
                return
            if size > messages.LONGEST_CALL:
                self._refuse(BadType(f"a call of {size:,} bytes is more than {messages.LONGEST_CALL:,}"))
                return
            end = messages.HEAD.size + size
            if len(self._received) < end:
                return
            message = bytes(self._received[messages.HEAD.size : end])
            del self._received[:end]
            if self._token is not None:
                self._let_in(message, self._token)
                continue
            try:
                call = messages.read_call(message)
            except (msgspec.MsgspecError, UnicodeError) as error:
                problem = messages.problem_of(BadType(f"the engine cannot read the call: {error}"))
                self._write(messages.message_of(problem))
                continue
            self._call = asyncio.ensure_future(self._carry_out(call))
            self._call.add_done_callback(self._has_ended)

    def _let_in(self, message: bytes, token: str) -> None:
        try:
            given = msgspec.json.decode(message, type=messages.Token).token
        except (msgspec.MsgspecError, UnicodeError):
            given = ""
        if not hmac.compare_digest(given.encode(), token.encode()):
            self._turn_away("wrong token")
            return
        self._token = None
        self._is_no_stranger()
        self._greet()

    def _greet(self) -> None:
        if len(self._connections) >= MOST_CONNECTIONS:
            self._turn_away("too many")
            return
        self._connections.add(self)
        self._write(self._hello)

    def _turn_away(self, reason: str) -> None:
        _log.warning("control_connection_refused", reason=reason, connections=len(self._connections))
        self._leaving = True
        self._is_no_stranger()
        self.abort()

    def _is_no_stranger(self) -> None:
        self._strangers.pop(self, None)
        if self._late is not None:
            self._late.cancel()

    async def _carry_out(self, call: messages.AnyCall) -> None:
        value, outcome = messages.NULL, "taken back"
        try:
            value = await self._answerer.answer(call, self._tell)
            message, outcome = messages.message_of(messages.Value(value)), "done"
        except Exception as error:  # noqa: BLE001 - it is the client's
            if not isinstance(error, PikkuError | TimeoutError):
                _log.error("control_call_failed", call=type(call).__name__, exc_info=error)
            message, outcome = messages.message_of(messages.problem_of(error)), type(error).__name__
        finally:
            if isinstance(call, messages.Act):
                self._audit(call, value, outcome)
        self._write(message)

    def _audit(self, act: messages.Act, value: Raw, outcome: str) -> None:
        """An action, whatever came of it: what, on which run, by which process. What is sent along is not told."""
        facts = {name: getattr(act, name) for name in ("run_id", "workflow", "new_run_id") if hasattr(act, name)}
        if isinstance(act, messages.Fork) and outcome == "done":
            facts["new_run_id"] = msgspec.json.decode(value)
        who = {} if self._peer is None else self._peer._asdict()
        _log.info("control_action", action=messages.tag_of(act), outcome=outcome, **facts, **who)

    def _has_ended(self, call: asyncio.Task[None]) -> None:
        self._call = None
        if not call.cancelled():
            call.result()
            self._next()

    async def _tell(self, item: Raw) -> None:
        self._write(messages.message_of(messages.Item(item)))
        if not self._writable.is_set():
            await self._writable.wait()  # a slow reader takes no memory of the engine's

    def _refuse(self, error: Exception) -> None:
        """What follows on the connection cannot be understood."""
        self._write(messages.message_of(messages.problem_of(error)))
        self._leaving = True
        if self._transport is not None:
            self._transport.close()

    def _write(self, message: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(message)
