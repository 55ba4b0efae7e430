"""Bad weather on purpose: a TCP proxy that slows down, cuts, starves and reshuffles what passes through it.

1. What happens to a connection is drawn from the seed and its number: the same seed sends the same weather.
2. Every chunk is late. Beyond that a connection meets at most one of: a reset, silence at both ends (half-open), one
   byte at a time; in all others single PUBLISH packets are doubled, lost, or held back until later ones overtook them.
3. Silence is silence: neither end hears of the other any more, not even that it hung up.
4. Packets are seen only where there is no TLS; what is no MQTT is cut off, unless no packet is to be touched.
5. Memory is bounded: what one end does not take is not read from the other, and a connection holds back few packets.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from broker.fleet.replies import Address
from broker.mqtt.packets import Decoder, MalformedPacket

PUBLISH: Final = 3
_CHUNK: Final = 16_384
_HELD_BACK: Final = 64
_BACKLOG: Final = 4096
_NO_GOODBYE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST."""


class Fate(StrEnum):
    """What becomes of a connection."""

    RESET = "reset"
    HALF_OPEN = "half-open"
    DRIBBLE = "dribble"
    PACKETS = "packets"


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad it is. `jitter` in seconds is the most a chunk is late, and `drip` one byte of a dribble.

    `resets`, `half_open` and `dribbles` are shares of connections; a reset or silence strikes before `reach` bytes have
    passed. `doubled`, `lost` and `overtaken` are shares of PUBLISH packets. Raises ValueError where shares are none.
    """

    seed: int = 0
    jitter: float = 2.0
    drip: float = 0.02
    resets: float = 0.1
    half_open: float = 0.05
    dribbles: float = 0.05
    doubled: float = 0.05
    lost: float = 0.05
    overtaken: float = 0.05
    reach: int = 2_000

    def __post_init__(self) -> None:
        for shares in ((self.resets, self.half_open, self.dribbles), (self.doubled, self.lost, self.overtaken)):
            if min(shares) < 0 or sum(shares) > 1:
                raise ValueError("shares must not be negative, nor more than 1 together")

    @property
    def touches_packets(self) -> bool:
        """Whether packets have to be told apart at all."""
        return self.doubled + self.lost + self.overtaken > 0

    def fate(self, number: int) -> tuple[Fate, int]:
        """What becomes of connection `number`, and after how many bytes where it is a reset or silence."""
        chance = random.Random(f"{self.seed}/{number}")  # noqa: S311  # weather is no secret
        drawn, bytes_left = chance.random(), chance.randrange(self.reach)
        for fate, share in (
            (Fate.RESET, self.resets),
            (Fate.HALF_OPEN, self.half_open),
            (Fate.DRIBBLE, self.dribbles),
        ):
            if drawn < share:
                return fate, bytes_left
            drawn -= share
        return Fate.PACKETS, 0


@dataclass(slots=True)
class Toll:
    """What the weather did so far."""

    connections: Counter[Fate] = field(default_factory=Counter)
    packets: Counter[str] = field(default_factory=Counter)
    """By what happened to them: doubled, lost, overtaken."""


class FaultProxy:
    """Listens, and passes on to `target`, which may be set late; until then, everybody is reset."""

    def __init__(self, weather: Weather, target: Address | None = None) -> None:
        self.target = target
        self.toll = Toll()
        self._weather = weather
        self._server: asyncio.Server | None = None
        self._crossings: set[asyncio.Task[None]] = set()
        self._count = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; returns the port. Raises OSError where that cannot be."""
        self._server = await asyncio.start_server(self._take, host, port, limit=_CHUNK, backlog=_BACKLOG)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Cut every connection and stop listening; nothing is left."""
        if self._server is None:
            return
        self._server.close()
        crossings = list(self._crossings)
        for crossing in crossings:
            crossing.cancel()
        await asyncio.gather(*crossings, return_exceptions=True)
        await self._server.wait_closed()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self._count = self._count, self._count + 1
        task = asyncio.get_running_loop().create_task(self._cross(number, reader, writer))
        self._crossings.add(task)
        task.add_done_callback(self._crossings.discard)

    async def _cross(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        crossing = _Crossing(self._weather, number, self.toll, writer)
        try:
            if self.target is not None:
                far_reader, far_writer = await asyncio.open_connection(self.target.host, self.target.port, limit=_CHUNK)
                crossing.ends.append(far_writer)
                await asyncio.gather(
                    crossing.carry(reader, far_writer, "up"), crossing.carry(far_reader, writer, "down")
                )
        except OSError:
            pass  # nobody listens there: our client is told by the reset below
        finally:
            crossing.end()


class _Crossing:
    """One connection through the proxy, and what is to become of it."""

    def __init__(self, weather: Weather, number: int, toll: Toll, near: asyncio.StreamWriter) -> None:
        self._weather = weather
        self._number = number
        self._toll = toll
        self.ends = [near]
        self._fate, self._bytes_left = weather.fate(number)
        self._silent = False
        self._held_back: set[asyncio.TimerHandle] = set()
        toll.connections[self._fate] += 1

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        """Pass on what comes, as far as the weather lets it, until the sender hangs up."""
        chance = random.Random(f"{self._weather.seed}/{self._number}/{way}")  # noqa: S311  # as above
        decoder = Decoder()
        with contextlib.suppress(OSError, MalformedPacket):
            while data := await reader.read(_CHUNK):
                await asyncio.sleep(chance.uniform(0, self._weather.jitter))
                if self._silent:
                    continue
                if self._fate in (Fate.RESET, Fate.HALF_OPEN):
                    self._strike(data, writer)
                elif self._fate is Fate.DRIBBLE:
                    await self._drip(data, writer, chance)
                elif not self._weather.touches_packets:
                    _write(writer, data)
                else:
                    decoder.append(data)
                    self._reshuffle(decoder, writer, chance)
                await writer.drain()
        if not self._silent:
            writer.close()

    def end(self) -> None:
        """Nothing of it is left."""
        for handle in self._held_back:
            handle.cancel()
        for writer in self.ends:
            if not writer.is_closing():
                _reset(writer)

    def _strike(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Let the last bytes through; then it is over."""
        _write(writer, data[: self._bytes_left])
        self._bytes_left -= len(data)
        if self._bytes_left > 0:
            return
        self._silent = True
        if self._fate is Fate.RESET:
            for end in self.ends:
                _reset(end)

    async def _drip(self, data: bytes, writer: asyncio.StreamWriter, chance: random.Random) -> None:
        for octet in data:
            _write(writer, bytes((octet,)))
            await writer.drain()
            await asyncio.sleep(chance.uniform(0, self._weather.drip))

    def _reshuffle(self, decoder: Decoder, writer: asyncio.StreamWriter, chance: random.Random) -> None:
        weather = self._weather
        while (frame := decoder.take()) is not None:
            drawn = chance.random() if frame.kind == PUBLISH else 1.0
            if drawn < weather.lost:
                self._toll.packets["lost"] += 1
            elif drawn < weather.lost + weather.doubled:
                self._toll.packets["doubled"] += 1
                _write(writer, frame.raw * 2)
            elif drawn < weather.lost + weather.doubled + weather.overtaken and len(self._held_back) < _HELD_BACK:
                self._toll.packets["overtaken"] += 1
                self._hold_back(frame.raw, writer, weather.jitter * (1 + chance.random()))
            else:
                _write(writer, frame.raw)

    def _hold_back(self, packet: bytes, writer: asyncio.StreamWriter, seconds: float) -> None:
        def let_go() -> None:
            self._held_back.discard(handle)
            _write(writer, packet)

        handle = asyncio.get_running_loop().call_later(seconds, let_go)
        self._held_back.add(handle)


def _write(writer: asyncio.StreamWriter, octets: bytes) -> None:
    if not writer.is_closing():  # uvloop raises where asyncio forgets
        writer.write(octets)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without a goodbye: the peer sees the connection reset."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # it may have gone by itself
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_GOODBYE)
    writer.transport.abort()
