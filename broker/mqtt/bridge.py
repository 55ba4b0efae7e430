"""The provisioning conversation through somebody else's broker: we are one of its clients, and so are the devices.

1. Who sent a message is known from its topic alone. That is as good as the broker's access control, which must hold
   user name and client id in topics to those of the login (`broker.doctor` proves it). `examine` is asked on each new
   connection, and while it finds a leak nothing is subscribed and nothing answered.
2. The broker hides addresses and TLS: claims come from the source `bridge` on connection 0, where plain and keyless
   ones are refused, and wrong keys are limited by client id and in all.
3. At most `in_work` messages are being answered or wait for their reply's PUBACK. What comes meanwhile is not
   acknowledged, so the rest stays with the broker. What a broker sends all the same (QoS 0, and Mosquitto 2.0 more than
   the Receive Maximum once the first PUBACKs are there) waits here; above `waiting` it is dropped, and counted.
4. Replies are QoS 1, never retained, and outlive 60 s nowhere. What was not acknowledged when a connection broke is
   sent again on the next one: a device repeats its claim anyhow, this saves it the wait.
5. A retained message is answered by clearing its topic: nobody is there who sent it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from broker.mqtt.interface import Answer, Inbound, Service
from broker.mqtt.messages import CONTENT_TYPE
from broker.mqtt.properties import Properties
from broker.mqtt.topics import Address, Topics, UnknownTopic
from broker.mqtt.upstream import Away, Letter, LoginRefused, Received, Site, Upstream, packed
from provisioner.model import SHARED
from provisioner.ports import Entropy

SOURCE: Final = "bridge"
EXPIRY: Final = 60
"""Seconds a reply may wait at the broker (MQTT 5)."""
_REFUSED: Final = 0x80
_KINDS: Final = ("request", "ack")
_MOST_CLEARED: Final = 1_000

log = structlog.get_logger(__name__)

Examine = Callable[[], Awaitable[Sequence[str]]]
"""What is wrong with the broker's access control, a sentence each; empty when nothing is."""


@dataclass(frozen=True, slots=True)
class BridgeLimits:
    """Times in seconds."""

    in_work: int = 1_000
    waiting: int = 4_096
    """Messages that wait for a place; more than the broker may have under way, and than Mosquitto queues."""
    shortest_pause: float = 0.2
    longest_pause: float = 5.0
    """Between two connections: doubled with each in vain, and a share of it by chance."""
    steady: float = 5.0
    """A connection that held for so long was a good one."""
    again: float = 30.0
    """Until the broker's access control is examined again."""


@dataclass(slots=True)
class BridgeCounters:
    """Counts since the start, for metrics."""

    connections: int = 0
    messages: int = 0
    dropped: int = 0
    retained: int = 0
    foreign: int = 0
    """Messages on topics of ours with a name outside the grammar."""
    refused: Counter[int] = field(default_factory=Counter)
    """Replies the broker did not take, by its reason code."""

    @property
    def told(self) -> dict[str, int]:
        """By event, for metrics."""
        return {
            "connected": self.connections,
            "received": self.messages,
            "dropped": self.dropped,
            "retained": self.retained,
            "foreign": self.foreign,
            "reply-refused": self.refused.total(),
        }


class _Leaks(Exception):
    """The broker lets devices read or write what is not theirs; the arguments are the findings."""


