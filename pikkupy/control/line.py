"""The client's end of connections to an engine: one call at a time on each, as many as there are calls at once."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from weakref import WeakSet

import msgspec
from msgspec import Raw

from pikkupy.control import messages, places
from pikkupy.control.messages import HEAD, AnyCall
from pikkupy.errors import EngineClosed, JournalLocked, PikkuError
from pikkupy.store import holder_of, is_locked

IDLE = 16  # connections that are kept for the next calls
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.25  # between two looks for an engine
HELLO_S = 5.0  # how long an engine whose loop is busy may take to say hello, within the wait for an engine
LEAST_HELLO_S = 0.25  # but so long, however little of the wait is left


class Gone(PikkuError):
    """The engine is not there any more; whether it has carried out the call is not known."""


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, real: str, hello_s: float) -> Line:
        """To the engine of the journal at `real`. Raises `OSError` if there is none, or it does not say hello in time,
        and `PikkuError` if it is no use."""
        if places.can_have_socket(real):
            with suppress(FileNotFoundError, ConnectionRefusedError):
                reader, writer = await asyncio.open_unix_connection(str(places.socket_path(real)))
                line = cls(reader, writer)
                if not places.is_own(places.peer_of(_socket_of(writer))):
                    line.close()
                    raise PikkuError(f"{places.socket_path(real)} belongs to another user: it is not used")
                return await line._greeted(hello_s)
        port = places.port_of(real)
        if port is None:
            raise ConnectionRefusedError(f"no engine serves {real}")
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        line = cls(reader, writer)
        writer.write(messages.message_of(messages.Token(port.token)))
        return await line._greeted(hello_s)

    async def _greeted(self, hello_s: float) -> Line:
        try:
            async with asyncio.timeout(hello_s):
                hello = msgspec.json.decode(await self._message(), type=messages.Hello)
        except (asyncio.IncompleteReadError, TimeoutError) as error:
            self.close()
            raise ConnectionRefusedError("the engine does not answer") from error
        except msgspec.MsgspecError as error:
            self.close()
            raise PikkuError(f"what listens there is no engine of pikkupy: {error}") from error
        except asyncio.CancelledError:
            self.close()
            raise
        if hello.protocol != messages.PROTOCOL:
            self.close()
            raise PikkuError(
                f"the engine (process {hello.pid}) speaks version {hello.protocol} of the protocol, this client "
                f"{messages.PROTOCOL}; use the same version of pikkupy in both"
            )
        return self

    @property
    def usable(self) -> bool:
        """False once the engine has closed it."""
        return not self._reader.at_eof() and self._reader.exception() is None and not self._writer.is_closing()

    async def send(self, call: AnyCall) -> None:
        """Raises `Gone`."""
        message = messages.message_of(call)
        try:
            self._writer.write(message)
            await self._writer.drain()
        except OSError:
            raise Gone from None

    async def answer(self) -> messages.AnyAnswer:
        """The next part of the answer. Raises `Gone`."""
        try:
            answer: messages.AnyAnswer = messages.read_answer(await self._message())
        except (asyncio.IncompleteReadError, OSError):
            raise Gone from None
        return answer

    async def _message(self) -> bytes:
        [size] = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        return await self._reader.readexactly(size)

    def close(self) -> None:
        """Take back what is under way."""
        self._writer.close()

    async def closed(self) -> None:
        """Return when it is closed."""
        with suppress(OSError):
            await self._writer.wait_closed()


def _socket_of(writer: asyncio.StreamWriter) -> socket.socket:
    found: socket.socket = writer.get_extra_info("socket")
    return found


class Lines:
    """All connections of one client, made when they are needed."""

    def __init__(self, path: str, real: str, wait_s: float) -> None:
        self._path = path
        self._real = real
        self._wait_s = wait_s
        self._idle: deque[Line] = deque()
        self._made: WeakSet[Line] = WeakSet()
        self._closed = True

    def begin(self) -> None:
        """From now on connections may be made."""
        self._closed = False

    async def open(self) -> None:
        """Wait for an engine. Raises as `ask` does."""
        self._give_back(await self._line())

    async def close(self) -> None:
        """Close all of them, those at work too: who waits there gets `EngineClosed`."""
        self._closed = True
        made = list(self._made)
        self._idle.clear()
        for line in made:
            line.close()
        await asyncio.gather(*(line.closed() for line in made))

    async def ask(self, call: AnyCall) -> Raw:
        """What the engine's method has returned. Raises what it has raised, `Gone`, or that no engine has come."""
        async for answer in self.answers(call):
            if isinstance(answer, messages.Value):
                return answer.value
        raise Gone

    async def answers(self, call: AnyCall) -> AsyncGenerator[messages.Item | messages.Value, None]:
        """The items of the answer, and its value. Raises as `ask` does."""
        line = await self._line()
        over = False
        try:
            await line.send(call)
            while not over:
                answer = await line.answer()
                if isinstance(answer, messages.Problem) and answer.type == "EngineClosed":
                    await asyncio.sleep(FIRST_PAUSE_S)  # until it does not listen any more
                    raise Gone
                over = not isinstance(answer, messages.Item)
                if over:
                    self._give_back(line)
                if isinstance(answer, messages.Problem):
                    raise answer.error_of()
                yield answer
        finally:
            if not over:
                line.close()

    async def _line(self) -> Line:
        if self._closed:
            raise EngineClosed("this client is closed: use `async with pikku.connect(...) as client:`")
        while self._idle:
            line = self._idle.pop()
            if line.usable:
                return line
            line.close()
        loop = asyncio.get_running_loop()
        until, pause_s = loop.time() + self._wait_s, FIRST_PAUSE_S
        while True:
            try:
                line = await Line.open(self._real, min(HELLO_S, max(LEAST_HELLO_S, until - loop.time())))
                self._made.add(line)
                return line
            except OSError:
                left_s = until - loop.time()
                if left_s <= 0:
                    raise self._missing() from None
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _give_back(self, line: Line) -> None:
        if self._closed or len(self._idle) >= IDLE:
            line.close()
        else:
            self._idle.append(line)

    def _missing(self) -> PikkuError:
        holder = None if is_locked(self._real) is False else holder_of(self._real)
        waited = f" (waited {self._wait_s:g} s)" if self._wait_s else ""
        if holder is None:
            return EngineClosed(f"no engine has {self._path} open{waited}; start the application that runs it")
        return JournalLocked(
            f"{self._path} is held by {holder}, and nobody answers at its control socket{waited}: "
            "is it stopped, of an older version, or opened with control_socket=False?"
        )
