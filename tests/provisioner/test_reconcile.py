"""The device broker is brought back to what the ledger says, and nobody else's users are touched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest

from provisioner.errors import Rejected, Unavailable
from provisioner.jobs import RECONCILE_EVERY
from provisioner.lifecycle import Phase
from provisioner.ports import Install, Revoke, ToInstall
from provisioner.reconcile import Drift, Kind, Reconciler
from tests.provisioner.conftest import ADMIN, CueBroker, World


def reconciler(world: World) -> Reconciler:
    return Reconciler(world.store, {"embedded": world.broker}, world.vault)


def kinds(drift: Drift) -> list[tuple[str, Kind]]:
    return [(difference.username, difference.kind) for difference in drift.differences]


async def test_nothing_is_found_where_nothing_is_wrong(world: World) -> None:
    device = world.device(await world.request())
    await device.claim()
    assert await reconciler(world).compare() == Drift()
    await device.ack()
    assert await reconciler(world).compare() == Drift()


async def test_a_name_that_the_ledger_does_not_know_is_taken_out(world: World) -> None:
    world.broker.live += ["p.acme.dev-9.g4"]
    assert kinds(await reconciler(world).compare()) == [("p.acme.dev-9.g4", Kind.UNKNOWN)]
    await world.run_jobs()
    assert world.broker.live == []
    assert (await world.store.list_journal(None, 0, 100))[-1].line.cause == "unknown at the device broker"


async def test_a_retired_name_that_came_back_is_taken_out(world: World) -> None:
    created = await world.request()
    offer = await world.device(created).claim()
    await world.administration.stop(ADMIN, created.request.id, world.now)
    await world.run_jobs()
    world.broker.live += [offer.username]
    await reconciler(world).mend(world.now)
    assert world.broker.live == []


async def test_a_credential_on_its_way_in_is_left_alone(world: World) -> None:
    device = world.device(await world.request())
    world.broker.outcome = Install.LATER
    with pytest.raises(Rejected):
        await device.claim()
    world.broker.live += ["p.acme.dev-1.g1"]  # it is in, and its answer was lost
    assert await reconciler(world).mend(world.now) == Drift()
    assert world.broker.live == ["p.acme.dev-1.g1"]


async def test_an_offered_credential_that_the_broker_forgot_is_put_back(world: World) -> None:
    device = world.device(await world.request())
    offer = await device.claim()
    world.broker.live.clear()
    drift = await reconciler(world).mend(world.now)
    assert kinds(drift) == [(offer.username, Kind.MISSING)]
    assert world.broker.live == [offer.username]
    assert await reconciler(world).compare() == Drift()


async def test_a_confirmed_credential_that_the_broker_forgot_is_renewed_by_the_next_claim(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    offer = await device.claim()
    await device.ack()
    world.broker.live.clear()
    drift = await reconciler(world).mend(world.now)
    assert kinds(drift) == [(offer.username, Kind.LOST)]
    assert (await device.claim("r-2")).generation == 2
    await device.ack(2, request_id="r-2")
    await world.run_jobs()
    assert (await world.read(created.request.id)).phase is Phase.CONFIRMED
    assert await reconciler(world).compare() == Drift()


async def test_the_loop_looks_at_start_and_every_minute_and_when_told(world: World) -> None:
    await world.run_jobs()
    world.broker.live += ["p.acme.dev-9.g1"]
    await world.run_jobs()
    assert world.broker.live != []
    world.now += RECONCILE_EVERY
    await world.run_jobs()
    assert world.broker.live == []
    world.broker.live += ["p.acme.dev-9.g1"]
    world.jobs.reconcile()
    await world.run_jobs()
    assert world.broker.live == []


async def test_a_clock_set_back_does_not_put_it_off_for_long(world: World) -> None:
    await world.run_jobs()
    world.broker.live += ["p.acme.dev-9.g1"]
    world.now -= 86_400_000
    await world.run_jobs()
    assert world.broker.live == []


class Away(CueBroker):
    """A device broker that cannot be asked."""

    async def list(self) -> tuple[str, ...]:
        raise Unavailable("away")


async def test_a_device_broker_that_is_away_is_named_and_not_judged(world: World) -> None:
    device = world.device(await world.request())
    await device.claim()
    found = await Reconciler(world.store, {"embedded": Away()}, world.vault).mend(world.now)
    assert found == Drift((), ("embedded",))


@pytest.mark.parametrize("asks", [True, False])
async def test_a_broker_that_asks_the_ledger_can_miss_nothing(world: World, asks: bool) -> None:
    device = world.device(await world.request())
    await device.claim()
    world.broker.live.clear()
    world.broker.asks_ledger = asks
    assert len((await reconciler(world).compare()).differences) == (0 if asks else 1)


class Meanwhile(CueBroker):
    """The device broker of a world, where something happens while it is asked; it keeps no names of the retired."""

    def __init__(self, world: World, act: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._world = world
        self._act: Callable[[], Awaitable[object]] | None = act

    async def _once(self) -> None:
        act, self._act = self._act, None
        if act is not None:
            await act()

    async def list(self) -> Sequence[str]:
        found = tuple(self._world.broker.live)
        await self._once()
        return found

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        await self._once()
        self._world.broker.live += [item.credential.username for item in items]
        return [Install.DONE] * len(items)

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        return await self._world.broker.revoke(usernames)


async def test_a_device_that_comes_between_two_looks_is_not_missing(world: World) -> None:
    created = await world.request()

    async def arrive() -> None:
        device = world.device(created)
        await device.claim()
        await device.ack()

    broker = Meanwhile(world, arrive)
    assert await Reconciler(world.store, {"embedded": broker}, world.vault).mend(world.now) == Drift()
    request = await world.read(created.request.id)
    assert (request.phase, request.rotate_wanted, request.retry_count) == (Phase.CONFIRMED, False, 1)


class Late(Meanwhile):
    """The same, with the event while it installs."""

    async def list(self) -> Sequence[str]:
        return tuple(self._world.broker.live)


async def test_what_is_retired_while_it_is_put_back_is_taken_out_again(world: World) -> None:
    created = await world.request()
    offer = await world.device(created).claim()
    world.broker.live.clear()

    async def retire() -> None:
        await world.administration.stop(ADMIN, created.request.id, world.now)
        await world.run_jobs()

    drift = await Reconciler(world.store, {"embedded": Late(world, retire)}, world.vault).mend(world.now)
    assert kinds(drift) == [(offer.username, Kind.MISSING)]
    assert world.broker.live == []
