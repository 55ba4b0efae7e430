"""Reading replies: what is a value of the contract and what is not."""

import json
from typing import Any

import cbor2
import pytest

from broker.fleet.replies import Address, Encoding, Unreadable, parse_offer, parse_reply, parse_url, read_map, write_map
from tests.broker.fleet import double

WAIT = {"requestId": "r-1", "nonce": "n", "code": 202, "reason": "wait", "retryAfter": 5}


def test_unknown_keys_are_ignored() -> None:
    reply = parse_reply(json.dumps(WAIT | {"fromTheFuture": {"a": [1]}}).encode(), Encoding.JSON)
    assert (reply.code, reply.reason, reply.retry_after) == (202, "wait", 5)


def test_request_id_and_nonce_may_be_missing() -> None:
    reply = parse_reply(b'{"code": 400, "reason": "bad-request", "trace": "t1"}', Encoding.JSON)
    assert (reply.request_id, reply.nonce, reply.trace) == (None, None, "t1")


@pytest.mark.parametrize(
    "changes",
    [
        {"code": True},
        {"code": "200"},
        {"code": 200.0},
        {"code": None},
        {"reason": 7},
        {"reason": "\ud800"},
        {"retryAfter": 0},
        {"retryAfter": 86401},
        {"retryAfter": True},
        {"generation": "1"},
        {"generation": 2**53},
        {"forget": "true"},
        {"forget": 1},
        {"proof": None},
        {"supported": "proof"},
        {"supported": [1]},
        {"nonce": 1},
    ],
)
def test_a_known_key_of_another_type_spoils_the_reply(changes: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        parse_reply(json.dumps(WAIT | changes).encode(), Encoding.JSON)


@pytest.mark.parametrize(
    "octets",
    [b"", b"[]", b"1", b"\xff", b'{"a":', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
    ids=["empty", "list", "number", "no UTF-8", "torn", "deep", "long number"],
)
def test_bytes_that_are_no_json_object(octets: bytes) -> None:
    with pytest.raises(Unreadable):
        read_map(octets, Encoding.JSON)


@pytest.mark.parametrize("octets", [b"", b"\x80", b"\x01", b"\xa1\x61a", b"\x81" * 1000, b"\xbf", b"\xd8\x23\x61["])
def test_bytes_that_are_no_cbor_map(octets: bytes) -> None:
    with pytest.raises(Unreadable):
        read_map(octets, Encoding.CBOR)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_maps_come_back_as_written(encoding: Encoding) -> None:
    message = {"requestId": "r-1", "device": {"name": "größer", "batch": 7, "new": True}}
    assert read_map(write_map(message, encoding), encoding) == message


def test_an_indefinite_cbor_map_is_read() -> None:
    assert read_map(b"\xbf\x61a\x01\xff", Encoding.CBOR) == {"a": 1}


def test_an_offer_is_read_whole() -> None:
    credential = parse_offer(double.offer_body("r-1", generation=3), double.CLIENT_ID)
    assert credential.generation == 3
    assert credential.url == "mqtt://127.0.0.1:1883"
    assert credential.publish == (f"acme/{double.CLIENT_ID}/#",)
    assert "secret" not in repr(credential)


@pytest.mark.parametrize(
    "changes",
    [
        {"code": 202},
        {"reason": "wait"},
        {"generation": 0},
        {"confirm": "perhaps"},
        {"broker": {"url": "http://broker", "account": "acme"}},
        {"broker": {"url": "mqtt://", "account": "acme"}},
        {"broker": {"account": "acme"}},
        {"credentials": {}},
        {"topics": []},
        {"topics": {"publish": [1]}},
    ],
)
def test_an_offer_that_cannot_be_used_is_unreadable(changes: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        parse_offer(double.offer_body("r-1") | changes, double.CLIENT_ID)


def test_cbor_keeps_text_and_bytes_apart() -> None:
    with pytest.raises(Unreadable):
        parse_reply(cbor2.dumps(WAIT | {"reason": b"wait"}), Encoding.CBOR)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://broker.example", Address("broker.example", 1883)),
        ("mqtts://broker.example", Address("broker.example", 8883, tls=True)),
        ("mqtts://[::1]:443", Address("::1", 443, tls=True)),
        ("mqtt://127.0.0.1:1", Address("127.0.0.1", 1)),
    ],
)
def test_broker_urls(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url", ["", "broker", "ws://broker", "mqtt://broker:0x10", "mqtt://broker:99999", "mqtt://[::1"]
)
def test_urls_a_device_cannot_use(url: str) -> None:
    with pytest.raises(Unreadable):
        parse_url(url)
