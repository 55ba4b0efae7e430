"""Section 5 of the contract: what is a claim, what is none, and that nothing is minted for what is none."""

import json
import struct
from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from tests.e2e import independent as wire
from tests.e2e.independent import IndependentDevice
from tests.e2e.program import Site

Forge = Callable[[IndependentDevice], bytes]


def case(name: str, forge: Forge) -> Any:
    return pytest.param(forge, id=name)


def plain(**more: Any) -> Forge:
    """A right claim in plain mode with keys added or replaced; `...` takes a key out."""

    def forge(device: IndependentDevice) -> bytes:
        body = {"requestId": "r-1", "activationKey": device.activation_key} | more
        return json.dumps({key: value for key, value in body.items() if value is not ...}).encode()

    return forge


def proof(**more: Any) -> Forge:
    """A right claim in proof mode, proved with what was added; `...` takes a key out."""

    def forge(device: IndependentDevice) -> bytes:
        body = device.claim_body("r-1", **{key: value for key, value in more.items() if value is not ...})
        return json.dumps({key: value for key, value in body.items() if more.get(key) is not ...}).encode()

    return forge


def spelled(pattern: str) -> Forge:
    """JSON as written, with the key filled in for `KEY`."""
    return lambda device: pattern.replace("KEY", device.activation_key).encode("utf-8", "surrogatepass")


def cbor(*pairs: bytes, head: bytes | None = None, tail: bytes = b"") -> Forge:
    """A right CBOR claim in plain mode with encoded pairs added."""

    def forge(device: IndependentDevice) -> bytes:
        right = [
            cbor2.dumps("requestId") + cbor2.dumps("r-1"),
            cbor2.dumps("activationKey") + cbor2.dumps(device.activation_key),
        ]
        return (bytes([0xA0 + 2 + len(pairs)]) if head is None else head) + b"".join([*right, *pairs]) + tail

    return forge


def fact(value: bytes) -> bytes:
    """A CBOR `device` with one fact, encoded by hand."""
    return cbor2.dumps("device") + b"\xa1" + cbor2.dumps("x") + value


def long_text_head(device: IndependentDevice) -> bytes:
    first = cbor2.dumps({"requestId": "r-1"}).replace(b"\xa1", b"\xa2")
    return first + b"\x78\x0d" + b"activationKey" + cbor2.dumps(device.activation_key)


def utf16(device: IndependentDevice) -> bytes:
    return plain()(device).decode().encode("utf-16")


