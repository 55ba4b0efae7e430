"""
MQTT 3.1.1 and MQTT 5 by hand, so that nothing of the program under test takes part.

1. A `Session` is one connection. It sends whatever it is told to, however wrong, and reports what came back.
2. What comes back is read strictly: a packet with a byte too many breaks the contract.
"""

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from types import TracebackType
from typing import Any, Self

Address = tuple[str, int]

PATIENCE = 10.0
"""Seconds any single answer may take: what section 10 has a device wait."""


class ContractError(AssertionError):
    """The other side did what the contract does not let it do."""


class EndedError(ConnectionError):
    """The connection was closed by the other side; `reason` is that of its DISCONNECT, if it sent one."""

    def __init__(self, reason: int | None = None) -> None:
        super().__init__("closed" if reason is None else f"closed with DISCONNECT 0x{reason:02X}")
        self.reason = reason


class RefusedError(ConnectionError):
    """A CONNACK said no."""

    def __init__(self, code: int) -> None:
        super().__init__(f"CONNACK 0x{code:02X}")
        self.code = code


CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK = range(1, 10)
UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(10, 16)

MESSAGE_EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION_DATA = 0x02, 0x03, 0x08, 0x09
SESSION_EXPIRY, SERVER_KEEP_ALIVE, AUTHENTICATION_METHOD, REQUEST_PROBLEM_INFORMATION = 0x11, 0x13, 0x15, 0x17
REASON_STRING, RECEIVE_MAXIMUM, TOPIC_ALIAS, MAXIMUM_QOS, RETAIN_AVAILABLE = 0x1F, 0x21, 0x23, 0x24, 0x25
USER_PROPERTY, MAXIMUM_PACKET_SIZE = 0x26, 0x27

_BYTE = {0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A}
_SHORT = {0x13, 0x21, 0x22, 0x23}
_LONG = {0x02, 0x11, 0x18, 0x27}
_TEXT = {0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F}
_BINARY = {0x09, 0x16}
_PAIR = {0x26}

Properties = Mapping[int, Any]
"""Property identifier -> value: int, str, bytes, or for user properties a list of pairs."""


def length(number: int) -> bytes:
    """Encode a variable byte integer."""
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def binary(value: bytes) -> bytes:
    """Encode a length-prefixed run of bytes."""
    return struct.pack(">H", len(value)) + value


def text(value: str | bytes) -> bytes:
    """Encode a length-prefixed string; bytes go out as they are, valid UTF-8 or not."""
    return binary(value.encode() if isinstance(value, str) else value)


def properties(values: Properties) -> bytes:
    """Encode an MQTT 5 property block with its length."""
    out = bytearray()
    for key, value in values.items():
        if key in _PAIR:
            for name, said in value:
                out += bytes([key]) + text(name) + text(said)
            continue
        out.append(key)
        if key in _BYTE:
            out.append(value)
        elif key in _SHORT:
            out += struct.pack(">H", value)
        elif key in _LONG:
            out += struct.pack(">I", value)
        elif key in _TEXT:
            out += text(value)
        else:
            out += binary(value)
    return length(len(out)) + bytes(out)


def packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    """Put the fixed header before `body`."""
    return bytes([kind << 4 | flags]) + length(len(body)) + body


def connect_packet(
    client_id: str | bytes,
    username: str | None,
    password: str | bytes | None,
    *,
    version: int = 4,
    name: str = "MQTT",
    clean: bool = True,
    keep_alive: int = 60,
    given: Properties | None = None,
    will: tuple[str, bytes] | None = None,
    shape: int | None = None,
) -> bytes:
    """Build a CONNECT; `shape` is the version whose layout is used when `version` itself is one nobody knows."""
    five = (version if shape is None else shape) >= 5
    flags = (
        (0x02 if clean else 0)
        | (0x04 if will else 0)
        | (0x80 if username is not None else 0)
        | (0x40 if password is not None else 0)
    )
    body = text(name) + bytes([version, flags]) + struct.pack(">H", keep_alive)
    if five:
        body += properties(given or {})
    body += text(client_id)
    if will:
        body += (properties({}) if five else b"") + text(will[0]) + binary(will[1])
    if username is not None:
        body += text(username)
    if password is not None:
        body += text(password)
    return packet(CONNECT, body)


