"""H-5: somebody else with the provisioning login, at every point of a hand-over: no usable credential, nothing undone.

1. The stranger has all that a leaked provision account gives, knows the victim's client id, and has recorded what the
   victim sent. It sits beside it under the same client id, on MQTT 3.1.1 and 5, at 20 points and more of one flow.
2. At each point it asks for 12 topic filters, replays and bends the recorded messages, forges acks, publishes to the
   victim's topics, retained ones too, leaves Wills, and tries the login at the device broker.
3. All that it hears is kept. In the end the victim's password is in none of it, and the victim is confirmed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.e2e.independent import IndependentDevice, Mode, b64, encode, fresh_nonce
from tests.e2e.packets import EndedError, RefusedError, Session
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, Program, Request, Site, fresh_source
from tests.e2e.secret_hunt import spellings
from tests.proof.scale import record, rounds

MODES: tuple[Mode, ...] = ("proof", "hpke", "ctr")
VERSIONS: tuple[Literal[4, 5], ...] = (4, 5)
FLOWS = rounds(1, 6, 60)
_LEAST_POINTS = 20


class Eavesdropper:
    """A second holder of the provision account."""

    def __init__(self, program: Program, victim: IndependentDevice) -> None:
        self._program = program
        self._victim = victim
        self._beside: list[Session] = []
        self.recorded: list[tuple[str, dict[str, Any]]] = []
        self.heard: list[bytes] = []
        self.points = self.filters = self.tricks = 0

    async def _login(self, version: int = 4, client_id: str | None = None, **more: Any) -> Session:
        return await Session.login(
            self._program.endpoint,
            client_id or self._victim.client_id,
            FLOOR_USER,
            FLOOR_PASSWORD,
            version=version,
            source=fresh_source(),
            **more,
        )

    async def attack(self) -> None:
        """Everything, once; then stay beside the victim until the next point."""
        self.points += 1
        await self.leave()
        await asyncio.gather(
            *(self._listen(version) for version in VERSIONS),
            *(self._send_to_the_victim(version) for version in VERSIONS),
            self._replay(),
            self._forge(),
            self._leave_a_will(),
            self._work_as_device(),
        )

    async def leave(self) -> None:
        """End what listens beside the victim, and keep what it heard."""
        for session in self._beside:
            with contextlib.suppress(EndedError, TimeoutError):  # ten seconds without a claim ended it
                await session.ping()
            self.heard += [message.payload for message in session.inbox]
            await session.close()
        self._beside.clear()

    async def _listen(self, version: int) -> None:
        """Twelve filters; what is not one's own is refused, and one's own brings nobody else's replies."""
        mine = f"prov/v1/{FLOOR_USER}/{self._victim.client_id}"
        session = await self._login(version)
        self._beside.append(session)
        filters = (
            "#", "+/#", "prov/#", "prov/v1/+/+/reply", f"prov/v1/{FLOOR_USER}/+/reply", f"prov/v1/{FLOOR_USER}/#",
            f"{mine}/+", f"{mine}/request", f"$share/g/{mine}/reply", "$SYS/#", "$share/g/#", f"{mine}/reply",
        )  # fmt: skip
        codes = await session.subscribe(*((one, 1) for one in filters))
        self.filters += len(filters)
        refused = 0x80 if version == 4 else 0x87
        assert codes == [refused] * (len(filters) - 1) + [1]

    async def _send_to_the_victim(self, version: int) -> None:
        """Publish to the victim's reply topic and, under another client id, to its others; retained as well."""
        mine = f"prov/v1/{FLOOR_USER}/{self._victim.client_id}"
        forged = json.dumps({"requestId": "r-1", "code": 410, "reason": "abandoned"}).encode()
        for client_id, topic, retain in (
            (None, f"{mine}/reply", False),
            (None, f"{mine}/reply", True),
            (None, f"{mine}/request", True),
            ("stranger", f"{mine}/request", False),
            ("stranger", f"{mine}/ack", False),
        ):
            self.tricks += 1
            async with await self._login(version, client_id) as session:
                await session.send(session.publish_packet(topic, forged, 0, retain=retain))
                await session.ended()
                self.heard += [message.payload for message in session.inbox]

    async def _replay(self) -> None:
        """What the victim sent, as it was and bent to one's own ends."""
        own = b64(bytes(31) + b"\x09")
        for kind, body in self.recorded[-2:]:
            bent = [body, body | {"nonce": fresh_nonce()}]
            if kind == "request":
                bent += [body | {"sealTo": own}, body | {"requestId": "r-stranger"}, body | {"accept": ["password"]}]
            else:
                bent += [body | {"result": "failed"}, body | {"generation": 2}]
            for one in bent:
                self.tricks += 1
                reason = await self._send(kind, one)
                allowed = {"denied", "slow-down", "bad-request"}
                if one is body:
                    allowed |= {"offer", "confirmed", "noted", "already-provisioned", "wait"}
                assert reason in allowed, (kind, one, reason)

    async def _forge(self) -> None:
        """Acks with no key's proof, and with a guessed key."""
        base = {"requestId": "r-1", "generation": 1}
        for result in ("stored", "failed"):
            for shown in ({"activationKey": "A" * 32}, {"nonce": fresh_nonce(), "proof": "A" * 43}):
                self.tricks += 1
                assert await self._send("ack", base | {"result": result} | shown) in {"denied", "slow-down"}

    async def _send(self, kind: str, body: dict[str, Any]) -> str:
        async with await self._login() as session:
            topic = f"prov/v1/{FLOOR_USER}/{self._victim.client_id}/{kind}"
            await session.publish(topic, encode(body, "json"), 0)
            payload = (await session.message()).payload
            self.heard.append(payload)
            return str(json.loads(payload)["reason"])

    async def _leave_a_will(self) -> None:
        for version in VERSIONS:
            self.tricks += 1
            with pytest.raises(RefusedError):
                await self._login(version, will=(self._victim.topic("reply"), b"forged"))

    async def _work_as_device(self) -> None:
        """The provisioning login, and what one may guess of the victim's, at the device broker."""
        for username in (FLOOR_USER, f"p.north.{self._victim.client_id}.g1"):
            self.tricks += 1
            with pytest.raises(RefusedError):
                await Session.login(
                    self._program.device_broker, self._victim.client_id, username, FLOOR_PASSWORD, source=fresh_source()
                )


