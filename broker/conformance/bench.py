"""The bench: a provision broker and a device broker for one device, and everything that was seen on them, in order.

1. It answers what any broker answers by itself (CONNACK, SUBACK, PUBACK); what a provisioner says is a trial's.
2. It freezes where a trial wants a power cut: from that event on nothing is answered, so the device hangs there however
   long it takes to switch it.
3. A trial reads the events one after the other; what came before is not forgotten.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from broker.conformance.line import Line, Side
from broker.mqtt.packets import V5, V311, Connack, Connect, MalformedPacket, Packet, Publish, Suback, Subscribe

_NOT_AUTHORIZED = {V311: 5, V5: 0x87}


@dataclass(frozen=True, slots=True)
class Seen:
    """Something the device did. `kind`: connect, subscribe, publish, gone or malformed; `at` in the loop's seconds."""

    at: float
    kind: str
    line: Line
    packet: Packet | None = None
    text: str = ""

    @property
    def side(self) -> Side:
        """Where."""
        return self.line.side


@dataclass(frozen=True, slots=True)
class Tls:
    """What both listeners show: `context`, and the PEM that vouches for it."""

    context: ssl.SSLContext
    ca: str


class Bench:
    """Both listeners, open within `async with`. `logins` are the user names and passwords the device broker takes."""

    def __init__(self, user: str, password: str, tls: Tls | None = None) -> None:
        self.user = user
        self.password = password
        self.logins: dict[str, str] = {}
        self.suback_delay = 0.0
        self._is_frozen = False
        self._freezes_at: Callable[[Seen], bool] = lambda _: False
        self.seen: list[Seen] = []
        self.notes: list[tuple[float, str, str]] = []
        """Everything in order, for people: when, who, what."""
        self.tls = tls
        self._read = 0
        self._news = asyncio.Event()
        self._lines: set[Line] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._servers: list[asyncio.Server] = []
        self._clock = asyncio.get_running_loop().time

    async def listen(self, side: Side, host: str, port: int) -> int:
        """Start one of the listeners; returns its port. Raises OSError."""

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(Line(side, reader, writer)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(serve, host, port, ssl=self.tls.context if self.tls else None)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def next(self, wanted: Callable[[Seen], bool], seconds: float) -> Seen | None:
        """The next event that is wanted, and all before it are passed by; None when none comes in time."""
        deadline = self._clock() + seconds
        while True:
            while self._read < len(self.seen):
                self._read += 1
                if wanted(self.seen[self._read - 1]):
                    return self.seen[self._read - 1]
            self._news.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                return None

    def note(self, what: str) -> None:
        """Something that the bench does."""
        self.notes.append((self._clock(), "bench", what))

    def now(self) -> float:
        """The clock of the events."""
        return self._clock()

    def rewind(self, mark: int) -> None:
        """Read again from `mark`."""
        self._read = mark

    def freeze_at(self, wanted: Callable[[Seen], bool]) -> None:
        """Freeze at the next such event."""
        self._freezes_at = wanted

    def freeze(self) -> None:
        """Freeze now."""
        self._is_frozen = True

    def thaw(self) -> None:
        """A device was switched on: what was open before is gone, and everything is answered again."""
        self._is_frozen = False
        self._freezes_at = lambda _: False
        for line in list(self._lines):
            line.drop()
        self._lines.clear()
        self._read = len(self.seen)

    def since(self, mark: int) -> list[Seen]:
        """What was seen from `mark`, an earlier length of `seen`."""
        return self.seen[mark:]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        self.thaw()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, line: Line) -> None:
        self._lines.add(line)
        try:
            await line.read(lambda packet: self._take(line, packet))
        except MalformedPacket as error:
            self._note("malformed", line, text=str(error))
        finally:
            line.drop()
            if line in self._lines:
                self._lines.discard(line)
                self._note("gone", line)

    def _take(self, line: Line, packet: Packet) -> None:
        if line not in self._lines:
            return  # what was still on its way when power failed
        match packet:
            case Connect():
                self._note("connect", line, packet)
                if not self._is_frozen:
                    self._admit(line)
            case Subscribe():
                line.reply_topic = packet.subscriptions[0].topic_filter
                self._note("subscribe", line, packet)
                if not self._is_frozen:
                    self._grant(line, packet)
            case Publish():
                self._note("publish", line, packet)
                if not self._is_frozen:
                    line.acknowledge(packet)

    def _admit(self, line: Line) -> None:
        """Answer CONNECT by the login."""
        connect = line.connect
        if connect is None:
            return
        if line.side is Side.CLAIMS:
            right = (connect.username, connect.password) == (self.user, self.password.encode())
        else:
            password = self.logins.get(connect.username or "")
            right = password is not None and connect.password == password.encode()
        line.send(Connack(0 if right else _NOT_AUTHORIZED[V5 if line.version == V5 else V311]))

    def _grant(self, line: Line, packet: Subscribe) -> None:
        suback = Suback(packet.packet_id, tuple(min(1, one.qos) for one in packet.subscriptions))
        if self.suback_delay:
            asyncio.get_running_loop().call_later(self.suback_delay, line.send, suback)
        else:
            line.send(suback)

    def _note(self, kind: str, line: Line, packet: Packet | None = None, text: str = "") -> None:
        seen = Seen(self._clock(), kind, line, packet, text)
        self.seen.append(seen)
        self.notes.append((seen.at, seen.side, f"{kind} {text or _told(packet)}".rstrip()))
        if self._freezes_at(seen):
            self._is_frozen = True
        self._news.set()


def _told(packet: Packet | None) -> str:
    """A packet in a few words, without anything secret."""
    match packet:
        case Connect():
            return f"as {packet.username}, client id {packet.client_id}, MQTT {packet.version}"
        case Subscribe():
            return ", ".join(one.topic_filter for one in packet.subscriptions)
        case Publish():
            return f"{packet.topic}, {len(packet.payload)} bytes"
        case _:
            return ""
