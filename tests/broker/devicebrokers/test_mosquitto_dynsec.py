"""Mosquitto's dynamic security plug-in, where the contract of all device brokers ends: pitfall 5, and 2.1's ways."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from broker.devicebrokers.dynsec_control import DynsecControl
from broker.devicebrokers.mosquitto_dynsec import MosquittoDynsec
from broker.fleet.replies import Address
from provisioner.errors import Unavailable
from provisioner.model import Coupling
from provisioner.ports import Install, Revoke
from tests.broker.devicebrokers.worlds import FOREIGN, PATIENCE, World, is_closed, is_open, mosquitto_dynsec, to_install
from tests.mosquitto import DYNSEC_ADMIN, Mosquitto, password_line

CONTROL = "$CONTROL/dynamic-security/v1"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with mosquitto_dynsec(tmp_path) as made:
        yield made


def at(port: int, login: tuple[str, str] = DYNSEC_ADMIN) -> MosquittoDynsec:
    """One more installer at a broker."""
    return MosquittoDynsec("plant", DynsecControl(Address("127.0.0.1", port), login, None), plain=None, secure=None)


def control_of(world: World) -> DynsecControl:
    assert isinstance(world.broker, MosquittoDynsec)
    return world.broker._control


async def test_the_version_is_found(world: World) -> None:
    assert (await world.broker.probe()).version.startswith("Mosquitto 2.")


async def test_an_install_whose_answer_was_lost_is_done_the_second_time(world: World) -> None:
    item = to_install(coupling=Coupling.STRICT)
    assert await world.broker.install([item]) == [Install.DONE]
    link = await world.enter(item)
    another = at(world.port)
    assert await another.install([item]) == [Install.DONE]
    await another.close()
    assert await is_open(link, "acme/dev-1/out")


async def test_what_somebody_changed_is_put_right(world: World) -> None:
    item = to_install(coupling=Coupling.STRICT)
    await world.broker.install([item])
    for command in (
        {"command": "setClientId", "username": "p.acme.dev-1.g1", "clientid": "dev-9"},
        {"command": "disableClient", "username": "p.acme.dev-1.g1"},
        {"command": "removeClientRole", "username": "p.acme.dev-1.g1", "rolename": "p.acme.dev-1.g1"},
    ):
        [reply] = await control_of(world).run([command])
        assert "error" not in reply
        assert await world.broker.install([item]) == [Install.DONE]
        assert await is_open(await world.enter(item), "acme/dev-1/out")


async def test_installing_closes_no_session_of_others(world: World) -> None:
    await world.broker.install([to_install("dev-1")])
    link = await world.enter(to_install("dev-1"))
    await world.broker.install([to_install(f"dev-{number}") for number in range(2, 12)])
    assert await is_open(link, "acme/dev-1/out")


async def test_a_restart_in_mid_batch_loses_nothing(world: World) -> None:
    # A SIGKILL in that moment may leave Mosquitto 2.0 an empty list: it writes its file in place.
    items = [to_install(f"dev-{number}") for number in range(40)]
    work = asyncio.gather(*(world.broker.install([item]) for item in items))
    await world.broker.list()
    await world.stop()
    await world.restart()
    outcomes = [one for part in await work for one in part]
    assert Install.LATER in outcomes
    left = [item for item, outcome in zip(items, outcomes, strict=True) if outcome is not Install.DONE]
    async with asyncio.timeout(PATIENCE):
        while left:
            again = await world.broker.install(left)
            left = [item for item, outcome in zip(left, again, strict=True) if outcome is not Install.DONE]
    assert all([await world.admits(item) for item in items])


async def test_a_list_that_cannot_be_written_is_found_missing_after_a_restart(world: World) -> None:
    # Mosquitto answers success even so; the look after its start is what finds it.
    file = world.folder / "dynsec.json"
    before = file.read_bytes()
    await world.broker.install([to_install()])
    pulse = await world.broker.pulse()
    await world.kill()
    file.write_bytes(before)
    await world.restart()
    assert await world.broker.pulse() != pulse
    assert list(await world.broker.list()) == []
    assert await world.broker.install([to_install()]) == [Install.DONE]


async def test_a_login_without_the_right_to_control_is_told_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.devicebrokers.dynsec_control._SECONDS", 1.0)
    broker = at(world.port, FOREIGN)
    with pytest.raises(Unavailable, match=r"login_file|control"):
        await broker.probe()
    await broker.close()


async def test_neither_our_own_user_nor_others_are_touched(world: World) -> None:
    async def known() -> list[object]:
        names = [DYNSEC_ADMIN[0], FOREIGN[0]]
        return list(await control_of(world).run([{"command": "getClient", "username": name} for name in names]))

    def without_numbers(replies: list[object]) -> list[object]:
        return [reply["data"] for reply in replies if isinstance(reply, dict)]

    before = without_numbers(await known())
    assert len(before) == 2
    await world.broker.install([to_install(), to_install("dev-2")])
    await world.broker.revoke([to_install().credential.username, "p.acme.dev-9.g1"])
    assert without_numbers(await known()) == before


async def test_default_access_that_lets_everybody_in_is_found(world: World) -> None:
    acls = [{"acltype": "subscribe", "allow": True}, {"acltype": "publishClientSend", "allow": True}]
    await control_of(world).run([{"command": "setDefaultACLAccess", "acls": acls}])
    problems = (await world.broker.probe()).problems
    assert [one.rpartition("Access ")[2] for one in problems] == ["publishClientSend deny.", "subscribe deny."]


async def test_others_are_served_while_credentials_go_in(world: World) -> None:
    # P-9: the plug-in's writes stall the broker, so they keep a distance; here with a list of 2,000.
    commands = [{"command": "createClient", "username": f"theirs-{number}", "password": "x"} for number in range(60)]
    for _ in range(3):
        await control_of(world).run(commands)
    await world.broker.install([to_install("bystander")])
    link = await world.enter(to_install("bystander"))
    await link.subscribe("acme/bystander/echo")
    work = asyncio.gather(*(world.broker.install([to_install(f"dev-{number}")]) for number in range(100)))
    waits = []
    while not work.done():
        began = time.perf_counter()
        link.publish("acme/bystander/echo", b"x")
        await link.receive()
        waits.append(time.perf_counter() - began)
    assert await work == [[Install.DONE]] * 100
    assert sorted(waits)[int(len(waits) * 0.99)] < 0.5


class Recorded:
    """Mosquitto 2.1's plug-in as it answers, over a Mosquitto that only carries the messages.

    Source: mosquitto 2.1, plugins/dynamic-security (one answer a message, commands in order, errors as texts) and
    ChangeLog 2.1 (the list is written once a message).
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.clients: dict[str, dict[str, Any]] = {}
        self.roles: dict[str, Any] = {}
        self.writes = 0
        self.ready = asyncio.Event()

    async def serve(self) -> None:
        async with aiomqtt.Client("127.0.0.1", self._port, username="plugin", password="plugin") as client:
            await client.subscribe("control")
            await client.publish("version", b"mosquitto version 2.1.2", retain=True)
            self.ready.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                responses = [self._answer(one) for one in json.loads(message.payload)["commands"]]
                self.writes += any("error" not in one for one in responses)
                await client.publish("answers", json.dumps({"responses": responses}))

    def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        known: dict[str, Callable[[dict[str, Any]], Any]] = {
            "createRole": self._create_role, "createClient": self._create_client, "deleteClient": self._delete_client,
            "deleteRole": self._delete_role,
        }  # fmt: skip
        answer = {"command": command["command"], "correlationData": command["correlationData"]}
        error = known[command["command"]](command)
        return answer if error is None else answer | {"error": error}

    def _create_role(self, command: dict[str, Any]) -> str | None:
        if command["rolename"] in self.roles:
            return "Role already exists"
        self.roles[command["rolename"]] = command["acls"]
        return None

    def _create_client(self, command: dict[str, Any]) -> str | None:
        if command["username"] in self.clients:
            return "Client already exists"
        if any(one["rolename"] not in self.roles for one in command["roles"]):
            return "Role not found"
        self.clients[command["username"]] = command
        return None

    def _delete_client(self, command: dict[str, Any]) -> str | None:
        return None if self.clients.pop(command["username"], None) else "Client not found"

    def _delete_role(self, command: dict[str, Any]) -> str | None:
        return None if self.roles.pop(command["rolename"], None) else "Role not found"


