"""amqtt as a router: it knows who subscribed to what, and nothing else of ours.

amqtt 0.12.1 keeps sessions, acknowledgements, offline queues and retained messages in ways that lose or leak them: it
acts on a CONNECT before checking the password, forgets what was not acknowledged, queues without bound, and hands every
newcomer the retained messages of everybody's subscriptions. What it does well is to be told topic filters and to say
for each message whose filters match. So that is what it is asked:

1. amqtt opens no socket. A device's session is a `Link`, a pair of buffers in this process that amqtt takes for a
   connection (its public `external` listener). Only packets written by this module go in.
2. A link is a clean session under a name never used again, without Will, without keep-alive, at QoS 0. Nothing that
   amqtt does to sessions on take-over, expiry or loss is ever reached.
3. What goes through amqtt is a message's number; the message stays here, once, however many it is for. amqtt sees no
   payload, and so has none to log or to hold.
4. Not more than a bounded number of messages is under way. amqtt's own queue has no bound and tells nobody its length,
   but it is one queue for all: a ticket sent last comes back last, and then everything before it has been delivered.
5. Retained messages are kept here (`retained`), and their order against live ones is told by the number.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType

from broker.mqtt.device_session import Message
from broker.mqtt.link import LISTENER, Link, RouterFailed
from broker.mqtt.retained import RetainedBounds, RetainedMessages

# Begins with $, so that no filter with a wildcard in front matches it, and devices cannot publish to it.
_TICKETS: Final = "$guard/tickets"
_ANONYMOUS: Final = "amqtt.plugins.authentication.AnonymousAuthPlugin"
# Its loggers write every payload at DEBUG, and each connection and state change at INFO.
_CHATTY: Final = ("amqtt", "transitions")

log = structlog.get_logger()


class Router:
    """Accepts messages and brings each to the links whose filters match.

    `under_way` and `under_way_bytes` bound what is accepted and not yet delivered.
    """

    def __init__(self, retained: RetainedBounds, under_way: int, under_way_bytes: int) -> None:
        self._retained = RetainedMessages(retained)
        self._most = under_way
        self._most_bytes = under_way_bytes
        self._sequence = 0
        self._under_way: dict[int, Message] = {}
        self._bytes = 0
        self._changed = asyncio.Condition()
        self._published = asyncio.Event()
        self._returned: asyncio.Queue[int] = asyncio.Queue()
        self._links: set[Link] = set()
        self._serial = 0
        self._broker: Any = None
        self._collector: asyncio.Task[None] | None = None

    @property
    def sequence(self) -> int:
        """The number of the newest message accepted."""
        return self._sequence

    async def start(self) -> None:
        """Start amqtt in this process, without a socket."""
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        # `bind` must not be empty, and is used for nothing.
        listener = ListenerConfig(type=ListenerType.EXTERNAL, bind="guard")
        # No topic plug-in: without one amqtt allows all, and goes through its filters without letting them change.
        config = BrokerConfig(listeners={LISTENER: listener}, plugins={_ANONYMOUS: {"allow_anonymous": True}})
        self._broker = Broker(config)
        await self._broker.start()
        tickets = await self._open("guard", self._returned.put_nowait, _ignore)
        await tickets.subscribe([_TICKETS])
        self._collector = asyncio.create_task(self._collect())

    async def close(self) -> None:
        """Deliver what is under way, close every link, stop amqtt; once more does nothing."""
        collector, self._collector = self._collector, None
        if collector is None:
            return
        async with self._changed:
            await self._changed.wait_for(lambda: not self._under_way)
        collector.cancel()
        await asyncio.wait((collector,))
        for link in tuple(self._links):
            await link.close()
        await self._broker.shutdown()

    async def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False, username: str = "") -> int:
        """Accept a message for everybody whose filters match; returns its number, later while much is under way.

        The message is accepted, and retained for `username`, before this waits for the first time. RouterFailed before
        `start` and after `close`.
        """
        if self._collector is None:
            raise RouterFailed("the router does not run")
        self._sequence += 1
        message = Message(self._sequence, topic, payload, qos)
        if retain and not self._retained.keep(message, username):
            log.debug("retained message is not kept", username=username)
        self._under_way[message.sequence] = message
        self._bytes += len(payload)
        self._published.set()
        await self._send(topic, message.sequence)
        if self._is_full():
            async with self._changed:
                await self._changed.wait_for(lambda: not self._is_full())
        return message.sequence

    async def open(self, name: str, deliver: Callable[[Message], None], lost: Callable[[], None]) -> Link:
        """Make a link. `deliver` gets its messages, perhaps one several times in a row; `lost`: it ended by itself."""
        self._serial += 1

        def bring(sequence: int) -> None:
            deliver(self._under_way[sequence])

        return await self._open(f"{name}|{self._serial}", bring, lost)

    def retained(self, topic_filter: str) -> Sequence[Message]:
        """The retained messages that a filter matches."""
        return tuple(self._retained.matching(topic_filter))

    async def _open(self, name: str, bring: Callable[[int], None], lost: Callable[[], None]) -> Link:
        link = Link(self._broker, bring, lost)
        self._links.add(link)
        link.task.add_done_callback(lambda _task: self._links.discard(link))
        await link.connect(name)
        return link

    async def _send(self, topic: str, sequence: int) -> None:
        # amqtt's queue is unbounded, so this never waits and keeps the order of the numbers.
        await self._broker.internal_message_broadcast(topic, sequence.to_bytes(8), 0)

    async def _collect(self) -> None:
        """Send a ticket after what is under way, and forget it when the ticket is back (rule 4)."""
        while True:
            await self._published.wait()
            self._published.clear()
            await self._send(_TICKETS, self._sequence)
            delivered = await self._returned.get()
            for sequence in tuple(self._under_way):
                if sequence > delivered:
                    break
                self._bytes -= len(self._under_way.pop(sequence).payload)
            async with self._changed:
                self._changed.notify_all()

    def _is_full(self) -> bool:
        return len(self._under_way) >= self._most or self._bytes >= self._most_bytes


def _ignore() -> None:
    """Do nothing: the ticket link ends with the router."""