async def flow(device: IndependentDevice, request: Request, spy: Eavesdropper, program: Program) -> AsyncIterator[str]:
    """The life of a device, step by step; what it says is recorded by the eavesdropper."""

    async def say(kind: str, body: dict[str, Any]) -> Any:
        spy.recorded.append((kind, body))
        session = await device.connect()
        await session.publish(device.topic(kind), encode(body, "json"), 1)
        return body

    async def hear(body: dict[str, Any]) -> Any:
        return device.read(await (await device.connect()).message(), body)

    yield "before"
    await device.connect()
    yield "subscribed"
    claim = await say("request", device.claim_body())
    yield "claimed"
    offer = await hear(claim)
    assert offer.reason == "offer"
    yield "offered"
    assert (await hear(await say("request", device.claim_body()))).credentials == offer.credentials
    yield "offered again"
    await device.close()
    yield "away"
    await device.connect()
    yield "back"
    for status in ("APPS_INSTALLING", "APPS_INSTALLED", "CONF_UPDATING", "CONF_UPDATED"):
        assert (await hear(await say("ack", device.ack_body("progress", 1, status)))).reason == "noted"
        yield status
    again = await say("request", device.claim_body())
    yield "claimed again"
    assert (await hear(again)).credentials == offer.credentials
    yield "offered once more"
    async with await device.login(program.device_broker, offer.credentials) as working:
        yield "at the device broker"
        await working.publish(f"north/{device.client_id}/a", b"x", 1)
        yield "working"
    yield "away from the device broker"
    assert await request.phase() == "OFFERED"
    stored = await say("ack", device.ack_body("stored", 1))
    yield "acknowledged"
    assert (await hear(stored)).reason == "confirmed"
    yield "confirmed"
    assert (await hear(await say("ack", device.ack_body("stored", 1)))).reason == "confirmed"
    yield "confirmed again"
    assert (await hear(await say("request", device.claim_body()))).reason == "already-provisioned"
    yield "told so"
    async with await device.login(program.device_broker, offer.credentials):
        yield "working for good"
    await device.close()
    yield "gone"


@pytest.mark.timeout(1200)
async def test_a_second_holder_of_the_account_reads_no_credential(tmp_path: Path) -> None:
    program = await asyncio.to_thread(Program(tmp_path / "data").start)
    points = filters = tricks = heard = 0
    try:
        async with await Site.at(program) as site:
            for number in range(FLOWS):
                mode, version = MODES[number % len(MODES)], VERSIONS[number // len(MODES) % 2]
                device, request = await site.unit(mode=mode, version=version, confirm="ack")
                spy = Eavesdropper(program, device)
                async for _step in flow(device, request, spy, program):
                    await spy.attack()
                await spy.leave()
                assert spy.points >= _LEAST_POINTS
                assert await request.phase() == "CONFIRMED"
                [password] = device.passwords
                secrets = spellings(password) | spellings(device.activation_key)
                for payload in spy.heard:
                    assert b"credentials" not in payload
                    assert not [one for one in secrets if one in payload]
                points, filters, tricks = points + spy.points, filters + spy.filters, tricks + spy.tricks
                heard += len(spy.heard)
    finally:
        await asyncio.to_thread(program.stop)
    record("eavesdropping", "H-5", points=points, filters=filters, tricks=tricks, messages_heard=heard, credentials=0)
