"""An honest device: the reference device with flash, connections and a plug that somebody pulls.

1. Power may go before and after anything it does, and in the middle of a write to flash, which leaves half of it.
2. What is in flash and the key from the factory stay; all else is gone with the power.
3. A session at the device broker that was closed, and a device that has given up, end with somebody switching it off
   and on again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from broker.fleet.actions import (
    Action,
    Connect,
    Disconnect,
    Finish,
    Identity,
    Login,
    Mode,
    Options,
    Publish,
    Step,
    Subscribe,
)
from broker.fleet.device import Device, State
from broker.fleet.flash import MemoryFlash, _unpack
from broker.fleet.replies import Credential
from tests.simulation.loop import WORLD
from tests.simulation.service import USER

if TYPE_CHECKING:
    import asyncio

    from tests.simulation.network import Session
    from tests.simulation.world import World

A = TypeVar("A")

_MODES = (Mode.PROOF, Mode.PROOF, Mode.CTR, Mode.PLAIN)
_FINISHES = (Finish.BOTH, Finish.LOGIN, Finish.ACK)
_PROGRESS = ((), ("APPS_INSTALLING",), ("CONF_UPDATING", "CONF_UPDATED"))


class _PowerCut(Exception):
    """The lights went out."""


class _Flash(MemoryFlash):
    """Remembers every credential it ever held whole, for the rules."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self._unit = unit
        self.held: set[str] = set()

    def write(self, slot: int, octets: bytes) -> None:
        """See `Flash`."""
        world = self._unit.world
        if world.rng.random() < world.weather.bad_flash:
            octets = octets[: len(octets) // 2]
            super().write(slot, octets)
            return
        if world.rng.random() < world.weather.power:
            super().write(slot, octets[: int(world.rng.random() * len(octets))])
            raise _PowerCut
        super().write(slot, octets)
        if (stored := _unpack(octets)) is not None:
            self.held.add(stored.username)
        if world.rng.random() < world.weather.power:
            raise _PowerCut

    def whole(self) -> set[str]:
        """User names that can be read from it now."""
        slots = (_unpack(self.read(slot)) for slot in (0, 1))
        return {stored.username for stored in slots if stored is not None}


class Unit:
    """See the module. `key` numbers the activation key it has."""

    def __init__(self, world: World, client_id: str) -> None:
        self.world = world
        self.client_id = client_id
        rng = world.rng
        mode = rng.choice(_MODES)
        self.is_plain = mode is Mode.PLAIN
        self._options = Options(mode=mode, finish=rng.choice(_FINISHES), progress=rng.choice(_PROGRESS))
        self.identity: Identity | None = None
        self.key = -1
        self._flash = _Flash(self)
        self.device: Device | None = None
        self._session: Session | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._starts = 0

    # -- what the world asks -------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the device is."""
        return State.OFF if self.device is None else self.device.state

    @property
    def credential(self) -> Credential | None:
        """The credential it works with."""
        return None if self.device is None else self.device.credential

    def had(self, username: str) -> bool:
        """Whether it ever stored this whole."""
        return username in self._flash.held

    def holds(self, username: str) -> bool:
        """Whether it could still read this."""
        return username in self._flash.whole()

    def rekey(self, activation_key: str, number: int) -> None:
        """Somebody puts another key into it, and switches it on again."""
        self.identity = Identity(USER, self.world.password, self.client_id, activation_key)
        self.key = number
        self._flash.forgotten = False
        self.power_cycle("another key")

    def power_cycle(self, why: str, seconds: float = 0.0) -> None:
        """Off, and on again so much later."""
        self.world.tell(self.client_id, "off", why)
        self._off()
        self._after(seconds, self._on, self._starts)

    def renew(self) -> None:
        """The operator's wish for a rotation reached it."""
        if self.device is not None and self.device.state is State.CONFIRMED:
            self._live(self.device.renew)

    # -- power ---------------------------------------------------------------------------------------------------------

    def _off(self) -> None:
        self._starts += 1
        self.device = None
        self._hang_up()
        if self._timer is not None:
            self._timer.cancel()

    def _on(self, start: int) -> None:
        if start != self._starts or self.identity is None:
            return
        self.device = Device(self.identity, self._options, self._flash, self.world.rng.randbytes)
        self._live(self.device.start)

    def _live(self, happen: Any, *values: object) -> None:
        """Something happens to the device; what it wants to do then is done."""
        device = self.device
        if device is None:
            return
        try:
            self._cut()
            happen(*values, self.world.loop.time())
            while actions := device.take():
                for action in actions:
                    self._cut()
                    self._do(action)
        except _PowerCut:
            self.power_cycle("power cut", self.world.rng.random() * 60)
            return
        if self._timer is not None:
            self._timer.cancel()
        if device.due is not None:
            self._timer = self.world.loop.call_at(device.due, self._live, device.tick, context=WORLD)

    def _cut(self) -> None:
        weather = self.world.weather
        if weather.power and self.world.rng.random() < weather.power / 4:
            raise _PowerCut

    # -- what it does --------------------------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        world = self.world
        match action:
            case Connect():
                world.network.connect(self, world.password.encode(), self._once(self._opened))
            case Subscribe():
                self._after(0.002 + world.rng.random() * 0.02, self._subscribed, self._session)
            case Publish(topic, payload):
                if self._session is not None:
                    world.network.send(self._session, topic.rpartition("/")[2], payload, self.key)
            case Disconnect():
                self._hang_up()
            case Login(credential):
                self._after(0.01 + world.rng.random() * 0.1, self._log_in, credential, self._once(self._logged_in))
            case Step(name, text):
                world.tell(self.client_id, name, text or (action.reply.reason if action.reply else ""))

    def _opened(self, session: Session | None) -> None:
        device = self.device
        if device is None:
            return
        if session is None:
            self._live(device.lost)
        else:
            self._session = session
            self._live(device.connected)

    def _subscribed(self, session: Session | None) -> None:
        if session is not None and session is self._session and self.device is not None:
            self._live(self.device.subscribed)

    def _log_in(self, credential: Credential, answer: Callable[[bool | None], None]) -> None:
        brokers = self.world.brokers
        if not brokers.is_away and self.world.rng.random() >= self.world.weather.away:
            brokers.login(credential, answer)

    def _logged_in(self, verdict: bool | None) -> None:
        device = self.device
        if device is None:
            return
        if verdict is None:
            self._live(device.login_unreachable)
        elif verdict:
            self._live(device.login_accepted)
        else:
            self._live(device.login_refused)

    def _once(self, act: Callable[[A | None], None]) -> Callable[[A | None], None]:
        """`act` with the first answer, or None when none came in time; nothing once the power was off."""
        start, answered = self._starts, False

        def take(answer: A | None) -> None:
            nonlocal answered
            if start == self._starts and not answered:
                answered = True
                act(answer)

        self._after(self._options.times.opening, take, None)
        return take

    def receive(self, payload: bytes) -> None:
        """Something arrived on its reply topic."""
        if self.device is not None:
            self._live(self.device.receive, payload)

    def lost(self, session: Session) -> None:
        """A connection broke."""
        if session is self._session and self.device is not None:
            self._session = None
            self._live(self.device.lost)

    def _hang_up(self) -> None:
        if self._session is not None:
            self._session.is_open = False
            self._session = None

    def _after(self, delay: float, act: Any, *values: object) -> None:
        self.world.loop.call_later(delay, act, *values, context=WORLD)
