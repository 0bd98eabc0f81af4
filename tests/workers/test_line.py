"""The engine's end of the connection to a worker process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pikkupy.workers.line import MAX_UNREAD, Line
from pikkupy.workers.messages import framed
from tests.workers.scene import turns


class Other:
    """The other end, as a worker process would have it."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._loop = asyncio.get_running_loop()
        end.setblocking(False)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.end, data)

    async def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += await self._loop.sock_recv(self.end, count - len(data))
        return data


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Line, Other]]:
    """Both ends, which are closed at last."""
    here, there = socket.socketpair()
    _, line = await asyncio.get_running_loop().create_unix_connection(Line, sock=here)
    with there:
        yield line, Other(there)
        line.transport.abort()
        await turns()


async def test_messages_come_whole_however_they_are_cut() -> None:
    """Empty ones, too; several at once, and one in pieces."""
    async with connected() as (line, other):
        await other.send(framed(b"one") + framed(b"") + framed(b"three")[:5])
        assert [await line.receive(), await line.receive()] == [b"one", b""]
        waiting = asyncio.create_task(line.receive())
        for byte in framed(b"three")[5:]:
            await turns()
            assert not waiting.done()
            await other.send(bytes([byte]))

        assert await waiting == b"three"


async def test_who_sends_more_than_is_read_waits() -> None:
    """And gets rid of all of it, also of a message that is larger than what is taken in unread."""
    messages = [bytes([number]) * MAX_UNREAD * 3 for number in range(4)]
    async with connected() as (line, other):
        sending = asyncio.create_task(other.send(b"".join(map(framed, messages))))
        first = await line.receive()
        await turns(100)
        assert not sending.done()

        assert [first, *[await line.receive() for _ in messages[1:]]] == messages
        await sending


async def test_a_sender_waits_until_the_process_reads() -> None:
    """What is in memory stays bounded by one message."""
    message = b"x" * MAX_UNREAD * 3
    async with connected() as (line, other):
        sending = asyncio.create_task(line.send(message, b"before"))
        await turns(100)
        assert not sending.done()

        assert await other.receive(6 + 8 + len(message)) == b"before" + framed(message)
        await sending


async def test_what_had_come_before_the_end_is_read() -> None:
    """Then there is an error, for whoever sends as well."""
    async with connected() as (line, other):
        await other.send(framed(b"last") + framed(b"cut")[:9])
        other.end.close()
        await turns()

        assert await line.receive() == b"last"
        for call in (line.receive(), line.send(b"")):
            with pytest.raises(ConnectionError):
                await call


async def test_an_end_wakes_who_waits() -> None:
    """Who reads and who sends."""
    async with connected() as (line, _):
        reading = asyncio.create_task(line.receive())
        sending = asyncio.create_task(line.send(b"x" * MAX_UNREAD * 3))
        await turns()
        line.transport.abort()

        for waiting in (reading, sending):
            with pytest.raises(ConnectionError):
                await waiting
