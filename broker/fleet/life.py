"""One unit from its first switching on to its end, over every power cut in between.

1. A power cut takes the device with its memory and its connection, without a goodbye; flash stays. What was sent
   before it has left.
2. `patience` counts from the first switching on: a device that keeps losing power gets no more of it.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace

from broker.fleet.actions import Step
from broker.fleet.device import Device
from broker.fleet.lot import Board, Lot, PowerCut
from broker.fleet.roads import Roads
from broker.fleet.unit import Endpoint, Outcome, Unit


async def live(
    lot: Lot, endpoint: Endpoint, roads: Roads, patience: float, blackout: float | None, observe: Callable[[Step], None]
) -> Outcome:
    """Live through `lot`; `blackout` is the loop's time at which everybody's power fails, None: never."""
    clock = asyncio.get_running_loop().time
    started = clock()
    board = Board(lot)

    def watch(step: Step) -> None:
        observe(step)
        board.pass_by(step.name)

    while True:
        if blackout is not None and blackout <= clock():
            blackout = None  # it was not on then
        left = max(0.1, started + patience - clock())
        device = Device(lot.identity, lot.options, board.flash, secrets.token_bytes)
        unit = Unit(
            device,
            replace(endpoint, version=lot.version),
            patience=left,
            stubborn=True,
            observe=watch,
            roads=roads,
            clock_rate=lot.clock_rate,
        )
        try:
            async with asyncio.timeout_at(blackout):
                outcome = await unit.run()
            return replace(outcome, seconds=clock() - started)
        except (PowerCut, TimeoutError):
            observe(Step("power-cut"))
            if clock() + lot.off >= started + patience:
                return Outcome(lot.identity.client_id, "timeout", clock() - started)
            await asyncio.sleep(lot.off)
