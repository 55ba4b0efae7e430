"""Recorded shapes of brokers that ask, and what each is told; no broker of these but RabbitMQ can be had here.

Each recording names where its shape is written down. The bodies are those of the sources with our names in them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.devicebrokers.dialects import DIALECTS
from broker.devicebrokers.webhook import Webhook
from broker.http.webhooks import MAX_BODY, Asking, WebhookApp
from provisioner.errors import Unavailable
from tests.broker.devicebrokers.worlds import LedgerInMemory, to_install

SECRET = "a-shared-secret-of-the-broker"
NAME, ID, PASSWORD = "p.acme.dev-1.g1", "dev-1", to_install().password.reveal()
EMQX = {"peerhost": "192.0.2.7", "cn": ""}
VERNE = {"peer_addr": "192.0.2.7", "peer_port": 8888, "mountpoint": "", "clean_session": False}
YES, NO, OTHERS = "yes", "no", "others"


@dataclass(frozen=True)
class Recorded:
    """One dialect's calls: login, publish and subscribe, and its words for the three verdicts."""

    source: str
    form: bool
    login: tuple[str, dict[str, Any]]
    publish: tuple[str, dict[str, Any]]
    subscribe: tuple[str, dict[str, Any]]
    topic: tuple[str, ...]
    client_id: str
    told: dict[str, tuple[int, Any]]
    password: str = "password"


_RABBIT_TOPIC = {
    "username": NAME, "vhost": "/", "resource": "topic", "name": "amq.topic", "tags": "",
    "variable_map.client_id": ID, "variable_map.username": NAME, "variable_map.vhost": "/",
}  # fmt: skip
_STATUS = {YES: (200, b""), NO: (403, b""), OTHERS: (403, b"")}
_OK = {
    YES: (200, {"Ok": True, "Error": ""}),
    NO: (403, {"Ok": False, "Error": "not allowed"}),
    OTHERS: (403, {"Ok": False, "Error": "not allowed"}),
}
_VERNE_TOLD = {
    YES: (200, {"result": "ok"}), NO: (200, {"result": {"error": "not_allowed"}}), OTHERS: (200, {"result": "next"}),
}  # fmt: skip
_VERNE_WHO = {"username": NAME, "client_id": ID, "mountpoint": ""}
_GO_WHO = {"username": NAME, "clientid": ID}
_NANO_WHO = _GO_WHO | {"ipaddr": "192.0.2.7", "mountpoint": ""}

