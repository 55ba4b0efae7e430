"""The session as a conversation: what the client says, what it hears, what the caller is asked; no socket, no clock."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.mqtt.packets import (
    V5,
    V311,
    Auth,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Publish,
    Pubrel,
    ReasonCode,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
    encode,
    parse,
)
from broker.mqtt.protocol import BadTopic, Event, Login, Message, Refusal, ReplyTooLarge, Session, SessionLimits
from broker.mqtt.topics import Topics, UnknownTopic

REQUEST, REPLY, ACK = (f"prov/v1/factory/dev-1/{kind}" for kind in ("request", "reply", "ack"))
JSON = "application/json"
both = pytest.mark.parametrize("version", [V311, V5])


class Conversation:
    """A client and a session face to face; time passes only when told."""

    def __init__(self, version: int, limits: SessionLimits | None = None) -> None:
        self.version = version
        self.now = 1000.0
        self.session = Session(Topics(), limits or SessionLimits(), self.now)

    def say(self, *packets: Packet) -> list[Event]:
        return self.say_bytes(b"".join(encode(packet, self.version) for packet in packets))

    def say_bytes(self, data: bytes) -> list[Event]:
        return self.session.receive(data, self.now)

    def heard(self) -> list[Packet]:
        return [parse(frame, self.version) for frame in Decoder().feed(self.session.data_to_send())]

    def told(self) -> list[int]:
        """The codes of the DISCONNECTs heard."""
        return [packet.code for packet in self.heard() if isinstance(packet, Disconnect)]

    def connect(self, **properties: int) -> None:
        self.say(connect(self.version, properties=Properties(**properties)))  # type: ignore[typeddict-item]  # any names
        assert self.session.admit(self.now) == []
        self.heard()

    def claim(self, **properties: bytes | int | str) -> Message:
        (event,) = self.say(publish(**properties))
        assert isinstance(event, Message)
        return event

    def reply(self, message: Message, payload: bytes = b"{}") -> list[Event]:
        return self.session.reply(message, payload, JSON, self.now)

    def later(self, seconds: float) -> list[Event]:
        self.now += seconds
        return self.session.tick(self.now)

    def until_deadline(self) -> float:
        """Let time pass until the session has something to do; return the seconds."""
        start, deadline = self.now, self.session.next_deadline
        self.session.tick(deadline - 0.001)
        assert self.session.ended is None
        self.now = deadline
        self.session.tick(deadline)
        return deadline - start


def connect(version: int, **values: object) -> Connect:
    return Connect(**{"client_id": "dev-1", "version": version, "username": "factory", "password": b"pw"} | values)  # type: ignore[arg-type]  # any field


def publish(**properties: object) -> Publish:
    return Publish(REQUEST, b"claim", properties=Properties(**properties))  # type: ignore[typeddict-item]  # any names


def opened(version: int, limits: SessionLimits | None = None, **properties: int) -> Conversation:
    talk = Conversation(version, limits)
    talk.connect(**properties)
    return talk


# CONNECT.


@both
def test_a_right_login_is_admitted(version: int) -> None:
    talk = Conversation(version)
    assert talk.say(connect(version)) == [Login("factory", b"pw", "dev-1")]
    assert talk.heard() == []
    talk.session.admit(talk.now)
    (connack,) = talk.heard()
    assert isinstance(connack, Connack)
    assert (connack.code, connack.session_present) == (0, False)


def test_connack_of_311_is_four_bytes() -> None:
    talk = Conversation(V311)
    talk.say(connect(V311, clean_start=False))
    talk.session.admit(talk.now)
    assert talk.session.data_to_send() == b"\x20\x02\x00\x00"


def test_connack_of_5_tells_what_is_offered() -> None:
    talk = Conversation(V5)
    talk.say(connect(V5, keep_alive=10))
    talk.session.admit(talk.now)
    assert talk.heard() == [
        Connack(
            properties=Properties(
                session_expiry_interval=0,
                receive_maximum=4,
                maximum_qos=1,
                retain_available=0,
                maximum_packet_size=16384,
                server_keep_alive=80,
            )
        )
    ]


@both
def test_a_missing_login_asks_the_caller_like_any_other(version: int) -> None:
    assert Conversation(version).say(Connect("dev-1", version)) == [Login("", b"", "dev-1")]


@both
def test_a_user_outside_the_grammar_cannot_be_admitted(version: int) -> None:
    talk = Conversation(version)
    talk.say(connect(version, username="a/b"))
    with pytest.raises(UnknownTopic):
        talk.session.admit(talk.now)
    talk.session.refuse(Refusal.LOGIN)
    assert talk.session.ended


@both
@pytest.mark.parametrize(
    ("values", "return_code", "reason_code"),
    [
        ({"client_id": ""}, 2, 0x85),
        ({"client_id": "a b"}, 2, 0x85),
        ({"client_id": "x" * 129, "will": Will("t", b"")}, 2, 0x85),
        ({"will": Will("t", b"")}, 5, 0x87),
    ],
)
def test_a_connect_out_of_order_is_refused(
    version: int, values: dict[str, object], return_code: int, reason_code: int
) -> None:
    talk = Conversation(version)
    assert talk.say(connect(version, **values)) == []
    (connack,) = talk.heard()
    assert isinstance(connack, Connack)
    assert connack.code == (reason_code if version == V5 else return_code)
    assert talk.session.ended


@pytest.mark.parametrize(
    ("refusal", "return_code", "reason_code"),
    [
        (Refusal.FULL, 3, 0x97),
        (Refusal.DRAINING, 3, 0x88),
        (Refusal.LOGIN, 5, 0x87),
        (Refusal.VERSION, 1, 0x84),
        (Refusal.CLIENT_ID, 2, 0x85),
        (Refusal.WILL, 5, 0x87),
    ],
)
def test_the_codes_of_the_contract(refusal: Refusal, return_code: int, reason_code: int) -> None:
    for version, code in ((V311, return_code), (V5, reason_code)):
        talk = Conversation(version)
        talk.say(connect(version))
        talk.session.refuse(refusal)
        (connack,) = talk.heard()
        assert isinstance(connack, Connack)
        assert connack.code == code
        assert ("reason_string" in connack.properties) == (version == V5)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\x10\x0f\0\4MQTT\3\2\0\0\0\3abc", b"\x20\x02\x00\x01"),
        (b"\x10\x0f\0\6MQIsdp\3\2\0\0\0\1a", b"\x20\x02\x00\x01"),
        (b"\x10\x0f\0\4MQTT\0\2\0\0\0\3abc", b"\x20\x02\x00\x01"),
    ],
)
def test_an_older_version_is_refused_in_the_form_of_311(data: bytes, answer: bytes) -> None:
    talk = Conversation(V311)
    assert talk.say_bytes(data) == []
    assert talk.session.data_to_send() == answer
    assert talk.session.ended


@pytest.mark.parametrize("level", [6, 0x84])
def test_a_newer_version_is_refused_in_the_form_of_5(level: int) -> None:
    talk = Conversation(V5)
    talk.say_bytes(b"\x10\x08\0\4MQTT" + bytes((level,)) + b"x")
    (connack,) = talk.heard()
    assert isinstance(connack, Connack)
    assert connack.code == ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
    assert talk.session.ended


def test_enhanced_authentication_is_refused() -> None:
    talk = Conversation(V5)
    talk.say(connect(V5, properties=Properties(authentication_method="SCRAM")))
    (connack,) = talk.heard()
    assert isinstance(connack, Connack)
    assert connack.code == ReasonCode.BAD_AUTHENTICATION_METHOD


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01",  # a TLS ClientHello on the plain port
        b"GET / HTTP/1.1\r\n\r\n" + bytes(100),
        encode(Pingreq(), V311),
        encode(Subscribe(1, (Subscription(REPLY),)), V311),
        b"\x10\xff\xff\x7f",
        b"\x10\x0d\0\4MQTT\5\2\0\0\0\0\1\0",
    ],
)
def test_a_first_packet_that_is_no_connect_is_not_answered(data: bytes) -> None:
    talk = Conversation(V311)
    assert talk.say_bytes(data) == []
    assert talk.session.data_to_send() == b""
    assert talk.session.ended


@both
def test_what_the_client_sends_before_connack_waits(version: int) -> None:
    talk = Conversation(version)
    events = talk.say(connect(version), Subscribe(1, (Subscription(REPLY, 1),)), Publish(REQUEST, b"claim", 1, 2))
    assert [type(event) for event in events] == [Login]
    (message,) = talk.session.admit(talk.now)
    assert isinstance(message, Message)
    assert [type(packet) for packet in talk.heard()] == [Connack, Suback, Puback]


@both
def test_a_second_connect_ends_the_session(version: int) -> None:
    talk = opened(version)
    talk.say(connect(version))
    assert talk.told() == ([0x82] if version == V5 else [])
    assert talk.session.ended


@both
def test_a_second_connect_of_an_unknown_version_ends_it_as_well(version: int) -> None:
    talk = opened(version)
    talk.session.receive(b"\x10\x0c\x00\x04MQTT\x03\x02\x00\x3c\x00\x00", talk.now)
    assert talk.told() == ([0x82] if version == V5 else [])
    assert talk.session.ended
    assert talk.session.refused is None


# Topics.


@both
@pytest.mark.parametrize(
    "topic_filter", ["#", "prov/v1/factory/+/reply", REQUEST, "prov/v1/factory/dev-2/reply", "$SYS/#"]
)
def test_only_the_own_reply_may_be_subscribed_to(version: int, topic_filter: str) -> None:
    talk = opened(version)
    talk.say(Subscribe(7, (Subscription(topic_filter, 1), Subscription(REPLY, 2))))
    (suback,) = talk.heard()
    assert isinstance(suback, Suback)
    assert suback.codes == ((0x87 if version == V5 else 0x80), 1)
    assert talk.session.ended is None


@both
def test_a_claim_is_acknowledged_at_once_and_answered_as_subscribed(version: int) -> None:
    talk = opened(version)
    talk.say(Subscribe(1, (Subscription(REPLY, 1),)))
    (message,) = talk.say(Publish(REQUEST, b"claim", 1, 9))
    assert isinstance(message, Message)
    assert (message.kind, message.payload) == ("request", b"claim")
    assert talk.heard() == [Suback(1, (1,)), Puback(9)]
    talk.reply(message, b"offer")
    (reply,) = talk.heard()
    assert isinstance(reply, Publish)
    assert (reply.topic, reply.payload, reply.qos, reply.packet_id) == (REPLY, b"offer", 1, 1)
    assert not reply.retain
    assert not reply.dup


@both
def test_an_ack_is_handed_on_as_such(version: int) -> None:
    (message,) = opened(version).say(Publish(ACK, b"stored"))
    assert isinstance(message, Message)
    assert (message.kind, message.payload) == ("ack", b"stored")


@both
@pytest.mark.parametrize("subscribed", [False, True])
def test_without_subscription_or_at_qos_0_the_reply_has_qos_0(version: int, *, subscribed: bool) -> None:
    talk = opened(version)
    if subscribed:
        talk.say(Subscribe(1, (Subscription(REPLY, 0),)))
    talk.reply(talk.claim())
    reply = talk.heard()[-1]
    assert isinstance(reply, Publish)
    assert reply.qos == 0


@both
def test_unsubscribe_forgets_the_qos(version: int) -> None:
    talk = opened(version)
    talk.say(Subscribe(1, (Subscription(REPLY, 1),)), Unsubscribe(2, (REPLY, "other")))
    assert talk.heard()[-1] == Unsuback(2, (0, 0x11) if version == V5 else ())
    talk.reply(talk.claim())
    (reply,) = talk.heard()
    assert isinstance(reply, Publish)
    assert reply.qos == 0


@pytest.mark.parametrize("topic", [REPLY, "prov/v1/factory/dev-2/request", "other"])
@pytest.mark.parametrize("qos", [0, 1])
def test_another_topic_ends_a_session_of_5(topic: str, qos: int) -> None:
    talk = opened(V5)
    assert talk.say(Publish(topic, b"x", qos, qos)) == []
    heard = talk.heard()
    assert [(type(packet), getattr(packet, "code", 0)) for packet in heard] == [(Puback, 0x87)] * qos + [
        (Disconnect, 0x87)
    ]
    assert talk.session.ended


@pytest.mark.parametrize("qos", [0, 1])
def test_another_topic_ends_a_session_of_311_with_a_reply(qos: int) -> None:
    talk = opened(V311)
    assert talk.say(Publish("other", b"x", qos, qos), Publish(REQUEST, b"never looked at")) == [BadTopic()]
    assert talk.session.ended is None
    talk.session.reply_and_end(b"bad-request", JSON)
    assert talk.heard() == [Puback(1)] * qos + [Publish(REPLY, b"bad-request")]
    assert talk.session.ended


@both
@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (Publish(REQUEST, b"x", retain=True), 0x9A),
        (Publish(REQUEST, b"x", 2, 1), 0x9B),
        (Pubrel(1), 0x82),
        (Connack(), 0x82),
        (Pingresp(), 0x82),
    ],
)
def test_what_is_not_offered_ends_the_session(version: int, packet: Packet, code: int) -> None:
    talk = opened(version)
    assert talk.say(packet) == []
    assert talk.told() == ([code] if version == V5 else [])
    assert talk.session.ended


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (Publish(REQUEST, b"x", properties=Properties(topic_alias=1)), 0x94),
        (Publish("", b"x", properties=Properties(topic_alias=1)), 0x94),
        (Auth(0x18), 0x8C),
    ],
)
def test_what_is_not_offered_on_5(packet: Packet, code: int) -> None:
    talk = opened(V5)
    assert talk.say(packet) == []
    (disconnect,) = talk.heard()
    assert isinstance(disconnect, Disconnect)
    assert disconnect.code == code


@both
def test_a_too_large_packet_ends_the_session(version: int) -> None:
    talk = opened(version)
    talk.say_bytes(encode(Publish(REQUEST, bytes(16384)), version)[:5])
    assert talk.told() == ([0x95] if version == V5 else [])
    assert talk.session.ended


@both
def test_ping_is_answered(version: int) -> None:
    talk = opened(version)
    talk.say(Pingreq())
    assert talk.heard() == [Pingresp()]


@both
def test_disconnect_ends_quietly_and_answers_come_too_late(version: int) -> None:
    talk = opened(version)
    (message,) = talk.say(publish(), Disconnect())
    assert isinstance(message, Message)
    assert talk.reply(message) == []
    assert talk.heard() == []
    assert talk.session.ended


# What MQTT 5 clients ask for.


def test_a_reply_of_5_carries_what_the_contract_says() -> None:
    talk = opened(V5)
    talk.say(Subscribe(1, (Subscription(REPLY, 0),), Properties(subscription_identifier=(5,))))
    talk.heard()
    talk.reply(talk.claim(correlation_data=b"c-1", response_topic="prov/v1/factory/dev-2/reply"))
    assert talk.heard() == [
        Publish(
            REPLY,
            b"{}",
            properties=Properties(
                message_expiry_interval=60,
                content_type=JSON,
                correlation_data=b"c-1",
                subscription_identifier=(5,),
            ),
        )
    ]


def test_reason_strings_stand_only_where_asked_for() -> None:
    talk = opened(V5, request_problem_information=0)
    talk.say(Subscribe(1, (Subscription("#"),)), Publish("other", b"x", 1, 2))
    suback, puback, disconnect = talk.heard()
    assert isinstance(suback, Suback)
    assert isinstance(puback, Puback)
    assert isinstance(disconnect, Disconnect)
    assert not suback.properties
    assert not puback.properties
    assert "reason_string" in disconnect.properties


def test_a_reason_string_is_left_out_before_the_packet_is() -> None:
    talk = opened(V5, maximum_packet_size=30)
    talk.say(Publish("other", b"x", 1, 2))
    assert talk.heard() == [Puback(2, 0x87), Disconnect(0x87)]


def test_a_client_that_cannot_take_connack_is_left() -> None:
    talk = Conversation(V5)
    talk.say(connect(V5, properties=Properties(maximum_packet_size=5)))
    talk.session.admit(talk.now)
    assert talk.heard() == []
    assert talk.session.ended


def test_a_client_that_cannot_take_an_answer_is_left() -> None:
    talk = opened(V5, maximum_packet_size=30)
    talk.say(Subscribe(1, (Subscription("#"),) * 30))
    assert talk.heard() == []
    assert talk.session.ended


@given(st.integers(150, 20000), st.booleans(), st.binary(max_size=10))
def test_the_reply_limit_is_true(size: int, subscribed: bool, correlation: bytes) -> None:
    talk = opened(V5, maximum_packet_size=size)
    if subscribed:
        talk.say(Subscribe(1, (Subscription(REPLY, 1),)))
        talk.heard()
    message = talk.claim(correlation_data=correlation)
    assert message.reply_limit is not None
    talk.reply(message, bytes(message.reply_limit))
    assert size - 5 <= len(talk.session.data_to_send()) <= size
    with pytest.raises(ReplyTooLarge):
        talk.reply(talk.claim(correlation_data=correlation), bytes(message.reply_limit + 6))
    assert talk.heard() == []


def test_without_maximum_packet_size_there_is_no_reply_limit() -> None:
    assert opened(V311).claim().reply_limit is None
    assert opened(V5).claim().reply_limit is None


def test_receive_maximum_is_honoured_on_5() -> None:
    talk = opened(V5, receive_maximum=1)
    talk.say(Subscribe(1, (Subscription(REPLY, 1),)))
    talk.heard()
    for payload in (b"1", b"2", b"3"):
        talk.reply(talk.claim(), payload)
    (first,) = talk.heard()
    assert isinstance(first, Publish)
    for payload in (b"2", b"3"):
        talk.say(Puback(first.packet_id))
        (first,) = talk.heard()
        assert isinstance(first, Publish)
        assert first.payload == payload
    talk.say(Puback(first.packet_id))
    assert talk.heard() == []


def test_a_client_that_asks_and_never_acknowledges_is_left() -> None:
    talk = opened(V5, SessionLimits(packets_per_second=100), receive_maximum=1)
    talk.say(Subscribe(1, (Subscription(REPLY, 1),)))
    talk.heard()
    while talk.session.ended is None:
        talk.reply(talk.claim())
    assert talk.told() == [0x97]


def test_on_311_a_reply_never_waits() -> None:
    talk = opened(V311)
    talk.say(Subscribe(1, (Subscription(REPLY, 1),)))
    talk.heard()
    for number in range(1, 6):
        talk.reply(talk.claim())
        (reply,) = talk.heard()
        assert isinstance(reply, Publish)
        assert reply.packet_id == number


# Bounds.


@both
def test_at_most_four_messages_are_with_the_caller(version: int) -> None:
    talk = opened(version)
    events = talk.say(*[publish()] * 6)
    assert len(events) == 4
    assert talk.session.in_flight == 4
    first = events[0]
    assert isinstance(first, Message)
    assert len(talk.reply(first)) == 1
    assert talk.session.in_flight == 4


@both
def test_a_client_that_writes_far_ahead_is_not_read(version: int) -> None:
    talk = opened(version)
    talk.say(*[publish()] * 4)
    assert talk.session.wants_data
    talk.say(*[publish()] * 40)
    assert not talk.session.wants_data


@both
def test_above_ten_packets_a_second_we_take_slower(version: int) -> None:
    talk = opened(version)
    talk.say(*[Pingreq()] * 30)
    assert len(talk.heard()) == 9
    heard = 0
    for _ in range(5):
        assert talk.session.next_deadline == pytest.approx(talk.now + 0.1)
        talk.later(talk.session.next_deadline - talk.now)
        heard += len(talk.heard())
    assert heard == 5
    talk.later(5)
    assert len(talk.heard()) == 10


@both
def test_a_complete_hand_over_is_never_slowed(version: int) -> None:
    talk = opened(version)
    talk.say(Subscribe(1, (Subscription(REPLY, 1),)))
    for topic in (REQUEST, ACK):
        (message,) = talk.say(Publish(topic, b"x", 1, 2))
        assert isinstance(message, Message)
        talk.reply(message)
        talk.say(Puback(1))
    talk.say(Disconnect())
    assert talk.session.ended == "client disconnected"


# Time.


def test_connect_must_be_complete_within_five_seconds() -> None:
    talk = Conversation(V311)
    talk.say_bytes(encode(connect(V311), V311)[:-1])
    assert talk.until_deadline() == pytest.approx(5)
    assert talk.session.ended
    assert talk.session.next_deadline == math.inf


@both
def test_the_first_claim_must_come_within_ten_seconds(version: int) -> None:
    talk = opened(version)
    talk.say(Subscribe(1, (Subscription(REPLY, 1),)))
    talk.heard()
    assert talk.until_deadline() == pytest.approx(10)
    assert talk.told() == ([0xA0] if version == V5 else [])


@pytest.mark.parametrize(
    ("version", "keep_alive", "seconds"),
    [(V311, 0, 120), (V311, 20, 30), (V311, 6000, 120), (V5, 0, 120), (V5, 20, 120)],
)
def test_silence_ends_a_session(version: int, keep_alive: int, seconds: float) -> None:
    talk = Conversation(version)
    talk.say(connect(version, keep_alive=keep_alive))
    talk.session.admit(talk.now)
    talk.reply(talk.claim())
    talk.heard()
    talk.later(seconds - 1)
    talk.say(Pingreq())
    talk.heard()
    assert talk.until_deadline() == pytest.approx(seconds)
    assert talk.told() == ([0x8D] if version == V5 else [])


@both
def test_half_a_packet_is_no_sign_of_life(version: int) -> None:
    talk = opened(version)
    talk.reply(talk.claim())
    talk.later(100)
    talk.say_bytes(b"\xc0")
    talk.later(20)
    assert talk.session.ended


@both
def test_nobody_is_idle_while_an_answer_is_made(version: int) -> None:
    talk = opened(version)
    message = talk.claim()
    talk.later(300)
    assert talk.session.ended is None
    talk.reply(message)
    assert talk.until_deadline() == pytest.approx(120)


@both
def test_ten_minutes_are_enough(version: int) -> None:
    talk = opened(version)
    talk.reply(talk.claim())
    for _ in range(5):
        talk.later(100)
        talk.say(Pingreq())
    talk.heard()
    talk.later(100)
    assert talk.told() == ([0xA0] if version == V5 else [])
    assert talk.session.ended


@both
def test_the_caller_may_end_it(version: int) -> None:
    talk = opened(version)
    talk.session.disconnect(ReasonCode.SERVER_SHUTTING_DOWN, "shutting down")
    talk.session.disconnect(ReasonCode.QUOTA_EXCEEDED, "only the first counts")
    assert talk.told() == ([0x8B] if version == V5 else [])
    assert talk.session.ended == "shutting down"
    assert talk.say(Pingreq()) == []
    assert talk.heard() == []


# Whatever comes.


def chunks(data: bytes) -> st.SearchStrategy[list[bytes]]:
    def cut(places: list[int]) -> list[bytes]:
        ends = [0, *sorted(places), len(data)]
        return [data[start:end] for start, end in pairwise(ends)]

    return st.lists(st.integers(0, len(data)), max_size=6).map(cut)


SCRIPT = (Subscribe(1, (Subscription(REPLY, 1),)), Publish(REQUEST, b"claim", 1, 2), Pingreq(), Publish(ACK, b"ack"))


@both
@given(st.data())
def test_chunks_make_no_difference(version: int, data: st.DataObject) -> None:
    stream = b"".join(encode(packet, version) for packet in (connect(version), *SCRIPT))

    def play(parts: list[bytes]) -> tuple[list[Event], bytes]:
        talk = Conversation(version)
        events: list[Event] = []
        for part in parts:
            found = talk.say_bytes(part)
            if Login("factory", b"pw", "dev-1") in found:
                found += talk.session.admit(talk.now)
            events += found
        return events, talk.session.data_to_send()

    assert play(data.draw(chunks(stream))) == play([stream])


def damaged(stream: bytes) -> st.SearchStrategy[bytes]:
    def damage(changes: list[tuple[int, int]]) -> bytes:
        found = bytearray(stream)
        for index, octet in changes:
            found[index] = octet
        return bytes(found)

    return st.lists(st.tuples(st.integers(0, len(stream) - 1), st.integers(0, 255)), max_size=4).map(damage)


@both
@given(st.data(), st.binary(max_size=40))
def test_no_bytes_make_the_session_raise(version: int, data: st.DataObject, noise: bytes) -> None:
    stream = b"".join(encode(packet, version) for packet in (connect(version), *SCRIPT))
    talk = Conversation(version)
    pending = talk.say_bytes(data.draw(damaged(stream)) + noise)
    while pending:
        event = pending.pop(0)
        if isinstance(event, Login):
            try:
                pending += talk.session.admit(talk.now)
            except UnknownTopic:
                talk.session.refuse(Refusal.LOGIN)
        elif isinstance(event, Message):
            try:
                pending += talk.reply(event)
            except ReplyTooLarge:
                talk.session.disconnect(ReasonCode.PACKET_TOO_LARGE, "reply is too large")
        else:
            talk.session.reply_and_end(b"{}", JSON)
    assert talk.session.in_flight == 0
    talk.session.data_to_send()
    talk.later(600)
    assert talk.session.ended


def test_a_server_may_be_unreliable_on_purpose() -> None:
    talk = opened(V5)
    lost, twice = talk.claim(), talk.claim()
    talk.session.reply(lost, b"lost", JSON, talk.now, copies=0)
    talk.session.reply(twice, b"twice", JSON, talk.now, copies=2)
    heard = [packet.payload for packet in talk.heard() if isinstance(packet, Publish)]
    assert (heard, talk.session.in_flight) == ([b"twice", b"twice"], 0)
