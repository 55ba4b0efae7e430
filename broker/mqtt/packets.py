"""MQTT 3.1.1 and 5 packets: bytes to values and back, for servers and clients alike; no socket, no state of a session.

1. `Decoder` cuts the byte stream into frames, `parse` understands one frame, `encode` writes one packet. The values
   are in `packet_types`, the framing in `framing`; users import all of them from here.
2. Whatever a peer sends, the only exception is `MalformedPacket`, carrying the MQTT 5 reason code to close with.
3. The codec knows both directions and no roles: whether a peer may send this packet now is the session's business.
"""

from collections.abc import Callable
from typing import Any, Final

from broker.mqtt.framing import Decoder, Frame
from broker.mqtt.packet_types import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.mqtt.properties import WILL, Properties, read_properties, write_properties
from broker.mqtt.wire import (
    V5,
    V311,
    MalformedPacket,
    Reader,
    ReasonCode,
    ReturnCode,
    UnsupportedVersion,
    write_binary,
    write_text,
    write_uint16,
    write_varint,
)

__all__ = [
    "V5",
    "V311",
    "Auth",
    "Connack",
    "Connect",
    "Decoder",
    "Disconnect",
    "Frame",
    "MalformedPacket",
    "Packet",
    "Pingreq",
    "Pingresp",
    "Properties",
    "Puback",
    "Pubcomp",
    "Publish",
    "Pubrec",
    "Pubrel",
    "ReasonCode",
    "ReturnCode",
    "Suback",
    "Subscribe",
    "Subscription",
    "Unsuback",
    "Unsubscribe",
    "UnsupportedVersion",
    "Will",
    "encode",
    "parse",
]

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(8, 16)


def parse(frame: Frame, version: int) -> Packet:
    """Understand one frame of a connection that speaks `version` (4 or 5; a CONNECT tells its own).

    Raises MalformedPacket for every violation of the packet's form, and UnsupportedVersion, which is one, for a
    CONNECT of another protocol level.
    """
    kind, flags, body, _ = frame
    form = _FORMS[kind]
    if form is None or (version != V5 and kind == AUTH):
        raise MalformedPacket("packet type is reserved")
    read, expected = form
    if kind != PUBLISH and flags != expected:
        raise MalformedPacket("reserved flags of the fixed header are wrong")
    reader = Reader(body)
    try:
        packet = read(reader, version, flags)
    except IndexError:
        raise MalformedPacket("packet ends inside a value") from None
    if reader.position != len(body):
        raise MalformedPacket("packet has more bytes than its form")
    return packet


def encode(packet: Packet, version: int) -> bytes:
    """Write one packet in the form of `version` (4 or 5; a CONNECT names its own).

    Raises ValueError for values no packet can hold, such as a string of more than 65,535 bytes.
    """
    first, body = _WRITERS[type(packet)](packet, version)
    if len(body) < 0x80:
        return bytes((first, len(body))) + body
    return bytes((first,)) + write_varint(len(body)) + body


def _read_connect(reader: Reader, _version: int, _flags: int) -> Connect:
    name = reader.binary()
    version = reader.byte()
    if name != b"MQTT":
        raise UnsupportedVersion(version) if name == b"MQIsdp" else MalformedPacket("protocol name is not MQTT")
    if version not in (V311, V5):
        raise UnsupportedVersion(version)
    flags = reader.byte()
    if flags & 0x01:
        raise MalformedPacket("reserved connect flag is set")
    has_name, has_password = flags & 0x80, flags & 0x40
    if version == V311 and has_password and not has_name:
        raise MalformedPacket("password without user name")
    keep_alive = reader.uint16()
    properties = read_properties(reader, CONNECT) if version == V5 else Properties()
    if "authentication_data" in properties and "authentication_method" not in properties:
        raise MalformedPacket("authentication data without method", ReasonCode.PROTOCOL_ERROR)
    client_id = reader.text()
    will = _read_will(reader, version, flags)
    username = reader.text() if has_name else None
    password = reader.binary() if has_password else None
    return Connect(client_id, version, bool(flags & 0x02), keep_alive, username, password, will, properties)


def _read_will(reader: Reader, version: int, flags: int) -> Will | None:
    qos = flags >> 3 & 3
    if not flags & 0x04:
        if flags & 0x38:
            raise MalformedPacket("Will QoS or Will Retain without Will")
        return None
    if qos == 3:
        raise MalformedPacket("Will QoS is 3")
    properties = read_properties(reader, WILL) if version == V5 else Properties()
    topic = _topic_name(reader.text())
    return Will(topic, reader.binary(), qos, bool(flags & 0x20), properties)


