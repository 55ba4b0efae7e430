"""The twelve faults of amqtt 0.12.1, one test each: what a bare amqtt does wrong and the guarded one does not.

Each of these fails when the same client talks to amqtt directly. The last tests are of faults found since.
"""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from broker.mqtt.embedded import EmbeddedBroker
from broker.mqtt.grant import GuardLimits
from broker.mqtt.packets import V5, V311, Connect, Pingreq, Publish, Subscribe, Subscription, encode
from tests.broker.mqtt.device_client import PATIENCE, DeviceClient, Site, guarded

# Short enough for a test that waits for them, long enough for a busy machine.
LIMITS = GuardLimits(refusal_grid=0.01, connect_time=0.3)
MINE = "acme/dev-1/in"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with guarded(LIMITS) as site:
        yield site


async def delivered(site: Site, device: DeviceClient, payload: bytes, qos: int = 1) -> Publish:
    """Let somebody else publish to the device."""
    other = await site.connect("op-1", "acme.op-1")
    await other.publish("shared/in", payload, qos)
    await other.leave()
    return await device.message()


async def test_1_a_wrong_password_with_a_clean_session_takes_nothing_from_the_live_device(site: Site) -> None:
    device = await site.connect()
    await device.subscribe("shared/in", qos=1)
    assert await site.refused(password=b"guess") == 5
    assert (await delivered(site, device, b"still here")).payload == b"still here"


async def test_2_a_wrong_password_with_a_persistent_session_disconnects_and_inherits_nothing(site: Site) -> None:
    device = await site.connect(clean=False)
    await device.subscribe("shared/in", qos=1)
    assert await site.refused(password=b"guess", clean=False) == 5
    assert (await delivered(site, device, b"one")).payload == b"one"
    await device.leave()
    assert await site.refused(password=b"guess", clean=False) == 5
    again = await site.connect(clean=False, present=True)
    assert (await delivered(site, again, b"two")).payload == b"two"


async def test_1_and_2_a_hundred_wrong_passwords_leave_the_live_device_undisturbed(site: Site) -> None:
    device = await site.connect()
    await device.subscribe("shared/in", qos=1)
    async with asyncio.timeout(30):
        attempts = (site.refused(password=b"guess", clean=number % 2 == 0) for number in range(100))
        assert await asyncio.gather(*attempts) == [5] * 100
    assert (await delivered(site, device, b"still here")).payload == b"still here"
    await device.ping()


async def test_3_a_take_over_with_a_clean_session_closes_the_old_connection(site: Site) -> None:
    old = await site.connect()
    await old.subscribe("shared/in")
    new = await site.connect()
    assert await old.ended() == []
    await new.subscribe(MINE)
    await new.publish("shared/in", b"nobody subscribed to this any more")
    await new.publish(MINE, b"works")
    assert await new.messages(1) == [(MINE, b"works")]


async def test_4_a_take_over_of_a_persistent_session_is_served(site: Site) -> None:
    old = await site.connect(clean=False)
    await old.subscribe("shared/in", qos=1)
    new = await site.connect(clean=False, present=True)
    assert await old.ended() == []
    assert await new.subscribe(MINE) == (0,)
    assert (await delivered(site, new, b"kept subscription")).payload == b"kept subscription"


async def test_5_a_device_silent_for_one_and_a_half_times_its_keep_alive_is_gone() -> None:
    async with guarded(replace(LIMITS, keep_alive=0.2)) as site:
        asks_for_none = await site.connect(keep_alive=0)
        asks_for_much = await site.connect("dev-2", "acme.dev-2", keep_alive=1000)
        assert await asks_for_none.ended() == []
        assert await asks_for_much.ended() == []
        assert site.broker.connected() == []


