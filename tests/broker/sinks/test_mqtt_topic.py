"""Events and revocation lists at a real MQTT broker."""

import json
import socket

import pytest
from structlog.testing import capture_logs

from broker.mqtt.packets import Publish
from broker.sinks.mqtt import EVENTS, LISTS, ListTopics, MqttTopic, Publisher, parse_login
from provisioner.errors import Unavailable
from provisioner.events import body
from tests.broker.mqtt.device_client import guarded
from tests.broker.sinks.test_webhook import EVENT

LOGIN = ("events.provisioner", "pw")
TOPIC = "shared/events/acme/Device.ProvisioningRecipeApplied"


def sink_at(port: int, login: tuple[str, str] | None = LOGIN) -> MqttTopic:
    return MqttTopic(publisher_at(port, EVENTS, login), "shared/events")


def publisher_at(port: int, client_id: str, login: tuple[str, str] | None = LOGIN, timeout: float = 5) -> Publisher:
    return Publisher(f"mqtt://127.0.0.1:{port}", client_id, login=login, timeout=timeout, tls=None)


async def test_an_event_is_published_and_acknowledged() -> None:
    async with guarded() as site:
        reader = await site.connect("reader")
        assert await reader.subscribe("shared/events/acme/#", qos=1) == (1,)
        sink = sink_at(site.port)
        assert await sink.deliver(EVENT) is None
        assert await sink.deliver(EVENT) is None
        assert await reader.messages(2) == [(TOPIC, body(EVENT))] * 2
        assert json.loads(body(EVENT))["id"] == EVENT.id
        await sink.close()


async def test_an_event_is_not_retained() -> None:
    async with guarded() as site:
        sink = sink_at(site.port)
        await sink.deliver(EVENT)
        reader = await site.connect("reader")
        await reader.subscribe("shared/#")
        await reader.publish("shared/other", b"first")
        assert await reader.message() == Publish("shared/other", b"first", 0, 0, retain=False)
        await sink.close()


async def test_a_broker_that_went_away_is_found_again() -> None:
    async with guarded() as site:
        port = site.port
        sink = sink_at(port)
        assert await sink.deliver(EVENT) is None
    with pytest.raises(Unavailable):
        await sink.deliver(EVENT)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await sink.deliver(EVENT)
    async with guarded() as site:
        sink._publisher._port = site.port
        assert await sink.deliver(EVENT) is None
        await sink.close()
        await sink.close()


@pytest.mark.parametrize("login", [("events.provisioner", "wrong"), None])
async def test_a_login_that_is_refused_means_away(login: tuple[str, str] | None) -> None:
    async with guarded() as site:
        sink = sink_at(site.port, login)
        with pytest.raises(Unavailable) as caught:
            await sink.deliver(EVENT)
        assert "wrong" not in str(caught.value)
        await sink.close()


async def test_a_broker_that_says_nothing_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = MqttTopic(publisher_at(silent.getsockname()[1], EVENTS, None, 0.2), "shared")
        with pytest.raises(Unavailable):
            await sink.deliver(EVENT)
        await sink.close()


HOUR = 3_600_000
NEVER = 10 * HOUR
LISTED = "shared/crl/ab12"


async def test_revocation_lists_are_retained_beside_the_events() -> None:
    lists = {"ab12": b"\x30first"}
    async with guarded() as site:
        topics = ListTopics(publisher_at(site.port, LISTS), "shared/events", lambda: lists)
        await topics.step(NEVER)
        reader = await site.connect("reader")
        await reader.subscribe("shared/crl/+", qos=1)
        assert await reader.message() == Publish(LISTED, b"\x30first", 1, 1, retain=True)
        lists = {"ab12": b"\x30second", "cd34": b"\x30other"}
        await topics.step(NEVER + 5000)
        assert await reader.messages(2) == [(LISTED, b"\x30second"), ("shared/crl/cd34", b"\x30other")]
        # What has not changed is told once an hour, in case that the broker has forgotten.
        await topics.step(NEVER + 10_000)
        lists = {"ab12": b"\x30second"}
        await topics.step(NEVER + HOUR)
        assert await reader.messages(1) == [(LISTED, b"\x30second")]
        await topics.close()


async def test_lists_wait_for_a_broker_that_is_away() -> None:
    async with guarded() as site:
        port = site.port
    topics = ListTopics(publisher_at(port, LISTS), "shared/events", lambda: {"ab12": b"\x30"})
    with capture_logs() as lines:
        assert await topics.step(NEVER) == NEVER + 5000
        await topics.step(NEVER + 5000)
    assert [line["event"] for line in lines] == ["revocation lists not published"]
    async with guarded() as site:
        topics._publisher._port = site.port
        await topics.step(NEVER + 10_000)
        reader = await site.connect("reader")
        await reader.subscribe("shared/crl/#", qos=1)
        assert await reader.messages(1) == [(LISTED, b"\x30")]
        await topics.close()


@pytest.mark.parametrize("text", ["", "user", "user\n", "\npassword", "user\npassword\nmore"])
def test_a_malformed_login_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="user name and a password"):
        parse_login(text)


def test_a_login_file_has_two_lines() -> None:
    assert parse_login("user\npass word\n") == ("user", "pass word")
