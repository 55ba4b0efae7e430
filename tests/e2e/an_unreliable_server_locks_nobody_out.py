"""`serve --chaos` for firmware teams: it is loud about itself, and a device that follows the contract copes with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.fleet.actions import Options, Times
from broker.fleet.replies import Address
from broker.fleet.swarm import Swarm
from broker.fleet.unit import Endpoint
from tests.e2e.program import Operator, Program
from tests.proof import floor

MOODS = {"WAIT": "0.2", "DOUBLE": "0.2", "DROP": "0.2", "DELAY": "0.2"}
HASTY = Times(reply=0.5, first_pause=0.1, longest_pause=1.0)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    settings = {f"PROVISIONER_CHAOS__{name}": value for name, value in MOODS.items()}
    command = ("-m", "broker", "serve", "--chaos", "--chaos-seed", "7")
    running = Program(tmp_path / "data", settings, command).start()
    yield running
    running.stop()


async def test_every_device_that_follows_the_contract_is_confirmed(program: Program) -> None:
    operator = Operator(program)
    identities = await floor.prepare(operator, "patient", 40)
    swarm = Swarm(Endpoint(Address(*program.endpoint)), Options(times=HASTY), patience=40)
    tally = await swarm.run(identities, len(identities))
    phases = await floor.phases(operator)
    await operator.close()
    assert (tally.refused, tally.confirmed, phases) == ({}, 40, {"CONFIRMED": 40})
    program.stop()
    assert program.ready["chaos"] == 7
    told = [json.loads(line) for line in program.errors]
    (warning,) = [line for line in told if line["event"].startswith("chaos is on")]
    assert (warning["level"], warning["seed"], warning["drop"]) == ("warning", 7, 0.2)
    assert {line["copies"] for line in told if line["event"] == "chaos"} == {0, 1, 2}
    assert any(line.get("reason") == "wait" for line in told)
