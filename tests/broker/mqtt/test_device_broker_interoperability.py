"""The scenarios of the published MQTT 3.1.1 interoperability list, told anew, against the guarded device broker.

What the broker does otherwise than that list expects stands in `KNOWN_EXCEPTIONS`, by name and with its reason, and is
tested as it is: an exception that is none any more fails here as well.
"""

import asyncio
import queue
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from broker.mqtt.grant import GuardLimits
from broker.mqtt.packets import V311, Connect, Puback, Pubcomp, Publish, Pubrec, Pubrel, Suback, Subscribe, Will
from broker.mqtt.packets import Subscription as Wanted
from tests.broker.mqtt.device_client import PATIENCE, DeviceClient, Logins, Site, guarded

LIMITS = GuardLimits(refusal_grid=0.01)
# The list's topics: levels with and without names, and some that differ in a slash only.
TOPICS = ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with guarded(LIMITS, Logins(("#",), own=False)) as site:
        yield site


async def fence(site: Site, device: DeviceClient) -> list[Publish]:
    """Every message the device got up to now: a last one goes the same way behind them, known by its topic."""
    await device.subscribe("fence")
    await site.broker.publish("fence", b"")
    messages = []
    while (message := await device.message()).topic != "fence":
        messages.append(message)
    await device.unsubscribe("fence")
    return messages


# Basic


async def test_basic_connect_leave_and_connect_again(site: Site) -> None:
    for _time in range(3):
        device = await site.connect()
        await device.ping()
        await device.leave()


async def test_basic_publish_and_receive_at_each_quality_of_service(site: Site) -> None:
    device = await site.connect()
    await device.subscribe("TopicA/#", qos=2)
    for qos in (0, 1, 2):
        await device.publish("TopicA/B", b"qos %d" % qos, qos)
    got = [(message.payload, message.qos, message.retain) for message in await fence(site, device)]
    assert got == [(b"qos 0", 0, False), (b"qos 1", 1, False), (b"qos 2", 2, False)]


@pytest.mark.parametrize("granted", [0, 1, 2])
async def test_basic_the_subscription_caps_the_quality_of_service(site: Site, granted: int) -> None:
    device = await site.connect()
    assert await device.subscribe("TopicA", qos=granted) == (granted,)
    for qos in (0, 1, 2):
        await device.publish("TopicA", b"", qos)
    assert [message.qos for message in await fence(site, device)] == [min(qos, granted) for qos in (0, 1, 2)]


async def test_basic_a_second_connect_on_the_connection_ends_it(site: Site) -> None:
    device = await site.connect()
    await device.send(Connect("dev-1", V311, username="acme.dev-1", password=b"pw"))
    assert await device.ended() == []


async def test_basic_a_second_connection_of_the_client_id_ends_the_first(site: Site) -> None:
    first = await site.connect(clean=False)
    second = await site.connect(clean=False, present=True)
    assert await first.ended() == []
    await second.ping()


@pytest.mark.parametrize(
    ("topic_filter", "expected"),
    [
        ("TopicA", {"TopicA"}),
        ("TopicA/+", {"TopicA/B", "TopicA/C"}),
        ("TopicA/#", {"TopicA", "TopicA/B", "TopicA/C"}),
        ("+/C", {"Topic/C", "TopicA/C"}),
        ("/+", {"/TopicA"}),
        ("+/+", {"TopicA/B", "Topic/C", "TopicA/C", "/TopicA"}),
        ("+", {"TopicA"}),
        ("#", set(TOPICS)),
        ("/#", {"/TopicA"}),
        ("+/#", set(TOPICS)),
        ("TopicA/B/#", {"TopicA/B"}),
        ("topica", set()),
    ],
)
async def test_basic_wildcards(site: Site, topic_filter: str, expected: set[str]) -> None:
    device = await site.connect()
    await device.subscribe(topic_filter)
    for topic in TOPICS:
        await device.publish(topic)
    assert {message.topic for message in await fence(site, device)} - {"fence"} == expected


async def test_basic_messages_of_one_publisher_keep_their_order(site: Site) -> None:
    device = await site.connect()
    await device.subscribe("TopicA", qos=2)
    for number in range(60):
        await device.publish("TopicA", b"%d" % number, number % 3)
    assert [int(message.payload) for message in await fence(site, device)] == list(range(60))


