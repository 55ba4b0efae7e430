"""MQTT 5 properties: names and types on our side, identifiers and bytes on the wire (MQTT 5 section 2.2.2).

1. A property stands only in the packets the specification allows it in, and once (User Property and, in a PUBLISH,
   Subscription Identifier may repeat). Anything else is a `MalformedPacket`.
2. Properties are a plain dict with one key per property present: most packets have none, and none costs nothing.
"""

from collections.abc import Callable
from typing import Any, Final, TypedDict, cast

from broker.mqtt.wire import (
    MalformedPacket,
    Reader,
    ReasonCode,
    write_binary,
    write_byte,
    write_text,
    write_uint16,
    write_uint32,
    write_varint,
)


class Properties(TypedDict, total=False):
    """The properties of one packet by the specification's names; an absent key is an absent property."""

    payload_format_indicator: int
    message_expiry_interval: int
    content_type: str
    response_topic: str
    correlation_data: bytes
    subscription_identifier: tuple[int, ...]
    session_expiry_interval: int
    assigned_client_identifier: str
    server_keep_alive: int
    authentication_method: str
    authentication_data: bytes
    request_problem_information: int
    will_delay_interval: int
    request_response_information: int
    response_information: str
    server_reference: str
    reason_string: str
    receive_maximum: int
    topic_alias_maximum: int
    topic_alias: int
    maximum_qos: int
    retain_available: int
    user_property: tuple[tuple[str, str], ...]
    maximum_packet_size: int
    wildcard_subscription_available: int
    subscription_identifier_available: int
    shared_subscription_available: int


def _read_pair(reader: Reader) -> tuple[str, str]:
    return reader.text(), reader.text()


def _write_pair(value: tuple[str, str]) -> bytes:
    return write_text(value[0]) + write_text(value[1])


def _read_subscription_identifier(reader: Reader) -> int:
    value = reader.varint()
    if not value:
        raise MalformedPacket("subscription identifier is 0", ReasonCode.PROTOCOL_ERROR)
    return value


WILL: Final = 0
"""Stands for the Will's own properties where otherwise a packet type (1-15) is named."""

_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _PUBREC, _PUBREL, _PUBCOMP = range(1, 8)
_SUBSCRIBE, _SUBACK, _UNSUBSCRIBE, _UNSUBACK, _DISCONNECT, _AUTH = 8, 9, 10, 11, 14, 15
_ACKS = {_PUBACK, _PUBREC, _PUBREL, _PUBCOMP, _SUBACK, _UNSUBACK}
_ALL = {WILL, _CONNECT, _CONNACK, _PUBLISH, _SUBSCRIBE, _UNSUBSCRIBE, _DISCONNECT, _AUTH} | _ACKS
_REPEATED: Final = {"user_property", "subscription_identifier"}

_Read = Callable[[Reader], Any]
_Write = Callable[[Any], bytes]

