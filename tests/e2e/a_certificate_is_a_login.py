"""From a CSR to a TLS login without a password, then renewal and revocation: with programs that are not ours."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.program import Operator, Program, Request, StartProgram
from tests.e2e.shelldevice import ShellDevice

TLS = {
    "PROVISIONER_ENDPOINT__TLS_LISTEN": "127.0.0.1:0",
    "PROVISIONER_DEVICE_BROKER__TLS_LISTEN": "127.0.0.1:0",
    "PROVISIONER_HTTP__TLS_LISTEN": "127.0.0.1:0",
}


class Place:
    """A program with TLS listeners of its own authority, and an operator."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.folder = folder
        self.trusted = program.data / "ca" / "root.pem"

    async def request(self, operator: Operator, client_id: str, **fields: Any) -> tuple[Request, ShellDevice]:
        """A request for a certificate, and its device with a first key."""
        account = (await operator.ask("GET", "/v2/accounts/default"))["id"]
        form = {"accountId": account, "clientId": client_id, "provisionUserUsername": "factory"}
        more = {"credentialKind": "x509", "provisionSecureURL": True} | fields
        created = await operator.ask("POST", "/v2/provisionRequests", json=form | more)
        self.program.secrets.add(created["activationKey"])
        device = ShellDevice(self.folder, self.program, client_id, self.trusted)
        await asyncio.to_thread(device.make_key, 1)
        return Request(operator, created["id"], created["activationKey"], client_id, created), device


@pytest.fixture
def place(start_program: StartProgram, tmp_path: Path) -> Place:
    return Place(start_program(TLS), tmp_path)


@pytest.fixture
async def operator(place: Place) -> Any:
    somebody = Operator(place.program)
    yield somebody
    await somebody.close()


async def test_a_device_with_a_shell_gets_a_certificate_renews_it_and_loses_it(
    place: Place, operator: Operator
) -> None:
    request, device = await place.request(operator, "dev-1")
    offer = await asyncio.to_thread(device.claim, 1, request.key)
    assert (offer["code"], offer["credentials"]["type"]) == (200, "x509")
    assert "password" not in offer["credentials"]
    assert await asyncio.to_thread(device.works, 1)
    assert await request.phase() == "CONFIRMED"
    assert not await asyncio.to_thread(device.works, 1, "dev-2")

    # Renewal: with the certificate and nothing else, on a new key. The former works until the new one was proved.
    await asyncio.to_thread(device.make_key, 2)
    renewed = await asyncio.to_thread(device.claim, 2, None, 1)
    assert (renewed["reason"], renewed["generation"]) == ("offer", 2)
    assert await request.phase() == "RENEWING"
    assert await asyncio.to_thread(device.works, 1)
    assert await asyncio.to_thread(device.works, 2)
    await request.until("CONFIRMED")
    assert not await asyncio.to_thread(device.works, 1)
    assert await asyncio.to_thread(device.works, 2)

    # Revocation: who is connected is thrown out, and nobody comes in again.
    session = await asyncio.to_thread(device.listens, 2)
    await request.tell("revoke")
    await asyncio.to_thread(session.thrown_out)
    await request.until("STOPPED")
    assert not await asyncio.to_thread(device.works, 2)


async def test_a_loose_certificate_works_under_any_client_id_of_its_account(place: Place, operator: Operator) -> None:
    request, device = await place.request(operator, "dev-1", deviceCredentialsTight="LOOSE")
    await place.request(operator, "dev-9")
    assert (await asyncio.to_thread(device.claim, 1, request.key))["reason"] == "offer"
    assert await asyncio.to_thread(device.works, 1)
    assert await asyncio.to_thread(device.works, 1, "dev-7")


async def test_a_renewal_that_is_never_used_leaves_the_former(place: Place, operator: Operator) -> None:
    request, device = await place.request(operator, "dev-1", confirmTime=5)
    await asyncio.to_thread(device.claim, 1, request.key)
    assert await asyncio.to_thread(device.works, 1)
    await asyncio.to_thread(device.make_key, 2)
    assert (await asyncio.to_thread(device.claim, 2, None, 1))["reason"] == "offer"
    await request.until("CONFIRMED", patience=30)
    assert await asyncio.to_thread(device.works, 1)
    assert not await asyncio.to_thread(device.works, 2)


async def test_an_ack_over_the_new_certificate_confirms_a_renewal(place: Place, operator: Operator) -> None:
    request, device = await place.request(operator, "dev-1", confirm="ack")
    await asyncio.to_thread(device.claim, 1, request.key)
    assert (await asyncio.to_thread(device.ack, 1, 1, request.key))["reason"] == "confirmed"
    await asyncio.to_thread(device.make_key, 2)
    await asyncio.to_thread(device.claim, 2, None, 1)
    assert (await asyncio.to_thread(device.ack, 2, 2, None, 2))["reason"] == "confirmed"
    await request.until("CONFIRMED")
    assert not await asyncio.to_thread(device.works, 1)
    assert await asyncio.to_thread(device.works, 2)
