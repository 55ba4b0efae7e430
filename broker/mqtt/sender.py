"""What goes out to one client: held to the packet size, the window and the manners it asked for in CONNECT.

1. Nothing larger than the client's Maximum Packet Size is sent; a reason string is left out before a packet is.
2. Reason strings stand only where the contract has them, and only in CONNACK and DISCONNECT when the client set Request
   Problem Information to 0; never in a PUBLISH.
3. On MQTT 5 at most Receive Maximum replies of QoS 1 are unacknowledged; further ones wait, a few. On 3.1.1 none waits.
"""

from typing import Final

from broker.mqtt.conversation import ReplyTooLarge
from broker.mqtt.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Properties,
    Puback,
    Publish,
    Suback,
    Subscription,
    encode,
)

# Seconds a reply is worth delivering, said to MQTT 5 clients (contract, section 3).
_REPLY_EXPIRY: Final = 60
# Replies that may wait for the client's PUBACKs before it asks for more than it takes.
_MAX_WAITING: Final = 8
_LONGEST_CONTENT_TYPE: Final = "application/json"


class WindowFull(Exception):
    """The client asks for more QoS 1 replies than it acknowledges."""


class Sender:
    """Collects the bytes for one client. `version` and `reply_topic` are set as they become known."""

    __slots__ = (
        "_max_packet",
        "_out",
        "_packet_id",
        "_reason_strings",
        "_receive_maximum",
        "_subscribed_qos",
        "_subscription_identifier",
        "_unacknowledged",
        "_waiting",
        "reply_topic",
        "version",
    )

    def __init__(self) -> None:
        self.version = V311
        self.reply_topic = ""
        self._out = b""
        self._max_packet: int | None = None
        self._receive_maximum = 65535
        self._reason_strings = True
        self._subscribed_qos: int | None = None
        self._subscription_identifier: tuple[int, ...] = ()
        self._packet_id = 0
        self._unacknowledged: set[int] = set()
        self._waiting: list[tuple[int, bytes]] = []

    def heed(self, connect: Connect) -> None:
        """Take the client's wishes from its CONNECT (MQTT 5 section 3.1.2.11)."""
        properties = connect.properties
        self.version = connect.version
        self._max_packet = properties.get("maximum_packet_size")
        self._receive_maximum = properties.get("receive_maximum", 65535)
        self._reason_strings = properties.get("request_problem_information", 1) == 1

    def subscribe(self, subscription: Subscription, properties: Properties) -> int:
        """Subscribe the client to its replies; return the granted QoS."""
        self._subscribed_qos = min(subscription.qos, 1)
        self._subscription_identifier = properties.get("subscription_identifier", ())
        return self._subscribed_qos

    def unsubscribe(self) -> bool:
        """Forget the subscription; return whether there was one."""
        was, self._subscribed_qos, self._subscription_identifier = self._subscribed_qos, None, ()
        return was is not None

    def take(self) -> bytes:
        """Return what is to be written, each byte only once."""
        data, self._out = self._out, b""
        return data

    def write(self, data: bytes) -> None:
        """Send an encoded packet; ReplyTooLarge when the client cannot take it."""
        self._check_size(data)
        self._out += data

    def send(self, packet: Packet) -> None:
        """Send a packet; ReplyTooLarge when the client cannot take it."""
        self.write(encode(packet, self.version))

    def puback(self, packet_id: int) -> None:
        """Acknowledge; the form without reason is the same in both versions."""
        self.write(bytes((0x40, 2, packet_id >> 8, packet_id & 0xFF)))

    def explain(self, packet: Connack | Puback | Suback | Disconnect, words: str) -> None:
        """Send a packet with a reason string, where the client wants to hear one and has room for it."""
        if self.version == V5 and (self._reason_strings or isinstance(packet, Connack | Disconnect)):
            packet.properties["reason_string"] = words
            try:
                self.send(packet)
            except ReplyTooLarge:
                del packet.properties["reason_string"]
            else:
                return
        self.send(packet)

    def reply(self, payload: bytes, content_type: str, correlation: bytes | None) -> None:
        """Publish a reply as the client subscribed; without subscription at QoS 0.

        Raises ReplyTooLarge or WindowFull; nothing was sent then.
        """
        qos = self._subscribed_qos or 0
        packet_id = self._free_packet_id() if qos else 0
        properties = self._reply_properties(content_type, correlation) if self.version == V5 else Properties()
        data = encode(Publish(self.reply_topic, payload, qos, packet_id, properties=properties), self.version)
        self._check_size(data)
        if not qos or self.version == V311:
            self._out += data
        elif len(self._unacknowledged) < self._receive_maximum:
            self._out += data
            self._unacknowledged.add(packet_id)
        elif len(self._waiting) < _MAX_WAITING:
            self._waiting.append((packet_id, data))
        else:
            raise WindowFull

    def acknowledged(self, packet_id: int) -> None:
        """The client has one reply: send what waited for that."""
        self._unacknowledged.discard(packet_id)
        while self._waiting and len(self._unacknowledged) < self._receive_maximum:
            waited_id, data = self._waiting.pop(0)
            self._unacknowledged.add(waited_id)
            self._out += data

    def reply_limit(self, correlation: bytes | None) -> int | None:
        """Payload bytes of the largest reply the client takes, whatever its subscription; None without limit."""
        if self._max_packet is None:
            return None
        properties = self._reply_properties(_LONGEST_CONTENT_TYPE, correlation)
        empty = encode(Publish(self.reply_topic, b"", 1, 1, properties=properties), V5)
        # With its payload the packet's remaining length may take up to three bytes more than here.
        return max(0, self._max_packet - len(empty) - 3)

    def _check_size(self, data: bytes) -> None:
        if self._max_packet is not None and len(data) > self._max_packet:
            raise ReplyTooLarge

    def _reply_properties(self, content_type: str, correlation: bytes | None) -> Properties:
        properties = Properties(message_expiry_interval=_REPLY_EXPIRY, content_type=content_type)
        if correlation is not None:
            properties["correlation_data"] = correlation
        if self._subscription_identifier:
            properties["subscription_identifier"] = self._subscription_identifier
        return properties

    def _free_packet_id(self) -> int:
        taken = self._unacknowledged
        if self._waiting:
            taken = taken.union(packet_id for packet_id, _ in self._waiting)
        while True:
            self._packet_id = self._packet_id % 65535 + 1
            if self._packet_id not in taken:
                return self._packet_id
