"""What carries messages: it loses, doubles, delays and so reorders them, and connections break.

On the endpoint a reply finds the connection that its message came on, or nobody; on a bridge whoever has subscribed
then. Each message is also heard by the thief where nobody hides it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.loop import WORLD
from tests.simulation.service import Letter

if TYPE_CHECKING:
    from tests.simulation.unit import Unit
    from tests.simulation.world import World


class Session:
    """One connection of a device to the provision broker."""

    __slots__ = ("is_open", "number", "unit")

    def __init__(self, unit: Unit, number: int) -> None:
        self.unit = unit
        self.number = number
        self.is_open = True


class Network:
    """See the module. `is_bridge`: somebody else's broker is between devices and us."""

    def __init__(self, world: World, *, is_bridge: bool) -> None:
        self._world = world
        self._is_bridge = is_bridge
        self._numbers = 0
        self._sessions: list[Session] = []

    def connect(self, unit: Unit, password: bytes, opened: Callable[[Session | None], None]) -> None:
        """Open a connection: `opened` gets it, or None where it cannot be had."""
        self._after(self._moment(), self._login, unit, password, opened)

    def _login(self, unit: Unit, password: bytes, opened: Callable[[Session | None], None]) -> None:
        self._numbers += 1
        session = Session(unit, self._numbers)
        if self._is_bridge:
            opened(session)
            return
        service = self._world.service
        if not service.is_up or self._strikes(self._world.weather.cut):
            opened(None)
            return

        def admitted(verdict: bool) -> None:
            if verdict:
                self._sessions.append(session)
            self._after(self._moment(), opened, session if verdict else None)

        service.login(unit.client_id, password, admitted)

    def send(self, session: Session, kind: str, payload: bytes, key: int) -> None:
        """A device says something."""
        world, unit = self._world, session.unit
        letter = Letter(kind, unit.client_id, payload, "10.0.0.1", session.number, unit.is_plain, key)
        if not unit.is_plain:
            world.thief.hear(letter)
        for delay in self._copies():
            self._after(delay, self._arrive, session, letter)
        if self._strikes(world.weather.cut):
            self._after(self._moment(), self._break, session)

    def deliver(self, letter: Letter, reply: Callable[[bytes], None]) -> None:
        """Hand a message to the service; if that is down, nobody answers."""
        if self._world.service.is_up:
            self._world.service.answer(letter, reply)

    def _arrive(self, session: Session, letter: Letter) -> None:
        self.deliver(letter, lambda payload: self._reply(session, payload))

    def _reply(self, session: Session, payload: bytes) -> None:
        for delay in self._copies():
            self._after(delay, self._hand_over, session, payload)

    def _hand_over(self, session: Session, payload: bytes) -> None:
        if session.is_open or self._is_bridge:
            session.unit.receive(payload)

    def _break(self, session: Session) -> None:
        if session.is_open:
            session.is_open = False
            session.unit.lost(session)

    def hang_up(self) -> None:
        """Our end is gone: devices hear of it, or nobody tells them."""
        for session in self._sessions:
            if not self._strikes(self._world.weather.loss):
                self._after(self._moment(), self._break, session)
        self._sessions.clear()

    def _copies(self) -> list[float]:
        """When each copy of a message arrives."""
        weather = self._world.weather
        if self._strikes(weather.loss):
            return []
        copies = 2 if self._strikes(weather.twice) else 1
        return [self._moment() + self._late() for _ in range(copies)]

    def _late(self) -> float:
        return self._world.rng.random() * 300 if self._strikes(self._world.weather.late) else 0.0

    def _moment(self) -> float:
        return 0.001 + self._world.rng.random() * 0.02

    def _strikes(self, probability: float) -> bool:
        return self._world.rng.random() < probability

    def _after(self, delay: float, act: Callable[..., None], *values: object) -> None:
        self._world.loop.call_later(delay, act, *values, context=WORLD)
