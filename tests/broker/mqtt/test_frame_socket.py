"""The device broker's sockets: what they hold of a peer that sends much, or reads little."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from broker.mqtt.frame_socket import FrameSocket, SocketBounds
from broker.mqtt.packets import MalformedPacket, ReasonCode
from tests.broker.mqtt.device_client import PATIENCE

MANY = 16 << 20  # more than the kernel takes for us
PING = b"\xc0\x00"


@asynccontextmanager
async def pair(bounds: SocketBounds) -> AsyncIterator[tuple[FrameSocket, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect a socket to a peer; gives the socket and the peer's streams."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[FrameSocket] = loop.create_future()
    server = await loop.create_server(lambda: FrameSocket(bounds, accepted.set_result), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    socket = await accepted
    try:
        async with asyncio.timeout(PATIENCE):
            yield socket, reader, writer
    finally:
        writer.close()
        socket.abort()
        await socket.wait_closed()
        server.close()
        await server.wait_closed()


BOUNDS = SocketBounds(packet=100_000, unsent=1 << 20, stall=30.0)


async def test_frames_come_in_order_and_the_last_ones_after_the_peer_has_left() -> None:
    async with pair(BOUNDS) as (socket, _reader, writer):
        writer.write(PING * 1000)
        writer.close()
        assert [await socket.frame() for _ in range(1000)] == [(12, 0, b"", PING)] * 1000
        assert await socket.frame() is None


async def test_while_frames_wait_the_socket_is_not_read() -> None:
    async with pair(BOUNDS) as (socket, _reader, writer):
        writer.write(PING)
        assert await socket.frame() is not None
        writer.write(PING)
        flood = asyncio.ensure_future(_drained(writer, b"\x30\xff\x7f" + bytes(16_383), 2000))
        most = 0
        for _frame in range(500):
            assert await socket.frame() is not None
            most = max(most, socket._decoder.buffered)
        assert most < 1 << 20
        flood.cancel()
        await asyncio.wait((flood,))


async def _drained(writer: asyncio.StreamWriter, data: bytes, times: int) -> bool:
    try:
        for _time in range(times):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return False
    return True


@pytest.mark.parametrize(
    ("sent", "limit"),
    [
        pytest.param(b"\x30\xa1\x8d\x06", None, id="above the packet size"),
        pytest.param(b"\x10\xff\x7f" + bytes(200), 100, id="incomplete and above the given limit"),
        pytest.param(b"\x10\x7e" + bytes(126), 100, id="complete and above the given limit"),
    ],
)
async def test_a_packet_above_a_limit_is_refused(sent: bytes, limit: int | None) -> None:
    async with pair(BOUNDS) as (socket, _reader, writer):
        writer.write(sent)
        with pytest.raises(MalformedPacket) as caught:
            await socket.frame(limit)
        assert caught.value.code == ReasonCode.PACKET_TOO_LARGE


async def test_a_peer_that_lets_answers_pile_up_is_cut_off() -> None:
    async with pair(BOUNDS) as (socket, _reader, _writer):
        socket.write(bytes(MANY))
        await socket.wait_closed()
        assert socket.cut_off
        assert await socket.frame() is None
        socket.write(b"into the void")


async def test_a_peer_that_takes_nothing_for_the_stall_time_is_cut_off() -> None:
    async with pair(SocketBounds(100, 2 * MANY, 0.05)) as (socket, _reader, _writer):
        socket.write(bytes(MANY))
        assert socket.congested
        await socket.wait_closed()
        assert socket.cut_off


async def test_a_peer_that_reads_slowly_is_waited_for() -> None:
    async with pair(SocketBounds(100, 2 * MANY, 0.2)) as (socket, reader, _writer):
        room = asyncio.Event()
        socket.on_room = room.set
        socket.write(bytes(MANY))
        assert socket.congested
        assert len(await reader.readexactly(MANY)) == MANY
        await room.wait()
        assert not socket.congested
        assert not socket.cut_off


async def _read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    data = b""
    try:
        while chunk := await reader.read(65_536):
            data += chunk
    except ConnectionError:
        pass
    return data


@pytest.mark.parametrize("ending", [FrameSocket.close, FrameSocket.hang_up])
async def test_last_words_arrive(ending: Callable[[FrameSocket], None]) -> None:
    async with pair(BOUNDS) as (socket, reader, writer):
        socket.write(b"last words")
        ending(socket)
        ending(socket)
        assert await _read_to_the_end(reader) == b"last words"
        writer.close()
        await socket.wait_closed()


async def test_last_words_arrive_although_the_peer_still_sends() -> None:
    async with pair(BOUNDS) as (socket, reader, writer):
        writer.write(PING * 1000)
        assert await socket.frame() is not None
        socket.write(b"last words")
        socket.close()
        assert await socket.frame() is None
        writer.write(PING * 1000)
        assert await _read_to_the_end(reader) == b"last words"
        writer.close()
        await socket.wait_closed()


async def test_after_the_last_words_a_peer_that_sends_on_is_cut_off() -> None:
    async with pair(BOUNDS) as (socket, _reader, writer):
        socket.close()
        assert not await _drained(writer, bytes(65_536), 2000)
        await socket.wait_closed()


async def test_after_the_last_words_a_peer_that_stays_is_cut_off() -> None:
    async with pair(BOUNDS) as (socket, _reader, _writer):
        socket.close()
        await socket.wait_closed()
