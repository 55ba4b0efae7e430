"""Where devices work afterwards: the embedded device broker, whose logins the ledger answers, or one with a list.

1. What was asked of a listed broker arrives even when who asked is dead by then.
2. What was revoked stays refused: an install that arrives late does not bring it back (`ports.DeviceBroker`).
3. A name it refuses for good, it always refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from broker.devicebrokers.embedded import EmbeddedDevices
from provisioner.errors import Unavailable
from provisioner.model import BrokerAddress
from provisioner.ports import Cost, DeviceBroker, Install, Probe, Revoke, ToInstall
from tests.simulation.loop import WORLD

if TYPE_CHECKING:
    import asyncio

    from broker.fleet.replies import Credential
    from tests.simulation.world import World

NAME = "devices"
ADDRESS = BrokerAddress("mqtt://devices.example:1883")

A = TypeVar("A")


class Brokers(Protocol):
    """A device broker as the simulation sees it. `is_away`: nobody can reach it."""

    is_away: bool
    asks_ledger: bool

    def port(self) -> DeviceBroker:
        """What a process of the service talks to."""

    def listed(self) -> Iterable[str]:
        """User names on its list."""

    def admits(self, username: str) -> bool:
        """Whether a device could connect with this name now."""

    def refused(self, username: str) -> bool:
        """Whether it refuses this name for good."""

    def login(self, credential: Credential, answer: Callable[[bool | None], None]) -> None:
        """Answer True: accepted, False: refused, None: it could not be reached."""


class Embedded:
    """The ledger is its list."""

    asks_ledger = True

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_away = False

    def port(self) -> DeviceBroker:
        """See `Brokers`."""
        devices = EmbeddedDevices(self._kick, self._world.connected)
        devices.name = NAME
        devices.plain = ADDRESS
        return devices

    async def _kick(self, username: str) -> int:
        return self._world.kick(username)

    def listed(self) -> Iterable[str]:
        """See `Brokers`."""
        return ()

    def admits(self, username: str) -> bool:
        """See `Brokers`."""
        rows = self._world.disk.ledger.execute("SELECT state FROM credential WHERE username = ?", (username,))
        return any(state in ("INSTALLED", "OFFERED", "CONFIRMED") for (state,) in rows)

    def refused(self, username: str) -> bool:
        """See `Brokers`."""
        return False

    def login(self, credential: Credential, answer: Callable[[bool | None], None]) -> None:
        """See `Brokers`."""
        self._world.service.device_login(credential, answer)


class Listed:
    """It has a list of its own, and its faults."""

    name = NAME
    kind = "listed"
    sees_logins = False
    asks_ledger = False
    binds_client_id = True
    templates = False
    prehashed = False
    takes_passwords = True
    takes_certificates = True
    kicks_live = True
    persists = True

    def __init__(self, world: World) -> None:
        self._world = world
        self._passwords: dict[str, str] = {}
        self._revoked: set[str] = set()
        self._refused: dict[str, bool] = {}
        self.is_away = False

    def port(self) -> DeviceBroker:
        """See `Brokers`."""
        return self

    def listed(self) -> Iterable[str]:
        """See `Brokers`."""
        return self._passwords

    def admits(self, username: str) -> bool:
        """See `Brokers`."""
        return username in self._passwords

    def refused(self, username: str) -> bool:
        """See `Brokers`."""
        return self._refused.get(username, False)

    def login(self, credential: Credential, answer: Callable[[bool | None], None]) -> None:
        """See `Brokers`."""
        answer(self._passwords.get(credential.username) == credential.password)

    # -- the port ------------------------------------------------------------------------------------------------------

    def address(self, *, secure: bool) -> BrokerAddress | None:
        """See `DeviceBroker`."""
        return None if secure else ADDRESS

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        """See `DeviceBroker`."""
        return await self._ask(lambda: [self._install(item) for item in items])

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        """See `DeviceBroker`."""
        return await self._ask(lambda: [self._revoke(username) for username in usernames])

    async def list(self) -> Sequence[str]:
        """See `DeviceBroker`."""
        return await self._ask(lambda: tuple(self._passwords))

    def objection(self, account: str, client_id: str) -> str | None:
        """See `DeviceBroker`."""
        return None

    def delay(self, username: str) -> float:
        """See `DeviceBroker`."""
        return 0.0

    def cost(self, installs: int, revokes: int) -> Cost:
        """See `DeviceBroker`."""
        return Cost()

    async def probe(self) -> Probe:
        """See `DeviceBroker`."""
        return Probe("1")

    async def close(self) -> None:
        """See `DeviceBroker`."""

    def _install(self, item: ToInstall) -> Install:
        world, username = self._world, item.credential.username
        if username not in self._refused:
            self._refused[username] = world.rng.random() < world.weather.refuses
        if self._refused[username] or username in self._revoked:
            world.tell("devices", "refuse for good", username)
            return Install.NEVER
        if world.rng.random() < world.weather.busy:
            world.tell("devices", "busy", username)
            return Install.LATER
        world.tell("devices", "install", username)
        self._passwords[username] = item.password.reveal()
        world.rules.check_admitted()
        return Install.DONE

    def _revoke(self, username: str) -> Revoke:
        world = self._world
        if world.rng.random() < world.weather.busy:
            world.tell("devices", "busy", username)
            return Revoke.LATER
        world.tell("devices", "revoke", username)
        self._passwords.pop(username, None)
        self._revoked.add(username)
        world.kick(username)
        return Revoke.CLOSED

    async def _ask(self, act: Callable[[], A]) -> A:
        world = self._world
        future: asyncio.Future[A] = world.loop.create_future()
        world.loop.call_later(self._delay(), self._arrive, act, future, context=WORLD)
        return await future

    def _delay(self) -> float:
        rng = self._world.rng
        return rng.random() * (20.0 if rng.random() < self._world.weather.slow else 0.05)

    def _arrive(self, act: Callable[[], A], future: asyncio.Future[A]) -> None:
        world = self._world
        answer: A | None = None
        if not self.is_away and world.rng.random() >= world.weather.away:
            answer = act()
            if world.rng.random() < world.weather.forgets:
                world.tell("devices", "its answer is lost")
                answer = None
        world.loop.call_later(self._delay(), self._tell, future, answer, context=WORLD)

    @staticmethod
    def _tell(future: asyncio.Future[A], answer: A | None) -> None:
        if future.done():
            return
        if answer is None:
            future.set_exception(Unavailable("the device broker is away"))
        else:
            future.set_result(answer)
