"""Beside a Mosquitto that somebody else runs: devices get in without its restart, and out while they are connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.broker.devicebrokers.mosquitto import DYNSEC_ADMIN, Mosquitto, dynsec_lines, password_line
from tests.e2e.packets import EndedError, RefusedError, Session
from tests.e2e.program import Program, Site

OPERATORS_OWN = ("ops", "their-own-password")


async def beside_files(folder: Path) -> tuple[Mosquitto, Mapping[str, str]]:
    """Mosquitto with its files, and the settings of a program that puts names into them."""
    passwords, rights = folder / "passwords", folder / "rights"
    passwords.write_text(password_line(*OPERATORS_OWN))
    rights.write_text("")
    real = Mosquitto(folder, f"password_file {passwords}", f"acl_file {rights}")
    return real, {
        "KIND": "mosquitto-files",
        "PASSWORD_FILE": str(passwords),
        "ACL_FILE": str(rights),
        "PID_FILE": str(real.pid_file),
    }


async def beside_dynsec(folder: Path) -> tuple[Mosquitto, Mapping[str, str]]:
    """Mosquitto with its dynamic security plug-in, and the settings of a program that commands it."""
    login = folder / "login"
    login.touch(mode=0o600)
    login.write_text("\n".join(DYNSEC_ADMIN))
    real = Mosquitto(folder, *dynsec_lines(folder))
    return real, {
        "KIND": "mosquitto-dynsec",
        "CONTROL_URL": f"mqtt://127.0.0.1:{real.port}",
        "LOGIN_FILE": str(login),
    }


BESIDE = {"mosquitto-dynsec": beside_dynsec, "mosquitto-files": beside_files}


class Beside:
    """A running Mosquitto and a running program that puts credentials into it."""

    def __init__(self, real: Mosquitto, site: Site, kind: str) -> None:
        self.real = real
        self.site = site
        self.coupling = "STRICT" if kind == "mosquitto-dynsec" else "LOOSE"
        self.operators_own = DYNSEC_ADMIN if kind == "mosquitto-dynsec" else OPERATORS_OWN
        self.address = ("127.0.0.1", real.port)


@pytest.fixture(params=sorted(BESIDE))
async def beside(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Beside]:
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    real, settings = await BESIDE[request.param](folder)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(real.kill)
        await real.start()
        given = {f"PROVISIONER_DEVICE_BROKER__{key}": value for key, value in settings.items()}
        given["PROVISIONER_DEVICE_BROKER__URL"] = f"mqtt://127.0.0.1:{real.port}"
        program = await asyncio.to_thread(Program(tmp_path / "data", given).start)
        stack.push_async_callback(asyncio.to_thread, program.stop)
        site = await stack.enter_async_context(await Site.at(program))
        yield Beside(real, site, request.param)


async def test_a_device_gets_in_without_a_restart_and_out_while_it_is_connected(beside: Beside) -> None:
    pid = beside.real.pid_file.read_text()
    device, request = await beside.site.unit(deviceCredentialsTight=beside.coupling)
    offer = await device.provision()
    assert offer.credentials["username"] == f"p.north.{device.client_id}.g1"
    async with await device.login(beside.address, offer.credentials) as session:
        assert await session.subscribe((f"north/{device.client_id}/#", 1)) == [1]
        await session.publish(f"north/{device.client_id}/echo", b"am I here?", 1)
        assert (await session.message()).payload == b"am I here?"
        assert (await device.ack("stored", 1)).reason == "confirmed"
        await request.tell("revoke")
        with pytest.raises(EndedError):
            await session.message()
    with pytest.raises(RefusedError):
        await device.login(beside.address, offer.credentials)
    await request.until("STOPPED")
    assert beside.real.pid_file.read_text() == pid
    async with await Session.login(beside.address, "ops", *beside.operators_own):
        pass


async def test_a_rotated_credential_ends_the_session_of_the_former(beside: Beside) -> None:
    device, request, former = await beside.site.confirmed(deviceCredentialsTight=beside.coupling)
    async with await device.login(beside.address, former) as session:
        await request.tell("rotate")
        offer = await device.provision("r-next")
        assert offer.generation == 2
        assert (await device.ack("stored", 2)).reason == "confirmed"
        with pytest.raises(EndedError):
            await session.message()
    with pytest.raises(RefusedError):
        await device.login(beside.address, former)
    async with await device.login(beside.address, offer.credentials):
        pass


async def test_a_mosquitto_that_is_killed_meanwhile_is_waited_for(beside: Beside) -> None:
    device, request = await beside.site.unit(deviceCredentialsTight=beside.coupling)
    await beside.real.kill()
    told = await device.claim()
    assert told.reason == "wait"
    await beside.real.start()
    offer = await device.provision()
    async with await device.login(beside.address, offer.credentials):
        pass
    assert await request.phase() == "OFFERED"


async def test_the_operator_is_told_what_this_broker_cannot_hold(beside: Beside) -> None:
    if beside.coupling == "STRICT":
        device, _, credentials = await beside.site.confirmed()
        with pytest.raises(RefusedError):
            await Session.login(
                beside.address, device.client_id + "x", credentials["username"], credentials["password"]
            )
        return
    form = await beside.site.form("dev-1")
    refusal = await beside.site.operator.ask("POST", "/v2/provisionRequests", (400, 422), json=form)
    assert refusal["code"] == "tight-not-held"
    assert "LOOSE" in refusal["detail"]
