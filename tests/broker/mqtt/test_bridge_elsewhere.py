"""The bridge and the doctor on brokers that are no Mosquitto: aedes and RabbitMQ, which speak MQTT 3.1.1 alone."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from broker.beside.doctor import Patient, consult, examine
from broker.beside.findings import Finding, Verdict
from broker.beside.setup import Kind, Login, plan
from broker.mqtt.bridge import Bridge
from broker.mqtt.interface import Answer, Inbound
from broker.mqtt.message_socket import LONGEST
from broker.mqtt.messages import MAX_CLAIM
from broker.mqtt.packets import (
    V311,
    Connack,
    Connect,
    Decoder,
    Packet,
    Puback,
    Publish,
    Suback,
    Subscribe,
    encode,
    parse,
)
from broker.mqtt.topics import Topics
from broker.mqtt.upstream import Site
from tests.aedes import aedes
from tests.broker.devicebrokers.rabbit import Rabbit
from tests.e2e.packets import Session
from tests.mosquitto import BRIDGE

DEVICES = Login("factory", "the-line-password-7")
PATIENCE = 10.0


class Echo:
    """Answers each message with its own payload."""

    async def answer(self, message: Inbound) -> Answer:
        return Answer(message.payload, "application/json", None)


def site(port: int) -> Site:
    return Site(f"mqtt://127.0.0.1:{port}", (BRIDGE.user, BRIDGE.password))


def patient(port: int, kind: str) -> Patient:
    return Patient(site(port), (DEVICES.user, DEVICES.password), Topics(), kind, os.urandom)


@asynccontextmanager
async def bridged(port: int, *, dotless: bool = False) -> AsyncIterator[Bridge]:
    bridge = Bridge(Echo(), site(port), Topics(), secrets.token_bytes, dotless=dotless)  # type: ignore[arg-type]  # it judges no login
    await bridge.start(PATIENCE)
    try:
        yield bridge
    finally:
        await bridge.drain(PATIENCE)


@asynccontextmanager
async def device(port: int, client_id: str) -> AsyncIterator[Session]:
    async with await Session.login(("127.0.0.1", port), client_id, DEVICES.user, DEVICES.password) as session:
        assert await session.subscribe((f"prov/v1/factory/{client_id}/reply", 1)) == [1]
        yield session


async def converse(port: int) -> None:
    """Both kinds of message, from several devices, each answered on its own topic."""
    for number in range(3):
        async with device(port, f"dev-{number}") as session:
            for kind in ("request", "ack"):
                said = f"{kind} {number}".encode()
                await session.publish(f"prov/v1/factory/dev-{number}/{kind}", said, 1)
                got = await session.message()
                assert (got.topic, got.payload) == (f"prov/v1/factory/dev-{number}/reply", said)


def bad(findings: list[Finding]) -> dict[str, Finding]:
    return {one.check: one for one in findings if one.verdict in (Verdict.PROBLEM, Verdict.LEAK)}


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """A RabbitMQ with the definitions we ship."""
    node = Rabbit(tmp_path_factory.mktemp("rabbit"), asks=False)

    async def start() -> None:
        await node.start()
        await node.define(plan(Kind.RABBITMQ, "prov/v1", BRIDGE, DEVICES, os.urandom).files[0].text)

    with ThreadPoolExecutor(1) as aside:  # the loop of the test that asks first runs already
        try:
            aside.submit(lambda: asyncio.run(start())).result()
            yield node
        finally:
            aside.submit(lambda: asyncio.run(node.end())).result()


async def test_devices_are_answered_through_aedes() -> None:
    with aedes(DEVICES) as port:
        async with bridged(port) as bridge:
            await converse(port)
            assert bridge.is_serving


async def test_a_retained_message_is_cleared_at_aedes() -> None:
    with aedes(DEVICES) as port:
        async with device(port, "dev-1") as session:
            await session.publish("prov/v1/factory/dev-1/request", b"left behind", 1, retain=True)
            async with bridged(port) as bridge:
                await session.publish("prov/v1/factory/dev-1/request", b"alive", 1)
                assert (await session.message()).payload == b"alive"
                assert bridge.counters.retained == 1
            async with bridged(port) as again:
                await session.publish("prov/v1/factory/dev-1/request", b"and well", 1)
                assert (await session.message()).payload == b"and well"
                assert again.counters.retained == 0


async def test_a_message_beyond_all_bounds_is_one_too_large_and_ends_nothing() -> None:
    """3.1.1 cannot tell a broker how large a message may be; aedes brings any."""
    with aedes(DEVICES) as port:
        async with bridged(port) as bridge, device(port, "dev-1") as session, device(port, "dev-2") as other:
            await session.publish("prov/v1/factory/dev-1/request", bytes(3 * LONGEST), 1)
            got = await session.message()
            assert MAX_CLAIM < len(got.payload) < LONGEST
            await other.publish("prov/v1/factory/dev-2/request", b"small", 1)
            assert (await other.message()).payload == b"small"
            assert bridge.counters.connections == 1


async def test_the_doctor_finds_nothing_at_an_aedes_with_the_rules() -> None:
    with aedes(DEVICES) as port:
        found = bad(await consult(patient(port, "other"), time.time()))
        assert {name: one for name, one in found.items() if name != "speed"} == {}
        assert await examine(patient(port, "other")) == []


async def test_the_doctor_finds_the_client_id_that_is_pasted_into_a_filter() -> None:
    with aedes(DEVICES, checks_ids=False) as port:
        (leak,) = await examine(patient(port, "other"))
        assert "calls itself +" in leak
        assert "refuse client ids" in leak


@pytest.mark.timeout(180)
async def test_devices_are_answered_through_rabbitmq_with_what_we_ship(rabbit: Rabbit) -> None:
    async with bridged(rabbit.port, dotless=True) as bridge:
        await converse(rabbit.port)
        assert bridge.is_serving


@pytest.mark.timeout(180)
async def test_a_client_id_with_a_dot_reaches_nobody_at_rabbitmq(rabbit: Rabbit) -> None:
    """There a dot is a slash: what comes has a level more than any topic of ours, whoever's it may be."""
    async with bridged(rabbit.port, dotless=True) as bridge, device(rabbit.port, "dev-1") as session:
        dotted = await Session.login(("127.0.0.1", rabbit.port), "dev.1", DEVICES.user, DEVICES.password)
        async with dotted:
            await dotted.publish("prov/v1/factory/dev.1/request", b"{}", 1)
        await session.publish("prov/v1/factory/dev-1/request", b"{}", 1)
        await session.message()
        assert bridge.counters.messages == 1


