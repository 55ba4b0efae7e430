"""One connection to somebody else's broker, on aiomqtt: what a service needs that answers thousands of clients there.

1. aiomqtt has the connection: login, TLS, keep-alive, subscriptions, the end. Messages and their acknowledgements go
   past it and paho (`message_socket`): what those spend on each was as much as the rest of a hand-over.
2. Small packets leave at once: without TCP_NODELAY a PUBACK and the message behind it wait 40 ms for each other.
3. QoS 1 is acknowledged by the receiver of a message, when it takes it into work. aiomqtt acknowledges on arrival and
   then queues without bound or drops; what is not acknowledged waits at the broker, within its own limits.
4. Sending never waits. Whoever sends counts what `sent` did not report yet, and stops in time.
5. MQTT 5 where the broker speaks it: Receive Maximum and Maximum Packet Size then bound what it may send us.
6. A topic is read whatever its bytes are: what is no UTF-8 gets U+FFFD in it, which no name of ours has. A device must
   not be able to break the connection of all.

aiomqtt 2 has no public way to acknowledge by hand, to send without a task each, or to see a CONNACK's properties. So
`Upstream` overrides its callbacks from paho, and gives paho another socket; the tests of the bridge would notice.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import aiomqtt
import paho.mqtt.client as paho
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.mqtt.message_socket import PUBACK, Frame, MessageSocket, NotMqtt
from broker.mqtt.packets import PUBLISH, MalformedPacket
from broker.mqtt.properties import Properties, read_properties, write_properties
from broker.mqtt.wire import Reader, write_text, write_uint16, write_varint

KEEP_ALIVE: Final = 15
"""Seconds; a broker that vanished without a word is missed within twice as many."""
MAX_PACKET: Final = 16_384
MAX_RECEIVED: Final = 256
"""Messages the broker may have on their way to us that we have not taken; MQTT 5 only."""
_WINDOW: Final = 100
"""Letters on their way to the broker at once."""
_TIMEOUT: Final = 5.0
_UNSUPPORTED: Final = (1, 0x84)
_FIRST_ID: Final = 0x1000
"""Of letters; paho counts its few SUBSCRIBEs from 1, and both are packet identifiers of one client."""

_quiet = logging.getLogger("provisioner.upstream")
_quiet.setLevel(logging.CRITICAL)  # who uses it says what there is to say


class Away(Exception):
    """The broker cannot be reached, or the connection broke; `str()` says why."""


class LoginRefused(Away):
    """The broker says no; `code` is its reason. `wrong_version`: it does not speak this version of MQTT."""

    def __init__(self, code: int, words: str, *, wrong_version: bool) -> None:
        super().__init__(words)
        self.code = code
        self.wrong_version = wrong_version


@dataclass(frozen=True, slots=True)
class Site:
    """Where a broker is and who we are there: `mqtt://host[:port]` or `mqtts://…`, user name and password."""

    url: str
    login: tuple[str, str] | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """Name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """As written, or the usual one."""
        return urlsplit(self.url).port or (8883 if self.url.startswith("mqtts:") else 1883)

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that is sent, and again until the loop's clock says `until`.

    `properties` are as `packed` writes them; 3.1.1 has none.
    """

    topic: str
    payload: bytes = field(repr=False)
    until: float
    properties: bytes = b"\0"
    retain: bool = False


class Received(NamedTuple):
    """A message that came; `packet_id` is 0 at QoS 0, `correlation` MQTT 5's."""

    topic: str
    payload: bytes
    packet_id: int
    retain: bool
    correlation: bytes | None


def packed(properties: Properties) -> bytes:
    """Properties of a letter."""
    return write_properties(properties, PUBLISH)


