"""F-7: the wall clock is set a day ahead, an hour back, to 2038, to 2050 and right again, under a service at work.

The first two proofs run the service with a clock of their own: windows to the millisecond, then random walks of clocks,
devices and a moody device broker, after which everybody must be confirmed. The third one is the program itself.

A clock that goes a day ahead ends confirm times, as it should, and the next mint counts as an attempt: in the walks the
attempts are many, so that what is looked for is what hangs.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.fleet.actions import Options
from broker.fleet.replies import Address
from broker.fleet.swarm import Swarm
from broker.fleet.unit import Endpoint
from provisioner.errors import Reason, Rejected
from provisioner.lifecycle import Phase
from provisioner.model import Millis
from provisioner.ports import Install
from tests.e2e.independent import Reply
from tests.e2e.program import Program, Site
from tests.proof import floor
from tests.proof.scale import record, rounds
from tests.provisioner.conftest import START, SimpleDevice, World, build

HOUR, DAY = 3_600_000, 86_400_000
Y2038 = 2_147_483_648_000  # 2038-01-19T03:14:08Z
Y2050 = 2_524_608_000_000
CLOCKS = [START + DAY, START + DAY - HOUR, Y2038, Y2050, START]
CROWD = 8
MOST_STEPS = 6
"""Of the jobs after the clock was set, for a crowd that one batch holds."""


@asynccontextmanager
async def living(folder: Path) -> AsyncIterator[World]:
    world = await build(folder)
    try:
        yield world
    finally:
        await world.jobs.close()
        await world.store.close()


async def set_clock(world: World, now: Millis) -> int:
    """Set the clock and let the jobs do what is due; returns their steps."""
    world.now = now
    steps, due = 0, now
    while due <= now:
        due = await world.jobs.step(now)
        steps += 1
        assert steps <= MOST_STEPS, "the jobs storm"
    return steps


async def meets(world: World, client_id: str, activates_on: Millis | None, expires_on: Millis | None) -> str:
    """What a first claim is answered; the time it is told to come back in is a sane one."""
    created = await world.request(client_id, activates_on=activates_on, expires_on=expires_on)
    refusal = None
    try:
        await world.device(created, client_id).claim()
    except Rejected as error:
        refusal = error
    if refusal is None:
        return "offer"
    if activates_on is not None:
        assert refusal.retry_after == min(86_400, max(1, -((world.now - activates_on) // 1000)))
    return str(refusal.reason)


@pytest.mark.timeout(rounds(120, 600, 0))
async def test_windows_are_exact_to_the_millisecond(tmp_path: Path) -> None:
    chance = random.Random(7)
    decided: Counter[str] = Counter()
    async with living(tmp_path) as world:
        for turn in range(rounds(1, 20, 200)):
            for clock in CLOCKS:
                now = clock + chance.randrange(1000)
                await set_clock(world, now)
                for off in (-DAY, -1000, -1, 0, 1, 1000, DAY):
                    name = f"w-{turn}-{clock}-{off}"
                    opens = await meets(world, f"{name}-a", now + off, None)
                    assert opens == ("not-active" if off > 0 else "offer")
                    ends = await meets(world, f"{name}-e", None, now + off)
                    assert ends == ("offer" if off > 0 else "expired")
                    decided.update((opens, ends))
    record("clock-windows", "F-7", clocks=len(CLOCKS), decisions=decided.total(), wrong=0, **decided)


class Walk:
    """A crowd of devices, a device broker that is away at times, and a clock that jumps."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.devices: list[SimpleDevice] = []
        self.ids: dict[str, int] = {}
        self.request_ids: dict[str, str] = {}
        self.most_steps = self.jumps = 0

    async def assemble(self) -> None:
        for number in range(CROWD):
            name = f"dev-{number}"
            created = await self.world.request(name, retry_max_attempts=1_000)
            self.devices.append(self.world.device(created, name))
            self.ids[name] = created.request.id
            self.request_ids[name] = "r-0"

    async def jump(self, now: Millis) -> None:
        self.jumps += 1
        self.most_steps = max(self.most_steps, await set_clock(self.world, now))

    async def claim(self, device: SimpleDevice, *, confirms: bool) -> bool:
        """Claim once as the contract has it; whether it is confirmed."""
        request_id = self.request_ids[device.client_id]
        try:
            offer = await device.claim(request_id)
            if not confirms:
                return False
            taken = await device.ack(offer.generation, request_id=request_id)
        except Rejected as refusal:
            return self.obey(device.client_id, refusal)
        assert offer.confirm_before <= self.world.now + DAY
        return taken.reason is Reason.CONFIRMED

    def obey(self, name: str, refusal: Rejected) -> bool:
        """Do what a refusal asks for; whether it means that all is well."""
        if refusal.reason is Reason.SUPERSEDED:
            self.request_ids[name] = f"r-{self.chance.getrandbits(48)}"
        elif refusal.reason is Reason.WAIT:
            assert refusal.retry_after is not None
            assert 1 <= refusal.retry_after <= 86_400
        else:
            assert refusal.reason is Reason.ALREADY_PROVISIONED, refusal
            return True
        return False

    async def stroll(self, length: int) -> None:
        world, chance = self.world, self.chance
        for _ in range(length):
            world.broker.outcome = chance.choice([Install.DONE, Install.DONE, Install.LATER])
            world.broker.revokes = chance.random() < 0.7
            if chance.random() < 0.4:
                await self.jump(chance.choice([*CLOCKS, world.now - HOUR, world.now + DAY, world.now + 11_000]))
            else:
                await self.claim(chance.choice(self.devices), confirms=chance.random() < 0.2)

    async def come_home(self) -> None:
        """Right clock, device broker there: within two minutes everybody is confirmed."""
        self.world.broker.outcome, self.world.broker.revokes = Install.DONE, True
        await self.jump(START + 2 * DAY)
        waiting = list(self.devices)
        for _ in range(12):
            waiting = [device for device in waiting if not await self.claim(device, confirms=True)]
            await self.jump(self.world.now + 10_000)
        assert not waiting
        for name, number in self.ids.items():
            assert (await self.world.read(number)).phase is Phase.CONFIRMED, name
        assert len(self.world.broker.live) == CROWD


