"""The state of one device's session, from the server's side: what MQTT 3.1.1 calls Session state, and no I/O.

1. The quality of service of a delivery is the lower of the publisher's and the highest of the matching subscriptions
   (section 4.3, MQTT-3.3.5-1); a message that matches several subscriptions is delivered once.
2. A subscription begins where it is acknowledged: messages accepted before that are not for it, so nobody gets a
   retained message and the same message live as well.
3. A QoS 1 or 2 message stays until the device acknowledged it, over any number of connections; it is sent once per
   connection and marked DUP from the second time on (MQTT-4.4.0-1). Order is kept (section 4.6).
4. What may wait is bounded in messages and bytes; above the bound the newest are dropped and counted. The retained
   messages that answer a SUBSCRIBE may exceed it, as they are kept by others in any case, but nothing comes on top.
5. While a device is away, QoS 0 messages are not kept.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from broker.mqtt.filters import matches
from broker.mqtt.packets import Publish, Pubrel

# QoS 2 messages of a device that it has not released; nobody needs as many.
_MAX_UNRELEASED: Final = 1024


@dataclass(frozen=True, slots=True)
class Message:
    """A message on its way. `sequence` counts what the router accepted; `retain` is the flag the receiver will see."""

    sequence: int
    topic: str
    payload: bytes
    qos: int
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait for a device: unsent, and sent but not yet acknowledged; sizes are bytes of payload."""

    queued: int
    queued_bytes: int
    inflight: int
    inflight_bytes: int


@dataclass(frozen=True, slots=True)
class _Subscription:
    """Granted quality of service, and the sequence number after which messages count."""

    qos: int
    since: int


def _nothing() -> None:
    """What is called on a new message while the device is away."""


class DeviceSession:
    """Subscriptions, unacknowledged messages and the queue of one device; `connected` while a connection serves it."""

    def __init__(self, bounds: Bounds) -> None:
        self.connected = False
        self.dropped = 0
        self.on_message: Callable[[], None] = _nothing
        self.bounds = bounds
        self._subscriptions: dict[str, _Subscription] = {}
        self._unreleased: set[int] = set()
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0
        # By packet identifier, in the order of sending; None: received by the device, PUBREL sent (QoS 2).
        self._inflight: dict[int, Message | None] = {}
        self._inflight_bytes = 0
        self._again: deque[int] = deque()
        self._last_id = 0
        self._last_sequence = 0

    @property
    def filters(self) -> frozenset[str]:
        """The topic filters subscribed to."""
        return frozenset(self._subscriptions)

    @property
    def waiting(self) -> int:
        """Messages not yet sent, or not yet acknowledged."""
        return len(self._queue) + len(self._inflight)

    def connect(self, on_message: Callable[[], None]) -> None:
        """Begin to serve a connection: what was sent and not acknowledged will be sent again first."""
        self.connected = True
        self.on_message = on_message
        self._again = deque(self._inflight)

    def disconnect(self) -> None:
        """End the connection's service; the state stays for the next one."""
        self.connected = False
        self._queue = deque(message for message in self._queue if message.qos)
        self._queued_bytes = sum(len(message.payload) for message in self._queue)
        self.on_message = _nothing

    def subscribe(self, topic_filter: str, qos: int, sequence: int, retained: Iterable[Message] = ()) -> None:
        """Add or change a subscription that begins after `sequence`, and queue the retained messages it matches."""
        former = self._subscriptions.get(topic_filter)
        self._subscriptions[topic_filter] = _Subscription(qos, sequence if former is None else former.since)
        full = self._is_full(0)  # it may subscribe again and again without reading the answers
        for message in retained:
            if full:
                self.dropped += 1
            else:
                self._append(replace(message, qos=min(qos, message.qos), retain=True))

    def unsubscribe(self, topic_filter: str) -> bool:
        """Remove a subscription; whether there was one."""
        return self._subscriptions.pop(topic_filter, None) is not None

    def offer(self, message: Message) -> None:
        """Take a message the router brings, if a subscription wants it."""
        if message.sequence <= self._last_sequence:
            return  # the same message for another of the device's subscriptions
        granted = [
            subscription.qos
            for topic_filter, subscription in self._subscriptions.items()
            if subscription.since < message.sequence and matches(topic_filter, message.topic)
        ]
        if not granted:
            return
        self._last_sequence = message.sequence
        qos = min(message.qos, max(granted))
        if not self.connected and qos == 0:
            return
        if self._is_full(len(message.payload)):
            self.dropped += 1
            return
        self._append(message if qos == message.qos else replace(message, qos=qos))
        self.on_message()

    def next(self) -> Publish | Pubrel | None:
        """Take the next packet for the device; None when there is none, or too much is unacknowledged."""
        while self._again:
            packet_id = self._again.popleft()
            if packet_id in self._inflight:
                message = self._inflight[packet_id]
                return Pubrel(packet_id) if message is None else _publish(message, packet_id, dup=True)
        if not self._queue or (self._queue[0].qos and self._window_is_full()):
            return None
        message = self._queue.popleft()
        self._queued_bytes -= len(message.payload)
        if message.qos == 0:
            return _publish(message, 0)
        packet_id = self._free_id()
        self._inflight[packet_id] = message
        self._inflight_bytes += len(message.payload)
        return _publish(message, packet_id)

    def acknowledge(self, packet_id: int) -> None:
        """PUBACK: a QoS 1 message has arrived. Unknown identifiers are ignored, as after a restart of ours."""
        message = self._inflight.get(packet_id)
        if message is not None and message.qos == 1:
            self._inflight_bytes -= len(message.payload)
            del self._inflight[packet_id]

    def received(self, packet_id: int) -> Pubrel:
        """PUBREC: a QoS 2 message has arrived; the answer releases it, also where we do not know it (any more)."""
        message = self._inflight.get(packet_id)
        if message is not None and message.qos == 2:
            self._inflight_bytes -= len(message.payload)
            self._inflight[packet_id] = None
        return Pubrel(packet_id)

    def complete(self, packet_id: int) -> None:
        """PUBCOMP: the device has forgotten the identifier, and so may we."""
        if packet_id in self._inflight and self._inflight[packet_id] is None:
            del self._inflight[packet_id]

    def accept(self, packet_id: int) -> bool:
        """QoS 2 PUBLISH from the device: whether it is new; OverflowError when too many are not released."""
        if packet_id in self._unreleased:
            return False
        if len(self._unreleased) >= _MAX_UNRELEASED:
            raise OverflowError("too many QoS 2 messages are not released")
        self._unreleased.add(packet_id)
        return True

    def release(self, packet_id: int) -> None:
        """PUBREL from the device: the identifier may name a new message."""
        self._unreleased.discard(packet_id)

    def _append(self, message: Message) -> None:
        self._queue.append(message)
        self._queued_bytes += len(message.payload)

    def _is_full(self, more: int) -> bool:
        bounds = self.bounds
        return len(self._queue) >= bounds.queued or self._queued_bytes + more > bounds.queued_bytes

    def _window_is_full(self) -> bool:
        bounds, more = self.bounds, len(self._queue[0].payload)
        # A message larger than the window goes alone.
        too_large = self._inflight_bytes > 0 and self._inflight_bytes + more > bounds.inflight_bytes
        return too_large or len(self._inflight) >= bounds.inflight

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65_535 + 1
            if self._last_id not in self._inflight:
                return self._last_id


def _publish(message: Message, packet_id: int, *, dup: bool = False) -> Publish:
    return Publish(message.topic, message.payload, message.qos, packet_id, message.retain, dup)
