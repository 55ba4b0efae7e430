"""The guard of the device broker: owns the sockets, and decides who becomes a device's connection.

1. Nothing of a stranger reaches a session: version, client id and password are judged here first. A refused CONNECT
   leaves the live device of that client id as it was.
2. MQTT 5 is answered in its own form that we speak 3.1.1 only (0x84), 3.1 with return code 1. A client id outside the
   grammar, the empty one too, is 2; not being able to judge is 3; everything about the login is 5, at the next multiple
   of the refusal grid after CONNECT arrived, whatever was wrong and however long that took to find out.
3. A client id of an account is served once at a time. Its own user name takes over: the old connection is ended and
   waited for, then the new one begins. Another user name is refused while it is live.
4. `kick` reaches logins that are being judged as well: who was kicked meanwhile is refused, whatever the judgement.
5. A CONNECT without a password on a connection that showed a client certificate is a login by that certificate; the
   user name is then the credential's, whatever CONNECT said.
6. Who has not completed CONNECT in time is cut off, and is the first to go where all seats are taken.
"""

import asyncio
import ipaddress
import math
import ssl as tls
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

import structlog

from broker.mqtt.capacity import Capacity, Seat
from broker.mqtt.device import Device, Key
from broker.mqtt.device_connection import DeviceConnection, Ending
from broker.mqtt.device_session import Bounds
from broker.mqtt.device_table import DeviceTable
from broker.mqtt.filters import InvalidTopic, check_topic, may
from broker.mqtt.frame_socket import FrameSocket, SocketBounds
from broker.mqtt.grant import Authenticate, AuthenticateCertificate, Grant, GuardLimits
from broker.mqtt.interface import EndpointLimits
from broker.mqtt.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Frame,
    MalformedPacket,
    ReasonCode,
    ReturnCode,
    UnsupportedVersion,
    Will,
    encode,
    parse,
)
from broker.mqtt.router import Router
from provisioner.errors import Unavailable
from provisioner.policy import is_identifier

__all__ = ["Authenticate", "Grant", "Guard", "GuardLimits"]

_BACKLOG: Final = 4096
_CONNECT: Final = 1
_KEPT_ENDINGS: Final = frozenset(Ending) - {Ending.KICKED, Ending.FAILED}

log = structlog.get_logger()


class _Refused(Exception):
    """The CONNACK that refuses; `held`: only at the next point of the refusal grid."""

    def __init__(self, code: int, version: int = V311, *, held: bool = False) -> None:
        super().__init__()
        self.packet = encode(Connack(code), version)
        self.held = held


@dataclass(slots=True, eq=False)
class _Attempt:
    """A login being judged, and the user names kicked meanwhile: whose it is, a certificate tells only in the end."""

    task: "asyncio.Task[None] | None"
    kicked: set[str] = field(default_factory=set)


