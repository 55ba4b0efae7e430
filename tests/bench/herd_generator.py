"""Part of a herd: a process of its own that lets devices arrive and tells what became of them.

Standard input is one JSON object, `{"port", "begin", "spread", "patience", "devices": [[user, password, client id,
key], …]}`, `begin` in seconds of the wall clock; standard output is a line `{"done": n}` a few times a second and one
`{"confirmed", "failed", "latencies", "ends", "claims", "answered", "replies", "turned_away", "lost"}` at the end.

1. The devices are the shipped reference devices with the contract's own times: they retry, back off and obey
   `retryAfter` by themselves.
2. A claim counts as answered when its reply came before the device gave it up, 10 s, over a connection that held.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import uvloop

from broker.fleet.actions import Identity, Options, Step
from broker.fleet.device import Device
from broker.fleet.flash import MemoryFlash
from broker.fleet.replies import Address
from broker.fleet.unit import Endpoint, Unit
from broker.lifetime import raise_file_limit


@dataclass
class Tally:
    """What was seen; `ends` are when devices were confirmed, in seconds after the first one arrived."""

    confirmed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    claims: int = 0
    answered: int = 0
    replies: Counter[str] = field(default_factory=Counter)
    turned_away: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        """Devices that came to an end."""
        return self.confirmed + self.failed.total()


class Watched:
    """Counts what one device does."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._claiming = False

    def __call__(self, step: Step) -> None:
        tally = self._tally
        match step.name:
            case "claim":
                tally.claims += 1
                self._claiming = True
            case "ack":
                self._claiming = False
            case "offer-opened":
                self._note("offer")
            case "refused" if step.reply is not None:
                self._note(step.reply.reason)
            case "lost" if "CONNACK" in step.text:
                tally.turned_away += 1
            case "lost":
                tally.lost[step.text] += 1

    def _note(self, reason: str) -> None:
        self._tally.replies[reason] += 1
        self._tally.answered += self._claiming


async def drive(order: dict[str, Any]) -> Tally:
    """Let all devices of `order` arrive, evenly spread, and wait for their ends."""
    tally = Tally()
    endpoint = Endpoint(Address("127.0.0.1", order["port"]))
    devices = order["devices"]

    async def live(index: int, identity: Identity) -> None:
        await asyncio.sleep(order["begin"] + order["spread"] * index / len(devices) - time.time())
        device = Device(identity, Options(), MemoryFlash(), secrets.token_bytes)
        unit = Unit(device, endpoint, patience=order["patience"], stubborn=True, observe=Watched(tally))
        outcome = await unit.run()
        if outcome.is_confirmed:
            tally.confirmed += 1
            tally.latencies.append(outcome.seconds)
            tally.ends.append(time.time() - order["begin"])
        else:
            tally.failed[outcome.reason] += 1

    async def tell() -> None:
        while True:
            say({"done": tally.done})
            await asyncio.sleep(0.25)

    teller = asyncio.create_task(tell())
    async with asyncio.TaskGroup() as group:
        for index, device in enumerate(devices):
            group.create_task(live(index, Identity(*device)))
    teller.cancel()
    return tally


def say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    raise_file_limit()
    order = json.load(sys.stdin)
    say(vars(uvloop.run(drive(order))))


if __name__ == "__main__":
    main()