def _write_connect(packet: Connect, _version: int) -> tuple[int, bytes]:
    version, will = packet.version, packet.will
    flags = 0x02 if packet.clean_start else 0
    payload = [write_text(packet.client_id)]
    if will is not None:
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        if version == V5:
            payload.append(write_properties(will.properties, WILL))
        payload += write_text(will.topic), write_binary(will.payload)
    if packet.username is not None:
        flags |= 0x80
        payload.append(write_text(packet.username))
    if packet.password is not None:
        flags |= 0x40
        payload.append(write_binary(packet.password))
    head = b"\x00\x04MQTT" + bytes((version, flags)) + write_uint16(packet.keep_alive)
    properties = write_properties(packet.properties, CONNECT) if version == V5 else b""
    return 0x10, head + properties + b"".join(payload)


def _read_connack(reader: Reader, version: int, _flags: int) -> Connack:
    present = reader.flag()
    code = reader.byte()
    return Connack(code, bool(present), read_properties(reader, CONNACK) if version == V5 else Properties())


def _write_connack(packet: Connack, version: int) -> tuple[int, bytes]:
    head = bytes((packet.session_present, packet.code))
    return 0x20, head + (write_properties(packet.properties, CONNACK) if version == V5 else b"")


def _read_publish(reader: Reader, version: int, flags: int) -> Publish:
    qos = flags >> 1 & 3
    dup = bool(flags & 0x08)
    if qos == 3:
        raise MalformedPacket("QoS is 3")
    if dup and not qos:
        raise MalformedPacket("DUP is set at QoS 0")
    topic = reader.text()
    packet_id = reader.packet_id() if qos else 0
    properties = read_properties(reader, PUBLISH) if version == V5 else Properties()
    if topic or "topic_alias" not in properties:
        _topic_name(topic)
    if "response_topic" in properties:
        _topic_name(properties["response_topic"])
    return Publish(topic, reader.rest(), qos, packet_id, bool(flags & 0x01), dup, properties)


def _topic_name(topic: str) -> str:
    if not topic or "#" in topic or "+" in topic:
        raise MalformedPacket("topic name is empty or has a wildcard")
    return topic


def _write_publish(packet: Publish, version: int) -> tuple[int, bytes]:
    qos = packet.qos
    body = write_text(packet.topic)
    if qos:
        body += write_uint16(packet.packet_id)
    if version == V5:
        body += write_properties(packet.properties, PUBLISH)
    return 0x30 | packet.dup << 3 | qos << 1 | packet.retain, body + packet.payload


_Acknowledgement = type[Puback] | type[Pubrec] | type[Pubrel] | type[Pubcomp]


def _acknowledgement(form: _Acknowledgement, kind: int, flags: int) -> tuple[Callable[..., Packet], Callable[..., Any]]:
    """Reader and writer of the four packets that are a packet identifier and, in MQTT 5, perhaps a reason."""

    def read(reader: Reader, version: int, _flags: int) -> Packet:
        packet_id = reader.packet_id()
        if version != V5 or reader.at_end():
            return form(packet_id)
        code = reader.byte()
        return form(packet_id, code, Properties() if reader.at_end() else read_properties(reader, kind))

    def write(packet: Puback | Pubrec | Pubrel | Pubcomp, version: int) -> tuple[int, bytes]:
        body = write_uint16(packet.packet_id)
        return kind << 4 | flags, body + (_reason(packet.code, packet.properties, kind) if version == V5 else b"")

    return read, write


def _reason(code: int, properties: Properties, kind: int) -> bytes:
    """Write a reason code and properties, or nothing where success without properties may be left out."""
    if not code and not properties:
        return b""
    return bytes((code,)) + (write_properties(properties, kind) if properties else b"")


def _read_subscribe(reader: Reader, version: int, _flags: int) -> Subscribe:
    packet_id = reader.packet_id()
    properties = read_properties(reader, SUBSCRIBE) if version == V5 else Properties()
    subscriptions = []
    while not reader.at_end():
        topic_filter = _topic_filter(reader.text())
        options = reader.byte()
        if options & 3 == 3 or options & (0xC0 if version == V5 else 0xFC):
            raise MalformedPacket("subscription options are reserved")
        if options > 3:
            subscriptions.append(_long_subscription(topic_filter, options))
        else:
            subscriptions.append(Subscription(topic_filter, options))
    if not subscriptions:
        raise MalformedPacket("SUBSCRIBE without topic filter", ReasonCode.PROTOCOL_ERROR)
    return Subscribe(packet_id, tuple(subscriptions), properties)


def _long_subscription(topic_filter: str, options: int) -> Subscription:
    no_local, handling = bool(options & 0x04), options >> 4
    if handling == 3 or (no_local and topic_filter.startswith("$share/")):
        raise MalformedPacket("subscription options contradict the protocol", ReasonCode.PROTOCOL_ERROR)
    return Subscription(topic_filter, options & 3, no_local, bool(options & 0x08), handling)


def _topic_filter(topic_filter: str) -> str:
    if not topic_filter:
        raise MalformedPacket("topic filter is empty")
    return topic_filter


