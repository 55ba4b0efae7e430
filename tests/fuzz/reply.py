"""The device's side: any bytes on its reply topic, with its own requestId and nonce filled in where they are asked for.

1. Nothing is raised. Nobody without the key makes a device stop, forget, store, or send its activation key.
2. The true answer is still welcome after that.
"""

from __future__ import annotations

import json

from broker.fleet.actions import Mode, Options
from broker.fleet.device import State
from broker.fleet.flash import MemoryFlash
from broker.fleet.keys import Keys
from broker.fleet.replies import Encoding, Unreadable, parse_offer, parse_reply
from tests.broker.fleet import double
from tests.broker.fleet.script import Stage

_STRANGER = Keys.derive(b"an activation key that is not theirs", double.USER, double.CLIENT_ID)
_SEPARATOR = b"\0---\0"
_NAMES = b'{"requestId":"$R","nonce":"$N",'
_HEADS = [
    b'"code":200,"reason":"offer","alg":"A256GCM","sealed":"AAAA"}',
    b'"code":200,"reason":"confirmed","generation":1,"forget":true}',
    b'"code":410,"reason":"abandoned","retryAfter":86400}',
    b'"code":409,"reason":"superseded","generation":1,"proof":"AAAA"}',
    b'"code":415,"reason":"unsupported","supported":["plain"]}',
    b'"code":202,"reason":"wait","retryAfter":3}',
]
_MODES = (Mode.PROOF, Mode.CTR, Mode.HPKE)
_CLAIM = {"requestId": "$R", "nonce": "A" * 22}
SEEDS = [
    *(bytes([mode]) + _NAMES + head for mode in range(6) for head in _HEADS),
    b"\0" + _SEPARATOR.join(_NAMES + head for head in _HEADS),
    b"\0" + double.offer({"requestId": "$R", "activationKey": "shown"}),
    *(b"\1" + double.offer(_CLAIM, keys=_STRANGER, cbor=cbor) for cbor in (False, True)),
    b"\3" + double.offer({"requestId": "$R", "activationKey": "shown"}, cbor=True),
]
TOKENS = [
    b"$R", b"$N", _SEPARATOR, b'"proof"', b'"forget":true', b'"retryAfter"', b'"supported":["plain"]', b"null",
    b'"sealed"', b'"mac"', b'"alg"', b"HPKE-X25519-SHA256-A256GCM", b"A256CTR-HS256", b"1e999", b"\\ud800", b"\xbf",
    b"\xff", b"\xf6", b"\xd8\x1c\x80", b"\xd8\x1d\x00", b"\xc2\x49", b"\xa1\xa1", b"mqtt://[", b"mqtts://:99999",
]  # fmt: skip


def try_one(data: bytes) -> None:
    """First byte: how the device speaks; the rest is what it hears."""
    if not data:
        return
    mode, encoding = _MODES[data[0] % 3], (Encoding.JSON, Encoding.CBOR)[data[0] // 3 % 2]
    stage = Stage(Options(mode, encoding)).start()
    request_id = stage.said["requestId"]
    for payload in data[1:].split(_SEPARATOR)[:8]:
        _read(payload, encoding)
        said = stage.said
        stage.receive(payload.replace(b"$R", said["requestId"].encode()).replace(b"$N", said["nonce"].encode()))
        assert stage.device.state is State.CLAIMING
        assert stage.device.identity is not None
        assert stage.device.request_id == request_id
        flash = stage.flash
        assert isinstance(flash, MemoryFlash)
        assert (flash.marked, flash.read(0), flash.read(1)) == (None, b"", b"")
    assert all(double.KEY.encode() not in message.payload for message in stage.published)
    for _ in range(20):
        if stage.steps[-1] == "claim":
            break
        stage.wait()
    assert stage.offer(cbor=encoding is Encoding.CBOR).device.state is State.STORED


def _read(payload: bytes, encoding: Encoding) -> None:
    try:
        reply = parse_reply(payload, encoding)
        offer = parse_offer(reply.body, double.CLIENT_ID)
    except Unreadable:
        return
    assert offer.generation >= 1
    json.dumps([offer.username, offer.password, offer.url, offer.ca], ensure_ascii=False).encode()
