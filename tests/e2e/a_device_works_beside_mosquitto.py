"""Beside a Mosquitto that somebody else runs: devices get in without its restart, and out while they are connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.beside import BESIDE, Beside
from tests.e2e.beside import beside as running_beside
from tests.e2e.packets import EndedError, RefusedError, Session


@pytest.fixture(params=sorted(BESIDE))
async def beside(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Beside]:
    async with running_beside(request.param, tmp_path) as made:
        yield made


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
    await asyncio.to_thread(beside.real.kill)
    told = await device.claim()
    assert told.reason == "wait"
    await asyncio.to_thread(beside.real.start)
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
