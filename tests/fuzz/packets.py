"""The packet codec: any bytes, read as MQTT 3.1.1 and as MQTT 5.

1. Nothing is raised but `MalformedPacket` and `UnsupportedVersion`.
2. The pieces that bytes arrive in do not matter.
3. What was understood says the same when it is written and read again.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.mqtt.packets import V5, V311, Connect, Decoder, Frame, MalformedPacket, UnsupportedVersion, encode, parse
from tests.fuzz import session
from tests.fuzz.streams import chunks

SEEDS = [seed[1:] for seed in session.SEEDS] + [
    b"\x20\2\0\0\x90\3\0\1\1\xb0\2\0\1\x50\2\0\1\x62\2\0\1\x70\2\0\1\xd0\0",
    b"\x20\x06\0\0\3\x21\0\4\x90\4\0\1\0\1\x40\4\0\1\x87\0\xe0\2\x87\0\xf0\2\x18\0",
]
TOKENS = session.TOKENS


def try_one(data: bytes) -> None:
    """Cut, read, write, read."""
    if not data:
        return
    frames = _cut([data])
    assert _cut(chunks(data, data[0])) == frames, "the pieces matter"
    for version in (V311, V5):
        for frame in frames:
            _read_and_write(frame, version)


def _cut(pieces: Iterable[bytes]) -> list[Frame]:
    decoder, frames = Decoder(16_384), []
    try:
        for piece in pieces:
            frames += list(decoder.feed(piece))
    except MalformedPacket:
        return []
    return frames


def _read_and_write(frame: Frame, version: int) -> None:
    try:
        packet = parse(frame, version)
    except (MalformedPacket, UnsupportedVersion):
        return
    spoken = packet.version if isinstance(packet, Connect) else version
    [again] = Decoder().feed(encode(packet, spoken))
    assert parse(again, spoken) == packet, packet
