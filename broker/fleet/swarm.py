"""Many units at once, and their figures.

1. At most `concurrency` units are switched on at a time; `spread` seconds lie between the first and the last arrival.
2. Units are made when their turn comes, so a million identities may come from a file.
3. A latency is the time from switching a unit on to its confirmation, connections and logins included.
"""

import asyncio
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from broker.fleet.actions import Identity, Options
from broker.fleet.device import Device
from broker.fleet.flash import MemoryFlash
from broker.fleet.unit import Endpoint, Outcome, Unit


@dataclass(slots=True)
class Tally:
    """What became of the units so far. `latencies` are seconds of the confirmed ones, unsorted."""

    confirmed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        if outcome.is_confirmed:
            self.confirmed += 1
            self.latencies.append(outcome.seconds)
        else:
            self.refused[outcome.reason] += 1

    @property
    def done(self) -> int:
        """Units that came to an end."""
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
    """How a swarm behaves; `patience` is what one unit has, in seconds. Units never mind an absent server."""

    endpoint: Endpoint
    options: Options = field(default_factory=Options)
    concurrency: int = 200
    spread: float = 0.0
    patience: float = 60.0

    async def run(
        self, identities: Iterable[Identity], count: int, observe: Callable[[Outcome, Tally], None] = lambda *_: None
    ) -> Tally:
        """Let `count` units arrive; `observe` is told each outcome and the tally after it."""
        tally = Tally()
        clock = asyncio.get_running_loop().time
        started = clock()
        slots = asyncio.Semaphore(self.concurrency)

        async def live(identity: Identity) -> None:
            try:
                device = Device(identity, self.options, MemoryFlash(), secrets.token_bytes)
                outcome = await Unit(device, self.endpoint, patience=self.patience, stubborn=True).run()
            finally:
                slots.release()
            tally.add(outcome)
            tally.seconds = clock() - started
            observe(outcome, tally)

        async with asyncio.TaskGroup() as group:
            for index, identity in zip(range(count), identities, strict=False):
                await asyncio.sleep(started + self.spread * index / count - clock())
                await slots.acquire()
                group.create_task(live(identity))
        return tally
