"""One connection to somebody else's broker, on aiomqtt: what a service needs that answers thousands of clients there.

1. Small packets leave at once: without TCP_NODELAY a PUBACK and the message behind it wait 40 ms for each other.
2. QoS 1 is acknowledged by the receiver of a message, when it takes it into work. aiomqtt acknowledges on arrival and
   then queues without bound or drops; what is not acknowledged waits at the broker, within its own limits.
3. Sending never waits. Whoever sends counts what `sent` did not report yet, and stops in time.
4. MQTT 5 where the broker speaks it: Receive Maximum and Maximum Packet Size then bound what it may send us.

aiomqtt 2 has no public way to acknowledge by hand, to send without a task each, or to see a CONNACK's properties. So
`Upstream` overrides four of its callbacks and uses the paho client behind it; the tests of the bridge would notice.
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
from typing import Any, Final, Self, TypeAlias
from urllib.parse import urlsplit

import aiomqtt
import paho.mqtt.client as paho
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.mqtt.properties import Properties, write_properties

KEEP_ALIVE: Final = 15
"""Seconds; a broker that vanished without a word is missed within twice as many."""
MAX_PACKET: Final = 16_384
MAX_RECEIVED: Final = 256
"""Messages the broker may have on their way to us that we have not taken; MQTT 5 only."""
_WINDOW: Final = 100
"""Letters on their way to the broker at once."""
_TIMEOUT: Final = 5.0
_NO_DELAY: Final = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
_UNSUPPORTED: Final = (1, 0x84)

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
    """A message that is sent; `properties` are left out on 3.1.1. Sent again until the loop's clock says `until`."""

    topic: str
    payload: bytes = field(repr=False)
    until: float
    properties: Packed | None = None
    retain: bool = False


Received: TypeAlias = paho.MQTTMessage
"""A message as paho has it."""


class Packed:
    """Properties of a PUBLISH as bytes, in the place of paho's: those cost more than all else a reply takes."""

    __slots__ = ("_data",)

    def __init__(self, properties: Properties) -> None:
        self._data = write_properties(properties, PacketTypes.PUBLISH)

    def pack(self) -> bytes:
        """What paho asks for."""
        return self._data


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
            max_inflight_messages=0,  # none of paho's: see `send`
            socket_options=_NO_DELAY,
        )
        self.v5 = v5
        self.server: PahoProperties | None = None
        """What the broker said of itself in CONNACK; MQTT 5 only."""
        self._under_way: dict[int, Letter] = {}
        self._outbox: deque[Letter] = deque()
        self._window = _WINDOW
        self._hung_up = False
        self._receive = receive
        self._sent = sent
        self._client.manual_ack_set(True)
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
        # Never more than the broker's Receive Maximum, which paho does not heed: it would be a protocol error.
        while self._outbox and len(self._under_way) < self._window:
            letter = self._outbox.popleft()
            properties = letter.properties if self.v5 else None
            info = self._client.publish(letter.topic, letter.payload, 1, letter.retain, properties)
            self._under_way[info.mid] = letter

    def take(self, message: Received) -> None:
        """Acknowledge a message."""
        if message.qos:
            self._client.ack(message.mid, message.qos)

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

    def _on_message(self, client: Any, userdata: Any, message: Received) -> None:  # noqa: ARG002  # paho's signature
        self._receive(self, message)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:  # noqa: ARG002  # paho's signature
        letter = self._under_way.pop(mid, None)
        if letter is not None:
            self._sent(letter, int(getattr(reason_code, "value", 0) or 0))
            self._send_more()
