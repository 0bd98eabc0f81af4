"""Who is let in at the control socket, and what becomes of those who send what is no call."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Pikku, PikkuError, RunNotFound, RunStateError, Workflow
from pikkupy.control import line, places, server
from pikkupy.control.messages import HEAD

pikku = Pikku()


@pikku.workflow
async def flow(workflow: Workflow) -> int:
    """Two steps."""
    return await workflow.do("one", lambda: 1) + await workflow.do("two", lambda: 2)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def long_db(tmp_path: Path) -> Path:
    """A path that is too long for a Unix socket."""
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    return folder / "app.db"


@pytest.mark.parametrize("umask", [0, 0o22, 0o77])
async def test_the_socket_is_the_owner_s_alone(umask: int, db: Path) -> None:
    """It is there as long as the engine is."""
    before = os.umask(umask)
    try:
        async with pikku.open(db):
            path = places.socket_path(str(db))
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert mode(path) == 0o600
            assert not places.port_path(str(db)).exists()
        assert not path.exists()
    finally:
        os.umask(before)


async def test_there_is_none_in_memory_and_where_it_is_not_wanted(db: Path) -> None:
    async with pikku.open(":memory:"), pikku.open(db, control_socket=False):
        assert not list(db.parent.glob("*.sock"))
        assert not list(Path.cwd().glob("*.sock"))


async def test_where_the_path_is_too_long_there_is_a_port_with_a_token(long_db: Path) -> None:
    """In a file of the owner's alone."""
    async with pikku.open(long_db), pikku.connect(long_db) as client:
        path = places.port_path(str(long_db))
        assert mode(path) == 0o600
        assert await client.run(flow) == 3
    assert not path.exists()


async def test_an_answer_over_a_port_does_not_wait_for_more(long_db: Path) -> None:
    """Without TCP_NODELAY each would take the 40 ms that the other side waits with its acknowledgement."""
    bound, _ = places.bound_port(str(long_db))
    places.remove(str(long_db))
    made: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    async with await asyncio.start_server(lambda _, writer: made.set_result(writer), sock=bound) as listening:
        _, ours = await asyncio.open_connection(*listening.sockets[0].getsockname())
        theirs = await made
        assert theirs.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        theirs.close()
        ours.close()


