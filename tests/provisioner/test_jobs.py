"""The worker's jobs where two of them meet."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from provisioner.errors import Rejected
from provisioner.jobs import LEASE, RECONCILE_EVERY, Jobs
from provisioner.lifecycle import Phase
from provisioner.ports import Install, Revoke, ToInstall
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


async def test_more_jobs_than_one_batch_are_done_batch_by_batch(world: World) -> None:
    made = [await world.request(f"dev-{number}") for number in range(230)]
    requests = [created.request for created in made]
    await asyncio.gather(*(world.device(created, created.request.client_id).claim() for created in made))
    for request in requests:
        await world.administration.stop(ADMIN, request.id, world.now)
    steps = 1
    while await world.jobs.step(world.now) <= world.now:
        steps += 1
    assert steps == 3
    assert {(await world.read(one.id)).phase for one in requests} == {Phase.STOPPED}
    assert world.broker.live == []


# -- a job that fails by our own fault ----------------------------------------------------------------------------


class _Fragile(CueBroker):
    """Falls over certain client ids, as a broken adapter would; `reports` is what was told of failed jobs."""

    def __init__(self, jobs: Jobs) -> None:
        super().__init__()
        self.falls_over = "dev-1"
        self.reports: list[str] = []
        jobs.report = lambda what, error: self.reports.append(f"{what}: {error!r}")

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        if any(item.credential.client_id == self.falls_over for item in items):
            raise ValueError("as a broken adapter")
        return await super().install(items)

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        if any(self.falls_over in username for username in usernames):
            raise ValueError("as a broken adapter")
        return await super().revoke(usernames, kick=kick)

    async def list(self) -> Sequence[str]:
        if self.falls_over == "everything":
            raise ValueError("as a broken adapter")
        return await super().list()


@pytest.fixture
def fragile(world: World) -> _Fragile:
    """The device broker of this world."""
    world.broker = broker = _Fragile(world.jobs)
    for part in (world.administration, world.jobs, world.provisioner, world.provisioner.offering):
        part._brokers = {"embedded": broker}
    return broker


async def mint(world: World, fragile: _Fragile, client_id: str, *, later: bool = True) -> int:
    """A claim whose install was put off, or (not `later`) whose offer is out; the request's id."""
    created = await world.request(client_id)
    fragile.outcome = Install.LATER if later else Install.DONE
    fragile.falls_over = "nobody"
    with contextlib.suppress(Rejected):
        await world.device(created, client_id).claim()
    fragile.outcome, fragile.falls_over = Install.DONE, "dev-1"
    return created.request.id


async def phases(world: World, requests: Sequence[int]) -> Sequence[Phase]:
    return [(await world.read(one)).phase for one in requests]


async def test_an_install_that_fails_stops_no_other(world: World, fragile: _Fragile) -> None:
    requests = [await mint(world, fragile, f"dev-{number}") for number in range(3)]
    world.now += 60_000
    await world.jobs.step(world.now)
    assert await phases(world, requests) == [Phase.OFFERED, Phase.MINTED, Phase.OFFERED]
    assert fragile.reports == ["the job of p.acme.dev-1.g1, MINTED: ValueError('as a broken adapter')"]
    assert world.jobs.failures == 1
    told = [entry.line.cause for entry in await world.store.list_journal(requests[1], 0, 100)]
    assert told[-1] == "it failed (ValueError), attempt 2; the log tells more"
    fragile.falls_over = "nobody"
    world.now += 60_000
    await world.jobs.step(world.now)
    assert (await world.read(requests[1])).phase is Phase.OFFERED


async def test_a_job_that_fails_comes_back_later_and_later(world: World, fragile: _Fragile) -> None:
    request = await mint(world, fragile, "dev-1")
    tried: list[int] = []
    until = world.now + 600_000
    while world.now < until:
        world.now = max(await world.jobs.step(world.now), world.now + 1)
        if len(fragile.reports) > len(tried):
            tried.append(world.now)
    waits = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert len(set(waits)) > 4, "each wait has its jitter"
    assert 1_000 <= waits[0] < waits[3] < waits[5] <= 60_000
    assert len(tried) < 30
    assert (await world.store.find_credentials(request))[0].attempts == len(tried) + 1


async def test_a_claim_whose_install_fails_is_told_to_wait(world: World, fragile: _Fragile) -> None:
    created = await world.request()
    with pytest.raises(Rejected, match="wait"):
        await world.device(created).claim()
    assert len(fragile.reports) == 1
    fragile.falls_over = "nobody"
    world.now += 60_000
    await world.run_jobs()
    assert (await world.device(created).claim()).generation == 1


