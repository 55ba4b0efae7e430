"""Other people's clients claim and are answered: they read the specification without us."""

import asyncio
import queue
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import paho.mqtt.client as paho
import pytest
from amqtt.client import MQTTClient
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.broker.mqtt.serving import JSON, PATIENCE, Served, contexts, served
from tests.programs import needed

REQUEST, REPLY = "prov/v1/factory/dev-1/request", "prov/v1/factory/dev-1/reply"


@pytest.fixture
async def world() -> AsyncIterator[Served]:
    async with served() as found:
        yield found


class Paho:
    """A paho client on its own thread, as a device would run it; what it hears goes into queues."""

    def __init__(self, version: MQTTProtocolVersion, client_id: str = "dev-1", password: str = "pw") -> None:
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=version)
        self.client.username_pw_set("factory", password)
        self.connected: queue.Queue[tuple[object, object]] = queue.Queue()
        self.subscribed: queue.Queue[list[object]] = queue.Queue()
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.published: queue.Queue[int] = queue.Queue()
        self.gone: queue.Queue[object] = queue.Queue()
        self.client.on_connect = lambda _client, _data, _flags, code, properties: self.connected.put((code, properties))
        self.client.on_subscribe = lambda _client, _data, _id, codes, _properties: self.subscribed.put(codes)
        self.client.on_message = lambda _client, _data, message: self.messages.put(message)
        self.client.on_publish = lambda _client, _data, number, _code, _properties: self.published.put(number)
        self.client.on_disconnect = lambda _client, _data, _flags, code, _properties: self.gone.put(code)

    def open(self, port: int) -> tuple[object, object]:
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        return self.connected.get(timeout=PATIENCE)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("tls", [False, True])
async def test_paho_claims(world: Served, version: MQTTProtocolVersion, qos: int, tmp_path: Path, *, tls: bool) -> None:
    def claim() -> tuple[str, bytes, int]:
        device = Paho(version)
        if tls:
            device.client.tls_set_context(trust)
        code, _ = device.open(port)
        assert code == 0
        device.client.subscribe(REPLY, qos)
        assert [int(code.value) for code in device.subscribed.get(timeout=PATIENCE)] == [qos]  # type: ignore[attr-defined]  # untyped
        device.client.publish(REQUEST, b"claim", qos)
        message = device.messages.get(timeout=PATIENCE)
        device.published.get(timeout=PATIENCE)
        device.close()
        return message.topic, message.payload, message.qos

    server, trust, _ = contexts(tmp_path)
    port = await world.endpoint.start("127.0.0.1", 0, server) if tls else world.port
    assert await asyncio.to_thread(claim) == (REPLY, b"claim", qos)


async def test_paho_hears_what_mqtt_5_adds(world: Served) -> None:
    def claim() -> tuple[Properties, Properties]:
        device = Paho(MQTTProtocolVersion.MQTTv5)
        _, offered = device.open(world.port)
        device.client.subscribe(REPLY, 1)
        device.subscribed.get(timeout=PATIENCE)
        asked = Properties(PacketTypes.PUBLISH)
        asked.CorrelationData = b"c-1"
        asked.ResponseTopic = REPLY
        device.client.publish(REQUEST, b"claim", 1, properties=asked)
        message = device.messages.get(timeout=PATIENCE)
        device.close()
        assert isinstance(offered, Properties)
        return offered, message.properties

    offered, answered = await asyncio.to_thread(claim)
    assert (offered.MaximumQoS, offered.RetainAvailable, offered.ReceiveMaximum) == (1, 0, 4)
    assert (offered.ServerKeepAlive, offered.MaximumPacketSize, offered.SessionExpiryInterval) == (80, 16384, 0)
    assert (answered.CorrelationData, answered.ContentType, answered.MessageExpiryInterval) == (b"c-1", JSON, 60)


@pytest.mark.parametrize(
    ("version", "client_id", "password", "words"),
    [
        (MQTTProtocolVersion.MQTTv311, "dev-1", "wrong", "Not authorized"),
        (MQTTProtocolVersion.MQTTv5, "dev-1", "wrong", "Not authorized"),
        (MQTTProtocolVersion.MQTTv311, "dev 1", "pw", "Client identifier not valid"),
        (MQTTProtocolVersion.MQTTv5, "dev 1", "pw", "Client identifier not valid"),
        (MQTTProtocolVersion.MQTTv31, "dev-1", "pw", "Unsupported protocol version"),
    ],
)
async def test_paho_understands_a_refusal(
    world: Served, version: MQTTProtocolVersion, client_id: str, password: str, words: str
) -> None:
    def refused() -> str:
        device = Paho(version, client_id, password)
        code, _ = device.open(world.port)
        device.close()
        return str(code)

    assert await asyncio.to_thread(refused) == words


async def test_paho_is_told_why_it_must_go(world: Served) -> None:
    def strayed() -> str:
        device = Paho(MQTTProtocolVersion.MQTTv5)
        device.open(world.port)
        device.client.publish("somewhere/else", b"x")
        code = device.gone.get(timeout=PATIENCE)
        device.close()
        return str(code)

    assert await asyncio.to_thread(strayed) == "Not authorized"


@pytest.mark.parametrize("version", [aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5])
@pytest.mark.parametrize("tls", [False, True])
async def test_aiomqtt_claims(world: Served, version: aiomqtt.ProtocolVersion, tmp_path: Path, *, tls: bool) -> None:
    server, trust, _ = contexts(tmp_path)
    port = await world.endpoint.start("127.0.0.1", 0, server) if tls else world.port
    context: ssl.SSLContext | None = trust if tls else None
    async with (
        asyncio.timeout(PATIENCE),
        aiomqtt.Client(
            "127.0.0.1",
            port,
            username="factory",
            password="pw",
            identifier="dev-1",
            protocol=version,
            tls_context=context,
        ) as client,
    ):
        await client.subscribe(REPLY, qos=1)
        await client.publish(REQUEST, b"claim", qos=1)
        message = await anext(aiter(client.messages))
        assert (str(message.topic), message.payload, message.qos, message.retain) == (REPLY, b"claim", 1, False)


async def test_amqtt_claims(world: Served) -> None:
    client = MQTTClient("dev-1", {"auto_reconnect": False})
    async with asyncio.timeout(PATIENCE):
        await client.connect(f"mqtt://factory:pw@127.0.0.1:{world.port}/")
        await client.subscribe([(REPLY, 1)])
        await client.publish(REQUEST, b"claim", qos=1)
        message = await client.deliver_message()
        await client.disconnect()
    assert message is not None
    assert (message.topic, bytes(message.data)) == (REPLY, b"claim")


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
@pytest.mark.parametrize("tls", [False, True])
async def test_mosquitto_rr_claims(world: Served, version: str, tmp_path: Path, *, tls: bool) -> None:
    program = needed("mosquitto_rr", "mosquitto-clients")
    server, _, trusted = contexts(tmp_path)
    port = await world.endpoint.start("127.0.0.1", 0, server) if tls else world.port
    arguments = ["-h", "127.0.0.1", "-p", str(port), "-u", "factory", "-P", "pw", "-i", "dev-1", "-V", version]
    arguments += ["-t", REQUEST, "-e", REPLY, "-m", "claim", "-q", "1", "-W", str(int(PATIENCE))]
    process = await asyncio.create_subprocess_exec(
        program, *arguments, *(["--cafile", str(trusted)] if tls else []), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, output) == (0, b"claim\n")
