"""F-6: the shipped scenario `bad-network` against the real program: everybody gets a credential that works.

One proxy stands in front of the provision broker and one in front of the device broker. At the scale of a CI run the
scenario is what it says; the quick run has fewer devices, and every time in it is a tenth.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from broker.fleet import scenario
from broker.fleet.faults import Fate
from broker.fleet.replies import Address
from broker.fleet.roads import Roads
from broker.fleet.scenario import Scenario
from broker.fleet.swarm import Swarm, Tally
from broker.fleet.unit import Endpoint, Outcome
from tests.e2e.program import Operator, Program
from tests.proof import floor
from tests.proof.scale import SCALE, record, rounds

SHRUNK = 0.1 if SCALE == "quick" else 1.0


def plan(count: int) -> Scenario:
    """The scenario with so many devices arriving at its rate, and its times shrunk."""
    shipped = scenario.load("bad-network")
    devices, network = shipped.devices, shipped.network
    times = {name: value * SHRUNK for name, value in devices.times.model_dump().items()}
    changed = shipped.changed("devices", count=count, patience=devices.patience * SHRUNK, times=times)
    changed = changed.changed("network", jitter=network.jitter * SHRUNK, drip=network.drip * SHRUNK)
    return changed.changed("arrival", seconds=shipped.arrival.seconds * SHRUNK * count / devices.count)


@pytest.mark.timeout(rounds(120, 900, 0))
async def test_everybody_is_confirmed_and_admitted(tmp_path: Path) -> None:
    count = rounds(60, scenario.load("bad-network").devices.count, 50_000)
    ours = plan(count)
    program = Program(
        tmp_path / "data",
        {"PROVISIONER_ENDPOINT__MAX_CONNECTIONS_PER_SOURCE": "10000", "PROVISIONER_LOG__LEVEL": "warning"},
    ).start()
    operator = Operator(program)
    began = time.monotonic()
    outcomes: list[Outcome] = []
    endpoint = Endpoint(Address(*program.endpoint))
    swarm = Swarm(endpoint, concurrency=ours.devices.at_once, patience=ours.devices.patience)
    try:
        identities = await floor.prepare(operator, "weather", count)
        async with Roads(ours.network.weather(ours.seed)) as roads:
            lots = ours.lots(identities, "prov/v1")
            tally = await swarm.live(lots, roads, Tally(), lambda outcome, _: outcomes.append(outcome))
            toll = roads.toll
        credentials = [outcome.credential for outcome in outcomes if outcome.credential is not None]
        working = await floor.admitted(program, credentials)
        phases = await floor.phases(operator)
    finally:
        await operator.close()
    program.stop()
    assert (tally.refused, tally.confirmed) == ({}, count)
    assert (len(credentials), working) == (count, count)
    assert phases == {"CONFIRMED": count}
    met, struck = toll.connections, toll.packets
    record(
        "fault-proxy",
        "F-6",
        devices=count,
        confirmed=tally.confirmed,
        admitted_at_the_device_broker=working,
        jitter=f"0-{ours.network.jitter:g} s",
        device_times=f"contract x {SHRUNK:g}",
        connections=met.total(),
        resets=met[Fate.RESET],
        half_open=met[Fate.HALF_OPEN],
        dribbled=met[Fate.DRIBBLE],
        lost=struck["lost"],
        doubled=struck["doubled"],
        overtaken=struck["overtaken"],
        generations_above_one=sum(one.generation > 1 for one in credentials),
        p50=f"{tally.percentile(50) or 0:.1f} s",
        p99=f"{tally.percentile(99) or 0:.1f} s",
        slowest=f"{tally.percentile(100) or 0:.1f} s",
        seconds=round(time.monotonic() - began),
        seed=ours.seed,
    )