@pytest.mark.timeout(rounds(120, 900, 0))
async def test_whatever_the_clock_did_everybody_is_confirmed(tmp_path: Path) -> None:
    seeds = rounds(3, 100, 5_000)
    jumps = most_steps = 0
    for seed in range(seeds):
        folder = tmp_path / str(seed)
        folder.mkdir()
        async with living(folder) as world:
            walk = Walk(world, random.Random(seed))
            await walk.assemble()
            await walk.stroll(60)
            await walk.come_home()
            jumps += walk.jumps
            most_steps = max(most_steps, walk.most_steps)
    record(
        "clock-walks",
        "F-7",
        seeds=seeds,
        clock_steps=jumps,
        devices=seeds * CROWD,
        confirmed=seeds * CROWD,
        attempts_allowed=1_000,
        most_job_steps_after_one=most_steps,
    )


class ClockedProgram:
    """The real program under a clock that is set by a file."""

    def __init__(self, folder: Path) -> None:
        self.clock = folder / "clock"
        self.set(0)
        self.program = Program(folder / "data", command=("-m", "tests.proof.clocked", str(self.clock), "serve"))

    def set(self, ahead: Millis) -> None:
        """So many milliseconds ahead of the right time."""
        fresh = self.clock.with_suffix(".new")
        fresh.write_text(str(ahead))
        fresh.replace(self.clock)

    @property
    def steps(self) -> int:
        """Of the jobs so far."""
        file = self.clock.with_suffix(".steps")
        return len(file.read_text()) if file.exists() else 0


def right() -> Millis:
    return time.time_ns() // 1_000_000


async def fleet(site: Site, prefix: str, count: int) -> int:
    """How many of so many fresh devices are confirmed."""
    identities = await floor.prepare(site.operator, prefix, count)
    swarm = Swarm(Endpoint(Address(*site.program.endpoint)), Options(), patience=30)
    return (await swarm.run(identities, count)).confirmed


def confirm_before(reply: Reply) -> Millis:
    assert reply.offer is not None
    return int(reply.offer["confirmBefore"])


async def wake_jobs(site: Site) -> None:
    """They look once a minute; a credential that has to go does not wait so long."""
    device, request = await site.unit()
    offer = await device.provision()
    assert (await device.ack("failed", offer.generation)).reason == "noted"
    await request.until("PENDING")


@pytest.mark.timeout(rounds(120, 300, 0))
async def test_the_program_serves_on_whatever_the_clock_says(tmp_path: Path) -> None:
    clocked = ClockedProgram(tmp_path)
    count = rounds(5, 100, 1_000)
    asked = confirmed = 0
    clocked.program.start()
    async with await Site.at(clocked.program) as site:
        device, request = await site.unit()
        for name, ahead in (
            ("day", DAY),
            ("hour", -HOUR),
            ("y2038", Y2038 - right()),
            ("y2050", Y2050 - right()),
            ("right", 0),
        ):
            clocked.set(ahead)
            asked += count
            confirmed += await fleet(site, name, count)
            now = right() + ahead
            early = await site.unit(activatesOn=now + DAY, expiresOn=now + 2 * DAY)
            late = await site.unit(activatesOn=now - DAY, expiresOn=now - 1)
            told = await early[0].claim()
            assert (told.reason, 86_000 < told.retry_after <= 86_400) == ("not-active", True)
            assert (await late[0].claim()).reason == "expired"
            if name == "y2050":
                offer = await device.provision()
        # The offer of 2050, under the right clock: its confirm time is from now, and it can be confirmed.
        await wake_jobs(site)
        async with asyncio.timeout(10):
            while confirm_before(again := await device.provision()) > right() + DAY:
                assert again.credentials == offer.credentials
        assert again.credentials == offer.credentials
        assert (await device.ack("stored", again.generation)).reason == "confirmed"
        assert await request.phase() == "CONFIRMED"
    steps = clocked.steps
    clocked.program.stop()
    assert confirmed == asked
    assert steps < 5 * asked + 100
    told_set = [line for line in clocked.program.errors if "the clock was set" in line]
    assert 4 <= len(told_set) <= 5
    record("clock-program", "F-7", clocks=5, devices=asked, confirmed=confirmed, job_steps=steps)
