"""How brokers ask whom to admit, and how they want to be answered: one small table a dialect, nothing decided here.

1. A call is read into a `Question`. What is missing, doubled, no text or too long is `Unreadable`, and the answer no.
2. An answer says yes, no, or nothing (a name that is not ours is left to whoever else the broker asks; where a broker
   has no word for that, the answer is no). No is said in so many words: EMQX takes an error for "ask the next one".
3. RabbitMQ routes by words with dots, so topics are compared as it sees them, `.` for `/` and `*` for `+`.

Shapes: EMQX 5 (docs.emqx.com, access-control: authn/http and authz/http), VerneMQ (vernemq/vmq-docs, webhooks),
RabbitMQ (rabbitmq-server, deps/rabbitmq_auth_backend_http/README.md), NanoMQ (docs.emqx.com/emqx-edge,
access-control/http), RMQTT (rmqtt/rmqtt, docs/en_US/auth-http.md), mosquitto-go-auth (iegomez/mosquitto-go-auth,
README, HTTP backend), amqtt (its module amqtt.contrib.http).
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

_LONGEST = 4096
_MOST_TOPICS = 64
_READ, _WRITE, _SUBSCRIBE = 1, 2, 4


class Unreadable(ValueError):
    """A call that is not in its dialect."""


class Verdict(Enum):
    """What the broker is told."""

    YES = "yes"
    NO = "no"
    OTHERS = "others"  # the name is not ours


@dataclass(frozen=True, slots=True)
class Question:
    """What a broker wants to know about (client id, user name).

    With `password` whether they may log in, else whether they, logged in, may use these topic names and filters;
    `password` None and no topic: whether they are still admitted at all. `verdict` is set where the broker's question
    has the same answer for everybody. `source` is the device's IP address, empty where the broker does not tell.
    """

    client_id: str
    username: str
    password: bytes | None = None
    source: str = ""
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    verdict: Verdict | None = None


Body = Mapping[str, Any]
Reader = Callable[[Body], Question]


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, media type and body."""

    status: int
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Dialect:
    """`calls`: last part of a path -> how its body is read. `has_levels_of_dots`: a dot in a topic is a slash there."""

    calls: Mapping[str, Reader]
    answers: Mapping[Verdict, Answer]
    has_levels_of_dots: bool = False


def _text(body: Body, *names: str) -> str:
    """The field of the first of these names that is there; null is empty."""
    for name in names:
        if name in body:
            value = body[name]
            if value is None:
                return ""
            if not isinstance(value, str) or len(value) > _LONGEST:
                break
            return value
    raise Unreadable(names[0])


def _whole(body: Body, name: str) -> int:
    value = body.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 4:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Unreadable(name)


def _address(body: Body) -> str:
    """Where the device connects from, as VerneMQ tells, and the others where they are set up to."""
    for name in ("peer_addr", "peerhost", "ipaddress", "ipaddr"):
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(str(body.get(name)).partition("%")[0]))
    return ""


def _login(*client_id: str) -> Reader:
    def read(body: Body) -> Question:
        password = _text(body, "password").encode()
        return Question(_text(body, *client_id), _text(body, "username"), password, _address(body))

    return read


def _no(_body: Body) -> Question:
    """Nobody is a superuser."""
    return Question("", "", verdict=Verdict.NO)


def _json(status: int, text: str) -> Answer:
    return Answer(status, "application/json", text.encode())


# -- EMQX 5 ------------------------------------------------------------------------------------------------------------


def _emqx_action(body: Body) -> Question:
    action, topic = _text(body, "action"), _text(body, "topic")
    who = _text(body, "clientid"), _text(body, "username")
    if action == "publish":
        return Question(*who, publish=(topic,))
    if action == "subscribe":
        return Question(*who, subscribe=(topic,))
    raise Unreadable("action")


_EMQX = Dialect(
    {"authentication": _login("clientid"), "authorization": _emqx_action},
    {
        Verdict.YES: _json(200, '{"result":"allow","is_superuser":false}'),
        Verdict.NO: _json(200, '{"result":"deny"}'),
        Verdict.OTHERS: _json(200, '{"result":"ignore"}'),
    },
)

# -- VerneMQ -----------------------------------------------------------------------------------------------------------


def _verne_publish(body: Body) -> Question:
    return Question(_text(body, "client_id"), _text(body, "username"), publish=(_text(body, "topic"),))


def _verne_subscribe(body: Body) -> Question:
    topics = body.get("topics")
    if not isinstance(topics, list) or not 1 <= len(topics) <= _MOST_TOPICS:
        raise Unreadable("topics")
    if not all(isinstance(one, dict) for one in topics):
        raise Unreadable("topics")
    wanted = tuple(_text(one, "topic") for one in topics)
    return Question(_text(body, "client_id"), _text(body, "username"), subscribe=wanted)


