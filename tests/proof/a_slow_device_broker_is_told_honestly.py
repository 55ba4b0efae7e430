"""More devices come than Mosquitto's plug-in takes (P-9): they are told when to come back, and its others are served.

Its list holds many clients already, so each new one stalls it. All devices claim at once and obey `retryAfter`; a
client of somebody else on that broker exchanges messages with itself meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from broker.devicebrokers.dynsec_control import DynsecControl
from broker.fleet.link import Link, Login
from broker.fleet.replies import Address
from tests.e2e.beside import Beside, beside
from tests.e2e.independent import IndependentDevice
from tests.mosquitto import DYNSEC_ADMIN
from tests.proof.scale import record, rounds

THERE = rounds(quick=2_000, ci=10_000, soak=10_000)
DEVICES = rounds(quick=40, ci=150, soak=2_000)
STALL = 0.5
"""Seconds: the target's bound of others' p99."""
MOST_CLAIMS = 8
"""A device that was told two seconds each time would make dozens."""


def fill(file: Path, count: int) -> None:
    """Put clients of somebody else into the plug-in's list, without a password: nobody logs in as one."""
    found = json.loads(file.read_text())
    found["clients"] += [{"username": f"theirs-{number}", "roles": []} for number in range(count)]
    file.write_text(json.dumps(found))


async def bystander(found: Beside, stop: asyncio.Event) -> list[float]:
    """Seconds of each round trip of a login that is none of ours."""
    address = Address("127.0.0.1", found.real.port)
    topic = "theirs/echo"
    acls = [{"acltype": kind, "topic": topic, "allow": True} for kind in ("publishClientSend", "subscribeLiteral")]
    control = DynsecControl(address, DYNSEC_ADMIN, None)
    await control.run([{"command": "createRole", "rolename": "theirs", "acls": acls}])
    await control.run(
        [{"command": "createClient", "username": "theirs", "password": "x", "roles": [{"rolename": "theirs"}]}]
    )
    await control.close()
    link = await Link.open(address, Login("bystander", "theirs", "x"), seconds=30)
    await link.subscribe(topic)
    times = []
    while not stop.is_set():
        began = time.perf_counter()
        link.publish(topic, b"{}")
        while await link.receive() != b"{}":
            continue
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.01)
    await link.close()
    return times


async def claim(device: IndependentDevice) -> int:
    """Claim and do as told until there is an offer; how many claims it took."""
    claims = 0
    while True:
        claims += 1
        reply = await device.claim()
        await device.close()
        if reply.reason == "offer":
            return claims
        assert reply.reason in ("wait", "slow-down"), reply.body
        await asyncio.sleep(reply.body["retryAfter"])


@pytest.mark.timeout(1200)
async def test_a_slow_device_broker_is_told_honestly(tmp_path: Path) -> None:
    async with beside("mosquitto-dynsec", tmp_path) as found:
        await asyncio.to_thread(found.real.stop)
        fill(found.real.folder / "dynsec.json", THERE)
        await asyncio.to_thread(found.real.start)
        units = [(await found.site.unit(deviceCredentialsTight=found.coupling))[0] for _ in range(DEVICES)]
        stop = asyncio.Event()
        others = asyncio.create_task(bystander(found, stop))
        began = time.monotonic()
        claims = await asyncio.gather(*map(claim, units))
        took = time.monotonic() - began
        stop.set()
        times = sorted(await others)
        assert max(claims) <= MOST_CLAIMS
        p99 = times[int(len(times) * 0.99)]
        assert p99 < STALL
    record(
        "slow-plugin",
        "P-9",
        clients_there=THERE,
        devices=DEVICES,
        seconds=round(took, 1),
        most_claims=max(claims),
        others_p99_ms=round(p99 * 1000),
        others_worst_ms=round(times[-1] * 1000),
    )
