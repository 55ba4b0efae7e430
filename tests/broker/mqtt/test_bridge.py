"""The bridge against a real Mosquitto: what it takes, holds back, drops, sends again, and how it ends."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import pytest

from broker.beside.setup import Login
from broker.mqtt.bridge import Bridge, BridgeLimits
from broker.mqtt.interface import Answer, Inbound, LoginVerdict
from broker.mqtt.topics import Topics
from broker.mqtt.upstream import MAX_RECEIVED, Site
from tests.broker.mqtt.serving import contexts
from tests.e2e.packets import Session
from tests.mosquitto import BRIDGE, Mosquitto, free_port, shipped

CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION_DATA, MESSAGE_EXPIRY = 0x03, 0x08, 0x09, 0x02
DEVICES = Login("factory", "the-line-password-7")
PATIENCE = 10.0


class Echo:
    """Answers each message with its own payload, once `gate` is open."""

    def __init__(self) -> None:
        self.seen: list[Inbound] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Condition()

    async def login(self, user: str, password: bytes, client_id: str) -> LoginVerdict:
        raise AssertionError("the broker judges logins")

    async def certificate_login(self, certificate: bytes, client_id: str) -> LoginVerdict:
        raise AssertionError("the broker judges logins")

    async def answer(self, message: Inbound) -> Answer:
        async with self.arrived:
            self.seen.append(message)
            self.arrived.notify_all()
        await self.gate.wait()
        return Answer(message.payload, "application/json", None)

    def bad_topic(self, user: str, client_id: str) -> Answer:
        raise AssertionError("the broker judges topics")

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE), self.arrived:
            await self.arrived.wait_for(lambda: len(self.seen) >= count)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path, shipped(tmp_path, [DEVICES], BRIDGE)).start()
    yield broker
    broker.stop()


@asynccontextmanager
async def bridged(
    mosquitto: Mosquitto, echo: Echo, limits: BridgeLimits | None = None, *, share: str = ""
) -> AsyncIterator[Bridge]:
    site = Site(mosquitto.url, (BRIDGE.user, BRIDGE.password))
    bridge = Bridge(echo, site, Topics(), secrets.token_bytes, share=share, limits=limits)
    await bridge.start(PATIENCE)
    try:
        yield bridge
    finally:
        await bridge.drain(PATIENCE)


async def device(mosquitto: Mosquitto, client_id: str, version: int = 4) -> Session:
    session = await Session.login(mosquitto.address, client_id, DEVICES.user, DEVICES.password, version=version)
    assert await session.subscribe((f"prov/v1/factory/{client_id}/reply", 1)) == [1]
    return session


@pytest.mark.parametrize("version", [4, 5])
async def test_a_message_is_answered_on_its_own_reply_topic(mosquitto: Mosquitto, version: int) -> None:
    echo = Echo()
    async with bridged(mosquitto, echo), await device(mosquitto, "dev-1", version) as session:
        for kind in ("request", "ack"):
            await session.publish(f"prov/v1/factory/dev-1/{kind}", b'{"n": 1}', 1)
            got = await session.message()
            assert (got.topic, got.payload, got.qos, got.retain) == (
                "prov/v1/factory/dev-1/reply",
                b'{"n": 1}',
                1,
                False,
            )
        first = echo.seen[0]
        assert (first.user, first.client_id, first.kind) == ("factory", "dev-1", "request")
        assert (first.source, first.connection, first.secure, first.tls) == ("bridge", 0, False, False)


async def test_many_long_messages_pass_through_tls(tmp_path: Path) -> None:
    _, trusting, _ = contexts(tmp_path)
    secure = f"certfile {tmp_path}/server.pem\nkeyfile {tmp_path}/server.key\n"
    plain = free_port()
    settings = shipped(tmp_path, [DEVICES], BRIDGE)
    mosquitto = Mosquitto(tmp_path, f"{secure}listener {plain} 127.0.0.1\n{settings}").start()
    site = Site(f"mqtts://127.0.0.1:{mosquitto.port}", (BRIDGE.user, BRIDGE.password), trusting)
    bridge = Bridge(Echo(), site, Topics(), secrets.token_bytes)
    try:
        await bridge.start(PATIENCE)
        session = await Session.login(("127.0.0.1", plain), "dev-1", DEVICES.user, DEVICES.password)
        async with session:
            await session.subscribe(("prov/v1/factory/dev-1/reply", 1))
            sent = [bytes((number,)) * 8000 for number in range(200)]
            for payload in sent:
                await session.publish("prov/v1/factory/dev-1/request", payload, 1)
            assert [(await session.message()).payload for _ in sent] == sent
    finally:
        await bridge.drain(PATIENCE)
        mosquitto.stop()


async def test_properties_of_mqtt_5_go_there_and_back(mosquitto: Mosquitto) -> None:
    async with bridged(mosquitto, Echo()), await device(mosquitto, "dev-1", 5) as session:
        asked = {CORRELATION_DATA: b"\x00\xff7", RESPONSE_TOPIC: "prov/v1/factory/dev-2/reply"}
        await session.publish("prov/v1/factory/dev-1/request", b"{}", 1, given=asked)
        got = await session.message()
        assert got.topic == "prov/v1/factory/dev-1/reply", "another response topic is not honoured"
        assert got.properties[CORRELATION_DATA] == b"\x00\xff7"
        assert got.properties[CONTENT_TYPE] == "application/json"
        assert 0 < got.properties[MESSAGE_EXPIRY] <= 60


@pytest.mark.parametrize("version", [4, 5])
async def test_a_retained_message_is_cleared_and_not_answered(mosquitto: Mosquitto, version: int) -> None:
    echo = Echo()
    async with await device(mosquitto, "dev-1", version) as session:
        await session.publish("prov/v1/factory/dev-1/request", b"before", 1, retain=True)
        async with bridged(mosquitto, echo) as bridge:
            await session.publish("prov/v1/factory/dev-1/ack", b"live", 1)
            assert (await session.message()).payload == b"live"
            await session.publish("prov/v1/factory/dev-1/request", b"while it serves", 1, retain=True)
            await session.publish("prov/v1/factory/dev-1/request", b"the end", 1)
            assert (await session.message()).payload == b"the end"
            assert bridge.counters.retained == 2
        assert [one.payload for one in echo.seen] == [b"live", b"the end"]
        assert await retained(mosquitto) == []


async def retained(mosquitto: Mosquitto) -> list[bytes]:
    """What a newcomer with the bridge's rights is handed."""
    async with await Session.login(mosquitto.address, "another", BRIDGE.user, BRIDGE.password) as session:
        await session.subscribe(("prov/v1/+/+/request", 0), ("prov/v1/+/+/ack", 0))
        await session.ping()
        return [one.payload for one in session.inbox]


