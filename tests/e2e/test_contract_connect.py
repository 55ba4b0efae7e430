"""Section 4 of the contract: every row of the CONNECT table in both versions, and who may stand beside whom."""

import asyncio
import contextlib
import time
from typing import Any

import pytest

from tests.e2e import independent as wire
from tests.e2e import packets as mqtt
from tests.e2e.packets import EndedError, RefusedError, Session
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, Site, fresh_name, fresh_source

BOTH = pytest.mark.parametrize("version", [4, 5])


async def refusal(
    site: Site, version: int, client_id: str | bytes, username: str | None, password: str | None, **more: Any
) -> int:
    """The code of a CONNACK; a refused connection is closed by the server after it."""
    async with await Session.open(site.program.endpoint, version, fresh_source()) as session:
        answer = await session.connect(client_id, username, password, **more)
        if answer.code:
            assert not answer.present
            await session.ended()
        return answer.code


@BOTH
async def test_the_right_login_is_admitted_even_where_no_request_exists(site: Site, version: wire.Version) -> None:
    await site.request()
    assert await refusal(site, version, fresh_name("nobody"), FLOOR_USER, FLOOR_PASSWORD) == 0


@BOTH
@pytest.mark.parametrize(
    ("username", "password"),
    [
        pytest.param(FLOOR_USER, "wrong", id="wrong password"),
        pytest.param(FLOOR_USER, "", id="empty password"),
        pytest.param(FLOOR_USER, None, id="missing password"),
        pytest.param(FLOOR_USER, FLOOR_PASSWORD + " ", id="one character more"),
        pytest.param(FLOOR_USER.upper(), FLOOR_PASSWORD, id="name in other letters"),
        pytest.param("unheard-of", FLOOR_PASSWORD, id="unknown user"),
        pytest.param("no name at all!", FLOOR_PASSWORD, id="user outside the grammar"),
        pytest.param("", "", id="empty user"),
        pytest.param(None, None, id="no login"),
        pytest.param("admin", "admin", id="a guess"),
    ],
)
async def test_every_wrong_login_gets_the_same_answer(
    site: Site, version: wire.Version, username: str | None, password: str | None
) -> None:
    request = await site.request()
    known = await refusal(site, version, request.client_id, username, password)
    unknown = await refusal(site, version, fresh_name("nobody"), username, password)
    assert known == unknown == (5 if version == 4 else 0x87)


async def test_an_mqtt_5_password_without_a_user_is_a_wrong_login(site: Site) -> None:
    assert await refusal(site, 5, fresh_name(), None, FLOOR_PASSWORD) == 0x87


@BOTH
@pytest.mark.parametrize(
    "client_id",
    [
        "",
        "-a",
        ".a",
        ":a",
        "_a",
        "a/b",
        "a+b",
        "a#",
        "a b",
        "ä",
        "a" * 129,
        "a\n",
        " a",
        "a|b",
        "a*",
        "\N{CYRILLIC SMALL LETTER A}",
    ],
    ids=ascii,
)
async def test_a_client_id_outside_the_grammar_is_refused_before_its_login_is_looked_at(
    site: Site, version: wire.Version, client_id: str
) -> None:
    wanted = 2 if version == 4 else 0x85
    assert await refusal(site, version, client_id, FLOOR_USER, FLOOR_PASSWORD) == wanted
    assert await refusal(site, version, client_id, FLOOR_USER, "wrong", will=("a", b"b")) == wanted


@BOTH
@pytest.mark.parametrize("client_id", ["a", "A" * 128, "0", "00:1A:2B:3C:4D:5E", "a.b_c-d:e"])
async def test_a_client_id_inside_the_grammar_is_admitted(site: Site, version: wire.Version, client_id: str) -> None:
    await site.request()
    assert await refusal(site, version, client_id, FLOOR_USER, FLOOR_PASSWORD) == 0


@BOTH
async def test_a_will_is_refused(site: Site, version: wire.Version) -> None:
    client_id = (await site.request()).client_id
    wanted = 5 if version == 4 else 0x87
    topic = f"prov/v1/{FLOOR_USER}/{client_id}/request"
    assert await refusal(site, version, client_id, FLOOR_USER, FLOOR_PASSWORD, will=(topic, b"{}")) == wanted


@pytest.mark.parametrize(("level", "name"), [(3, "MQTT"), (3, "MQIsdp"), (0, "MQTT"), (1, "MQTT"), (2, "MQTT")])
async def test_older_versions_are_refused_in_the_form_of_3_1_1(site: Site, level: int, name: str) -> None:
    async with await Session.open(site.program.endpoint, 4) as session:
        assert (await session.connect("", "nobody", None, version=level, name=name, shape=4)).code == 1
        await session.ended()