async def test_mosquitto_2_1_gets_many_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, topic in {"_COMMANDS": "control", "_ANSWERS": "answers", "_VERSION": "version"}.items():
        monkeypatch.setattr(f"broker.devicebrokers.dynsec_control.{name}", topic)
    passwords = tmp_path / "passwords"
    passwords.write_text(password_line("plugin", "plugin") + password_line(*DYNSEC_ADMIN))
    real = Mosquitto(tmp_path, f"password_file {passwords}")
    await asyncio.to_thread(real.start)
    recorded = Recorded(real.port)
    plugin = asyncio.create_task(recorded.serve())
    broker = at(real.port)
    try:
        await recorded.ready.wait()
        items = [to_install(f"dev-{number}", coupling=Coupling.STRICT) for number in range(300)]
        outcomes = await asyncio.gather(*(broker.install([item]) for item in items))
        assert outcomes == [[Install.DONE]] * 300
        assert recorded.writes <= 4
        assert broker.cost(300, 0).rewrites == 2
        assert recorded.clients["p.acme.dev-7.g1"]["clientid"] == "dev-7"
        names = [item.credential.username for item in items]
        assert await broker.revoke([*names, "p.acme.nobody.g1"]) == [Revoke.CLOSED] * 301
        assert (recorded.clients, recorded.roles) == ({}, {})
    finally:
        await broker.close()
        plugin.cancel()
        await asyncio.wait([plugin])
        await asyncio.to_thread(real.kill)


async def test_a_revoked_device_is_disconnected_at_once(world: World) -> None:
    await world.broker.install([to_install()])
    link = await world.enter(to_install())
    assert await world.broker.revoke(["p.acme.dev-1.g1"]) == [Revoke.CLOSED]
    assert await is_closed(link)
