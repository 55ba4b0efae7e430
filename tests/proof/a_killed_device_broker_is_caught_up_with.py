"""The device broker dies in the middle of hand-overs, and its list is put back to an older one (F-5).

Each round devices claim and one is revoked while Mosquitto is killed; every fifth, it starts on the list of the round
before. Then: it holds what the ledger says within seconds of being back, every device gets in with its own credential,
and who was revoked does not. A confirmed device whose credential an older list lacks renews with its next claim.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.beside import BESIDE, Beside, beside
from tests.e2e.independent import IndependentDevice
from tests.e2e.packets import RefusedError
from tests.e2e.program import Request
from tests.proof.scale import record, rounds

KILLS = rounds(quick=2, ci=50, soak=400)
ROLLBACK_EVERY = 5
DEVICES = 3
PATIENCE = 60.0
WITHIN = rounds(quick=30, ci=5, soak=5)
"""Seconds after it is back; a machine that runs other tests beside takes longer."""
LISTS = {"mosquitto-dynsec": ("dynsec.json",), "mosquitto-files": ("passwords", "rights")}


class Lists:
    """The broker's own list, to be put back."""

    def __init__(self, found: Beside, kind: str) -> None:
        self._files = [found.real.folder / name for name in LISTS[kind]]
        self._copies: list[bytes] = []

    def copy(self) -> None:
        self._copies = [file.read_bytes() for file in self._files]

    def put_back(self) -> None:
        for file, content in zip(self._files, self._copies, strict=True):
            file.write_bytes(content)

    @property
    def is_emptied(self) -> bool:
        """Mosquitto 2.0 writes the plug-in's list in place, so a kill may leave nothing of it."""
        return any(not file.stat().st_size for file in self._files)


async def unsettled(found: Beside) -> list[Any]:
    """What the broker holds and the ledger does not know, or the reverse, and what is under way."""
    drift = await found.site.operator.ask("GET", "/v2/drift")
    differing = [one for one in drift["difference"] if one["kind"] != "lost"]
    listed = await found.site.operator.ask("GET", "/v2/provisionRequests?statuses=STARTED&statuses=STOPPING&limit=500")
    return [*differing, *drift["unreachable"], *(one["phase"] for one in listed["provisionRequest"])]


async def caught_up(found: Beside) -> float:
    """Seconds until nothing is unsettled any more."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while True:
            if not await unsettled(found):
                return time.monotonic() - began
            await asyncio.sleep(0.05)


async def one_round(found: Beside, lists: Lists, number: int, rng: random.Random) -> tuple[float, bool, bool]:
    """Seconds until it had caught up, whether an older list was put back, and whether the kill had emptied its list."""
    units = [await found.site.unit(deviceCredentialsTight=found.coupling) for _ in range(DEVICES)]
    leaver, leaving, credentials = await found.site.confirmed(deviceCredentialsTight=found.coupling)
    claims = [asyncio.create_task(device.provision(patience=PATIENCE)) for device, _ in units]
    await asyncio.sleep(rng.random() * 0.3)
    await leaving.tell("revoke")
    await asyncio.to_thread(found.real.kill)
    emptied = lists.is_emptied
    rolls_back = number % ROLLBACK_EVERY == ROLLBACK_EVERY - 1
    if emptied or rolls_back:
        lists.put_back()
    await asyncio.sleep(rng.random() * 0.5)
    await asyncio.to_thread(found.real.start)
    took = await caught_up(found)
    for (device, _), claim in zip(units, claims, strict=True):
        await log_in(found, device, (await claim).credentials)
        assert (await device.ack("stored", 1)).reason == "confirmed"
    with pytest.raises(RefusedError):
        await leaver.login(found.address, credentials)
    await leaving.until("STOPPED")
    if rolls_back:
        await renew_what_is_lost(found, units)
    lists.copy()
    return took, rolls_back, emptied


async def log_in(found: Beside, device: IndependentDevice, credentials: Any) -> None:
    async with await device.login(found.address, credentials):
        pass


async def renew_what_is_lost(found: Beside, units: list[tuple[IndependentDevice, Request]]) -> None:
    """Whoever was confirmed before the list was put back claims anew, as a device does that is refused."""
    drift = await found.site.operator.ask("POST", "/v2/drift/apply")
    lost = {one["clientId"] for one in drift["difference"]}
    for device, _ in units:
        if device.client_id in lost:
            offer = await device.provision("r-renewed", patience=PATIENCE)
            await log_in(found, device, offer.credentials)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("kind", sorted(BESIDE))
async def test_a_killed_device_broker_is_caught_up_with(kind: str, tmp_path: Path) -> None:
    times, rollbacks, emptied = [], 0, 0
    async with beside(kind, tmp_path) as found:
        lists = Lists(found, kind)
        lists.copy()
        rng = random.Random(5)
        for number in range(KILLS):
            took, rolled_back, was_emptied = await one_round(found, lists, number + ROLLBACK_EVERY - 2, rng)
            times.append(took)
            rollbacks += rolled_back
            emptied += was_emptied
        assert max(times) < WITHIN
    record(
        f"killed-{kind}",
        "F-5",
        kills=KILLS,
        rollbacks=rollbacks,
        emptied_by_mosquitto=emptied,
        slowest_seconds=round(max(times), 2),
        lost=0,
    )
