"""The embedded device broker as a part: beginning, end, TLS, and publishing from inside."""

import asyncio
import logging
import ssl
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker.mqtt.embedded import EmbeddedBroker
from broker.mqtt.filters import InvalidTopic
from broker.mqtt.grant import Grant, GuardLimits
from broker.mqtt.packets import V311, Connack, Connect, Will
from broker.tls import server_context
from tests.broker.mqtt.device_client import PATIENCE, DeviceClient, Logins, Site, guarded
from tests.broker.mqtt.serving import contexts
from tests.pki import Pki


async def test_the_end_leaves_no_task_and_no_listener() -> None:
    before = asyncio.all_tasks()
    async with guarded() as site:
        kept = await site.connect("dev-1", clean=False)
        await kept.subscribe("shared/#", qos=1)
        await kept.leave()
        device = await site.connect("dev-2", will=Will("shared/will", b"x"))
        await device.subscribe("shared/#")
        silent = await site.open()
        await site.broker.close()
        assert await device.ended() == []
        assert await silent.ended() == []
        assert asyncio.all_tasks() == before
        with pytest.raises(ConnectionError):
            await site.open()


async def test_a_broker_that_never_started_can_be_closed() -> None:
    await EmbeddedBroker(Logins()).close()


async def test_a_broker_that_could_not_listen_can_be_closed() -> None:
    async with guarded() as site:
        second = EmbeddedBroker(Logins())
        with pytest.raises(OSError, match="in use"):
            await second.start("127.0.0.1", site.port)
        await second.close()


async def test_a_login_being_judged_does_not_hold_up_the_end() -> None:
    judged = asyncio.Event()

    async def hang(_username: str, _password: bytes, _client_id: str, _source: str) -> None:
        judged.set()
        await asyncio.get_running_loop().create_future()

    async with asyncio.timeout(PATIENCE):
        async with guarded(None, hang) as site:
            device = await site.open()
            await device.send(Connect("dev-1", username="acme.dev-1", password=b"pw"))
            await judged.wait()


async def test_the_will_is_not_published_at_the_end() -> None:
    async with guarded() as site:
        await site.connect("dev-1", will=Will("shared/will", b"x", retain=True))
        router = site.broker._router
        await site.broker.close()
        assert router.retained("#") == ()


async def test_it_publishes_from_inside() -> None:
    async with guarded() as site:
        device = await site.connect()
        await device.subscribe("shared/#", qos=2)
        for qos in (0, 1, 2):
            await site.broker.publish("shared/x", b"%d" % qos, qos)
            assert (await device.message()).qos == qos
        await site.broker.publish("shared/kept", b"kept", retain=True)
        late = await site.connect("dev-2", "acme.dev-2")
        await late.subscribe("shared/#")
        assert (await late.message()).retain
        for topic in ("", "a/+", "$SYS/x"):
            with pytest.raises(InvalidTopic):
                await site.broker.publish(topic, b"")


async def test_plain_and_tls_lead_to_the_same_sessions(tmp_path: Path) -> None:
    server, client, _ = contexts(tmp_path)
    async with guarded() as site:
        port = await site.broker.start("127.0.0.1", 0, server)
        plain = await site.connect(clean=False)
        await plain.subscribe("shared/#", qos=1)
        device = await over_tls(port, client)
        await device.send(Connect("dev-1", V311, clean_start=False, username="acme.dev-1", password=b"pw"))
        assert await device.receive(Connack) == Connack(0, session_present=True)
        assert await plain.ended() == []
        await device.publish("shared/x", bytes(200_000), 1)
        assert (await device.message()).payload == bytes(200_000)
        await device.leave()


async def test_a_refused_login_over_tls_is_told_so(tmp_path: Path) -> None:
    server, client, _ = contexts(tmp_path)
    async with guarded(GuardLimits(refusal_grid=0.01, connect_time=0.3)) as site:
        port = await site.broker.start("127.0.0.1", 0, server)
        device = await over_tls(port, client)
        await device.send(Connect("dev-1", username="acme.dev-1", password=b"no"))
        assert await device.ended() == [Connack(5)]
        silent = await over_tls(port, client)
        assert await silent.ended() == []
        garbage = Site(site.broker, port)
        stranger = await garbage.open()
        await stranger.send_bytes(b"GET / HTTP/1.1\r\n\r\n")
        await stranger.raw_end()
        garbage.close()