class Bridge:
    """Answers devices at the broker of `site` with what `service` says; `start`, then `drain`.

    `share` names the workers that share the messages of one broker ($share); empty when this is the only one.
    `dotless`: the broker maps dots (RabbitMQ), so names with one cannot be told from others and are refused.
    """

    def __init__(
        self,
        service: Service,
        site: Site,
        topics: Topics,
        entropy: Entropy,
        *,
        share: str = "",
        dotless: bool = False,
        examine: Examine | None = None,
        limits: BridgeLimits | None = None,
    ) -> None:
        self._service = service
        self._site = site
        self._topics = topics
        self._entropy = entropy
        self._dotless = dotless
        self._examine = examine
        self._limits = limits or BridgeLimits()
        # One id for the only worker: a second one by mistake throws it out, and shows in the log.
        self._client_id = f"provisioner-{share}-{entropy(4).hex()}" if share else "provisioner-bridge"
        prefix = f"$share/{share}/" if share else ""
        self._filters = [prefix + topics.every(kind) for kind in _KINDS]
        self._plain_properties = {kind: _properties(kind, None) for kind in CONTENT_TYPE.values()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[Upstream, Received, Address]] = deque()
        self._cleared: set[str] = set()
        self._in_work = 0
        self._unsent: list[Letter] = []
        self._upstream: Upstream | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._tried = asyncio.Event()
        self._told = ""
        self._ending = False
        self._keeper: asyncio.Task[None] | None = None
        self._clock = asyncio.get_running_loop().time
        self.counters = BridgeCounters()

    @property
    def is_serving(self) -> bool:
        """Whether messages are answered now."""
        return self._upstream is not None

    @property
    def unacknowledged(self) -> int:
        """Replies that no broker has taken yet."""
        return len(self._unsent) + (0 if self._upstream is None else len(self._upstream.unacknowledged))

    async def start(self, patience: float) -> None:
        """Begin; returns when the first attempt is over, at the latest after `patience` seconds."""
        self._keeper = asyncio.create_task(self._keep())
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._tried.wait()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109  what is late is cut off, no exception
        """Take nothing more, answer what is in work, at most `timeout` seconds, then disconnect."""
        self._ending = True
        with suppress(TimeoutError, Away):  # who is not answered repeats its claim
            async with asyncio.timeout(timeout):
                if self._upstream is not None:
                    await self._upstream.unsubscribe_from(self._filters)
                    await self._idle.wait()
        self._waiting.clear()
        # The connection first, so that nothing more can be begun.
        for tasks in ([self._keeper] if self._keeper else [], self._tasks):
            ending = list(tasks)
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    # The connection.

    async def _keep(self) -> None:
        """Connect and serve, again and again, until cancelled."""
        limits = self._limits
        pause = limits.shortest_pause
        while not self._ending:
            began = self._clock()
            try:
                await self._connect()
            except Away as error:
                self._tell(str(error))
                if self._clock() - began >= limits.steady:
                    pause = limits.shortest_pause
            except _Leaks as error:
                pause = limits.again
                self._tell_leaks(error.args)
            except Exception:
                log.exception("the bridge failed")
            self._tried.set()
            # By chance a share of it: workers that lost one broker do not come back together.
            await asyncio.sleep(pause * (1 + int.from_bytes(self._entropy(4)) / 2**32) / 2)
            pause = min(limits.longest_pause, pause * 2)

    async def _connect(self) -> None:
        """Serve on one connection until it breaks: MQTT 5, or 3.1.1 where that is not spoken. Raises Away, _Leaks."""
        try:
            await self._serve(v5=True)
        except LoginRefused as error:
            if not error.wrong_version:
                raise
            await self._serve(v5=False)

    async def _serve(self, *, v5: bool) -> None:
        async with Upstream(self._site, self._client_id, v5=v5, receive=self._receive, sent=self._sent) as upstream:
            if self._examine is not None and (findings := await self._examine()):
                raise _Leaks(*findings)
            granted = await upstream.subscribe_to(self._filters)
            if any(code >= _REFUSED for code in granted):
                raise Away(f"the broker refuses the bridge the filters {' and '.join(self._filters)}")
            self._upstream = upstream
            try:
                self.counters.connections += 1
                self._told = ""
                log.info("the bridge serves", broker=str(self._site), mqtt="5" if v5 else "3.1.1")
                self._send_again()
                self._tried.set()
                raise Away(await upstream.broken())
            finally:
                self._upstream = None
                self._unsent += upstream.unacknowledged

    def _tell(self, trouble: str) -> None:
        if trouble != self._told:
            log.warning("the bridge is not connected", broker=str(self._site), detail=trouble)
        self._told = trouble

    def _tell_leaks(self, findings: Sequence[str]) -> None:
        if (trouble := "; ".join(findings)) != self._told:
            log.error("the broker leaks, so the bridge does not serve on it", broker=str(self._site), findings=findings)
        self._told = trouble

    # Messages.

    def _receive(self, upstream: Upstream, message: Received) -> None:
        """A message came: from here on a message is in work, waits, or is dropped and counted."""
        self.counters.messages += 1
        address = self._address(message)
        if address is None:
            self.counters.foreign += 1
            upstream.take(message)
        elif self._in_work < self._limits.in_work:
            self._begin(upstream, message, address)
        elif len(self._waiting) < self._limits.waiting:
            self._waiting.append((upstream, message, address))
        else:
            self.counters.dropped += 1
            upstream.take(message)  # what is never acknowledged would narrow the broker's window for good

    def _address(self, message: Received) -> Address | None:
        """Whose message it is; None: nobody's who could be answered."""
        try:
            address = self._topics.parse(message.topic)
        except UnknownTopic:
            return None
        if self._dotless and ("." in address.user or "." in address.client_id):
            return None
        return address

    def _begin(self, upstream: Upstream, message: Received, address: Address) -> None:
        upstream.take(message)
        if not message.payload and (message.retain or message.topic in self._cleared):
            self._cleared.discard(message.topic)  # a topic being cleared, by us or by another worker
            return
        if message.retain:
            self.counters.retained += 1
            if len(self._cleared) >= _MOST_CLEARED:  # a broker that does not bring them back
                self._cleared.clear()
            self._cleared.add(message.topic)
            self._send(Letter(message.topic, b"", self._clock() + EXPIRY, retain=True))
            return
        self._enter()
        task = asyncio.get_running_loop().create_task(self._answer(message, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Received, address: Address) -> None:
        try:
            answer = await self._service.answer(
                Inbound(
                    address.user,
                    address.client_id,
                    "request" if address.kind == "request" else "ack",
                    message.payload,
                    SOURCE,
                    secure=False,
                    tls=False,
                    connection=SHARED,
                    reply_limit=None,
                )
            )
            letter = Letter(
                self._topics.reply(address.user, address.client_id),
                answer.payload,
                self._clock() + EXPIRY,
                self._properties(answer, message),
            )
            for _ in range(answer.copies):
                self._send(letter)
        except Exception:
            log.exception("service failed", source=SOURCE, client_id=address.client_id)
        finally:
            self._leave()

    def _properties(self, answer: Answer, message: Received) -> bytes:
        if message.correlation is None:
            return self._plain_properties[answer.content_type]
        return _properties(answer.content_type, message.correlation)

    # Replies.

    def _send(self, letter: Letter) -> None:
        self._enter()
        if self._upstream is not None:
            self._upstream.send(letter)
        else:
            self._unsent.append(letter)

    def _sent(self, letter: Letter, code: int) -> None:
        if code >= _REFUSED:
            if not self.counters.refused[code]:
                log.error("the broker does not let the bridge publish", topic=letter.topic, code=f"0x{code:02X}")
            self.counters.refused[code] += 1
        self._leave()

    def _send_again(self) -> None:
        """What the connection before did not bring to the broker, as far as somebody may still wait for it."""
        unsent, self._unsent = self._unsent, []
        for letter in unsent:
            if letter.until > self._clock():
                self._send(letter)
            self._leave()

    def _enter(self) -> None:
        self._in_work += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._in_work -= 1
        while self._waiting and self._in_work < self._limits.in_work:
            self._begin(*self._waiting.popleft())
        if not self._in_work:
            self._idle.set()


def _properties(content_type: str, correlation: bytes | None) -> bytes:
    properties = Properties(message_expiry_interval=EXPIRY, content_type=content_type)
    if correlation is not None:
        properties["correlation_data"] = correlation
    return packed(properties)
