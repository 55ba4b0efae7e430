"""The worker's jobs where two of them meet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from provisioner.jobs import LEASE
from provisioner.lifecycle import Phase
from provisioner.ports import Revoke
from tests.provisioner.conftest import ADMIN, CueBroker, World


class _SlowBroker(CueBroker):
    """Its first revocation takes longer than a lease, and fails in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        if self.begun.is_set():
            return await super().revoke(usernames)
        self.begun.set()
        await self.goes_on.wait()
        return [Revoke.LATER] * len(usernames)


async def test_who_was_slower_than_its_lease_does_not_bring_a_retired_credential_back(world: World) -> None:
    created = await world.request()
    await world.device(created).claim()
    broker = _SlowBroker()
    world.jobs._brokers = {"embedded": broker}
    await world.administration.stop(ADMIN, created.request.id, world.now)
    slow = asyncio.create_task(world.jobs.step(world.now))
    await asyncio.wait_for(broker.begun.wait(), 5)
    await world.jobs.step(world.now + LEASE)
    assert (await world.read(created.request.id)).phase is Phase.STOPPED
    broker.goes_on.set()
    await slow
    assert await world.store.find_credentials(created.request.id) == []
    assert (await world.read(created.request.id)).phase is Phase.STOPPED
