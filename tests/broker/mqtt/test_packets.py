"""The codec: what goes out comes back, any chunking gives the same frames, and nonsense is refused in one way."""

from typing import Any, cast

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
    Frame,
    MalformedPacket,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    ReasonCode,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    UnsupportedVersion,
    Will,
    encode,
    parse,
)

text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
name = st.text(st.characters(exclude_characters="\0+#", codec="utf-8"), min_size=1, max_size=20)
octets = st.binary(max_size=20)
packet_id = st.integers(1, 65535)
uint16, uint32, bit = st.integers(0, 65535), st.integers(0, 2**32 - 1), st.integers(0, 1)
pairs = st.lists(st.tuples(text, text), min_size=1, max_size=3).map(tuple)


def as_properties(found: dict[str, Any]) -> Properties:
    return cast("Properties", found)


def properties(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[Properties]:
    return st.fixed_dictionaries({}, optional={"user_property": pairs, **values}).map(as_properties)


def authentication(found: Properties) -> Properties:
    return found if "authentication_method" in found else Properties(user_property=(("no", "method"),))


message = {
    "payload_format_indicator": bit,
    "message_expiry_interval": uint32,
    "content_type": text,
    "response_topic": name,
    "correlation_data": octets,
}
limits = {
    "session_expiry_interval": uint32,
    "receive_maximum": st.integers(1, 65535),
    "maximum_packet_size": st.integers(1, 2**32 - 1),
    "topic_alias_maximum": uint16,
}
method = {"authentication_method": text, "authentication_data": octets}
reason = {"reason_string": text}


def packets(version: int) -> st.SearchStrategy[Packet]:
    five = version == V5

    def only_five(strategy: st.SearchStrategy[Properties]) -> st.SearchStrategy[Properties]:
        return strategy if five else st.just(Properties())

    code = st.integers(0, 255) if five else st.just(0)
    wills = st.builds(
        Will,
        name,
        octets,
        st.integers(0, 2),
        st.booleans(),
        only_five(properties(**message, will_delay_interval=uint32)),
    )
    connects = st.builds(
        Connect,
        text,
        st.just(version),
        st.booleans(),
        uint16,
        st.one_of(st.none(), text) if five else text,
        st.one_of(st.none(), octets),
        st.one_of(st.none(), wills),
        only_five(
            properties(**limits, **method, request_problem_information=bit, request_response_information=bit).map(
                authentication
            )
        ),
    )
    connacks = st.builds(
        Connack,
        st.integers(0, 255),
        st.booleans(),
        only_five(
            properties(
                **limits,
                **method,
                **reason,
                assigned_client_identifier=text,
                server_keep_alive=uint16,
                maximum_qos=bit,
                retain_available=bit,
                response_information=text,
                server_reference=text,
                wildcard_subscription_available=bit,
                subscription_identifier_available=bit,
                shared_subscription_available=bit,
            )
        ),
    )
    identifiers = st.lists(st.integers(1, 268_435_455), min_size=1, max_size=3).map(tuple)
    published = only_five(properties(**message, topic_alias=uint16, subscription_identifier=identifiers))
    publishes = st.one_of(
        st.builds(Publish, name, octets, st.just(0), st.just(0), st.booleans(), st.just(False), published),
        st.builds(Publish, name, octets, st.integers(1, 2), packet_id, st.booleans(), st.booleans(), published),
    )
    subscriptions = (
        st.builds(Subscription, name, st.integers(0, 2), st.booleans(), st.booleans(), st.integers(0, 2))
        if five
        else st.builds(Subscription, name, st.integers(0, 2))
    )
    identifier = st.integers(1, 268_435_455).map(lambda value: (value,))
    codes = st.lists(st.integers(0, 255), max_size=4).map(tuple)
    reasons = only_five(properties(**reason))
    choices: list[st.SearchStrategy[Packet]] = [
        connects,
        connacks,
        publishes,
        st.builds(Puback, packet_id, code, reasons),
        st.builds(Pubrec, packet_id, code, reasons),
        st.builds(Pubrel, packet_id, code, reasons),
        st.builds(Pubcomp, packet_id, code, reasons),
        st.builds(
            Subscribe,
            packet_id,
            st.lists(subscriptions, min_size=1, max_size=3).map(tuple),
            only_five(properties(subscription_identifier=identifier)),
        ),
        st.builds(Suback, packet_id, codes, reasons),
        st.builds(Unsubscribe, packet_id, st.lists(name, min_size=1, max_size=3).map(tuple), only_five(properties())),
        st.builds(Unsuback, packet_id, codes if five else st.just(()), reasons),
        st.just(Pingreq()),
        st.just(Pingresp()),
        st.builds(
            Disconnect,
            code,
            only_five(properties(**reason, session_expiry_interval=uint32, server_reference=text)),
        ),
    ]
    if five:
        choices.append(st.builds(Auth, code, properties(**reason, **method)))
    return st.one_of(choices)


def frame_of(data: bytes) -> Frame:
    (frame,) = Decoder().feed(data)
    return frame


def parse_bytes(data: bytes, version: int = V311) -> Packet:
    return parse(frame_of(data), version)


def cut(body: bytes, first: int) -> bytes:
    """A frame of fewer than 128 bytes around `body`."""
    assert len(body) < 128
    return bytes((first, len(body))) + body


@given(packets(V311))
def test_a_311_packet_comes_back_as_it_went_out(packet: Packet) -> None:
    assert parse_bytes(encode(packet, V311), V311) == packet


@given(packets(V5))
def test_a_5_packet_comes_back_as_it_went_out(packet: Packet) -> None:
    assert parse_bytes(encode(packet, V5), V5) == packet


@given(st.lists(packets(V5), max_size=5), st.data())
def test_any_chunking_gives_the_same_frames(sent: list[Packet], data: st.DataObject) -> None:
    stream = b"".join(encode(packet, V5) for packet in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = Decoder()
    frames: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames += decoder.feed(stream[start:end])
    assert [parse(frame, V5) for frame in frames] == sent
    assert b"".join(frame.raw for frame in frames) == stream
    assert decoder.buffered == 0


def test_frames_left_in_the_iterator_come_with_the_next_call() -> None:
    decoder = Decoder()
    ping = encode(Pingreq(), V311)
    next(decoder.feed(ping * 3))
    assert len(list(decoder.feed(b""))) == 2


@given(st.binary(max_size=64), st.sampled_from([V311, V5]))
def test_random_bytes_raise_nothing_but_malformed_packet(data: bytes, version: int) -> None:
    try:
        for frame in Decoder(1000).feed(data):
            parse(frame, version)
    except MalformedPacket:
        return


@given(st.integers(0, 15), st.integers(0, 15), st.binary(max_size=60), st.sampled_from([V311, V5]))
def test_random_bodies_raise_nothing_but_malformed_packet(kind: int, flags: int, body: bytes, version: int) -> None:
    try:
        packet = parse(Frame(kind, flags, body, b""), version)
    except MalformedPacket:
        return
    assert parse_bytes(encode(packet, version), version) == packet


@given(packets(V5), st.data())
def test_a_damaged_packet_raises_nothing_but_malformed_packet(packet: Packet, data: st.DataObject) -> None:
    frame = frame_of(encode(packet, V5))
    body = bytearray(frame.body)
    for _ in range(data.draw(st.integers(1, 4))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(body)))
    try:
        parse(frame._replace(body=bytes(body[:end])), V5)
    except MalformedPacket:
        return


@given(packets(V311))
def test_a_packet_cut_short_or_with_more_behind_it_is_another_packet_or_malformed(packet: Packet) -> None:
    frame = frame_of(encode(packet, V311))
    for body in (frame.body[:-1], frame.body + b"\0"):
        if body == frame.body:
            continue
        try:
            other = parse(frame._replace(body=body), V311)
        except MalformedPacket:
            continue
        assert other != packet


def test_a_too_large_packet_is_refused_before_its_body_arrives() -> None:
    decoder = Decoder(max_packet=16384)
    with pytest.raises(MalformedPacket) as caught:
        list(decoder.feed(b"\x30\xff\xff\xff\x7f"))
    assert caught.value.code == ReasonCode.PACKET_TOO_LARGE
    with pytest.raises(MalformedPacket):
        list(decoder.feed(b"x" * 100_000))
    assert decoder.buffered == 0


def test_the_limit_counts_the_fixed_header() -> None:
    fits = encode(Publish("t", bytes(1000 - 6)), V311)
    assert len(fits) == 1000
    assert len(list(Decoder(max_packet=1000).feed(fits))) == 1
    with pytest.raises(MalformedPacket):
        list(Decoder(max_packet=999).feed(fits))


def test_frames_before_a_faulty_one_are_still_given() -> None:
    frames = Decoder(100).feed(encode(Pingreq(), V311) + b"\x30\xff\x7f")
    assert parse(next(frames), V311) == Pingreq()
    with pytest.raises(MalformedPacket):
        next(frames)


def test_a_remaining_length_of_five_bytes_is_malformed() -> None:
    with pytest.raises(MalformedPacket):
        list(Decoder().feed(b"\x30\x80\x80\x80\x80\x01"))


@pytest.mark.parametrize("level", [0, 3, 6, 0x84, 255])
def test_connect_of_another_level_tells_the_level(level: int) -> None:
    with pytest.raises(UnsupportedVersion) as caught:
        parse_bytes(cut(b"\0\4MQTT" + bytes((level,)) + b"whatever", 0x10))
    assert caught.value.level == level
    assert caught.value.code == ReasonCode.UNSUPPORTED_PROTOCOL_VERSION


def test_connect_of_mqtt_31_tells_level_3() -> None:
    with pytest.raises(UnsupportedVersion) as caught:
        parse_bytes(cut(b"\0\6MQIsdp\3\2\0\0\0\1a", 0x10))
    assert caught.value.level == 3


PROTOCOL, FORM = ReasonCode.PROTOCOL_ERROR, ReasonCode.MALFORMED_PACKET


@pytest.mark.parametrize(
    ("version", "first", "body", "code"),
    [
        pytest.param(V311, 0x00, b"", FORM, id="type 0"),
        pytest.param(V311, 0xF0, b"", FORM, id="AUTH in 3.1.1"),
        pytest.param(V311, 0x11, b"\0\4MQTT\4\2\0\0\0\1a", FORM, id="reserved fixed header flag"),
        pytest.param(V311, 0x10, b"\0\4MQTX\4\2\0\0\0\1a", FORM, id="another protocol name"),
        pytest.param(V311, 0x10, b"\0\4MQTT\4\3\0\0\0\1a", FORM, id="reserved connect flag"),
        pytest.param(V311, 0x10, b"\0\4MQTT\4\x42\0\0\0\1a\0\1p", FORM, id="password without name in 3.1.1"),
        pytest.param(V311, 0x10, b"\0\4MQTT\4\x22\0\0\0\1a", FORM, id="Will Retain without Will"),
        pytest.param(V311, 0x10, b"\0\4MQTT\4\x1e\0\0\0\1a\0\1t\0\0", FORM, id="Will QoS 3"),
        pytest.param(V311, 0x10, b"\0\4MQTT\4\2\0\0\0\2\xc0\x80", FORM, id="overlong UTF-8"),
        pytest.param(V311, 0x10, b"\0\4MQTT\4\2\0\0\0\3\xed\xa0\x80", FORM, id="surrogate"),
        pytest.param(V311, 0x10, b"\0\4MQTT\4\2\0\0\0\1\0", FORM, id="NUL in client id"),
        pytest.param(V311, 0x10, b"\0\4MQTT\4\2\0\0\0\1ax", FORM, id="trailing byte"),
        pytest.param(V311, 0x10, b"\0\4MQTT\4\2\0\0\0\2a", FORM, id="truncated"),
        pytest.param(V5, 0x10, b"\0\4MQTT\5\2\0\0\3\x16\0\0\0\1a", PROTOCOL, id="data without method"),
        pytest.param(V5, 0x10, b"\0\4MQTT\5\2\0\0\3\x21\0\0\0\1a", PROTOCOL, id="receive maximum 0"),
        pytest.param(V5, 0x10, b"\0\4MQTT\5\2\0\0\5\x27\0\0\0\0\0\1a", PROTOCOL, id="maximum packet size 0"),
        pytest.param(V5, 0x10, b"\0\4MQTT\5\2\0\0\2\x17\2\0\1a", PROTOCOL, id="flag property of 2"),
        pytest.param(V5, 0x10, b"\0\4MQTT\5\2\0\0\4\x17\1\x17\1\0\1a", PROTOCOL, id="duplicated property"),
        pytest.param(V5, 0x10, b"\0\4MQTT\5\2\0\0\3\x23\0\1\0\1a", FORM, id="property of another packet"),
        pytest.param(V5, 0x10, b"\0\4MQTT\5\2\0\0\2\x7f\1\0\1a", FORM, id="unknown property"),
        pytest.param(V5, 0x10, b"\0\4MQTT\5\2\0\0\2\x21\0\1\0\1a", FORM, id="value beyond the properties"),
        pytest.param(V5, 0x10, b"\0\4MQTT\5\2\0\0\x50\x21\0\1\0\1a", FORM, id="properties beyond the packet"),
        pytest.param(V311, 0x36, b"\0\1t\0\1", FORM, id="QoS 3"),
        pytest.param(V311, 0x38, b"\0\1t", FORM, id="DUP at QoS 0"),
        pytest.param(V311, 0x32, b"\0\1t\0\0", FORM, id="packet identifier 0"),
        pytest.param(V311, 0x30, b"\0\3a/#", FORM, id="# in topic name"),
        pytest.param(V311, 0x30, b"\0\3a/+", FORM, id="+ in topic name"),
        pytest.param(V311, 0x30, b"\0\0", FORM, id="empty topic name"),
        pytest.param(V5, 0x30, b"\0\0\0", FORM, id="empty topic name without alias"),
        pytest.param(V5, 0x30, b"\0\1t\4\x08\0\1#", FORM, id="wildcard in response topic"),
        pytest.param(V5, 0x30, b"\0\1t\2\x0b\0", PROTOCOL, id="subscription identifier 0"),
        pytest.param(V5, 0x30, b"\0\1t\6\x0b\x80\x80\x80\x80\1", FORM, id="five byte integer"),
        pytest.param(V311, 0x40, b"\0\0", FORM, id="PUBACK of 0"),
        pytest.param(V311, 0x40, b"\0\1\0", FORM, id="reason code in 3.1.1"),
        pytest.param(V311, 0x60, b"\0\1", FORM, id="PUBREL without its flag"),
        pytest.param(V311, 0x82, b"\0\1", PROTOCOL, id="SUBSCRIBE of nothing"),
        pytest.param(V311, 0x82, b"\0\0\0\1t\0", FORM, id="SUBSCRIBE with identifier 0"),
        pytest.param(V311, 0x82, b"\0\1\0\0\0", FORM, id="empty topic filter"),
        pytest.param(V311, 0x82, b"\0\1\0\1t\4", FORM, id="reserved options in 3.1.1"),
        pytest.param(V311, 0x82, b"\0\1\0\1t\3", FORM, id="requested QoS 3"),
        pytest.param(V311, 0x80, b"\0\1\0\1t\0", FORM, id="SUBSCRIBE without its flag"),
        pytest.param(V5, 0x82, b"\0\1\0\0\1t\x40", FORM, id="reserved options"),
        pytest.param(V5, 0x82, b"\0\1\0\0\1t\x30", PROTOCOL, id="retain handling 3"),
        pytest.param(V5, 0x82, b"\0\1\0\0\x0a$share/g/t\4", PROTOCOL, id="no local on a shared subscription"),
        pytest.param(V5, 0x82, b"\0\1\4\x0b\1\x0b\2\0\1t\0", PROTOCOL, id="two subscription identifiers"),
        pytest.param(V311, 0xA2, b"\0\1", PROTOCOL, id="UNSUBSCRIBE of nothing"),
        pytest.param(V311, 0xC0, b"\0", FORM, id="PINGREQ with a body"),
        pytest.param(V311, 0xE0, b"\0", FORM, id="DISCONNECT with a body in 3.1.1"),
    ],
)
def test_a_broken_rule_is_a_malformed_packet(version: int, first: int, body: bytes, code: ReasonCode) -> None:
    with pytest.raises(MalformedPacket) as caught:
        parse_bytes(cut(body, first), version)
    assert caught.value.code == code


def test_an_empty_topic_is_read_where_an_alias_stands_for_it() -> None:
    packet = Publish("", b"x", properties=Properties(topic_alias=1))
    assert parse_bytes(encode(packet, V5), V5) == packet


@pytest.mark.parametrize(
    "packet",
    [
        Publish("x" * 65536, b""),
        Publish("a\0b", b""),
        Publish("t", b"", properties=Properties(server_keep_alive=1)),
        Publish("t", b"", properties=Properties(message_expiry_interval=2**32)),
        Publish("t", b"", properties=Properties(subscription_identifier=(2**28,))),
        Puback(65536),
    ],
)
def test_what_no_packet_can_hold_is_a_value_error(packet: Packet) -> None:
    with pytest.raises(ValueError, match=r"fit|NUL|property"):
        encode(packet, V5)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Connect("a", password=b"secret"))
