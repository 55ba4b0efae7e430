"""The provisioning session: any bytes in any pieces.

1. Nothing is raised. The pieces do not matter: the same bytes give the same events and the same answers.
2. One login at most, with a client id of the grammar; no message before it was admitted.
3. Every message that the session hands out was published to its own `request` or `ack`, without retain, at QoS 0 or 1;
   everything that it sends to the client's `reply` is an answer to one of them.
4. What waits in memory stays below the largest packet and what one read brings.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from broker.mqtt.packets import ReasonCode
from broker.mqtt.protocol import Event, Login, Message, Refusal, ReplyTooLarge, Session, SessionLimits
from broker.mqtt.topics import Topics
from tests.e2e.packets import (
    CONNACK,
    CORRELATION_DATA,
    MAXIMUM_PACKET_SIZE,
    PUBLISH,
    RECEIVE_MAXIMUM,
    RESPONSE_TOPIC,
    packet,
)
from tests.fuzz.streams import acknowledgement, chunks, connect_packet, cut, publication, published, subscription
from tests.hostile.grammar import is_identifier

USER, CLIENT_ID = "factory", "dev-1"
REQUEST, REPLY, ACK = (f"prov/v1/{USER}/{CLIENT_ID}/{kind}" for kind in ("request", "reply", "ack"))
_TOPICS = Topics()
_IN_ORDER = SessionLimits(in_flight=1, packets_per_second=1e9)
_USUAL = SessionLimits()
# CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP, DISCONNECT: all that a server of ours says.
_SAID = {2, 3, 4, 9, 11, 13, 14}


def _conversation(version: int) -> bytes:
    return b"".join(
        (
            connect_packet(CLIENT_ID, USER, "pw", version=version),
            subscription(REPLY, version),
            publication(REQUEST, b'{"requestId":"r-1"}', version, 1),
            acknowledgement(1),
            publication(ACK, b'{"requestId":"r-1","generation":1}', version, 0),
            packet(12, b""),
            packet(14, b""),
        )
    )


_WISHES = connect_packet(CLIENT_ID, USER, "pw", version=5, given={RECEIVE_MAXIMUM: 1, MAXIMUM_PACKET_SIZE: 90})
SEEDS = [
    b"\0" + _conversation(4),
    b"\3" + _conversation(5),
    b"\1" + connect_packet(CLIENT_ID, USER, "pw", will=("a", b"b")),
    b"\2" + _WISHES + publication(REQUEST, b"{}", 5, 1, {RESPONSE_TOPIC: REPLY, CORRELATION_DATA: b"c"}) * 3,
    b"\0" + connect_packet(CLIENT_ID, USER, "pw") + publication("prov/v1/factory/dev-2/request", b"{}", 4, 1),
    b"\0" + connect_packet(CLIENT_ID, USER, "pw", version=5) + publication(REQUEST, b"{}", 5, 1) * 20,
]
TOKENS = [
    b"MQTT\4", b"MQTT\5", b"MQIsdp\3", REQUEST.encode(), REPLY.encode(), ACK.encode(), b"\0\5dev-1", b"\0\7factory",
    b"\x82", b"\x30", b"\x32", b"\x33", b"\x34", b"\xe0\0", b"\xc0\0", b"\xff\xff\xff\x7f", b"\x23\0\1", b"\x21\0\1",
    b"\x27\0\0\0\x20", b"#", b"+/", b"\x0b\1", b"\x26\0\1a\0\1b", b"\xf0\0",
]  # fmt: skip


@dataclass
class _Told:
    """What one drive through a session came to."""

    events: list[Event] = field(default_factory=list)
    output: bytes = b""
    ended: str | None = None


def try_one(data: bytes) -> None:
    """First byte: whether the login is right, and how the rest is cut into pieces."""
    if not data:
        return
    admit, choice, stream = not data[0] & 1, data[0] >> 1, data[1:]
    whole = _Drive(_IN_ORDER, admit=admit).through([stream])
    assert _Drive(_IN_ORDER, admit=admit).through(chunks(stream, choice)) == whole, "the pieces matter"
    _check(whole, stream, admit=admit)
    _check(_Drive(_USUAL, admit=admit).through(chunks(stream, choice)), stream, admit=admit)


class _Drive:
    """The caller of a session: decides as soon as it is asked, or as late as it may (`_USUAL`)."""

    def __init__(self, limits: SessionLimits, *, admit: bool) -> None:
        self._session = Session(_TOPICS, limits, 0.0)
        self._limits = limits
        self._admit = admit
        self._late = limits is _USUAL
        self._waiting: deque[Event] = deque()
        self._now = 0.0
        self._told = _Told()

    def through(self, pieces: Iterable[bytes]) -> _Told:
        session, waiting, told = self._session, self._waiting, self._told
        for piece in pieces:
            waiting += session.receive(piece, self._now)
            self._decide_some()
            assert session._decoder.buffered <= self._limits.max_packet + 2 * len(piece) + 1024
            self._now += 0.01 if self._late else 0
        # The client says no more: whatever it said, the session ends some day.
        for _ in range(10_000):
            self._decide_some(all_of_it=True)
            if session.ended is not None:
                break
            self._now = session.next_deadline
            waiting += session.tick(self._now)
        told.output, told.ended = session.data_to_send(), session.ended
        assert told.ended is not None
        assert session.next_deadline == math.inf
        assert not session.data_to_send()
        return told

    def _decide_some(self, *, all_of_it: bool = False) -> None:
        session, waiting = self._session, self._waiting
        while waiting or (session.ended is None and not session.wants_data):
            if self._late and not all_of_it and session.wants_data and len(waiting) < 3:
                return
            if waiting:
                event = waiting.popleft()
                self._told.events.append(event)
                waiting.extend(self._decide(event))
            else:
                self._now = session.next_deadline
                waiting += session.tick(self._now)

    def _decide(self, event: Event) -> list[Event]:
        session = self._session
        if isinstance(event, Login):
            if self._admit and is_identifier(event.user):
                return session.admit(self._now)
            session.refuse(Refusal.LOGIN)
        elif isinstance(event, Message):
            return self._answer(event)
        else:
            session.reply_and_end(b"bad", "application/json")
        return []

    def _answer(self, message: Message) -> list[Event]:
        most = 150 if message.reply_limit is None else min(150, message.reply_limit)
        try:
            return self._session.reply(message, bytes(most), "application/json", self._now)
        except ReplyTooLarge:
            assert self._late or most == 0, "a reply within its limit is too large"
            self._session.disconnect(ReasonCode.PACKET_TOO_LARGE, "too large")
            return []


def _check(told: _Told, stream: bytes, *, admit: bool) -> None:
    login = told.events[0] if told.events else None
    messages = [event for event in told.events if isinstance(event, Message)]
    answers = [event for event in told.events if not isinstance(event, Login)]
    assert sum(isinstance(event, Login) for event in told.events) == (login is not None)
    reply = b""
    if login is not None:
        assert isinstance(login, Login), "something before the login"
        assert is_identifier(login.client_id)
        assert admit or not answers, "something after a refusal"
        mine = f"prov/v1/{login.user}/{login.client_id}/".encode()
        reply = mine + b"reply"
        said = [(event.kind, event.payload) for event in messages]
        assert said == list(_own(stream, mine))[: len(said)], "a message that is not the session's own"
    _check_output(told.output, reply, len(answers), admit=admit)


def _own(stream: bytes, mine: bytes) -> Iterator[tuple[str, bytes]]:
    """The messages to the session's own topics that the stream has."""
    packets = list(cut(stream))
    version = packets[0].body[6]
    for one in packets[1:]:
        found = published(one, version) if one.kind == PUBLISH else None
        if found is not None and found.qos < 2 and not found.retain:
            for kind in ("request", "ack"):
                if found.topic == mine + kind.encode():
                    yield kind, found.payload


def _check_output(output: bytes, reply: bytes, answers: int, *, admit: bool) -> None:
    said = list(cut(output))
    assert sum(len(one.body) for one in said) <= len(output)
    assert {one.kind for one in said} <= _SAID
    connacks = [one for one in said if one.kind == CONNACK]
    assert len(connacks) <= 1
    if said and said[0].kind != CONNACK:
        raise AssertionError("something before CONNACK")
    if connacks and not connacks[0].body[1]:
        assert admit, "a welcome that nobody gave"
    version = 5 if connacks and len(connacks[0].body) > 2 else 4
    replies = [published(one, version) for one in said if one.kind == PUBLISH]
    assert len(replies) <= answers, "an answer that nobody asked for"
    for one in replies:
        assert one is not None
        assert (one.topic, one.retain) == (reply, False)
        assert one.qos < 2
