"""A device's connection after CONNACK: what it may do, in MQTT 3.1.1, and how it ends.

1. Whatever breaks the protocol closes the connection (MQTT-4.8.0-1). So does publishing outside the granted filters or
   to `$`, as 3.1.1 has no way to refuse a PUBLISH; a refused subscription is 0x80 in SUBACK, the others stand.
2. `$share/` is refused: 3.1.1 does not know shared subscriptions, and taken for a plain filter it would match nothing.
3. A device that is silent for one and a half times its keep-alive is gone (MQTT-3.1.2-24). Only complete packets count,
   and time during which we kept it waiting does not.
4. Packets are handled one after the other, and while too much is under way the next one is not read: a device that
   publishes faster than the broker delivers is slowed down.
5. Messages for the device wait in its session and not in the socket; they are written as the device reads.
6. The Will is published unless the device said DISCONNECT, was revoked, or the broker ends.
"""

import asyncio
import enum
from collections.abc import Awaitable, Callable
from typing import Any, Final

from broker.mqtt.device import Device
from broker.mqtt.filters import InvalidTopic, check_filter, check_topic, may
from broker.mqtt.frame_socket import FrameSocket
from broker.mqtt.grant import GuardLimits
from broker.mqtt.link import RouterFailed
from broker.mqtt.packets import (
    V311,
    Disconnect,
    MalformedPacket,
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
    Unsuback,
    Unsubscribe,
    Will,
    encode,
    parse,
)
from broker.mqtt.router import Router

REFUSED: Final = 0x80
"""The SUBACK code of a subscription that is not granted."""


class Ending(enum.StrEnum):
    """Why a connection ended, in the words of the log."""

    LEFT = "left"
    LOST = "lost"
    SILENT = "silent"
    SLOW = "slow reader"
    VIOLATION = "protocol violation"
    NOT_ALLOWED = "publish not allowed"
    TAKEN_OVER = "taken over"
    KICKED = "kicked"
    STOPPED = "broker stops"
    FAILED = "router failed"


_WITHOUT_WILL: Final = frozenset((Ending.LEFT, Ending.KICKED, Ending.STOPPED))


