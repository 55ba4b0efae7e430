"""Whatever arrives on the reply topic, a device that makes proofs keeps its key, its credential and its mode."""

import json
from typing import Any

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.fleet.actions import Mode, Options, Times
from broker.fleet.device import State
from broker.fleet.flash import Flash, MemoryFlash
from broker.fleet.keys import Keys, encode64
from broker.fleet.replies import Encoding, Unreadable, parse_offer, parse_reply
from tests.broker.fleet import double
from tests.broker.fleet.script import Stage

STRANGER = Keys.derive(b"an activation key that is not theirs", double.USER, double.CLIENT_ID)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.binary(max_size=20).map(encode64)
    | st.floats()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
well_formed = st.fixed_dictionaries(
    {
        "code": st.sampled_from([200, 202, 401, 410, 503]) | st.integers(),
        "reason": st.sampled_from(sorted(double.CODES)),
    },
    optional={
        "proof": st.binary(max_size=40).map(encode64) | st.text(max_size=40),
        "sealed": st.binary(max_size=90).map(encode64) | st.text(max_size=40),
        "mac": st.binary(min_size=32, max_size=32).map(encode64),
        "alg": st.sampled_from(["A256GCM", "A256CTR-HS256", "HPKE-X25519-SHA256-A256GCM", "none"]),
        "retryAfter": st.integers(0, 90_000),
        "generation": st.integers(-1, 2**70),
        "forget": st.booleans(),
        "needed": st.integers(),
        "supported": st.just(["plain"]),
        "credentials": st.just(double.offer_body("r")["credentials"]),
        "broker": st.just(double.offer_body("r")["broker"]),
    },
)
anything = st.dictionaries(
    st.sampled_from(["code", "reason", "nonce", "requestId", "proof", "sealed", "retryAfter", "forget"])
    | st.text(max_size=8),
    values,
    max_size=6,
)
bodies = well_formed | anything
# True: the reply names our requestId and outstanding nonce.
replies = st.tuples(bodies, st.booleans()) | st.binary(max_size=200)


def rendered(stage: Stage, item: tuple[dict[str, Any], bool] | bytes, encoding: Encoding) -> bytes:
    if isinstance(item, bytes):
        return item
    body, targeted = item
    if targeted and stage.published:
        said = stage.said
        body = body | {"requestId": said["requestId"], "nonce": said["nonce"]}
    return cbor2.dumps(body) if encoding is Encoding.CBOR else json.dumps(body).encode()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([Mode.PROOF, Mode.CTR, Mode.HPKE]),
    st.sampled_from(list(Encoding)),
    st.lists(st.tuples(replies, st.sampled_from(["", "wait", "lost"])), max_size=12),
)
def test_a_claiming_device_is_not_led_astray(
    mode: Mode, encoding: Encoding, attack: list[tuple[tuple[dict[str, Any], bool] | bytes, str]]
) -> None:
    stage = Stage(Options(mode, encoding)).start()
    request_id = stage.said["requestId"]
    for item, happening in attack:
        stage.receive(rendered(stage, item, encoding))
        if stage.published:
            stage.receive(double.offer(stage.said, keys=STRANGER, cbor=encoding is Encoding.CBOR))
        if happening == "wait":
            stage.wait()
        elif happening == "lost":
            stage.device.lost(stage.now)
            stage.settle()
        assert stage.device.state is State.CLAIMING
        assert stage.device.identity is not None
        assert stage.device.request_id == request_id
        assert stage.pause <= Times().longest_pause * 1.5
        assert slots(stage.flash) == (None, b"", b"")
    assert all(double.KEY.encode() not in message.payload for message in stage.published)
    # And the true answer is still welcome.
    while stage.steps[-1] != "claim":
        stage.wait()
    assert stage.offer(cbor=encoding is Encoding.CBOR).device.state is State.STORED


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(replies, st.booleans()), max_size=12))
def test_a_stored_credential_stays(attack: list[tuple[tuple[dict[str, Any], bool] | bytes, bool]]) -> None:
    stage = Stage().start().offer().let_in()
    before = slots(stage.flash)
    for item, wait in attack:
        stage.receive(rendered(stage, item, Encoding.JSON))
        if wait:
            stage.wait()
        assert stage.device.state is State.STORED
        assert stage.device.identity is not None
        assert slots(stage.flash) == before
    stage.wait()


@settings(max_examples=100, deadline=None)
@given(replies)
def test_a_confirmed_device_listens_to_nobody(item: tuple[dict[str, Any], bool] | bytes) -> None:
    stage = Stage().start().offer().let_in().answer("confirmed", generation=1)
    before = slots(stage.flash), len(stage.log)
    stage.receive(rendered(stage, item, Encoding.JSON))
    assert (slots(stage.flash), len(stage.log)) == before
    assert stage.device.state is State.CONFIRMED


@settings(max_examples=100, deadline=None)
@given(st.lists(replies, max_size=8))
def test_plain_mode_neither_stops_nor_forgets(attack: list[tuple[dict[str, Any], bool] | bytes]) -> None:
    stage = Stage(Options(Mode.PLAIN)).start()
    for item in attack:
        if isinstance(item, tuple) and item[0].get("reason") == "superseded":
            continue  # a new requestId is neither
        payload = item if isinstance(item, bytes) else json.dumps(item[0] | {"requestId": stage.device.request_id})
        stage.receive(payload if isinstance(payload, bytes) else payload.encode())
        assert stage.device.state is State.CLAIMING
        assert stage.device.identity is not None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | values.map(cbor2.dumps), st.sampled_from(list(Encoding)))
def test_reading_noise_raises_nothing_but_unreadable(payload: bytes, encoding: Encoding) -> None:
    try:
        reply = parse_reply(payload, encoding)
        parse_offer(reply.body, double.CLIENT_ID)
    except Unreadable:
        return


@given(anything)
def test_offers_with_anything_in_them_raise_nothing_but_unreadable(body: dict[str, Any]) -> None:
    try:
        parse_offer(double.offer_body("r-1") | body | {"credentials": body, "broker": body}, double.CLIENT_ID)
    except Unreadable:
        return


def slots(flash: Flash) -> tuple[int | None, bytes, bytes]:
    assert isinstance(flash, MemoryFlash)
    return flash.marked, flash.read(0), flash.read(1)
