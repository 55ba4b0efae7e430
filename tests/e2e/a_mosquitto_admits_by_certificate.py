"""A real Mosquitto with `use_identity_as_username`, `use_username_as_clientid`, `pattern` rights and our CRL."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.e2e.a_certificate_is_a_login import Place
from tests.e2e.packets import Address
from tests.e2e.program import Operator, StartProgram
from tests.e2e.shelldevice import ShellDevice, ran
from tests.mosquitto import Mosquitto, free_port, password_line

ROTATE = (sys.executable, "-m", "broker", "ca", "rotate", "--data-dir")
CONTROL = ("provisioner", "a-password-for-control")


def issuer_of(device: ShellDevice, number: int) -> str:
    return device.path(number, "crt").read_text().split("-----BEGIN")[2]


class Plant:
    """A program whose devices work at a Mosquitto."""

    def __init__(self, place: Place, operator: Operator, address: Address, pid_file: Path) -> None:
        self.place, self.operator, self.address, self.pid_file = place, operator, address, pid_file

    async def device(self, client_id: str, number: int = 1) -> ShellDevice:
        """A device with its first certificate, confirmed."""
        request, device = await self.place.request(self.operator, client_id)
        device.request = request
        assert (await asyncio.to_thread(device.claim, number, request.key))["reason"] == "offer"
        assert (await asyncio.to_thread(device.ack, number, 1, None, number))["reason"] == "confirmed"
        return device

    async def rotate(self) -> None:
        """Give devices their next issuer."""
        home = f"PYTHONPATH={Path(__file__).parents[2]}"
        said = await asyncio.to_thread(ran, "env", home, *ROTATE, self.place.program.data)
        assert "signs for devices" in said

    async def first_of_another_issuer(self, than: ShellDevice) -> ShellDevice:
        """Let devices come until another issuer signs. Whoever does, the first login works."""
        async with asyncio.timeout(30):
            for number in count(2):
                device = await self.device(f"{than.client_id}-{number}")
                assert await self.works(device)
                if issuer_of(device, 1) != issuer_of(than, 1):
                    break
        return device

    async def retires(self, device: ShellDevice) -> None:
        """Wait until a generation of that device is out of Mosquitto."""
        async with asyncio.timeout(30):
            while True:
                told = await self.operator.ask("GET", f"{device.request.path}/log")
                if any(line["action"] == "retired" for line in told["entry"]):
                    return

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let Mosquitto do nothing within the block."""
        pid = int(self.pid_file.read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    async def works(self, device: ShellDevice, number: int = 1, client_id: str | None = None) -> bool:
        return await asyncio.to_thread(device.works, number, client_id, self.address)


@pytest.fixture
async def plant(start_program: StartProgram, tmp_path: Path) -> AsyncIterator[Plant]:
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    tls, data = free_port(), tmp_path / "data-0"
    (folder / "passwords").write_text(password_line(*CONTROL))
    (folder / "passwords").chmod(0o600)
    (folder / "acl").write_text("pattern readwrite default/%u/#\n")
    login = folder / "control-login"
    login.touch(mode=0o600)
    login.write_text("\n".join(CONTROL))
    mosquitto = Mosquitto(
        folder, f"password_file {folder / 'passwords'}",
        f"listener {tls} 127.0.0.1", f"cafile {data / 'ca' / 'root.pem'}",
        f"certfile {data / 'server.pem'}", f"keyfile {data / 'server.pem'}",
        "require_certificate true", "use_identity_as_username true", "use_username_as_clientid true",
        f"crlfile {data / 'ca' / 'crl.pem'}", f"acl_file {folder / 'acl'}",
        top="per_listener_settings true",
    )  # fmt: skip
    settings = {
        "KIND": "mosquitto-certificates", "SECURE_URL": f"mqtts://127.0.0.1:{tls}",
        "PID_FILE": mosquitto.pid_file, "CONTROL_URL": f"mqtt://127.0.0.1:{mosquitto.port}", "LOGIN_FILE": login,
    }  # fmt: skip
    variables = {f"PROVISIONER_DEVICE_BROKER__{name}": str(value) for name, value in settings.items()}
    place = Place(start_program(variables | {"PROVISIONER_ENDPOINT__TLS_LISTEN": "127.0.0.1:0"}), tmp_path)
    place.program.secrets.add(CONTROL[1])
    operator = Operator(place.program)
    await asyncio.to_thread(mosquitto.start)
    yield Plant(place, operator, ("127.0.0.1", tls), mosquitto.pid_file)
    await operator.close()
    await asyncio.to_thread(mosquitto.stop)


async def test_nobody_acts_under_anothers_name_and_the_revoked_are_out(plant: Plant) -> None:
    first, second = await plant.device("dev-1"), await plant.device("dev-2")
    session = await asyncio.to_thread(first.listens, 1, plant.address)
    # The second says that it is the first. Mosquitto takes it for who its certificate says it is.
    assert await plant.works(second, 1, "dev-1")
    assert await plant.works(second)
    bystander = await asyncio.to_thread(second.listens, 1, plant.address)
    assert session.is_there()
    assert session.heard == []  # neither was it thrown out, nor did the other one's message to its topics arrive
    await first.request.tell("revoke")
    await asyncio.to_thread(session.thrown_out)
    await first.request.until("STOPPED")
    assert not await plant.works(first)
    assert bystander.is_there()
    await asyncio.to_thread(bystander.leave)


async def test_a_new_issuer_signs_nothing_before_mosquitto_has_its_list(plant: Plant) -> None:
    device = await plant.device("dev-1")
    with plant.standing_still():
        await plant.rotate()
        async with asyncio.timeout(30):
            while not any("the former issuer goes on" in line for line in plant.place.program.errors):  # noqa: ASYNC110  # a thread reads them
                await asyncio.sleep(0.05)
        other = await plant.device("dev-2")
        assert issuer_of(other, 1) == issuer_of(device, 1)
    await plant.first_of_another_issuer(device)


async def test_renewal_and_rotation_of_the_issuer(plant: Plant) -> None:
    device = await plant.device("dev-1")
    assert await plant.works(device)
    await plant.rotate()
    other = await plant.first_of_another_issuer(device)
    await asyncio.to_thread(device.make_key, 2)
    assert (await asyncio.to_thread(device.claim, 2, None, 1))["reason"] == "offer"
    assert issuer_of(device, 2) == issuer_of(other, 1)
    assert await plant.works(device, 1)
    assert await plant.works(device, 2)
    session = await asyncio.to_thread(device.listens, 2, plant.address)
    assert (await asyncio.to_thread(device.ack, 2, 2, None, 2))["reason"] == "confirmed"
    await device.request.until("CONFIRMED")
    await plant.retires(device)
    # The former is refused from now on; the session of the new one, under the same client id, is left alone.
    assert not await plant.works(device, 1)
    assert session.is_there()
    await asyncio.to_thread(session.leave)
    assert await plant.works(device, 2)


async def test_neither_passwords_nor_loose_ones_are_promised_there(plant: Plant) -> None:
    account = (await plant.operator.ask("GET", "/v2/accounts/default"))["id"]
    form = {"accountId": account, "clientId": "dev-1", "provisionUserUsername": "factory", "provisionSecureURL": True}
    problem = await plant.operator.ask("POST", "/v2/provisionRequests", (400,), json=form)
    assert (problem["code"], problem["field"]) == ("certificates-only", "credentialKind")
    loose = form | {"credentialKind": "x509", "deviceCredentialsTight": "LOOSE"}
    problem = await plant.operator.ask("POST", "/v2/provisionRequests", (400,), json=loose)
    assert (problem["code"], problem["field"]) == ("loose-not-held", "deviceCredentialsTight")
