"""Which devices are connected and which are away with their session kept, by account and client id and by user name.

1. A kept session belongs to its user name. Another user name on the same client id does not inherit it: it is another
   generation of the credential, perhaps another unit, and finds an empty session.
2. Kept sessions are few enough and young enough: beyond either bound the one that is away longest is discarded.
3. Whoever takes a session out of here has it alone; the caller sees to it that one client id is served once at a time.
"""

from collections import OrderedDict

from broker.mqtt.device import Device, Key
from broker.mqtt.device_connection import DeviceConnection
from broker.mqtt.grant import Grant, GuardLimits


class DeviceTable:
    """The devices of one broker; `now` is in seconds of any clock that does not run backwards."""

    def __init__(self, limits: GuardLimits) -> None:
        self._limits = limits
        self._live: dict[Key, DeviceConnection] = {}
        self._names: dict[str, set[DeviceConnection]] = {}
        self._kept: OrderedDict[Key, Device] = OrderedDict()

    def live(self, key: Key) -> DeviceConnection | None:
        """Find the connection of a client id."""
        return self._live.get(key)

    def of_user(self, username: str) -> frozenset[DeviceConnection]:
        """Find the connections of a user name; a credential that is not tied to one client id may have several."""
        return frozenset(self._names.get(username, ()))

    def connections(self) -> list[DeviceConnection]:
        """All connections, the oldest first."""
        return list(self._live.values())

    def arrive(self, connection: DeviceConnection) -> None:
        """Enter a connection whose client id is free."""
        self._live[connection.device.key] = connection
        self._names.setdefault(connection.device.grant.username, set()).add(connection)

    def leave(self, connection: DeviceConnection) -> None:
        """Take a connection out."""
        del self._live[connection.device.key]
        names = self._names[connection.device.grant.username]
        names.remove(connection)
        if not names:
            del self._names[connection.device.grant.username]

    async def take(self, grant: Grant, *, clean: bool, now: float) -> Device | None:
        """Take the session kept for a login; None: there is none, it was another's, or `clean` said to forget it."""
        await self._expire(now)
        device = self._kept.pop((grant.account, grant.client_id), None)
        if device is None:
            return None
        if clean or device.failed or device.grant.username != grant.username:
            await device.discard()
            return None
        await device.renew(grant)
        return device

    async def keep(self, device: Device, now: float) -> None:
        """Keep a session for later."""
        device.kept_since = now
        self._kept[device.key] = device
        await self._expire(now)

    async def forget(self, username: str) -> None:
        """Discard what is kept for a user name."""
        await self._discard([key for key, device in self._kept.items() if device.grant.username == username])

    async def clear(self) -> None:
        """Discard all that is kept."""
        await self._discard(list(self._kept))

    async def _expire(self, now: float) -> None:
        surplus = len(self._kept) - self._limits.stored_sessions
        eldest = now - self._limits.session_expiry
        expired = []
        for place, (key, device) in enumerate(self._kept.items()):
            if place >= surplus and device.kept_since > eldest:
                break
            expired.append(key)
        await self._discard(expired)

    async def _discard(self, keys: list[Key]) -> None:
        # All leave before the first is waited for: nobody may take what is being discarded.
        for device in [self._kept.pop(key) for key in keys]:
            await device.discard()
