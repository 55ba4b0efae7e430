"""Rules 1 to 5 under SIGKILL: whatever a device was told is still true after the restart."""

import asyncio
import random
from typing import Any

import pytest

from tests.e2e import independent as wire
from tests.e2e.independent import IndependentDevice
from tests.e2e.packets import EndedError, RefusedError
from tests.e2e.program import Program, Request, Site, StartProgram

DEVICES, KILLS, AT_ONCE = 30, 5, 8
LOST = (EndedError, OSError, TimeoutError, EOFError)


class Outage:
    """Kills the program when enough has happened, and lets everybody know when it is there again."""

    def __init__(self, program: Program, moments: list[int], chance: random.Random) -> None:
        self.program = program
        self.up = asyncio.Event()
        self.up.set()
        self._moments = moments
        self._chance = chance
        self._happened = 0
        self._task: asyncio.Task[None] | None = None

    def happened(self) -> None:
        """Count one message; some of them are the last one."""
        self._happened += 1
        if self._moments and self._happened >= self._moments[0] and self.up.is_set():
            self._moments.pop(0)
            self.up.clear()
            self._task = asyncio.create_task(self._restart())

    async def _restart(self) -> None:
        # Not at the reply itself but anywhere in the work that comes after it.
        await asyncio.sleep(self._chance.uniform(0, 0.03))
        self.program.kill()
        await asyncio.to_thread(self.program.start)
        self.up.set()

    async def over(self) -> None:
        """Wait for a restart that is under way."""
        if self._task:
            await self._task


async def hand_over(device: IndependentDevice, outage: Outage, offered: list[dict[str, Any]]) -> dict[str, Any]:
    """What section 10 has a device do, without its patience; returns the credential it keeps."""
    kept: dict[str, Any] | None = None
    generation = 0
    while True:
        await outage.up.wait()
        try:
            if kept is None:
                reply = await device.claim()
                outage.happened()
                if reply.reason == "superseded":
                    device.request_id += "x"
                elif reply.reason == "offer":
                    kept, generation = reply.credentials, reply.generation
                    offered.append(kept)
                else:
                    assert reply.reason in {"wait", "unavailable"}, reply.body
                    await asyncio.sleep(0.1)
                continue
            # Rule 2: never an offer before it works, restart or not.
            async with await device.login(outage.program.device_broker, kept) as work:
                await work.ping()
            outage.happened()
            reply = await device.ack("stored", generation)
            outage.happened()
            if reply.reason == "confirmed":
                return kept
            assert reply.reason == "unavailable", reply.body
        except LOST:
            await device.close()
            await asyncio.sleep(0.02)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1])
async def test_thirty_hand_overs_survive_five_kills(start_program: StartProgram, seed: int) -> None:
    chance = random.Random(seed)
    program = start_program()
    async with await Site.at(program) as site:
        units = [
            await site.unit(
                mode=chance.choice(["plain", "proof", "ctr", "hpke"]),
                version=chance.choice([4, 5]),
                wire=chance.choice(["json", "cbor"]),
                confirm=chance.choice(["ack", "either", "ack"]),
            )
            for _ in range(DEVICES)
        ]
        outage = Outage(program, sorted(chance.sample(range(2, DEVICES * 3 - 6), KILLS)), chance)
        offered: list[list[dict[str, Any]]] = [[] for _ in units]
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> dict[str, Any]:
            async with gate:
                return await hand_over(units[number][0], outage, offered[number])

        kept = await asyncio.gather(*(one(number) for number in range(DEVICES)))
        await outage.over()

    async with await Site.at(program) as after:
        for number, (device, request) in enumerate(units):
            now = Request(after.operator, request.id, request.key, request.client_id, request.created)
            assert (await now.read())["phase"] == "CONFIRMED"
            assert offered[number][-1] == kept[number]
            assert (await device.claim("after-all")).reason == "already-provisioned"
            live = [
                credentials
                for credentials in _different(offered[number])
                if await _admitted(program, device, credentials)
            ]
            assert live == [kept[number]], "the credential that was confirmed works, and no other"
            await device.close()


