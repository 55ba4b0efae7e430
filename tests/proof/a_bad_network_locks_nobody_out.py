"""F-6: the shipped devices, through the fault proxy, against the real program: everybody gets a credential that works.

One proxy stands in front of the provision broker and one in front of the device broker. At the scale of a CI run the
times are the contract's own and chunks are up to two seconds late; the quick run is the same in tenths.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from broker.fleet.actions import Options, Times
from broker.fleet.faults import Fate, FaultProxy, Weather
from broker.fleet.replies import Address
from broker.fleet.swarm import Swarm, Tally
from broker.fleet.unit import Endpoint, Outcome
from tests.e2e.program import Operator, Program
from tests.proof import floor
from tests.proof.scale import SCALE, record, rounds

SEED = 20_260_314
SHRUNK = 0.1 if SCALE == "quick" else 1.0
TIMES = Times(10 * SHRUNK, 5 * SHRUNK, 300 * SHRUNK, 60 * SHRUNK, 10 * SHRUNK)


def weather(reach: int) -> Weather:
    return Weather(seed=SEED, jitter=2 * SHRUNK, drip=0.02 * SHRUNK, reach=reach)


async def provision(operator: Operator, port: int, count: int) -> tuple[Tally, list[Outcome]]:
    """Let `count` devices loose; returns what became of them."""
    identities = await floor.prepare(operator, "weather", count)
    outcomes: list[Outcome] = []
    swarm = Swarm(
        Endpoint(Address("127.0.0.1", port)),
        Options(times=TIMES),
        concurrency=2_000,
        spread=count / 200 * SHRUNK,
        patience=1_000 * SHRUNK,
    )
    tally = await swarm.run(identities, count, lambda outcome, _: outcomes.append(outcome))
    return tally, outcomes


@pytest.mark.timeout(rounds(120, 900, 0))
async def test_everybody_is_confirmed_and_admitted(tmp_path: Path) -> None:
    count = rounds(60, 5_000, 50_000)
    claims, logins = FaultProxy(weather(2_000)), FaultProxy(weather(150))
    claims_port, logins_port = await claims.start(), await logins.start()
    program = Program(
        tmp_path / "data",
        {
            "PROVISIONER_DEVICE_BROKER__URL": f"mqtt://127.0.0.1:{logins_port}",
            "PROVISIONER_ENDPOINT__MAX_CONNECTIONS_PER_SOURCE": "10000",
            "PROVISIONER_LOG__LEVEL": "warning",
        },
    ).start()
    claims.target, logins.target = Address(*program.endpoint), Address(*program.device_broker)
    operator = Operator(program)
    began = time.monotonic()
    try:
        tally, outcomes = await provision(operator, claims_port, count)
        credentials = [outcome.credential for outcome in outcomes if outcome.credential is not None]
        working = await floor.admitted(program, credentials)
        phases = await floor.phases(operator)
    finally:
        await operator.close()
        await claims.stop()
        await logins.stop()
    program.stop()
    assert (tally.refused, tally.confirmed) == ({}, count)
    assert (len(credentials), working) == (count, count)
    assert phases == {"CONFIRMED": count}
    met = claims.toll.connections + logins.toll.connections
    struck = claims.toll.packets
    record(
        "fault-proxy",
        "F-6",
        devices=count,
        confirmed=tally.confirmed,
        admitted_at_the_device_broker=working,
        jitter=f"0-{2 * SHRUNK:g} s",
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
        seed=SEED,
    )