_VERNEMQ = Dialect(
    {
        f"{hook}{version}": read
        for hook, read in {
            "auth_on_register": _login("client_id"),
            "auth_on_publish": _verne_publish,
            "auth_on_subscribe": _verne_subscribe,
        }.items()
        for version in ("", "_m5")
    },
    {
        Verdict.YES: _json(200, '{"result":"ok"}'),
        Verdict.NO: _json(200, '{"result":{"error":"not_allowed"}}'),
        Verdict.OTHERS: _json(200, '{"result":"next"}'),
    },
)

# -- RabbitMQ ----------------------------------------------------------------------------------------------------------


def _rabbit_vhost(body: Body) -> Question:
    return Question(_text(body, "client_id"), _text(body, "username"))


def _rabbit_resource(body: Body) -> Question:
    who = _text(body, "client_id"), _text(body, "username")
    kind, name, permission = (_text(body, one) for one in ("resource", "name", "permission"))
    own = {f"mqtt-subscription-{who[0]}qos{qos}" for qos in (0, 1)}
    queue = kind == "queue" and name in own and permission in ("configure", "write", "read")
    exchange = kind == "exchange" and name == "amq.topic" and permission in ("write", "read")
    return Question(*who, verdict=None if queue or exchange else Verdict.NO)


def _rabbit_topic(body: Body) -> Question:
    who = _text(body, "variable_map.client_id"), _text(body, "username")
    if (_text(body, "resource"), _text(body, "name")) != ("topic", "amq.topic"):
        raise Unreadable("name")
    topic = _text(body, "routing_key").replace("*", "+").replace(".", "/")
    permission = _text(body, "permission")
    if permission == "write":
        return Question(*who, publish=(topic,))
    if permission == "read":
        return Question(*who, subscribe=(topic,))
    raise Unreadable("permission")


_RABBITMQ = Dialect(
    {"user": _login("client_id"), "vhost": _rabbit_vhost, "resource": _rabbit_resource, "topic": _rabbit_topic},
    {
        Verdict.YES: Answer(200, "text/plain", b"allow"),
        Verdict.NO: Answer(200, "text/plain", b"deny"),
        Verdict.OTHERS: Answer(200, "text/plain", b"deny"),
    },
    has_levels_of_dots=True,
)

# -- NanoMQ, RMQTT: the status decides ---------------------------------------------------------------------------------


def _access(body: Body) -> Question:
    who = _text(body, "clientid"), _text(body, "username")
    access, topic = _whole(body, "access"), _text(body, "topic")
    if access == 1:
        topics = tuple(topic.split(","))
        if len(topics) > _MOST_TOPICS:
            raise Unreadable("topic")
        return Question(*who, subscribe=topics)
    if access == 2:
        return Question(*who, publish=(topic,))
    raise Unreadable("access")


_YES_OR_NO = {
    Verdict.YES: Answer(200, "text/plain", b""),
    Verdict.NO: Answer(403, "text/plain", b""),
    Verdict.OTHERS: Answer(403, "text/plain", b""),
}
_NANOMQ = Dialect({"auth": _login("clientid"), "superuser": _no, "acl": _access}, _YES_OR_NO)
_RMQTT = Dialect(_NANOMQ.calls, _YES_OR_NO | {Verdict.OTHERS: Answer(200, "text/plain", b"ignore")})

# -- mosquitto-go-auth, amqtt: the status decides, and the JSON says the same ------------------------------------------


def _acc(body: Body) -> Question:
    who = _text(body, "clientid", "client_id"), _text(body, "username")
    acc, topic = _whole(body, "acc"), _text(body, "topic")
    if not acc or acc & ~(_READ | _WRITE | _SUBSCRIBE):
        raise Unreadable("acc")
    heard = (topic,) if acc & (_READ | _SUBSCRIBE) else ()
    return Question(*who, publish=(topic,) if acc & _WRITE else (), subscribe=heard)


_GO_AUTH = Dialect(
    {"user": _login("clientid", "client_id"), "superuser": _no, "acl": _acc},
    {
        Verdict.YES: _json(200, '{"Ok":true,"Error":""}'),
        Verdict.NO: _json(403, '{"Ok":false,"Error":"not allowed"}'),
        Verdict.OTHERS: _json(403, '{"Ok":false,"Error":"not allowed"}'),
    },
)

DIALECTS: Mapping[str, Dialect] = {
    "emqx": _EMQX,
    "vernemq": _VERNEMQ,
    "rabbitmq": _RABBITMQ,
    "nanomq": _NANOMQ,
    "rmqtt": _RMQTT,
    "mosquitto-go-auth": _GO_AUTH,
    "amqtt": _GO_AUTH,
}