RECORDED = {
    "emqx": Recorded(
        "docs.emqx.com: access-control/authn/http, access-control/authz/http (EMQX 5.8)",
        False,
        ("authentication", {"clientid": ID, "username": NAME, "password": PASSWORD} | EMQX),
        ("authorization", {"clientid": ID, "username": NAME, "action": "publish", "qos": 1, "retain": False}),
        ("authorization", {"clientid": ID, "username": NAME, "action": "subscribe", "qos": 1, "retain": False}),
        ("topic",),
        "clientid",
        {
            YES: (200, {"result": "allow", "is_superuser": False}),
            NO: (200, {"result": "deny"}),
            OTHERS: (200, {"result": "ignore"}),
        },
    ),
    "vernemq": Recorded(
        "vernemq/vmq-docs: plugindevelopment/webhookplugins.md",
        False,
        ("auth_on_register", {"username": NAME, "password": PASSWORD, "client_id": ID} | VERNE),
        ("auth_on_publish", {"qos": 1, "payload": "aGVsbG8=", "retain": False} | _VERNE_WHO),
        ("auth_on_subscribe", dict(_VERNE_WHO)),
        ("topics", "0", "topic"),
        "client_id",
        _VERNE_TOLD,
    ),
    "vernemq-5": Recorded(
        "vernemq/vmq-docs: plugindevelopment/webhookplugins.md, hooks with _m5",
        False,
        (
            "auth_on_register_m5",
            {"username": NAME, "password": PASSWORD, "client_id": ID, "clean_start": True, "properties": {}} | VERNE,
        ),
        ("auth_on_publish_m5", {"qos": 1, "payload": "aGVsbG8=", "retain": False, "properties": {}} | _VERNE_WHO),
        ("auth_on_subscribe_m5", {"properties": {}} | _VERNE_WHO),
        ("topics", "0", "topic"),
        "client_id",
        _VERNE_TOLD,
    ),
    "rabbitmq": Recorded(
        "rabbitmq-server: deps/rabbitmq_auth_backend_http/README.md, and RabbitMQ 3.10.8 itself",
        True,
        ("user", {"username": NAME, "password": PASSWORD, "vhost": "/", "client_id": ID}),
        ("topic", {"permission": "write"} | _RABBIT_TOPIC),
        ("topic", {"permission": "read"} | _RABBIT_TOPIC),
        ("routing_key",),
        "client_id",
        {YES: (200, b"allow"), NO: (200, b"deny"), OTHERS: (200, b"deny")},
    ),
    "nanomq": Recorded(
        "docs.emqx.com/emqx-edge: access-control/http",
        True,
        ("auth", {"clientid": ID, "username": NAME, "password": PASSWORD}),
        ("acl", {"access": "2"} | _NANO_WHO),
        ("acl", {"access": "1"} | _NANO_WHO),
        ("topic",),
        "clientid",
        _STATUS,
    ),
    "rmqtt": Recorded(
        "rmqtt/rmqtt: docs/en_US/auth-http.md",
        True,
        ("auth", {"clientid": ID, "username": NAME, "password": PASSWORD}),
        ("acl", {"access": "2", "clientid": ID, "username": NAME, "ipaddr": "192.0.2.7"}),
        ("acl", {"access": "1", "clientid": ID, "username": NAME, "ipaddr": "192.0.2.7"}),
        ("topic",),
        "clientid",
        _STATUS | {OTHERS: (200, b"ignore")},
    ),
    "mosquitto-go-auth": Recorded(
        "iegomez/mosquitto-go-auth: README, HTTP backend, params_mode json",
        False,
        ("user", {"username": NAME, "password": PASSWORD, "clientid": ID}),
        ("acl", {"acc": 2} | _GO_WHO),
        ("acl", {"acc": 4} | _GO_WHO),
        ("topic",),
        "clientid",
        _OK,
    ),
    "mosquitto-go-auth-form": Recorded(
        "iegomez/mosquitto-go-auth: README, HTTP backend, params_mode form",
        True,
        ("user", {"username": NAME, "password": PASSWORD, "clientid": ID}),
        ("acl", {"acc": "2"} | _GO_WHO),
        ("acl", {"acc": "1"} | _GO_WHO),
        ("topic",),
        "clientid",
        _OK,
    ),
    "amqtt": Recorded(
        "amqtt 0.12.1: amqtt/contrib/http.py",
        False,
        ("user", {"username": NAME, "password": PASSWORD, "client_id": ID}),
        ("acl", {"username": NAME, "client_id": ID, "acc": 2}),
        ("acl", {"username": NAME, "client_id": ID, "acc": 4}),
        ("topic",),
        "client_id",
        _OK,
    ),
}


class Broker:
    """Asks the application as the broker of a recording would."""

    def __init__(self, name: str) -> None:
        self.recorded = RECORDED[name]
        dialect = next(one for one in sorted(DIALECTS, key=len, reverse=True) if name.startswith(one))
        self.webhook = Webhook("plant", dialect, plain=None, secure=None)
        self.ledger = LedgerInMemory()
        self.app = WebhookApp([Asking(self.webhook, SECRET)], self.ledger, lambda: 0, certificates_count=False)

    async def ask(self, call: str, body: object) -> tuple[int, Any]:
        if self.recorded.form and isinstance(body, dict):
            content = urlencode(body).encode()
        else:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send(f"/plant/{call}", content)

    async def send(
        self, path: str, content: bytes, method: str = "POST", secret: str | None = SECRET
    ) -> tuple[int, Any]:
        headers = [] if secret is None else [(b"authorization", f"Bearer {secret}".encode())]
        parts = [content[start : start + 1000] for start in range(0, len(content), 1000)] or [b""]
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app({"type": "http", "path": path, "method": method, "headers": headers}, receive, send)
        told = sent[1]["body"]
        return sent[0]["status"], json.loads(told) if told[:1] == b"{" else told

    async def login(self, **instead: Any) -> tuple[int, Any]:
        call, body = self.recorded.login
        return await self.ask(call, body | instead)

    async def use(self, kind: str, topic: str, **instead: Any) -> tuple[int, Any]:
        call, body = self.recorded.publish if kind == "publish" else self.recorded.subscribe
        body = body | instead
        if self.recorded.topic[0] == "topics" and kind == "subscribe":
            body |= {"topics": [{"topic": topic, "qos": 1}]}
        elif self.recorded.topic[0] == "routing_key":
            body |= {"routing_key": topic.replace("/", ".").replace("+", "*")}
        else:
            body |= {"topic": topic}
        return await self.ask(call, body)


