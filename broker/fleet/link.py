"""One MQTT connection of a device, 3.1.1 or 5, plain or TLS.

1. Nothing runs in the background: whoever waits for a message reads the socket. Each wait may be cancelled without
   losing anything.
2. A PUBACK means nothing to a device (wire contract, section 3), so publishing does not wait for it.
3. Whatever goes wrong is `Lost`; a server that said no is `Refused`, which is one.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from broker.fleet.replies import Address
from broker.mqtt.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    MalformedPacket,
    Packet,
    Pingreq,
    Properties,
    Puback,
    Publish,
    ReasonCode,
    ReturnCode,
    Suback,
    Subscribe,
    Subscription,
    encode,
    parse,
)

OPEN_TIME: Final = 10.0
KEEP_ALIVE: Final = 60
LARGEST_PACKET: Final = 262_144
_SHUT_TIME: Final = 2.0

_WORDS: Final[dict[int, dict[int, str]]] = {
    V311: {
        ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION: "the protocol version is not accepted",
        ReturnCode.IDENTIFIER_REJECTED: "the client id is not accepted",
        ReturnCode.SERVER_UNAVAILABLE: "the server is busy",
        ReturnCode.BAD_USER_NAME_OR_PASSWORD: "the user name or password is wrong",
        ReturnCode.NOT_AUTHORIZED: "the login is not accepted",
    },
    V5: {
        ReasonCode.UNSUPPORTED_PROTOCOL_VERSION: "the protocol version is not accepted",
        ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: "the client id is not accepted",
        ReasonCode.SERVER_UNAVAILABLE: "the server is busy",
        ReasonCode.QUOTA_EXCEEDED: "there are too many connections",
        ReasonCode.BAD_USER_NAME_OR_PASSWORD: "the user name or password is wrong",
        ReasonCode.NOT_AUTHORIZED: "the login is not accepted",
    },
}
_BANNED: Final = 0x8A
_FOR_GOOD: Final[dict[int, set[int]]] = {
    V311: {
        ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION,
        ReturnCode.IDENTIFIER_REJECTED,
        ReturnCode.BAD_USER_NAME_OR_PASSWORD,
        ReturnCode.NOT_AUTHORIZED,
    },
    V5: {
        ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
        ReasonCode.CLIENT_IDENTIFIER_NOT_VALID,
        ReasonCode.BAD_USER_NAME_OR_PASSWORD,
        ReasonCode.NOT_AUTHORIZED,
        ReasonCode.BAD_AUTHENTICATION_METHOD,
        _BANNED,
    },
}


Tap = Callable[[str, Packet], None]
"""Told of each packet: who sent it, `device` or `server`, and what it is."""


class Lost(Exception):
    """The connection is gone or could not be had; `str()` says why."""


class Refused(Lost):
    """The server said no, with this code; `for_good` if asking again as we are cannot help."""

    def __init__(self, text: str, code: int, *, for_good: bool) -> None:
        super().__init__(text)
        self.code = code
        self.for_good = for_good


@dataclass(frozen=True, slots=True)
class Login:
    """Who connects; without a user name it is the certificate of the TLS context that says so."""

    client_id: str
    username: str
    password: str = field(repr=False)


class Link:
    """An open connection; made by `open`."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        version: int,
        patience: float,
        tap: Tap | None = None,
    ) -> None:
        self._tap = tap
        self._reader = reader
        self._writer = writer
        self._version = version
        self._patience = patience
        self._decoder = Decoder(LARGEST_PACKET)
        self._packets: deque[Packet] = deque()
        self._messages: deque[Publish] = deque()
        self._packet_id = 0
        self._keep_alive: float = KEEP_ALIVE

    @classmethod
    async def open(
        cls,
        address: Address,
        login: Login,
        *,
        version: int = V311,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        seconds: float = OPEN_TIME,
        tap: Tap | None = None,
    ) -> Self:
        """Connect and log in within `seconds`, which SUBSCRIBE then gets as well; raises Lost or Refused.

        `server_name` is what a certificate has to be for, the host of `address` if None.
        """
        where = f"{address.host}:{address.port}"
        link = None
        try:
            async with asyncio.timeout(seconds):
                link = cls(*await _open_streams(address, tls, server_name), version, seconds, tap)
                await link._log_in(login)
        except BaseException as error:
            if link is not None:
                await link._shut()
            if isinstance(error, TimeoutError):
                raise Lost(f"{where} does not answer") from None
            if isinstance(error, ssl.SSLCertVerificationError):
                raise Lost(f"the certificate of {where} is not trusted: {error.verify_message}") from None
            if isinstance(error, OSError):
                raise Lost(f"{where} cannot be reached: {error.strerror or error}") from None
            raise
        return link

    async def subscribe(self, topic_filter: str) -> None:
        """Subscribe at QoS 1 and wait for SUBACK; raises Lost or Refused."""
        packet_id = self._next_id()
        self._write(Subscribe(packet_id, (Subscription(topic_filter, 1),)))
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    packet = await self._next()
                    if isinstance(packet, Suback) and packet.packet_id == packet_id:
                        break
                    self._keep(packet)
        except TimeoutError:
            raise Lost("SUBSCRIBE is not answered") from None
        code = packet.codes[0] if packet.codes else 0x80
        if code >= 0x80:
            raise Refused(_said(f"SUBSCRIBE is refused (0x{code:02X})", packet.properties), code, for_good=True)

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        """Send at QoS 0 or 1."""
        self._write(Publish(topic, payload, qos, self._next_id() if qos else 0))

    async def receive(self) -> bytes:
        """Wait for the next message; raises Lost."""
        while not self._messages:
            try:
                async with asyncio.timeout(self._keep_alive * 0.75):
                    self._keep(await self._next())
            except TimeoutError:
                self._write(Pingreq())
        return self._messages.popleft().payload

    async def close(self) -> None:
        """Say goodbye and close."""
        self._write(Disconnect())
        await self._shut()

    async def vanish(self) -> None:
        """Be gone without a goodbye, once what was written has left."""
        self._writer.transport.set_write_buffer_limits(0)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_SHUT_TIME):
                await self._writer.drain()
        self._writer.transport.abort()

    async def _shut(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_SHUT_TIME):
                await self._writer.wait_closed()

    async def _log_in(self, login: Login) -> None:
        properties = Properties()
        if self._version == V5:
            properties = Properties(receive_maximum=4, maximum_packet_size=LARGEST_PACKET)
        self._write(
            Connect(
                login.client_id,
                self._version,
                keep_alive=KEEP_ALIVE,
                username=login.username or None,
                password=login.password.encode() if login.username else None,
                properties=properties,
            )
        )
        packet: Packet = await self._next()
        if not isinstance(packet, Connack):
            raise Lost("the server does not speak MQTT: it did not answer with CONNACK")
        if packet.code:
            words = _WORDS[self._version].get(packet.code, "the server says no")
            text = _said(f"{words} (CONNACK 0x{packet.code:02X})", packet.properties)
            raise Refused(text, packet.code, for_good=packet.code in _FOR_GOOD[self._version])
        self._keep_alive = packet.properties.get("server_keep_alive", KEEP_ALIVE) or KEEP_ALIVE

    def _keep(self, packet: Packet) -> None:
        if isinstance(packet, Publish):
            if packet.qos:
                self._write(Puback(packet.packet_id))
            self._messages.append(packet)
        elif isinstance(packet, Disconnect):
            raise Lost(_said(f"the server closes the connection (0x{packet.code:02X})", packet.properties))

    async def _next(self) -> Packet:
        try:
            while not self._packets:
                data = await self._reader.read(65536)
                if not data:
                    raise Lost("the server closed the connection")
                self._packets.extend(parse(frame, self._version) for frame in self._decoder.feed(data))
        except MalformedPacket as error:
            raise Lost(f"the server breaks the protocol: {error}") from None
        except OSError as error:
            raise Lost(f"the connection broke: {error.strerror or error}") from None
        packet = self._packets.popleft()
        if self._tap is not None:
            self._tap("server", packet)
        return packet

    def _write(self, packet: Packet) -> None:
        if self._tap is not None:
            self._tap("device", packet)
        if not self._writer.is_closing():  # uvloop raises where asyncio forgets
            self._writer.write(encode(packet, self._version))

    def _next_id(self) -> int:
        self._packet_id = self._packet_id % 0xFFFF + 1
        return self._packet_id


async def _open_streams(
    address: Address, tls: ssl.SSLContext | None, server_name: str | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not address.tls:
        return await asyncio.open_connection(address.host, address.port)
    context = tls or ssl.create_default_context()
    return await asyncio.open_connection(
        address.host,
        address.port,
        ssl=context,
        server_hostname=server_name or address.host,
        ssl_shutdown_timeout=_SHUT_TIME,
    )


def _said(text: str, properties: Properties) -> str:
    """`text` and the server's own words, if it gave any."""
    reason = properties.get("reason_string")
    return f"{text}: {reason}" if reason else text