async def test_who_does_not_know_the_token_is_not_let_in(
    long_db: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor told anything."""
    async with pikku.open(long_db):
        port = json.loads(places.port_path(str(long_db)).read_text())["port"]
        for first in (b'{"token":"guess"}', b"{}", b"\xff", b'{"call":"counts"}'):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD.pack(len(first)) + first)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(1)
            writer.close()
    assert "control_connection_refused" in caplog.text


async def test_a_file_that_others_can_read_leads_nowhere(long_db: Path) -> None:
    """A token in it would be no secret."""
    async with pikku.open(long_db):
        places.port_path(str(long_db)).chmod(0o644)
        with pytest.raises(PikkuError, match="not this user's alone"):
            async with pikku.connect(long_db, wait=0):
                pass


async def test_another_user_is_not_let_in(
    db: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the modes of file and folder are; nor does a client talk to a socket of another user."""
    monkeypatch.setattr(server.places, "is_own", lambda _: False)
    async with pikku.open(db):
        with pytest.raises(PikkuError):
            async with pikku.connect(db, wait=0):
                pass
    assert "control_connection_refused" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERCRED")
def test_the_system_says_which_user_it_is() -> None:
    """Root, and oneself."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        peer = places.peer_of(one)
        assert peer == (os.getpid(), os.getuid())
        assert places.is_own(peer)
        assert places.is_own(peer._replace(uid=0))
        assert not places.is_own(peer._replace(uid=os.getuid() + 1))


async def test_what_a_killed_owner_has_left_is_replaced(db: Path) -> None:
    """But nothing that is no socket."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(places.socket_path(str(db))))
    left.close()
    async with pikku.open(db), pikku.connect(db) as client:
        assert await client.run(flow) == 3


async def test_an_engine_without_a_socket_is_still_an_engine(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Something else has its name: that is left alone, and logged."""
    places.socket_path(str(db)).write_text("precious")
    async with pikku.open(db) as engine:
        assert await engine.run(flow) == 3
    assert "control_socket_missing" in caplog.text
    assert places.socket_path(str(db)).read_text() == "precious"


async def raw(db: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has been greeted."""
    reader, writer = await asyncio.open_unix_connection(str(places.socket_path(str(db))))
    try:
        await message(reader)
    except BaseException:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        raise
    return reader, writer


async def message(reader: asyncio.StreamReader) -> Any:
    [size] = HEAD.unpack(await reader.readexactly(HEAD.size))
    return json.loads(await reader.readexactly(size))


NO_CALLS = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe",
    b'{"call":"nothing"}',
    b'{"call":"get_run"}',
    b'{"call":"get_run","run_id":1}',
    b'{"call":"get_run","run_id":"r","more":1}',
    b'{"call":"__init__"}',
    b'{"call":"get_run","run_id":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
]


@pytest.mark.parametrize("text", NO_CALLS, ids=range(len(NO_CALLS)))
async def test_what_is_no_call_is_refused_with_a_reason(text: bytes, db: Path) -> None:
    """Where it ends is known, so what follows on the connection is a call again."""
    async with pikku.open(db):
        reader, writer = await raw(db)
        writer.write(HEAD.pack(len(text)) + text)
        answer = await message(reader)
        assert (answer["answer"], answer["type"]) == ("problem", "BadType")
        assert "cannot read the call" in answer["message"]
        counts = b'{"call":"counts"}'
        writer.write(HEAD.pack(len(counts)) + counts)
        assert await message(reader) == {"answer": "value", "value": {}}
        writer.close()


async def test_a_call_that_would_be_too_long_is_refused_before_it_comes(db: Path) -> None:
    """Nobody makes the engine take gigabytes."""
    async with pikku.open(db):
        reader, writer = await raw(db)
        writer.write(HEAD.pack(0xFFFF_FFFF))
        assert "4,294,967,295 bytes" in (await message(reader))["message"]
        assert await reader.read() == b""
        writer.close()


async def test_noise_harms_nobody(db: Path) -> None:
    """Bytes of any kind, cut anywhere."""
    rng = random.Random(7)
    async with pikku.open(db), pikku.connect(db) as client:
        for _ in range(50):
            _, writer = await raw(db)
            writer.write(rng.randbytes(rng.randrange(1, 200)))
            writer.close()
        assert await client.run(flow) == 3


async def test_every_action_has_its_audit_line(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S20: what, on which run, who, and what came of it; one line each, whatever the id, without what was sent."""
    caplog.set_level(logging.INFO, "pikkupy")
    odd, forged = "a b\u202e", "a\ncontrol_action\x1b[31m"
    async with pikku.open(db), pikku.connect(db) as client:
        await client.run(flow, run_id=odd)
        fork = await client.fork(odd, at="two")
        await fork.result()
        with pytest.raises(RunStateError):
            await client.cancel(odd, "s3cret")
        with pytest.raises(RunNotFound):
            await client.signal(forged, "go", "s3cret")
        await client.delete_run(fork.id)
        await client.prune(older_than="1d")
        await client.counts()
    found = [record for record in caplog.records if record.getMessage().startswith("control_action")]
    lines: list[dict[str, Any]] = [record.pikku for record in found]  # type: ignore[attr-defined]
    assert [(line["action"], line.get("run_id"), line["outcome"]) for line in lines] == [
        ("start", odd, "done"),
        ("fork", odd, "done"),
        ("cancel", odd, "RunStateError"),
        ("signal", forged, "RunNotFound"),
        ("delete_run", fork.id, "done"),
        ("prune", None, "done"),
    ]
    assert (lines[0]["workflow"], lines[1]["new_run_id"]) == ("flow", fork.id)
    if sys.platform == "linux":
        assert {(line["uid"], line["pid"]) for line in lines} == {(os.getuid(), os.getpid())}
    assert all(record.getMessage().isprintable() and "s3cret" not in record.getMessage() for record in found)


async def test_an_action_that_is_taken_back_has_its_line(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever closes the connection has still asked for it."""
    caplog.set_level(logging.INFO, "pikkupy")
    async with pikku.open(db):
        _, writer = await raw(db)
        call = b'{"call":"prune","older_than_us":1}'
        writer.write(HEAD.pack(len(call)) + call)
        writer.close()
        while "control_action" not in caplog.text:
            await asyncio.sleep(0)


async def test_there_is_a_limit_of_connections(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is closed at once; when one goes there is room again."""
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    async with pikku.open(db):
        some = [await raw(db) for _ in range(3)]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await raw(db)
        for _, writer in some:
            writer.close()
            await writer.wait_closed()
        async with pikku.connect(db) as client:
            assert await client.run(flow) == 3


async def strangers(long_db: Path, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Who connects to the port, and says nothing."""
    port = json.loads(places.port_path(str(long_db)).read_text())["port"]
    return [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]


async def sent_away(some: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    for reader, writer in some:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()


async def test_who_says_no_token_takes_nobody_s_place(long_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are few such at once, and the next one takes the place of the first; clients have places of their own."""
    monkeypatch.setattr(server, "MOST_STRANGERS", 3)
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 2)
    async with pikku.open(long_db), asyncio.timeout(20):
        some = await strangers(long_db, 5)
        await sent_away(some[:2])
        async with pikku.connect(long_db) as client:
            assert await client.run(flow) == 3
    await sent_away(some[2:])


async def test_who_says_no_token_in_time_is_sent_away(long_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor may who has not said it send more than one is long."""
    async with pikku.open(long_db), asyncio.timeout(20):
        [(reader, writer)] = await strangers(long_db, 1)
        writer.write(HEAD.pack(server.LONGEST_TOKEN + 1))
        await sent_away([(reader, writer)])
        monkeypatch.setattr(server, "TOKEN_S", 0.0)
        await sent_away(await strangers(long_db, 1))


async def test_a_reader_who_does_not_read_takes_no_memory(db: Path) -> None:
    """What it is told waits at the source: the history of a run is made as it is read."""

    @(own := Pikku()).workflow
    async def long(workflow: Workflow) -> None:
        for number in range(3_000):
            await workflow.do(f"step {number}", lambda: None)

    async with own.open(db, durability="process") as engine:
        await engine.run(long, run_id="r")
        reader, writer = await raw(db)
        call = b'{"call":"run_events","run_id":"r"}'
        writer.write(HEAD.pack(len(call)) + call)
        [connection] = server_connections(engine)
        while connection._writable.is_set():
            await asyncio.sleep(0)
        assert connection._transport.get_write_buffer_size() < 200_000
        kinds = []
        while (answer := await message(reader))["answer"] == "item":
            kinds.append(answer["value"]["kind"])
        writer.close()
    assert (len(kinds), kinds[0], kinds[-1]) == (6_002, "run_started", "run_ended")


def server_connections(engine: Any) -> list[Any]:
    """Those that the engine serves just now."""
    import gc

    return [one for one in gc.get_objects() if type(one) is server._Connection and one in one._connections]


async def test_a_client_of_another_protocol_is_told(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pikku.open(db):
        monkeypatch.setattr(line.messages, "PROTOCOL", 99)
        with pytest.raises(PikkuError, match="version 1 of the protocol, this client 99"):
            async with pikku.connect(db, wait=0):
                pass


async def test_who_gives_up_before_the_hello_leaves_no_connection(db: Path) -> None:
    """The other side sees that it is gone."""
    come, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        come.set()
        await reader.read()
        writer.close()
        gone.set()

    async with asyncio.timeout(20), await asyncio.start_unix_server(silent, places.socket_path(str(db))):
        opening = asyncio.ensure_future(line.Line.open(str(db), 60))
        await come.wait()
        opening.cancel()
        await gone.wait()
        assert opening.cancelled()


async def test_what_listens_there_may_be_something_else(db: Path) -> None:
    """It is asked nothing."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD.pack(5) + b"HELLO")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    gone = asyncio.Event()
    listening = await asyncio.start_unix_server(talk, places.socket_path(str(db)))
    with pytest.raises(PikkuError, match="no engine of pikkupy"):
        async with pikku.connect(db, wait=0):
            pass
    await gone.wait()
    listening.close()
    await listening.wait_closed()
