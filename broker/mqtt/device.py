"""A device as the broker knows it: its rights, its session, and the session's link into the router.

1. The link is made with the first subscription: a login that only publishes, or only tries its password, costs none.
2. Session and link end together: nothing a device subscribed to outlives its session.
"""

from collections.abc import Callable, Iterable

from broker.mqtt.device_session import Bounds, DeviceSession, Message
from broker.mqtt.filters import may
from broker.mqtt.grant import Grant
from broker.mqtt.link import Link
from broker.mqtt.router import Router

Key = tuple[str, str]
"""Account and client id: ids of different accounts have nothing to do with each other."""


def _nothing() -> None:
    """What is called on failure while the device is away."""


class Device:
    """One session with its owner's rights. `failed`: the router lost it; `on_failure` is called then."""

    def __init__(self, grant: Grant, router: Router, bounds: Bounds) -> None:
        self.grant = grant
        self.session = DeviceSession(bounds)
        self.failed = False
        self.kept_since = 0.0
        self.on_failure: Callable[[], None] = _nothing
        self._router = router
        self._link: Link | None = None

    @property
    def key(self) -> Key:
        """What no two live devices share."""
        return self.grant.account, self.grant.client_id

    async def subscribe(self, wanted: Iterable[tuple[str, int]]) -> None:
        """Subscribe to (filter, QoS) pairs that were checked; retained messages are queued in the session."""
        wanted = tuple(wanted)
        new = tuple({topic_filter for topic_filter, _ in wanted} - self.session.filters)
        if new:
            if self._link is None:
                self._link = await self._router.open("|".join(self.key), self._take, self._fail)
            await self._link.subscribe(new)
        for topic_filter, qos in wanted:
            self.session.subscribe(topic_filter, qos, self._router.sequence, self._router.retained(topic_filter))

    async def unsubscribe(self, topic_filters: Iterable[str]) -> None:
        """Remove filters; those never subscribed to are ignored (MQTT-3.10.4-5)."""
        known = tuple(one for one in dict.fromkeys(topic_filters) if self.session.unsubscribe(one))
        if known and self._link is not None:
            await self._link.unsubscribe(known)

    async def renew(self, grant: Grant) -> None:
        """Go on under newly granted rights: subscriptions outside them end."""
        self.grant = grant
        await self.unsubscribe(one for one in self.session.filters if not may(grant.subscribe, one))

    async def discard(self) -> None:
        """End session and link."""
        self.session = DeviceSession(self.session.bounds)
        if self._link is not None:
            await self._link.close()

    def _take(self, message: Message) -> None:
        self.session.offer(message)

    def _fail(self) -> None:
        self.failed = True
        self.on_failure()
