"""A server of a few lines on a free loopback port: provisioner and device broker at once, as far as units notice."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Self

from broker.fleet.replies import Address
from broker.mqtt.packets import (
    Connack,
    Connect,
    Decoder,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Publish,
    Suback,
    Subscribe,
    encode,
    parse,
)
from tests.broker.fleet import double


class Tiny:
    """`connack` and `answer` may be replaced; `answer` returns replies, or None to close the connection."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.connects: list[Connect] = []
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.packets: list[Packet] = []
        self.suback = 1
        self.connack: Callable[[Connect], Connack] = lambda _: Connack()
        self.answer: Callable[[str, dict[str, Any]], list[bytes] | None] = self.be_kind
        self._tls = tls
        self._talks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, failure: object, *_: object) -> None:
        self._server.close()
        if failure:
            for task in self._talks:
                task.cancel()
        if self._talks:
            await asyncio.wait(self._talks)  # clients are gone by now; what they said last is still to be read
        await self._server.wait_closed()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port, tls=self._tls is not None)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def be_kind(self, topic: str, message: dict[str, Any]) -> list[bytes] | None:
        """Offer, then confirm, whatever is sent; the device's next broker is this server."""
        if topic.endswith("/ack"):
            return [double.reply(message, "confirmed", generation=1)]
        return [double.offer(message, url=self.url)]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._talks.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder, version, reply_topic = Decoder(), 4, ""
        while data := await reader.read(65536):
            for frame in decoder.feed(data):
                packet = parse(frame, version)
                self.packets.append(packet)
                answers: list[Packet] = []
                match packet:
                    case Connect():
                        version = packet.version
                        self.connects.append(packet)
                        answers = [self.connack(packet)]
                    case Subscribe():
                        reply_topic = packet.subscriptions[0].topic_filter
                        said = (
                            Properties(reason_string="not yours") if self.suback > 1 and version == 5 else Properties()
                        )
                        answers = [Suback(packet.packet_id, (self.suback,), said)]
                    case Publish():
                        message = double.read(packet.payload)
                        self.messages.append((packet.topic, message))
                        found = self.answer(packet.topic, message)
                        if found is None:
                            return
                        replies = [Publish(reply_topic, octets, 1, 7) for octets in found]
                        answers = [Puback(packet.packet_id), *replies]
                    case Pingreq():
                        answers = [Pingresp()]
                    case Disconnect():
                        return
                writer.write(b"".join(encode(answer, version) for answer in answers))