@pytest.mark.timeout(180)
async def test_the_doctor_finds_the_hole_of_old_rabbitmqs_and_nothing_else(rabbit: Rabbit) -> None:
    """Before 4.3 the client id goes into a regular expression as it is; Debian's is 3.10."""
    found = bad(await consult(patient(rabbit.port, "rabbitmq"), time.time()))
    assert set(found) - {"speed"} == {"client ids"}
    assert found["client ids"].verdict is Verdict.LEAK
    assert "4.3" in found["client ids"].cure


async def test_a_topic_of_any_bytes_is_foreign_and_ends_nothing() -> None:
    """A broker that hands on what devices send, unlike those above, must not let one device stop all."""
    said: list[Packet] = []

    async def careless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder()
        while data := await reader.read(1000):
            for frame in decoder.feed(data):
                match parse(frame, V311):
                    case Connect(version=version) if version != V311:
                        writer.write(encode(Connack(1), V311))
                    case Connect():
                        writer.write(encode(Connack(), V311))
                    case Subscribe(packet_id):
                        writer.write(encode(Suback(packet_id, (1, 1)), V311))
                        writer.write(b"\x32\x09\x00\x05\xff\xfe/\x00/\x00\x07")
                        writer.write(encode(Publish("prov/v1/factory/dev-1/ack", b"{}", 1, 8), V311))
                    case packet:
                        said.append(packet)
        writer.close()

    server = await asyncio.start_server(careless, "127.0.0.1")
    async with server, bridged(server.sockets[0].getsockname()[1]) as bridge, asyncio.timeout(PATIENCE):
        while len(said) < 3:  # noqa: ASYNC110  a list has no event
            await asyncio.sleep(0.01)
        assert [packet for packet in said if isinstance(packet, Puback)] == [Puback(7), Puback(8)]
        assert [packet.topic for packet in said if isinstance(packet, Publish)] == ["prov/v1/factory/dev-1/reply"]
        assert (bridge.counters.foreign, bridge.counters.connections) == (1, 1)
