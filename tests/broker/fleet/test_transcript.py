"""What a transcript keeps, what it never holds, and how it is read."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.fleet.actions import Identity, Mode, Options
from broker.fleet.device import Device
from broker.fleet.flash import MemoryFlash
from broker.fleet.replay import Replay
from broker.fleet.replies import Encoding, Unreadable
from broker.fleet.transcript import Recorder, Transcript, parse_transcript
from broker.fleet.unit import Endpoint, Unit
from broker.mqtt.packets import Publish
from tests.broker.fleet import double
from tests.broker.fleet.tiny import Tiny

PASSWORD = "provisioning-password"
IDENTITY = Identity(double.USER, PASSWORD, double.CLIENT_ID, double.KEY)
HEAD = '{"transcript": 1, "user": "factory", "clientId": "dev-1", "encoding": "json"}\n'


async def record(server: Tiny, mode: Mode = Mode.PROOF, encoding: Encoding = Encoding.JSON) -> str:
    """The transcript of one provisioning."""
    options = Options(mode, encoding)
    entropy = iter(range(1, 250))
    device = Device(IDENTITY, options, MemoryFlash(), lambda size: bytes([next(entropy)] * size))
    recorder = Recorder(IDENTITY.user, IDENTITY.client_id, encoding, device.peek, "a test")
    recorder.start(time.monotonic)
    assert (await Unit(device, Endpoint(server.address), tap=recorder.tap).run()).is_confirmed
    return recorder.text()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()[1:]]


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("mode", list(Mode))
async def test_a_transcript_has_every_step_and_no_secret(mode: Mode, encoding: Encoding) -> None:
    async with Tiny() as server:
        cbor = encoding is Encoding.CBOR
        server.answer = lambda topic, message: [
            double.reply(message, "confirmed", cbor=cbor, generation=1)
            if topic.endswith("/ack")
            else double.offer(message, cbor=cbor, url=server.url)
        ]
        text = await record(server, mode, encoding)
    steps = [(line["from"], line["on"], line["packet"], line.get("topic")) for line in lines(text)]
    assert steps == [
        ("device", "provisioning", "CONNECT", None),
        ("server", "provisioning", "CONNACK", None),
        ("device", "provisioning", "SUBSCRIBE", "reply"),
        ("server", "provisioning", "SUBACK", None),
        ("device", "provisioning", "PUBLISH", "request"),
        ("server", "provisioning", "PUBLISH", "reply"),
        ("device", "issued", "CONNECT", None),
        ("server", "issued", "CONNACK", None),
        ("device", "issued", "DISCONNECT", None),
        ("device", "provisioning", "PUBLISH", "ack"),
        ("server", "provisioning", "PUBLISH", "reply"),
        ("device", "provisioning", "DISCONNECT", None),
    ]
    offer = lines(text)[5]
    inside = offer["body"] if mode is Mode.PLAIN else offer["inside"]
    assert inside["credentials"]["username"] == f"p.acme.{double.CLIENT_ID}.g1"
    for secret in (double.KEY, PASSWORD, "secret-1", double.KEYS.auth.hex()):
        assert secret not in text
    # A proof or a sealed text is of no use to anybody, and of none to a reader either.
    assert all(len(word) < 80 for word in text.replace('"', " ").split())
    assert parse_transcript(text).client_id == double.CLIENT_ID


_WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=12, max_size=20)


@given(st.dictionaries(_WORDS, st.text("ABCDEFGH", min_size=12, max_size=16) | st.integers(10**9)))
def test_what_is_not_known_is_not_kept(body: dict[str, Any]) -> None:
    recorder = Recorder("factory", "dev-1", Encoding.JSON, lambda _: None)
    payload = json.dumps({"requestId": "r-1", "credentials": body, **body}).encode()
    recorder.tap("provisioning")("server", Publish("prov/v1/factory/dev-1/reply", payload))
    assert not any(str(value) in recorder.text() for value in body.values())
    assert "r-1" in recorder.text()


def test_what_does_not_parse_is_counted_only() -> None:
    recorder = Recorder("factory", "dev-1", Encoding.JSON, lambda _: None)
    recorder.tap("issued")("server", Publish("x/y", b"top secret"))
    assert lines(recorder.text())[0]["body"] == "<10 bytes>"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("nonsense\n", "line 1"),
        ('{"transcript": 2, "user": "u", "clientId": "c"}\n', "version 2"),
        (HEAD + "[]\n", "line 2"),
        (HEAD + '{"from": "device", "on": "provisioning", "packet": "CONNACK"}\n', "line 2"),
        (HEAD + '{"from": "nobody", "on": "provisioning", "packet": "CONNECT"}\n', "line 2"),
        (HEAD + '\n{"from": "device", "on": "elsewhere", "packet": "CONNECT"}\n', "line 3"),
        (HEAD + '{"at": "x", "from": "device", "on": "issued", "packet": "CONNECT"}\n', "line 2"),
    ],
)
def test_a_damaged_transcript_is_refused_with_its_line(text: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        parse_transcript(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, HEAD + text):
        with contextlib.suppress(Unreadable):
            assert isinstance(parse_transcript(whole), Transcript)


async def play(server: Tiny, text: str) -> Replay:
    performance = Replay(parse_transcript(text), IDENTITY, Endpoint(server.address))
    await performance.run(patience=5)
    return performance


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_replay_against_the_same_server_finds_no_difference(mode: Mode) -> None:
    async with Tiny() as server:
        text = await record(server, mode)
        played = await play(server, text)
        assert (played.differences, played.answers) == ([], 5)
        claims = [message for topic, message in server.messages if topic.endswith("/request")]
        assert len({claim["requestId"] for claim in claims}) == 2  # its own, so that it can be played again


async def test_a_replay_tells_what_became_of_an_answer() -> None:
    async with Tiny() as server:
        text = await record(server)
        server.answer = lambda _, message: [double.reply(message, "expired", step="window")]
        played = await play(server, text)
    assert "step 6, PUBLISH, reply: reason is 'expired' instead of 'offer'" in played.differences
    assert "step 6, PUBLISH, reply: step is new" in played.differences
    assert played.differences[-1] == "step 7, CONNECT, cannot be played: there was no offer"


async def test_a_replay_notices_a_member_that_is_gone_from_the_offer() -> None:
    async with Tiny() as server:
        text = await record(server)
        head, *rest = text.splitlines()
        changed = [line.replace('"confirm": "either", ', '"confirm": "either", "timeZone": "UTC", ') for line in rest]
        played = await play(server, "\n".join([head, *changed]))
    assert played.differences == ["step 6, PUBLISH, inside: timeZone is missing"]


async def test_a_replay_ends_where_nobody_answers() -> None:
    async with Tiny() as server:
        text = await record(server)
        server.answer = lambda _, __: []
        performance = Replay(parse_transcript(text), IDENTITY, Endpoint(server.address))
        await performance.run(patience=0.2)
    assert performance.differences == ["step 6, PUBLISH, cannot be played: nothing within 0.2 s"]
