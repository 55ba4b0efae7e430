"""The data types under every MQTT packet: integers, strings, and what is said when they are wrong.

1. A value is read completely or `MalformedPacket` is raised; no half-read value leaves this module.
2. Text is UTF-8 without NUL and without surrogates (MQTT-1.5.4-1, MQTT-1.5.4-2); bytes are taken as they are.
3. A variable byte integer has at most four bytes (MQTT 5 section 1.5.5).
"""

import enum
import struct
from typing import Final

V311: Final = 4
"""Protocol level of MQTT 3.1.1."""
V5: Final = 5
"""Protocol level of MQTT 5."""

MAX_VARINT: Final = 268_435_455
"""The largest variable byte integer, and so the largest remaining length."""


class ReasonCode(enum.IntEnum):
    """MQTT 5 reason codes this code base says or looks for (MQTT 5 section 2.4)."""

    SUCCESS = 0x00
    GRANTED_QOS_1 = 0x01
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    MAXIMUM_CONNECT_TIME = 0xA0


class ReturnCode(enum.IntEnum):
    """MQTT 3.1.1 CONNACK return codes (MQTT 3.1.1 section 3.2.2.3)."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_VERSION = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


class MalformedPacket(ValueError):
    """The peer broke the protocol; the connection cannot be read any further.

    `code` is the MQTT 5 reason code to close with; `str()` says in our words what was wrong, never quoting the peer.
    """

    def __init__(self, message: str, code: ReasonCode = ReasonCode.MALFORMED_PACKET) -> None:
        super().__init__(message)
        self.code = code


class UnsupportedVersion(MalformedPacket):
    """A CONNECT of a protocol level other than 4 and 5; `level` decides in which form the refusal is written."""

    def __init__(self, level: int) -> None:
        super().__init__("protocol level is neither 4 nor 5", ReasonCode.UNSUPPORTED_PROTOCOL_VERSION)
        self.level = level


class Reader:
    """Reads the values of one packet's body from left to right.

    Reading a fixed-size value past the end raises IndexError, which `packets.parse` turns into MalformedPacket
    once for the whole packet: the common, complete packet pays for no check.
    """

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def byte(self) -> int:
        """Read one byte."""
        value = self.data[self.position]
        self.position += 1
        return value

    def flag(self) -> int:
        """Read a byte that may be only 0 or 1."""
        value = self.byte()
        if value > 1:
            raise MalformedPacket("value is neither 0 nor 1", ReasonCode.PROTOCOL_ERROR)
        return value

    def uint16(self) -> int:
        """Read a two byte integer, most significant byte first."""
        data, position = self.data, self.position
        self.position = position + 2
        return data[position] << 8 | data[position + 1]

    def uint32(self) -> int:
        """Read a four byte integer, most significant byte first."""
        return self.uint16() << 16 | self.uint16()

    def positive16(self) -> int:
        """Read a two byte integer that must not be 0, such as Receive Maximum."""
        return _positive(self.uint16())

    def positive32(self) -> int:
        """Read a four byte integer that must not be 0, such as Maximum Packet Size."""
        return _positive(self.uint32())

    def packet_id(self) -> int:
        """Read a packet identifier, which is never 0 (MQTT-2.2.1-3)."""
        value = self.uint16()
        if not value:
            raise MalformedPacket("packet identifier is 0")
        return value

    def varint(self) -> int:
        """Read a variable byte integer of at most four bytes."""
        value = 0
        for shift in (0, 7, 14, 21):
            octet = self.byte()
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return value
        raise MalformedPacket("variable byte integer is longer than four bytes")

    def binary(self) -> bytes:
        """Read bytes preceded by their two byte length."""
        data, position = self.data, self.position
        start = position + 2
        end = start + (data[position] << 8 | data[position + 1])
        if end > len(data):
            raise MalformedPacket("packet ends inside a value")
        self.position = end
        return data[start:end]

    def text(self) -> str:
        """Read a UTF-8 string preceded by its two byte length in bytes."""
        data, position = self.data, self.position
        start = position + 2
        end = start + (data[position] << 8 | data[position + 1])
        if end > len(data):
            raise MalformedPacket("packet ends inside a value")
        self.position = end
        try:
            value = str(data[start:end], "utf-8")
        except UnicodeDecodeError:
            raise MalformedPacket("string is not UTF-8") from None
        if "\0" in value:
            raise MalformedPacket("string contains NUL")
        return value

    def rest(self) -> bytes:
        """Read everything that is left, perhaps nothing."""
        value = self.data[self.position :]
        self.position = len(self.data)
        return value

    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self.position >= len(self.data)


def _positive(value: int) -> int:
    if not value:
        raise MalformedPacket("value must not be 0", ReasonCode.PROTOCOL_ERROR)
    return value


_UINT16 = struct.Struct("!H").pack
_UINT32 = struct.Struct("!I").pack


def write_byte(value: int) -> bytes:
    """Write one byte; ValueError when the value does not fit."""
    return bytes((value,))


def write_uint16(value: int) -> bytes:
    """Write a two byte integer; ValueError when the value does not fit."""
    try:
        return _UINT16(value)
    except struct.error:
        raise ValueError("value does not fit into two bytes") from None


def write_uint32(value: int) -> bytes:
    """Write a four byte integer; ValueError when the value does not fit."""
    try:
        return _UINT32(value)
    except struct.error:
        raise ValueError("value does not fit into four bytes") from None


def write_varint(value: int) -> bytes:
    """Write a variable byte integer; ValueError when the value is negative or above `MAX_VARINT`."""
    if 0 <= value < 0x80:
        return bytes((value,))
    if 0 <= value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if not 0 <= value <= MAX_VARINT:
        raise ValueError("value does not fit into a variable byte integer")
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def write_binary(value: bytes) -> bytes:
    """Write bytes after their two byte length; ValueError when they are more than 65,535."""
    size = len(value)
    if size > 0xFFFF:
        raise ValueError("value does not fit into two bytes of length")
    return bytes((size >> 8, size & 0xFF)) + value


def write_text(value: str) -> bytes:
    """Write a string as UTF-8 after its two byte length; ValueError when too long, or with NUL or a surrogate."""
    if "\0" in value:
        raise ValueError("MQTT strings do not contain NUL")
    return write_binary(value.encode())
