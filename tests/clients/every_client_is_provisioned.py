"""Each client of `examples/clients/` gets its credential from the real program, in every mode it claims to have."""

from pathlib import Path

import pytest

from tests.clients.examples import IN_EVERY_MODE, Client, Device, factory
from tests.e2e.program import Site

pytestmark = pytest.mark.timeout(240)  # compilers, interpreters, and pauses between messages


@pytest.mark.parametrize(("client", "mode"), IN_EVERY_MODE, ids=lambda part: getattr(part, "name", part))
async def test_a_client_is_provisioned(site: Site, tmp_path: Path, client: Client, mode: str) -> None:
    request = await site.request(forget=True)
    device = Device(client, tmp_path / "unit", factory(site.program.endpoint, request.client_id, request.key, mode))
    assert await device.run() == 0, device.steps
    assert await request.phase() == "CONFIRMED"
    assert device.credential
    assert device.credential["credentials"]["username"].endswith(f"{request.client_id}.g1")
    site.program.secrets.add(device.credential["credentials"]["password"])
    # Only a proved `forget` counts.
    assert bool(device.factory.get("password")) == bool(device.factory.get("activationKey")) == (mode == "plain")
    # A confirmed device works under its new identity and asks nobody for another one.
    before = (await request.read())["optlock"]
    assert await device.run() == 0, device.steps
    assert (await request.read())["optlock"] == before
