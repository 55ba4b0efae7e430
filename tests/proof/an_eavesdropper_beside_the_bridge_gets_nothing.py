"""H-5 through the bridge: others with the provisioning login at every point of a hand-over get no usable credential.

On each broker that is installed here: Mosquitto (MQTT 5), RabbitMQ and aedes (3.1.1). Two strangers know the victim's
client id and have recorded what it sent. One has a client id of its own, asks for twelve topic filters, forges and
replays in the victim's name. It also takes client ids that open a neighbour's topics where they are pasted into a
pattern: RabbitMQ does that before 4.3, so there the replies are read, and must be of no use. The other takes the
victim's client id, and with it the victim's session: that nobody can prevent at another's broker, so what it then reads
must be of no use either. The victim comes back each time, and is confirmed in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.beside.leaks import filters
from broker.beside.setup import Kind, Login, plan
from tests.aedes import aedes
from tests.broker.devicebrokers.rabbit import Rabbit
from tests.e2e.independent import IndependentDevice, Mode, Reply, b64, encode, fresh_nonce
from tests.e2e.packets import Address, EndedError, Message, RefusedError, Session
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, Program, Site
from tests.e2e.secret_hunt import spellings
from tests.mosquitto import BRIDGE, Mosquitto, bridge_settings, shipped
from tests.proof.scale import record, rounds

MODES: tuple[Mode, ...] = ("proof", "hpke", "ctr")
FLOWS = rounds(1, 6, 60)
POINTS = 20
PATIENCE = 5.0


class Strangers:
    """Both of them; `heard`, `overheard` (by a hostile client id) and `stolen` is all that they got."""

    def __init__(self, address: Address, victim: IndependentDevice) -> None:
        self._address = address
        self._victim = victim
        self._listening: list[Session] = []
        self._hostile: list[Session] = []
        self.recorded: list[tuple[str, dict[str, Any]]] = []
        self.heard: list[Message] = []
        self.overheard: list[Message] = []
        self.stolen: list[Message] = []
        self.asked = self.tricks = 0

    async def listen(self) -> None:
        """Twelve filters, a connection each: some brokers end one for the attempt."""
        for topic_filter in filters("prov/v1", FLOOR_USER, self._victim.client_id):
            self.asked += 1
            session = await self._login(f"stranger-{self.asked}")
            self._listening.append(session)
            with contextlib.suppress(EndedError, AssertionError):
                await session.suback((topic_filter, 1))
        for hostile in (".*", "+", f"x|{self._victim.client_id}"):
            with contextlib.suppress(EndedError, RefusedError):
                session = await self._login(hostile)
                self._hostile.append(session)
                await session.suback((self._victim.topic("reply"), 1))

    async def forge(self) -> None:
        """Speak in the victim's name from another client id: replies, claims and acks, retained ones and a Will."""
        forged = json.dumps({"requestId": "r-1", "code": 410, "reason": "abandoned"}).encode()
        ack = {"requestId": "r-1", "generation": 1, "result": "failed", "activationKey": "A" * 32}
        for kind, payload, retain in (
            ("reply", forged, False),
            ("reply", forged, True),
            ("request", self._last("request"), False),
            ("ack", encode(ack, "json"), False),
        ):
            self.tricks += 1
            async with await self._login("stranger") as session:
                with contextlib.suppress(EndedError):
                    await session.publish(self._victim.topic(kind), payload, 1, retain=retain)
        self.tricks += 1
        with contextlib.suppress(EndedError, RefusedError):
            await (await self._login("stranger", will=(self._victim.topic("reply"), forged))).close()

    async def take_over(self) -> None:
        """Become the victim, and ask for what it asked for, as it was and bent to one's own ends."""
        async with await self._login(self._victim.client_id) as session:
            await session.subscribe((self._victim.topic("reply"), 1))
            for kind, body in self.recorded[-1:]:
                own = b64(bytes(31) + b"\x09")
                for bent in (body, body | {"nonce": fresh_nonce()}, body | {"sealTo": own}):
                    self.tricks += 1
                    await session.publish(self._victim.topic(kind), encode(bent, "json"), 1)
                    self.stolen.append(await session.message())

    async def leave(self) -> None:
        """End what listens, and keep what it heard."""
        for sessions, got in ((self._listening, self.heard), (self._hostile, self.overheard)):
            for session in sessions:
                with contextlib.suppress(EndedError):
                    await session.ping()
                got.extend(session.inbox)
                await session.close()
            sessions.clear()

    def _last(self, kind: str) -> bytes:
        said = [body for one, body in self.recorded if one == kind]
        return encode(said[-1], "json") if said else b"{}"

    async def _login(self, client_id: str, **more: Any) -> Session:
        return await Session.login(self._address, client_id, FLOOR_USER, FLOOR_PASSWORD, **more)