async def test_basic_a_qos_2_message_sent_twice_arrives_once(site: Site) -> None:
    device = await site.connect(clean=False)
    await device.subscribe("TopicA", qos=2)
    once = Publish("TopicA", b"once", 2, 7)
    await device.send(once, replace(once, dup=True))
    assert [(await device.receive(Pubrec)).packet_id for _ in range(2)] == [7, 7]
    device.vanish()
    again = await site.connect(clean=False, present=True)
    await again.send(replace(once, dup=True))
    assert (await again.receive(Pubrec)).packet_id == 7
    for _time in range(2):
        await again.send(Pubrel(7))
        assert (await again.receive(Pubcomp)).packet_id == 7
    await again.send(replace(once, payload=b"the identifier is free again"))
    await again.receive(Pubrec)
    fresh = [message.payload for message in await fence(site, again) if not message.dup]
    assert fresh.count(b"the identifier is free again") == 1
    assert fresh.count(b"once") <= 1


# Retained messages


async def test_retained_messages_are_sent_to_new_subscriptions(site: Site) -> None:
    device = await site.connect()
    for qos, topic in enumerate(("TopicA/B", "Topic/C", "TopicA/C")):
        await device.publish(topic, b"former", qos, retain=True)
        await device.publish(topic, b"kept", qos, retain=True)
    late = await site.connect("dev-2", "acme.dev-2")
    await late.subscribe("+/+", qos=2)
    got = {(message.topic, message.payload, message.qos, message.retain) for message in await fence(site, late)}
    assert got == {
        ("TopicA/B", b"kept", 0, True),
        ("Topic/C", b"kept", 1, True),
        ("TopicA/C", b"kept", 2, True),
    }
    await late.subscribe("TopicA/B")
    assert [message.topic for message in await fence(site, late)] == ["TopicA/B"]


async def test_retained_messages_are_removed_by_an_empty_one(site: Site) -> None:
    device = await site.connect()
    await device.subscribe("TopicA/+")
    for qos, topic in enumerate(("TopicA/B", "TopicA/C", "Topic/C")):
        await device.publish(topic, b"kept", qos, retain=True)
        await device.publish(topic, b"", qos, retain=True)
    live = [(message.topic, message.payload, message.retain) for message in await fence(site, device)]
    assert live == [
        ("TopicA/B", b"kept", False),
        ("TopicA/B", b"", False),
        ("TopicA/C", b"kept", False),
        ("TopicA/C", b"", False),
    ]
    late = await site.connect("dev-2", "acme.dev-2")
    await late.subscribe("#")
    assert [message.topic for message in await fence(site, late) if message.topic != "fence"] == []


async def test_retained_messages_are_not_sent_again_when_a_session_goes_on(site: Site) -> None:
    device = await site.connect(clean=False)
    await device.subscribe("TopicA")
    await device.publish("TopicA", b"kept", retain=True)
    assert [message.retain for message in await fence(site, device)] == [False]
    await device.leave()
    again = await site.connect(clean=False, present=True)
    assert await fence(site, again) == []


# Offline message queueing


async def test_offline_messages_wait_for_a_session_that_is_kept(site: Site) -> None:
    device = await site.connect(clean=False)
    await device.subscribe("+/+", qos=2)
    await device.leave()
    other = await site.connect("dev-2", "acme.dev-2")
    for qos, topic in enumerate(("Topic/C", "TopicA/B", "TopicA/C")):
        await other.publish(topic, b"qos %d" % qos, qos)
    again = await site.connect(clean=False, present=True)
    got = [(message.payload, message.qos, message.retain, message.dup) for message in await fence(site, again)]
    assert got == [(b"qos 1", 1, False, False), (b"qos 2", 2, False, False)]


async def test_offline_messages_do_not_wait_for_a_clean_session(site: Site) -> None:
    device = await site.connect()
    await device.subscribe("+/+", qos=2)
    await device.leave()
    other = await site.connect("dev-2", "acme.dev-2")
    await other.publish("TopicA/B", b"nobody", 2)
    again = await site.connect(clean=False, present=False)
    assert await fence(site, again) == []


async def test_session_present_tells_whether_a_session_was_kept(site: Site) -> None:
    for clean, present in ((False, False), (False, True), (True, False), (False, False), (False, True)):
        device = await site.connect(clean=clean, present=present)
        await device.leave()


# Will message


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_will_message_is_published_when_the_client_is_lost(site: Site, qos: int) -> None:
    watcher = await site.connect("dev-2", "acme.dev-2")
    await watcher.subscribe("TopicA/C", qos=2)
    device = await site.connect(will=Will("TopicA/C", b"lost", qos, retain=True))
    device.vanish()
    message = await watcher.message()
    assert (message.topic, message.payload, message.qos, message.retain) == ("TopicA/C", b"lost", qos, False)
    late = await site.connect("dev-3", "acme.dev-3")
    await late.subscribe("TopicA/C")
    assert [(one.payload, one.retain) for one in await fence(site, late)] == [(b"lost", True)]


