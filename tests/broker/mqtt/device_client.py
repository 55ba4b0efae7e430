"""A bare MQTT 3.1.1 device for the tests of the device broker, logins for it, and the broker itself."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from broker.mqtt.embedded import EmbeddedBroker
from broker.mqtt.grant import Authenticate, AuthenticateCertificate, Grant, GuardLimits
from broker.mqtt.packets import (
    V311,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
    encode,
    parse,
)

PATIENCE = 10.0

P = TypeVar("P", bound=Packet)


@dataclass
class Logins:
    """Everybody's password is `pw`; a user name is `{account}.{anything}`, its rights those of the account."""

    filters: tuple[str, ...] = ("shared/#",)
    asked: list[tuple[str, str]] = field(default_factory=list)
    own: bool = True

    async def __call__(self, username: str, password: bytes, client_id: str, _source: str) -> Grant | None:
        self.asked.append((username, client_id))
        if password != b"pw":
            return None
        account = username.partition(".")[0]
        filters = (*self.filters, f"{account}/{client_id}/#") if self.own else self.filters
        return Grant(account, username, client_id, filters, filters)


class DeviceClient:
    """One connection. Messages are acknowledged as they come, unless `acknowledge` is False."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.acknowledge = True
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()
        self._frames = self._decoder.feed(b"")
        self._messages: deque[Publish] = deque()
        self._id = 0

    async def send(self, *packets: Packet) -> None:
        await self.send_bytes(b"".join(encode(packet, V311) for packet in packets))

    async def send_bytes(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self._writer.drain()

    async def stream(self, times: int, chunk: bytes) -> bool:
        """Send a chunk again and again; whether the broker took it all."""
        try:
            for _time in range(times):
                await self.send_bytes(chunk)
        except ConnectionError:
            return False
        return True

    async def packet(self, version: int = V311) -> Packet | None:
        """Read the next packet; None at the end of the connection."""
        async with asyncio.timeout(PATIENCE):
            while (frame := next(self._frames, None)) is None:
                try:
                    data = await self._reader.read(65_536)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._frames = self._decoder.feed(data)
        packet = parse(frame, version)
        if self.acknowledge:
            await self._answer(packet)
        return packet

    async def receive(self, kind: type[P]) -> P:
        """Read up to the next packet of a kind; messages on the way are kept for `message`."""
        while not isinstance(packet := await self.packet(), kind):
            assert packet is not None, f"connection ended before {kind.__name__}"
            if isinstance(packet, Publish):
                self._messages.append(packet)
        return packet

    async def message(self) -> Publish:
        """Read the next message."""
        return self._messages.popleft() if self._messages else await self.receive(Publish)

    async def messages(self, count: int) -> list[tuple[str, bytes]]:
        """Read topic and payload of the next messages."""
        return [(message.topic, message.payload) for message in [await self.message() for _ in range(count)]]

    async def subscribe(self, *topic_filters: str, qos: int = 0) -> tuple[int, ...]:
        """Subscribe; the codes of SUBACK."""
        self._id += 1
        await self.send(Subscribe(self._id, tuple(Subscription(one, qos) for one in topic_filters)))
        suback = await self.receive(Suback)
        assert suback.packet_id == self._id
        return suback.codes

    async def unsubscribe(self, *topic_filters: str) -> None:
        self._id += 1
        await self.send(Unsubscribe(self._id, topic_filters))
        assert (await self.receive(Unsuback)).packet_id == self._id

    async def publish(self, topic: str, payload: bytes = b"", qos: int = 0, *, retain: bool = False) -> None:
        """Publish, to the end of the acknowledgements."""
        self._id += 1
        packet_id = self._id if qos else 0
        await self.send(Publish(topic, payload, qos, packet_id, retain))
        if qos == 1:
            assert (await self.receive(Puback)).packet_id == packet_id
        elif qos == 2:
            assert (await self.receive(Pubrec)).packet_id == packet_id
            await self.send(Pubrel(packet_id))
            assert (await self.receive(Pubcomp)).packet_id == packet_id

    async def ping(self) -> None:
        await self.send(Pingreq())
        await self.receive(Pingresp)

    async def ended(self) -> list[Packet]:
        """Read to the end of the connection: what came before it."""
        packets = []
        while (packet := await self.packet()) is not None:
            packets.append(packet)
        self._writer.close()
        return packets

    async def raw_end(self) -> bytes:
        """Read the bytes to the end of the connection."""
        async with asyncio.timeout(PATIENCE):
            data = await self._reader.read()
        self._writer.close()
        return data

    @property
    def unread(self) -> bool:
        """Whether messages came that nobody has asked for yet."""
        return bool(self._messages)

    async def leave(self) -> None:
        """Say DISCONNECT, and wait until the broker has closed."""
        await self.send(Disconnect())
        await self.ended()

    def vanish(self) -> None:
        """Break off without a word."""
        self._writer.transport.abort()

    async def _answer(self, packet: Packet) -> None:
        match packet:
            case Publish(qos=1, packet_id=packet_id):
                await self.send(Puback(packet_id))
            case Publish(qos=2, packet_id=packet_id):
                await self.send(Pubrec(packet_id))
            case Pubrel(packet_id=packet_id):
                await self.send(Pubcomp(packet_id))

    def close(self) -> None:
        """Let go of the socket, as the end of a test does."""
        self._writer.close()


class Site:
    """A device broker that listens, and its devices."""

    def __init__(self, broker: EmbeddedBroker, port: int) -> None:
        self.broker = broker
        self.port = port
        self._clients: list[DeviceClient] = []

    async def open(self) -> DeviceClient:
        """Connect without a word."""
        client = DeviceClient(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    async def connect(
        self,
        client_id: str = "dev-1",
        username: str = "acme.dev-1",
        *,
        clean: bool = True,
        keep_alive: int = 60,
        will: Will | None = None,
        present: bool = False,
    ) -> DeviceClient:
        """Connect and be admitted."""
        client = await self.open()
        await client.send(Connect(client_id, V311, clean, keep_alive, username, b"pw", will))
        assert await client.receive(Connack) == Connack(0, session_present=present)
        return client

    async def refused(
        self,
        client_id: str = "dev-1",
        username: str | None = "acme.dev-1",
        password: bytes | None = b"pw",
        *,
        clean: bool = True,
        will: Will | None = None,
    ) -> int:
        """Connect and be refused; the return code."""
        client = await self.open()
        await client.send(Connect(client_id, V311, clean, 60, username, password, will))
        [connack] = await client.ended()
        assert isinstance(connack, Connack)
        return connack.code

    def close(self) -> None:
        """Let go of all sockets."""
        for client in self._clients:
            client.close()


@asynccontextmanager
async def guarded(
    limits: GuardLimits | None = None,
    logins: Authenticate | None = None,
    by_certificate: AuthenticateCertificate | None = None,
) -> AsyncIterator[Site]:
    """Start a device broker that listens."""
    broker = EmbeddedBroker(logins or Logins(), limits, by_certificate)
    site = Site(broker, await broker.start("127.0.0.1", 0))
    try:
        yield site
    finally:
        site.close()
        await broker.close()
