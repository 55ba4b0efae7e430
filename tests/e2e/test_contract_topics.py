"""Section 3 of the contract: own topics only, one message one reply, and what MQTT 5 adds."""

import contextlib

import pytest

from tests.e2e import independent as wire
from tests.e2e import packets as mqtt
from tests.e2e.packets import EndedError
from tests.e2e.program import FLOOR_USER, Site, fresh_name

BOTH = pytest.mark.parametrize("version", [4, 5])

FOREIGN = [
    "#", "+", "prov/#", "prov/v1/#", "prov/v1/+/+/reply", "prov/v1/{user}/+/reply", "prov/v1/{user}/{id}/#",
    "prov/v1/{user}/{id}/+", "prov/v1/{user}/{id}/request", "prov/v1/{user}/{id}/ack", "prov/v1/{user}/{id}/reply/more",
    "prov/v1/{user}/{id}/reply/#", "prov/v1/{user}/another/reply", "prov/v1/other/{id}/reply",
    "prov/v2/{user}/{id}/reply", "/prov/v1/{user}/{id}/reply", "prov/v1/{user}/{id}/Reply",
    "$share/g/prov/v1/{user}/{id}/reply", "$SYS/#", "north/{id}/#",
]  # fmt: skip


@BOTH
@pytest.mark.parametrize("pattern", FOREIGN)
async def test_only_ones_own_reply_topic_can_be_subscribed_to(site: Site, version: wire.Version, pattern: str) -> None:
    device, _ = await site.unit(version=version)
    async with await device.open(subscribe=None) as session:
        topic = pattern.format(user=FLOOR_USER, id=device.client_id)
        assert await session.subscribe((topic, 1)) == [0x80 if version == 4 else 0x87]
        # The session goes on, and what is one's own is granted beside what is not.
        assert await session.subscribe((topic, 0), (device.topic("reply"), 2)) == [0x80 if version == 4 else 0x87, 1]
        reply = await device.exchange("request", device.claim_body(), session=session)
        assert (reply.generation, reply.message.qos) == (1, 1)


@BOTH
@pytest.mark.parametrize(("asked", "got"), [(None, 0), (0, 0), (1, 1)])
async def test_a_reply_comes_as_it_was_subscribed(
    site: Site, version: wire.Version, asked: int | None, got: int
) -> None:
    device, _ = await site.unit(version=version)
    async with await device.open(subscribe=asked) as session:
        reply = await device.exchange("request", device.claim_body(), session=session)
        assert (reply.generation, reply.message.qos, reply.message.retain, reply.message.duplicate) == (
            1,
            got,
            False,
            False,
        )


@BOTH
async def test_after_unsubscribe_the_reply_still_comes_at_qos_0(site: Site, version: wire.Version) -> None:
    device, _ = await site.unit(version=version)
    async with await device.open() as session:
        assert (await session.unsubscribe(device.topic("reply"))).codes == ([] if version == 4 else [0])
        assert (await device.exchange("request", device.claim_body(), session=session)).message.qos == 0


OTHER_TOPICS = [
    "prov/v1/{user}/another/request", "prov/v1/{user}/another/ack", "prov/v1/other/{id}/request",
    "prov/v1/{user}/{id}/reply", "prov/v1/{user}/{id}", "prov/v1/{user}/{id}/request/", "prov/v1/{user}/{id}/requests",
    "prov/v2/{user}/{id}/request", "a", "$SYS/broker", "north/{id}/up", "prov/v1//{id}/request",
]  # fmt: skip


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("pattern", OTHER_TOPICS)
async def test_mqtt_5_is_thrown_out_for_publishing_elsewhere(site: Site, pattern: str, qos: int) -> None:
    device, request = await site.unit(version=5, mode="plain")
    async with await device.open() as session:
        topic = pattern.format(user=FLOOR_USER, id=device.client_id)
        await session.send(session.publish_packet(topic, wire.encode(device.claim_body(), "json"), qos))
        if qos:
            assert (await session.puback()).codes == [0x87]
        assert await session.ended() == 0x87
        assert not session.inbox
    assert await request.phase() == "PENDING"


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("pattern", OTHER_TOPICS)
async def test_mqtt_3_is_told_so_and_closed_for_publishing_elsewhere(site: Site, pattern: str, qos: int) -> None:
    device, request = await site.unit(mode="plain")
    async with await device.open() as session:
        topic = pattern.format(user=FLOOR_USER, id=device.client_id)
        await session.send(session.publish_packet(topic, wire.encode(device.claim_body(), "json"), qos))
        await session.ended()
        bodies = [wire.decode(message.payload, "json") for message in session.inbox]
        assert [(body["code"], body["reason"]) for body in bodies] == [(400, "bad-request")]
        assert session.inbox[0].topic == device.topic("reply")
    assert await request.phase() == "PENDING"


