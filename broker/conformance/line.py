"""One connection of the device under test: packets in, packets out, and nothing decided."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from enum import StrEnum

from broker.mqtt.packets import (
    V311,
    Connect,
    Decoder,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    encode,
    parse,
)

_LARGEST = 65_536


class Side(StrEnum):
    """Which of the two brokers a connection is to."""

    CLAIMS = "provision broker"
    WORKS = "device broker"


class Line:
    """An open connection; `take` is told each packet but pings."""

    def __init__(self, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.side = side
        self.version = V311
        self.connect: Connect | None = None
        self.reply_topic = ""
        self._reader = reader
        self._writer = writer
        self._packet_id = 0

    @property
    def is_open(self) -> bool:
        """Whether something can still be said on it."""
        return not self._writer.is_closing()

    @property
    def largest_reply(self) -> int | None:
        """Bytes of the largest packet the device takes, as its CONNECT says (MQTT 5)."""
        found: int | None = self.connect.properties.get("maximum_packet_size") if self.connect else None
        return found

    async def read(self, take: Callable[[Packet], None]) -> None:
        """Read until the end; raises MalformedPacket."""
        decoder = Decoder(_LARGEST)
        with contextlib.suppress(OSError):
            while data := await self._reader.read(_LARGEST):
                for frame in decoder.feed(data):
                    packet = parse(frame, self.version)
                    if isinstance(packet, Connect):
                        self.connect, self.version = packet, packet.version
                    if isinstance(packet, Pingreq):
                        self.send(Pingresp())
                    else:
                        take(packet)

    def send(self, packet: Packet) -> None:
        """Say something, if anybody listens."""
        if self.is_open:
            self._writer.write(encode(packet, self.version))

    def reply(self, payload: bytes) -> None:
        """Publish to the topic it subscribed to, at QoS 1; nothing where it did not subscribe."""
        if not self.reply_topic:
            return
        self._packet_id = self._packet_id % 0xFFFF + 1
        self.send(Publish(self.reply_topic, payload, 1, self._packet_id))

    def acknowledge(self, message: Publish) -> None:
        """PUBACK, where one is due."""
        if message.qos:
            self.send(Puback(message.packet_id))

    def drop(self) -> None:
        """Be gone."""
        if self.is_open:
            self._writer.transport.abort()
