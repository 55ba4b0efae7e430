"""The wall clock may be set at any time: nothing hangs on a time that a wrong clock wrote."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from provisioner.creation import Created
from provisioner.errors import Reason, Rejected
from provisioner.lifecycle import Phase, State
from provisioner.model import Offer
from provisioner.ports import Install
from tests.provisioner.conftest import START, World, build

HOUR, DAY, YEAR = 3_600_000, 86_400_000, 365 * 86_400_000
Y2038 = 2_147_483_648_000
Y2050 = 2_524_608_000_000
CLOCKS = [START, START + DAY, START - HOUR, Y2038, Y2050]


@asynccontextmanager
async def living(folder: Path) -> AsyncIterator[World]:
    """One life of a process on the database in `folder`."""
    world = await build(folder)
    try:
        yield world
    finally:
        await world.jobs.close()
        await world.store.close()


async def due(world: World) -> int | None:
    return await world.store.next_due()


async def newest(world: World, request_id: int) -> tuple[State, int, int | None]:
    """State, confirm time and due time of a request's newest credential."""
    dossier = await world.store.find_request(request_id)
    assert dossier is not None
    assert dossier.credential is not None
    return dossier.credential.state, dossier.credential.confirm_before, dossier.credential.due_on


async def refusal(world: World, client_id: str, activates_on: int | None, expires_on: int | None) -> Rejected | None:
    """What a first claim meets; None: the offer."""
    device = world.device(await world.request(client_id, activates_on=activates_on, expires_on=expires_on), client_id)
    try:
        await device.claim()
    except Rejected as refused:
        return refused
    return None


@pytest.mark.parametrize("now", CLOCKS)
async def test_windows_are_exact_to_the_millisecond(world: World, now: int) -> None:
    world.now = now
    before = await refusal(world, "before", now + 1, None)
    assert before is not None
    assert (before.reason, before.retry_after) == (Reason.NOT_ACTIVE, 1)
    assert await refusal(world, "at", now, None) is None
    assert await refusal(world, "last", now - 10, now + 1) is None
    over = await refusal(world, "over", now - 10, now)
    assert over is not None
    assert over.reason is Reason.EXPIRED


@pytest.mark.parametrize(("ahead", "seconds"), [(1, 1), (1_000, 1), (1_001, 2), (DAY, 86_400), (30 * YEAR, 86_400)])
async def test_a_device_is_never_told_to_come_back_in_more_than_a_day(world: World, ahead: int, seconds: int) -> None:
    refused = await refusal(world, "dev-1", world.now + ahead, None)
    assert refused is not None
    assert refused.retry_after == seconds


@pytest.mark.parametrize("ahead", [DAY, Y2050 - START])
async def test_an_install_of_a_clock_that_was_ahead_goes_on(world: World, ahead: int) -> None:
    device = world.device(await world.request())
    await world.run_jobs()
    world.broker.outcome = Install.LATER
    world.now += ahead
    with pytest.raises(Rejected, match="wait"):
        await device.claim()
    await world.run_jobs()
    world.now -= ahead
    world.broker.outcome = Install.DONE
    await world.run_jobs()
    assert (await device.claim()).generation == 1


async def test_a_retirement_of_a_clock_that_was_ahead_goes_on(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    world.broker.revokes = False
    world.now += YEAR
    await world.run_jobs()
    assert (await world.read(created.request.id)).phase is Phase.RETIRING
    world.now -= YEAR
    world.broker.revokes = True
    await world.run_jobs()
    assert (await world.read(created.request.id)).phase is Phase.PENDING
    assert (await device.claim("r-2")).generation == 2


async def offered_in_2050(world: World) -> tuple[Created, Offer]:
    created = await world.request()
    world.now = Y2050
    await world.run_jobs()
    offer = await world.device(created).claim()
    await world.run_jobs()
    return created, offer


async def check_confirm_time_is_from_now(world: World, created: Created, offer: Offer) -> None:
    """The clock is right again: the offer stands, for its confirm time from now, and then goes."""
    world.now = START + DAY
    await world.run_jobs()
    confirm_before = START + DAY + created.request.confirm_time
    assert await newest(world, created.request.id) == (State.OFFERED, confirm_before, confirm_before)
    again = await world.device(created).claim()
    assert (again.username, again.confirm_before) == (offer.username, confirm_before)
    world.now = confirm_before
    await world.run_jobs()
    assert (await world.read(created.request.id)).phase is Phase.PENDING


async def test_an_offer_of_a_clock_that_was_ahead_gets_its_confirm_time_from_now(world: World) -> None:
    await check_confirm_time_is_from_now(world, *await offered_in_2050(world))


async def test_also_when_it_went_back_between_two_lives(tmp_path: Path) -> None:
    async with living(tmp_path) as world:
        made = await offered_in_2050(world)
    async with living(tmp_path) as world:
        await check_confirm_time_is_from_now(world, *made)


async def test_also_of_a_claim_that_read_the_clock_before_it_went_back(world: World) -> None:
    world.now += HOUR
    await world.run_jobs()
    world.now -= HOUR
    await world.run_jobs()
    created = await world.request()
    world.now = Y2050
    await world.device(created).claim()
    world.now = START + 60_000
    await world.run_jobs()
    confirm_before = START + 60_000 + created.request.confirm_time
    assert await newest(world, created.request.id) == (State.OFFERED, confirm_before, confirm_before)


async def test_an_hour_back_changes_no_confirm_time(world: World) -> None:
    created = await world.request()
    await world.device(created).claim()
    await world.run_jobs()
    before = await newest(world, created.request.id)
    world.now -= HOUR
    await world.run_jobs()
    assert await newest(world, created.request.id) == before


async def test_a_clock_that_is_adjusted_is_none_that_was_set(world: World) -> None:
    world.broker.outcome = Install.LATER
    with pytest.raises(Rejected, match="wait"):
        await world.device(await world.request()).claim()
    await world.run_jobs()
    before = await due(world)
    world.now -= 900
    await world.run_jobs()
    assert await due(world) == before


async def test_a_request_made_after_the_clock_went_back_is_the_newer_one(tmp_path: Path) -> None:
    async with living(tmp_path) as world:
        world.now = Y2050
        former = world.device(await world.request())
    async with living(tmp_path) as world:
        created = await world.request(overwrite=True)
        assert (await world.device(created).claim()).generation == 1
        former.world = world
        with pytest.raises(Rejected, match="denied"):
            await former.claim()
