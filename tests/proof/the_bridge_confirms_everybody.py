"""Beside one stock Mosquitto that is never restarted: everybody claims through it, works on it, and it is killed once.

The provisioner is its client twice: as the bridge, and as who writes its password and ACL files (`mosquitto-files`).
The devices know nothing but Mosquitto's port. In the second proof they claim at the endpoint instead.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.beside.setup import Kind, Login, plan
from broker.fleet.replies import Address
from broker.fleet.swarm import Swarm
from broker.fleet.unit import Endpoint, Outcome
from tests.e2e.program import Operator, Program
from tests.mosquitto import BRIDGE, Mosquitto
from tests.proof import floor
from tests.proof.scale import record, rounds

AT_ONCE = 200


@dataclass
class Place:
    """A running Mosquitto, a running program beside it, and its operator."""

    mosquitto: Mosquitto
    program: Program
    operator: Operator

    @property
    def address(self) -> tuple[str, int]:
        """Mosquitto's."""
        return "127.0.0.1", self.mosquitto.port


@asynccontextmanager
async def beside(folder: Path) -> AsyncIterator[Place]:
    program = Program(folder / "data", {"PROVISIONER_LOG__LEVEL": "warning"})
    user, password = program.prepare()
    files = {
        file.name: file.text
        for file in plan(Kind.MOSQUITTO, "prov/v1", BRIDGE, Login(user, password), os.urandom).files
    }
    place = folder / "mosquitto"
    place.mkdir()
    passwords, rights, login = place / "passwords", place / "rights", place / "bridge-login"
    passwords.write_text(files["provisioner.passwords"])
    rights.write_text(files["provisioner.acl"])
    login.touch(mode=0o600)
    login.write_text(f"{BRIDGE.user}\n{BRIDGE.password}\n")
    mosquitto = Mosquitto(place, f"password_file {passwords}", f"acl_file {rights}", "set_tcp_nodelay true")
    url = f"mqtt://127.0.0.1:{mosquitto.port}"
    program.settings |= {
        "PROVISIONER_BRIDGE__URL": url,
        "PROVISIONER_BRIDGE__LOGIN_FILE": str(login),
        "PROVISIONER_DEVICE_BROKER__KIND": "mosquitto-files",
        "PROVISIONER_DEVICE_BROKER__URL": url,
        "PROVISIONER_DEVICE_BROKER__PASSWORD_FILE": str(passwords),
        "PROVISIONER_DEVICE_BROKER__ACL_FILE": str(rights),
        "PROVISIONER_DEVICE_BROKER__PID_FILE": str(mosquitto.pid_file),
        "PROVISIONER_ENDPOINT__MAX_CONNECTIONS_PER_SOURCE": "10000",
    }
    await asyncio.to_thread(mosquitto.start)
    try:
        await asyncio.to_thread(program.start)
        operator = Operator(program)
        try:
            yield Place(mosquitto, program, operator)
        finally:
            await operator.close()
            await asyncio.to_thread(program.stop)
    finally:
        await asyncio.to_thread(mosquitto.kill)


@pytest.mark.timeout(rounds(150, 900, 0))
@pytest.mark.parametrize("way", ["bridge", "endpoint"])
async def test_everybody_is_confirmed_and_works_there(tmp_path: Path, way: str) -> None:
    count = rounds(60, 1_000, 5_000)
    outcomes: list[Outcome] = []
    async with beside(tmp_path) as place:
        pid = place.mosquitto.pid_file.read_text()
        identities = await floor.prepare(place.operator, "line", count, deviceCredentialsTight="LOOSE")
        began = time.monotonic()
        endpoint = Endpoint(Address(*(place.address if way == "bridge" else place.program.endpoint)))
        swarm = Swarm(endpoint, concurrency=AT_ONCE, patience=rounds(120, 600, 3_000))
        tally = await swarm.run(identities, count, lambda outcome, _: outcomes.append(outcome))
        seconds = time.monotonic() - began
        credentials = [one.credential for one in outcomes if one.credential is not None]
        working = await floor.admitted(place.program, credentials, place.address)
        phases = await floor.phases(place.operator)
        assert place.mosquitto.pid_file.read_text() == pid, "no restart for a new device"
    assert (tally.refused, tally.confirmed, working) == ({}, count, count)
    assert phases == {"CONFIRMED": count}
    record(
        f"beside-mosquitto-{way}",
        "issue 5",
        devices=count,
        confirmed=tally.confirmed,
        admitted_at_mosquitto=working,
        a_second=f"{count / seconds:.0f}",
        p50=f"{tally.percentile(50) or 0:.1f} s",
        p99=f"{tally.percentile(99) or 0:.1f} s",
    )


@pytest.mark.timeout(rounds(150, 900, 0))
async def test_kills_of_the_broker_in_the_middle_lose_nobody(tmp_path: Path) -> None:
    count, kills = rounds(60, 500, 2_000), rounds(3, 50, 200)
    outcomes: list[Outcome] = []
    async with beside(tmp_path) as place:
        identities = await floor.prepare(place.operator, "line", count, deviceCredentialsTight="LOOSE")
        swarm = Swarm(Endpoint(Address(*place.address)), concurrency=20, patience=rounds(120, 600, 3_000))
        running = asyncio.create_task(swarm.run(identities, count, lambda outcome, _: outcomes.append(outcome)))
        done = 0
        while not running.done() and done < kills:
            await asyncio.wait((running,), timeout=0.5)
            await asyncio.to_thread(place.mosquitto.restart)
            done += 1
        tally = await running
        credentials = [one.credential for one in outcomes if one.credential is not None]
        working = await floor.admitted(place.program, credentials, place.address)
        phases = await floor.phases(place.operator)
    assert (tally.refused, tally.confirmed, working) == ({}, count, count)
    assert phases == {"CONFIRMED": count}
    record("bridge-kills", "F-5", devices=count, kills=done, confirmed=tally.confirmed, admitted_at_mosquitto=working)