async def test_names_outside_the_grammar_are_nobody_and_reach_no_service(mosquitto: Mosquitto) -> None:
    echo = Echo()
    async with bridged(mosquitto, echo) as bridge, await device(mosquitto, "dev-1") as session:
        for name in ("caf\u00e9", ".*", "x" * 129, "a b"):
            async with await Session.login(mosquitto.address, name, DEVICES.user, DEVICES.password) as strange:
                await strange.publish(f"prov/v1/factory/{name}/request", b"{}", 1)
        await session.publish("prov/v1/factory/dev-1/request", b"{}", 1)
        await session.message()
        assert (len(echo.seen), bridge.counters.foreign) == (1, 4)


async def test_what_exceeds_the_work_at_once_waits_at_the_broker_and_is_not_dropped(mosquitto: Mosquitto) -> None:
    echo = Echo()
    echo.gate.clear()
    async with (
        bridged(mosquitto, echo, BridgeLimits(in_work=4)) as bridge,
        await device(mosquitto, "dev-1") as session,
    ):
        for number in range(500):
            await session.publish("prov/v1/factory/dev-1/request", b"%d" % number, 1)
        await echo.until(4)
        assert len(echo.seen) == 4
        assert bridge.counters.messages <= 4 + MAX_RECEIVED, "the others are not acknowledged, so not even sent"
        echo.gate.set()
        assert [int((await session.message()).payload) for _ in range(500)] == list(range(500))
        assert bridge.counters.dropped == 0


