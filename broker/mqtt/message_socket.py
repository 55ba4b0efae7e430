"""The socket in paho's hands, with messages and their acknowledgements taken out of it before paho sees them.

paho asks the kernel for every packet in three calls, writes each with one, and makes an object of all properties there
are for every PUBLISH and PUBACK. That was most of what a reply cost; a connection's few other packets may have it.

1. PUBLISH and PUBACK go to `take`. All else goes to paho, as it came and in its order.
2. One call takes what the kernel has, and one sends what was written within a turn of the loop.
3. A packet is kept up to `LONGEST` bytes and the rest thrown away unseen: 3.1.1 has no way to tell a broker our limit,
   and devices write what it brings. What is left of it is still larger than any claim may be.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

PUBLISH: Final = 3
PUBACK: Final = 4
LONGEST: Final = 98_304
"""Bytes; room for the longest topic there can be and more payload than a claim may have."""
_CHUNK: Final = 65_536
_BLOCKED: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Frame(NamedTuple):
    """A PUBLISH or PUBACK: the first byte of its fixed header, and what comes after the header."""

    first: int
    body: bytes


class NotMqtt(ConnectionError):
    """What comes is no MQTT; paho takes it for a lost connection."""


class MessageSocket:
    """`sock`, connected and not blocking, for `paho.Client`. `take` has to be quick, and may raise `NotMqtt`.

    All of it is used in the loop's thread, but for the making.
    """

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, take: Callable[[Frame], None]) -> None:
        self._socket = sock
        self._loop = loop
        self._take = take
        self._arrived = bytearray()
        self._unwanted = 0
        self._for_paho = bytearray()
        self._leaving = bytearray()
        self._is_full = False

    # What paho and aiomqtt ask of a socket.

    def recv(self, size: int) -> bytes:
        """At most `size` bytes for paho. Raises OSError as a socket does, BlockingIOError when nothing is there."""
        if not self._for_paho:
            data = self._socket.recv(_CHUNK)
            if not data:
                return b""
            self._cut(data)
            if not self._for_paho:
                raise BlockingIOError
        given = bytes(self._for_paho[:size])
        del self._for_paho[:size]
        return given

    def send(self, data: bytes | bytearray) -> int:
        """Take all of it, to be sent."""
        self.write(data)
        return len(data)

    def pending(self) -> int:
        """Bytes that can be read although the kernel has none: aiomqtt goes on reading then."""
        return len(self._for_paho) + (self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0)

    def fileno(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001  a socket's signature
        """Of the socket."""
        self._socket.setblocking(flag)

    def close(self) -> None:
        """Send what still can be sent, such as DISCONNECT, and close."""
        if self._leaving:
            with suppress(OSError):
                self._socket.send(self._leaving)
            self._leaving.clear()
        if self._is_full:
            self._loop.remove_writer(self._socket.fileno())
        self._socket.close()

    # What the messages need.

    def write(self, data: bytes | bytearray) -> None:
        """Send it at the end of this turn of the loop, or when the kernel has room."""
        if not self._leaving:
            self._loop.call_soon(self._flush)
        self._leaving += data

    def _flush(self) -> None:
        if not self._leaving:  # closed meanwhile
            return
        try:
            del self._leaving[: self._socket.send(self._leaving)]
        except _BLOCKED:
            pass
        except OSError:
            self._leaving.clear()
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # whoever reads is told, and ends the connection
        if bool(self._leaving) != self._is_full:
            self._is_full = not self._is_full
            if self._is_full:
                self._loop.add_writer(self._socket.fileno(), self._flush)
            else:
                self._loop.remove_writer(self._socket.fileno())

    def _cut(self, data: bytes) -> None:
        """Take more of the stream, and give away what is complete."""
        if self._unwanted:
            passed = min(self._unwanted, len(data))
            self._unwanted -= passed
            data = data[passed:]
        buffer, at = self._arrived, 0
        buffer += data
        try:
            while True:
                header, size = _measure(buffer, at)
                kept = min(size, LONGEST)
                if not size or len(buffer) - at < kept:
                    return
                start, at = at, at + kept
                if size > kept:
                    passed = min(size - kept, len(buffer) - at)
                    self._unwanted = size - kept - passed
                    at += passed
                self._give(buffer[start : start + kept], header, whole=size == kept)
        finally:
            del buffer[:at]

    def _give(self, packet: bytearray, header: int, *, whole: bool) -> None:
        kind = packet[0] >> 4
        if kind in (PUBLISH, PUBACK):
            self._take(Frame(packet[0], bytes(packet[header:])))
        elif whole:
            self._for_paho += packet
        else:
            raise NotMqtt("a packet is longer than any of its kind can be")


def _measure(buffer: bytearray, at: int) -> tuple[int, int]:
    """Bytes of the fixed header at `at` and of its packet; zeros while that is not known. Raises `NotMqtt`."""
    length = 0
    for index in range(1, 5):
        if at + index >= len(buffer):
            return 0, 0
        octet = buffer[at + index]
        length |= (octet & 0x7F) << 7 * (index - 1)
        if octet < 0x80:
            return index + 1, index + 1 + length
    raise NotMqtt("a remaining length is longer than four bytes")
