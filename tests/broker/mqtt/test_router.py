"""The router: what it brings to whom, what it keeps amqtt from, and how it ends."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator

import pytest

from broker.mqtt.device_session import Message
from broker.mqtt.link import RouterFailed
from broker.mqtt.packets import Puback
from broker.mqtt.retained import RetainedBounds
from broker.mqtt.router import Router

PATIENCE = 10.0


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    one = Router(RetainedBounds(100, 10_000, 100), under_way=8, under_way_bytes=1000)
    await one.start()
    yield one
    await one.close()


class Inbox(asyncio.Queue[Message]):
    """What a link brought."""

    async def take(self) -> Message:
        async with asyncio.timeout(PATIENCE):
            return await self.get()


def must_not_be_lost() -> None:
    raise AssertionError("the link was lost")


async def everything_is_delivered(router: Router) -> None:
    async with asyncio.timeout(PATIENCE), router._changed:
        await router._changed.wait_for(lambda: not router._under_way)


async def test_a_message_goes_to_those_whose_filters_match(router: Router) -> None:
    one, two = Inbox(), Inbox()
    first = await router.open("acme|one", one.put_nowait, must_not_be_lost)
    second = await router.open("acme|two", two.put_nowait, must_not_be_lost)
    await first.subscribe(["a/+", "b"])
    await second.subscribe(["a/2/#"])
    numbers = [await router.publish(topic, topic.encode(), 1) for topic in ("a/1", "b", "c", "a/2")]
    assert numbers == [1, 2, 3, 4]
    assert [await one.take() for _ in range(3)] == [
        Message(1, "a/1", b"a/1", 1),
        Message(2, "b", b"b", 1),
        Message(4, "a/2", b"a/2", 1),
    ]
    assert await two.take() == Message(4, "a/2", b"a/2", 1)


async def test_a_filter_taken_back_is_forgotten_by_amqtt_as_well(router: Router) -> None:
    inbox = Inbox()
    link = await router.open("acme|one", inbox.put_nowait, must_not_be_lost)
    await link.subscribe([f"a/{number}" for number in range(50)])
    await link.unsubscribe([f"a/{number}" for number in range(50)])
    await link.subscribe(["b"])
    assert set(router._broker.subscriptions) == {"$guard/tickets", "b"}
    await router.publish("a/1", b"", 0)
    await router.publish("b", b"", 0)
    assert (await inbox.take()).topic == "b"


async def test_amqtt_sees_numbers_and_no_payload(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    broadcast = router._broker.internal_message_broadcast

    async def spy(topic: str, data: bytes, qos: int) -> None:
        seen.append((topic, data, qos))
        await broadcast(topic, data, qos)

    monkeypatch.setattr(router._broker, "internal_message_broadcast", spy)
    await router.publish("a", b"secret", 2, retain=True)
    await everything_is_delivered(router)
    one = (1).to_bytes(8)
    assert seen == [("a", one, 0), ("$guard/tickets", one, 0)]
    assert router._broker.retained_messages == {}


async def test_amqtt_says_nothing_below_warning(router: Router) -> None:
    for name in ("amqtt.broker", "amqtt.mqtt.protocol.handler", "amqtt.broker.plugins", "transitions.core"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)


async def test_amqtt_listens_nowhere(router: Router) -> None:
    assert [server.instance for server in router._broker._servers.values()] == [None]


async def test_a_publisher_waits_while_too_much_is_under_way(router: Router) -> None:
    for _message in range(7):
        await router.publish("a", b"", 0)
    assert len(router._under_way) == 7  # nothing was waited for, so nothing has gone out
    await router.publish("a", b"", 0)
    assert len(router._under_way) < 8
    await everything_is_delivered(router)
    await router.publish("a", b"x" * 1000, 0)
    assert router._bytes < 1000


async def test_many_publishers_at_once_stay_within_the_bound(router: Router) -> None:
    inbox = Inbox()
    link = await router.open("acme|one", inbox.put_nowait, must_not_be_lost)
    await link.subscribe(["#"])
    most = 0

    async def publish(name: str) -> None:
        nonlocal most
        for number in range(50):
            await router.publish(name, b"%d" % number, 0)
            most = max(most, len(router._under_way))

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(publish(f"p{number}") for number in range(5)))
    brought = [await inbox.take() for _ in range(250)]
    assert most <= 8 + 5
    assert [one.sequence for one in brought] == list(range(1, 251))
    for name in ("p0", "p4"):
        assert [int(one.payload) for one in brought if one.topic == name] == list(range(50))


async def test_names_are_never_used_again(router: Router) -> None:
    for _time in range(3):
        link = await router.open("acme|one", Inbox().put_nowait, must_not_be_lost)
        await link.close()
    second = await router.open("acme|one", Inbox().put_nowait, must_not_be_lost)
    assert {name for name in router._broker.sessions if name != "guard"} >= {"acme|one|4"}
    assert not second.task.done()


async def test_a_closed_link_brings_nothing_and_cannot_be_used(router: Router) -> None:
    inbox, other = Inbox(), Inbox()
    link = await router.open("acme|one", inbox.put_nowait, must_not_be_lost)
    await link.subscribe(["#"])
    witness = await router.open("acme|two", other.put_nowait, must_not_be_lost)
    await witness.subscribe(["#"])
    await router.publish("a", b"", 0)
    await link.close()
    await link.close()
    await router.publish("b", b"", 0)
    while (await other.take()).topic != "b":
        pass
    assert [one.topic for one in inbox._queue if one.topic == "b"] == []  # type: ignore[attr-defined]  # the queue's own deque
    with pytest.raises(RouterFailed):
        await link.subscribe(["a"])


async def test_who_holds_a_link_that_amqtt_ends_is_told(router: Router) -> None:
    lost = asyncio.Event()
    link = await router.open("acme|one", Inbox().put_nowait, lost.set)
    asking = asyncio.ensure_future(link._ask(99, Puback(99)))
    await asyncio.sleep(0)
    link._pipe.feed_eof()
    async with asyncio.timeout(PATIENCE):
        await lost.wait()
        with pytest.raises(RouterFailed):
            await asking


async def test_the_end_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    for _time in range(2):
        router = Router(RetainedBounds(1, 1, 1), 8, 1000)
        await router.start()
        link = await router.open("acme|one", Inbox().put_nowait, must_not_be_lost)
        await link.subscribe(["#"])
        for _message in range(7):
            await router.publish("a", b"", 0)
        await router.close()
        assert asyncio.all_tasks() == before
    gc.collect()
