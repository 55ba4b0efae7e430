"""One session inside amqtt, seen from both ends: our requests, and the pair of buffers amqtt takes for a connection.

1. Only packets written here go in: CONNECT, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT, one request at a time per identifier.
2. A request returns when amqtt has answered it; if amqtt ends the session instead, every request fails and the owner
   is told.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from broker.mqtt.packets import (
    V311,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    Packet,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    encode,
    parse,
)

LISTENER: Final = "default"
"""amqtt wants a listener of this name; links arrive there."""

log = structlog.get_logger()


class RouterFailed(Exception):
    """amqtt left a link that nobody had closed, or does not run."""


class Link:
    """Our end of a session inside amqtt.

    `bring` gets the number of each message, `lost` is called when amqtt ends the session by itself.
    """

    def __init__(self, broker: Any, bring: Callable[[int], None], lost: Callable[[], None]) -> None:
        self._broker = broker
        self._bring = bring
        self._lost = lost
        self._pipe = _Pipe(self._take)
        self._last_id = 0
        # By packet identifier, 0 for CONNACK: who waits for amqtt's answer.
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._closing = False
        self.task = asyncio.create_task(broker.external_connected(self._pipe, self._pipe, LISTENER))
        self.task.add_done_callback(self._ended)

    async def connect(self, name: str) -> None:
        """Introduce the link; RouterFailed when amqtt does not want it."""
        await self._ask(0, Connect(name))

    async def subscribe(self, topic_filters: Sequence[str]) -> None:
        """Add filters; when this returns, later messages will come."""
        packet_id = self._next_id()
        await self._ask(packet_id, Subscribe(packet_id, tuple(map(Subscription, topic_filters))))

    async def unsubscribe(self, topic_filters: Sequence[str]) -> None:
        """Remove filters; a few messages may still come."""
        packet_id = self._next_id()
        await self._ask(packet_id, Unsubscribe(packet_id, tuple(topic_filters)))
        # amqtt keeps a filter that nobody has any more, and compares every message with it for ever.
        known = self._broker.subscriptions
        for topic_filter in topic_filters:
            if topic_filter in known and not known[topic_filter]:
                del known[topic_filter]

    async def close(self) -> None:
        """End the session inside amqtt."""
        self._closing = True
        if not self.task.done():
            self._pipe.send(encode(Disconnect(), V311))
            await asyncio.wait((self.task,))

    def _take(self, packet: Packet) -> None:
        match packet:
            case Publish(payload=payload):
                if not self._closing:
                    self._bring(int.from_bytes(payload))
            case Connack() | Suback() | Unsuback():
                waiter = self._waiting.pop(getattr(packet, "packet_id", 0), None)
                if waiter is not None and not waiter.done():
                    waiter.set_result(None)

    async def _ask(self, packet_id: int, packet: Packet) -> None:
        if self.task.done():
            raise RouterFailed("the link has ended")
        waiter = self._waiting[packet_id] = asyncio.get_running_loop().create_future()
        self._pipe.send(encode(packet, V311))
        await waiter

    def _next_id(self) -> int:
        self._last_id = self._last_id % 65_535 + 1
        return self._last_id

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(RouterFailed("the link has ended"))
        self._waiting.clear()
        if not self._closing:
            log.error("amqtt left a link", exc_info=error)
            self._lost()


class _Pipe:
    """amqtt's end of a link: what it takes for the reader and the writer of a connection.

    Both are told by their methods only, so amqtt's abstract classes are not needed.
    """

    def __init__(self, take: Callable[[Packet], None]) -> None:
        self._take = take
        self._decoder = Decoder()
        self._incoming = bytearray()
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def send(self, data: bytes) -> None:
        """Give amqtt bytes to read."""
        self._incoming += data
        self._wake()

    async def read(self, n: int = -1) -> bytes:
        """Give amqtt exactly `n` bytes, fewer at the end, everything up to the end if negative."""
        while not self._ended and not 0 <= n <= len(self._incoming):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        size = n if n >= 0 else len(self._incoming)
        data = bytes(self._incoming[:size])
        del self._incoming[:size]
        return data

    def feed_eof(self) -> None:
        """Be told by amqtt that no more is to be read."""
        self._ended = True
        self._wake()

    def write(self, data: bytes) -> None:
        """Take packets from amqtt."""
        for frame in self._decoder.feed(data):
            self._take(parse(frame, V311))

    async def drain(self) -> None:
        """Tell amqtt that what it wrote has been taken, as it always has."""

    def get_peer_info(self) -> tuple[str, int]:
        """Give amqtt an address and port for its log."""
        return "guard", 0

    def get_ssl_info(self) -> None:
        """Tell amqtt that there is no TLS in here."""

    async def close(self) -> None:
        """Be told by amqtt that it will not write any more."""
        self.feed_eof()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
