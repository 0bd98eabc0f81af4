"""Messages to and from a worker process, over the connection that is its standard input and output."""

from __future__ import annotations

import asyncio

from pikkupy.workers.messages import LENGTH, framed

MAX_UNREAD = 1_000_000  # bytes of whole messages that are taken in before somebody reads them; then the process waits


class Line(asyncio.Protocol):
    """The engine's end of the connection. One reads at a time, and one sends."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unread = bytearray()
        self._broken = False
        self._news: asyncio.Future[None] | None = None  # whoever reads waits for it
        self._room: asyncio.Future[None] | None = None  # set while the process does not read what it is sent
        self._is_paused = False

    async def send(self, message: bytes, before: bytes = b"") -> None:
        """Send `message`, behind other bytes if need be. Raises `OSError` if the connection is over."""
        if self._broken:
            raise ConnectionError
        self.transport.write(before + framed(message))
        if self._room is not None:
            await asyncio.shield(self._room)
            if self._broken:
                raise ConnectionError

    async def receive(self) -> bytes:
        """The next message. Raises `OSError` if none comes any more."""
        while (message := self._take()) is None:
            if self._broken:
                raise ConnectionError
            if self._is_paused:
                self._is_paused = False
                self.transport.resume_reading()
            self._news = self._loop.create_future()
            await self._news
        return message

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As for `asyncio.Protocol`, as what follows."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Some bytes, wherever they end."""
        self._unread += data
        if len(self._unread) >= self._wanted():
            self._wake()
            if len(self._unread) > MAX_UNREAD and not self._is_paused:
                self._is_paused = True
                self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio gives it by name or place
        """Also when the engine itself ends it."""
        self._broken = True
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        """More is on its way to the process than the system takes."""
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """It has been taken."""
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def _take(self) -> bytes | None:
        end = self._wanted()
        if len(self._unread) < end:
            return None
        message = bytes(self._unread[LENGTH:end])
        del self._unread[:end]
        return message

    def _wanted(self) -> int:
        """Bytes up to the end of the message in front, as far as its length is known."""
        return LENGTH + (int.from_bytes(self._unread[:LENGTH], "big") if len(self._unread) >= LENGTH else 0)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