@pytest.fixture(params=sorted(RECORDED))
def broker(request: pytest.FixtureRequest) -> Broker:
    made = Broker(request.param)
    made.ledger.live[NAME] = to_install()
    return made


async def test_a_login_is_decided_and_told_in_the_brokers_words(broker: Broker) -> None:
    told = broker.recorded.told
    assert await broker.login() == told[YES]
    assert await broker.login(password="guess") == told[NO]
    assert await broker.login(**{broker.recorded.client_id: "dev-2"}) == told[NO]
    assert await broker.login(username="p.acme.dev-9.g1") == told[NO]
    assert await broker.login(username="somebody-else") == told[OTHERS]
    assert await broker.login(username="") == told[OTHERS]


async def test_the_address_of_the_device_is_read_where_the_broker_tells_it(broker: Broker) -> None:
    await broker.login()
    assert broker.ledger.sources == ["192.0.2.7" if {"peerhost", "peer_addr"} & set(broker.recorded.login[1]) else ""]
    for field in ("peerhost", "peer_addr", "ipaddress", "ipaddr"):
        others = dict.fromkeys(("peerhost", "peer_addr"), "")
        for told, read in (("192.0.2.9", "192.0.2.9"), ("2001:db8::1", "2001:db8::1"), ("fe80::1%\x1b[2J", "fe80::1")):
            await broker.login(**others | {field: told})
            assert broker.ledger.sources[-1] == read
        for told in ("", "here", "192.0.2.9\n", "1" * 4000, "999.1.1.1"):
            await broker.login(**others | {field: told})
            assert broker.ledger.sources[-1] == ""


async def test_topics_are_decided_and_told_in_the_brokers_words(broker: Broker) -> None:
    told = broker.recorded.told
    for kind in ("publish", "subscribe"):
        assert await broker.use(kind, "acme/dev-1/out") == told[YES]
        for topic in ("acme/dev-2/out", "acme/dev-1x", "acme", "other/dev-1/x", "$SYS/x", ""):
            assert await broker.use(kind, topic) == told[NO], topic
        assert await broker.use(kind, "acme/dev-1/out", username="somebody-else") == told[OTHERS]
    assert await broker.use("subscribe", "acme/dev-1/#") == told[YES]
    for topic in ("#", "acme/#", "acme/+/out", "+/dev-1/#", "acme/dev-1/#/x"):
        assert await broker.use("subscribe", topic) == told[NO]
    assert await broker.use("publish", "acme/dev-1/#") == told[NO]


async def test_whoever_is_revoked_may_use_nothing_any_more(broker: Broker) -> None:
    del broker.ledger.live[NAME]
    for answer in (await broker.login(), await broker.use("publish", "acme/dev-1/out")):
        assert answer == broker.recorded.told[NO]


