"""The embedded device broker as a `DeviceBroker`.

1. Its logins are answered from the ledger itself (`Provisioner.device_login`), so there is nothing to install: a
   credential is live there the moment its phase is committed, and no second list can drift from the first.
2. Revoking is closing: the ledger refuses further logins since RETIRING was committed; what is left is the session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from provisioner import __version__
from provisioner.model import BrokerAddress
from provisioner.ports import Cost, Install, Probe, Revoke, ToInstall


class EmbeddedDevices:
    """`kick` closes the sessions of a user name, `connected` tells who has one.

    The addresses are what devices are told, None where there is none.
    """

    name = "embedded"
    kind = "embedded"
    sees_logins = True
    asks_ledger = True
    binds_client_id = True
    templates = True
    prehashed = True
    takes_passwords = True
    takes_certificates = True
    kicks_live = True
    persists = True

    def __init__(self, kick: Callable[[str], Awaitable[int]], connected: Callable[[], Sequence[str]]) -> None:
        self._kick = kick
        self._connected = connected
        self.plain: BrokerAddress | None = None
        self.secure: BrokerAddress | None = None

    def address(self, *, secure: bool) -> BrokerAddress | None:
        """See `DeviceBroker`."""
        return self.secure if secure else self.plain

    def objection(self, account: str, client_id: str) -> str | None:  # noqa: ARG002  # every name will do
        """See `DeviceBroker`."""
        return None

    def delay(self, username: str) -> float:  # noqa: ARG002  # nothing waits
        """See `DeviceBroker`."""
        return 0.0

    def cost(self, installs: int, revokes: int) -> Cost:  # noqa: ARG002  # nothing is installed
        """See `DeviceBroker`."""
        return Cost(sessions=revokes)

    async def probe(self) -> Probe:
        """See `DeviceBroker`."""
        return Probe(__version__)

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        """See `DeviceBroker`."""
        return [Install.DONE] * len(items)

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        """See `DeviceBroker`."""
        if not kick:
            return [Revoke.OPEN] * len(usernames)
        for username in usernames:
            await self._kick(username)
        return [Revoke.CLOSED] * len(usernames)

    async def list(self) -> Sequence[str]:
        """See `DeviceBroker`."""
        return self._connected()

    async def close(self) -> None:
        """See `DeviceBroker`."""
