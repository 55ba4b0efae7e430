"""Somebody else who knows the provisioning login: sends again what was recorded, and guesses.

It hears what devices say in proof mode. What is sent again has a right proof, so it may be answered, but never opened;
and a requestId whose generation is retired must not get another one (section 9, rule 4).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from broker.fleet.keys import encode64
from tests.simulation.loop import WORLD
from tests.simulation.service import Letter

if TYPE_CHECKING:
    from tests.simulation.world import World

_KEPT = 40


class Thief:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._heard: list[Letter] = []

    def hear(self, letter: Letter) -> None:
        """Record what a device says."""
        self._heard.append(letter)
        if len(self._heard) > _KEPT:
            del self._heard[int(self._world.rng.random() * _KEPT)]

    def strike(self) -> None:
        """Do one bad thing, and come back."""
        world = self._world
        if not world.weather.thief:
            return
        rng = world.rng
        world.loop.call_later(rng.expovariate(1 / world.weather.thief), self.strike, context=WORLD)
        if self._heard and rng.random() < 0.7:
            letter = rng.choice(self._heard)
            world.tell("thief", f"sends again a {letter.kind} of {letter.client_id}")
            world.network.deliver(replace(letter, source="10.6.6.6"), self._keep)
            return
        client_id = rng.choice(world.client_ids)
        world.tell("thief", f"guesses a key of {client_id}")
        for _ in range(int(rng.random() * 8)):
            world.network.deliver(self._guess(client_id), self._keep)

    def _guess(self, client_id: str) -> Letter:
        random = self._world.rng.randbytes
        told = {
            "requestId": "forged-" + random(6).hex(),
            "nonce": encode64(random(16)),
            "proof": encode64(random(32)),
        }
        return Letter("request", client_id, json.dumps(told).encode(), "10.6.6.6", 666, secure=False, key=0)

    def _keep(self, payload: bytes) -> None:
        """What came back: worth nothing without the key."""
        reply = json.loads(payload)
        if "credentials" in reply:
            self._world.fail(AssertionError("a credential left in clear"), "the thief")
