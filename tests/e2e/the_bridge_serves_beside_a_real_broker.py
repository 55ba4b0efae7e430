"""Beside a real Mosquitto, following the README: set it up, ask the doctor, serve; and what happens when it fails."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from broker.beside.setup import Login
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, ROOT, Program, Site
from tests.mosquitto import BRIDGE, Mosquitto, bridge_settings, shipped


def provisioner(program: Program, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command over the program's data directory and settings."""
    return subprocess.run(
        [sys.executable, "-m", "broker", *words, "--data-dir", str(program.data)],
        check=False,
        cwd=ROOT,
        env=os.environ | program.settings,
        text=True,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[tuple[Program, Mosquitto]]:
    """A prepared program and a Mosquitto set up by `provisioner broker setup`; only the port is another."""
    program = Program(tmp_path / "data")
    _, password = program.prepare()
    folder = tmp_path / "setup"
    done = provisioner(program, "broker", "setup", "mosquitto", "--out", str(folder), "--folder", str(folder))
    assert done.returncode == 0, done.stderr
    assert password not in done.stdout + done.stderr + (folder / "provisioner.passwords").read_text()
    lines = (folder / "provisioner.conf").read_text().splitlines()
    broker = Mosquitto(folder, "\n".join(line for line in lines if not line.startswith("listener ")) + "\n").start()
    program.settings |= {
        "PROVISIONER_BRIDGE__URL": broker.url,
        "PROVISIONER_BRIDGE__LOGIN_FILE": str(folder / "bridge-login"),
    }
    program.secrets.add((folder / "bridge-login").read_text().split("\n")[1])
    yield program, broker
    program.stop()
    broker.stop()


def ready(program: Program) -> dict[str, Any]:
    return dict(httpx2.get(f"{program.http}/readyz", trust_env=False).json())


def test_set_up_examined_and_served_as_the_readme_says(beside: tuple[Program, Mosquitto]) -> None:
    program, broker = beside
    examined = provisioner(program, "doctor", "--json")
    assert examined.returncode == 0, examined.stdout
    told = json.loads(examined.stdout)
    assert (told["healthy"], told["broker"]) == (True, broker.url)
    assert provisioner(program, "doctor").stderr.strip() == "Nothing is wrong there."

    program.start()
    assert ready(program) == {"ready": True, "store": True, "deviceBroker": True, "bridge": True}
    made = provisioner(program, "request", "create", "dev-1", "--account", "default", "--key-file", f"{program.data}/k")
    assert made.returncode == 0, made.stderr
    claimed = provisioner(
        program, "device", "claim", "dev-1", "--key-file", f"{program.data}/k", "--endpoint", f"127.0.0.1:{broker.port}"
    )
    assert claimed.returncode == 0, claimed.stderr
    headers = {"Authorization": f"Bearer {program.token}"}
    metrics = httpx2.get(f"{program.http}/metrics", headers=headers, trust_env=False).text
    assert 'provisioner_bridge_total{event="received"} 2.0' in metrics
    program.secrets.add((program.data / "k").read_text().strip())
    (program.data / "k").unlink()


@pytest.mark.timeout(120)
def test_a_fleet_claims_there(beside: tuple[Program, Mosquitto]) -> None:
    program, broker = beside
    program.start()
    where = f"127.0.0.1:{broker.port}"
    done = provisioner(program, "fleet", "run", "smoke", "--count", "30", "--endpoint", where, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["confirmed"], told["refused"], told["server"]) == (30, {}, where)


def test_a_broker_that_leaks_is_not_served_unless_the_settings_say_so(beside: tuple[Program, Mosquitto]) -> None:
    program, broker = beside
    acl = broker.folder / "provisioner.acl"
    acl.write_text(acl.read_text().replace("pattern read prov/v1/%u/%c/reply", "pattern read prov/v1/%u/+/reply"))
    broker.stop()
    broker.start()

    examined = provisioner(program, "doctor")
    assert examined.returncode == 1
    assert "pattern read prov/v1/%u/%c/reply" in examined.stderr
    program.start()
    assert ready(program)["bridge"] is False
    assert any("the broker leaks" in line for line in program.errors)
    program.stop()

    program.settings["PROVISIONER_BRIDGE__SERVE_ON_LEAKS"] = "true"
    program.start()
    assert ready(program)["bridge"] is True


async def test_a_broker_killed_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    program = Program(tmp_path / "data")
    logins = [Login(*program.prepare()), Login(FLOOR_USER, FLOOR_PASSWORD)]
    broker = Mosquitto(tmp_path, shipped(tmp_path, logins, BRIDGE)).start()
    program.settings |= bridge_settings(broker.port, broker.folder)
    program.start()
    try:
        async with await Site.at(program) as site:
            site.through = broker.address
            device, request = await site.unit()
            offer = await device.provision()
            for _ in range(3):
                session = await device.connect()
                body = device.claim_body()
                await session.send(session.publish_packet(device.topic("request"), json.dumps(body).encode(), 1))
                broker.kill()
                await device.close()
                broker.start()
                async with asyncio.timeout(10):
                    while not ready(program)["bridge"]:  # noqa: ASYNC110  HTTP has nothing to wait for
                        await asyncio.sleep(0.05)
                again = await device.provision()
                assert again.credentials == offer.credentials
            assert (await device.ack("stored", 1)).reason == "confirmed"
            assert (await request.read())["phase"] == "CONFIRMED"
    finally:
        program.stop()
        broker.stop()