# identifier, name, reader, writer, packet types it may stand in: table 2-4 of the specification.
_TABLE: Final[tuple[tuple[int, str, _Read, _Write, set[int]], ...]] = (
    (0x01, "payload_format_indicator", Reader.flag, write_byte, {_PUBLISH, WILL}),
    (0x02, "message_expiry_interval", Reader.uint32, write_uint32, {_PUBLISH, WILL}),
    (0x03, "content_type", Reader.text, write_text, {_PUBLISH, WILL}),
    (0x08, "response_topic", Reader.text, write_text, {_PUBLISH, WILL}),
    (0x09, "correlation_data", Reader.binary, write_binary, {_PUBLISH, WILL}),
    (0x0B, "subscription_identifier", _read_subscription_identifier, write_varint, {_PUBLISH, _SUBSCRIBE}),
    (0x11, "session_expiry_interval", Reader.uint32, write_uint32, {_CONNECT, _CONNACK, _DISCONNECT}),
    (0x12, "assigned_client_identifier", Reader.text, write_text, {_CONNACK}),
    (0x13, "server_keep_alive", Reader.uint16, write_uint16, {_CONNACK}),
    (0x15, "authentication_method", Reader.text, write_text, {_CONNECT, _CONNACK, _AUTH}),
    (0x16, "authentication_data", Reader.binary, write_binary, {_CONNECT, _CONNACK, _AUTH}),
    (0x17, "request_problem_information", Reader.flag, write_byte, {_CONNECT}),
    (0x18, "will_delay_interval", Reader.uint32, write_uint32, {WILL}),
    (0x19, "request_response_information", Reader.flag, write_byte, {_CONNECT}),
    (0x1A, "response_information", Reader.text, write_text, {_CONNACK}),
    (0x1C, "server_reference", Reader.text, write_text, {_CONNACK, _DISCONNECT}),
    (0x1F, "reason_string", Reader.text, write_text, {_CONNACK, _DISCONNECT, _AUTH} | _ACKS),
    (0x21, "receive_maximum", Reader.positive16, write_uint16, {_CONNECT, _CONNACK}),
    (0x22, "topic_alias_maximum", Reader.uint16, write_uint16, {_CONNECT, _CONNACK}),
    (0x23, "topic_alias", Reader.uint16, write_uint16, {_PUBLISH}),
    (0x24, "maximum_qos", Reader.flag, write_byte, {_CONNACK}),
    (0x25, "retain_available", Reader.flag, write_byte, {_CONNACK}),
    (0x26, "user_property", _read_pair, _write_pair, _ALL),
    (0x27, "maximum_packet_size", Reader.positive32, write_uint32, {_CONNECT, _CONNACK}),
    (0x28, "wildcard_subscription_available", Reader.flag, write_byte, {_CONNACK}),
    (0x29, "subscription_identifier_available", Reader.flag, write_byte, {_CONNACK}),
    (0x2A, "shared_subscription_available", Reader.flag, write_byte, {_CONNACK}),
)

_READERS: Final[tuple[dict[int, tuple[str, _Read]], ...]] = tuple(
    {identifier: (name, read) for identifier, name, read, _, places in _TABLE if place in places} for place in range(16)
)
_WRITERS: Final[tuple[dict[str, tuple[bytes, _Write]], ...]] = tuple(
    {name: (bytes((identifier,)), write) for identifier, name, _, write, places in _TABLE if place in places}
    for place in range(16)
)


def read_properties(reader: Reader, place: int) -> Properties:
    """Read the properties of a packet of type `place` (or `WILL`), length first."""
    length = reader.varint()
    if not length:
        return Properties()
    end = reader.position + length
    if end > len(reader.data):
        raise MalformedPacket("packet ends inside its properties")
    found: dict[str, Any] = {}
    allowed = _READERS[place]
    while reader.position < end:
        entry = allowed.get(reader.varint())
        if entry is None:
            raise MalformedPacket("property is not allowed in this packet")
        name, read = entry
        value = read(reader)
        if name in _REPEATED:
            if name == "subscription_identifier" and place == _SUBSCRIBE and name in found:
                raise MalformedPacket("property stands twice", ReasonCode.PROTOCOL_ERROR)
            found.setdefault(name, []).append(value)
        elif name in found:
            raise MalformedPacket("property stands twice", ReasonCode.PROTOCOL_ERROR)
        else:
            found[name] = value
    if reader.position != end:
        raise MalformedPacket("property reaches beyond the properties' length")
    for name in _REPEATED & found.keys():
        found[name] = tuple(found[name])
    return cast("Properties", found)


def write_properties(properties: Properties, place: int) -> bytes:
    """Write the properties of a packet of type `place` (or `WILL`), length first.

    ValueError when one of them does not belong there or its value does not fit.
    """
    if not properties:
        return b"\0"
    allowed = _WRITERS[place]
    parts: list[bytes] = []
    for name, value in properties.items():
        if name not in allowed:
            raise ValueError(f"{name} is not a property of this packet")
        identifier, write = allowed[name]
        for item in cast("tuple[Any, ...]", value) if name in _REPEATED else (value,):
            parts += identifier, write(item)
    octets = b"".join(parts)
    return write_varint(len(octets)) + octets
