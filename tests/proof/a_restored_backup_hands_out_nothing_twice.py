"""F-9: a backup is taken under load, the load goes on for an hour, the backup comes back.

The device broker keeps a list of its own, so it remembers what the ledger has forgotten. Then: what they disagree on is
reported and mended, no client id has two credentials in force, no user name is used again, and every device that was
not deprived of its credential has or gets one that works.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner import restore
from provisioner.errors import Reason, Rejected
from provisioner.model import Result
from provisioner.reconcile import Kind, Reconciler
from provisioner.store.backup import back_up, staged
from tests.proof.scale import record, rounds
from tests.provisioner.conftest import ADMIN, SimpleDevice, World, build

ROUNDS = rounds(2, 30, 500)
DEVICES = 40
HOUR = 3_600_000
PATIENCE = 12


@dataclass
class Unit:
    """A device, its request, and what it holds; `attempt` numbers its requestIds."""

    device: SimpleDevice
    request: int
    attempt: int = 1
    offered: tuple[int, str] | None = None
    held: str | None = None
    revoked: bool = False

    @property
    def request_id(self) -> str:
        return f"r-{self.attempt}"

    async def claim(self) -> bool:
        """Ask until there is an offer; False: it has what it needs."""
        for _ in range(PATIENCE):
            try:
                offer = await self.device.claim(self.request_id)
            except Rejected as refusal:
                if refusal.reason is Reason.SUPERSEDED:
                    self.attempt += 1
                elif refusal.reason is Reason.WAIT:
                    await self.device.world.run_jobs()
                else:
                    return False
            else:
                self.offered = (offer.generation, offer.username)
                return True
        return False

    async def report(self, result: Result) -> None:
        """Ack the offer it has."""
        if self.offered is None:
            return
        generation, username = self.offered
        try:
            await self.device.ack(generation, result, self.request_id)
        except Rejected:
            return
        if result is Result.STORED:
            self.held = username
        self.offered = None

    async def rotate(self) -> None:
        """The operator wants another credential for it, and it asks for one."""
        if self.held is not None and self.offered is None:
            world = self.device.world
            await world.administration.rotate(ADMIN, self.request, world.now)
            self.attempt += 1
            await self.claim()

    async def revoke(self) -> None:
        """The operator takes its credential away."""
        if self.held is not None and self.offered is None:
            world = self.device.world
            await world.administration.revoke(ADMIN, self.request, world.now)
            self.revoked = True

    async def live(self, chance: random.Random) -> None:
        """Something that happens to a device."""
        if self.revoked:
            return
        match chance.randrange(8):
            case 0 | 1 | 2:
                await self.claim()
            case 3 | 4:
                await self.report(Result.STORED)
            case 5:
                await self.report(Result.FAILED)
            case 6:
                await self.rotate()
            case _:
                await self.revoke() if chance.random() < 0.3 else await self.report(Result.STORED)


async def unit(world: World, client_id: str) -> Unit:
    created = await world.request(client_id, retry_max_attempts=100)
    return Unit(world.device(created, client_id), created.request.id)


async def go_on(world: World, units: list[Unit], chance: random.Random, steps: int) -> None:
    for _ in range(steps):
        await asyncio.gather(*(one.live(chance) for one in chance.sample(units, len(units) // 2)))
        await world.run_jobs()


def put_back(folder: Path, copy: Path, world: World) -> None:
    ledger = folder / "ledger.sqlite"
    ledger.unlink()  # it is lost: nothing may depend on it
    with staged(copy, ledger, world.now, lambda *_: None) as found:
        found.take_place(folder / "aside.db")


def in_force(world: World, client_id: str) -> set[str]:
    return {name for name in world.broker.live if name.startswith(f"p.acme.{client_id}.g")}


async def started(folder: Path, stack: AsyncExitStack) -> World:
    world = await build(folder)
    stack.push_async_callback(close, world)
    return world


async def close(world: World) -> None:
    await world.jobs.close()
    await world.store.close()


async def one_round(folder: Path, chance: random.Random, figures: dict[str, int], stack: AsyncExitStack) -> None:
    world = await started(folder, stack)
    units = [await unit(world, f"dev-{n}") for n in range(DEVICES)]
    await go_on(world, units, chance, 3)
    copying = asyncio.to_thread(back_up, folder / "ledger.sqlite", folder / "copy.db", world.now, lambda *_: None)
    await asyncio.gather(copying, go_on(world, units, chance, 1))
    world.now += HOUR // 2
    strangers = [await unit(world, f"new-{n}") for n in range(3)]
    await go_on(world, units + strangers, chance, 4)
    for stranger in strangers:
        await stranger.claim()
        await stranger.report(Result.STORED)
    revoked = {one.held for one in units if one.revoked}
    await world.run_jobs()
    await close(world)

    put_back(folder, folder / "copy.db", world)
    later = await started(folder, stack)
    later.now = world.now + HOUR // 2
    later.broker.live, later.broker.tombs = list(world.broker.live), list(world.broker.tombs)
    used = {*later.broker.live, *later.broker.tombs}
    assert await restore.complete(later.store, later.now) is not None
    drift = await Reconciler(later.store, {"embedded": later.broker}, later.vault).compare()
    assert {one.held for one in strangers} <= {one.username for one in drift.differences if one.kind is Kind.UNKNOWN}
    await later.run_jobs()
    for one in units + strangers:
        assert len(in_force(later, one.device.client_id)) <= 1
    assert not revoked & set(later.broker.live)

    for n in range(len(strangers)):  # their requests are gone: the operator makes them again
        strangers[n] = await unit(later, f"new-{n}")
    honest = [one for one in units + strangers if not one.revoked]
    for one in honest:
        one.device.world = later
        if one.held in later.broker.live:
            continue
        one.attempt += 1
        figures["claimed again"] += 1
        assert await one.claim(), f"{one} is locked out"
        assert one.offered is not None
        assert one.offered[1] not in used
        await one.report(Result.STORED)
    await later.run_jobs()
    for one in honest:
        assert in_force(later, one.device.client_id) == {one.held}, f"{one} is not alone"
    assert not revoked & set(later.broker.live)
    after = await Reconciler(later.store, {"embedded": later.broker}, later.vault).compare()
    assert {one.username for one in after.differences} <= revoked  # in force in the ledger alone, and nobody gets in
    figures["devices"] += len(honest)
    figures["differences"] += len(drift.differences)
    figures["revoked since"] += len(revoked)


@pytest.mark.timeout(rounds(60, 600, 0))
async def test_nothing_is_handed_out_twice_and_nobody_is_locked_out(tmp_path: Path) -> None:
    figures = dict.fromkeys(("devices", "differences", "claimed again", "revoked since"), 0)
    for seed in range(ROUNDS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        async with AsyncExitStack() as stack:
            await one_round(folder, random.Random(seed), figures, stack)
    assert figures["differences"] >= ROUNDS
    record(
        "restored-backup", "F-9", restores=ROUNDS, second_live_credentials=0, names_reused=0, locked_out=0,
        **{name.replace(" ", "_"): count for name, count in figures.items()},
    )  # fmt: skip