async def say(device: IndependentDevice, strangers: Strangers, kind: str, body: dict[str, Any]) -> Reply:
    """Send and get the reply to it; on a new connection where the former was taken."""
    strangers.recorded.append((kind, body))
    return await device.exchange(kind, body)


@asynccontextmanager
async def running(name: str, folder: Path) -> AsyncIterator[tuple[Program, Address]]:
    """The program with its bridge at this broker, which has the rules we ship; and where devices find the broker."""
    program = Program(folder / "data")
    logins = [Login(*program.prepare()), Login(FLOOR_USER, FLOOR_PASSWORD)]
    async with contextlib.AsyncExitStack() as stack:
        if name == "aedes":
            port, kind = stack.enter_context(aedes(*logins)), "other"
        elif name == "rabbitmq":
            rabbit = Rabbit(folder, asks=False)
            stack.push_async_callback(rabbit.end)
            await rabbit.start()
            for login in logins:
                await rabbit.define(plan(Kind.RABBITMQ, "prov/v1", BRIDGE, login, os.urandom).files[0].text)
            port, kind = rabbit.port, name
            # Its pasted client ids (see above) are a leak, on which the bridge serves only when told.
            program.settings["PROVISIONER_BRIDGE__SERVE_ON_LEAKS"] = "true"
        else:
            mosquitto = Mosquitto(folder, shipped(folder, logins, BRIDGE)).start()
            stack.callback(mosquitto.stop)
            port, kind = mosquitto.port, name
        program.settings |= bridge_settings(port, folder) | {"PROVISIONER_BRIDGE__KIND": kind}
        await asyncio.to_thread(program.start)
        stack.push_async_callback(asyncio.to_thread, program.stop)
        yield program, ("127.0.0.1", port)


@pytest.mark.timeout(rounds(180, 1200, 0))
@pytest.mark.parametrize("broker", ["mosquitto", "rabbitmq", "aedes"])
async def test_others_with_the_account_read_no_credential_there(tmp_path: Path, broker: str) -> None:
    asked = tricks = heard = overheard = stolen = 0
    async with running(broker, tmp_path) as (program, address), await Site.at(program) as site:
        site.through = address
        for number in range(FLOWS):
            device, request = await site.unit(mode=MODES[number % len(MODES)], confirm="ack")
            strangers = Strangers(address, device)
            for point in range(POINTS):
                await strangers.listen()
                await strangers.forge()
                await _live(device, strangers, point)
                await strangers.leave()
                if point % 3 == 2:
                    await strangers.take_over()
                    await device.close()
            assert await request.phase() == "CONFIRMED"
            assert not strangers.heard, "another client id hears nothing at all"
            assert broker == "rabbitmq" or not strangers.overheard
            [password] = device.passwords
            secrets = spellings(password) | spellings(device.activation_key)
            for message in strangers.stolen + strangers.overheard:
                assert b"credentials" not in message.payload
                assert not [one for one in secrets if one in message.payload]
            asked, tricks = asked + strangers.asked, tricks + strangers.tricks
            heard, stolen = heard + len(strangers.heard), stolen + len(strangers.stolen)
            overheard += len(strangers.overheard)
    record(
        f"eavesdropping-{broker}", "H-5", points=FLOWS * POINTS, filters=asked, tricks=tricks, heard=heard,
        sealed_replies_overheard=overheard, sealed_replies_taken_over=stolen, credentials=0,
    )  # fmt: skip


async def _live(device: IndependentDevice, strangers: Strangers, point: int) -> None:
    """What the victim does at this point: claims, progress, more claims, the last acks, and once more."""
    if point < 6:
        reply = await say(device, strangers, "request", device.claim_body())
        assert reply.reason in ("offer", "wait")
    elif point < 10:
        status = ("APPS_INSTALLING", "APPS_INSTALLED", "CONF_UPDATING", "CONF_UPDATED")[point - 6]
        assert (await say(device, strangers, "ack", device.ack_body("progress", 1, status))).reason == "noted"
    elif point < 15:
        assert (await say(device, strangers, "request", device.claim_body())).reason == "offer"
    elif point < 18:
        assert (await say(device, strangers, "ack", device.ack_body("stored", 1))).reason == "confirmed"
    else:
        assert (await say(device, strangers, "request", device.claim_body())).reason == "already-provisioned"
