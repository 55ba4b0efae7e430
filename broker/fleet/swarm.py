"""Many units at once, and their figures.

1. At most `concurrency` units are switched on at a time; a unit arrives when its lot says so, or when there is room.
2. Units are made when their turn comes, so a million identities may come from a file.
3. A latency is the time from switching a unit on to its confirmation: connections, logins and power cuts included.
4. Clones and impostors are counted apart: whatever becomes of them says nothing about the customers' devices.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from broker.fleet.actions import Identity, Options, Step
from broker.fleet.life import live
from broker.fleet.lot import Lot, Role
from broker.fleet.roads import Roads
from broker.fleet.unit import Endpoint, Outcome


@dataclass(slots=True)
class Tally:
    """What became of the units so far. Times in seconds; `latencies` of the confirmed ones, unsorted.

    `arrivals` and `ends` count from the start of the run; `steps` are what units did, `replies` what they were told.
    """

    confirmed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    on: int = 0
    arrivals: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    steps: Counter[str] = field(default_factory=Counter)
    replies: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    clones: Counter[str] = field(default_factory=Counter)
    impostors: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count one more of the genuine units."""
        if outcome.is_confirmed:
            self.confirmed += 1
            self.latencies.append(outcome.seconds)
            self.ends.append(self.seconds)
        else:
            self.refused[outcome.reason] += 1

    def watch(self, step: Step) -> None:
        """Count a step of any unit."""
        self.steps[step.name] += 1
        if step.name == "refused" and step.reply is not None:
            self.replies[step.reply.reason] += 1
        elif step.name == "lost":
            self.lost[step.text] += 1

    @property
    def done(self) -> int:
        """Genuine units that came to an end."""
        return self.confirmed + self.refused.total()

    @property
    def rate(self) -> float:
        """Confirmed units per second."""
        return self.confirmed / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float | None:
        """The latency that `percent` of the confirmed units did not exceed; None where there are none."""
        if not self.latencies:
            return None
        ordered = sorted(self.latencies)
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Swarm:
    """How a swarm behaves; `patience` is what one unit has, `blackout` when everybody's power fails, in seconds.

    Units never mind an absent server. `options` and `spread`, the time between the first and the last arrival, are for
    `run`; lots bring their own.
    """

    endpoint: Endpoint
    options: Options = field(default_factory=Options)
    concurrency: int = 200
    spread: float = 0.0
    patience: float = 60.0
    blackout: float | None = None

    async def run(
        self, identities: Iterable[Identity], count: int, observe: Callable[[Outcome, Tally], None] = lambda *_: None
    ) -> Tally:
        """Let `count` units arrive; `observe` is told each outcome and the tally after it."""
        lots = (
            Lot(identity, self.spread * index / count, self.options, self.endpoint.version)
            for index, identity in zip(range(count), identities, strict=False)
        )
        async with Roads() as roads:
            return await self.live(lots, roads, Tally(), observe)

    async def live(
        self,
        lots: Iterable[Lot],
        roads: Roads,
        tally: Tally,
        observe: Callable[[Outcome, Tally], None] = lambda *_: None,
    ) -> Tally:
        """Let a unit of each lot arrive; `tally` is kept up to date and returned."""
        clock = asyncio.get_running_loop().time
        started = clock()
        blackout = None if self.blackout is None else started + self.blackout
        slots = asyncio.Semaphore(self.concurrency)

        async def be(lot: Lot) -> None:
            tally.on += 1
            try:
                outcome = await live(lot, self.endpoint, roads, self.patience, blackout, tally.watch)
            finally:
                tally.on -= 1
                slots.release()
            tally.seconds = clock() - started
            if lot.role is Role.GENUINE:
                tally.add(outcome)
                observe(outcome, tally)
            else:
                (tally.clones if lot.role is Role.CLONE else tally.impostors)[outcome.reason] += 1

        async with asyncio.TaskGroup() as group:
            for lot in lots:
                if (early := started + lot.arrives - clock()) > 0:  # who is late already waits for nobody's turn
                    await asyncio.sleep(early)
                await slots.acquire()
                if lot.role is Role.GENUINE:
                    tally.arrivals.append(clock() - started)
                group.create_task(be(lot))
        return tally