@pytest.mark.parametrize(
    ("level", "name", "answer"),
    [(5, b"MQTT", b"\x20\x03\x00\x84\x00"), (3, b"MQIsdp", b"\x20\x02\x00\x01"), (9, b"MQTT", b"\x20\x03\x00\x84\x00")],
)
async def test_6_another_version_is_answered_in_its_own_form(
    site: Site, level: int, name: bytes, answer: bytes
) -> None:
    device = await site.open()
    rest = len(name).to_bytes(2) + name + bytes((level, 2, 0, 60)) + (b"\0" if level == V5 else b"") + b"\0\1x"
    await device.send_bytes(b"\x10" + bytes((len(rest),)) + rest)
    assert await device.raw_end() == answer


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"", id="silent"),
        pytest.param(b"\x10", id="begins and stops"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(encode(Pingreq(), V311), id="another packet first"),
        pytest.param(b"\xff" * 100, id="noise"),
        pytest.param(b"\x10\xff\xff\xff\x7f", id="announces much"),
    ],
)
async def test_7_who_does_not_complete_connect_is_cut_off(site: Site, beginning: bytes) -> None:
    device = await site.open()
    await device.send_bytes(beginning)
    assert await device.ended() == []


async def test_8_a_packet_above_the_limit_is_refused_before_it_is_buffered(site: Site) -> None:
    device = await site.connect()
    tracemalloc.start()
    try:
        await device.send_bytes(b"\x30\x80\x80\x80\x64")  # PUBLISH of 200 MiB
        assert not await device.stream(200, bytes(1 << 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    await site.connect()


async def test_9_a_subscriber_that_does_not_read_costs_little_and_is_cut_off() -> None:
    async with guarded(replace(LIMITS, stall_time=0.2)) as site:
        deaf = await site.connect("deaf", "acme.deaf")
        await deaf.subscribe("shared/#")
        witness = await site.connect("ear", "acme.ear")
        await witness.subscribe("shared/#")
        payload = bytes(200_000)
        tracemalloc.start()
        try:
            while site.broker.is_live("acme.deaf"):
                await witness.publish("shared/flood", payload, qos=1)
                await witness.message()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 16 << 20
        await witness.publish("shared/end", b"")


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\x36\x05\x00\x01a\x00\x01", id="publish at QoS 3"),
        pytest.param(b"\x30\x04\x00\x02\xc3\x28", id="topic is not UTF-8"),
        pytest.param(b"\x30\x03\x00\x01\x00", id="topic has a NUL"),
        pytest.param(b"\x30\x04\x00\x09ab", id="topic longer than the packet"),
        pytest.param(b"\x30\x02\x00\x00", id="topic is empty"),
        pytest.param(b"\x30\x03\x00\x01#", id="topic has a wildcard"),
        pytest.param(b"\x32\x05\x00\x01a\x00\x00", id="packet identifier 0"),
        pytest.param(b"\x30\xff\xff\xff\xff\x7f", id="length of five bytes"),
        pytest.param(b"\x00\x00", id="reserved type 0"),
        pytest.param(b"\xf0\x00", id="reserved type 15"),
        pytest.param(b"\x80\x06\x00\x01\x00\x01a\x00", id="subscribe with wrong flags"),
        pytest.param(b"\x82\x06\x00\x01\x00\x01a\x03", id="subscribe at QoS 3"),
        pytest.param(b"\x82\x02\x00\x01", id="subscribe to nothing"),
        pytest.param(b"\x82\x07\x00\x01\x00\x02a#\x00", id="malformed filter"),
        pytest.param(b"\xa2\x02\x00\x01", id="unsubscribe from nothing"),
        pytest.param(b"\xc0\x01\x00", id="ping with a body"),
        pytest.param(b"\x20\x02\x00\x00", id="connack from a client"),
        pytest.param(b"\xd0\x00", id="pingresp from a client"),
        pytest.param(encode(Connect("dev-1", username="acme.dev-1", password=b"pw"), V311), id="second connect"),
    ],
)
async def test_10_a_malformed_packet_after_connect_closes_the_connection(site: Site, packet: bytes) -> None:
    device = await site.connect()
    await device.send_bytes(packet)
    assert await device.ended() == []