async def test_what_cannot_be_read_is_answered_no(broker: Broker) -> None:
    call, body = broker.recorded.login
    no = broker.recorded.told[NO]
    for lacking in ("username", "password", broker.recorded.client_id):
        assert await broker.ask(call, {key: value for key, value in body.items() if key != lacking}) == no
    for content in (
        b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null", b'{"username": 1}', b"a" * (MAX_BODY + 1), b"[" * 20_000,
        b'{"a":' * 20_000, json.dumps(body | {"password": "x" * 5000}).encode(), b"username=a&username=b",
        json.dumps(body).encode().replace(b"{", b'{"username": "x", ', 1), b"&".join([b"a=b"] * 100),
    ):  # fmt: skip
        assert await broker.ask(call, content) == no, content[:40]
    call, body = broker.recorded.publish
    assert await broker.ask(call, body) == no


async def test_a_ledger_that_is_away_answers_no(broker: Broker) -> None:
    class Away(LedgerInMemory):
        async def device_rights(self, *_: object) -> None:
            raise Unavailable("the ledger is away")

    broker.app._ledger = Away()
    assert await broker.use("publish", "acme/dev-1/out") == broker.recorded.told[NO]


async def test_nobody_asks_without_the_secret(broker: Broker) -> None:
    call, body = broker.recorded.login
    content = urlencode(body).encode() if broker.recorded.form else json.dumps(body).encode()
    assert await broker.send(f"/plant/{SECRET}/{call}", content, secret=None) == broker.recorded.told[YES]
    for path, secret in (
        (f"/plant/{call}", None), (f"/plant/{call}", ""), (f"/plant/{call}", SECRET + "x"), (f"/plant/x/{call}", None),
    ):  # fmt: skip
        assert (await broker.send(path, content, secret=secret))[0] == 401
    for path in ("/", "/plant", f"/other/{call}", "/plant/nothing", f"/plant/{call}/x/y"):
        assert (await broker.send(path, content))[0] in (401, 404)
    assert (await broker.send(f"/plant/{call}", content, method="GET"))[0] == 405


async def test_a_unit_may_log_in_by_its_serial_number() -> None:
    broker = Broker("emqx")
    broker.ledger.live["SN-1"] = to_install()
    who = {"clientid": ID, "username": "SN-1"}
    told = broker.recorded.told
    assert await broker.login(username="SN-1") == told[YES]
    assert await broker.use("publish", "acme/dev-1/out", **who) == told[YES]
    assert await broker.use("publish", "acme/dev-2/out", **who) == told[NO]
    assert await broker.login(username="SN-1", password="guess") == told[OTHERS]


async def test_nobody_is_a_superuser() -> None:
    for name in ("nanomq", "mosquitto-go-auth"):
        broker = Broker(name)
        assert await broker.ask("superuser", {"username": NAME, "clientid": ID}) == broker.recorded.told[NO]


async def test_rabbitmq_asks_for_the_queue_of_the_client_id() -> None:
    broker = Broker("rabbitmq")
    broker.ledger.live[NAME] = to_install()
    resource = {"username": NAME, "vhost": "/", "tags": "", "client_id": ID}

    async def may(kind: str, name: str, permission: str) -> bool:
        told = await broker.ask("resource", resource | {"resource": kind, "name": name, "permission": permission})
        return told == broker.recorded.told[YES]

    assert await broker.ask("vhost", {"username": NAME, "vhost": "/", "ip": "::1", "client_id": ID}) == (200, b"allow")
    for permission in ("configure", "write", "read"):
        assert await may("queue", "mqtt-subscription-dev-1qos1", permission)
        assert not await may("queue", "mqtt-subscription-dev-2qos1", permission)
        assert await may("exchange", "amq.topic", permission) is (permission != "configure")
        assert not await may("exchange", "amq.direct", permission)


async def test_subscribing_to_several_needs_the_right_to_each() -> None:
    broker = Broker("vernemq")
    broker.ledger.live[NAME] = to_install()
    for topics, verdict in ((("acme/dev-1/a", "acme/dev-1/b"), YES), (("acme/dev-1/a", "acme/dev-2/b"), NO), ((), NO)):
        body = _VERNE_WHO | {"topics": [{"topic": topic, "qos": 1} for topic in topics]}
        assert await broker.ask("auth_on_subscribe", body) == broker.recorded.told[verdict]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


FIELDS = (
    "username", "clientid", "client_id", "password", "topic", "topics", "acc", "access", "action", "permission",
    "routing_key", "resource", "name",
)  # fmt: skip


@settings(deadline=None)  # the machine may be busy
@given(st.sampled_from(sorted(RECORDED)), st.dictionaries(st.sampled_from(FIELDS), json_values))
async def test_no_body_makes_it_stumble(name: str, body: dict[str, Any]) -> None:
    broker = Broker(name)
    for call in broker.webhook.dialect.calls:
        told = await broker.send(f"/plant/{call}", json.dumps(body).encode())
        assert told in (broker.recorded.told[NO], broker.recorded.told[OTHERS])
