"""Power comes back to a site: so many devices within ten seconds, at the real program on its defaults (P-7).

Several processes are the devices; what is judged is the one that serves them. It starts with the soft limit of open
files that most systems give, and has to raise it by itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.programs import Server, generate, make_requests, provisioner

ARRIVALS = 1000
"""Devices a second: ten thousand in ten seconds."""
PATIENCE = 180.0
MOST_MEMORY = 384 * 2**20
SOFT_FILE_LIMIT = 1024
_GENERATORS = 2
_SAMPLE = 0.1
_SETTLE = 3.0
"""Until the generators have read their orders, seconds."""


@dataclass
class Herd:
    """What became of it. Memory in bytes; times in seconds.

    `latencies` are from a device's arrival to its confirmation, `ends` from the first arrival.
    """

    devices: int
    spread: float
    confirmed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    claims: int = 0
    answered: int = 0
    replies: Counter[str] = field(default_factory=Counter)
    turned_away: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    memory: int = 0
    files: int = 0

    def add(self, said: dict[str, Any]) -> None:
        """Take what one generator told."""
        for name in ("confirmed", "claims", "answered", "turned_away"):
            setattr(self, name, getattr(self, name) + said[name])
        for name in ("failed", "replies", "lost"):
            getattr(self, name).update(said[name])
        self.latencies += said["latencies"]
        self.ends += said["ends"]

    def percentile(self, percent: float) -> float:
        """The latency in seconds that `percent` of the devices did not exceed."""
        ordered = sorted(self.latencies) or [math.nan]
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]

    @property
    def ended(self) -> float:
        """When the last device was confirmed."""
        return max(self.ends, default=math.nan)

    @property
    def is_good(self) -> bool:
        """Whether P-7 holds."""
        return (
            self.confirmed == self.devices
            and self.answered == self.claims
            and self.ended < PATIENCE
            and self.memory < MOST_MEMORY
        )


async def run(devices: int, folder: Path, prepared: Callable[[int], None], confirmed: Callable[[int], None]) -> Herd:
    """Make the requests, let the herd loose; the callbacks are told how many requests and devices are done."""
    # The whole herd comes from this machine: what one source may have is here what all of them have.
    settings = {"PROVISIONER_ENDPOINT__MAX_CONNECTIONS_PER_SOURCE": "10000"}
    async with provisioner(folder, settings, soft_file_limit=SOFT_FILE_LIMIT) as server:
        made = 0

        def count_made() -> None:
            nonlocal made
            made += 1
            prepared(made)

        listed = await make_requests(server, devices, count_made)
        herd = Herd(devices, devices / ARRIVALS)
        begin = time.time() + _SETTLE
        done = [0] * _GENERATORS

        async def part(number: int) -> None:
            order = {
                "port": server.port,
                "begin": begin,
                "spread": herd.spread,
                "patience": PATIENCE,
                "devices": [[*server.login, *device] for device in listed[number::_GENERATORS]],
            }

            def count_done(count: int) -> None:
                done[number] = count
                confirmed(sum(done))

            herd.add(await generate(order, count_done, "tests.bench.herd_generator"))

        watching = asyncio.create_task(_watch(server, herd))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(_GENERATORS):
                    group.create_task(part(number))
        finally:
            watching.cancel()
    return herd


async def _watch(server: Server, herd: Herd) -> None:
    while True:
        herd.memory = max(herd.memory, server.process.memory_info().rss)
        herd.files = max(herd.files, server.process.num_fds())
        await asyncio.sleep(_SAMPLE)
