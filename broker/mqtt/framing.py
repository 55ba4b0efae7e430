"""Cutting a byte stream into MQTT packets, before anybody asks what they mean.

1. The same bytes give the same frames, whatever the chunks they arrive in.
2. A packet larger than the limit is refused when its length is known, before any of its body is kept.
"""

from collections.abc import Iterator
from typing import NamedTuple

from broker.mqtt.wire import MAX_VARINT, MalformedPacket, ReasonCode


class Frame(NamedTuple):
    """One complete packet, not yet understood: type (0-15), flags (0-15), body, and the bytes as they came."""

    kind: int
    flags: int
    body: bytes
    raw: bytes


class Decoder:
    """Cuts a byte stream into frames, whatever the chunks it arrives in.

    `max_packet` is the largest packet in bytes, fixed header included (MQTT 5 section 3.1.2.11.4).
    """

    __slots__ = ("_buffer", "_fault", "_max_packet")

    def __init__(self, max_packet: int = MAX_VARINT + 5) -> None:
        self._buffer = bytearray()
        self._fault: tuple[str, ReasonCode] | None = None
        self._max_packet = max_packet

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take more bytes; return the frames now complete, in order.

        The iterator may be left at any point: what it did not give comes with the next call. It raises MalformedPacket
        where the stream cannot be cut any further; every later call then raises the same.
        """
        self.append(data)
        return iter(self.take, None)

    def append(self, data: bytes) -> None:
        """Take more bytes."""
        if self._fault is None:
            self._buffer += data

    def take(self) -> Frame | None:
        """Return the next complete frame, or None; MalformedPacket as in `feed`."""
        buffer = self._buffer
        if len(buffer) < 2:
            if self._fault is not None:
                raise MalformedPacket(*self._fault)
            return None
        length = buffer[1]
        header = 2
        if length >= 0x80:
            length, header = self._long_length()
            if not header:
                return None
        size = header + length
        if size > self._max_packet:
            raise self._fail("packet is too large", ReasonCode.PACKET_TOO_LARGE)
        if len(buffer) < size:
            return None
        raw = bytes(buffer[:size])
        del buffer[:size]
        return Frame(raw[0] >> 4, raw[0] & 0x0F, raw[header:], raw)

    @property
    def buffered(self) -> int:
        """Bytes kept: an incomplete packet, and complete ones not yet taken."""
        return len(self._buffer)

    def _long_length(self) -> tuple[int, int]:
        """Read a remaining length of two to four bytes: length and size of the fixed header, (0, 0) if incomplete."""
        length = 0
        for index in range(1, 5):
            if index == len(self._buffer):
                return 0, 0
            octet = self._buffer[index]
            length |= (octet & 0x7F) << 7 * (index - 1)
            if octet < 0x80:
                return length, index + 1
        raise self._fail("remaining length is longer than four bytes", ReasonCode.MALFORMED_PACKET)

    def _fail(self, message: str, code: ReasonCode) -> MalformedPacket:
        # The words are kept and not the exception: its traceback would hold this decoder in a cycle.
        self._fault = (message, code)
        self._buffer.clear()
        return MalformedPacket(message, code)
