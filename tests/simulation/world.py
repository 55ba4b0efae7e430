"""One run: a seed in, a verdict out.

1. First the weather: faults strike, an operator and a thief are at work. Then calm: nothing fails any more, an operator
   reopens what was closed, and whoever has given up is switched off and on.
2. Rules hold after each step. In the calm every device has to end with a credential that works, within `PATIENCE`.
3. The same seed tells the same story, word for word.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from structlog.testing import capture_logs

from broker.fleet.device import State
from provisioner.creation import NewRequest
from provisioner.entities import NewAccount
from provisioner.handover import Vault
from provisioner.model import AccountKind, Confirm, Millis, Offer, Secret, Status
from tests.simulation import weather as skies
from tests.simulation.brokers import NAME, Brokers, Embedded, Listed
from tests.simulation.disk import Disk, blank
from tests.simulation.loop import WORLD, VirtualLoop
from tests.simulation.network import Network
from tests.simulation.operator import ADMIN, Operator
from tests.simulation.rules import CLOSED, Asked, Broken, Cause, Rules
from tests.simulation.service import USER, Service
from tests.simulation.thief import Thief
from tests.simulation.unit import Unit

PATIENCE = 4 * 3600.0
"""Within which the calm heals everything, seconds."""
_POLL = 20.0
_MOST_STEPS = 400_000
_MOST_CURES = 8
_START = 1_800_000_000_000


@dataclass(frozen=True)
class Verdict:
    """`broken` is empty where every rule held. `story` has a line per happening."""

    seed: int
    broken: str
    steps: int
    seconds: float
    story: list[tuple[Any, ...]]

    @property
    def digest(self) -> str:
        """The same for the same story."""
        return hashlib.sha256(repr((self.broken, self.steps, self.story)).encode()).hexdigest()

    def lines(self) -> Iterator[str]:
        """The story as people read it."""
        for seconds, who, *words in self.story:
            yield f"{seconds:12.3f}  {who:<10} {' '.join(str(word) for word in words)}"


class World:
    """See the module."""

    def __init__(self, seed: int, image: bytes) -> None:
        self.rng = random.Random(seed)
        self.story: list[tuple[Any, ...]] = []
        self.loop = VirtualLoop(self.rng, self._after_step)  # type: ignore[abstract]  # no sockets, no threads, no signals
        self.weather = skies.CALM
        self.vault_keys = {1: b"k" * 32}
        self._vault = Vault(self.vault_keys, self.rng.randbytes)
        self.ledger_changed = False
        self._error: BaseException | None = None
        self._offset = 0
        self._highest = 0
        self.set_back = 0.0
        self.disk = Disk(self, image)
        self.rules = Rules(self)
        self.password = ""
        self.brokers: Brokers = Embedded(self) if self.rng.random() < 0.5 else Listed(self)
        self.network = Network(self, is_bridge=self.rng.random() < 0.3)
        self.operator = Operator(self)
        self.thief = Thief(self)
        self.keys: dict[int, int] = {}
        """Number of the activation key of a request; while nobody can tell there is none."""
        self._texts: list[str] = []
        self.client_ids = [f"dev-{number}" for number in range(1, self.rng.choice((2, 2, 3)))]
        self.units = {client_id: Unit(self, client_id) for client_id in self.client_ids}
        self.service = Service(self, self._patience())

    # -- what the others ask -------------------------------------------------------------------------------------------

    def tell(self, who: str, *words: object) -> None:
        """One more line of the story."""
        self.story.append((round(self.loop.time(), 6), who, *words))

    def clock(self) -> Millis:
        """The wall clock, which somebody sets."""
        return _START + int(self.loop.time() * 1000) + self._offset

    @property
    def latest(self) -> Millis:
        """The latest time that this clock has ever shown."""
        return max(self._highest, self.clock())

    def fail(self, error: BaseException, where: str) -> None:
        """End the run with this error."""
        if self._error is None:
            self._error = error
            self.tell("world", f"{type(error).__name__} in {where}: {error}")

    @contextmanager
    def judging(self) -> Iterator[None]:
        """What breaks a rule in here ends the run, whoever catches it."""
        try:
            yield
        except Broken as broken:
            self.fail(broken, "what leaves")
            raise

    def cause(self, client_id: str) -> Cause:
        """What is under way for a client id."""
        working = [one for one in self.service.working if one[0] == client_id]
        return Cause(
            operator=client_id in self.operator.busy_with,
            failed=any(failed for _, _, failed in working),
            claimed_on=tuple(now for _, now, _ in working),
        )

    def kept_key(self, request_id: int, sealed: str | None) -> bytes:
        """Which of its keys a request still has: `A`, `K`, `k` as in `provisioner.keys`."""
        return b"" if sealed is None else self._vault.open(sealed, f"request|{request_id}")[:1]

    def fingerprint(self, offer: Offer) -> str:
        """What the ledger keeps of this offer's password."""
        return self._vault.fingerprint(offer.password.reveal(), f"{NAME}|{offer.username}")

    def kick(self, username: str) -> int:
        """Close the sessions of a user name: the device notices, and starts again."""
        kicked = [unit for unit in self.units.values() if unit.credential and unit.credential.username == username]
        for unit in kicked:
            if unit.state is State.CONFIRMED:
                unit.power_cycle("kicked", 1 + self.rng.random() * 30)
        return len(kicked)

    def connected(self) -> tuple[str, ...]:
        """User names that have a session at the device broker."""
        units = self.units.values()
        return tuple(unit.credential.username for unit in units if unit.credential and unit.state is State.CONFIRMED)

    def restart(self, client_id: str) -> None:
        """Somebody walks to the device."""
        self.units[client_id].power_cycle("by hand", self.rng.random() * 60)

    def right_key(self, client_id: str) -> int | None:
        """Number of the activation key that is right for a device; None: nobody can tell."""
        newest = self.operator.newest(client_id)
        return None if newest is None else self.keys.get(newest.id)

    def hand_key(self, client_id: str, request_id: int, text: str) -> None:
        """Somebody carries an activation key to the device."""
        if text not in self._texts:
            self._texts.append(text)
        number = self._texts.index(text) + 1
        self.keys[request_id] = number
        if self.units[client_id].key != number:
            self.loop.call_later(self.rng.random() * 20, self.units[client_id].rekey, text, number, context=WORLD)

    def key_text(self, client_id: str) -> str | None:
        """The activation key that is right, where anybody knows."""
        number = self.right_key(client_id)
        return None if number is None else self._texts[number - 1]

    def wish(self, client_id: str) -> NewRequest:
        """What an operator wants for a device."""
        rng, now = self.rng, self.clock()
        confirms = [Confirm.EITHER, Confirm.ACK] + [Confirm.LOGIN] * isinstance(self.brokers, Embedded)
        return NewRequest(
            account="acme",
            client_id=client_id,
            username=USER,
            retry_max_attempts=rng.randint(2, 6),
            activates_on=now + int(rng.random() * 120_000) if rng.random() < 0.2 else None,
            expires_on=now + 200_000 + int(rng.random() * 1_800_000) if rng.random() < 0.4 else None,
            confirm=rng.choice(confirms),
            confirm_time=rng.choice((20, 60, 300, 3600)),
            reuse_key=rng.random() < 0.8,
            status=Status.DISABLED if rng.random() < 0.1 else Status.ENABLED,
        )

    # -- faults --------------------------------------------------------------------------------------------------------

    def crash(self, why: str) -> None:
        """The process is killed; another one comes up soon."""
        if self.service.life.is_over:
            return
        self.service.life.is_over = True
        self.service.is_up = False
        self.tell("service", "killed", why)
        self.network.hang_up()
        self.loop.call_later(0.1 + self.rng.random() * 10, self._revive, context=WORLD)

    def _revive(self) -> None:
        self.operator.forget()
        self.service = Service(self, self._patience())

    def _patience(self) -> float:
        return self.rng.choice((0.05, 1.0, 5.0))

    def _strike_crash(self) -> None:
        if self.weather.crash:
            self.crash("by a fault")
            self._again(self.weather.crash, self._strike_crash)

    def _strike_clock(self) -> None:
        if not self.weather.clock:
            return
        step = self.rng.choice((1, 60, 600)) * self.rng.random()
        if self.rng.random() < 0.5:
            self.set_back += step
            step = -step
        elif self.rng.random() < 0.2:
            step = 24 * 3600 * self.rng.random()
        self._highest = self.latest
        self._offset += int(step * 1000)
        self.tell("clock", f"set by {step:.1f} s")
        self._again(self.weather.clock, self._strike_clock)

    def _strike_outage(self) -> None:
        if self.weather.outage:
            self.brokers.is_away = not self.brokers.is_away
            self.tell("devices", "away" if self.brokers.is_away else "back")
            self._again(self.weather.outage, self._strike_outage)

    def _again(self, mean: float, act: Any) -> None:
        self.loop.call_later(self.rng.expovariate(1 / mean), act, context=WORLD)

    # -- the run -------------------------------------------------------------------------------------------------------

    def _after_step(self) -> None:
        if self.ledger_changed:
            self.ledger_changed = False
            self.rules.check_ledger()
        if self._error is not None:
            raise self._error
        if self.loop.steps > _MOST_STEPS:
            raise Broken("storm", f"{_MOST_STEPS} steps, and no end")

    def run(self) -> None:
        """All of it. Raises what was broken."""
        self.loop.advance(60.0, lambda: self.service.is_up)
        for client_id in self.client_ids:
            self.operator.act("create", client_id)
        self.loop.advance(120.0, lambda: all(unit.key > 0 for unit in self.units.values()))
        self.weather = skies.draw(self.rng)
        self.tell("world", "weather", *(f"{name}={value:.3g}" for name, value in _worth_telling(self.weather)))
        for act in (
            self._strike_crash,
            self._strike_clock,
            self._strike_outage,
            self.operator.strike,
            self.thief.strike,
        ):
            self.loop.call_later(self.rng.random() * 30, act, context=WORLD)
        self.loop.advance(self.loop.time() + self.rng.choice((100, 300, 600)), lambda: False)
        self.tell("world", "calm")
        self.weather = skies.CALM
        self.brokers.is_away = False
        Calm(self).heal()


