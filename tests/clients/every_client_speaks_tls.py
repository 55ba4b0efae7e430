"""Each client of `examples/clients/` in plain mode, over TLS all the way: the endpoint and the device broker.

MicroPython is left out: its WebAssembly port, under which the tests run it, has no `ssl`.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.clients.examples import EVERY, Client, Device, factory
from tests.e2e.program import Program, Site

pytestmark = pytest.mark.timeout(240)
SPEAKERS = [client for client in EVERY if client.name != "micropython"]
SETTINGS = {"PROVISIONER_ENDPOINT__TLS_LISTEN": "127.0.0.1:0", "PROVISIONER_DEVICE_BROKER__TLS_LISTEN": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def secure_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("tls") / "data", SETTINGS).start()
    yield program
    program.stop()


@pytest.fixture
async def secure_site(secure_program: Program) -> AsyncIterator[Site]:
    async with await Site.at(secure_program) as place:
        yield place


def claims_over_tls(site: Site, folder: Path, client: Client, client_id: str, key: str, trusted: Path) -> Device:
    host, _, port = site.program.ready["endpointTls"].rpartition(":")
    # On a chip the certificate is in flash, and not a file.
    ca = trusted.read_text() if client.name == "arduino" else str(trusted)
    return Device(client, folder, factory((host, int(port)), client_id, key, "plain", ca=ca))


@pytest.mark.parametrize("client", SPEAKERS, ids=lambda client: client.name)
async def test_a_client_trusts_the_certificate_it_was_given(secure_site: Site, tmp_path: Path, client: Client) -> None:
    request = await secure_site.request(provisionSecureURL=True)
    trusted = secure_site.program.data / "ca" / "root.pem"
    device = claims_over_tls(secure_site, tmp_path / "unit", client, request.client_id, request.key, trusted)
    assert await device.run() == 0, device.steps
    assert await request.phase() == "CONFIRMED"
    assert device.credential
    assert device.credential["broker"]["url"].startswith("mqtts://")
    secure_site.program.secrets.add(device.credential["credentials"]["password"])


@pytest.mark.parametrize("client", SPEAKERS, ids=lambda client: client.name)
async def test_a_client_shows_its_key_to_no_server_it_cannot_check(
    secure_site: Site, tmp_path: Path, client: Client
) -> None:
    request = await secure_site.request(provisionSecureURL=True)
    another = secure_site.program.data / "ca" / "devices-1.pem"  # certifies devices, and no server
    device = claims_over_tls(secure_site, tmp_path / "unit", client, request.client_id, request.key, another)
    await device.start()
    await device.says("pause")
    await device.cut()
    assert not any(step.startswith("answer") for step in device.steps)
    assert await request.phase() == "PENDING"
