"""The server of `pikku run --http`, by the bytes that come and go."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pikkupy import PikkuError
from pikkupy.console.pages import PAGES
from pikkupy.http import serving as room
from pikkupy.http.application import all_operations
from pikkupy.http.serving import Address, Tls, address_of, base_of, check_reach, serving
from pikkupy.mounting import PORT, HttpConfig
from tests.http.shop import TOKEN, pikku

ANYWHERE = Address("127.0.0.1", 0)


def at(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host.strip("[]"), int(port)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("80", ("127.0.0.1", 80)), (":80", ("127.0.0.1", 80)), ("localhost:80", ("localhost", 80)),
        ("0.0.0.0", ("0.0.0.0", PORT)), ("10.0.0.1:0", ("10.0.0.1", 0)), ("[::1]:80", ("::1", 80)),
        ("::1", ("::1", PORT)),
        ("[::]", ("::", PORT)),
    ],
)  # fmt: skip
def test_an_address(text: str, address: tuple[str, int]) -> None:
    assert tuple(address_of(text)) == address


@pytest.mark.parametrize("text", ["shop.example:80", "127.0.0.1:http", "127.0.0.1:65536", "", "1.2.3:4", "a b:1", ":²"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"PORT|address"):
        address_of(text)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "192.0.2.1"])
def test_where_others_can_reach_it_there_is_tls(host: str) -> None:
    """S6: or somebody has said that the network is trusted."""
    with pytest.raises(ValueError, match="--insecure"):
        check_reach(Address(host, 80), None, insecure=False)
    check_reach(Address(host, 80), None, insecure=True)
    check_reach(Address(host, 80), Tls(Path("certificate"), Path("key")), insecure=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_the_loopback_needs_none(host: str) -> None:
    check_reach(Address(host, 80), None, insecure=False)


@pytest.mark.parametrize(
    ("text", "base"), [("", ""), ("/", ""), ("/x", "/x"), ("/x/", "/x"), ("/a.b/c_d-e", "/a.b/c_d-e")]
)
def test_a_base_path(text: str, base: str) -> None:
    assert base_of(text) == base


@pytest.mark.parametrize(
    "text", ["x", "//x", "/x//y", "/..", "/x/../y", "/x y", "/é", "/x?y", "/%41", "/api", "/console/x"]
)
def test_what_is_no_base_path(text: str) -> None:
    """Nor one that could be taken for a route."""
    with pytest.raises(ValueError, match="use a"):
        base_of(text)
    assert {one.path.split("/")[1] for one in (*all_operations(), *PAGES)} == room.OWN


async def test_requests_are_answered_until_the_block_ends(db: Path) -> None:
    async with pikku.open(db) as engine:
        async with serving(engine.asgi(token=TOKEN), ANYWHERE) as url:
            async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}) as http:
                assert (await http.get("/readyz")).json() == {"status": "ready"}
                assert "server" not in (await http.get("/readyz")).headers
            with pytest.raises(PikkuError, match=r"nothing can listen at 127\.0\.0\.1"):
                async with serving(engine.asgi(token=TOKEN), Address(*at(url))):
                    pass
        with pytest.raises(OSError):
            await asyncio.open_connection(*at(url))


async def test_what_goes_on_ends_with_the_server(
    db: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In order, and at once: a live tab of the console, whose engine goes on elsewhere, and who waits for a run."""
    monkeypatch.setattr(room, "GRACE_S", 60)
    monkeypatch.setattr("pikkupy.console.pages.LIVE_S", 60)
    headers = {"authorization": f"Bearer {TOKEN}", "prefer": "wait=60"}
    async with pikku.open(db) as engine, httpx2.AsyncClient(headers=headers, timeout=60) as http:
        await engine.start("waiting", run_id="r")
        app: Any = engine.asgi(token=TOKEN, console=True)
        async with AsyncExitStack() as stack, asyncio.timeout(20):
            async with serving(app, ANYWHERE) as url:
                followed = [
                    await stack.enter_async_context(http.stream("GET", f"{url}{path}"))
                    for path in ("/console/live", "/api/events", "/api/runs/r/events")
                ]
                waits = asyncio.ensure_future(http.get(f"{url}/api/runs/r"))
                most = HttpConfig().max_requests
                while (app._streams.free, app._requests.free) != (most - 3, most - 1):
                    await asyncio.sleep(0)
            assert [answer.status_code for answer in followed] == [200, 200, 200]
            for answer in followed:
                await answer.aread()
            assert (await waits).json()["status"] == "running"
    assert "ERROR" not in caplog.text