async def test_a_flood_at_qos_0_is_dropped_above_the_bound_and_counted(mosquitto: Mosquitto) -> None:
    echo = Echo()
    echo.gate.clear()
    async with (
        bridged(mosquitto, echo, BridgeLimits(in_work=2, waiting=3)) as bridge,
        await device(mosquitto, "dev-1") as session,
    ):
        for _ in range(20):
            await session.publish("prov/v1/factory/dev-1/request", b"flood", 0)
        async with asyncio.timeout(PATIENCE):
            while bridge.counters.messages < 20:  # noqa: ASYNC110  a counter has no event
                await asyncio.sleep(0.01)
        assert bridge.counters.dropped == 15
        echo.gate.set()
        for _ in range(5):
            assert (await session.message()).payload == b"flood"


async def test_a_killed_broker_loses_no_reply(mosquitto: Mosquitto) -> None:
    echo = Echo()
    echo.gate.clear()
    async with bridged(mosquitto, echo) as bridge:
        async with await device(mosquitto, "dev-1") as session:
            await session.publish("prov/v1/factory/dev-1/request", b"before", 1)
            await echo.until(1)
            mosquitto.kill()
            await session.ended()
        mosquitto.start()
        async with await device(mosquitto, "dev-1") as session:
            echo.gate.set()
            assert (await session.message()).payload == b"before"
            await session.publish("prov/v1/factory/dev-1/request", b"after", 1)
            assert (await session.message()).payload == b"after"
        assert bridge.counters.connections == 2


async def test_a_reply_that_no_broker_acknowledged_is_sent_again(mosquitto: Mosquitto) -> None:
    echo = Echo()
    echo.gate.clear()
    # Long enough apart that the device is there before the bridge is.
    async with bridged(mosquitto, echo, BridgeLimits(shortest_pause=2.0, steady=60.0)) as bridge:
        async with await device(mosquitto, "dev-1") as session:
            await session.publish("prov/v1/factory/dev-1/request", b"asked", 1)
            await echo.until(1)
            mosquitto.freeze()
            echo.gate.set()
            await until_sent(bridge)
            mosquitto.kill()
            await session.ended()
        mosquitto.start()
        async with await device(mosquitto, "dev-1") as session:
            assert (await session.message()).payload == b"asked"


async def until_sent(bridge: Bridge) -> None:
    """The reply is on its way, and nobody will acknowledge it."""
    async with asyncio.timeout(PATIENCE):
        while not bridge.unacknowledged:  # noqa: ASYNC110  as above
            await asyncio.sleep(0)


async def test_workers_of_one_name_share_the_messages(mosquitto: Mosquitto) -> None:
    first, second = Echo(), Echo()
    async with (
        bridged(mosquitto, first, share="line"),
        bridged(mosquitto, second, share="line"),
        await device(mosquitto, "dev-1") as session,
    ):
        for number in range(40):
            await session.publish("prov/v1/factory/dev-1/request", b"%d" % number, 1)
        answered = [int((await session.message()).payload) for _ in range(40)]
        assert sorted(answered) == list(range(40))
        assert first.seen
        assert second.seen


