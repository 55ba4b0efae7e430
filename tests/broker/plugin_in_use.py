"""The pytest plug-in, from plain tests and from tests under an event loop; `test_testing.py` runs these.

They have a process of their own, as other projects do: the plug-in sets up structlog for a whole session.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.cli.output import Failed
from broker.fleet.link import Link, Login
from broker.fleet.replies import parse_url
from broker.fleet.swarm import Tally
from broker.testing import CERTIFICATE, Device, Faults, Provisioner, ProvisionRequest

Make = Callable[..., ProvisionRequest]


@pytest.mark.parametrize("mode", ["plain", "proof", "ctr", "hpke"])
@pytest.mark.parametrize("mqtt", ["3.1.1", "5"])
def test_a_device_in_every_mode(provision_request: Make, device: Callable[..., Device], mode: str, mqtt: str) -> None:
    request = provision_request()
    outcome = device(request, mode=mode, mqtt=mqtt).claim()
    assert outcome.is_confirmed
    assert request.phase == "CONFIRMED"


async def test_from_a_test_with_a_loop_of_its_own(provision_request: Make, device: Callable[..., Device]) -> None:
    outcome = await asyncio.to_thread(device(provision_request("dev-async")).claim)
    assert outcome.credential is not None
    credential = outcome.credential
    login = Login(credential.client_id, credential.username, credential.password)
    await (await Link.open(parse_url(credential.url), login)).close()


def test_certificates(provision_request: Make, device: Callable[..., Device], fleet: Callable[..., Tally]) -> None:
    outcome = device(provision_request(**CERTIFICATE), csr=True).claim()
    assert outcome.is_confirmed
    assert outcome.credential is not None
    assert outcome.credential.certificate is not None
    assert fleet(4, kinds=("x509", "password")).confirmed == 4


def test_fields_of_a_request(provision_request: Make) -> None:
    request = provision_request("dev-fields", coupling="LOOSE", serialNumber="SN-1")
    found = request.fields()
    assert (found["clientId"], found["provisionedCredentialsTight"], found["serialNumber"]) == (
        "dev-fields",
        "LOOSE",
        "SN-1",
    )
    assert (request.phase, request.client_id) == ("PENDING", "dev-fields")


def test_a_verb_of_a_request(provision_request: Make, device: Callable[..., Device]) -> None:
    request = provision_request()
    request.do("disable")
    assert device(request).claim().reason == "disabled"


def test_what_the_service_refuses_is_raised_in_its_words(provisioner: Provisioner, provision_request: Make) -> None:
    with pytest.raises(Failed, match="account"):
        provision_request(account="nobody")
    assert provisioner.get("/v2/accounts/default")["name"] == "default"


def test_a_wrong_key(provision_request: Make, device: Callable[..., Device]) -> None:
    request = provision_request()
    wrong = ProvisionRequest(request.client_id, "x" * 32, request.id, request.provisioner)
    assert device(wrong).claim().reason == "denied"


def test_a_fleet_and_a_bad_network(fleet: Callable[..., Tally], faults: Callable[..., Faults]) -> None:
    network = faults(seed=3, resets=0.2, jitter=0.01)
    tally = fleet(12, through=network, modes=("proof", "hpke"), times={"reply": 0.2, "first_pause": 0.1})
    assert (tally.confirmed, tally.refused) == (12, {})
    assert sum(network.toll.values()) >= 12


def test_a_scenario_from_a_file(fleet: Callable[..., Tally], tmp_path: Path) -> None:
    file = tmp_path / "cuts.toml"
    file.write_text("[devices]\ncount = 3\n[trouble]\npower_cuts = 1.0\noff = 0.0\n")
    tally = fleet(scenario=str(file), times={"reply": 1, "first_pause": 0.1})
    assert (tally.confirmed, tally.steps["power-cut"]) == (3, 27)