class Certificates:
    """Whoever shows this one is `acme.g1`, under the client ids that it is asked for by name."""

    def __init__(self, der: bytes) -> None:
        self.der = der
        self.asked: list[str] = []
        self.let = asyncio.Event()
        self.let.set()
        self.asking = asyncio.Event()

    async def __call__(self, certificate: bytes, client_id: str, _source: str) -> Grant | None:
        assert certificate == self.der
        self.asked.append(client_id)
        self.asking.set()
        await self.let.wait()
        filters = (f"acme/{client_id}/#",)
        return Grant("acme", "acme.g1", client_id, filters, filters) if client_id.startswith("dev-") else None


async def test_a_certificate_logs_in_where_there_is_no_password(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    held, ours = pki.device("acme", None), pki.server()
    certificates, logins = Certificates(held.der), Logins()
    async with guarded(GuardLimits(refusal_grid=0.01), logins, certificates) as site:
        port = await site.broker.start("127.0.0.1", 0, server_context(ours.chain, ours.key, pki.authority.root_pem))
        devices = []
        for client_id, username in (("dev-1", None), ("dev-2", "whoever")):
            devices.append(await over_tls(port, pki.client(held)))
            await devices[-1].send(Connect(client_id, username=username))
            assert await devices[-1].receive(Connack) == Connack(0)
            await devices[-1].publish(f"acme/{client_id}/x", b"x", 1)
        assert {grant.username for grant in site.broker.connected()} == {"acme.g1"}
        refused = await over_tls(port, pki.client(held))
        await refused.send(Connect("stranger"))
        assert await refused.ended() == [Connack(5)]
        assert (certificates.asked, logins.asked) == (["dev-1", "dev-2", "stranger"], [])
        assert await site.broker.kick("acme.g1") == 2
        assert [await device.ended() for device in devices] == [[], []]
        by_password = await over_tls(port, pki.client(held))
        await by_password.send(Connect("dev-1", username="acme.dev-1", password=b"pw"))
        assert await by_password.receive(Connack) == Connack(0)
        assert logins.asked == [("acme.dev-1", "dev-1")]
        bare = await over_tls(port, pki.client())
        await bare.send(Connect("dev-1"))
        assert await bare.ended() == [Connack(5)]
        by_password.close()


async def test_who_is_revoked_while_a_certificate_is_judged_is_not_admitted(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    held, ours = pki.device("acme", "dev-1"), pki.server()
    certificates = Certificates(held.der)
    certificates.let.clear()
    async with guarded(GuardLimits(refusal_grid=0.01), by_certificate=certificates) as site:
        port = await site.broker.start("127.0.0.1", 0, server_context(ours.chain, ours.key, pki.authority.root_pem))
        device = await over_tls(port, pki.client(held))
        await device.send(Connect("dev-1"))
        await asyncio.wait_for(certificates.asking.wait(), 5)
        await site.broker.kick("acme.g1")
        certificates.let.set()
        assert await device.ended() == [Connack(5)]


async def over_tls(port: int, context: ssl.SSLContext) -> DeviceClient:
    streams = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    return DeviceClient(*streams)


async def test_no_password_and_no_payload_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logs:
        async with guarded(GuardLimits(refusal_grid=0.01)) as site:
            assert await site.refused(password=b"canary-password") == 5
            device = await site.connect(will=Will("shared/will", b"canary-will"))
            await device.subscribe("shared/#", qos=1)
            await device.publish("shared/x", b"canary-payload", 1, retain=True)
            await device.message()
            device.vanish()
    assert {line["event"] for line in logs} >= {"device refused", "device connected", "device disconnected"}
    assert "canary" not in repr(logs) + caplog.text
