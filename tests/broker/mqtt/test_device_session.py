"""The session state of one device, without sockets: each rule of its module, and order and bounds under random use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.mqtt.device_session import Bounds, DeviceSession, Message
from broker.mqtt.packets import Publish, Pubrel
from broker.mqtt.retained import RetainedBounds, RetainedMessages

BOUNDS = Bounds(queued=5, queued_bytes=50, inflight=2, inflight_bytes=20)


def ignore() -> None:
    """Nobody is connected to the socket in these tests."""


def session(bounds: Bounds = BOUNDS, *, qos: int = 2) -> DeviceSession:
    one = DeviceSession(bounds)
    one.connect(ignore)
    one.subscribe("a/#", qos, 0)
    return one


def message(sequence: int, qos: int = 1, payload: bytes = b"x", topic: str = "a/b") -> Message:
    return Message(sequence, topic, payload, qos)


def sent(one: DeviceSession) -> list[Publish | Pubrel]:
    return list(iter(one.next, None))


@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
def test_the_lower_quality_of_service_counts(published: int, granted: int) -> None:
    one = session(qos=granted)
    one.offer(message(1, published))
    [packet] = sent(one)
    assert isinstance(packet, Publish)
    assert (packet.qos, packet.retain, packet.dup) == (min(published, granted), False, False)


def test_overlapping_subscriptions_bring_one_copy_at_the_highest_quality_of_service() -> None:
    one = session(qos=0)
    one.subscribe("a/+", 2, 0)
    one.subscribe("a/b", 1, 0)
    for _copy in range(3):
        one.offer(message(1, 2))
    assert sent(one) == [Publish("a/b", b"x", 2, 1)]


def test_a_message_accepted_before_the_subscription_is_not_for_it() -> None:
    one = session()
    one.subscribe("c", 1, sequence=7)
    one.offer(message(7, topic="c"))
    one.offer(message(8, topic="c"))
    assert sent(one) == [Publish("c", b"x", 1, 1)]


def test_subscribing_again_interrupts_nothing() -> None:
    one = session(qos=0)
    one.subscribe("a/#", 1, sequence=9)
    one.offer(message(5))
    assert sent(one) == [Publish("a/b", b"x", 1, 1)]


def test_what_nobody_subscribed_to_is_dropped() -> None:
    one = session()
    one.offer(message(1, topic="b"))
    assert one.unsubscribe("a/#")
    assert not one.unsubscribe("a/#")
    one.offer(message(2))
    assert sent(one) == []


def test_retained_messages_carry_the_flag_and_the_lower_quality_of_service() -> None:
    one = session()
    one.subscribe("c/#", 1, 5, [message(2, 2, b"two", "c/2"), message(1, 0, b"one", "c/1")])
    assert sent(one) == [Publish("c/2", b"two", 1, 1, retain=True), Publish("c/1", b"one", 0, 0, retain=True)]


def test_retained_messages_may_exceed_the_bound_and_nothing_comes_on_top() -> None:
    one = session()
    retained = [message(number, 0) for number in range(8)]
    one.subscribe("a/b", 1, 9, retained)
    one.subscribe("a/b", 1, 9, retained)
    one.offer(message(10))
    assert one.dropped == 9
    assert len(sent(one)) == 8


def test_an_unacknowledged_message_is_sent_once_per_connection_and_marked_from_the_second_time_on() -> None:
    one = session()
    one.offer(message(1))
    assert sent(one) == [Publish("a/b", b"x", 1, 1)]
    assert sent(one) == []
    for _connection in range(3):
        one.disconnect()
        one.connect(ignore)
        assert sent(one) == [Publish("a/b", b"x", 1, 1, dup=True)]
    one.acknowledge(1)
    one.disconnect()
    one.connect(ignore)
    assert sent(one) == []
    assert one.waiting == 0


def test_a_received_qos_2_message_is_released_again_and_not_sent_again() -> None:
    one = session()
    one.offer(message(1, 2))
    assert sent(one) == [Publish("a/b", b"x", 2, 1)]
    assert one.received(1) == Pubrel(1)
    one.disconnect()
    one.connect(ignore)
    assert sent(one) == [Pubrel(1)]
    one.complete(1)
    assert one.waiting == 0


def test_acknowledgements_of_the_wrong_kind_change_nothing() -> None:
    one = session()
    one.offer(message(1, 1))
    one.offer(message(2, 2))
    assert len(sent(one)) == 2
    one.acknowledge(2)
    one.complete(2)
    one.complete(1)
    assert one.received(1) == Pubrel(1)
    assert one.received(77) == Pubrel(77)
    one.acknowledge(77)
    one.complete(77)
    assert one.waiting == 2


def test_the_window_is_bounded_in_messages_and_bytes() -> None:
    one = session()
    for sequence in range(1, 4):
        one.offer(message(sequence))
    assert len(sent(one)) == 2
    one.acknowledge(1)
    assert sent(one) == [Publish("a/b", b"x", 1, 3)]

    two = session()
    two.offer(message(1, payload=b"x" * 30))
    two.offer(message(2, payload=b"x" * 15))
    assert len(sent(two)) == 1
    two.acknowledge(1)
    assert len(sent(two)) == 1


def test_the_queue_is_bounded_in_messages_and_bytes_and_drops_the_newest() -> None:
    one = session()
    one.disconnect()
    for sequence in range(1, 9):
        one.offer(message(sequence, payload=b"%d" % sequence))
    assert (one.waiting, one.dropped) == (5, 3)
    one.connect(ignore)
    assert [packet.payload for packet in sent(one) if isinstance(packet, Publish)] == [b"1", b"2"]

    two = session()
    for sequence in range(1, 5):
        two.offer(message(sequence, payload=b"x" * 20))
    assert (two.waiting, two.dropped) == (2, 2)


def test_qos_0_is_not_kept_while_the_device_is_away() -> None:
    one = session()
    one.offer(message(1, 0))
    one.offer(message(2, 1))
    one.disconnect()
    one.offer(message(3, 0))
    one.connect(ignore)
    assert sent(one) == [Publish("a/b", b"x", 1, 1)]


def test_a_qos_2_message_of_the_device_is_new_once() -> None:
    one = session()
    assert one.accept(1)
    assert not one.accept(1)
    one.release(1)
    one.release(1)
    assert one.accept(1)
    for packet_id in range(2, 1025):
        assert one.accept(packet_id)
    with pytest.raises(OverflowError):
        one.accept(1025)


def test_packet_identifiers_are_not_given_twice_at_a_time() -> None:
    one = session()
    one.offer(message(1))
    assert sent(one) == [Publish("a/b", b"x", 1, 1)]
    for sequence in range(2, 65_540):
        one.offer(message(sequence))
        [packet] = sent(one)
        assert isinstance(packet, Publish)
        assert packet.packet_id != 1
        one.acknowledge(packet.packet_id)


@given(st.lists(st.sampled_from(["offer", "send", "acknowledge", "reconnect"]), max_size=60))
def test_order_is_kept_and_nothing_is_lost_below_the_bound(steps: list[str]) -> None:
    one = session(Bounds(100, 1000, 3, 1000))
    offered = 0
    unacknowledged: list[int] = []
    arrived: list[int] = []

    def send() -> None:
        for packet in sent(one):
            assert isinstance(packet, Publish)
            if not packet.dup:
                arrived.append(int(packet.payload))
                unacknowledged.append(packet.packet_id)

    for step in [*steps, *(["send", "acknowledge"] * len(steps))]:
        match step:
            case "offer":
                offered += 1
                one.offer(message(offered, payload=b"%d" % offered))
            case "send":
                send()
            case "acknowledge" if unacknowledged:
                one.acknowledge(unacknowledged.pop(0))
            case "reconnect":
                one.disconnect()
                one.connect(ignore)
    assert arrived == list(range(1, offered + 1))
    assert one.waiting == 0


def test_retained_messages_are_replaced_and_removed() -> None:
    kept = RetainedMessages(RetainedBounds(10, 100, 10))
    assert kept.keep(message(1, payload=b"1"), "u")
    assert kept.keep(message(2, payload=b"2"), "u")
    assert kept.keep(message(3, topic="c"), "u")
    assert [one.payload for one in kept.matching("a/+")] == [b"2"]
    assert kept.keep(message(4, payload=b""), "u")
    assert list(kept.matching("a/#")) == []
    assert [one.topic for one in kept.matching("#")] == ["c"]


@pytest.mark.parametrize("bounds", [(2, 100, 9), (9, 2, 9), (9, 100, 2)])
def test_retained_messages_are_bounded_and_a_topic_above_the_bound_has_none(bounds: tuple[int, int, int]) -> None:
    kept = RetainedMessages(RetainedBounds(*bounds))
    assert kept.keep(message(1, topic="a"), "u")
    assert kept.keep(message(2, topic="b"), "u")
    assert not kept.keep(message(3, topic="c"), "u")
    assert not kept.keep(message(4, topic="b", payload=b"x" * 200), "u")
    assert [one.topic for one in kept.matching("#")] == ["a"]
    assert kept.keep(message(5, topic="c"), "u")