async def test_will_message_is_not_published_when_the_client_leaves(site: Site) -> None:
    watcher = await site.connect("dev-2", "acme.dev-2")
    await watcher.subscribe("TopicA/C")
    device = await site.connect(will=Will("TopicA/C", b"lost"))
    await device.leave()
    assert await fence(site, watcher) == []


async def test_will_message_is_published_on_a_protocol_violation_and_a_take_over(site: Site) -> None:
    watcher = await site.connect("dev-2", "acme.dev-2")
    await watcher.subscribe("TopicA/C")
    await site.connect(will=Will("TopicA/C", b"taken over"))
    device = await site.connect(will=Will("TopicA/C", b"violation"))
    await device.send_bytes(b"\xf0\x00")
    assert await watcher.messages(2) == [("TopicA/C", b"taken over"), ("TopicA/C", b"violation")]


# Overlapping subscriptions


async def test_overlapping_subscriptions_bring_the_highest_quality_of_service(site: Site) -> None:
    device = await site.connect()
    assert await device.subscribe("TopicA/#", qos=2) == (2,)
    assert await device.subscribe("TopicA/+", qos=1) == (1,)
    await device.publish("TopicA/C", b"both", 2)
    await device.publish("TopicA", b"one", 2)
    assert [(message.payload, message.qos) for message in await fence(site, device)] == [(b"both", 2), (b"one", 2)]


async def test_a_repeated_subscription_replaces_the_former(site: Site) -> None:
    device = await site.connect()
    await device.subscribe("TopicA", qos=2)
    await device.subscribe("TopicA", qos=0)
    await device.publish("TopicA", b"", 2)
    assert [message.qos for message in await fence(site, device)] == [0]


# Keep-alive


async def test_keepalive_a_silent_client_is_lost_and_its_will_published() -> None:
    async with guarded(replace(LIMITS, keep_alive=0.3), Logins(("#",), own=False)) as site:
        watcher = await site.connect("dev-2", "acme.dev-2")
        await watcher.subscribe("TopicA/C", qos=2)
        await site.connect(keep_alive=5, will=Will("TopicA/C", b"keepalive expiry", 2))
        message = asyncio.ensure_future(watcher.message())
        async with asyncio.timeout(PATIENCE):
            while not message.done():  # any packet counts, and this client goes on sending some
                await watcher.send(Puback(9999))
                await asyncio.wait((message,), timeout=0.05)
        assert message.result().payload == b"keepalive expiry"


# Redelivery on reconnect


async def test_redelivery_on_reconnect_of_what_was_not_acknowledged(site: Site) -> None:
    device = await site.connect(clean=False)
    device.acknowledge = False
    await device.subscribe("+/+", qos=2)
    other = await site.connect("dev-2", "acme.dev-2")
    for qos in (1, 2, 1, 2):
        await other.publish("TopicA/B", b"qos %d" % qos, qos)
    sent = [await device.message() for _ in range(4)]
    await device.send(Puback(sent[2].packet_id), Pubrec(sent[3].packet_id))
    await device.receive(Pubrel)
    device.vanish()
    again = await site.connect(clean=False, present=True)
    assert [await again.packet() for _ in range(3)] == [
        replace(sent[0], dup=True),
        replace(sent[1], dup=True),
        Pubrel(sent[3].packet_id),
    ]
    assert await fence(site, again) == []


# Subscribe failure


async def test_subscribe_failure_is_told_for_the_one_filter() -> None:
    async with guarded(LIMITS, Logins(("TopicA/#",), own=False)) as site:
        device = await site.connect()
        await device.send(Subscribe(1, (Wanted("TopicA", 1), Wanted("test/nosubscribe", 2), Wanted("TopicA/B", 2))))
        assert await device.receive(Suback) == Suback(1, (1, 0x80, 2))


# Unsubscribe


async def test_unsubscribe_ends_the_one_subscription(site: Site) -> None:
    device = await site.connect()
    await device.subscribe("TopicA/B", "Topic/C", "TopicA/C", qos=2)
    await device.unsubscribe("TopicA/B", "never/had")
    for topic in ("TopicA/B", "Topic/C", "TopicA/C"):
        await device.publish(topic, b"", 1)
    assert [message.topic for message in await fence(site, device)] == ["Topic/C", "TopicA/C"]


