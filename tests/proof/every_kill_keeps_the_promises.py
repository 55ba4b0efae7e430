"""F-1: SIGKILL at every named point of the hand-over and at random instants; rules 1 to 9 of section 9 hold.

Several devices at once are on their way (`stories`) when the program dies. What it left on the disk is compared with
what they had been told (`ledger`), it starts again on the same data directory with the next trap set, and they go on
over the wire until each has reached its end.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.program import Site
from tests.proof import ledger
from tests.proof.crash import INSTALLING, POINTS
from tests.proof.mortal import PATIENCE, Life, Mortal
from tests.proof.scale import SCALE, record, rounds
from tests.proof.stories import STORIES, Certified, Forgetful, Late, Refused, Renewed, Revoked, Stage, Story

LEADS_TO: dict[str, tuple[type[Story], ...]] = {
    "certificate order": (Certified,),
    "key wipe": (Forgetful,),
    "retire commit": (Refused, Revoked, Renewed),
    "revoke": (Refused, Revoked, Renewed),
    "retired commit": (Refused, Revoked, Renewed),
    "expiry commit": (Late,),
}
"""Stories that come by a point which others do not."""

RECOVERY = 2.0
"""Seconds from the ready line until the first device is served, at most."""

RECHECKED = 3
"""Stories that had ended before a kill and are looked at once more after it, over the wire."""


@dataclass(frozen=True)
class Plan:
    """One campaign: kills at a point or after seconds, how many devices at once, which sort of device broker."""

    kills: Sequence[str | float]
    at_once: int = 6
    installs: bool = False


def plans() -> dict[str, Plan]:
    """Where kills strike -> how."""
    if SCALE == "quick":
        return {
            "anywhere": Plan(
                [
                    "after mint and offer",
                    "before reply",
                    "after certificate order",
                    "after confirm commit",
                    "before revoke",
                    0.5,
                ]
            )
        }
    times = rounds(1, 50, 500)
    found = {
        f"at {point}": Plan([f"before {point}", f"after {point}"] * times, installs=point in INSTALLING)
        for point in POINTS
    }
    chance = random.Random(11)
    for name, installs in (("at random", False), ("at random while installing", True)):
        found[name] = Plan([chance.uniform(0.02, 1.2) for _ in range(2 * times)], 24, installs)
    return found


PLANS = plans()


@dataclass
class Figures:
    """What was tried and measured; times in seconds."""

    kills: int = 0
    before_ready: int = 0
    to_ready: list[float] = field(default_factory=list)
    to_answer: list[float] = field(default_factory=list)
    stories: int = 0


class Campaign:
    """Kills, one after the other, on one data directory."""

    def __init__(self, program: Mortal, chance: random.Random, at_once: int) -> None:
        self._program = program
        self._chance = chance
        self._at_once = at_once
        self._stage = Stage(program)
        self._cast = itertools.cycle(STORIES)
        self._favoured: tuple[type[Story], ...] = ()
        self._told: list[Story] = []
        self._ended: list[Story] = []
        self._closing = False
        self.figures = Figures()

    async def run(self, kills: Sequence[str | float]) -> Figures:
        """One life for each kill, at a named point or after a while; the last life ends well."""
        async with self._curtain(), asyncio.TaskGroup() as tasks:
            await self._furnish()
            for _ in range(self._at_once):
                tasks.create_task(self._worker())
            for kill in kills:
                await self._live_and_die(kill, tasks)
            await self._open(await self._program.live(), tasks)
            self._closing = True
        self._check_ledger()
        return self.figures

    @asynccontextmanager
    async def _curtain(self) -> AsyncIterator[None]:
        try:
            yield
            await self._program.rest()
        finally:
            await self._stage.drop_curtain()

    async def _furnish(self) -> None:
        """The first life: what all stories share is there, and safely so."""
        life = await self._program.live()
        async with await Site.at(self._program) as site:
            await site.request()
        life.kill()
        await life.ended.wait()

    async def _worker(self) -> None:
        while not self._closing:
            story = self._next()(self._stage)
            self._told.append(story)
            await story.tell()
            self._ended.append(story)
            self.figures.stories += 1

    def _next(self) -> type[Story]:
        if self._favoured and self._chance.random() < 0.7:
            return self._chance.choice(self._favoured)
        return next(self._cast)

    async def _live_and_die(self, kill: str | float, tasks: asyncio.TaskGroup) -> None:
        if isinstance(kill, str):
            point = kill.partition(" ")[2]
            self._favoured = LEADS_TO.get(point, ())
            life = await self._program.live(kill, self._chance.randint(1, 4))
        else:
            life = await self._program.live(kill_after=kill)
        await self._open(life, tasks)
        await self._end(str(kill))

    async def _open(self, life: Life, tasks: asyncio.TaskGroup) -> None:
        if life.ready is None:
            self.figures.before_ready += 1
            return
        self.figures.to_ready.append(life.ready - life.born)
        await self._stage.raise_curtain()
        for story in self._ended[-RECHECKED:]:
            tasks.create_task(story.look_back())
        self._ended.clear()

    async def _end(self, kill: str) -> None:
        """Wait until it is dead, and look at what it left."""
        life = self._program.life
        assert life is not None
        try:
            async with asyncio.timeout(PATIENCE):
                await life.ended.wait()
        except TimeoutError:
            raise AssertionError(f"nothing came by: {kill}") from None
        await self._stage.drop_curtain()
        assert life.code == -9, f"it ended with {life.code}"
        self.figures.kills += 1
        if life.ready is not None and self._stage.answered is not None:
            self.figures.to_answer.append(self._stage.answered - life.ready)
        self._check_ledger()

    def _check_ledger(self) -> None:
        found = ledger.read(self._program.data, self._program.data.parent / "copy")
        for story in self._told:
            if story.id:
                story.check(found[story.id])


def high(times: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted(times)[min(len(times) - 1, len(times) * 99 // 100)]


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Mortal]:
    async with Mortal(tmp_path / "data") as mortal:
        yield mortal
    assert mortal.alarms() == []


@pytest.mark.parametrize("where", PLANS)
async def test_whatever_was_told_is_true_after_a_kill(program: Mortal, where: str) -> None:
    plan = PLANS[where]
    program.installs = plan.installs
    figures = await Campaign(program, random.Random(where), plan.at_once).run(plan.kills)
    assert high(figures.to_answer) <= RECOVERY
    record(
        f"kills {where}",
        "F-1",
        kills=figures.kills,
        before_ready=figures.before_ready,
        hand_overs=figures.stories,
        ready_p99=round(high(figures.to_ready), 2),
        served_p99=round(high(figures.to_answer), 3),
        interpreter=program.import_time,
    )