class DeviceConnection:
    """One connection of one device. `run` serves it until `end`; `gone` is set when nothing of it is left."""

    def __init__(
        self,
        socket: FrameSocket,
        device: Device,
        router: Router,
        limits: GuardLimits,
        keep_alive: int,
        will: Will | None,
    ) -> None:
        self.device = device
        self.ending: Ending | None = None
        self.gone = asyncio.Event()
        self._socket = socket
        self._router = router
        self._limits = limits
        self._will = will
        # 0 asks for none; dead devices would then stay for ever, so there is a longest one.
        self._silence = min(keep_alive or limits.keep_alive, limits.keep_alive) * 1.5
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._handlers: dict[type, Callable[[Any], Awaitable[None]]] = {
            Publish: self._on_publish,
            Puback: self._on_puback,
            Pubrec: self._on_pubrec,
            Pubrel: self._on_pubrel,
            Pubcomp: self._on_pubcomp,
            Subscribe: self._on_subscribe,
            Unsubscribe: self._on_unsubscribe,
            Pingreq: self._on_pingreq,
            Disconnect: self._on_disconnect,
        }

    def end(self, ending: Ending) -> None:
        """Let the connection end for this reason; the first one counts."""
        if self.ending is None:
            self.ending = ending
            close = {
                Ending.LEFT: self._socket.hang_up,
                Ending.VIOLATION: self._socket.close,
                Ending.NOT_ALLOWED: self._socket.close,
            }.get(ending, self._socket.abort)
            close()

    async def run(self) -> Ending:
        """Serve the device from CONNACK to its end; its Will, if due, is published when this returns."""
        device, socket = self.device, self._socket
        device.on_failure = lambda: self.end(Ending.FAILED)
        socket.on_room = self._pump
        self._watch(self._silence)
        try:
            if device.failed:
                self.end(Ending.FAILED)
            device.session.connect(self._pump)
            self._pump()
            await self._serve()
        finally:
            self._stop_watching()
            device.session.disconnect()
        ending = self.ending or Ending.LOST
        if self._will is not None and ending not in _WITHOUT_WILL:
            await self._publish(self._will)
        return ending

    async def _serve(self) -> None:
        while self.ending is None:
            try:
                frame = await self._socket.frame()
                if frame is None:
                    self.end(Ending.SLOW if self._socket.cut_off else Ending.LOST)
                    return
                self._busy = True
                await self._handle(parse(frame, V311))
            except (MalformedPacket, InvalidTopic, OverflowError):
                self.end(Ending.VIOLATION)
            except RouterFailed:
                self.end(Ending.FAILED)
            self._busy = False
            self._heard = self._loop.time()

    async def _handle(self, packet: Packet) -> None:
        handler = self._handlers.get(type(packet))
        if handler is None:  # a second CONNECT, or what only servers send
            self.end(Ending.VIOLATION)
        else:
            await handler(packet)

    async def _on_publish(self, packet: Publish) -> None:
        check_topic(packet.topic)
        if not may(self.device.grant.publish, packet.topic):
            self.end(Ending.NOT_ALLOWED)
            return
        if packet.qos < 2 or self.device.session.accept(packet.packet_id):
            await self._publish(packet)
        if packet.qos == 1:
            self._write(Puback(packet.packet_id))
        elif packet.qos == 2:
            self._write(Pubrec(packet.packet_id))

    async def _on_pubrel(self, packet: Pubrel) -> None:
        self.device.session.release(packet.packet_id)
        self._write(Pubcomp(packet.packet_id))

    async def _on_puback(self, packet: Puback) -> None:
        self.device.session.acknowledge(packet.packet_id)
        self._pump()

    async def _on_pubrec(self, packet: Pubrec) -> None:
        self._write(self.device.session.received(packet.packet_id))

    async def _on_pubcomp(self, packet: Pubcomp) -> None:
        self.device.session.complete(packet.packet_id)
        self._pump()

    async def _on_subscribe(self, packet: Subscribe) -> None:
        room = self._limits.subscriptions - len(self.device.session.filters)
        granted: dict[str, int] = {}
        codes = []
        for wanted in packet.subscriptions:
            topic_filter = wanted.topic_filter
            check_filter(topic_filter)
            new = topic_filter not in granted and topic_filter not in self.device.session.filters
            if not self._may_subscribe(topic_filter) or (new and not room):
                codes.append(REFUSED)
                continue
            room -= new
            granted[topic_filter] = wanted.qos
            codes.append(wanted.qos)
        await self.device.subscribe(granted.items())
        self._write(Suback(packet.packet_id, tuple(codes)))
        self._pump()

    def _may_subscribe(self, topic_filter: str) -> bool:
        return not topic_filter.startswith("$share/") and may(self.device.grant.subscribe, topic_filter)

    async def _on_unsubscribe(self, packet: Unsubscribe) -> None:
        await self.device.unsubscribe(packet.topic_filters)
        self._write(Unsuback(packet.packet_id))

    async def _on_pingreq(self, _packet: Pingreq) -> None:
        self._write(Pingresp())

    async def _on_disconnect(self, _packet: Disconnect) -> None:
        self.end(Ending.LEFT)

    async def _publish(self, message: Publish | Will) -> None:
        username = self.device.grant.username
        await self._router.publish(
            message.topic, message.payload, message.qos, retain=message.retain, username=username
        )

    def _write(self, packet: Packet) -> None:
        self._socket.write(encode(packet, V311))

    def _pump(self) -> None:
        """Write what waits in the session, as far as the device reads and acknowledges."""
        session, socket = self.device.session, self._socket
        while self.ending is None and not socket.congested and (packet := session.next()) is not None:
            self._write(packet)

    def _watch(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._check_silence)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _check_silence(self) -> None:
        left = self._silence if self._busy else self._heard + self._silence - self._loop.time()
        if left > 0:
            self._watch(left)
        else:
            self.end(Ending.SILENT)
