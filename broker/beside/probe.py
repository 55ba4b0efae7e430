"""One MQTT connection of the doctor, 3.1.1 or 5: it says exactly what it is told to, and keeps all that comes.

1. What the broker answers is reported, not judged: codes of CONNACK, SUBACK and PUBACK, or that it hung up.
2. Messages are kept in the order they came. Whoever waits for one waits for its payload, with a time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from typing import Final, Self, TypeVar

from broker.mqtt.packets import (
    V5,
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
    Suback,
    Subscribe,
    Subscription,
    Will,
    encode,
    parse,
)
from broker.mqtt.upstream import Site

P = TypeVar("P", Connack, Suback, Puback, Pingresp)

PATIENCE: Final = 5.0
"""Seconds for each answer of the broker."""
_LARGEST: Final = 262_144
_KEEP_ALIVE: Final = 60


class Gone(Exception):
    """The broker cannot be reached, hung up, or does not answer; `str()` says which."""


class Refused(Gone):
    """CONNACK says no, with `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the broker refuses the login (0x{code:02X})")
        self.code = code


class Probe:
    """An open connection; made by `open`, ended by `close` or `abort`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self._reader = reader
        self._writer = writer
        self._version = version
        self._decoder = Decoder(_LARGEST)
        self._packet_id = 0
        self._answers: deque[Packet] = deque()
        self._news = asyncio.Condition()
        self._ended: str | None = None
        self._reading: asyncio.Task[None] | None = None
        self.messages: list[Publish] = []

    @classmethod
    async def open(
        cls,
        site: Site,
        client_id: str,
        login: tuple[str, str] | None,
        *,
        version: int = V5,
        will: Will | None = None,
        clean: bool = True,
    ) -> Self:
        """Connect and log in. Raises Gone, Refused."""
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection(site.host, site.port, ssl=site.tls)
        except ssl.SSLCertVerificationError as error:
            raise Gone(f"the broker's certificate is not trusted: {error.verify_message}") from None
        except TimeoutError:
            raise Gone("the broker does not answer") from None
        except OSError as error:
            raise Gone(error.strerror or str(error)) from None
        probe = cls(reader, writer, version)
        probe._reading = asyncio.create_task(probe._read())
        try:
            await probe._log_in(client_id, login, will, clean=clean)
        except BaseException:
            await probe.abort()
            raise
        return probe

    async def _log_in(self, client_id: str, login: tuple[str, str] | None, will: Will | None, *, clean: bool) -> None:
        kept = Properties(session_expiry_interval=60) if self._version == V5 and not clean else Properties()
        user, password = login or (None, None)
        self._write(
            Connect(
                client_id,
                self._version,
                clean,
                _KEEP_ALIVE,
                user,
                None if password is None else password.encode(),
                will,
                kept,
            )
        )
        answer = await self._answer(Connack)
        if answer.code:
            raise Refused(answer.code)

    async def subscribe(self, topic_filter: str) -> int:
        """SUBSCRIBE at QoS 1; the code of SUBACK. Raises Gone."""
        packet_id = self._next_id()
        self._write(Subscribe(packet_id, (Subscription(topic_filter, 1),)))
        return (await self._answer(Suback)).codes[0]

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry: int | None = None) -> int:
        """PUBLISH at QoS 1; the code of PUBACK. Raises Gone."""
        properties = Properties(message_expiry_interval=expiry) if expiry and self._version == V5 else Properties()
        self._write(Publish(topic, payload, 1, self._next_id(), retain, properties=properties))
        return (await self._answer(Puback)).code

    async def ping(self) -> None:
        """PINGREQ and its answer: what the broker had sent before is here now. Raises Gone."""
        self._write(Pingreq())
        await self._answer(Pingresp)

    def has(self, payload: bytes) -> bool:
        """Whether a message with this payload came."""
        return any(message.payload == payload for message in self.messages)

    async def until(self, payload: bytes, patience: float = PATIENCE) -> bool:
        """Wait for a message with this payload; False: it did not come."""
        try:
            async with asyncio.timeout(patience), self._news:
                await self._news.wait_for(lambda: self.has(payload) or self._ended is not None)
        except TimeoutError:
            return False
        return self.has(payload)

    async def close(self) -> None:
        """Say goodbye and close."""
        with contextlib.suppress(Gone):
            self._write(Disconnect())
        await self.abort()

    async def abort(self) -> None:
        """Close without a word, as a device that lost its power; a Will is published then."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()

    async def _answer(self, kind: type[P]) -> P:
        """The next answer of this kind; others were to what nobody waits for any more."""
        try:
            async with asyncio.timeout(PATIENCE), self._news:
                while True:
                    await self._news.wait_for(lambda: self._answers or self._ended is not None)
                    if not self._answers:
                        raise Gone(self._ended or "closed")
                    packet = self._answers.popleft()
                    if isinstance(packet, kind):
                        return packet
        except TimeoutError:
            raise Gone("the broker does not answer") from None

    async def _read(self) -> None:
        why = "the broker closed the connection"
        try:
            while data := await self._reader.read(65_536):
                for frame in self._decoder.feed(data):
                    await self._take(parse(frame, self._version))
        except MalformedPacket as error:
            why = f"the broker breaks the protocol: {error}"
        except OSError as error:
            why = error.strerror or str(error)
        async with self._news:
            self._ended = why
            self._news.notify_all()

    async def _take(self, packet: Packet) -> None:
        async with self._news:
            if isinstance(packet, Publish):
                if packet.qos:
                    self._write(Puback(packet.packet_id))
                self.messages.append(packet)
            else:
                self._answers.append(packet)
            self._news.notify_all()

    def _write(self, packet: Packet) -> None:
        if self._ended is not None:
            raise Gone(self._ended)
        self._writer.write(encode(packet, self._version))

    def _next_id(self) -> int:
        self._packet_id += 1
        return self._packet_id