@BOTH
@pytest.mark.parametrize(("what", "reason"), [("retain", 0x9A), ("qos 2", 0x9B), ("retain and qos 2", None)])
async def test_retain_and_qos_2_end_the_session(
    site: Site, version: wire.Version, what: str, reason: int | None
) -> None:
    device, request = await site.unit(version=version, mode="plain")
    async with await device.open() as session:
        payload = wire.encode(device.claim_body(), "json")
        qos = 2 if "qos 2" in what else 1
        await session.send(session.publish_packet(device.topic("request"), payload, qos, retain="retain" in what))
        ended = await _ended_after_puback(session)
        assert ended in (({reason} if reason else {0x9A, 0x9B}) if version == 5 else {None})
    assert await request.phase() == "PENDING"


async def _ended_after_puback(session: mqtt.Session) -> int | None:
    """The reason of the DISCONNECT, whether or not something was acknowledged before."""
    try:
        while True:
            got = await session.packet()
            if got.kind == mqtt.DISCONNECT:
                return got.body[0] if got.body else 0
            assert got.kind in {mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBLISH}
    except EndedError:
        return None


@pytest.mark.parametrize("alias", [0, 1, 65535])
async def test_a_topic_alias_ends_the_session(site: Site, alias: int) -> None:
    device, request = await site.unit(version=5, mode="plain")
    async with await device.open() as session:
        payload = wire.encode(device.claim_body(), "json")
        await session.send(session.publish_packet(device.topic("request"), payload, 1, given={mqtt.TOPIC_ALIAS: alias}))
        assert await _ended_after_puback(session) == 0x94
    assert await request.phase() == "PENDING"


@BOTH
async def test_the_puback_comes_whatever_the_message_is(site: Site, version: wire.Version) -> None:
    device, _ = await site.unit(version=version)
    async with await device.open() as session:
        answer = await session.publish(device.topic("request"), b"this is no claim", 1)
        assert answer
        assert answer.codes == [0]
        assert wire.decode((await session.message()).payload, "json")["reason"] == "bad-request"


@BOTH
async def test_one_message_gets_one_reply(site: Site, version: wire.Version) -> None:
    device, _ = await site.unit(version=version)
    async with await device.open() as session:
        bodies = [device.claim_body(f"r-{number}") for number in range(4)]
        for body in bodies:
            await session.send(session.publish_packet(device.topic("request"), wire.encode(body, "json"), 0))
        said = [wire.decode((await session.message()).payload, "json")["requestId"] for _ in bodies]
        assert sorted(said) == [body["requestId"] for body in bodies]
        await session.ping()
        assert not session.inbox


@BOTH
async def test_nothing_comes_unsolicited(site: Site, version: wire.Version) -> None:
    device, request = await site.unit(version=version)
    async with await device.open() as listener:
        offer = await device.provision()
        await device.ack("stored", offer.generation)
        await request.tell("revoke")
        await request.until("STOPPED")
        await listener.ping()
        assert not listener.inbox


@pytest.mark.parametrize(("encoding", "kind"), [("json", "application/json"), ("cbor", "application/cbor")])
async def test_an_mqtt_5_answer_has_its_expiry_its_type_and_what_it_correlates_with(
    site: Site, encoding: wire.Wire, kind: str
) -> None:
    device, _ = await site.unit(version=5, wire=encoding)
    async with await device.open() as session:
        for correlation in (b"\x00\xff any bytes", None, b""):
            body = device.claim_body()
            given = {} if correlation is None else {mqtt.CORRELATION_DATA: correlation}
            await session.publish(device.topic("request"), wire.encode(body, encoding), 1, given=given)
            got = await session.message()
            assert device.read(got, body).generation == 1
            assert got.properties.get(mqtt.CORRELATION_DATA) == correlation
            assert (got.properties[mqtt.MESSAGE_EXPIRY], got.properties[mqtt.CONTENT_TYPE]) == (60, kind)
            assert not {mqtt.REASON_STRING, mqtt.RESPONSE_TOPIC, mqtt.TOPIC_ALIAS} & got.properties.keys()


@pytest.mark.parametrize(
    "pattern",
    ["prov/v1/{user}/{id}/reply", "prov/v1/{user}/another/reply", "prov/v1/{user}/{id}/request", "north/{id}/x", "a"],
)
async def test_a_response_topic_never_leads_an_answer_elsewhere(site: Site, pattern: str) -> None:
    device, _ = await site.unit(version=5)
    async with await device.open() as session:
        body = device.claim_body()
        given = {mqtt.RESPONSE_TOPIC: pattern.format(user=FLOOR_USER, id=device.client_id), mqtt.CORRELATION_DATA: b"7"}
        await session.publish(device.topic("request"), wire.encode(body, "json"), 1, given=given)
        got = await session.message()
        assert (got.topic, got.properties[mqtt.CORRELATION_DATA]) == (device.topic("reply"), b"7")
        assert device.read(got, body).generation == 1


