"""The guarded device broker, from its socket to amqtt: any bytes in any pieces from a device that may have a login.

1. Nothing is raised and nothing is logged as an error; when the device is gone, no connection and no task is left.
2. Nothing is said before CONNACK; nobody is welcome whose password was wrong.
3. A device publishes inside its own rights only, its Will included, and hears nothing from outside them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from broker.mqtt.frame_socket import FrameSocket
from broker.mqtt.grant import Grant, GuardLimits
from broker.mqtt.guard import Guard
from broker.mqtt.retained import RetainedBounds, RetainedMessages
from broker.mqtt.router import Router
from tests.e2e.packets import CONNACK, PUBLISH, packet
from tests.fuzz.no_socket import NoSocket
from tests.fuzz.streams import acknowledgement, chunks, connect_packet, cut, publication, published, subscription

_USER, _CLIENT_ID, _PASSWORD = "acme.dev-1", "dev-1", b"pw"
_MINE = f"acme/{_CLIENT_ID}/"
_LIMITS = GuardLimits(refusal_grid=1e-4)
_RETAINED = RetainedBounds(100, 100_000, 10)
_SAID = {2, 3, 4, 5, 6, 7, 9, 11, 13}
_TURNS = 50

_HELLO = connect_packet(_CLIENT_ID, _USER, _PASSWORD)
_TOPIC = _MINE + "a"
SEEDS = [
    _HELLO + subscription(_MINE + "#", 4, 2) + publication(_TOPIC, b"x", 4, 1) + acknowledgement(1) + packet(12, b""),
    _HELLO + subscription(_TOPIC, 4, 1) + publication(_TOPIC, b"x", 4, 2) + packet(6, b"\0\2", 2) + packet(14, b""),
    connect_packet(_CLIENT_ID, _USER, _PASSWORD, clean=False, will=(_TOPIC, b"gone"))
    + subscription("+/dev-1/+", 4, 1) + subscription("#", 4, 1) + publication(_TOPIC, b"x", 4, 0),
    connect_packet(_CLIENT_ID, _USER, b"no", will=("acme/dev-2/a", b"gone")),
    connect_packet(_CLIENT_ID, _USER, _PASSWORD, version=5) + publication("acme/dev-2/a", b"x", 4, 1),
    _HELLO + publication("$SYS/a", b"x", 4, 0),
    _HELLO + packet(3, b"\0\x0cacme/dev-1/ax", 1) + subscription(_MINE + "+", 4, 0) + packet(10,
    b"\0\3\0\x0cacme/dev-1/+", 2),
]  # fmt: skip
TOKENS = [
    b"MQTT\4", b"MQTT\5", b"\x00\x02pw", _MINE.encode(), b"acme/dev-2/", b"#", b"+", b"$share/g/", b"$SYS/", b"\x82",
    b"\x30", b"\x31", b"\x34", b"\x3d", b"\x62", b"\x50", b"\x70", b"\xa2", b"\xe0\0", b"\xc0\0", b"\0\5dev-1",
]  # fmt: skip


class _Watched(Router):
    """The real router, and what was published through it."""

    def __init__(self) -> None:
        super().__init__(_RETAINED, 64, 1_000_000)
        self.topics: list[str] = []

    async def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False, username: str = "") -> int:
        self.topics.append(topic)
        return await super().publish(topic, payload, qos, retain=retain, username=username)


class _Site:
    """One broker for all inputs: starting amqtt for each would be all that this does."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.router = _Watched()
        self.welcome = False
        self.guard = Guard(self._judge, self.router, _LIMITS)
        self.runner.run(self.router.start())

    async def _end(self) -> None:
        await self.guard.close()
        await self.router.close()

    def close(self) -> None:
        """Stop amqtt."""
        self.runner.run(self._end())
        self.runner.close()

    async def _judge(self, username: str, password: bytes, client_id: str, _source: str) -> Grant | None:
        self.welcome = username == _USER and password == _PASSWORD
        filters = (f"acme/{client_id}/#",)
        return Grant("acme", username, client_id, filters, filters) if self.welcome else None

    async def converse(self, data: bytes) -> bytes:
        """Send it all, hang up, and see what was said."""
        self.welcome = False
        self.router.topics.clear()
        self.router._retained = RetainedMessages(_RETAINED)
        transport = NoSocket()
        socket = FrameSocket(self.guard._socket_bounds, self.guard._accept)
        transport.protocol = socket
        socket.connection_made(transport)
        for piece in chunks(data, len(data)):
            if transport.is_closing():
                break
            socket.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        transport.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*self.guard._tasks)
        assert not self.guard.connected()
        await self.guard.kick(_USER)
        return bytes(transport.written)


_sites: list[_Site] = []


def try_one(data: bytes) -> None:
    """What one device says."""
    if not _sites:
        _sites.append(_Site())
    site = _sites[0]
    with structlog.testing.capture_logs() as lines:
        output = site.runner.run(site.converse(data))
    errors = [line for line in lines if line["log_level"] in ("error", "critical")]
    assert not errors, errors
    said = list(cut(output))
    assert {one.kind for one in said} <= _SAID
    assert not said or said[0].kind == CONNACK
    assert site.welcome or len(said) < 2, "a word to a stranger"
    assert site.welcome or not said or said[0].body[1], "a welcome to a stranger"
    mine = [f"acme/{client_id}/" for client_id in _client_ids(data)]
    topics = [one.topic for one in map(_published, said) if one] + [topic.encode() for topic in site.router.topics]
    assert all(any(topic.startswith(own.encode()) or topic == own[:-1].encode() for own in mine) for topic in topics)


def _client_ids(data: bytes) -> list[str]:
    """The client id of the CONNECT."""
    first = next(cut(data), None)
    if first is None or len(first.body) < 12:
        return []
    end = 12 + int.from_bytes(first.body[10:12], "big")
    return [first.body[12:end].decode("utf-8", "replace")]


def _published(one: Any) -> Any:
    return published(one, 4) if one.kind == PUBLISH else None


def close() -> None:
    """End what was started."""
    while _sites:
        _sites.pop().close()
