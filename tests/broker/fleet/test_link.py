"""A device's connection: what it sends, and what it makes of a server's no."""

import asyncio
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.fleet.link import Link, Login, Lost, Refused
from broker.fleet.replies import Address
from broker.mqtt.packets import Connack, Disconnect, Properties, Puback
from tests.broker.fleet import double
from tests.broker.fleet.tiny import Tiny

LOGIN = Login("dev-1", "factory", "secret")
VERSIONS = pytest.mark.parametrize("version", [4, 5])


@VERSIONS
async def test_a_message_and_its_answer(version: int) -> None:
    async with Tiny() as tiny:
        tiny.answer = lambda _topic, message: [double.write(message | {"seen": True})]
        link = await Link.open(tiny.address, LOGIN, version=version)
        await link.subscribe("prov/v1/factory/dev-1/reply")
        link.publish("prov/v1/factory/dev-1/request", b'{"a": 1}')
        assert await link.receive() == b'{"a": 1, "seen": true}'
        await link.close()
    connect = tiny.connects[0]
    assert (connect.client_id, connect.username, connect.password, connect.version) == (
        "dev-1",
        "factory",
        b"secret",
        version,
    )
    assert connect.clean_start
    assert [topic for topic, _ in tiny.messages] == ["prov/v1/factory/dev-1/request"]
    assert Puback(7) in tiny.packets


def test_the_password_does_not_show() -> None:
    assert "secret" not in repr(LOGIN)


@VERSIONS
@pytest.mark.parametrize(
    ("codes", "for_good"),
    [({4: 5, 5: 0x87}, True), ({4: 4, 5: 0x86}, True), ({4: 2, 5: 0x85}, True), ({4: 3, 5: 0x97}, False)],
)
async def test_a_refused_login(version: int, codes: dict[int, int], *, for_good: bool) -> None:
    async with Tiny() as tiny:
        tiny.connack = lambda _: Connack(codes[version])
        with pytest.raises(Refused) as caught:
            await Link.open(tiny.address, LOGIN, version=version)
    assert (caught.value.code, caught.value.for_good) == (codes[version], for_good)


async def test_the_servers_own_words_are_told() -> None:
    async with Tiny() as tiny:
        tiny.connack = lambda _: Connack(0x97, properties=Properties(reason_string="come back tonight"))
        with pytest.raises(Refused, match=r"too many connections \(CONNACK 0x97\): come back tonight"):
            await Link.open(tiny.address, LOGIN, version=5)


@VERSIONS
async def test_a_refused_subscription(version: int) -> None:
    async with Tiny() as tiny:
        tiny.suback = 0x87 if version == 5 else 0x80
        link = await Link.open(tiny.address, LOGIN, version=version)
        with pytest.raises(Refused, match="SUBSCRIBE is refused"):
            await link.subscribe("somebody/elses")
        await link.close()


async def test_nobody_listens() -> None:
    async with Tiny() as tiny:
        address = tiny.address
    with pytest.raises(Lost, match="cannot be reached"):
        await Link.open(address, LOGIN)


async def served(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> asyncio.Server:
    return await asyncio.start_server(talk, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "closed"),
        (b"\x20\x02\x02\x00", "breaks the protocol"),
        (b"\xd0\x00", "does not speak MQTT"),
        (b"", "closed"),
    ],
)
async def test_somebody_else_listens(octets: bytes, words: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(octets)
        writer.close()

    async with await served(talk) as server:
        with pytest.raises(Lost, match=words):
            await Link.open(Address("127.0.0.1", server.sockets[0].getsockname()[1]), LOGIN)


async def test_a_server_that_says_nothing_is_not_waited_for_long() -> None:
    silent = asyncio.Event()

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    async with await served(talk) as server:
        with pytest.raises(Lost, match="does not answer"):
            await Link.open(Address("127.0.0.1", server.sockets[0].getsockname()[1]), LOGIN, seconds=0.01)
        silent.set()


@VERSIONS
async def test_a_connection_that_ends_is_lost(version: int) -> None:
    async with Tiny() as tiny:
        tiny.answer = lambda *_: None
        link = await Link.open(tiny.address, LOGIN, version=version)
        link.publish("t", b"{}")
        with pytest.raises(Lost):
            await link.receive()
        await link.close()


async def test_a_server_that_says_goodbye_tells_why() -> None:
    async with Tiny() as tiny:
        link = await Link.open(tiny.address, LOGIN, version=5)
        with pytest.raises(Lost, match=r"\(0x8E\): elsewhere"):
            link._keep(Disconnect(0x8E, Properties(reason_string="elsewhere")))
        await link.close()


async def test_a_quiet_connection_is_kept_alive() -> None:
    async with Tiny() as tiny:
        link = await Link.open(tiny.address, LOGIN, version=5)
        await link.subscribe("prov/v1/factory/dev-1/reply")
        link._keep_alive = 0.01
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await link.receive()
        tiny.answer = lambda *_: [b"done"]
        link.publish("t", b"{}")
        assert await link.receive() == b"done"
        await link.close()
    assert any(type(packet).__name__ == "Pingreq" for packet in tiny.packets)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tiny")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "tiny.pem"
    encoding, nothing = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(
        made.public_bytes(encoding) + key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, nothing)
    )
    return file


@VERSIONS
async def test_tls(certificate: Path, version: int) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    async with Tiny(server) as tiny:
        trust = ssl.create_default_context(cafile=certificate)
        link = await Link.open(tiny.address, LOGIN, version=version, tls=trust)
        await link.subscribe("prov/v1/factory/dev-1/reply")
        await link.close()


async def test_a_certificate_nobody_vouches_for_is_not_trusted(certificate: Path) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    async with Tiny(server) as tiny:
        with pytest.raises(Lost, match="is not trusted"):
            await Link.open(tiny.address, LOGIN)