@pytest.mark.parametrize("level", [6, 7, 127])
async def test_newer_versions_are_refused_in_the_form_of_5(site: Site, level: int) -> None:
    async with await Session.open(site.program.endpoint, 5) as session:
        assert (await session.connect("", "nobody", None, version=level, shape=5)).code == 0x84
        await session.ended()


@BOTH
async def test_a_session_is_never_present(site: Site, version: wire.Version) -> None:
    request = await site.request()
    given = {mqtt.SESSION_EXPIRY: 3600} if version == 5 else None
    for clean in (False, True, False):
        async with await Session.open(site.program.endpoint, version) as session:
            answer = await session.connect(request.client_id, FLOOR_USER, FLOOR_PASSWORD, clean=clean, given=given)
            assert (answer.code, answer.present) == (0, False)
            await session.subscribe((f"prov/v1/{FLOOR_USER}/{request.client_id}/reply", 1))


async def test_the_connack_of_mqtt_5_tells_the_limits(site: Site) -> None:
    request = await site.request()
    async with await Session.open(site.program.endpoint, 5) as session:
        answer = await session.connect(request.client_id, FLOOR_USER, FLOOR_PASSWORD, given={mqtt.SESSION_EXPIRY: 600})
    wanted = {
        mqtt.MAXIMUM_QOS: 1,
        mqtt.SESSION_EXPIRY: 0,
        mqtt.RECEIVE_MAXIMUM: 4,
        mqtt.MAXIMUM_PACKET_SIZE: 16384,
        mqtt.SERVER_KEEP_ALIVE: 80,
        mqtt.RETAIN_AVAILABLE: 0,
    }
    assert {key: answer.properties.get(key) for key in wanted} == wanted


async def test_enhanced_authentication_is_refused(site: Site) -> None:
    given = {mqtt.AUTHENTICATION_METHOD: "SCRAM-SHA-256"}
    assert await refusal(site, 5, fresh_name(), FLOOR_USER, FLOOR_PASSWORD, given=given) == 0x8C


@BOTH
async def test_sessions_with_the_same_client_id_stand_side_by_side(site: Site, version: wire.Version) -> None:
    device, _ = await site.unit(version=version)
    async with contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(await device.open()) for _ in range(4)]
        for session in sessions:
            await session.ping()
        for number, session in enumerate(sessions):
            reply = await device.exchange("request", device.claim_body(f"r-{number}"), session=session)
            assert reply.generation == 1
        for session in sessions:
            await session.ping()
            assert not session.inbox, "an answer went to another connection"


@BOTH
async def test_at_most_4_unproved_sessions_come_from_one_source(site: Site, version: wire.Version) -> None:
    device, _ = await site.unit(version=version)
    async with contextlib.AsyncExitStack() as stack:
        first, *_ = [await stack.enter_async_context(await device.open()) for _ in range(4)]
        with pytest.raises(RefusedError) as refused:
            await device.open()
        assert refused.value.code in ({3} if version == 4 else {0x97, 0x88})
        async with await device.open(source=fresh_source()) as elsewhere:
            await elsewhere.ping()
        # Who proves the key makes room for another newcomer.
        assert (await device.exchange("request", device.claim_body(), session=first)).generation == 1
        async with await device.open() as fifth:
            await fifth.ping()
        await first.ping()


@BOTH
async def test_at_most_16_unproved_sessions_claim_to_be_one_device(site: Site, version: wire.Version) -> None:
    device, _ = await site.unit(version=version)
    async with contextlib.AsyncExitStack() as stack:
        sessions = []
        for _ in range(4):
            source = fresh_source()
            sessions += [await stack.enter_async_context(await device.open(source=source)) for _ in range(4)]
        # Nobody keeps the device out: the first of those who have most places makes room.
        async with await device.open(source=fresh_source()) as newcomer:
            assert await sessions[0].ended() == (None if version == 4 else 0x97)
            for session in (*sessions[1:], newcomer):
                await session.ping()


@BOTH
async def test_a_fifth_proved_session_replaces_the_oldest(site: Site, version: wire.Version) -> None:
    device, _ = await site.unit(version=version)
    async with contextlib.AsyncExitStack() as stack:
        sessions = []
        for _ in range(5):
            session = await stack.enter_async_context(await device.open())
            sessions.append(session)
            assert (await device.exchange("request", device.claim_body(), session=session)).generation == 1
        assert await sessions[0].ended() == (None if version == 4 else 0x97)
        for session in sessions[1:]:
            await session.ping()


async def test_a_replayed_nonce_proves_nothing(site: Site) -> None:
    device, _ = await site.unit()
    await device.connect()
    body = device.claim_body()
    assert (await device.exchange("request", body)).generation == 1
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            source = fresh_source()
            for _ in range(3):
                thief = await stack.enter_async_context(await device.open(source=source))
                await thief.publish(device.topic("request"), wire.encode(body, "json"), 1)
                await thief.message()
        assert (await device.ack("stored", 1)).reason == "confirmed"