async def test_workers_of_one_name_do_not_clear_a_topic_for_ever(mosquitto: Mosquitto) -> None:
    async with (
        bridged(mosquitto, Echo(), share="line") as first,
        bridged(mosquitto, Echo(), share="line") as second,
        bridged(mosquitto, Echo(), share="line") as third,
        await device(mosquitto, "dev-1", 5) as session,
    ):
        for number in range(6):
            await session.publish("prov/v1/factory/dev-1/request", b"left", 1, retain=True)
            await session.publish("prov/v1/factory/dev-1/request", b"%d" % number, 1)
            assert (await session.message()).payload == b"%d" % number
        async with asyncio.timeout(PATIENCE):
            while await retained(mosquitto):  # the last clearing is another worker's, and may be on its way
                pass
        workers = (first, second, third)
        assert sum(one.counters.retained for one in workers) == 6
        # Each retained message, each live one, and at most one empty echo for each clearing.
        assert sum(one.counters.messages for one in workers) <= 18


async def test_draining_answers_what_is_in_work(mosquitto: Mosquitto) -> None:
    echo = Echo()
    echo.gate.clear()
    async with await device(mosquitto, "dev-1") as session:
        async with bridged(mosquitto, echo) as bridge:
            await session.publish("prov/v1/factory/dev-1/request", b"asked", 1)
            await echo.until(1)
            draining = asyncio.create_task(bridge.drain(PATIENCE))
            echo.gate.set()
            assert (await session.message()).payload == b"asked"
            await draining
            assert not bridge.is_serving
        await session.publish("prov/v1/factory/dev-1/request", b"too late", 1)
        await session.ping()
        assert len(echo.seen) == 1


async def test_a_login_that_is_mended_is_noticed(mosquitto: Mosquitto) -> None:
    passwords = mosquitto.folder / "provisioner.passwords"
    right = passwords.read_text()
    mosquitto.kill()
    passwords.write_text(right.splitlines()[1] + "\n")
    mosquitto.start()
    async with await device(mosquitto, "dev-1") as session, bridged(mosquitto, Echo()) as bridge:
        assert not bridge.is_serving
        passwords.write_text(right)
        mosquitto.reload()
        async with asyncio.timeout(PATIENCE):
            while not bridge.is_serving:  # noqa: ASYNC110  as above
                await asyncio.sleep(0.01)
        await session.publish("prov/v1/factory/dev-1/request", b"now", 1)
        assert (await session.message()).payload == b"now"


async def test_nothing_is_served_on_a_broker_that_leaks(mosquitto: Mosquitto) -> None:
    findings = ["everybody may read every reply"]

    async def examine() -> list[str]:
        return findings

    echo = Echo()
    bridge = Bridge(
        echo,
        Site(mosquitto.url, (BRIDGE.user, BRIDGE.password)),
        Topics(),
        secrets.token_bytes,
        examine=examine,
        limits=BridgeLimits(again=0.1),
    )
    await bridge.start(PATIENCE)
    try:
        async with await device(mosquitto, "dev-1") as session:
            assert not bridge.is_serving
            await session.publish("prov/v1/factory/dev-1/request", b"unheard", 1)
            findings.clear()
            async with asyncio.timeout(PATIENCE):
                while not bridge.is_serving:  # noqa: ASYNC110  as above
                    await asyncio.sleep(0.01)
            await session.publish("prov/v1/factory/dev-1/request", b"heard", 1)
            assert (await session.message()).payload == b"heard"
            assert [one.payload for one in echo.seen] == [b"heard"]
    finally:
        await bridge.drain(PATIENCE)


@pytest.mark.parametrize("version", [4, 5])
async def test_one_exchange_after_the_other_waits_for_no_nagle(mosquitto: Mosquitto, version: int) -> None:
    async with bridged(mosquitto, Echo()), await device(mosquitto, "dev-1", version) as session:
        took = []
        for _ in range(15):
            began = time.perf_counter()
            await session.publish("prov/v1/factory/dev-1/request", b"{}", 1)
            await session.message()
            took.append(time.perf_counter() - began)
        assert median(took) < 0.02