async def test_a_retirement_that_fails_stops_no_other(world: World, fragile: _Fragile) -> None:
    requests = [await mint(world, fragile, f"dev-{number}", later=False) for number in range(3)]
    for one in requests:
        await world.administration.stop(ADMIN, one, world.now)
    await world.jobs.step(world.now)
    assert await phases(world, requests) == [Phase.STOPPED, Phase.RETIRING, Phase.STOPPED]
    assert fragile.reports[-1] == "the job of p.acme.dev-1.g1, RETIRING: ValueError('as a broken adapter')"


async def test_a_password_that_does_not_open_stops_no_other(world: World, fragile: _Fragile, tmp_path: Path) -> None:
    requests = [await mint(world, fragile, f"dev-{number}") for number in range(3)]
    poison(tmp_path, "UPDATE credential SET secret_sealed = '1.AAAA' WHERE client_id = 'dev-2'")
    fragile.falls_over = "nobody"
    world.now += 60_000
    await world.jobs.step(world.now)
    assert await phases(world, requests) == [Phase.OFFERED, Phase.OFFERED, Phase.MINTED]
    assert len(fragile.reports) == 1
    assert "VaultError" in fragile.reports[0]
    fragile.falls_over = "nobody"
    world.now += 3_600_000  # its confirm time
    await world.run_jobs()
    assert (await world.read(requests[2])).phase is Phase.PENDING


async def test_a_missing_credential_that_does_not_open_stops_no_repair(
    world: World, fragile: _Fragile, tmp_path: Path
) -> None:
    requests = [await mint(world, fragile, f"dev-{number}", later=False) for number in range(2, 5)]
    world.broker.live.clear()
    poison(tmp_path, "UPDATE credential SET secret_sealed = '1.AAAA' WHERE client_id = 'dev-2'")
    await world.jobs.step(world.now + RECONCILE_EVERY)
    assert world.broker.live == ["p.acme.dev-3.g1", "p.acme.dev-4.g1"]
    told = [entry.line.cause for entry in await world.store.list_journal(requests[0], 0, 100)]
    assert told[-1] == "missing at the device broker; its sealed password does not open with the keys at hand"
    assert fragile.reports == []


async def test_a_device_broker_that_cannot_be_compared_stops_no_job(world: World, fragile: _Fragile) -> None:
    other = CueBroker(name="other", live=["p.acme.dev-9.g1"])
    world.jobs._brokers = {"embedded": world.broker, "other": other}
    request = await mint(world, fragile, "dev-2")
    fragile.falls_over = "everything"
    world.now += RECONCILE_EVERY
    await world.jobs.step(world.now)
    assert (await world.read(request)).phase is Phase.OFFERED
    assert other.live == []
    assert fragile.reports == ["the comparison with the device broker embedded: ValueError('as a broken adapter')"]


async def test_a_window_that_cannot_be_closed_stops_nothing(world: World, fragile: _Fragile, tmp_path: Path) -> None:
    lapsing = [(await world.request(f"dev-{number}", expires_on=world.now + 1000)).request.id for number in range(3)]
    minted = await mint(world, fragile, "dev-4")
    poison(
        tmp_path,
        "CREATE TRIGGER planted BEFORE UPDATE ON request WHEN old.client_id = 'dev-1' "
        "BEGIN SELECT raise(ABORT, 'planted'); END",
    )
    world.now += 60_000
    due = await world.jobs.step(world.now)
    assert await phases(world, [*lapsing, minted]) == [Phase.EXPIRED, Phase.PENDING, Phase.EXPIRED, Phase.OFFERED]
    assert len(fragile.reports) == 1
    assert fragile.reports[0].startswith(f"the end of the window of request {lapsing[1]}: ")
    assert due == world.now + 1000, "it is due all the while, and is no reason to spin"
    await world.jobs.step(world.now)
    assert len(fragile.reports) == 1
    poison(tmp_path, "DROP TRIGGER planted")
    world.now += 60_000
    await world.run_jobs()
    assert (await world.read(lapsing[1])).phase is Phase.EXPIRED


def poison(folder: Path, sql: str) -> None:
    """What a damaged disk, a defect or a hand in the ledger may do."""
    connection = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
    connection.execute(sql)
    connection.close()


async def test_the_worker_is_woken_for_what_is_due_before_it_would_come_back(world: World) -> None:
    world.broker.asks_ledger = True
    woken: list[str] = []
    late = await world.request("dev-1", confirm_time=90)
    early = await world.request("dev-2", confirm_time=30)
    promised = await world.jobs.step(world.now)
    assert promised == world.now + RECONCILE_EVERY
    world.jobs.wake = lambda: woken.append("up")
    await world.device(late, "dev-1").claim()
    assert woken == []
    await world.device(early, "dev-2").claim()
    assert woken == ["up"]
    assert await world.jobs.step(world.now) == world.now + 30_000