# Dollar topics


async def test_dollar_topics_are_not_matched_by_wildcards_in_front(site: Site) -> None:
    device = await site.connect()
    assert await device.subscribe("#", "+/tickets") == (0, 0)
    await device.publish("TopicA/B", b"")  # sends a ticket round under $guard/tickets as well
    assert {message.topic for message in await fence(site, device)} <= {"TopicA/B", "fence"}


# What is otherwise

Exception_ = Callable[[Site], Awaitable[None]]
KNOWN_EXCEPTIONS: dict[str, tuple[str, Exception_]] = {}


def known_exception(name: str, reason: str) -> Callable[[Exception_], Exception_]:
    """Enter an exception; the function shows that it is as said."""

    def enter(show: Exception_) -> Exception_:
        KNOWN_EXCEPTIONS[name] = (reason, show)
        return show

    return enter


@known_exception(
    "zero-length client id",
    "refused with 2 also with a clean session: topic rights hang on the client id, and a server need not invent one"
    " (MQTT-3.1.3-6)",
)
async def _zero_length(site: Site) -> None:
    assert await site.refused("", clean=True) == 2
    assert await site.refused("", clean=False) == 2


@known_exception(
    "client id grammar",
    "only [A-Za-z0-9][A-Za-z0-9._:-]{0,127} is admitted (MQTT-3.1.3-5 asks for less): others reach into topic filters",
)
async def _grammar(site: Site) -> None:
    assert await site.refused("a/b") == 2
    assert await site.refused("+") == 2


@known_exception(
    "publishing to dollar topics",
    "ends the connection: they are the server's own (section 4.7.2), and 3.1.1 cannot refuse a PUBLISH",
)
async def _dollar_publish(site: Site) -> None:
    device = await site.connect()
    await device.send(Publish("$TopicA/B", b"", 1, 1))
    assert await device.ended() == []


@known_exception(
    "subscribing to dollar topics",
    "refused with 0x80 under any grant that begins with a wildcard: there is nothing to hear",
)
async def _dollar_subscribe(site: Site) -> None:
    device = await site.connect()
    assert await device.subscribe("$SYS/#", "$share/group/TopicA") == (0x80, 0x80)


@known_exception(
    "keep-alive of 0 and above an hour",
    "counts as the longest keep-alive, an hour: dead devices would otherwise stay connected for ever",
)
async def _keep_alive(_site: Site) -> None:
    async with guarded(replace(LIMITS, keep_alive=0.1)) as site:
        device = await site.connect(keep_alive=0)
        assert await device.ended() == []


@known_exception(
    "large packets",
    "a packet above the limit, 256 KiB by default, ends the connection, although the protocol allows 256 MiB",
)
async def _large(site: Site) -> None:
    device = await site.connect()
    await device.send(Publish("TopicA", bytes(300_000)))
    assert await device.ended() == []


@known_exception(
    "long and deep topics",
    "above 4,096 bytes or 64 levels they end the connection: comparing them costs everybody's time",
)
async def _deep(site: Site) -> None:
    for topic in ("x" * 4097, "/" * 64):
        device = await site.connect()
        await device.send(Publish(topic, b""))
        assert await device.ended() == []


@known_exception(
    "many subscriptions",
    "above 64 in one session by default they are refused with 0x80",
)
async def _many(site: Site) -> None:
    device = await site.connect()
    codes = await device.subscribe(*(f"TopicA/{number}" for number in range(70)))
    assert codes == (0,) * 64 + (0x80,) * 6


@known_exception(
    "long offline queues",
    "above the bound, 1,000 messages or 1 MiB by default, the newest are dropped, QoS 1 and 2 as well",
)
async def _long_queue(_site: Site) -> None:
    async with guarded(replace(LIMITS, queued_messages=2), Logins(("#",), own=False)) as site:
        device = await site.connect(clean=False)
        await device.subscribe("TopicA", qos=1)
        await device.leave()
        for number in range(3):
            await site.broker.publish("TopicA", b"%d" % number, 1)
        await fence(site, await site.connect("dev-2", "acme.dev-2"))
        again = await site.connect(clean=False, present=True)
        assert [message.payload for message in await fence(site, again)] == [b"0", b"1"]


