"""The packets of these tests are understood by those who know nothing of us: Mosquitto and mosquitto_rr."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.e2e import independent as wire
from tests.e2e import packets as mqtt
from tests.programs import needed


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mqtt.Address]:
    program, passwords = needed("mosquitto", "mosquitto"), needed("mosquitto_passwd", "mosquitto")
    folder = tmp_path_factory.mktemp("mosquitto")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    secrets, settings = folder / "passwords", folder / "mosquitto.conf"
    subprocess.run([passwords, "-b", "-c", str(secrets), "factory", "floor"], check=True, capture_output=True)
    settings.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {secrets}\nuser root\n"
        "max_packet_size 16384\nmax_keepalive 80\nlog_dest none\n"
    )
    with subprocess.Popen([program, "-c", str(settings)], stderr=subprocess.DEVNULL) as broker:
        try:
            _wait_for(port, broker)
            yield "127.0.0.1", port
        finally:
            broker.terminate()
            broker.wait(10)


def _wait_for(port: int, broker: "subprocess.Popen[bytes]") -> None:
    limit = time.monotonic() + 10
    while time.monotonic() < limit and broker.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    pytest.fail("Mosquitto does not start")


async def _session(address: mqtt.Address, version: int, client_id: str, **more: object) -> mqtt.Session:
    session = await mqtt.Session.open(address, version)
    assert (await session.connect(client_id, "factory", "floor", **more)).code == 0
    return session


@pytest.mark.parametrize("version", [4, 5])
async def test_a_conversation_with_mosquitto(mosquitto: mqtt.Address, version: wire.Version) -> None:
    async with await _session(mosquitto, version, f"talk-{version}") as session:
        assert await session.subscribe(("a/b", 1), ("a/+", 0)) == [1, 0]
        for qos in (0, 1):
            answer = await session.publish("a/b", b"x" * 3000, qos)
            assert answer is None if qos == 0 else answer is not None
            got = await session.message()
            assert (got.topic, got.payload, got.retain) == ("a/b", b"x" * 3000, False)
        while session.inbox:
            await session.message()
        await session.ping()
        await session.unsubscribe("a/b", "a/+")
        await session.publish("a/b", b"nobody hears this", 1)
        await session.ping()
        await session.disconnect()


@pytest.mark.parametrize(("version", "code"), [(4, 5), (5, 0x87)])
async def test_a_wrong_password_is_read_as_a_refusal(mosquitto: mqtt.Address, version: wire.Version, code: int) -> None:
    async with await mqtt.Session.open(mosquitto, version) as session:
        assert (await session.connect("nobody", "factory", "wrong")).code == code
        await session.ended()


async def test_properties_travel_both_ways(mosquitto: mqtt.Address) -> None:
    sent = {
        mqtt.MESSAGE_EXPIRY: 60,
        mqtt.CONTENT_TYPE: "application/json",
        mqtt.RESPONSE_TOPIC: "a/reply",
        mqtt.CORRELATION_DATA: b"\x00\xff",
        mqtt.USER_PROPERTY: [("k", "v"), ("k", "w")],
    }
    given = {mqtt.RECEIVE_MAXIMUM: 4, mqtt.SESSION_EXPIRY: 0, mqtt.REQUEST_PROBLEM_INFORMATION: 0}
    async with await _session(mosquitto, 5, "props", given=given) as session:
        await session.subscribe(("props", 1))
        await session.publish("props", b"", 1, given=sent)
        assert (await session.message()).properties == sent


async def test_the_connack_of_mqtt_5_is_read_with_its_properties(mosquitto: mqtt.Address) -> None:
    async with await mqtt.Session.open(mosquitto, 5) as session:
        answer = await session.connect("caps", "factory", "floor", keep_alive=600)
        assert (answer.properties[mqtt.SERVER_KEEP_ALIVE], answer.properties[mqtt.MAXIMUM_PACKET_SIZE]) == (80, 16384)


async def test_the_reason_of_a_disconnect_is_read(mosquitto: mqtt.Address) -> None:
    async with await _session(mosquitto, 5, "malformed") as session:
        await session.send(mqtt.packet(mqtt.PUBLISH, mqtt.text("a") + b"\x7f"))
        assert await session.ended() == 0x81


async def test_mosquitto_rr_gets_its_answer_from_us(mosquitto: mqtt.Address) -> None:
    async with await _session(mosquitto, 5, "responder") as session:
        await session.subscribe(("question", 1))
        asks = [
            needed("mosquitto_rr", "mosquitto-clients"),
            "-V",
            "5",
            "-p",
            str(mosquitto[1]),
            "-u",
            "factory",
            "-P",
            "floor",
            "-W",
            "10",
            "-q",
            "1",
        ]
        process = await asyncio.create_subprocess_exec(
            *asks, "-t", "question", "-e", "answer", "-m", "?", stdout=asyncio.subprocess.PIPE
        )
        got = await session.message()
        await session.publish(got.properties[mqtt.RESPONSE_TOPIC], b"!", 1)
        out, _ = await process.communicate()
        assert (got.payload, out, process.returncode) == (b"?", b"!\n", 0)