MALFORMED = [
    case("nothing", lambda _: b""),
    case("no object but an array", spelled("[]")),
    case("no object but a string", spelled('"requestId"')),
    case("no object but a number", spelled("1")),
    case("no object but null", spelled("null")),
    case("an empty object", spelled("{}")),
    case("not closed", spelled('{"requestId":"r-1","activationKey":"KEY"')),
    case("closed twice", spelled('{"requestId":"r-1","activationKey":"KEY"}}')),
    case("two objects", spelled('{"requestId":"r-1","activationKey":"KEY"}{}')),
    case("a comma too many", spelled('{"requestId":"r-1","activationKey":"KEY",}')),
    case("single quotes", spelled("{'requestId':'r-1','activationKey':'KEY'}")),
    case("a comment", spelled('{"requestId":"r-1",/**/"activationKey":"KEY"}')),
    case("a raw control character", spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":"\n"}}')),
    case("NaN", spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":NaN}}')),
    case("Infinity", spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":-Infinity}}')),
    case("a byte order mark", lambda device: b"\xef\xbb\xbf" + plain()(device)),
    case("UTF-16", utf16),
    case("not UTF-8", lambda device: plain(device={"x": "?"})(device).replace(b"?", b"\xff")),
    case("Latin-1", lambda device: plain(device={"x": "?"})(device).replace(b"?", b"\xe9")),
    case("an encoded surrogate", spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":"\ud800"}}')),
    case("an overlong encoding", lambda device: plain(device={"x": "?"})(device).replace(b"?", b"\xc0\xaf")),
    case("a zero byte after the end", lambda device: plain()(device) + b"\0"),
    case("4000 brackets", spelled('{"requestId":' + "[" * 4000)),
    case("1300 objects", spelled('{"a":' * 1300)),
    case("an unknown key", plain(colour="red")),
    case("a key in other letters", plain(requestid="r-1")),
    case("an empty key", plain(**{"": ""})),
    case("a key of a reply", plain(code=200)),
    case("a key of an ack", plain(generation=1)),
    case("requestId twice", spelled('{"requestId":"r-1","activationKey":"KEY","requestId":"r-1"}')),
    case("a key twice, once escaped", spelled('{"requestId":"r-1","activationKey":"KEY","requestI\\u0064":"r-2"}')),
    case("a fact twice", spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":1,"x":2}}')),
    case("no requestId", plain(requestId=...)),
    case("requestId null", plain(requestId=None)),
    case("requestId a number", plain(requestId=1)),
    case("requestId an array", plain(requestId=["r-1"])),
    case("requestId empty", plain(requestId="")),
    case("requestId of 65", plain(requestId="r" * 65)),
    case("requestId with a dash first", plain(requestId="-r")),
    case("requestId with a slash", plain(requestId="r/1")),
    case("requestId with a bar", plain(requestId="r|1")),
    case("requestId with a line feed", plain(requestId="r-1\n")),
    case("requestId with a foreign digit", plain(requestId="r-\u0661")),
    case("requestId with a lone surrogate", plain(requestId="r-\ud800")),
    case("requestId with a zero byte", plain(requestId="r\0")),
    case("activationKey null", plain(activationKey=None)),
    case("activationKey a number", plain(activationKey=12345678901234567890123)),
    case("activationKey an object", plain(activationKey={})),
    case("activationKey too short", plain(activationKey="k" * 21)),
    case("activationKey too long", plain(activationKey="k" * 129)),
    case("activationKey empty", plain(activationKey="")),
    case("activationKey with a space", plain(activationKey="k" * 20 + " k" * 4)),
    case("activationKey beyond ASCII", plain(activationKey="k" * 30 + "é")),
    case("activationKey with a line feed", lambda device: plain(activationKey=device.activation_key + "\n")(device)),
    case("no key at all", plain(activationKey=...)),
    case("both modes", lambda device: proof(activationKey=device.activation_key)(device)),
    case("a key and a nonce", plain(nonce="n" * 22)),
    case("a key and a proof", plain(proof="A" * 43)),
    case("a nonce without a proof", proof(proof=...)),
    case("a proof without a nonce", proof(nonce=...)),
    case("a nonce of 21", proof(nonce="n" * 21)),
    case("a nonce of 44", proof(nonce="n" * 44)),
    case("a nonce with padding", proof(nonce="n" * 22 + "==")),
    case("a nonce of the other alphabet", proof(nonce="n" * 21 + "+")),
    case("a nonce with a line feed", proof(nonce="n" * 22 + "\n")),
    case("a nonce that is null", lambda device: json.dumps(device.claim_body("r-1") | {"nonce": None}).encode()),
    case("a proof of 31 bytes", proof(proof=wire.b64(bytes(31)))),
    case("a proof of 33 bytes", proof(proof=wire.b64(bytes(33)))),
    case("a proof with padding", lambda device: proof()(device).replace(b'", "requestId"', b'=", "requestId"')),
    case("a proof of the other alphabet", proof(proof="+" * 43)),
    case("a proof in hex", proof(proof="ab" * 32)),
    case("a proof that is a number", proof(proof=1)),
    case("sealTo of 31 bytes", proof(sealTo=wire.b64(bytes(31)))),
    case("sealTo of 33 bytes", proof(sealTo=wire.b64(b"\x09" + bytes(32)))),
    case("sealTo that is no base64url", proof(sealTo="!" * 43)),
    case("sealTo with padding", proof(sealTo=wire.b64(b"\x09" * 32) + "=")),
    case("sealTo in plain mode", plain(sealTo=wire.b64(b"\x09" * 32))),
    case("sealTo and alg", proof(sealTo=wire.b64(b"\x09" * 32), alg="A256GCM")),
    case("alg in plain mode", plain(alg="A256GCM")),
    case("alg a number", plain(alg=1)),
    case("accept a string", proof(accept="password")),
    case("accept with a number", plain(accept=["password", 1])),
    case("accept with null", plain(accept=[None])),
    case("accept an object", plain(accept={"password": True})),
    case("maxReply a string", plain(maxReply="1000")),
    case("maxReply a fraction", plain(maxReply=1000.5)),
    case("maxReply a boolean", plain(maxReply=True)),
    case("maxReply null", plain(maxReply=None)),
    case("csr a number", plain(csr=1)),
    case("csr null", plain(csr=None)),
    case("device a string", plain(device="x")),
    case("device an array", plain(device=[])),
    case("device null", plain(device=None)),
    case("33 facts", plain(device={f"fact{number}": number for number in range(33)})),
    case("a fact that is null", plain(device={"x": None})),
    case("a fact that is an array", plain(device={"x": []})),
    case("a fact that is an object", plain(device={"x": {}})),
]

MALFORMED_CBOR = [
    case("an empty map", lambda _: b"\xa0"),
    case("only the head", lambda _: b"\xa2"),
    case("cut off", lambda device: cbor()(device)[:-1]),
    case("bytes after the end", cbor(tail=b"\x00")),
    case("a map without an end", cbor(head=b"\xbf")),
    case("a break too early", cbor(head=b"\xa3", tail=b"\xff")),
    case("2^64 pairs", lambda _: b"\xbb" + b"\xff" * 8),
    case("2^32 pairs", lambda _: b"\xba" + b"\xff" * 4),
    case("a text of 2^63 bytes", lambda _: b"\xa1\x7b\x7f" + b"\xff" * 7),
    case("a text of 2^32 bytes", lambda _: b"\xa1\x7a" + b"\xff" * 4 + b"x"),
    case("a reserved length", lambda _: b"\xa1\x7cx"),
    case("4000 maps", lambda _: b"\xa1\x61a" * 2000),
    case("4000 arrays", lambda _: b"\xa1\x61a" + b"\x81" * 4000),
    case("a tagged fact", cbor(fact(b"\xc1" + cbor2.dumps(1)))),
    case("a self-description tag inside", cbor(fact(b"\xd9\xd9\xf7" + cbor2.dumps("x")))),
    case("a bignum", cbor(fact(b"\xc2\x49\x01" + bytes(8)))),
    case("a shared reference", cbor(fact(b"\xd8\x1d\x00"))),
    case("null", cbor(fact(b"\xf6"))),
    case("undefined", cbor(fact(b"\xf7"))),
    case("NaN, half", cbor(fact(b"\xf9\x7e\x00"))),
    case("NaN, double", cbor(fact(b"\xfb" + struct.pack(">d", float("nan"))))),
    case("a simple value", cbor(fact(b"\xf0"))),
    case("bytes as a fact", cbor(fact(b"\x41x"))),
    case("text that is not UTF-8", cbor(fact(b"\x62\xc3\x28"))),
    case("an array as a fact", cbor(fact(b"\x80"))),
    case("a map as a fact", cbor(fact(b"\xa0"))),
    case("a number as key", cbor(b"\x01\x01")),
    case("bytes as key", cbor(b"\x41x\x01")),
    case("an array as key", cbor(b"\x80\x01")),
    case("a map as key", cbor(b"\xa0\x01")),
    case("a number as fact name", cbor(cbor2.dumps("device") + b"\xa1\x01\x01")),
    case("a key twice", cbor(cbor2.dumps("requestId") + cbor2.dumps("r-1"))),
    case("a key twice, once in chunks", cbor(b"\x7f\x63req\x66uestId\xff" + cbor2.dumps("r-2"))),
    case("a fact twice", cbor(cbor2.dumps("device") + b"\xa2\x61x\x01\x61x\x02")),
    case("an unknown key", cbor(cbor2.dumps("colour") + cbor2.dumps("red"))),
    case(
        "requestId as bytes", lambda device: cbor2.dumps({"requestId": b"r-1", "activationKey": device.activation_key})
    ),
    case(
        "activationKey as bytes",
        lambda device: cbor2.dumps({"requestId": "r-1", "activationKey": device.activation_key.encode()}),
    ),
    case("proof as bytes", lambda device: cbor2.dumps({"requestId": "r-1", "nonce": "n" * 22, "proof": bytes(32)})),
    case("maxReply a float", cbor(cbor2.dumps("maxReply") + b"\xf9\x63\xd0")),
    case("maxReply a boolean", cbor(cbor2.dumps("maxReply") + b"\xf5")),
]


async def _refused(site: Site, forge: Forge, version: wire.Version, encoding: wire.Wire) -> dict[str, Any]:
    """Send what `forge` makes, and check that it is refused and changes nothing."""
    device, request = await site.unit(version=version)
    async with await device.open() as session:
        await session.publish(device.topic("request"), forge(device), 1)
        got = await session.message()
        body = wire.decode(got.payload, encoding)
        wire.check_reply_body(body, len(got.payload))
        # What was not understood does not cost the session: the honest claim goes through on it.
        now = await request.read()
        assert (now["phase"], now["generation"], now["provisionJob"]["retryCount"]) == ("PENDING", 0, 0)
        device.wire = encoding
        assert (await device.exchange("request", device.claim_body("honest"), session=session)).generation == 1
    return body


@pytest.mark.parametrize("forge", MALFORMED)
async def test_a_malformed_json_claim_is_a_bad_request(site: Site, forge: Forge) -> None:
    body = await _refused(site, forge, 4, "json")
    assert (body["code"], body["reason"]) == (400, "bad-request")
    assert body.get("requestId") in {None, "r-1"}
    assert not {"detail", "proof", "generation"} & body.keys()


@pytest.mark.parametrize("forge", MALFORMED_CBOR)
async def test_a_malformed_cbor_claim_is_a_bad_request_in_cbor(site: Site, forge: Forge) -> None:
    body = await _refused(site, forge, 5, "cbor")
    assert (body["code"], body["reason"]) == (400, "bad-request")
    assert body.get("requestId") in {None, "r-1"}


async def test_what_could_not_be_read_is_not_repeated(site: Site) -> None:
    for forge in (spelled("["), plain(requestId="r|1"), plain(requestId=1)):
        assert "requestId" not in await _refused(site, forge, 4, "json")


@pytest.mark.parametrize(
    "forge",
    [
        case("an unknown alg", proof(alg="A128GCM")),
        case("alg in other letters", proof(alg="a256gcm")),
        case("the name of HPKE as alg", proof(alg="HPKE-X25519-SHA256-A256GCM")),
        case("sealTo a point of low order", proof(sealTo=wire.b64(bytes(32)))),
        case("an unknown kind", proof(accept=["token"])),
    ],
)
async def test_what_nobody_offers_is_refused_and_not_our_own_fault(site: Site, forge: Forge) -> None:
    """The contract leaves open whether these break a grammar (400) or ask for what is not on offer (415)."""
    assert (await _refused(site, forge, 4, "json"))["reason"] in {"bad-request", "unsupported"}


@pytest.mark.parametrize(
    "forge",
    [
        case(
            "a number of 5000 digits",
            spelled('{"requestId":"r-1","activationKey":"KEY","maxReply":' + "9" * 5000 + "}"),
        ),
        case(
            "a fact of 5000 digits",
            spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":' + "9" * 5000 + "}}"),
        ),
        case("a fact of 1e999", spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":1e999}}')),
        case(
            "a fact with a lone surrogate",
            spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":"\\ud800"}}'),
        ),
        case("a fact with a zero byte", spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":"\\u0000"}}')),
        case("a fact of 2^63", spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":9223372036854775808}}')),
        case("a fact without a name", spelled('{"requestId":"r-1","activationKey":"KEY","device":{"":1}}')),
        case(
            "a fact of 7 KiB", spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":"' + "x" * 7168 + '"}}')
        ),
        case(
            "markup in a fact",
            spelled('{"requestId":"r-1","activationKey":"KEY","device":{"x":"<script>alert(1)</script>"}}'),
        ),
    ],
)
@pytest.mark.endpoint_only("plain")
async def test_strange_values_are_never_our_own_fault(site: Site, forge: Forge) -> None:
    """Taken or refused, but not `unavailable`, and the operator can still look at the request."""
    device, request = await site.unit(mode="plain")
    async with await device.open() as session:
        await session.publish(device.topic("request"), forge(device), 1)
        body = wire.decode((await session.message()).payload, "json")
        assert body["reason"] in {"offer", "bad-request"}
        site.program.secrets |= {body["credentials"]["password"]} if "credentials" in body else set()
    assert (await request.read())["clientId"] == device.client_id


@pytest.mark.parametrize(
    "forge",
    [
        case("white space around", lambda device: b" \r\n\t" + plain()(device) + b"\n\n"),
        case("escapes", spelled('{"request\\u0049d":"r\\u002d1","activationKey":"KEY"}')),
        case("any order", spelled('{"activationKey":"KEY","requestId":"r-1"}')),
        case("no facts", plain(device={})),
        case("a generous maxReply", plain(maxReply=65536)),
        case("accept password", plain(accept=["password"])),
        case("accept both", plain(accept=["x509", "password"])),
    ],
)
@pytest.mark.endpoint_only("plain")
async def test_unusual_json_is_still_a_claim(site: Site, forge: Forge) -> None:
    device, _ = await site.unit(mode="plain")
    async with await device.open() as session:
        await session.publish(device.topic("request"), forge(device), 1)
        assert device.read(await session.message(), {"requestId": "r-1"}).generation == 1


@pytest.mark.parametrize(
    "forge",
    [
        case("a map of indefinite length", cbor(head=b"\xbf", tail=b"\xff")),
        case("facts of indefinite length", cbor(cbor2.dumps("device") + b"\xbf\x61x\x7f\x62ab\x61c\xff\xff")),
        case("long heads", cbor(head=b"\xb9\x00\x02")),
        case("a head of nine bytes", cbor(head=b"\xbb" + bytes(7) + b"\x02")),
        case("a text with a long head", long_text_head),
        case("a half float as fact", cbor(fact(b"\xf9\x3e\x00"))),
        case("accept of indefinite length", cbor(cbor2.dumps("accept") + b"\x9f" + cbor2.dumps("password") + b"\xff")),
    ],
)  # fmt: skip
@pytest.mark.endpoint_only("plain")
async def test_unusual_cbor_is_still_a_claim(site: Site, forge: Forge) -> None:
    device, _ = await site.unit(mode="plain", wire="cbor")
    async with await device.open() as session:
        await session.publish(device.topic("request"), forge(device), 1)
        assert device.read(await session.message(), {"requestId": "r-1"}).generation == 1


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("encoding", ["json", "cbor"])
@pytest.mark.endpoint_only("plain")
async def test_8_kib_are_a_claim_and_one_byte_more_is_too_large(
    site: Site, version: wire.Version, encoding: wire.Wire
) -> None:
    device, request = await site.unit(mode="plain", version=version, wire=encoding)
    facts = {f"fact-{number:02}": "x" * 200 for number in range(32)}
    missing = 8192 - len(wire.encode(device.claim_body(device=facts), encoding))
    for number in range(32):
        facts[f"fact-{number:02}"] += "x" * (missing // 32 + (number < missing % 32))
    exact = wire.encode(device.claim_body(device=facts), encoding)
    over = wire.encode(device.claim_body(device=facts | {"fact-00": facts["fact-00"] + "x"}), encoding)
    assert (len(exact), len(over)) == (8192, 8193)
    async with await device.open() as session:
        await session.publish(device.topic("request"), over, 1)
        body = wire.decode((await session.message()).payload, encoding)
        assert (body["code"], body["reason"]) == (413, "too-large")
        assert "requestId" not in body, "it was parsed"
        assert await request.phase() == "PENDING"
        await session.publish(device.topic("request"), exact, 1)
        assert device.read(await session.message(), {"requestId": "r-1"}).generation == 1


@pytest.mark.parametrize("encoding", ["json", "cbor"])
@pytest.mark.parametrize("mode", ["plain", "proof", "ctr", "hpke"])
async def test_a_reply_that_does_not_fit_is_not_minted_and_its_size_is_told(
    site: Site, mode: wire.Mode, encoding: wire.Wire
) -> None:
    device, request = await site.unit(mode=mode, wire=encoding)
    refused = await device.claim(maxReply=300)
    assert refused.reason == "too-large"
    assert refused.proved or mode == "plain"
    now = await request.read()
    assert (now["phase"], now["generation"], now["provisionJob"]["retryCount"]) == ("PENDING", 0, 0)
    needed = refused.body["needed"]
    assert needed > 300
    offer = await device.claim(maxReply=needed)
    assert offer.generation == 1
    assert len(offer.message.payload) <= needed


async def test_a_size_that_fits_is_no_reason_to_refuse(site: Site) -> None:
    device, _ = await site.unit()
    size = len((await device.claim()).message.payload)
    again = await device.claim(maxReply=size + 100)
    assert again.generation == 1
    assert (await device.claim(maxReply=100)).reason == "too-large"


ACKS: list[Any] = [
    pytest.param({"generation": ...}, id="no generation"),
    pytest.param({"generation": "1"}, id="generation as text"),
    pytest.param({"generation": True}, id="generation a boolean"),
    pytest.param({"generation": 1.5}, id="generation a fraction"),
    pytest.param({"generation": None}, id="generation null"),
    pytest.param({"result": ...}, id="no result"),
    pytest.param({"result": "Stored"}, id="an unknown result"),
    pytest.param({"result": 1}, id="result a number"),
    pytest.param({"result": "progress"}, id="progress without a status"),
    pytest.param({"result": "progress", "status": "COMPLETED"}, id="a status only we may set"),
    pytest.param({"result": "progress", "status": "apps_installed"}, id="a status in other letters"),
    pytest.param({"status": 1}, id="status a number"),
    pytest.param({"detail": 1}, id="detail a number"),
    pytest.param({"requestId": ...}, id="no requestId"),
    pytest.param({"requestId": "r|1"}, id="requestId outside the grammar"),
    pytest.param({"activationKey": ...}, id="no key"),
    pytest.param({"nonce": "n" * 22}, id="both modes"),
    pytest.param({"device": {}}, id="a key of a claim"),
    pytest.param({"colour": "red"}, id="an unknown key"),
]


@pytest.mark.parametrize("changed", ACKS)
@pytest.mark.endpoint_only("plain")
async def test_a_malformed_ack_is_a_bad_request_and_changes_nothing(site: Site, changed: dict[str, Any]) -> None:
    device, request = await site.unit(mode="plain")
    assert (await device.provision()).generation == 1
    body = {key: value for key, value in (device.ack_body("stored", 1) | changed).items() if value is not ...}
    session = await device.connect()
    for encoding in ("json", "cbor"):
        await session.publish(device.topic("ack"), wire.encode(body, encoding), 1)
        refused = wire.decode((await session.message()).payload, encoding)
        assert (refused["code"], refused["reason"]) == (400, "bad-request")
    now = await request.read()
    assert (now["phase"], now["provisionJob"]["status"]) == ("OFFERED", "RUNNING")
    assert (await device.ack("stored", 1)).reason == "confirmed"


async def test_a_claim_on_the_topic_of_acks_and_the_reverse_are_bad_requests(site: Site) -> None:
    device, request = await site.unit(mode="plain")
    session = await device.connect()
    for last, body in (("ack", device.claim_body()), ("request", device.ack_body("stored", 1))):
        await session.publish(device.topic(last), wire.encode(body, "json"), 1)
        assert wire.decode((await session.message()).payload, "json")["reason"] == "bad-request"
    assert await request.phase() == "PENDING"


@pytest.mark.endpoint_only("plain")
async def test_an_ack_over_8_kib_is_too_large(site: Site) -> None:
    device, _ = await site.unit(mode="plain")
    await device.provision()
    session = await device.connect()
    await session.publish(device.topic("ack"), wire.encode(device.ack_body("stored", 1, detail="x" * 8192), "json"), 1)
    assert wire.decode((await session.message()).payload, "json")["reason"] in {"too-large", "bad-request"}
    assert (await device.ack("stored", 1)).reason == "confirmed"


@pytest.mark.endpoint_only("plain")
async def test_the_detail_of_an_ack_is_hearsay(site: Site) -> None:
    device, _ = await site.unit(mode="plain")
    await device.provision()
    body = device.ack_body("stored", 1, detail="<b>all is well</b> \u2028 {}")
    assert (await device.exchange("ack", body)).reason == "confirmed"
