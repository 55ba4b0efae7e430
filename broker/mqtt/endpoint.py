"""The provision broker: an MQTT server for provisioning sessions only, TCP and TLS, around the sans-I/O session.

1. A session is bound to its connection: what it asks is answered there and nowhere else.
2. Sessions with the same client id live side by side; nobody is thrown out by a newcomer that proved nothing.
3. Memory is bounded: by seats (`capacity`), by what one session may have in flight (`protocol`), and by write buffers.
4. Draining keeps listening: who comes meanwhile is told to try later, what is being answered is answered, in a bounded
   time.
"""

import asyncio
import itertools
import ssl as tls

from broker.mqtt.capacity import PLAIN, Capacity
from broker.mqtt.connection import Connection, Shared
from broker.mqtt.interface import (
    Answer,
    CertificateLogin,
    Counters,
    EndpointLimits,
    Inbound,
    LoginVerdict,
    Service,
)
from broker.mqtt.topics import DEFAULT_ROOT, Topics

__all__ = [
    "PLAIN",
    "Answer",
    "CertificateLogin",
    "Counters",
    "Endpoint",
    "EndpointLimits",
    "Inbound",
    "LoginVerdict",
    "Service",
]

# The kernel cuts it to net.core.somaxconn; a fleet that is switched on together must not see refused connections.
_BACKLOG = 4096


class Endpoint:
    """Listens for devices and carries their messages to `service`; `counters` are plain numbers for metrics."""

    def __init__(self, service: Service, limits: EndpointLimits | None = None, root: str = DEFAULT_ROOT) -> None:
        """Raise UnknownTopic when `root` is no topic."""
        limits = limits or EndpointLimits()
        self._shared = Shared(service, limits, Topics(root), Capacity(limits))
        self._servers: list[asyncio.Server] = []
        self._numbers = itertools.count(1)
        self.counters = self._shared.counters

    async def start(self, host: str, port: int, ssl: tls.SSLContext | None = None) -> int:
        """Listen, on one more address with every call; return the port, which the system chose where 0 was given.

        Raises OSError when the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        limits = self._shared.limits
        server = await loop.create_server(
            lambda: Connection(self._shared, loop, next(self._numbers)),
            host,
            port,
            ssl=ssl,
            backlog=_BACKLOG,
            ssl_handshake_timeout=limits.connect_time if ssl else None,
            ssl_shutdown_timeout=limits.closing_time if ssl else None,
        )
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109  what is late is cut off, no exception
        """Answer what is being answered, at most `timeout` seconds; then end all sessions and stop listening.

        Afterwards no connection, task or listener is left.
        """
        shared = self._shared
        shared.draining = True
        for connection in list(shared.connections):
            connection.drain()
        deadline = asyncio.get_running_loop().time() + timeout
        while shared.tasks and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(shared.tasks, timeout=left)
        tasks = list(shared.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._hang_up()

    async def _hang_up(self) -> None:
        """End what is left: a moment for clients to read our last words, then cut."""
        shared = self._shared
        shared.closed = True
        for server in self._servers:
            server.close()
        for connection in list(shared.connections):
            connection.hang_up()
        try:
            async with asyncio.timeout(shared.limits.closing_time):
                await self._until_all_gone()
        except TimeoutError:
            for connection in list(shared.connections):
                connection.abort()
            await self._until_all_gone()
        for server in self._servers:
            await server.wait_closed()

    async def _until_all_gone(self) -> None:
        if self._shared.connections:
            await self._shared.all_gone.wait()
