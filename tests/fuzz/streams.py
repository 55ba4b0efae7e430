"""Streams of MQTT packets, built and taken apart by tests/e2e's own code: nothing of the program takes part."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from tests.e2e.packets import PUBLISH, SUBSCRIBE, connect_packet, packet, properties, text


class Cut(NamedTuple):
    """One packet of a stream: type, flags and what follows the length."""

    kind: int
    flags: int
    body: bytes


class Published(NamedTuple):
    """What a PUBLISH says."""

    topic: bytes
    payload: bytes
    qos: int
    retain: bool


def varint(data: bytes, at: int) -> tuple[int, int] | None:
    """A variable byte integer and the place behind it; None where there is none."""
    number = 0
    for count in range(4):
        if at + count >= len(data):
            return None
        number |= (data[at + count] & 0x7F) << 7 * count
        if data[at + count] < 0x80:
            return number, at + count + 1
    return None


def cut(stream: bytes) -> Iterator[Cut]:
    """The packets of a stream up to where it cannot be cut any more."""
    at = 0
    while at < len(stream) and (found := varint(stream, at + 1)) is not None:
        size, start = found
        if start + size > len(stream):
            return
        yield Cut(stream[at] >> 4, stream[at] & 15, stream[start : start + size])
        at = start + size


def published(one: Cut, version: int) -> Published | None:
    """Take a PUBLISH apart; None when it is cut short."""
    qos = one.flags >> 1 & 3
    end = 2 + int.from_bytes(one.body[:2], "big")
    start = end + (2 if qos else 0)
    if version >= 5:
        found = varint(one.body, start)
        if found is None:
            return None
        start = found[0] + found[1]
    return Published(one.body[2:end], one.body[start:], qos, bool(one.flags & 1))


def chunks(stream: bytes, choice: int) -> Iterator[bytes]:
    """Cut a stream into the pieces it might arrive in."""
    chance, at = random.Random(choice), 0
    while at < len(stream):
        size = chance.choice((1, 2, 3, 10, 100, 5000))
        yield stream[at : at + size]
        at += size


def subscription(topic_filter: str, version: int, qos: int = 1) -> bytes:
    """A SUBSCRIBE."""
    head = b"\0\1" + (properties({}) if version >= 5 else b"")
    return packet(SUBSCRIBE, head + text(topic_filter) + bytes([qos]), 2)


def publication(topic: str, payload: bytes, version: int, qos: int = 1, more: dict[int, object] | None = None) -> bytes:
    """A PUBLISH."""
    head = text(topic) + (b"\0\2" if qos else b"") + (properties(more or {}) if version >= 5 else b"")
    return packet(PUBLISH, head + payload, qos << 1)


def acknowledgement(packet_id: int) -> bytes:
    """A PUBACK."""
    return packet(4, packet_id.to_bytes(2, "big"))


__all__ = [
    "Cut", "Published", "acknowledgement", "chunks", "connect_packet", "cut", "publication", "published",
    "subscription", "varint",
]  # fmt: skip