class Upstream(aiomqtt.Client):
    """A connection, usable once: `async with`. `receive` is called with each message and has to be quick.

    `sent` is called with each letter the broker acknowledged, and its reason code (0 on 3.1.1).
    """

    def __init__(
        self,
        site: Site,
        client_id: str,
        *,
        v5: bool,
        receive: Callable[[Upstream, Received], None],
        sent: Callable[[Letter, int], None],
    ) -> None:
        properties = None
        if v5:
            properties = PahoProperties(PacketTypes.CONNECT)
            properties.ReceiveMaximum = MAX_RECEIVED
            properties.MaximumPacketSize = MAX_PACKET
        username, password = site.login or (None, None)
        super().__init__(
            site.host,
            site.port,
            username=username,
            password=password,
            identifier=client_id,
            logger=_quiet,
            protocol=aiomqtt.ProtocolVersion.V5 if v5 else aiomqtt.ProtocolVersion.V311,
            clean_session=None if v5 else True,
            clean_start=True if v5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
            tls_context=site.tls,
            keepalive=KEEP_ALIVE,
            timeout=_TIMEOUT,
        )
        self.v5 = v5
        self.server: PahoProperties | None = None
        """What the broker said of itself in CONNACK; MQTT 5 only."""
        self._under_way: dict[int, Letter] = {}
        self._outbox: deque[Letter] = deque()
        self._window = _WINDOW
        self._last_id = _FIRST_ID
        self._socket: MessageSocket | None = None
        self._hung_up = False
        self._receive = receive
        self._sent = sent
        self._client.disable_logger()

    async def __aenter__(self) -> Self:
        """Connect and log in; raises Away."""
        try:
            await super().__aenter__()
        except MqttConnectError as error:
            code = error.rc if isinstance(error.rc, int) else int(getattr(error.rc, "value", 0x80))
            words = f"the broker refuses the login of the bridge ({error})"
            raise LoginRefused(code, words, wrong_version=self.v5 and code in _UNSUPPORTED) from None
        except (aiomqtt.MqttError, ValueError) as error:
            if self._hung_up:
                raise LoginRefused(0, str(error), wrong_version=self.v5) from None
            raise Away(str(error) or type(error).__name__) from None
        return self

    async def __aexit__(self, *raised: Any) -> None:  # noqa: PYI036  # aiomqtt's are typed
        """Disconnect, if there is still something to disconnect from."""
        with suppress(aiomqtt.MqttError):
            await super().__aexit__(*raised)
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # looked at: asyncio complains of one that nobody saw

    async def subscribe_to(self, filters: list[str]) -> list[int]:
        """SUBSCRIBE at QoS 1 and wait for SUBACK; the codes granted, 0x80 and above refusals. Raises Away."""
        try:
            if self.v5:
                options = SubscribeOptions(qos=1, retainAsPublished=True)
                granted = await self.subscribe([(one, options) for one in filters])
            else:
                granted = await self.subscribe([(one, 1) for one in filters])
        except aiomqtt.MqttError as error:
            raise Away(str(error)) from None
        return [code if isinstance(code, int) else int(code.value) for code in granted]

    async def unsubscribe_from(self, filters: list[str]) -> None:
        """UNSUBSCRIBE and wait for UNSUBACK. Raises Away."""
        try:
            await self.unsubscribe(filters)
        except aiomqtt.MqttError as error:
            raise Away(str(error)) from None

    async def broken(self) -> str:
        """Wait until the connection ends; why it did."""
        await asyncio.wait((self._disconnected,))
        return str(self._disconnected.exception() or "closed")

    @property
    def is_open(self) -> bool:
        """Whether sending makes sense."""
        return not self._disconnected.done()

    @property
    def unacknowledged(self) -> list[Letter]:
        """What was sent and not acknowledged yet, oldest first."""
        return [*self._under_way.values(), *self._outbox]

    def send(self, letter: Letter) -> None:
        """Send at QoS 1; `sent` is called once it is acknowledged."""
        self._outbox.append(letter)
        self._send_more()

    def _send_more(self) -> None:
        # Never more than the broker's Receive Maximum: it would be a protocol error.
        while self._outbox and len(self._under_way) < self._window and self._socket is not None:
            letter, packet_id = self._outbox.popleft(), self._free_id()
            self._under_way[packet_id] = letter
            self._socket.write(_publish(letter, packet_id, v5=self.v5))

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id + 1 if self._last_id < 0xFFFF else _FIRST_ID
            if self._last_id not in self._under_way:
                return self._last_id

    def take(self, message: Received) -> None:
        """Acknowledge a message."""
        if message.packet_id and self._socket is not None:
            self._socket.write(b"\x40\x02" + write_uint16(message.packet_id))

    def _handle(self, frame: Frame) -> None:
        """A PUBLISH or PUBACK came. Raises NotMqtt."""
        try:
            if frame.first >> 4 != PUBACK:
                self._receive(self, _message(frame, v5=self.v5))
                return
            packet_id = Reader(frame.body).packet_id()
        except (MalformedPacket, IndexError):
            raise NotMqtt("a message or its acknowledgement is malformed") from None
        letter = self._under_way.pop(packet_id, None)
        if letter is not None:
            self._sent(letter, frame.body[2] if len(frame.body) > 2 else 0)
            self._send_more()

    # aiomqtt's callbacks from paho.

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode, properties: PahoProperties | None = None
    ) -> None:
        self.server = properties
        self._window = min(_WINDOW, getattr(properties, "ReceiveMaximum", _WINDOW))
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode, properties: PahoProperties | None = None
    ) -> None:
        if not self._connected.done():
            # aiomqtt would wait for its time-out; a broker that does not know a version may just hang up.
            self._hung_up = True
            self._connected.set_exception(aiomqtt.MqttError("the broker closed the connection before CONNACK"))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = client._sock = MessageSocket(sock, self._loop, self._handle)  # noqa: SLF001  # rule 1
        super()._on_socket_open(client, userdata, self._socket)

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:  # noqa: ARG002  # paho's signature
        self._loop.call_soon_threadsafe(client.loop_write)  # there is always room

    def _on_socket_unregister_write(self, client: Any, userdata: Any, sock: Any) -> None:
        """Nothing was registered."""


def _publish(letter: Letter, packet_id: int, *, v5: bool) -> bytes:
    """PUBLISH at QoS 1."""
    body = write_text(letter.topic) + write_uint16(packet_id) + (letter.properties if v5 else b"") + letter.payload
    return bytes((0x33 if letter.retain else 0x32,)) + write_varint(len(body)) + body


def _message(frame: Frame, *, v5: bool) -> Received:
    """Read a PUBLISH. Raises MalformedPacket, IndexError."""
    reader = Reader(frame.body)
    topic = reader.binary().decode(errors="replace")
    packet_id = reader.packet_id() if frame.first & 0x06 else 0
    properties = read_properties(reader, PUBLISH) if v5 else Properties()
    return Received(topic, reader.rest(), packet_id, bool(frame.first & 1), properties.get("correlation_data"))