async def test_who_forwards_says_nothing_of_who_asks(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A header cannot be another address, or another scheme: failures are counted by who is at the other end."""
    caplog.set_level("INFO", "pikkupy")
    http = httpx2.AsyncClient(headers={"x-forwarded-for": "192.0.2.9", "forwarded": "for=192.0.2.9"})
    async with pikku.open(db) as engine, serving(engine.asgi(token=TOKEN), ANYWHERE) as url, http:
        assert (await http.get(f"{url}/readyz")).status_code == 401
        assert "http_refused" not in caplog.text  # who has said nothing has not guessed
        wrong = await http.get(f"{url}/readyz", headers={"authorization": "Bearer wrong"})
        assert wrong.status_code == 401
    assert "address=127.0.0.1" in caplog.text
    assert "192.0.2.9" not in caplog.text


async def test_who_says_nothing_is_sent_away(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S8: a head that comes byte by byte, or never, holds no connection for long."""
    monkeypatch.setattr(room, "HEAD_S", 0.2)
    async with pikku.open(db) as engine, serving(engine.asgi(token=TOKEN), ANYWHERE) as url:
        reader, writer = await asyncio.open_connection(*at(url))
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: ")
        began = asyncio.get_running_loop().time()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        assert asyncio.get_running_loop().time() - began > 0.1
        writer.close()


async def test_a_head_has_a_limit(db: Path) -> None:
    """S8: 16 KiB."""
    async with pikku.open(db) as engine, serving(engine.asgi(token=TOKEN), ANYWHERE) as url:
        reader, writer = await asyncio.open_connection(*at(url))
        writer.write(b"GET /readyz HTTP/1.1\r\nX: " + b"x" * 200_000)
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 10)
        writer.close()


async def test_so_many_connections_and_no_more(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S8: a stranger who has said nothing for longest makes room for the next one; who was let in stays."""
    monkeypatch.setattr(room, "MOST_CONNECTIONS", 4)
    monkeypatch.setattr(room, "KEPT_S", 60)
    async with pikku.open(db) as engine, serving(engine.asgi(token=TOKEN), ANYWHERE) as url, AsyncExitStack() as stack:

        async def connected(token: str | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(*at(url))
            stack.callback(writer.close)
            if token is not None:
                await ask(reader, writer, token)
            return reader, writer

        async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
            head = f"GET /readyz HTTP/1.1\r\nHost: {url[7:]}\r\nAuthorization: Bearer {token}\r\n\r\n"
            writer.write(head.encode())
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert (b" 200 " if token == TOKEN else b" 401 ") in answer
            size = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(size)

        known = await connected(TOKEN)
        wrong = await connected("wrong")
        silent = [await connected() for _ in range(2)]
        for gone in (wrong, *silent):  # nobody of them was let in
            new = await connected(TOKEN)
            with suppress(ConnectionError):
                assert await asyncio.wait_for(gone[0].read(), 10) == b""
            await ask(*new, TOKEN)
        reader, _ = await connected()
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        await ask(*known, TOKEN)


async def test_a_body_that_does_not_come_is_not_waited_for(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S8: 408."""
    monkeypatch.setattr("pikkupy.http.bodies.LONGEST_S", 0.2)
    async with pikku.open(db) as engine, serving(engine.asgi(token=TOKEN), ANYWHERE) as url:
        reader, writer = await asyncio.open_connection(*at(url))
        head = (
            f"POST /api/runs HTTP/1.1\r\nHost: {url[7:]}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 10\r\n\r\n"
        )
        writer.write(head.encode() + b"{")
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 10)
        writer.close()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder = tmp_path_factory.mktemp("tls")
    made = Tls(folder / "certificate.pem", folder / "key.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


async def test_https(db: Path, tls: Tls) -> None:
    async with pikku.open(db) as engine, serving(engine.asgi(token=TOKEN), Address("localhost", 0), tls) as url:
        assert url.startswith("https://")
        trusted: Any = ssl.create_default_context(cafile=str(tls.certificate))
        async with httpx2.AsyncClient(verify=trusted, headers={"authorization": f"Bearer {TOKEN}"}) as http:
            port = url.rpartition(":")[2]
            assert (await http.get(f"https://localhost:{port}/readyz")).status_code == 200


async def test_who_does_not_begin_tls_is_sent_away(db: Path, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """S8: in the time that a head has."""
    monkeypatch.setattr(room, "HEAD_S", 0.2)
    async with pikku.open(db) as engine, serving(engine.asgi(token=TOKEN), ANYWHERE, tls) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_certificate_that_there_is_not_is_said(db: Path, tmp_path: Path) -> None:
    async with pikku.open(db) as engine:
        with pytest.raises(OSError):
            async with serving(engine.asgi(token=TOKEN), ANYWHERE, Tls(tmp_path / "none", tmp_path / "none")):
                pass