@known_exception(
    "QoS 0 while offline",
    "is not kept; the protocol lets the server choose (section 4.1)",
)
async def _qos_0(site: Site) -> None:
    device = await site.connect(clean=False)
    await device.subscribe("TopicA", qos=1)
    await device.leave()
    await site.broker.publish("TopicA", b"", 0)
    await fence(site, await site.connect("dev-2", "acme.dev-2"))
    again = await site.connect(clean=False, present=True)
    assert await fence(site, again) == []


@known_exception(
    "many retained messages",
    "above the bounds, 100 of one user by default, a message is delivered and not kept",
)
async def _many_retained(_site: Site) -> None:
    async with guarded(replace(LIMITS, retained_per_user=1)) as site:
        device = await site.connect()
        for number in range(2):
            await device.publish(f"acme/dev-1/{number}", b"x", 1, retain=True)
        await device.subscribe("acme/dev-1/#")
        await device.publish("acme/dev-1/end", b"end")
        assert [topic for topic, _ in await device.messages(2)] == ["acme/dev-1/0", "acme/dev-1/end"]


@known_exception(
    "taking over another user's client id",
    "a live client id is taken over by its own user name only; another one is refused with 5 (MQTT-3.1.4-2 knows no"
    " user names)",
)
async def _foreign_take_over(site: Site) -> None:
    device = await site.connect()
    assert await site.refused(username="acme.somebody-else") == 5
    await device.ping()


@known_exception(
    "sessions across a restart",
    "sessions and retained messages live in memory and end with the process (section 4.1 asks for what an outage lets)",
)
async def _restart(site: Site) -> None:
    device = await site.connect(clean=False)
    await device.leave()
    async with guarded(LIMITS) as restarted:
        await restarted.connect(clean=False, present=False)


@pytest.mark.parametrize("name", KNOWN_EXCEPTIONS)
async def test_a_known_exception_is_as_said(site: Site, name: str) -> None:
    reason, show = KNOWN_EXCEPTIONS[name]
    assert reason
    await show(site)


# The same with a client of other people's making


class Paho:
    """A paho-mqtt client; every wait has an end."""

    def __init__(self, client_id: str, *, clean: bool = True) -> None:
        self.client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=clean)
        self.client.username_pw_set(f"acme.{client_id}", "pw")
        self.events: queue.Queue[tuple[str, object]] = queue.Queue()
        self.got: queue.Queue[MQTTMessage] = queue.Queue()
        self.client.on_connect = lambda *args: self.events.put(("connect", args[3].value))
        self.client.on_disconnect = lambda *_args: self.events.put(("disconnect", None))
        self.client.on_subscribe = lambda *args: self.events.put(("subscribe", [code.value for code in args[3]]))
        self.client.on_message = lambda *args: self.got.put(args[2])

    def connect(self, port: int) -> None:
        self.client.connect("127.0.0.1", port, keepalive=60)
        self.client.loop_start()
        assert self.event() == ("connect", 0)

    def event(self) -> tuple[str, object]:
        return self.events.get(timeout=PATIENCE)

    def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos, retain).wait_for_publish(PATIENCE)

    def messages(self, count: int) -> list[tuple[str, bytes, int, bool]]:
        got = [self.got.get(timeout=PATIENCE) for _ in range(count)]
        return [(one.topic, one.payload, one.qos, one.retain) for one in got]

    def leave(self) -> None:
        self.client.disconnect()
        assert self.event() == ("disconnect", None)
        self.client.loop_stop()


async def test_paho_publishes_receives_and_comes_back_to_its_session(site: Site) -> None:
    def story() -> None:
        device = Paho("dev-1", clean=False)
        device.connect(site.port)
        device.client.subscribe([("TopicA/#", 2), ("$SYS/#", 1)])
        assert device.event() == ("subscribe", [2, 0x80])
        for qos in (0, 1, 2):
            device.publish("TopicA/B", b"qos %d" % qos, qos)
        assert device.messages(3) == [("TopicA/B", b"qos %d" % qos, qos, False) for qos in (0, 1, 2)]
        device.leave()

        other = Paho("dev-2")
        other.connect(site.port)
        for number in range(50):
            other.publish("TopicA/C", b"%d" % number, 1, retain=number == 49)
        other.leave()

        again = Paho("dev-1", clean=False)
        again.connect(site.port)
        assert [int(payload) for _, payload, _, _ in again.messages(50)] == list(range(50))
        again.leave()

        late = Paho("dev-3")
        late.connect(site.port)
        late.client.subscribe("TopicA/C", 1)
        assert late.event() == ("subscribe", [1])
        assert late.messages(1) == [("TopicA/C", b"49", 1, True)]
        late.leave()

    await asyncio.to_thread(story)