async def test_a_wrong_connect_never_disturbs_a_provisioning_session(site: Site) -> None:
    device, _ = await site.unit()
    await device.connect()
    for password in ("wrong", "", None):
        assert await refusal(site, 4, device.client_id, FLOOR_USER, password) == 5
    assert (await device.claim()).generation == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(mqtt.packet(mqtt.PINGREQ, b""), id="PINGREQ"),
        pytest.param(mqtt.packet(mqtt.PUBLISH, mqtt.text("prov/v1/a/b/request") + b"{}"), id="PUBLISH"),
        pytest.param(mqtt.packet(mqtt.SUBSCRIBE, b"\0\1" + mqtt.text("#") + b"\0", 2), id="SUBSCRIBE"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: " + b"x" * 80 + b"\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"\x10\xff\xff\xff\xff\x7f", id="a length of five bytes"),
        pytest.param(b"\x10\xff\xff\xff\x7f", id="a length of 256 MiB"),
        pytest.param(
            mqtt.connect_packet("a", "b", "c")[:1] + b"\xff\x7f" + b"x" * 20000, id="a length of 16 KiB and more"
        ),
        pytest.param(
            mqtt.packet(mqtt.CONNECT, b"\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01a\x00\x05b"), id="a string beyond the end"
        ),
        pytest.param(mqtt.packet(mqtt.CONNECT, b"\x00\x04MQTT\x04\x03\x00\x3c\x00\x01a"), id="the reserved flag"),
        pytest.param(
            mqtt.packet(mqtt.CONNECT, b"\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01a\x00\x01b\x00\x01cmore"),
            id="bytes after the password",
        ),
        pytest.param(mqtt.packet(mqtt.CONNECT, b""), id="an empty CONNECT"),
        pytest.param(b"\x00\x00", id="packet type 0"),
    ],
)
async def test_what_is_no_connect_is_closed_and_nobody_else_notices(site: Site, data: bytes) -> None:
    device, _ = await site.unit()
    await device.connect()
    async with await Session.open(site.program.endpoint, 4, fresh_source()) as session:
        await session.send(data)
        try:
            assert (await session.connack()).code != 0
            await session.ended()
        except EndedError:
            pass
    assert (await device.claim()).generation == 1


@BOTH
async def test_a_second_connect_ends_the_session(site: Site, version: wire.Version) -> None:
    device, _ = await site.unit(version=version)
    async with await device.open() as session:
        await session.send(mqtt.connect_packet(device.client_id, FLOOR_USER, FLOOR_PASSWORD, version=version))
        await session.ended()


@BOTH
async def test_a_packet_over_16_kib_ends_the_session(site: Site, version: wire.Version) -> None:
    device, _ = await site.unit(version=version)
    async with await device.open() as session:
        with contextlib.suppress(EndedError):
            await session.send(session.publish_packet(device.topic("request"), b" " * 17000))
        await session.ended()


async def test_connect_and_subscribe_and_claim_may_arrive_in_one_segment_or_byte_by_byte(site: Site) -> None:
    for step in (None, 1):
        device, _ = await site.unit()
        body = device.claim_body()
        async with await Session.open(site.program.endpoint) as session:
            data = mqtt.connect_packet(device.client_id, FLOOR_USER, FLOOR_PASSWORD)
            data += mqtt.packet(mqtt.SUBSCRIBE, b"\x00\x07" + mqtt.text(device.topic("reply")) + b"\x00", 2)
            data += session.publish_packet(device.topic("request"), wire.encode(body, "json"))
            for at in range(0, len(data), step or len(data)):
                await session.send(data[at : at + (step or len(data))])
                if step:
                    await asyncio.sleep(0)
            assert (await session.connack()).code == 0
            assert (await session.packet()).kind == mqtt.SUBACK
            assert device.read(await session.message(), body).generation == 1


async def test_silent_connections_are_closed(site: Site) -> None:
    """5 s for a whole CONNECT, 10 s from CONNACK to the first claim; the only test that has to look at a clock."""
    device, _ = await site.unit()
    began = time.monotonic()

    async def closed_after(session: Session) -> float:
        async with session:
            await session.ended(20)
        return time.monotonic() - began

    mute = await Session.open(site.program.endpoint, 4, fresh_source())
    half = await Session.open(site.program.endpoint, 4, fresh_source())
    await half.send(mqtt.connect_packet("half", FLOOR_USER, FLOOR_PASSWORD)[:-1])
    idle = await device.open()
    times = await asyncio.gather(*(closed_after(session) for session in (mute, half, idle)))
    assert [round(seconds) in limit for seconds, limit in zip(times, ({5, 6}, {5, 6}, {10, 11}), strict=True)] == [
        True
    ] * 3, times
