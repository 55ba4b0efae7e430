"""The guard: who becomes a device's connection, what a device may do, and what `kick` leaves behind."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import structlog

from broker.mqtt.filters import covers, matches
from broker.mqtt.grant import Grant, GuardLimits
from broker.mqtt.packets import V311, Connack, Connect, Publish, Suback, Subscribe, Subscription, Will, encode
from provisioner.errors import Unavailable
from tests.broker.mqtt.device_client import PATIENCE, DeviceClient, Logins, Site, guarded
from tests.broker.mqtt.serving import until

LIMITS = GuardLimits(refusal_grid=0.01)
MINE = "acme/dev-1/in"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with guarded(LIMITS) as site:
        yield site


async def gone(device: DeviceClient) -> None:
    assert await device.ended() == []


# Logging in


@pytest.mark.parametrize("password", [b"", b"PW", b"pw ", None])
async def test_a_wrong_or_missing_password_is_refused(site: Site, password: bytes | None) -> None:
    assert await site.refused(password=password) == 5


async def test_a_login_without_user_name_is_refused_unasked() -> None:
    logins = Logins()
    async with guarded(LIMITS, logins) as site:
        assert await site.refused(username=None, password=None) == 5
        assert await site.refused(username="", password=b"pw") == 5
    assert logins.asked == []


@pytest.mark.parametrize("client_id", ["", "+", "#", "a/b", ".*", "-a", "dA|x", "%c", "a b", "ä", "a" * 129, "a\n"])
async def test_a_client_id_outside_the_grammar_is_refused_unasked(client_id: str) -> None:
    logins = Logins()
    async with guarded(LIMITS, logins) as site:
        assert await site.refused(client_id) == 2
        assert await site.refused(client_id, clean=False) == 2
    assert logins.asked == []


@pytest.mark.parametrize("client_id", ["a", "00:1A:2B:3C:4D:5E", "a.b_c-d", "9" * 128])
async def test_a_client_id_inside_the_grammar_is_admitted(site: Site, client_id: str) -> None:
    await site.connect(client_id)
    assert [grant.client_id for grant in site.broker.connected()] == [client_id]


async def test_who_cannot_be_judged_is_told_to_come_later() -> None:
    async def fail(_username: str, _password: bytes, _client_id: str, _source: str) -> Grant | None:
        raise OSError("our own fault")

    async def away(_username: str, _password: bytes, _client_id: str, _source: str) -> Grant | None:
        raise Unavailable("the ledger is away")

    async def hang(_username: str, _password: bytes, _client_id: str, _source: str) -> Grant | None:
        await asyncio.get_running_loop().create_future()
        return None

    told = []
    for judge in (fail, away, hang):
        with structlog.testing.capture_logs() as lines:
            async with guarded(replace(LIMITS, login_time=0.05), judge) as site:
                assert await site.refused() == 3
        told += [(line["log_level"], line.get("detail"), "exc_info" in line) for line in lines]
    assert told == [
        ("error", None, True),
        ("warning", "the ledger is away", False),
        ("warning", "it took too long", False),
    ]


async def test_a_grant_for_another_login_admits_nobody() -> None:
    async def confuse(username: str, _password: bytes, _client_id: str, _source: str) -> Grant | None:
        return Grant("acme", username, "dev-2", ("#",), ("#",))

    async with guarded(LIMITS, confuse) as site:
        device = await site.open()
        await device.send(Connect("dev-1", username="acme.dev-1", password=b"pw"))
        await gone(device)
        assert site.broker.connected() == []


async def test_a_login_by_another_name_is_kicked_by_its_own() -> None:
    heard = []

    async def judge(username: str, _password: bytes, client_id: str, _source: str) -> Grant | None:
        heard.append(username)
        return Grant("acme", "acme.dev-1.g1", client_id, ("#",), ("#",))

    async with guarded(LIMITS, judge) as site:
        device = await site.open()
        await device.send(Connect("dev-1", username="00123", password=b"pw"))
        await device.receive(Connack)
        assert heard == ["00123"]
        assert await site.broker.kick("acme.dev-1.g1") == 1
        await gone(device)


async def test_the_judge_hears_password_and_source() -> None:
    heard = []

    async def judge(username: str, password: bytes, client_id: str, source: str) -> Grant | None:
        heard.append((username, password, client_id, source))
        return None

    async with guarded(LIMITS, judge) as site:
        assert await site.refused(password=b"\xff\x00") == 5
    assert heard == [("acme.dev-1", b"\xff\x00", "dev-1", "127.0.0.1")]


async def test_a_refusal_is_held_up_to_the_grid_whatever_the_judge_took() -> None:
    async with guarded(replace(LIMITS, refusal_grid=0.2)) as site:
        loop = asyncio.get_running_loop()
        await site.connect()
        for username, password in (("acme.dev-1", b"no"), ("acme.other", b"pw"), (None, None)):
            began = loop.time()
            assert await site.refused(username=username, password=password) == 5
            assert loop.time() - began >= 0.19


async def test_a_connect_above_its_limit_is_cut_off_before_it_is_complete(site: Site) -> None:
    device = await site.open()
    await device.send_bytes(b"\x10\xff\x7f" + bytes(17_000))
    await gone(device)
    device = await site.open()
    await device.send_bytes(encode(Connect("dev-1", username="acme.dev-1", password=bytes(16_400)), V311))
    await gone(device)


async def test_a_connect_in_single_bytes_is_understood(site: Site) -> None:
    device = await site.open()
    for octet in encode(Connect("dev-1", username="acme.dev-1", password=b"pw"), V311):
        await device.send_bytes(bytes((octet,)))
    assert await device.receive(Connack) == Connack(0)


@pytest.mark.parametrize("topic", ["acme/dev-2/out", "$SYS/x", "other", "x" * 5000])
async def test_a_will_outside_the_publish_rights_is_refused(site: Site, topic: str) -> None:
    assert await site.refused(will=Will(topic, b"")) == 5
    assert site.broker.connected() == []


# Places


async def test_when_all_places_are_taken_who_said_nothing_makes_room() -> None:
    async with guarded(replace(LIMITS, connections=2)) as site:
        await site.connect("dev-1")
        silent = await site.open()
        await site.connect("dev-2", "acme.dev-2")
        await gone(silent)
        assert await site.refused("dev-3", "acme.dev-3") == 3
        assert [grant.client_id for grant in site.broker.connected()] == ["dev-1", "dev-2"]


async def test_one_source_does_not_take_all_places() -> None:
    async with guarded(replace(LIMITS, connections_per_source=1)) as site:
        device = await site.connect("dev-1")
        assert await site.refused("dev-2", "acme.dev-2") == 3
        await device.leave()
        await until(lambda: not site.broker._guard._tasks)
        await site.connect("dev-2", "acme.dev-2")


# One client id


async def test_another_user_name_is_refused_while_a_client_id_is_live(site: Site) -> None:
    device = await site.connect()
    await device.subscribe("shared/in")
    for clean in (True, False):
        assert await site.refused(username="acme.dev-1.g2", clean=clean) == 5
    await device.publish("shared/in", b"undisturbed")
    assert await device.messages(1) == [("shared/in", b"undisturbed")]
    await device.leave()
    await site.connect(username="acme.dev-1.g2")


async def test_the_same_client_id_in_two_accounts_is_two_devices(site: Site) -> None:
    acme = await site.connect("dev-1", "acme.one", clean=False)
    other = await site.connect("dev-1", "other.one", clean=False)
    await acme.subscribe("shared/a", qos=1)
    await other.subscribe("shared/b", qos=1)
    await acme.leave()
    await other.publish("shared/a", b"for acme", 1)
    await other.publish("shared/b", b"for other", 1)
    assert await other.messages(1) == [("shared/b", b"for other")]
    again = await site.connect("dev-1", "acme.one", clean=False, present=True)
    assert await again.messages(1) == [("shared/a", b"for acme")]


async def test_of_many_take_overs_at_once_one_is_left(site: Site) -> None:
    clients = [await site.open() for _number in range(20)]
    for number, client in enumerate(clients):
        await client.send(Connect("dev-1", V311, number % 2 == 0, 60, "acme.dev-1", b"pw"))
    ends = {asyncio.ensure_future(client.ended()) for client in clients}
    async with asyncio.timeout(PATIENCE):
        left = ends
        while len(left) > 1:
            _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        assert len(site.broker.connected()) == 1
        assert await site.broker.kick("acme.dev-1") == 1
        assert all(await asyncio.gather(*ends))  # each was admitted before it was taken over


async def test_an_offline_session_of_another_user_name_is_not_inherited(site: Site) -> None:
    device = await site.connect(clean=False)
    await device.subscribe("shared/in", qos=1)
    await device.leave()
    sender = await site.connect("op-1", "acme.op-1")
    await sender.publish("shared/in", b"for the first", 1)
    second = await site.connect(username="acme.dev-1.g2", clean=False)
    await sender.publish("shared/in", b"nobody", 1)
    await second.subscribe(MINE)
    await second.publish(MINE, b"mine")
    assert await second.messages(1) == [(MINE, b"mine")]


async def test_a_clean_session_forgets_the_kept_one(site: Site) -> None:
    device = await site.connect(clean=False)
    await device.subscribe("shared/in", qos=1)
    await device.leave()
    clean = await site.connect()
    await clean.publish("shared/in", b"nobody")
    await clean.leave()
    again = await site.connect(clean=False)
    await again.subscribe(MINE)
    await again.publish(MINE, b"mine")
    assert await again.messages(1) == [(MINE, b"mine")]


async def test_kept_sessions_are_few_and_young() -> None:
    async with guarded(replace(LIMITS, stored_sessions=2)) as site:
        for number in range(3):
            device = await site.connect(f"dev-{number}", clean=False)
            await device.leave()
        await until(lambda: site.broker.connected() == [])
        await site.connect("dev-0", clean=False, present=False)
        await site.connect("dev-2", clean=False, present=True)
    async with guarded(replace(LIMITS, session_expiry=0.0)) as site:
        device = await site.connect(clean=False)
        await device.leave()
        await site.connect(clean=False, present=False)


async def test_a_kept_subscription_outside_newly_granted_rights_ends() -> None:
    logins = Logins(filters=("shared/#", "more/#"))
    async with guarded(LIMITS, logins) as site:
        device = await site.connect(clean=False)
        await device.subscribe("shared/in", "more/in", qos=1)
        await device.leave()
        sender = await site.connect("op-1", "acme.op-1")
        logins.filters = ("shared/#",)
        again = await site.connect(clean=False, present=True)
        await sender.publish("more/in", b"no longer")
        await sender.publish("shared/in", b"still")
        assert await again.messages(1) == [("shared/in", b"still")]


# Kicking


async def test_kick_ends_every_connection_of_a_user_name(site: Site) -> None:
    devices = [await site.connect(f"dev-{number}", "acme.loose") for number in range(3)]
    bystander = await site.connect("by", "acme.by")
    assert site.broker.is_live("acme.loose")
    assert await site.broker.kick("acme.loose") == 3
    assert not site.broker.is_live("acme.loose")
    assert [grant.username for grant in site.broker.connected()] == ["acme.by"]
    for device in devices:
        await gone(device)
    await bystander.ping()
    assert await site.broker.kick("acme.loose") == 0
    assert await site.broker.kick("nobody") == 0


@pytest.mark.parametrize("online", [True, False])
async def test_nothing_of_a_session_outlives_a_kick(site: Site, *, online: bool) -> None:
    device = await site.connect(clean=False)
    await device.subscribe("shared/in", qos=1)
    sender = await site.connect("op-1", "acme.op-1")
    if not online:
        await device.leave()
        await sender.publish("shared/in", b"waits", 1)
    assert await site.broker.kick("acme.dev-1") == online
    await sender.publish("shared/in", b"nobody", 1)
    again = await site.connect(clean=False, present=False)
    await again.subscribe(MINE)
    await again.publish(MINE, b"mine")
    assert await again.messages(1) == [(MINE, b"mine")]


async def test_a_kick_reaches_a_login_that_was_judged_before_it() -> None:
    judged, proceed = asyncio.Event(), asyncio.Event()

    async def judge(username: str, _password: bytes, client_id: str, _source: str) -> Grant | None:
        judged.set()
        await proceed.wait()
        return Grant("acme", username, client_id, ("#",), ("#",))

    async with guarded(LIMITS, judge) as site:
        refusal = asyncio.ensure_future(site.refused())
        async with asyncio.timeout(PATIENCE):
            await judged.wait()
            assert await site.broker.kick("acme.dev-1") == 0
            proceed.set()
            assert await refusal == 5
        assert site.broker.connected() == []


async def test_the_will_of_a_kicked_device_is_not_published(site: Site) -> None:
    watcher = await site.connect("op-1", "acme.op-1")
    await watcher.subscribe("shared/#")
    device = await site.connect(will=Will("shared/will", b"kicked"))
    await site.broker.kick("acme.dev-1")
    await gone(device)
    lost = await site.connect(will=Will("shared/will", b"lost"))
    lost.vanish()
    assert await watcher.messages(1) == [("shared/will", b"lost")]


# Rights

GRANTED = ("acme/dev-1/#", "acme/+/news", "plain")
WANTED = [
    ("acme/dev-1/#", True),
    ("acme/dev-1", True),
    ("acme/dev-1/+/x", True),
    ("acme/+/news", True),
    ("acme/dev-7/news", True),
    ("plain", True),
    ("plain/#", False),
    ("acme/+/#", False),
    ("acme/+/+", False),
    ("acme/dev-7/#", False),
    ("+/dev-1/#", False),
    ("#", False),
    ("$SYS/#", False),
    ("$share/group/plain", False),
    ("$share/group/acme/dev-1/#", False),
]


async def test_each_subscription_of_a_packet_is_granted_or_refused_by_itself() -> None:
    async with guarded(LIMITS, Logins(GRANTED, own=False)) as site:
        device = await site.connect()
        codes = await device.subscribe(*(one for one, _ in WANTED), qos=1)
        assert codes == tuple(1 if granted else 0x80 for _, granted in WANTED)
        await device.publish("plain", b"granted")
        assert await device.messages(1) == [("plain", b"granted")]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        ("acme/dev-1", True),
        ("acme/dev-1/a/b", True),
        ("acme/dev-7/news", True),
        ("plain", True),
        ("plain/", False),
        ("acme/dev-7", False),
        ("acme", False),
        ("other/dev-1/x", False),
    ],
)
async def test_publishing_outside_the_rights_closes_the_connection(topic: str, qos: int, *, allowed: bool) -> None:
    async with guarded(LIMITS, Logins(GRANTED, own=False)) as site:
        assert any(covers(one, topic) and matches(one, topic) for one in GRANTED) is allowed
        witness = await site.connect("by", "acme.by")
        await witness.subscribe("plain", "acme/+/news")
        device = await site.connect()
        if allowed:
            await device.publish(topic, b"x", qos)
            await device.ping()
            return
        await device.send(Publish(topic, b"x", qos, 1 if qos else 0, retain=True))
        await gone(device)
        await witness.publish("plain", b"end")
        assert await witness.messages(1) == [("plain", b"end")]


async def test_subscriptions_of_one_session_are_bounded() -> None:
    async with guarded(replace(LIMITS, subscriptions=2)) as site:
        device = await site.connect()
        assert await device.subscribe("shared/1", "shared/1", "shared/2", "shared/3") == (0, 0, 0, 0x80)
        assert await device.subscribe("shared/2", qos=1) == (1,)
        await device.unsubscribe("shared/1", "never/had")
        assert await device.subscribe("shared/3") == (0,)


async def test_a_message_and_its_answer_leave_at_once(site: Site) -> None:
    device = await site.connect()
    await device.subscribe(MINE, qos=1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _trip in range(20):
        await device.publish(MINE, b"x", 1)
        await device.message()
    assert (loop.time() - began) / 20 < 0.02


async def test_two_hundred_subscriptions_in_one_packet_get_two_hundred_codes(site: Site) -> None:
    device = await site.connect()
    await device.send(Subscribe(9, tuple(Subscription(f"shared/{number}") for number in range(200))))
    suback = await device.receive(Suback)
    assert suback.codes == (0,) * 64 + (0x80,) * 136
