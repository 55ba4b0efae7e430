"""Our own listeners: a certificate changes while connections live, and a client's own is seen."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.lifetime import run
from broker.tls import ServerTls, client_certificate, server_context
from tests.pki import Held, Pki

PATIENCE = 10.0
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


class Listener:
    """Tells each client the certificate that it showed, and echoes what comes behind."""

    def __init__(self, pki: Pki, trusted: str) -> None:
        self.pki = pki
        self.held = pki.server()
        self.trusted = trusted
        self.tls = ServerTls(lambda: server_context(self.held.chain, self.held.key, self.trusted))
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown = client_certificate(writer.transport)
        writer.write(len(shown).to_bytes(2) + shown)
        while data := await reader.read(100):
            writer.write(data)
        writer.close()


class Client:
    """A connection to a `Listener`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def shown(self) -> bytes:
        """The certificate that we showed, as the server saw it."""
        return await self._reader.readexactly(int.from_bytes(await self._reader.readexactly(2)))

    async def echo(self, data: bytes) -> bytes:
        self._writer.write(data)
        return await self._reader.readexactly(len(data))

    def server(self) -> bytes:
        """The certificate that the server showed."""
        shown = self._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(shown, bytes)
        return shown

    def has_ticket(self) -> bool:
        """Whether the server gave us what a resumed session needs (OpenSSL takes tickets as it reads)."""
        session = self._writer.get_extra_info("ssl_object").session
        return session is not None and session.has_ticket

    async def hears_nothing(self) -> bool:
        """Whether the server hangs up without a word."""
        silent = not await self._reader.read(1)
        self._writer.close()
        return silent

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def listening(pki: Pki, trusted: str = "") -> AsyncIterator[Listener]:
    listener = Listener(pki, trusted)
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0, ssl=listener.tls.context)
    listener.port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(PATIENCE):
        yield listener


async def connected(
    listener: Listener, shown: Held | None = None, version: ssl.TLSVersion = VERSIONS[1], name: str = "localhost"
) -> Client:
    context = listener.pki.client(shown)
    context.maximum_version = version
    return Client(*await asyncio.open_connection("127.0.0.1", listener.port, ssl=context, server_hostname=name))


async def refused(listener: Listener, shown: Held) -> bool:
    """Whether a connection with this certificate ends without a word; on TLS 1.3 behind the client's handshake."""
    try:
        return await (await connected(listener, shown)).hears_nothing()
    except (ssl.SSLError, ConnectionError):
        return True


@pytest.mark.parametrize("version", VERSIONS)
async def test_no_session_can_be_resumed(pki: Pki, version: ssl.TLSVersion) -> None:
    """A certificate is shown on each connection anew, so one that was revoked meanwhile is noticed."""
    async with listening(pki) as listener:
        client = await connected(listener, None, version)
        assert await client.echo(b"ab") == b"\0\0"
        assert not client.has_ticket()
        await client.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_a_certificate_changes_and_no_connection_ends(pki: Pki, version: ssl.TLSVersion, name: str) -> None:
    async with listening(pki) as listener:
        before = await connected(listener, None, version, name)
        assert await before.shown() == b""
        former, listener.held = listener.held, pki.server()
        listener.tls.reload()
        after = await connected(listener, None, version, name)
        assert (before.server(), after.server()) == (former.der, listener.held.der)
        assert await before.echo(b"still here") == b"still here"
        await before.close()
        await after.close()


async def test_what_cannot_be_loaded_changes_nothing(pki: Pki) -> None:
    async with listening(pki) as listener:
        in_force, other = listener.held, pki.server()
        for chain, key in ((other.chain, in_force.key), (pki.folder / "missing", other.key), (other.key, other.key)):
            listener.held = Held(chain, key, b"", 0)
            with pytest.raises(OSError, match=r"."):
                listener.tls.reload()
            client = await connected(listener)
            assert client.server() == in_force.der
            await client.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_clients_certificate_is_asked_for_and_seen(pki: Pki, version: ssl.TLSVersion) -> None:
    device = pki.device("acme", "dev-1")
    async with listening(pki, pki.authority.root_pem) as listener:
        for shown, seen in ((device, device.der), (None, b"")):
            client = await connected(listener, shown, version)
            assert await client.shown() == seen
            await client.close()


def test_so_it_is_on_the_loop_that_we_run_on(pki: Pki) -> None:
    """The program runs on uvloop, which has a TLS of its own."""
    parts: list[Coroutine[Any, Any, None]] = [
        test_a_certificate_changes_and_no_connection_ends(pki, VERSIONS[1], "localhost"),
        test_a_clients_certificate_is_asked_for_and_seen(pki, VERSIONS[1]),
        test_what_cannot_be_loaded_changes_nothing(pki),
    ]
    for part in parts:
        run(part)


async def test_certificates_of_others_end_the_handshake(pki: Pki) -> None:
    (pki.folder / "others").mkdir()
    stranger = Pki(pki.folder / "others").device("acme", "dev-1")
    over = pki.device("acme", "dev-1", validity=-1000)
    server = pki.server()
    async with listening(pki, pki.authority.root_pem) as listener:
        assert await refused(listener, stranger)
        assert await refused(listener, over)
        assert await refused(listener, server)


async def test_trust_changes_as_well(pki: Pki) -> None:
    device = pki.device("acme", "dev-1")
    (pki.folder / "strangers").mkdir()
    others = Pki(pki.folder / "strangers")
    async with listening(pki) as listener:
        client = await connected(listener, device)
        assert await client.shown() == b""  # nobody asked
        await client.close()
        listener.trusted = pki.authority.root_pem
        listener.tls.reload()
        client = await connected(listener, device)
        assert await client.shown() == device.der
        await client.close()
        listener.trusted = others.authority.root_pem
        listener.tls.reload()
        assert await refused(listener, device)