async def test_11_publishing_to_a_dollar_topic_closes_the_connection(site: Site) -> None:
    device = await site.connect()
    await device.send(Publish("$SYS/broker/load", b"x"))
    assert await device.ended() == []


@pytest.mark.parametrize("qos", [1, 2])
async def test_12_what_was_not_acknowledged_is_sent_again(site: Site, qos: int) -> None:
    device = await site.connect(clean=False)
    device.acknowledge = False
    await device.subscribe("shared/in", qos=2)
    first = await delivered(site, device, b"once", qos)
    assert (first.qos, first.dup) == (qos, False)
    device.vanish()
    again = await site.connect(clean=False, present=True)
    assert await again.message() == replace(first, dup=True)
    await again.ping()
    await again.leave()
    third = await site.connect(clean=False, present=True)
    await third.ping()
    assert not third.unread


async def test_retained_messages_of_other_peoples_subscriptions_are_not_handed_to_a_newcomer(site: Site) -> None:
    other = await site.connect("dev-2", "acme.dev-2")
    await other.publish("acme/dev-2/secret", b"kept", 1, retain=True)
    await other.subscribe("acme/dev-2/secret")
    for clean in (True, False):
        device = await site.connect(clean=clean)
        await device.subscribe(MINE)
        await device.publish(MINE, b"mine")
        assert await device.messages(1) == [(MINE, b"mine")]
        assert not device.unread


async def test_a_message_keeps_the_publishers_quality_of_service_and_no_retain_flag(site: Site) -> None:
    device = await site.connect()
    await device.subscribe("shared/in", qos=2)
    assert (await delivered(site, device, b"0", 0)).qos == 0
    assert (await delivered(site, device, b"1", 1)).qos == 1
    await device.publish("shared/in", b"kept", 1, retain=True)
    assert not (await device.message()).retain


async def test_a_persistent_session_does_not_queue_without_bound() -> None:
    async with guarded(replace(LIMITS, queued_messages=10)) as site:
        device = await site.connect(clean=False)
        await device.subscribe("shared/#", qos=1)
        await device.leave()
        other = await site.connect("op-1", "acme.op-1")
        for number in range(30):
            await other.publish("shared/in", b"%d" % number, 1)
        again = await site.connect(clean=False, present=True)
        await other.publish("shared/in", b"live", 1)
        kept = [int(payload) for _, payload in await again.messages(10)]
        assert kept == list(range(10))


async def test_the_filters_of_a_device_do_not_outlive_it_in_amqtt() -> None:
    async with guarded(LIMITS) as site:
        device = await site.connect()
        for number in range(100):
            await device.subscribe(f"acme/dev-1/{number}")
            await device.unsubscribe(f"acme/dev-1/{number}")
        assert set(amqtt_filters(site.broker)) == {"$guard/tickets"}


def amqtt_filters(broker: EmbeddedBroker) -> list[str]:
    return list(broker._router._broker.subscriptions)


async def test_a_subscription_while_messages_flow_loses_none(site: Site) -> None:
    device = await site.connect()
    await device.subscribe("shared/in")
    other = await site.connect("dev-2", "acme.dev-2")

    async def come_and_go() -> None:
        for number in range(50):
            await other.subscribe(f"acme/dev-2/{number}")
            await other.unsubscribe(f"acme/dev-2/{number}")

    async def talk() -> None:
        for number in range(200):
            await device.publish("shared/in", b"%d" % number)

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(come_and_go(), talk())
    assert [int(payload) for _, payload in await device.messages(200)] == list(range(200))


async def test_a_pipelined_connect_is_understood(site: Site) -> None:
    device = await site.open()
    await device.send(
        Connect("dev-1", username="acme.dev-1", password=b"pw"),
        Subscribe(1, (Subscription(MINE),)),
        Publish(MINE, bytes(100_000)),
    )
    assert (await device.message()).payload == bytes(100_000)