class Guard:
    """Listens for devices and connects those that `authenticate` grants something to `router`."""

    def __init__(
        self,
        authenticate: Authenticate,
        router: Router,
        limits: GuardLimits,
        by_certificate: AuthenticateCertificate | None = None,
    ) -> None:
        self._authenticate = authenticate
        self._by_certificate = by_certificate
        self._router = router
        self._limits = limits
        self._socket_bounds = SocketBounds(limits.packet_size, limits.write_buffer, limits.stall_time)
        self._bounds = Bounds(
            limits.queued_messages, limits.queued_bytes, limits.inflight_messages, limits.inflight_bytes
        )
        self._seats: Capacity[FrameSocket] = Capacity(
            EndpointLimits(max_connections=limits.connections, max_connections_per_source=limits.connections_per_source)
        )
        self._table = DeviceTable(limits)
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._attempts: set[_Attempt] = set()
        self._servers: list[asyncio.Server] = []
        self._tasks: dict[asyncio.Task[None], FrameSocket] = {}
        self._stopping = False

    async def listen(self, host: str, port: int, ssl: tls.SSLContext | None = None) -> int:
        """Listen, on one more address with every call; return the port, which the system chose where 0 was given."""
        limits = self._limits
        server = await asyncio.get_running_loop().create_server(
            lambda: FrameSocket(self._socket_bounds, self._accept),
            host,
            port,
            ssl=ssl,
            backlog=_BACKLOG,
            ssl_handshake_timeout=limits.connect_time if ssl else None,
            ssl_shutdown_timeout=1.0 if ssl else None,
        )
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, end every connection, discard every session; no task is left. No Will is published."""
        self._stopping = True
        for server in self._servers:
            server.close()
        for connection in self._table.connections():
            connection.end(Ending.STOPPED)
        for attempt in self._attempts:
            if attempt.task is not None:
                attempt.task.cancel()
        for socket in self._tasks.values():
            socket.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        await self._table.clear()

    async def kick(self, username: str) -> int:
        """End all connections of a user name and discard its sessions; return how many connections that were.

        Their subscriptions and waiting messages are gone when this returns, and no login judged before is admitted.
        """
        for attempt in self._attempts:
            attempt.kicked.add(username)
        connections = self._table.of_user(username)
        for connection in connections:
            connection.end(Ending.KICKED)
        for connection in connections:
            await connection.gone.wait()
        await self._table.forget(username)
        return len(connections)

    def connected(self) -> list[Grant]:
        """The rights of every connected device, the oldest connection first."""
        return [connection.device.grant for connection in self._table.connections()]

    def is_live(self, username: str) -> bool:
        """Whether a device with this user name is connected."""
        return bool(self._table.of_user(username))

    def _accept(self, socket: FrameSocket) -> None:
        seat, evicted = self._seats.arrive(socket, _network(socket.source))
        if evicted is not None:
            evicted.abort()
        if self._stopping:
            socket.abort()
        task = asyncio.create_task(self._serve(socket, seat))
        self._tasks[task] = socket
        task.add_done_callback(self._tasks.pop)

    async def _serve(self, socket: FrameSocket, seat: Seat[FrameSocket]) -> None:
        try:
            await self._converse(socket, seat)
        except Exception:  # whatever went wrong here concerns this one device
            log.exception("device connection failed", source=socket.source)
        finally:
            socket.close()
            await socket.wait_closed()
            self._seats.leave(seat)

    async def _converse(self, socket: FrameSocket, seat: Seat[FrameSocket]) -> None:
        try:
            async with asyncio.timeout(self._limits.connect_time):
                frame = await socket.frame(self._limits.connect_size)
        except (MalformedPacket, TimeoutError):
            return
        if frame is None or frame.kind != _CONNECT:
            return
        self._seats.speak(seat)
        arrived = asyncio.get_running_loop().time()
        try:
            connect = self._read_connect(frame, seat)
            connection, present = await self._log_in(connect, socket)
        except MalformedPacket:
            return
        except _Refused as refusal:
            if refusal.held:
                await self._until_grid(arrived)
            socket.write(refusal.packet)
            return
        socket.write(encode(Connack(session_present=present), V311))
        await self._run(connection, socket, clean=connect.clean_start)

    def _read_connect(self, frame: Frame, seat: Seat[FrameSocket]) -> Connect:
        """Understand the first packet; _Refused for what has an answer, MalformedPacket for what has none."""
        try:
            packet = parse(frame, V311)
        except UnsupportedVersion as unsupported:
            raise _unsupported(unsupported.level) from None
        if not isinstance(packet, Connect) or packet.version != V311:
            raise _unsupported(V5)
        if not is_identifier(packet.client_id):
            raise _Refused(ReturnCode.IDENTIFIER_REJECTED)
        if seat.surplus or self._stopping:
            raise _Refused(ReturnCode.SERVER_UNAVAILABLE)
        return packet

    async def _log_in(self, connect: Connect, socket: FrameSocket) -> tuple[DeviceConnection, bool]:
        """Judge a login and make it a connection; the second value is CONNACK's session present."""
        attempt = _Attempt(asyncio.current_task())
        self._attempts.add(attempt)
        try:
            grant = await self._judge(connect, socket)
            if grant is None or not _may_will(connect.will, grant):
                log.debug(
                    "device refused", username=connect.username, client_id=connect.client_id, source=socket.source
                )
                raise _Refused(ReturnCode.NOT_AUTHORIZED, held=True)
            return await self._admit(grant, connect, socket, attempt)
        finally:
            self._attempts.discard(attempt)

    async def _judge(self, connect: Connect, socket: FrameSocket) -> Grant | None:
        username, client_id, source = connect.username or "", connect.client_id, socket.source
        by_certificate = None if connect.password or not socket.certificate else self._by_certificate
        if by_certificate is None and not username:
            return None
        try:
            async with asyncio.timeout(self._limits.login_time):
                if by_certificate is not None:
                    grant = await by_certificate(socket.certificate, client_id, source)
                else:
                    grant = await self._authenticate(username, connect.password or b"", client_id, source)
        except (TimeoutError, Unavailable) as error:
            log.warning("login waits", username=username, source=source, detail=str(error) or "it took too long")
            raise _Refused(ReturnCode.SERVER_UNAVAILABLE) from None
        except Exception:
            log.exception("login cannot be judged", username=username, source=source)
            raise _Refused(ReturnCode.SERVER_UNAVAILABLE) from None
        if grant is not None and grant.client_id != client_id:
            raise ValueError("grant is for another login")
        return grant

    async def _admit(
        self, grant: Grant, connect: Connect, socket: FrameSocket, attempt: _Attempt
    ) -> tuple[DeviceConnection, bool]:
        key = grant.account, grant.client_id
        async with self._locks.setdefault(key, asyncio.Lock()):
            holder = self._table.live(key)
            if holder is not None:
                if holder.ending is None and holder.device.grant.username != grant.username:
                    raise _Refused(ReturnCode.NOT_AUTHORIZED, held=True)
                holder.end(Ending.TAKEN_OVER)
                await holder.gone.wait()
            now = asyncio.get_running_loop().time()
            kept = await self._table.take(grant, clean=connect.clean_start, now=now)
            device = kept or Device(grant, self._router, self._bounds)
            # From here on nothing is waited for: who is not kicked yet can be found by `kick` in the table.
            if grant.username in attempt.kicked:
                await device.discard()
                raise _Refused(ReturnCode.NOT_AUTHORIZED, held=True)
            connection = DeviceConnection(socket, device, self._router, self._limits, connect.keep_alive, connect.will)
            self._table.arrive(connection)
            return connection, kept is not None

    async def _run(self, connection: DeviceConnection, socket: FrameSocket, *, clean: bool) -> None:
        grant = connection.device.grant
        names = {"username": grant.username, "client_id": grant.client_id, "source": socket.source}
        log.info("device connected", **names)
        ending: Ending | None = None
        try:
            ending = await connection.run()
        finally:
            log.info("device disconnected", **names, reason=ending.value if ending else "error")
            await self._put_away(connection, kept=not clean and ending in _KEPT_ENDINGS)

    async def _put_away(self, connection: DeviceConnection, *, kept: bool) -> None:
        device = connection.device
        try:
            if kept and not device.failed:
                await self._table.keep(device, asyncio.get_running_loop().time())
            else:
                await device.discard()
        finally:
            self._table.leave(connection)
            connection.gone.set()

    async def _until_grid(self, arrived: float) -> None:
        grid, now = self._limits.refusal_grid, asyncio.get_running_loop().time()
        await asyncio.sleep(arrived + (math.floor((now - arrived) / grid) + 1) * grid - now)


def _unsupported(level: int) -> _Refused:
    if level < V5:
        return _Refused(ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION)
    return _Refused(ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, V5)


def _may_will(will: Will | None, grant: Grant) -> bool:
    """Whether a device could publish its Will itself."""
    if will is None:
        return True
    try:
        check_topic(will.topic)
    except InvalidTopic:
        return False
    return may(grant.publish, will.topic)


def _network(address: str) -> str:
    """Return what counts as one source: an IPv4 address, or the /64 that one IPv6 subscriber has to itself."""
    return f"{int(ipaddress.IPv6Address(address)) >> 64:x}::/64" if ":" in address else address
