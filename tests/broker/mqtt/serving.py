"""The endpoint under test: a service with plain answers, a listener, and a client that says exactly what it is told."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.mqtt.endpoint import Answer, CertificateLogin, Endpoint, EndpointLimits, Inbound, LoginVerdict
from broker.mqtt.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Decoder,
    Frame,
    Packet,
    Properties,
    Publish,
    Subscribe,
    Subscription,
    encode,
    parse,
)

JSON = "application/json"
BOTH = (V311, V5)
PATIENCE = 10.0


class Answering:
    """A service: one right password, one client id whose certificates are right, and an echo as the answer to all.

    A payload `prove:NONCE` proves that nonce, `fail` raises, `large` is answered with 4 KiB. Answers wait for `gate`.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.inbound: list[Inbound] = []
        self.logins: list[tuple[str, bytes, str]] = []
        self.shown: list[tuple[bytes, str]] = []
        self.arrived = asyncio.Condition()
        self.busy = False

    async def login(self, user: str, password: bytes, client_id: str) -> LoginVerdict:
        self.logins.append((user, password, client_id))
        if self.busy:
            return LoginVerdict.BUSY
        return LoginVerdict.ADMITTED if password == b"pw" else LoginVerdict.REFUSED

    async def certificate_login(self, certificate: bytes, client_id: str) -> CertificateLogin | LoginVerdict:
        self.shown.append((certificate, client_id))
        if self.busy:
            return LoginVerdict.BUSY
        return CertificateLogin("factory", "17") if client_id == "dev-1" else LoginVerdict.REFUSED

    async def answer(self, message: Inbound) -> Answer:
        async with self.arrived:
            self.inbound.append(message)
            self.arrived.notify_all()
        await self.gate.wait()
        if message.payload == b"fail":
            raise ValueError("on purpose")
        if message.payload == b"large":
            return Answer(bytes(4096), JSON, None)
        prefix, _, nonce = message.payload.partition(b":")
        return Answer(message.payload, JSON, nonce.decode() if prefix == b"prove" else None)

    def bad_topic(self, user: str, client_id: str) -> Answer:
        return Answer(b"bad-request of " + client_id.encode(), JSON, None)

    async def until_arrived(self, count: int) -> None:
        """Wait until so many messages have arrived in all."""
        async with asyncio.timeout(PATIENCE), self.arrived:
            await self.arrived.wait_for(lambda: len(self.inbound) >= count)


@dataclass
class Client:
    """One connection, packet by packet."""

    version: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    client_id: str = "dev-1"
    _decoder: Decoder = field(default_factory=Decoder)
    _frames: list[Frame] = field(default_factory=list)

    def topic(self, kind: str) -> str:
        return f"prov/v1/factory/{self.client_id}/{kind}"

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def say(self, *packets: Packet) -> None:
        self.write(b"".join(encode(packet, self.version) for packet in packets))

    def connect(self, password: bytes | None = b"pw", properties: Properties | None = None) -> None:
        values = properties or Properties()
        self.say(Connect(self.client_id, self.version, username="factory", password=password, properties=values))

    def claim(self, payload: bytes = b"claim", kind: str = "request") -> None:
        self.say(Publish(self.topic(kind), payload))

    async def hear(self) -> Packet:
        """The next packet; EOFError when the server has hung up."""
        async with asyncio.timeout(PATIENCE):
            while not self._frames:
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError
                self._frames += self._decoder.feed(data)
        return parse(self._frames.pop(0), self.version)

    async def hears_nothing_more(self) -> bool:
        """Whether the server hangs up without another word."""
        try:
            await self.hear()
        except (EOFError, ConnectionResetError):
            self.writer.close()
            return True
        return False

    async def admitted(self, properties: Properties | None = None) -> None:
        """Log in and subscribe."""
        self.connect(properties=properties)
        connack = await self.hear()
        assert isinstance(connack, Connack)
        assert connack.code == 0, connack
        self.say(Subscribe(1, (Subscription(self.topic("reply"), 0),)))
        await self.hear()

    async def answered(self, payload: bytes = b"claim", kind: str = "request") -> bytes:
        """Claim and return the answer."""
        self.claim(payload, kind)
        reply = await self.hear()
        assert isinstance(reply, Publish), reply
        assert reply.topic == self.topic("reply")
        return reply.payload

    async def refused(self) -> int:
        """Try to log in and return the code of the refusal."""
        self.connect()
        return await self.told_refusal()

    async def told_refusal(self) -> int:
        connack = await self.hear()
        assert isinstance(connack, Connack)
        assert connack.code != 0
        assert await self.hears_nothing_more()
        return connack.code


class Served:
    """A listening endpoint, and the clients that were opened to it."""

    def __init__(self, service: Answering, limits: EndpointLimits) -> None:
        self.service = service
        self.endpoint = Endpoint(service, limits)
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self, version: int = V311, client_id: str = "dev-1") -> Client:
        return await self.open_at(self.port, version, client_id)

    async def open_at(
        self, port: int, version: int = V311, client_id: str = "dev-1", trust: ssl.SSLContext | None = None
    ) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
        self._writers.append(writer)
        return Client(version, reader, writer, client_id)

    async def admitted(self, version: int = V311, client_id: str = "dev-1") -> Client:
        client = await self.open(version, client_id)
        await client.admitted()
        return client

    async def close(self) -> None:
        self.service.gate.set()
        for writer in self._writers:
            writer.close()
        await self.endpoint.drain(PATIENCE)
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)


@asynccontextmanager
async def served(limits: EndpointLimits | None = None) -> AsyncIterator[Served]:
    """An endpoint on a free port, drained in the end."""
    world = Served(Answering(), limits or EndpointLimits())
    world.port = await world.endpoint.start("127.0.0.1", 0)
    try:
        yield world
    finally:
        await world.close()


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext, Path]:
    """A server's and a client's TLS context around one fresh certificate for localhost; and the file that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, private = folder / "server.pem", folder / "server.key"
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(trusted, private)
    return server, ssl.create_default_context(cafile=trusted), trusted


async def until(holds: Callable[[], bool]) -> None:
    """Let the event loop turn until `holds`."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  what sockets have done has no event
            await asyncio.sleep(0)


async def until_still(value: Callable[[], int]) -> None:
    """Let the event loop turn until `value` has not changed for a while."""
    last, same = value(), 0
    async with asyncio.timeout(PATIENCE):
        while same < 1000:
            await asyncio.sleep(0)
            last, same = value(), same + 1 if value() == last else 0
