"""The device broker of the single-process default: amqtt for routing, behind the guard.

1. amqtt has no socket and lets everybody in, as nobody but the guard's own links can reach it (`router`, `link`).
2. Sessions live in memory: they survive a lost connection, not the end of the process. MQTT 3.1.1 only.
3. Sized for a few hundred devices at a time: amqtt compares every message with every subscription.
"""

import ssl as tls

from broker.mqtt.filters import check_topic
from broker.mqtt.grant import Authenticate, AuthenticateCertificate, Grant, GuardLimits
from broker.mqtt.guard import Guard
from broker.mqtt.retained import RetainedBounds
from broker.mqtt.router import Router


class EmbeddedBroker:
    """A device broker in this process; `authenticate` says what each login may do.

    `by_certificate` says it of a device that shows a certificate in the place of a password; None: it says nothing.
    """

    def __init__(
        self,
        authenticate: Authenticate,
        limits: GuardLimits | None = None,
        by_certificate: AuthenticateCertificate | None = None,
    ) -> None:
        limits = limits or GuardLimits()
        retained = RetainedBounds(limits.retained_messages, limits.retained_bytes, limits.retained_per_user)
        self._router = Router(retained, limits.routed_messages, limits.routed_bytes)
        self._guard = Guard(authenticate, self._router, limits, by_certificate)
        self._started = False

    async def start(self, host: str, port: int, ssl: tls.SSLContext | None = None) -> int:
        """Listen, on one more address with every call; return the port, which the system chose where 0 was given.

        Raises OSError when the address cannot be listened on; `close` is due then as well.
        """
        if not self._started:
            self._started = True
            await self._router.start()
        return await self._guard.listen(host, port, ssl)

    async def close(self) -> None:
        """End every connection and session and stop; no task is left."""
        await self._guard.close()
        if self._started:
            await self._router.close()

    async def kick(self, username: str) -> int:
        """End all connections of a user name and discard its sessions; return how many connections that were."""
        return await self._guard.kick(username)

    async def publish(self, topic: str, payload: bytes, qos: int = 0, *, retain: bool = False) -> None:
        """Publish as the broker itself; InvalidTopic for a topic that devices could not publish to either."""
        check_topic(topic)
        await self._router.publish(topic, payload, qos, retain=retain)

    def connected(self) -> list[Grant]:
        """The rights of every connected device, the oldest connection first."""
        return self._guard.connected()

    def is_live(self, username: str) -> bool:
        """Whether a device with this user name is connected."""
        return self._guard.is_live(username)