def _different(offered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({credentials["username"]: credentials for credentials in offered}.values())


async def _admitted(program: Program, device: IndependentDevice, credentials: dict[str, Any]) -> bool:
    try:
        session = await device.login(program.device_broker, credentials)
    except RefusedError:
        return False
    await session.disconnect()
    return True


async def test_what_the_operator_did_is_there_after_a_kill(start_program: StartProgram) -> None:
    program = start_program()
    async with await Site.at(program) as site:
        untouched = await site.request()
        disabled = await site.request()
        await disabled.tell("disable")
        offered, offered_request = await site.unit(confirm="ack")
        offer = await offered.provision()
        failed, failed_request = await site.unit()
        await failed.provision("r-1")
        await failed.ack("failed", 1)
        _, confirmed_request, credentials = await site.confirmed()
        revoked, revoked_request, gone = await site.confirmed()
        await revoked_request.tell("revoke")
        accounts = dict(program.accounts)
        program.kill()
    program.start()
    assert program.accounts == accounts
    async with await Site.at(program) as site:
        wanted = {
            untouched.id: {"PENDING"},
            disabled.id: {"PENDING"},
            offered_request.id: {"OFFERED"},
            failed_request.id: {"PENDING", "RETIRING"},
            confirmed_request.id: {"CONFIRMED"},
            revoked_request.id: {"STOPPED", "RETIRING"},
        }
        for number, phases in wanted.items():
            assert (await site.operator.ask("GET", f"/v2/provisionRequests/{number}"))["phase"] in phases
        assert (await site.operator.ask("GET", f"/v2/provisionRequests/{disabled.id}"))["status"] == "DISABLED"
        device = site.device(offered.client_id, offered.activation_key)
        assert (await device.claim()).credentials == offer.credentials
        assert await _admitted(program, device, offer.credentials)
        assert await _admitted(program, device, credentials)
        assert (await device.ack("stored", 1)).reason == "confirmed"
        again = site.device(failed.client_id, failed.activation_key)
        again.request_id = "r-1"
        assert (await again.claim()).reason in {"superseded", "wait"}
        assert (await again.provision("r-2")).generation == 2
        await Request(site.operator, revoked_request.id, "", revoked.client_id, {}).until("STOPPED")
        assert not await _admitted(program, revoked, gone)


async def test_a_stop_lets_connected_devices_go_and_a_start_goes_on_where_it_was(start_program: StartProgram) -> None:
    program = start_program()
    async with await Site.at(program) as site:
        device, request, credentials = await site.confirmed()
        waiting, _ = await site.unit(version=5)
        async with await device.login(program.device_broker, credentials) as work, await waiting.open() as session:
            await asyncio.to_thread(program.stop)
            await work.ended()
            assert await session.ended() in {None, 0x8B}
    program.start()
    async with await Site.at(program) as site:
        assert await _admitted(program, device, credentials)
        assert (await site.operator.ask("GET", request.path))["phase"] == "CONFIRMED"
        assert (await waiting.claim()).generation == 1
        await waiting.close()


async def test_a_kill_between_claim_and_reply_mints_once(start_program: StartProgram) -> None:
    program = start_program()
    async with await Site.at(program) as site:
        device, request = await site.unit()
        session = await device.open()
        await session.publish(device.topic("request"), wire.encode(device.claim_body(), "json"), 1)
        program.kill()
        await session.close()
    program.start()
    async with await Site.at(program) as site:
        offer = await device.provision()
        assert (await device.provision("another")).credentials == offer.credentials
        now = await site.operator.ask("GET", request.path)
        assert (now["generation"], now["provisionJob"]["retryCount"]) == (offer.generation, offer.generation)
        assert (await device.ack("stored", offer.generation)).reason == "confirmed"
        await device.close()
