"""The listener: real sockets, bounded heads, and a stop that is quick and clean whatever clients do."""

import asyncio
import json
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from broker.http.server import MAX_HEAD, HttpServer
from broker.tls import server_context
from tests.pki import Pki

PATIENCE = 10.0


async def hello(_scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


class Connection:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(PATIENCE):
            first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def ended(self) -> bytes:
        """What still came before the server closed."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def connected(app: Any = hello, **more: Any) -> AsyncIterator[tuple[Connection, HttpServer]]:
    server = HttpServer(app, **more)
    port = await server.start("127.0.0.1", 0)
    client = Connection(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield client, server
    finally:
        await client.close()
        async with asyncio.timeout(PATIENCE):
            await server.stop()


async def test_it_answers_and_keeps_the_connection() -> None:
    async with connected() as (client, _):
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            status, headers, body = await client.answer()
            assert (status, body) == (200, b"hello")
            assert "server" not in headers
            assert "date" in headers


async def test_a_host_name_is_heard_on_each_of_its_addresses() -> None:
    server = HttpServer(hello)
    port = await server.start("localhost", 0)
    client = Connection(*await asyncio.open_connection("127.0.0.1", port))
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.answer())[0] == 200
    await client.close()
    await server.stop()


async def test_with_tls_it_says_who_asks(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    ours, device = pki.server(), pki.device("acme", "dev-1")
    seen: list[Any] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["scheme"], scope.get("extensions", {}).get("tls", {}).get("client_cert_chain")))
        await hello(scope, receive, send)

    server = HttpServer(note, tls=server_context(ours.chain, ours.key, pki.authority.root_pem))
    port = await server.start("localhost", 0)
    for shown in (device, None):
        context = pki.client(shown)
        client = Connection(*await asyncio.open_connection("localhost", port, ssl=context))
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.answer())[0] == 200
        await client.close()
    await server.stop()
    assert seen == [("https", (ssl.DER_cert_to_PEM_cert(device.der),)), ("https", None)]


async def test_a_handshake_has_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.http.server.HEAD_SECONDS", 0.1)
    ours = Pki(tmp_path).server()
    server = HttpServer(hello, tls=server_context(ours.chain, ours.key))
    silent = Connection(*await asyncio.open_connection("localhost", await server.start("localhost", 0)))
    assert await silent.ended() == b""
    await silent.close()
    await server.stop()


async def test_a_port_in_use_is_an_error_of_the_system() -> None:
    first, second = HttpServer(hello), HttpServer(hello)
    port = await first.start("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        await second.start("127.0.0.1", port)
    await second.stop()
    await first.stop()


async def test_an_address_of_nobody_is_an_error_of_the_system() -> None:
    server = HttpServer(hello)
    with pytest.raises(OSError, match="assign"):
        await server.start("192.0.2.1", 0)


async def test_our_signal_handlers_stay_ours() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with connected():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    "head", [b"BREW / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n:\r\n\r\n"]
)
async def test_what_is_no_http_is_told_so(head: bytes) -> None:
    async with connected() as (client, _):
        client.send(head)
        status, headers, body = await client.answer()
        assert (status, headers["content-type"]) == (400, "application/problem+json")
        assert json.loads(body)["code"] == "malformed-http"
        assert await client.ended() == b""


async def test_a_long_head_is_refused_when_it_comes_in_one_piece() -> None:
    async with connected() as (client, _):
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * MAX_HEAD + b"\r\n\r\n")
        status, _, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (431, "headers-too-large")


async def test_a_long_path_is_refused_as_well() -> None:
    async with connected() as (client, _):
        client.send(b"GET /" + b"y" * MAX_HEAD + b" HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await client.answer())[0] == 431


async def test_a_head_without_end_is_refused_at_the_limit() -> None:
    async with connected() as (client, _):
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * MAX_HEAD)
        assert (await client.answer())[0] == 431
        assert await client.ended() == b""


async def test_a_head_that_is_not_finished_in_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.http.server.HEAD_SECONDS", 0.02)
    async with connected() as (client, _):
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n")
        assert await client.ended() == b""


async def test_a_body_that_was_refused_unread_does_not_cost_the_answer() -> None:
    async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with connected(refuse) as (client, _):
        client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n" + b" " * 1_000_000)
        assert (await client.answer())[0] == 413
        client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        assert (await client.answer())[0] == 413


async def test_a_stop_does_not_wait_for_idle_clients() -> None:
    async with connected() as (client, server):
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await client.answer()
        await server.stop()
        assert await client.ended() == b""
        await server.stop()


async def test_a_call_that_a_stop_cuts_off_is_told_so() -> None:
    begun = asyncio.Event()

    async def stuck(_scope: Scope, _receive: Receive, _send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with connected(stuck, grace_seconds=0) as (client, server):
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await begun.wait()
        await server.stop()
        status, headers, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (503, "unavailable")
        assert "retry-after" in headers


async def test_a_stream_that_a_stop_cuts_off_ends_without_an_error(caplog: pytest.LogCaptureFixture) -> None:
    begun = asyncio.Event()

    async def stream(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"transfer-encoding", b"chunked")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        begun.set()
        await asyncio.Event().wait()

    async with connected(stream, grace_seconds=0) as (client, server):
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await begun.wait()
        async with asyncio.timeout(PATIENCE):
            await server.stop()
            await client.ended()
    assert [record for record in caplog.records if record.levelname == "ERROR" and record.exc_info] == []


async def test_a_stop_waits_for_an_answer_that_is_nearly_there() -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await goes_on.wait()
        await hello(scope, receive, send)

    async with connected(slow) as (client, server):
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await begun.wait()
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        goes_on.set()
        assert (await client.answer())[2] == b"hello"
        await stopping


async def test_half_a_message_does_not_hold_up_a_stop() -> None:
    async with connected(grace_seconds=0) as (client, server):
        client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf")
        async with asyncio.timeout(PATIENCE):
            await server.stop()
        await client.ended()
