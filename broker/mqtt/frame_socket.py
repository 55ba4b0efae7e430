"""One accepted socket as MQTT frames in and bytes out, both bounded; no meaning, no session.

1. Nobody's bytes pile up: while frames wait to be taken the socket is not read, and a packet larger than allowed is
   refused at its header.
2. Nobody's slow reading piles up: `congested` tells a sender with a choice to wait; a peer that takes nothing for the
   stall time, or is answered faster than it reads up to the write bound, is cut off.
3. `close` lets the peer read the last words and hang up, for a moment; `abort` does not. Closing at once with unread
   data in the socket would reset the connection and lose them.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, cast

from broker.mqtt.packets import Decoder, Frame, MalformedPacket, ReasonCode
from broker.tls import client_certificate

# Bytes in our buffer from which on a sender with a choice should wait.
_HIGH_WATER: Final = 64 * 1024
# For the last words: seconds, and bytes that a peer may still send meanwhile.
_LINGER: Final = 1.0
_DISCARDED_AT_MOST: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class SocketBounds:
    """Bytes of the largest packet, bytes that may be unsent, seconds without progress in sending."""

    packet: int
    unsent: int
    stall: float


def _nothing() -> None:
    """What is called on room when nobody waits for it."""


class FrameSocket(asyncio.Protocol):
    """A connection as frames; `accepted` is called once it is there, asyncio calls the methods named after its own.

    `certificate` is the one that the peer showed (DER; empty: none). `cut_off` tells after the end that the peer did
    not read; `on_room` is called when `congested` ends.
    """

    def __init__(self, bounds: SocketBounds, accepted: "Callable[[FrameSocket], None]") -> None:
        self.source = ""
        self.certificate = b""
        self.congested = False
        self.cut_off = False
        self.on_room: Callable[[], None] = _nothing
        self._bounds = bounds
        self._accepted = accepted
        self._decoder = Decoder(bounds.packet)
        self._frames: Iterator[Frame] = iter(())
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._discarded = 0
        self._lost = asyncio.Event()

    _transport: asyncio.Transport

    async def frame(self, limit: int | None = None) -> Frame | None:
        """Take the next frame; None once we closed, or when the peer is gone and all that it had sent is taken.

        Raises MalformedPacket where the stream cannot be cut, or the frame is larger than `limit` bytes.
        """
        while not self._closed:
            frame = next(self._frames, None)
            size = self._decoder.buffered if frame is None else len(frame.raw)
            if limit is not None and size > limit:
                raise MalformedPacket("packet is too large", ReasonCode.PACKET_TOO_LARGE)
            if frame is not None or self._lost.is_set():
                return frame
            await self._more()
        return None

    def write(self, data: bytes) -> None:
        """Send; a peer that leaves more than the write bound unread is cut off."""
        if self._closed or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > self._bounds.unsent:
            self._cut_off()

    def close(self) -> None:
        """Say no more and hear no more; the peer has a moment to read the last words."""
        if self._closed:
            return
        self._end()
        if self._transport.is_closing():
            return
        if not self._transport.can_write_eof():
            self.hang_up()
            return
        self._transport.write_eof()
        self._transport.resume_reading()
        self._set_timer(_LINGER, self._transport.abort)

    def hang_up(self) -> None:
        """Send what is written and close, as the peer has said that it is through."""
        self._end()
        self._transport.close()
        self._set_timer(_LINGER, self._transport.abort)

    def abort(self) -> None:
        """Close now, whatever is unsent."""
        self._end()
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the socket is gone, which after `close` and `abort` is soon."""
        await self._lost.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        peer = transport.get_extra_info("peername")
        # Without scope, and IPv4 as IPv4 even on a socket for both; empty if the peer is gone already.
        self.source = str(peer[0]).partition("%")[0].removeprefix("::ffff:") if peer else ""
        self.certificate = client_certificate(transport)
        self._accepted(self)

    def data_received(self, data: bytes) -> None:
        """Keep the bytes, and stop reading if nobody waits for them."""
        if self._closed:
            self._discarded += len(data)
            if self._discarded > _DISCARDED_AT_MOST:
                self._transport.abort()
            return
        self._frames = self._decoder.feed(data)
        if self._waiter is None or self._waiter.done():  # uvloop may bring many chunks before the task gets its turn
            self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        """Note that the peer reads slower than we write."""
        self.congested = True
        if not self._closed:
            self._watch(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Note that there is room again."""
        self.congested = False
        if not self._closed:
            self._stop_timer()
            self.on_room()

    def connection_lost(self, _error: Exception | None) -> None:
        """End, whatever the peer's way of leaving."""
        self._stop_timer()
        self.on_room = _nothing
        self._lost.set()
        self._wake()

    async def _more(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            if not self._transport.is_closing():
                self._transport.resume_reading()
            await self._waiter
        finally:
            self._waiter = None

    def _watch(self, unsent: int) -> None:
        self._set_timer(self._bounds.stall, lambda: self._check_progress(unsent))

    def _check_progress(self, before: int) -> None:
        now = self._transport.get_write_buffer_size()
        if now >= before:
            self._cut_off()
        else:
            self._watch(now)

    def _cut_off(self) -> None:
        self.cut_off = True
        self.abort()

    def _set_timer(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self._closed = True
        self.on_room = _nothing
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
