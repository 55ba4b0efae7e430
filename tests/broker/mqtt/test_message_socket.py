"""The socket between the bridge and paho: whose each packet is, whatever the chunks, and what it does when full."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.mqtt.message_socket import LONGEST, Frame, MessageSocket, NotMqtt
from broker.mqtt.packets import (
    Connack,
    Packet,
    Pingresp,
    Puback,
    Publish,
    Suback,
    encode,
)

MESSAGES = (Publish, Puback)

packets = st.one_of(
    st.builds(
        Publish,
        st.sampled_from(["a/b", "t" * 300]),
        st.binary(max_size=300),
        qos=st.just(1),
        packet_id=st.integers(1, 0xFFFF),
    ),
    st.builds(Puback, st.integers(1, 0xFFFF)),
    st.builds(Suback, st.integers(1, 0xFFFF), st.lists(st.just(1), min_size=1, max_size=3).map(tuple)),
    st.builds(Connack),
    st.builds(Pingresp),
)


class Both:
    """A socket with its other end."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        for end in (self.ours, self.theirs):
            end.setblocking(False)
        self.frames: list[Frame] = []
        self.socket = MessageSocket(self.ours, asyncio.get_running_loop(), self.frames.append)

    def for_paho(self) -> bytes:
        """What paho reads, in as small pieces as it does."""
        read = bytearray()
        while True:
            try:
                read += self.socket.recv(1)
            except BlockingIOError:
                return bytes(read)


@asynccontextmanager
async def both() -> AsyncIterator[Both]:
    pair = Both()
    try:
        yield pair
    finally:
        pair.socket.close()
        pair.theirs.close()


@given(st.lists(packets, max_size=8), st.lists(st.integers(1, 400), max_size=8))
def test_each_packet_has_its_reader_whatever_the_chunks(stream: list[Packet], chunks: list[int]) -> None:
    async def cut() -> None:
        async with both() as pair:
            whole = b"".join(encode(packet, 4) for packet in stream)
            read, at = b"", 0
            for size in [*chunks, len(whole) + 1]:
                pair.theirs.send(whole[at : at + size])
                at += size
                read += pair.for_paho()
            ours = [encode(packet, 4) for packet in stream if isinstance(packet, MESSAGES)]
            assert [(frame.first, frame.body) for frame in pair.frames] == [
                (one[0], one[2:] if one[1] < 0x80 else one[3:]) for one in ours
            ]
            assert read == b"".join(encode(packet, 4) for packet in stream if not isinstance(packet, MESSAGES))

    asyncio.run(cut())


async def test_of_a_message_too_long_only_the_beginning_is_kept() -> None:
    async with both() as pair:
        long = encode(Publish("t", bytes(3 * LONGEST), 1, 7), 4)
        stream = long + encode(Puback(9), 4) + long + encode(Pingresp(), 4)
        read = b""
        for at in range(0, len(stream), 50_000):
            pair.theirs.send(stream[at : at + 50_000])
            read += pair.for_paho()
        assert [len(frame.body) for frame in pair.frames] == [LONGEST - 4, 2, LONGEST - 4]
        assert pair.frames[0].body[:5] == b"\x00\x01t\x00\x07"
        assert read == encode(Pingresp(), 4)


async def test_what_is_no_mqtt_ends_the_connection() -> None:
    async with both() as pair:
        pair.theirs.send(b"\x30\xff\xff\xff\xff\x01")
        with pytest.raises(NotMqtt):
            pair.socket.recv(100)


async def test_what_is_no_message_and_longer_than_any_ends_the_connection() -> None:
    async with both() as pair:
        pair.theirs.send(b"\x90\xff\xff\xff\x7f")
        for _ in range(LONGEST // 32_768 - 1):
            pair.theirs.send(bytes(32_768))
            assert pair.for_paho() == b""
        pair.theirs.send(bytes(32_768))
        with pytest.raises(NotMqtt):
            pair.socket.recv(100)


async def test_the_end_is_told() -> None:
    async with both() as pair:
        pair.theirs.send(encode(Puback(1), 4))
        pair.theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(BlockingIOError):
            pair.socket.recv(1)
        assert pair.socket.recv(1) == b""
        assert len(pair.frames) == 1


async def test_what_the_kernel_cannot_take_leaves_when_it_can() -> None:
    async with both() as pair:
        written = b"".join(bytes((number,)) * 100_000 for number in range(20))
        for at in range(0, len(written), 100_000):
            pair.socket.write(written[at : at + 100_000])
        read = await drained(pair, len(written))
        assert read == written
        pair.socket.write(b"and again")
        assert await drained(pair, 9) == b"and again"


async def drained(pair: Both, size: int) -> bytes:
    read = b""
    async with asyncio.timeout(10):
        while len(read) < size:
            read += await asyncio.get_running_loop().sock_recv(pair.theirs, 65_536)
    return read


async def test_what_was_written_last_leaves_before_the_end() -> None:
    async with both() as pair:
        pair.socket.write(b"\xe0\x00")
        pair.socket.close()
        assert await drained(pair, 2) == b"\xe0\x00"


async def test_whoever_reads_is_told_of_a_write_in_vain() -> None:
    async with both() as pair:
        pair.theirs.close()
        pair.socket.write(b"\xc0\x00")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert pair.socket.recv(1) == b""
