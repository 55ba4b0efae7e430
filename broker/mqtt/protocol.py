"""The server's side of one provisioning session, MQTT 3.1.1 and 5: bytes in; events and bytes out.

No socket and no clock: `now` is monotonic seconds, handed in. After every call the caller writes `data_to_send()`,
closes once `ended` is set and stops reading while `wants_data` is false; it calls `tick` at `next_deadline`.

1. CONNECT is checked in this order: protocol version, client id, Will; then the caller decides on capacity and login.
   What the client sent meanwhile waits.
2. A session publishes to its own `request` and `ack` and subscribes to its own `reply`; the rest is refused or ends it.
3. PUBACK goes out on receipt and promises nothing. One message, one reply, nothing unsolicited.
4. Only complete packets are signs of life; while an answer is being made the session is not idle.
5. Memory is bounded before anything else: at most `in_flight` messages are with the caller, at most
   `packets_per_second` are taken; the rest stays with the client.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import ClassVar, Final, Literal

from broker.mqtt.conversation import BadTopic, Event, Login, Message, Refusal, ReplyTooLarge, SessionLimits
from broker.mqtt.packets import (
    V5,
    V311,
    Auth,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    MalformedPacket,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Publish,
    ReasonCode,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    UnsupportedVersion,
    encode,
    parse,
)
from broker.mqtt.sender import Sender, WindowFull
from broker.mqtt.topics import Topics
from provisioner.policy import is_identifier

__all__ = ["HUNG_UP", "BadTopic", "Event", "Login", "Message", "Refusal", "ReplyTooLarge", "Session", "SessionLimits"]

HUNG_UP: Final = "client disconnected"
"""`Session.ended` of a client that left by itself."""

# While packets are held back, reading goes on up to here: a client that writes ahead a little costs no system calls.
_HELD_BYTES: Final = 1024
# A hair's breadth below one, for rounding: a tick at the deadline must find its packet.
_ONE_TOKEN: Final = 1 - 1e-6
_ONLY_OWN: Final = "only the session's own topics may be used"
_OUT_OF_PLACE: Final = "packet is out of place here"
_NO_SUBSCRIPTION_EXISTED: Final = 0x11


_Handlers = dict[type, Callable[..., None]]


class Session:
    """One connection's conversation; see the module's rules. Times are monotonic seconds."""

    __slots__ = (
        "_ack_topic",
        "_claim_due",
        "_deciding",
        "_decoder",
        "_ends_at",
        "_handlers",
        "_held",
        "_idle_limit",
        "_keep_alive",
        "_last_packet",
        "_limits",
        "_open",
        "_request_topic",
        "_sender",
        "_throttled_until",
        "_tokens",
        "_tokens_at",
        "_topics",
        "client_id",
        "ended",
        "in_flight",
        "refused",
        "user",
    )

    def __init__(self, topics: Topics, limits: SessionLimits, now: float) -> None:
        self._topics = topics
        self._limits = limits
        self._decoder = Decoder(limits.max_packet)
        self._sender = Sender()
        self._handlers = self._FIRST
        self._request_topic = self._ack_topic = ""
        # Until CONNECT is complete this is its time limit, then the first claim's.
        self._claim_due = now + limits.connect_time
        self._last_packet = now
        # Nobody is idle before CONNACK; the limit begins with it.
        self._idle_limit = math.inf
        self._keep_alive = limits.idle_time
        self._ends_at = now + limits.session_time
        # A bucket of one second's packets: an honest conversation is shorter and never waits.
        self._tokens = limits.packets_per_second
        self._tokens_at = now
        self._throttled_until = math.inf
        # Packets are held back: for the caller to decide, or for a place among the messages in flight.
        self._deciding = self._held = False
        self._open = False
        self.user = ""
        self.client_id = ""
        self.in_flight = 0
        """Messages handed out and not yet answered."""
        self.ended: str | None = None
        """Why the conversation is over, once it is: write what is left, then close."""
        self.refused: Refusal | None = None
        """How CONNECT was refused, if it was."""

    # What the caller tells us.

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take bytes from the client; return what the caller has to decide, in order."""
        if self.ended is not None:
            return []
        self._decoder.append(data)
        return self._advance(now)

    def admit(self, now: float) -> list[Event]:
        """The login was right: CONNACK goes out, and what the client sent meanwhile is looked at.

        Raises UnknownTopic when the user name is outside the grammar: no such user can exist.
        """
        topics = self._topics.session(self.user, self.client_id)
        self._request_topic, self._sender.reply_topic, self._ack_topic = topics
        self._open = True
        self._deciding = self._held = False
        self._claim_due = now + self._limits.first_claim_time
        self._idle_limit = min(self._limits.idle_time, self._keep_alive)
        self._last_packet = now
        try:
            self._sender.write(_connack(self._limits, self._sender.version))
        except ReplyTooLarge:
            self._end("client takes no packet as large as CONNACK")
        return self._go_on(now)

    def refuse(self, refusal: Refusal) -> None:
        """Answer CONNECT with a refusal, and end."""
        if self.ended is not None:
            return
        code = refusal.reason_code if self._sender.version == V5 else refusal.return_code
        with contextlib.suppress(ReplyTooLarge):
            self._sender.explain(Connack(code), refusal.words)
        self.refused = refusal
        self._end(refusal.words)

    def reply(self, message: Message, payload: bytes, content_type: str, now: float, copies: int = 1) -> list[Event]:
        """Answer one message; return what became due because a place is free again.

        Raises ReplyTooLarge when the client could not take the reply, which is then not sent.
        """
        self.in_flight -= 1
        if self.ended is not None:
            return []
        self._held = self._deciding
        self._last_packet = now
        try:
            for _ in range(copies):
                self._sender.reply(payload, content_type, message.correlation)
        except WindowFull:
            self.disconnect(ReasonCode.QUOTA_EXCEEDED, "replies are asked for and not acknowledged")
        return self._go_on(now)

    def reply_and_end(self, payload: bytes, content_type: str) -> None:
        """Answer a `BadTopic`, and end."""
        if self.ended is None:
            self._sender.reply(payload, content_type, None)
            self._end("published to another topic")

    def disconnect(self, code: ReasonCode, words: str) -> None:
        """End from our side; MQTT 5 clients with a session are told why."""
        if self.ended is not None:
            return
        if self._sender.version == V5 and self._open:
            with contextlib.suppress(ReplyTooLarge):
                self._sender.explain(Disconnect(code), words)
        self._end(words)

    def tick(self, now: float) -> list[Event]:
        """Do what is due at `now`, on time or late."""
        if now >= self._ends_at:
            self.disconnect(ReasonCode.MAXIMUM_CONNECT_TIME, "session lasted too long")
        elif now >= self._claim_due:
            self.disconnect(ReasonCode.MAXIMUM_CONNECT_TIME, "nothing was claimed in time")
        elif not self.in_flight and now >= self._last_packet + self._idle_limit:
            self.disconnect(ReasonCode.KEEP_ALIVE_TIMEOUT, "nothing was heard in time")
        return self._advance(now)

    # What we tell the caller.

    @property
    def next_deadline(self) -> float:
        """When to call `tick` at the latest; infinite once ended."""
        if self.ended is not None:
            return math.inf
        deadline = min(self._ends_at, self._claim_due, self._throttled_until)
        idle_at = self._last_packet + self._idle_limit
        return idle_at if idle_at < deadline and not self.in_flight else deadline

    @property
    def wants_data(self) -> bool:
        """False while the caller should stop reading: packets are held back and enough of them are here."""
        held = self._held or self._throttled_until is not math.inf
        return not held or self._decoder.buffered < _HELD_BYTES

    def data_to_send(self) -> bytes:
        """Bytes for the client, each only once."""
        return self._sender.take()

    # Reading.

    def _go_on(self, now: float) -> list[Event]:
        """Take what was held back, if anything was."""
        return self._advance(now) if self._decoder.buffered else []

    def _advance(self, now: float) -> list[Event]:
        """Take the packets that are here, as far as they may be taken now."""
        events: list[Event] = []
        rate = self._limits.packets_per_second
        self._tokens = min(rate, self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        decoder = self._decoder
        try:
            while not self._held and self._tokens > _ONE_TOKEN and (frame := decoder.take()) is not None:
                self._tokens -= 1
                self._last_packet = now
                packet = parse(frame, self._sender.version)
                handle = self._handlers.get(type(packet), _refuse_out_of_place)
                handle(self, packet, events)
        except UnsupportedVersion as fault:
            self._on_unsupported_version(fault.level)
        except MalformedPacket as fault:
            self.disconnect(fault.code, str(fault))
        except ReplyTooLarge:
            self._end("client takes no packet as large as the answer")
        self._throttled_until = math.inf if self._tokens > _ONE_TOKEN else now + (1 - self._tokens) / rate
        return events

    def _on_unsupported_version(self, level: int) -> None:
        if self._handlers is self._FIRST:
            self._sender.version = V311 if level < V5 else V5
            self.refuse(Refusal.VERSION)
        else:  # a second CONNECT has no answer, whatever its version (MQTT-3.1.0-2)
            self.disconnect(ReasonCode.PROTOCOL_ERROR, _OUT_OF_PLACE)

    def _on_connect(self, packet: Connect, events: list[Event]) -> None:
        self._sender.heed(packet)
        if not is_identifier(packet.client_id):
            self.refuse(Refusal.CLIENT_ID)
        elif packet.will is not None:
            self.refuse(Refusal.WILL)
        elif "authentication_method" in packet.properties:
            self.refuse(Refusal.METHOD)
        else:
            # On MQTT 5 the Server Keep Alive we answer with replaces the client's (MQTT-3.2.2-21).
            if packet.version == V311 and packet.keep_alive:
                self._keep_alive = packet.keep_alive * 1.5
            self._handlers = self._AFTERWARDS
            self._deciding = self._held = True
            self._claim_due = math.inf
            self.user, self.client_id = packet.username or "", packet.client_id
            events.append(Login(self.user, packet.password or b"", self.client_id))

    def _on_publish(self, packet: Publish, events: list[Event]) -> None:
        if "topic_alias" in packet.properties:
            self.disconnect(ReasonCode.TOPIC_ALIAS_INVALID, "topic aliases are not offered")
        elif packet.retain:
            self.disconnect(ReasonCode.RETAIN_NOT_SUPPORTED, "retained messages are not accepted")
        elif packet.qos == 2:
            self.disconnect(ReasonCode.QOS_NOT_SUPPORTED, "QoS 2 is not offered")
        elif packet.topic == self._request_topic:
            self._on_message("request", packet, events)
        elif packet.topic == self._ack_topic:
            self._on_message("ack", packet, events)
        else:
            self._on_other_topic(packet, events)

    def _on_message(self, kind: Literal["request", "ack"], packet: Publish, events: list[Event]) -> None:
        if packet.qos:
            self._sender.puback(packet.packet_id)
        self._claim_due = math.inf
        self.in_flight += 1
        self._held = self.in_flight >= self._limits.in_flight
        correlation = packet.properties.get("correlation_data")
        events.append(Message(kind, packet.payload, self._sender.reply_limit(correlation), correlation))

    def _on_other_topic(self, packet: Publish, events: list[Event]) -> None:
        if self._sender.version == V5:
            if packet.qos:
                self._sender.explain(Puback(packet.packet_id, ReasonCode.NOT_AUTHORIZED), _ONLY_OWN)
            self.disconnect(ReasonCode.NOT_AUTHORIZED, _ONLY_OWN)
            return
        if packet.qos:
            self._sender.puback(packet.packet_id)
        # Nothing more is taken: the caller's next word is the reply that ends it.
        self._deciding = self._held = True
        events.append(BadTopic())

    def _on_subscribe(self, packet: Subscribe, _events: list[Event]) -> None:
        refused = ReasonCode.NOT_AUTHORIZED if self._sender.version == V5 else ReasonCode.UNSPECIFIED_ERROR
        codes = [
            self._sender.subscribe(item, packet.properties)
            if item.topic_filter == self._sender.reply_topic
            else int(refused)
            for item in packet.subscriptions
        ]
        suback = Suback(packet.packet_id, tuple(codes))
        if refused in codes:
            self._sender.explain(suback, _ONLY_OWN)
        else:
            self._sender.send(suback)

    def _on_unsubscribe(self, packet: Unsubscribe, _events: list[Event]) -> None:
        codes = tuple(
            0 if topic_filter == self._sender.reply_topic and self._sender.unsubscribe() else _NO_SUBSCRIPTION_EXISTED
            for topic_filter in packet.topic_filters
        )
        self._sender.send(Unsuback(packet.packet_id, codes))

    def _on_puback(self, packet: Puback, _events: list[Event]) -> None:
        self._sender.acknowledged(packet.packet_id)

    def _on_pingreq(self, _packet: Pingreq, _events: list[Event]) -> None:
        self._sender.send(Pingresp())

    def _on_disconnect(self, _packet: Disconnect, _events: list[Event]) -> None:
        self._end(HUNG_UP)

    def _on_auth(self, _packet: Auth, _events: list[Event]) -> None:
        self.disconnect(ReasonCode.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not offered")

    def _end(self, words: str) -> None:
        if self.ended is None:
            self.ended = words
            # What was held back is not looked at any more and need not be kept.
            self._decoder = Decoder(0)
            self._held = True

    # What a client may say: first CONNECT and nothing else, then all else but CONNECT (MQTT-3.1.0-1, MQTT-3.1.0-2).
    _FIRST: ClassVar[_Handlers] = {Connect: _on_connect}
    _AFTERWARDS: ClassVar[_Handlers] = {
        Publish: _on_publish,
        Subscribe: _on_subscribe,
        Unsubscribe: _on_unsubscribe,
        Puback: _on_puback,
        Pingreq: _on_pingreq,
        Disconnect: _on_disconnect,
        Auth: _on_auth,
    }


def _refuse_out_of_place(_session: Session, _packet: Packet, _events: list[Event]) -> None:
    raise MalformedPacket(_OUT_OF_PLACE, ReasonCode.PROTOCOL_ERROR)


@functools.lru_cache(maxsize=8)
def _connack(limits: SessionLimits, version: int) -> bytes:
    """Spell the CONNACK of a right login: what this server offers, the same for every session."""
    if version == V311:
        return encode(Connack(), V311)
    properties = Properties(
        session_expiry_interval=0,
        receive_maximum=limits.in_flight,
        maximum_qos=1,
        retain_available=0,
        maximum_packet_size=limits.max_packet,
        server_keep_alive=limits.server_keep_alive,
    )
    return encode(Connack(properties=properties), V5)
