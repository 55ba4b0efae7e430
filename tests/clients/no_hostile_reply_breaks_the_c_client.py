"""`examples/clients/c/provision.h` under the sanitizers, against replies from somebody who has no key.

Whole ones, and the same cut, doubled, and with bytes changed at random, always with the requestId and nonce that are
outstanding. In proof mode nothing of it may be believed; in plain mode an offer may be, but nothing may end the device.
"""

import json
import random
import struct
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.broker.fleet import double
from tests.clients.examples import CLIENTS, compiled

pytestmark = pytest.mark.timeout(240)
MESSAGES: Final = 20_000
HARNESS: Final = Path(__file__).with_name("hostile.c")
_ASKED: Final = {"requestId": "@R", "nonce": "@N"}
_PROOF: Final = "A" * 43


def whole_ones() -> list[bytes]:
    """Replies as they might be, and some that no parser likes."""
    said: list[dict[str, Any]] = [
        {**_ASKED, "code": double.CODES[reason], "reason": reason, **more}
        for reason in double.CODES
        for more in ({}, {"proof": _PROOF}, {"retryAfter": 86400}, {"retryAfter": 2**63}, {"forget": True})
    ]
    offer = double.offer_body("@R") | {"nonce": "@N"}
    offer["credentials"]["clientId"] = "dev-1"
    sealed = {**_ASKED, "code": 200, "reason": "offer", "alg": "A256GCM"}
    said += [
        offer,
        offer | {"broker": "none"},
        offer | {"broker": {"url": "mqtt://h", "account": "a", "ca": "c" * 200}},
    ]
    said += [
        sealed | {"sealed": text} for text in ("", "A", "A" * 36, "A" * 37, "A" * 38, "A" * 900, "=" * 40, "A" * 5000)
    ]
    said += [{**_ASKED, "reason": "\\u0000", "x": [[]] * 60}, {**_ASKED, "reason": "wait", "retryAfter": "\\u00e9"}]
    odd = [b"", b"{", b'{"', b"[]", b"null", b'{"requestId":"@R","nonce":"@N","reason":"\\', b"{" * 3000, b'"@R"']
    odd += [
        b'{"requestId":"@R","nonce":"@N","reason":"\\u12',
        b'{"requestId":"@R","nonce":"@N","reason":"wait\\u0041"}',
    ]
    return [json.dumps(one).encode() for one in said] + odd


def hostile(source: random.Random) -> bytes:
    """One of them, or something near it."""
    message = bytearray(source.choice(whole))
    for _ in range(source.choice((0, 1, 1, 2, 5))):
        at = source.randrange(len(message) + 1)
        match source.randrange(4):
            case 0:
                message[at : at + 1] = bytes([source.choice(b'"\\{}[],:0u9tA\x00\xff')])
            case 1:
                del message[at : at + source.randrange(1, 20)]
            case 2:
                message[at:at] = message[at : at + source.randrange(1, 200)]
            case _:
                del message[at:]
    return bytes(message)


whole = whole_ones()


@pytest.mark.parametrize("mode", ["plain", "proof"])
def test_nothing_breaks_and_nothing_is_believed(mode: str) -> None:
    source = random.Random(7)
    messages = [*whole, *(hostile(source) for _ in range(MESSAGES - len(whole)))]
    framed = b"".join(struct.pack("<I", len(message)) + message for message in messages)
    program = compiled("hostile", "gcc", HARNESS, "-std=c11", "-D_GNU_SOURCE", f"-I{CLIENTS / 'c'}")
    run = subprocess.run([*program, mode], input=framed, capture_output=True, check=False)
    assert (run.returncode, run.stdout) == (0, b"%d\n" % MESSAGES), run.stderr.decode(errors="replace")[:3000]