def _write_subscribe(packet: Subscribe, version: int) -> tuple[int, bytes]:
    parts = [write_uint16(packet.packet_id)]
    if version == V5:
        parts.append(write_properties(packet.properties, SUBSCRIBE))
    for item in packet.subscriptions:
        options = item.qos | item.no_local << 2 | item.retain_as_published << 3 | item.retain_handling << 4
        parts += write_text(item.topic_filter), bytes((options,))
    return 0x82, b"".join(parts)


def _read_suback(reader: Reader, version: int, _flags: int) -> Suback:
    packet_id = reader.packet_id()
    properties = read_properties(reader, SUBACK) if version == V5 else Properties()
    return Suback(packet_id, tuple(reader.rest()), properties)


def _write_suback(packet: Suback, version: int) -> tuple[int, bytes]:
    properties = write_properties(packet.properties, SUBACK) if version == V5 else b""
    return 0x90, write_uint16(packet.packet_id) + properties + bytes(packet.codes)


def _read_unsubscribe(reader: Reader, version: int, _flags: int) -> Unsubscribe:
    packet_id = reader.packet_id()
    properties = read_properties(reader, UNSUBSCRIBE) if version == V5 else Properties()
    topic_filters = []
    while not reader.at_end():
        topic_filters.append(_topic_filter(reader.text()))
    if not topic_filters:
        raise MalformedPacket("UNSUBSCRIBE without topic filter", ReasonCode.PROTOCOL_ERROR)
    return Unsubscribe(packet_id, tuple(topic_filters), properties)


def _write_unsubscribe(packet: Unsubscribe, version: int) -> tuple[int, bytes]:
    properties = write_properties(packet.properties, UNSUBSCRIBE) if version == V5 else b""
    return 0xA2, write_uint16(packet.packet_id) + properties + b"".join(map(write_text, packet.topic_filters))


def _read_unsuback(reader: Reader, version: int, _flags: int) -> Unsuback:
    packet_id = reader.packet_id()
    if version != V5:
        return Unsuback(packet_id)
    properties = read_properties(reader, UNSUBACK)
    return Unsuback(packet_id, tuple(reader.rest()), properties)


def _write_unsuback(packet: Unsuback, version: int) -> tuple[int, bytes]:
    body = write_uint16(packet.packet_id)
    if version == V5:
        body += write_properties(packet.properties, UNSUBACK) + bytes(packet.codes)
    return 0xB0, body


def _closing(form: type[Disconnect] | type[Auth], kind: int) -> tuple[Callable[..., Packet], Callable[..., Any]]:
    """Reader and writer of the two packets that are nothing, or a reason."""

    def read(reader: Reader, version: int, _flags: int) -> Packet:
        if version != V5 or reader.at_end():
            return form()
        code = reader.byte()
        return form(code, Properties() if reader.at_end() else read_properties(reader, kind))

    def write(packet: Disconnect | Auth, version: int) -> tuple[int, bytes]:
        return kind << 4, (_reason(packet.code, packet.properties, kind) if version == V5 else b"")

    return read, write


_read_puback, _write_puback = _acknowledgement(Puback, PUBACK, 0)
_read_pubrec, _write_pubrec = _acknowledgement(Pubrec, PUBREC, 0)
_read_pubrel, _write_pubrel = _acknowledgement(Pubrel, PUBREL, 2)
_read_pubcomp, _write_pubcomp = _acknowledgement(Pubcomp, PUBCOMP, 0)
_read_disconnect, _write_disconnect = _closing(Disconnect, DISCONNECT)
_read_auth, _write_auth = _closing(Auth, AUTH)
_PINGREQ, _PINGRESP = Pingreq(), Pingresp()

# By packet type: the reader, and the flags the fixed header must carry (PUBLISH carries its own).
_FORMS: Final[tuple[tuple[Callable[[Reader, int, int], Packet], int] | None, ...]] = (
    None,
    (_read_connect, 0),
    (_read_connack, 0),
    (_read_publish, 0),
    (_read_puback, 0),
    (_read_pubrec, 0),
    (_read_pubrel, 2),
    (_read_pubcomp, 0),
    (_read_subscribe, 2),
    (_read_suback, 0),
    (_read_unsubscribe, 2),
    (_read_unsuback, 0),
    (lambda _reader, _version, _flags: _PINGREQ, 0),
    (lambda _reader, _version, _flags: _PINGRESP, 0),
    (_read_disconnect, 0),
    (_read_auth, 0),
)

_WRITERS: Final[dict[type, Callable[[Any, int], tuple[int, bytes]]]] = {
    Connect: _write_connect,
    Connack: _write_connack,
    Publish: _write_publish,
    Puback: _write_puback,
    Pubrec: _write_pubrec,
    Pubrel: _write_pubrel,
    Pubcomp: _write_pubcomp,
    Subscribe: _write_subscribe,
    Suback: _write_suback,
    Unsubscribe: _write_unsubscribe,
    Unsuback: _write_unsuback,
    Pingreq: lambda _packet, _version: (0xC0, b""),
    Pingresp: lambda _packet, _version: (0xD0, b""),
    Disconnect: _write_disconnect,
    Auth: _write_auth,
}
