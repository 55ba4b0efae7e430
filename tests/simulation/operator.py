"""Somebody at the operator API, at the worst moments: every verb there is, on requests in any phase."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from provisioner.creation import Created
from provisioner.errors import Conflict, Refused, Unavailable
from provisioner.model import Role, Secret
from provisioner.policy import Actor
from tests.simulation.loop import WORLD

if TYPE_CHECKING:
    from tests.simulation.rules import Asked
    from tests.simulation.service import Service
    from tests.simulation.world import World

ADMIN = Actor(1, Role.ADMIN)

_CHOICE = ("rotate", "rotate", "rotate", "revoke", "stop", "reopen", "reopen", "disable", "enable", "enable", "update")
_RARE = ("overwrite", "delete", "rekey")


class Operator:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.busy_with: list[str] = []
        """Client ids that something is being done to."""

    def strike(self) -> None:
        """Do one thing, and come back."""
        world = self._world
        if not world.weather.operator:
            return
        rng = world.rng
        world.loop.call_later(rng.expovariate(1 / world.weather.operator), self.strike, context=WORLD)
        client_id = rng.choice(world.client_ids)
        verb = rng.choice(_RARE) if rng.random() < 0.1 else rng.choice(_CHOICE)
        if verb not in _RARE or client_id not in self.busy_with:
            self.act(verb, client_id)

    def act(self, verb: str, client_id: str) -> None:
        """Do this to the newest request of a device."""
        service = self._world.service
        if service.is_up:
            service.do(self._act(service, verb, client_id))

    async def _act(self, service: Service, verb: str, client_id: str) -> None:
        world = self._world
        busy_with = self.busy_with
        busy_with.append(client_id)
        world.tell("operator", verb, client_id)
        try:
            await getattr(self, f"_{verb}")(service, client_id)
        except Refused as refusal:
            world.tell("operator", "was refused", refusal.code)
        except Unavailable:
            world.tell("operator", "was told to come back")
        except Exception as error:
            world.fail(error, f"the operator's {verb}")
            raise
        finally:
            busy_with.remove(client_id)

    def forget(self) -> None:
        """The process died: what was under way is over."""
        self.busy_with = []

    def newest(self, client_id: str) -> Asked | None:
        """What the operator looks at: the newest request of a device."""
        found = [one for one in self._world.rules.asked.values() if one.client_id == client_id]
        return max(found, key=lambda one: one.id, default=None)

    # -- the verbs -----------------------------------------------------------------------------------------------------

    async def _rotate(self, service: Service, client_id: str) -> None:
        world = self._world
        await service.administration.rotate(ADMIN, self._id(client_id), world.clock())
        world.loop.call_later(world.rng.random() * 30, world.units[client_id].renew, context=WORLD)

    async def _revoke(self, service: Service, client_id: str) -> None:
        await service.administration.revoke(ADMIN, self._id(client_id), self._world.clock())

    async def _stop(self, service: Service, client_id: str) -> None:
        await service.administration.stop(ADMIN, self._id(client_id), self._world.clock())

    async def _enable(self, service: Service, client_id: str) -> None:
        await service.administration.enable(ADMIN, self._id(client_id), self._world.clock())

    async def _disable(self, service: Service, client_id: str) -> None:
        await service.administration.disable(ADMIN, self._id(client_id), self._world.clock())

    async def _reopen(self, service: Service, client_id: str) -> None:
        await service.administration.reopen(
            ADMIN, self._id(client_id), self._world.clock(), activates_on=None, expires_on=None
        )
        self._world.restart(client_id)

    async def _rekey(self, service: Service, client_id: str) -> None:
        request_id = self._id(client_id)
        before = self._world.keys.pop(request_id, None)
        try:
            created = await service.administration.reopen(
                ADMIN, request_id, self._world.clock(), generate_key=True, activates_on=None, expires_on=None
            )
        except Refused:
            if before is not None:
                self._world.keys[request_id] = before
            raise
        self._hand_over(created)

    async def _update(self, service: Service, client_id: str) -> None:
        world, rng = self._world, self._world.rng
        now = world.clock()
        changes = rng.choice(
            (
                {"expires_on": now + int(rng.random() * 600_000)},
                {"expires_on": None},
                {"confirm_time": 1000 * rng.randint(5, 600)},
                {"retry_max_attempts": rng.randint(2, 9)},
            )
        )
        before = await service.administration.get_request(ADMIN, self._id(client_id))
        await service.administration.update_request(ADMIN, before.id, before.optlock, changes, now)

    async def _delete(self, service: Service, client_id: str) -> None:
        await service.administration.delete_request(ADMIN, self._id(client_id), self._world.clock())

    async def _overwrite(self, service: Service, client_id: str) -> None:
        text = self._world.key_text(client_id)
        if text is not None and self._world.rng.random() < 0.5:
            await self._create(service, client_id, Secret(text))
        else:
            await self._create(service, client_id)

    async def _create(self, service: Service, client_id: str, key: Secret | None = None) -> None:
        world = self._world
        new = replace(world.wish(client_id), generate_key=key is None, activation_key=key, overwrite=True)
        self._hand_over(await service.administration.create_request(ADMIN, new, world.clock()))

    async def _reveal(self, service: Service, client_id: str) -> None:
        """Look up the key again, where it was lost on the way."""
        request_id = self._id(client_id)
        try:
            key = await service.administration.reveal_key(ADMIN, request_id, self._world.clock())
        except Conflict:
            await self._create(service, client_id)  # it was wiped, and nobody has it written down
        else:
            self._world.hand_key(client_id, request_id, key.reveal())

    def _hand_over(self, created: Created) -> None:
        """The answer of the API has the key, and it is the only one who does."""
        assert created.activation_key is not None
        self._world.hand_key(created.request.client_id, created.request.id, created.activation_key.reveal())

    def _id(self, client_id: str) -> int:
        newest = self.newest(client_id)
        return 0 if newest is None else newest.id
