"""The fault proxy does what its weather says, to an echo behind it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker.fleet.faults import Fate, FaultProxy, Weather
from broker.fleet.replies import Address
from broker.mqtt.packets import Pingreq, Publish, encode

CALM = {"jitter": 0.0, "drip": 0.0, "resets": 0.0, "half_open": 0.0, "dribbles": 0.0}
UNTOUCHED = {"doubled": 0.0, "lost": 0.0, "overtaken": 0.0}
PATIENCE = 5.0


class Echo:
    """Sends back what it gets, and tells how each of its connections ended."""

    def __init__(self) -> None:
        self.ends: asyncio.Queue[str] = asyncio.Queue()
        self.heard = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                self.heard += data
                writer.write(data)
                await writer.drain()
            end = "closed"
        except ConnectionResetError:
            end = "reset"
        except asyncio.CancelledError:
            end = "cancelled"
        writer.close()
        self.ends.put_nowait(end)


@asynccontextmanager
async def network(**weather: Any) -> AsyncIterator[tuple[FaultProxy, Echo, int]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    proxy = FaultProxy(Weather(**(CALM | UNTOUCHED | weather)))
    proxy.target = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    port = await proxy.start()
    try:
        yield proxy, echo, port
    finally:
        await proxy.stop()
        server.close()
        await server.wait_closed()


async def exactly(reader: asyncio.StreamReader, size: int) -> bytes:
    return await asyncio.wait_for(reader.readexactly(size), PATIENCE)


def publish(text: str) -> bytes:
    return encode(Publish("a/b", text.encode(), 1, 1), 4)


PING = encode(Pingreq(), 4)


def test_the_same_seed_sends_the_same_weather() -> None:
    weather = Weather(seed=7)
    fates = [weather.fate(number) for number in range(2000)]
    assert fates == [Weather(seed=7).fate(number) for number in range(2000)]
    assert fates != [Weather(seed=8).fate(number) for number in range(2000)]
    counted = Counter(fate for fate, _ in fates)
    assert 140 < counted[Fate.RESET] < 260
    assert 60 < counted[Fate.HALF_OPEN] < 140
    assert 60 < counted[Fate.DRIBBLE] < 140


@pytest.mark.parametrize("shares", [{"resets": 0.9, "dribbles": 0.2}, {"lost": -0.1}, {"doubled": 1.1}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        Weather(**shares)  # type: ignore[arg-type]  # a test's keywords


async def test_calm_weather_changes_nothing() -> None:
    async with network() as (proxy, echo, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = bytes(range(256)) * 1000
        writer.write(sent)
        assert await exactly(reader, len(sent)) == sent
        writer.close()
        assert await asyncio.wait_for(echo.ends.get(), PATIENCE) == "closed"
        assert proxy.toll.connections == {Fate.PACKETS: 1}


async def test_a_reset_is_one_at_both_ends() -> None:
    async with network(resets=1.0, reach=1) as (_, echo, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PING)
        with pytest.raises(ConnectionResetError):
            await exactly(reader, 1)
        assert await asyncio.wait_for(echo.ends.get(), PATIENCE) == "reset"
        writer.close()


async def test_what_came_before_a_reset_is_there() -> None:
    async with network(resets=1.0, reach=100, seed=3) as (_, echo, port):
        fate, passed = Weather(seed=3, resets=1.0, half_open=0.0, dribbles=0.0, reach=100).fate(0)
        assert fate is Fate.RESET
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x" * 200)
        await asyncio.wait_for(echo.ends.get(), PATIENCE)
        assert len(echo.heard) <= passed
        writer.close()


async def test_half_open_means_that_nobody_hears_anything_any_more() -> None:
    async with network(half_open=1.0, reach=1) as (proxy, echo, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PING)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        writer.close()
        await writer.wait_closed()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(echo.ends.get(), 0.2)
        assert echo.heard == b""
        assert proxy.toll.connections == {Fate.HALF_OPEN: 1}


async def test_a_dribble_comes_byte_by_byte_and_whole() -> None:
    async with network(dribbles=1.0, drip=0.002) as (_, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = publish("hello")
        writer.write(sent)
        pieces: list[bytes] = []
        while len(b"".join(pieces)) < len(sent):
            pieces.append(await asyncio.wait_for(reader.read(100), PATIENCE))
        assert b"".join(pieces) == sent
        assert len(pieces) > len(sent) // 3
        writer.close()


@pytest.mark.parametrize(
    ("what", "arrives"),
    [
        ("lost", PING + PING),
        ("doubled", PING + publish("one") * 2 + publish("two") * 2 + PING),
    ],
)
async def test_only_publish_is_lost_or_doubled(what: str, arrives: bytes) -> None:
    async with network(**{what: 1.0}) as (proxy, echo, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PING + publish("one") + publish("two") + PING)
        while not (echo.heard.startswith(PING) and echo.heard.endswith(PING) and len(echo.heard) >= len(arrives)):
            await exactly(reader, 1)
        assert echo.heard == arrives
        assert proxy.toll.packets[what] >= 2
        writer.close()


async def test_a_held_back_packet_is_overtaken_and_comes() -> None:
    async with network(overtaken=1.0, jitter=0.02) as (_, echo, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(publish("late") + PING)
        await exactly(reader, len(publish("late") + PING))
        assert echo.heard == PING + publish("late")
        writer.close()


async def test_nobody_behind_it_means_a_reset() -> None:
    proxy = FaultProxy(Weather())
    port = await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ConnectionResetError):
        await exactly(reader, 1)
    writer.close()
    await proxy.stop()


async def test_what_is_no_mqtt_is_cut_off_where_packets_are_touched() -> None:
    async with network(lost=0.5) as (_, echo, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\xff" * 8)
        assert await asyncio.wait_for(reader.read(1), PATIENCE) == b""
        assert await asyncio.wait_for(echo.ends.get(), PATIENCE) == "closed"
        writer.close()