async def test_properties_a_device_may_add_are_no_reason_to_refuse_it(site: Site) -> None:
    device, _ = await site.unit(version=5)
    async with await device.open(
        given={mqtt.USER_PROPERTY: [("a", "b"), ("a", "b")], mqtt.REQUEST_PROBLEM_INFORMATION: 1}
    ) as session:
        body = device.claim_body()
        given = {mqtt.USER_PROPERTY: [("x", "y")], mqtt.MESSAGE_EXPIRY: 30, mqtt.CONTENT_TYPE: "text/plain", 0x01: 1}
        await session.publish(device.topic("request"), wire.encode(body, "json"), 1, given=given)
        assert device.read(await session.message(), body).generation == 1


async def test_without_problem_information_only_connack_and_disconnect_explain(site: Site) -> None:
    device, _ = await site.unit(version=5)
    async with await device.open(given={mqtt.REQUEST_PROBLEM_INFORMATION: 0}) as session:
        refused = await session.suback(("#", 1))
        assert refused.codes == [0x87]
        assert not {mqtt.REASON_STRING, mqtt.USER_PROPERTY} & refused.properties.keys()
        await session.send(session.publish_packet("elsewhere", b"{}", 1))
        refused = await session.puback()
        assert refused.codes == [0x87]
        assert not {mqtt.REASON_STRING, mqtt.USER_PROPERTY} & refused.properties.keys()


async def test_the_receive_maximum_of_the_client_is_honoured(site: Site) -> None:
    device, _ = await site.unit(version=5)
    async with await device.open(given={mqtt.RECEIVE_MAXIMUM: 1}) as session:
        session.acknowledges = False
        bodies = [device.claim_body(f"r-{number}") for number in range(2)]
        for body in bodies:
            await session.send(session.publish_packet(device.topic("request"), wire.encode(body, "json"), 0))
        first = await session.message()
        assert first.qos == 1
        with contextlib.suppress(TimeoutError):
            early = await session.message(0.3)
            assert early.qos == 0, "two QoS 1 messages in flight"
            return
        await session.acknowledge(first)
        assert (await session.message()).packet_id is not None


async def test_on_mqtt_3_a_reply_waits_for_no_puback(site: Site) -> None:
    device, _ = await site.unit()
    async with await device.open() as session:
        session.acknowledges = False
        for number in range(6):
            reply = await device.exchange("request", device.claim_body(f"r-{number}"), session=session)
            assert (reply.generation, reply.message.qos) == (1, 1)


@pytest.mark.parametrize("limit", [120, 300, 600])
async def test_the_maximum_packet_size_of_the_client_is_honoured(site: Site, limit: int) -> None:
    device, _ = await site.unit(version=5, configuration={"long": "x" * 600})
    async with await device.open(given={mqtt.MAXIMUM_PACKET_SIZE: limit}) as session:
        body = device.claim_body()
        await session.publish(device.topic("request"), wire.encode(body, "json"), 1)
        with contextlib.suppress(TimeoutError, EndedError):
            got = await session.message(0.5)
            assert got.size <= limit
            assert wire.decode(got.payload, "json")["reason"] == "too-large"
    async with await device.open(given={mqtt.MAXIMUM_PACKET_SIZE: 8000}) as session:
        assert (await device.exchange("request", device.claim_body(), session=session)).generation == 1


@BOTH
async def test_answers_go_to_the_connection_that_asked_and_nowhere_else(site: Site, version: wire.Version) -> None:
    device, _ = await site.unit(version=version)
    async with await device.open() as listener, await device.open() as asker:
        await device.exchange("request", device.claim_body(), session=asker)
        await listener.ping()
        assert not listener.inbox


@BOTH
async def test_disconnect_ends_the_session_quietly(site: Site, version: wire.Version) -> None:
    device, _ = await site.unit(version=version)
    session = await device.open()
    await session.send(mqtt.packet(mqtt.DISCONNECT, b""))
    assert await session.ended() is None
    await session.close()


@BOTH
async def test_the_topics_of_a_request_that_does_not_exist_answer_alike(site: Site, version: wire.Version) -> None:
    await site.request()
    device = site.device(fresh_name("nobody"), "k" * 32, version=version)
    async with await device.open(subscribe=None) as session:
        assert await session.subscribe((device.topic("reply"), 1)) == [1]
        assert await session.subscribe(("#", 1)) == [0x80 if version == 4 else 0x87]