class _Scanner:
    """Reads the fields of one packet body and insists that nothing is missing or left over."""

    def __init__(self, body: bytes) -> None:
        self._body = BytesIO(body)
        self._size = len(body)

    def take(self, count: int) -> bytes:
        got = self._body.read(count)
        if len(got) != count:
            raise ContractError("a packet ends in the middle of a field")
        return got

    def rest(self) -> bytes:
        return self._body.read()

    def left(self) -> int:
        return self._size - self._body.tell()

    def byte(self) -> int:
        return self.take(1)[0]

    def short(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def text(self) -> str:
        return self.take(self.short()).decode()

    def length(self) -> int:
        number = shift = 0
        while True:
            low = self.byte()
            number |= (low & 0x7F) << shift
            shift += 7
            if not low & 0x80:
                return number

    def properties(self) -> dict[int, Any]:
        inner = _Scanner(self.take(self.length()))
        found: dict[int, Any] = {}
        while inner.left():
            key = inner.length()
            if key in _PAIR:
                found.setdefault(key, []).append((inner.text(), inner.text()))
                continue
            if key in found:
                raise ContractError(f"property 0x{key:02X} is there twice")
            if key in _BYTE:
                found[key] = inner.byte()
            elif key in _SHORT:
                found[key] = inner.short()
            elif key in _LONG:
                found[key] = int.from_bytes(inner.take(4), "big")
            elif key in _TEXT:
                found[key] = inner.text()
            elif key in _BINARY:
                found[key] = inner.take(inner.short())
            elif key == 0x0B:
                found[key] = inner.length()
            else:
                raise ContractError(f"property 0x{key:02X} does not exist")
        return found

    def end(self) -> None:
        if self.left():
            raise ContractError(f"{self.left()} bytes too many in a packet")


@dataclass(frozen=True)
class Packet:
    """One packet as it arrived; `size` counts its fixed header too."""

    kind: int
    flags: int
    body: bytes
    size: int


@dataclass(frozen=True)
class Connack:
    """The answer to a CONNECT."""

    present: bool
    code: int
    properties: dict[int, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise unless it is a welcome as every door of ours gives it."""
        if self.code:
            raise RefusedError(self.code)
        if self.present:
            raise ContractError("no session outlives its connection, so none is present")


@dataclass(frozen=True)
class Message:
    """A PUBLISH that arrived."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    duplicate: bool
    packet_id: int | None
    size: int
    properties: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Acknowledgement:
    """A PUBACK, SUBACK or UNSUBACK: the packet it answers, its codes and, on MQTT 5, its properties."""

    packet_id: int
    codes: list[int]
    properties: dict[int, Any] = field(default_factory=dict)


class Session:
    """One MQTT connection, byte by byte. Use it as an async context manager, so that the socket is closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self.version = version
        self.inbox: deque[Message] = deque()
        self.acknowledges = True
        """Whether arriving QoS 1 messages are acknowledged when they are taken from the inbox."""
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._next_id = 0

    @classmethod
    async def open(cls, address: Address, version: int = 4, source: str | None = None) -> Self:
        """Connect the socket, from the loopback address `source` if given, and send nothing yet."""
        local = None if source is None else (source, 0)
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(*address, local_addr=local)
        return cls(reader, writer, version)

    @classmethod
    async def login(
        cls,
        address: Address,
        client_id: str,
        username: str | None,
        password: str | None,
        *,
        version: int = 4,
        source: str | None = None,
        **more: Any,
    ) -> Self:
        """Open a session and log in; `RefusedError` when the CONNACK says no. The caller closes it."""
        session = await cls.open(address, version, source)
        try:
            (await session.connect(client_id, username, password, **more)).check()
        except BaseException:
            await session.close()
            raise
        return session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the socket without a DISCONNECT."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (ConnectionResetError, BrokenPipeError) as error:
            raise EndedError from error

    async def packet(self, patience: float = PATIENCE) -> Packet:
        """Take the next packet off the wire; `EndedError` at its end, `TimeoutError` when none comes."""
        async with asyncio.timeout(patience):
            while (got := self._cut()) is None:
                try:
                    more = await self._reader.read(65536)
                except ConnectionResetError as error:
                    raise EndedError from error
                if not more:
                    raise EndedError
                self._buffer += more
        return got

    def _cut(self) -> Packet | None:
        buffer = self._buffer
        size = shift = 0
        for at in range(1, 5):
            if at >= len(buffer):
                return None
            size |= (buffer[at] & 0x7F) << shift
            shift += 7
            if not buffer[at] & 0x80:
                break
        else:
            raise ContractError("a packet length has more than four bytes")
        total = 1 + shift // 7 + size
        if len(buffer) < total:
            return None
        got = Packet(buffer[0] >> 4, buffer[0] & 0x0F, bytes(buffer[total - size : total]), total)
        del buffer[:total]
        return got

    async def _await(self, kind: int, patience: float = PATIENCE) -> Packet:
        """Take the next packet of `kind`; messages before it go to the inbox, anything else is out of place."""
        async with asyncio.timeout(patience):
            while True:
                got = await self.packet(patience)
                if got.kind == kind:
                    return got
                if got.kind == PUBLISH:
                    self.inbox.append(self._message(got))
                elif got.kind == DISCONNECT:
                    raise EndedError(self._reason(got))
                else:
                    raise ContractError(f"packet type {got.kind} while waiting for type {kind}")

    def _reason(self, got: Packet) -> int:
        if self.version < 5:
            raise ContractError("an MQTT 3.1.1 server sends no DISCONNECT")
        return got.body[0] if got.body else 0

    def _message(self, got: Packet) -> Message:
        scan = _Scanner(got.body)
        qos = got.flags >> 1 & 3
        topic = scan.text()
        packet_id = scan.short() if qos else None
        found = scan.properties() if self.version >= 5 else {}
        return Message(topic, scan.rest(), qos, bool(got.flags & 1), bool(got.flags & 8), packet_id, got.size, found)

    async def connect(
        self, client_id: str | bytes, username: str | None = None, password: str | bytes | None = None, **more: Any
    ) -> Connack:
        """Send a CONNECT of this session's version (or of `version=`) and return the answer, whatever it is."""
        version = more.pop("version", self.version)
        await self.send(connect_packet(client_id, username, password, version=version, **more))
        return await self.connack()

    async def connack(self) -> Connack:
        """Take a CONNACK."""
        got = await self._await(CONNACK)
        scan = _Scanner(got.body)
        flags, code = scan.byte(), scan.byte()
        found = scan.properties() if self.version >= 5 else {}
        scan.end()
        if flags & 0xFE:
            raise ContractError("reserved CONNACK flags are set")
        return Connack(bool(flags), code, found)

    def _id(self) -> int:
        self._next_id = self._next_id % 0xFFFF + 1
        return self._next_id

    async def subscribe(self, *filters: tuple[str, int]) -> list[int]:
        """Subscribe to (filter, QoS) pairs and return the granted QoS or the refusal of each."""
        return (await self.suback(*filters)).codes

    async def suback(self, *filters: tuple[str, int]) -> Acknowledgement:
        """Subscribe as `subscribe` does, and return the whole SUBACK."""
        body = struct.pack(">H", self._id()) + (properties({}) if self.version >= 5 else b"")
        body += b"".join(text(name) + bytes([qos]) for name, qos in filters)
        await self.send(packet(SUBSCRIBE, body, 2))
        return self._acknowledgement(await self._await(SUBACK), len(filters))

    async def unsubscribe(self, *filters: str) -> Acknowledgement:
        """Unsubscribe and return the UNSUBACK."""
        body = struct.pack(">H", self._id()) + (properties({}) if self.version >= 5 else b"")
        await self.send(packet(UNSUBSCRIBE, body + b"".join(text(name) for name in filters), 2))
        return self._acknowledgement(await self._await(UNSUBACK), len(filters) if self.version >= 5 else 0)

    def _acknowledgement(self, got: Packet, codes: int) -> Acknowledgement:
        scan = _Scanner(got.body)
        packet_id = scan.short()
        found = scan.properties() if self.version >= 5 else {}
        answer = Acknowledgement(packet_id, list(scan.rest()), found)
        if packet_id != self._next_id or len(answer.codes) != codes:
            raise ContractError(f"{answer} does not answer packet {self._next_id}")
        return answer

    def publish_packet(
        self, topic: str | bytes, payload: bytes, qos: int = 0, *, retain: bool = False, given: Properties | None = None
    ) -> bytes:
        """Build a PUBLISH with the session's next packet id."""
        body = text(topic) + (struct.pack(">H", self._id()) if qos else b"")
        if self.version >= 5:
            body += properties(given or {})
        return packet(PUBLISH, body + payload, qos << 1 | int(retain))

    async def publish(
        self, topic: str, payload: bytes, qos: int = 0, *, retain: bool = False, given: Properties | None = None
    ) -> Acknowledgement | None:
        """Publish; at QoS 1 wait for the PUBACK and return it."""
        await self.send(self.publish_packet(topic, payload, qos, retain=retain, given=given))
        return await self.puback() if qos == 1 else None

    async def puback(self) -> Acknowledgement:
        """Take the PUBACK of the last message sent."""
        scan = _Scanner((await self._await(PUBACK)).body)
        packet_id = scan.short()
        code = scan.byte() if self.version >= 5 and scan.left() else 0
        found = scan.properties() if self.version >= 5 and scan.left() else {}
        scan.end()
        if packet_id != self._next_id:
            raise ContractError(f"PUBACK for packet {packet_id} after packet {self._next_id}")
        return Acknowledgement(packet_id, [code], found)

    async def message(self, patience: float = PATIENCE) -> Message:
        """Take the next message and, if it came at QoS 1, acknowledge it."""
        if not self.inbox:
            self.inbox.append(self._message(await self._await(PUBLISH, patience)))
        got = self.inbox.popleft()
        if got.qos and self.acknowledges:
            await self.acknowledge(got)
        return got

    async def acknowledge(self, got: Message) -> None:
        """Send the PUBACK of a QoS 1 message."""
        await self.send(packet(PUBACK, struct.pack(">H", got.packet_id)))

    async def ping(self) -> None:
        """Send a PINGREQ and wait for its answer."""
        await self.send(packet(PINGREQ, b""))
        await self._await(PINGRESP)

    async def ended(self, patience: float = PATIENCE) -> int | None:
        """Wait until the other side closes; return the reason of its DISCONNECT. Messages go to the inbox."""
        reason: int | None = None
        async with asyncio.timeout(patience):
            while True:
                try:
                    got = await self.packet(patience)
                except EndedError:
                    return reason
                if reason is not None:
                    raise ContractError("a packet after DISCONNECT")
                if got.kind == PUBLISH:
                    self.inbox.append(self._message(got))
                elif got.kind == DISCONNECT:
                    reason = self._reason(got)

    async def disconnect(self) -> None:
        """Say goodbye and close."""
        with contextlib.suppress(EndedError):
            await self.send(packet(DISCONNECT, b""))
        await self.close()