def _worth_telling(weather: skies.Weather) -> Iterator[tuple[str, float]]:
    for name in weather.__slots__:
        if value := getattr(weather, name):
            yield name, value


class Calm:
    """What people do once nothing fails any more, and whether it helps."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cures: dict[str, int] = dict.fromkeys(world.client_ids, 0)

    def heal(self) -> None:
        """Until every device works; raises `Broken` when that takes too long."""
        world = self._world
        end = world.loop.time() + PATIENCE + world.set_back
        while not self._is_well():
            if world.loop.time() > end:
                raise Broken("rule 6", f"after {PATIENCE:.0f} s of calm: {self._ills()}")
            for client_id in world.client_ids:
                if world.service.is_up and client_id not in world.operator.busy_with:
                    self._look_after(client_id)
            world.loop.advance(world.loop.time() + _POLL, lambda: False)

    def _look_after(self, client_id: str) -> None:
        world, unit = self._world, self._world.units[client_id]
        newest = world.operator.newest(client_id)
        if newest is None:
            self._cure("create", client_id)
        elif world.right_key(client_id) is None:
            self._cure("reveal", client_id)
        elif newest.status == "DISABLED":
            self._cure("enable", client_id)
        elif newest.phase in CLOSED:
            wiped = world.kept_key(newest.id, newest.keys_sealed) == b"k"
            self._cure("rekey" if wiped else "reopen", client_id)
        elif unit.key != (right := world.right_key(client_id)):
            self._count(client_id)
            unit.rekey(world.key_text(client_id) or "", right or 0)
        elif unit.state is State.STOPPED or self._is_stuck(unit, newest):
            self._count(client_id)
            world.restart(client_id)

    def _cure(self, verb: str, client_id: str) -> None:
        self._count(client_id)
        self._world.operator.act(verb, client_id)

    def _count(self, client_id: str) -> None:
        self._cures[client_id] += 1
        if self._cures[client_id] > _MOST_CURES:
            raise Broken("rule 6", f"{client_id} was helped {_MOST_CURES} times in the calm: {self._ills()}")

    def _is_stuck(self, unit: Unit, newest: Asked) -> bool:
        """It lost its session for good; or it renews for nobody, and in plain mode believes no refusal."""
        if unit.state is State.CONFIRMED:
            return not self._works(unit)
        renews = unit.state is State.CLAIMING and newest.phase == "CONFIRMED" and unit.credential is not None
        return renews and self._works(unit)

    def _works(self, unit: Unit) -> bool:
        return unit.credential is not None and self._world.brokers.admits(unit.credential.username)

    def _is_well(self) -> bool:
        return all(not self._ill(client_id) for client_id in self._world.client_ids)

    def _ill(self, client_id: str) -> str:
        world, unit = self._world, self._world.units[client_id]
        newest = world.operator.newest(client_id)
        if newest is None or newest.phase != "CONFIRMED" or unit.state is not State.CONFIRMED:
            return f"{client_id} is {unit.state}, its request {newest and newest.phase}"
        if unit.credential is None or unit.credential.generation != newest.proved or not self._works(unit):
            return f"{client_id} works with {unit.credential}, proved is {newest.proved}"
        left = [row for row in world.rules.rows.values() if row.client_id == client_id and row.state != "RETIRED"]
        return f"{client_id} has {len(left)} generations" if len(left) > 1 else ""

    def _ills(self) -> str:
        return "; ".join(ill for client_id in self._world.client_ids if (ill := self._ill(client_id)))


@functools.cache
def _template() -> tuple[bytes, str]:
    """A ledger with two accounts and the devices' login, and that login's password."""
    world = World(0, bytes(blank().serialize()))
    password: list[Secret | None] = []

    async def prepare() -> None:
        administration, now = world.service.administration, world.clock()
        await administration.create_account(ADMIN, NewAccount("provision", AccountKind.PROVISION), now)
        await administration.create_account(ADMIN, NewAccount("acme", AccountKind.TARGET), now)
        password.append((await administration.create_user(ADMIN, USER, None, "provision", now))[1])

    world.loop.advance(60.0, lambda: world.service.is_up)
    world.service.do(prepare())
    world.loop.advance(120.0, lambda: bool(password))
    image = bytes(world.disk.ledger.serialize())
    world.loop.close()
    assert password[0] is not None
    return image, password[0].reveal()


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Nothing of a killed process may be thrown away while the world goes on."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def simulate(seed: int) -> Verdict:
    """Run one seed."""
    image, password = _template()
    world = World(seed, image)
    world.password = password
    broken = ""
    try:
        with capture_logs(), _without_collecting():
            world.run()
    except Exception as error:  # noqa: BLE001 - whatever ended the run is its verdict
        broken = f"{type(error).__name__}: {error}"
    verdict = Verdict(seed, broken, world.loop.steps, world.loop.time(), world.story)
    world.loop.close()
    world.disk.ledger.close()
    return verdict
