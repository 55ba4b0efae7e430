"""Claims and acks that nobody may take. Each is a good message with one thing wrong, so that nothing else refuses it.

1. The good ones show the true activation key or carry a true proof: whoever reads past the one wrong thing hands out a
   credential, and a test sees it.
2. `reason` is the wire contract's word for the refusal; the form is written here as bytes or as JSON text, never by the
   program's own encoder.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import cbor2

from tests.e2e.independent import Keys

KEY = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
USER, CLIENT_ID = "factory", "hostile-1"
NONCE = "AAECAwQFBgcICQoLDA0ODw"
SEAL_TO = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc"

_KEYS = Keys.derive(KEY, USER, CLIENT_ID)
_CLAIM_PROOF = _KEYS.claim_proof("r-1", NONCE)
_ACK_PROOF = _KEYS.ack_proof("r-1", NONCE, 1, "stored")

Members = dict[str, str]
"""Members of an object, each value as JSON text."""

PLAIN: Members = {"requestId": '"r-1"', "activationKey": f'"{KEY}"'}
PROVED: Members = {"requestId": '"r-1"', "nonce": f'"{NONCE}"', "proof": f'"{_CLAIM_PROOF}"'}
SEALED: Members = {**PROVED, "sealTo": f'"{SEAL_TO}"', "proof": f'"{_KEYS.claim_proof("r-1", NONCE, seal_to=SEAL_TO)}"'}
STORED: Members = {"requestId": '"r-1"', "generation": "1", "result": '"stored"', "activationKey": f'"{KEY}"'}
ACK_PROVED: Members = {
    "requestId": '"r-1"', "generation": "1", "result": '"stored"', "nonce": f'"{NONCE}"', "proof": f'"{_ACK_PROOF}"',
}  # fmt: skip


def write(members: Mapping[str, str]) -> bytes:
    """The object as JSON."""
    return ("{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}").encode()


def _as_cbor(members: Mapping[str, str]) -> bytes:
    return cbor2.dumps(json.loads(write(members)))


GOOD_CLAIMS = [
    write(PLAIN),
    write(PROVED),
    write(SEALED),
    write(PROVED | {"alg": '"A256CTR-HS256"', "maxReply": "900"}),
    write(PLAIN | {"accept": '["password","x509"]', "csr": '"MAA="'}),
    write(PLAIN | {"device": '{"serialNumber":"1","macAddress":"00:1A:2B:3C:4D:5E","n":1,"f":0.5,"b":true}'}),
]
GOOD_ACKS = [
    write(STORED),
    write(ACK_PROVED),
    write(STORED | {"result": '"failed"', "detail": '"refused"'}),
    write(STORED | {"result": '"progress"', "status": '"APPS_INSTALLING"'}),
]


@dataclass(frozen=True)
class Hostile:
    """One message that must be refused, and how."""

    name: str
    payload: bytes = field(repr=False)
    kind: Literal["request", "ack"] = "request"
    reason: str = "bad-request"


# -- no JSON -----------------------------------------------------------------------------------------------------------

_NO_OBJECT = [
    b"", b" ", b"\n", b"\0", b"[]", b'""', b"0", b"-0", b"1e5", b"true", b"false", b"null", b"{}", b"[{}]", b"{",
    b"}", b"{}{}", b"{{}}", b"NaN", b"Infinity", b"undefined", b"\xff", b"\xfe\xff", b"<xml/>", b"---\na: b",
    b"requestId=r-1", b"\x00\x00\x00\x02{}", b"\x1f\x8b", b"PK\x03\x04", b"%PDF-1.7", b"GET / HTTP/1.1\r\n\r\n",
    b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04evil", b"() { :; }; echo", b"' OR 1=1 --", b"{{7*7}}", b"${jndi:x}",
    b"../../etc/passwd", b"%n%n%n%n", b"\x1b[2J\x1b]0;owned\x07", b"\r\n\r\n", b"\xe2\x80\xa8", b"\xef\xbf\xbe",
]  # fmt: skip

_RAW = write(PLAIN).decode()


def _syntax() -> Iterator[tuple[str, bytes]]:
    """A good claim, misspelt."""
    body, inner = _RAW.encode(), _RAW[1:-1]
    spelt = {
        "trailing comma": f"{{{inner},}}",
        "leading comma": f"{{,{inner}}}",
        "no comma": _RAW.replace(",", " "),
        "semicolon": _RAW.replace(",", ";"),
        "equals": _RAW.replace(":", "=", 1),
        "single quotes": _RAW.replace('"', "'"),
        "bare names": _RAW.replace('"requestId"', "requestId"),
        "comment": f"{{/**/{inner}}}",
        "line comment": f"//\n{_RAW}",
        "hash comment": f"{_RAW}#",
        "array around": f"[{_RAW}]",
        "text around": json.dumps(_RAW),
        "twice": _RAW * 2,
        "on two lines": f"{_RAW}\n{_RAW}",
        "text behind": _RAW + "x",
        "brace behind": _RAW + "}",
        "raw newline": _RAW.replace("r-1", "r\n1"),
        "raw tab": _RAW.replace("r-1", "r\t1"),
        "raw NUL": _RAW.replace("r-1", "r\0001"),
        "escape x": _RAW.replace("r-1", r"r\x2d1"),
        "escape cut": _RAW.replace("r-1", r"r\u00"),
        "escape octal": _RAW.replace("r-1", r"r\0551"),
        "form feed": _RAW.replace(",", ",\f"),
        "no-break space": _RAW.replace(",", ",\u00a0"),
        "line separator": _RAW.replace(",", ",\u2028"),
        "BOM": "\ufeff" + _RAW,
        "BOM inside": _RAW.replace(",", ",\ufeff"),
        "BOM behind": _RAW + "\ufeff",
        "JSON sequence": "\x1e" + _RAW + "\n",
        "JSONP": f"f({_RAW})",
        "anti-hijack": ")]}'\n" + _RAW,
    }
    yield from ((name, text.encode()) for name, text in spelt.items())
    yield from ((f"cut at {at}", body[:at]) for at in range(1, len(body), 4))
    yield "NUL behind", body + b"\0"
    yield "NUL in front", b"\0" + body
    yield "0xFF behind", body + b"\xff"
    yield "control-Z behind", body + b"\x1a"
    for number in ("01", "+1", ".5", "1.", "0x10", "1e", "1e+", "--1", "1_000", "NaN", "Infinity", "-Infinity", "١"):
        yield f"maxReply {number}", write(PLAIN | {"maxReply": number})
    for number in ("NaN", "-Infinity", "1e999", "-1e999", "1e99999999999", "9" * 5000):
        yield f"device.n {number[:12]}", write(PLAIN | {"device": f'{{"n":{number}}}'})


def _encodings() -> Iterator[tuple[str, bytes]]:
    """A good claim in bytes that are no UTF-8, or UTF-8 that nobody may take."""
    for codec in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig", "cp500"):
        yield codec, _RAW.encode(codec)
    facts = write(PLAIN | {"device": '{"model":"@"}'})
    for name, octets in {
        "latin-1": b"\xe9", "overlong slash": b"\xc0\xaf", "overlong NUL": b"\xc0\x80", "overlong 3": b"\xe0\x80\xaf",
        "overlong 4": b"\xf0\x80\x80\xaf", "surrogate": b"\xed\xa0\x80",
        "pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
        "above Unicode": b"\xf4\x90\x80\x80", "five bytes": b"\xf8\x88\x80\x80\x80",
        "six bytes": b"\xfc\x84\x80\x80\x80\x80",
        "0xFE": b"\xfe", "continuation": b"\x80", "cut short": b"\xe2\x82", "cut short 4": b"\xf0\x9f\x98",
    }.items():  # fmt: skip
        yield name, facts.replace(b"@", octets)
    for escape in (r"\ud800", r"\udc00", r"\udfff\ud800", r"\ud800x", r"\uD83D\u0041"):
        yield f"escaped {escape}", write(PLAIN | {"device": f'{{"model":"{escape}"}}'})
        yield f"escaped {escape} as a name", write(PLAIN | {"device": f'{{"{escape}":1}}'})
    body = _RAW.encode()
    for name, packed in {
        "gzip": gzip.compress(body), "zlib": zlib.compress(body), "bz2": bz2.compress(body),
        "xz": lzma.compress(body),
        "pickle": pickle.dumps({"requestId": "r-1"}), "raw deflate": zlib.compress(body)[2:-4],
        "MessagePack": b"\x82\xa9requestId\xa3r-1\xadactivationKey\xd9\x20" + KEY.encode(),
        "BSON": b"\x18\0\0\0\2requestId\0\4\0\0\0r-1\0\0", "Smile": b":)\n\0" + body,
        "UBJSON": b"{U\trequestIdSU\3r-1}",
        "bomb of zeros": gzip.compress(bytes(4_000_000)),
    }.items():  # fmt: skip
        yield name, packed


# -- wrong members -----------------------------------------------------------------------------------------------------

_WRONG = {
    "number": "1", "float": "1.0", "negative": "-1", "text": '"x"', "empty": '""', "true": "true", "array": '["r-1"]',
    "empty array": "[]", "object": '{"a":1}', "null": "null",
}  # fmt: skip
_TEXTS = ("number", "float", "negative", "true", "array", "empty array", "object", "null", "empty")
_FITTING_NOTHING = {
    "requestId": _TEXTS, "activationKey": (*_TEXTS, "text"), "nonce": (*_TEXTS, "text"), "proof": (*_TEXTS, "text"),
    "sealTo": (*_TEXTS, "text"), "alg": (*_TEXTS, "text"), "csr": (*_TEXTS, "text"),
    "accept": ("number", "float", "negative", "text", "empty", "true", "array", "empty array", "object", "null"),
    "maxReply": ("float", "negative", "text", "empty", "true", "array", "empty array", "object", "null"),
    "device": ("number", "float", "negative", "text", "empty", "true", "array", "null"),
}  # fmt: skip
_ACK_FITTING_NOTHING = {
    "requestId": _TEXTS, "activationKey": (*_TEXTS, "text"), "nonce": (*_TEXTS, "text"), "proof": (*_TEXTS, "text"),
    "generation": tuple(name for name in _WRONG if name != "number"), "result": (*_TEXTS, "text"),
    "status": (*_TEXTS, "text"), "detail": tuple(name for name in _TEXTS if name != "empty"),
}  # fmt: skip


def _wrong_types() -> Iterator[Hostile]:
    for member, wrong in _FITTING_NOTHING.items():
        base = PROVED if member in ("nonce", "proof", "sealTo", "alg") else PLAIN
        yield from _each_form(f"{member}:", "request", ((name, base | {member: _WRONG[name]}) for name in wrong))
    for member, wrong in _ACK_FITTING_NOTHING.items():
        base = ACK_PROVED if member in ("nonce", "proof") else STORED
        if member == "status":
            base = STORED | {"result": '"progress"'}
        yield from _each_form(f"{member}:", "ack", ((name, base | {member: _WRONG[name]}) for name in wrong))


def _each_form(what: str, kind: Literal["request", "ack"], found: Iterator[tuple[str, Members]]) -> Iterator[Hostile]:
    for name, members in found:
        yield Hostile(f"{kind} {what} {name}", write(members), kind)
        yield Hostile(f"{kind} {what} {name}, CBOR", _as_cbor(members), kind)


_STRANGE_NAMES = (
    "requestid", "RequestId", "REQUESTID", "request_id", " requestId", "requestId ", r"requestId\u0000", "", "id",
    "key",
    "__proto__", "constructor", "$where", "__class__", "password", "clientId", "user", "username", "generation",
    "admin",
    "retain", "code", r"\u202erequestId", "requestId[]", "activationKey[$ne]", "a" * 1000, "тип", "0",
)  # fmt: skip


def _strange_members() -> Iterator[tuple[str, bytes]]:
    for name in _STRANGE_NAMES:
        yield f"member {name[:20]}", write(PLAIN | {name: '"r-1"'})
    for member, value in {**SEALED, **PLAIN, "maxReply": "900", "device": "{}", "accept": '["password"]'}.items():
        base = SEALED if member in SEALED else PLAIN
        twice = write(base | {member: value})[:-1] + f',"{member}":{value}}}'.encode()
        yield f"{member} twice", twice
        yield (
            f"{member} twice, escaped",
            twice.replace(f'"{member[0]}'.encode(), f'"\\u{ord(member[0]):04x}'.encode(), 1),
        )
    yield "fact twice", write(PLAIN | {"device": '{"a":1,"a":1}'})
    yield "fact twice, escaped", write(PLAIN | {"device": r'{"a":1,"\u0061":1}'})


_BAD_REQUEST_IDS = (
    "a" * 65, ".a", "-a", "_a", ":a", "a b", " a", "a ", "a/b", "a#", "+", "#", "$SYS", "a%00", "a|b", "a,b", "a;b",
    "a'b",
    r"a\"b", r"a\\b", r"a\u0000", r"\u0000", r"a\n", r"a\r\nb", r"a\u001b[2J", r"a\u007f", r"a\u0085", r"a\u00a0",
    "é", "а",
    "１", "٣", r"\u2028", r"a\u202eb", r"a\u200b", r"\ufeffa", r"\ud800", "a\U0001f600", "%s", "{0}", "<b>", "a\u0301",
)  # fmt: skip
_BAD_KEYS = (
    KEY[:21], KEY * 4 + "x", KEY[:-1] + " ", " " + KEY[1:], KEY + r"\n", KEY[:-1] + r"\u0000", KEY[:-1] + r"\u007f",
    KEY[:-1] + "é", KEY[:-1] + r"\t", KEY[:-1] + "\U0001f600", KEY + r"\u0000", r"\ufeff" + KEY, KEY[:-1] + r"\ud800",
    KEY[:-1] + "А",
)  # fmt: skip
_BAD_NONCES = (
    NONCE[:21], NONCE * 2, NONCE[:-1] + "=", NONCE[:-1] + "+", NONCE[:-1] + "/", NONCE[:-1] + ".", NONCE[:-1] + "|",
    NONCE[:-1] + " ", NONCE + r"\n", NONCE[:-1] + "é", NONCE + r"\u0000", NONCE[:-1] + "０",
)  # fmt: skip
_BAD_PROOFS = (
    _CLAIM_PROOF[:-1], _CLAIM_PROOF + "A", _CLAIM_PROOF + "=", _CLAIM_PROOF + r"\n", " " + _CLAIM_PROOF, "A" * 44,
    _CLAIM_PROOF[:-1] + "=", "+" * 43, "/" * 43, _CLAIM_PROOF[:20] + r"\n" + _CLAIM_PROOF[20:],
    _CLAIM_PROOF[:-1] + "é",
    "é" * 43, "00" * 32, "A" * 8000,
)  # fmt: skip
_BAD_SEALS = (
    SEAL_TO[:-1], SEAL_TO + "=", SEAL_TO + "A", "A" * 43, "A" * 42, "AQ" + "A" * 41, "+" * 43, SEAL_TO + r"\n",
    "4Ot6fDtBuK4WVuP68Z_EatoJjeucMrH9hmIFFl9JuAA", "7P___________________________________________38",
)  # fmt: skip
_CERTIFICATE_REQUEST = "-----BEGIN CERTIFICATE REQUEST-----"
_BAD_CSRS = (
    "MAA", "MAA =", "MAA=MAA=", "MA*=", "_-A=", r"MAA=\n", _CERTIFICATE_REQUEST,
    r"-----BEGIN CERTIFICATE-----\nMAA=\n-----",
    _CERTIFICATE_REQUEST + r"\nMA?=\n-----END CERTIFICATE REQUEST-----", _CERTIFICATE_REQUEST + r"\nMAA=", "A" * 6000,
    r"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----", "é", "====",
)  # fmt: skip


_BAD_TEXTS: dict[str, tuple[Members, tuple[str, ...]]] = {
    "requestId": (PLAIN, _BAD_REQUEST_IDS),
    "activationKey": (PLAIN, _BAD_KEYS),
    "nonce": (PROVED, _BAD_NONCES),
    "proof": (PROVED, _BAD_PROOFS),
    "sealTo": (SEALED, _BAD_SEALS),
    "csr": (PLAIN | {"accept": '["password"]'}, _BAD_CSRS),
    "alg": (
        PROVED,
        ("none", "a256gcm", "A256GCM ", "HPKE-X25519-SHA256-A256GCM", "A128GCM", "HS256", r"A256GCM\u0000"),
    ),
}
_BAD_ACCEPTS = (
    '["token"]', '["Password"]', '["password "]', '["X509"]', '["password,x509"]', '["*"]', r'["password\u0000"]',
    '["password","password"]', '["password","x509","password"]', '["password",1]', '[["password"]]',
)  # fmt: skip
_BAD_NUMBERS = ("0", "-900", "900.5", "9007199254740992", "1e3", "-9223372036854775808", "18446744073709551615")
_BAD_FACTS = ('{"a":null}', '{"a":[]}', '{"a":{}}', '{"a":["b"]}', '{"a":{"b":1}}')


def _bad_values() -> Iterator[tuple[str, Members]]:
    for member, (base, texts) in _BAD_TEXTS.items():
        for text in texts:
            yield f"{member} {text[:50]}", base | {member: f'"{text}"'}
    for member, values in (("accept", _BAD_ACCEPTS), ("maxReply", _BAD_NUMBERS), ("device", _BAD_FACTS)):
        for value in values:
            yield f"{member} {value}", PLAIN | {member: value}
    yield "33 facts", PLAIN | {"device": json.dumps({f"f{number}": 1 for number in range(33)})}
    yield "no requestId", {"activationKey": PLAIN["activationKey"]}
    yield "requestId alone", {"requestId": '"r-1"'}
    yield "key and proof", PLAIN | PROVED
    yield "key and nonce", PLAIN | {"nonce": PROVED["nonce"]}
    yield "nonce alone", {"requestId": '"r-1"', "nonce": PROVED["nonce"]}
    yield "proof alone", {"requestId": '"r-1"', "proof": PROVED["proof"]}
    yield "key and sealTo", PLAIN | {"sealTo": SEALED["sealTo"]}
    yield "key and alg", PLAIN | {"alg": '"A256GCM"'}
    yield "sealTo and alg", SEALED | {"alg": '"A256GCM"'}


def _bad_acks() -> Iterator[tuple[str, Members]]:
    for text in _BAD_REQUEST_IDS[::3]:
        yield f"requestId {text[:20]}", STORED | {"requestId": f'"{text}"'}
    for number in ("0", "-1", "9007199254740992", "1.5", "1e0", "18446744073709551615"):
        yield f"generation {number}", STORED | {"generation": number}
    for text in ("STORED", "stored ", "confirmed", "ok", r"stored\u0000", "progress"):
        yield f"result {text}", STORED | {"result": f'"{text}"'}
    for text in ("COMPLETED", "CREATED", "FAILED", "apps_installing", "", r"APPS_INSTALLED\n", "SKIPPED"):
        yield f"status {text}", STORED | {"result": '"progress"', "status": f'"{text}"'}
    yield "status with stored", STORED | {"status": '"APPS_INSTALLED"'}
    for member in ("requestId", "generation", "result"):
        yield f"no {member}", {name: value for name, value in STORED.items() if name != member}
    yield "neither key nor proof", {name: value for name, value in STORED.items() if name != "activationKey"}
    yield "key and proof", STORED | ACK_PROVED
    for member in ("accept", "sealTo", "alg", "csr", "maxReply", "device", "code", "forget"):
        yield f"member {member}", STORED | {member: '"x"'}


# -- bombs -------------------------------------------------------------------------------------------------------------


def _bombs() -> Iterator[tuple[str, bytes]]:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        for depth in (3, 100, 1000, 8000 // len(opening)):
            yield f"{depth} times {opening}", (opening * depth)[:8192].encode()
            middle = PLAIN | {"device": opening * min(depth, 1000) + "1" + closing * min(depth, 1000)}
            yield f"{depth} times {opening} as device", write(middle)[:8192]
    yield "many strange members", write(PLAIN | {f"m{number}": "1" for number in range(800)})
    yield "many facts", write(PLAIN | {"device": json.dumps({f"{number:x}": 1 for number in range(700)})})
    yield "a long number", write(PLAIN | {"maxReply": "9" * 8000})
    yield "a long exponent", write(PLAIN | {"maxReply": "1e" + "9" * 8000})
    yield "a long fraction", write(PLAIN | {"maxReply": "0." + "9" * 8000})
    yield "a long text", write(PLAIN | {"requestId": '"' + "a" * 8000 + '"'})
    yield "many escapes", write(PLAIN | {"requestId": '"' + r"\u0061" * 1300 + '"'})
    yield "many backslashes", write(PLAIN | {"requestId": '"' + "\\\\" * 4000 + '"'})
    yield "many quotes", b'{"' * 4000
    yield "many commas", b"{" + b"," * 8000
    yield "many spaces", b" " * 8192
    yield "entity bomb", b'<!DOCTYPE a [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><a>&b;</a>'
    yield "alias bomb", b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]"
    yield "CBOR arrays", b"\x81" * 8000
    yield "CBOR maps", b"\xa1\x61a" * 2700
    yield "CBOR endless maps", b"\xbf\x61a" * 2700
    yield "CBOR endless arrays", b"\xa1\x61a" + b"\x9f" * 8000
    yield "CBOR endless texts", b"\xa1\x61a\x7f" + b"\x60" * 8000
    yield "CBOR tags", b"\xa1\x61a" + b"\xc1" * 8000


def _too_large() -> Iterator[tuple[str, bytes]]:
    for size in (8193, 10_000, 16_000):
        yield f"{size} bytes, spaces behind", _RAW.encode().ljust(size)
        yield f"{size} bytes, CBOR", (b"\xa1\x61a\x79" + (size - 6).to_bytes(2, "big")).ljust(size, b"x")
    yield "zeros", bytes(9000)
    yield "brackets", b"[" * 9000
    yield "CBOR arrays", b"\xa1\x61a" + b"\x81" * 9000


# -- CBOR --------------------------------------------------------------------------------------------------------------


def _cbor_text(text: str) -> bytes:
    data = text.encode()
    return (bytes([0x60 + len(data)]) if len(data) < 24 else bytes([0x78, len(data)])) + data


def _cbor_with(value: bytes, name: bytes = b"\x68maxReply", size: int = 0xA3) -> bytes:
    """A good claim with one more pair, as it is."""
    head = _cbor_text("requestId") + _cbor_text("r-1") + _cbor_text("activationKey") + _cbor_text(KEY)
    return bytes([size]) + head + name + value


_CBOR_VALUES = {
    "null": b"\xf6", "undefined": b"\xf7", "simple 0": b"\xe0", "simple 19": b"\xf3", "simple 32": b"\xf8\x20",
    "simple 20, long": b"\xf8\x14", "simple 255": b"\xf8\xff", "break": b"\xff", "byte string": b"\x43abc",
    "empty byte string": b"\x40", "endless byte string": b"\x5f\x41a\xff", "NaN 16": b"\xf9\x7e\x00",
    "infinity 16": b"\xf9\x7c\x00", "NaN 32": b"\xfa\x7f\xc0\x00\x00", "-infinity 32": b"\xfa\xff\x80\x00\x00",
    "NaN 64": b"\xfb\x7f\xf8" + bytes(6), "float 1.0": b"\xf9\x3c\x00", "reserved 28": b"\x1c",
    "reserved 29": b"\x1d",
    "reserved 30": b"\x1e", "endless integer": b"\x1f", "endless negative": b"\x3f", "endless tag": b"\xdf\x01",
    "integer cut": b"\x1b\0\0", "text cut": b"\x78\xff" + b"a" * 10, "text of 2^63": b"\x7b\x80" + bytes(7) + b"a",
    "text of 2^64-1": b"\x7b" + b"\xff" * 8, "array of 2^32": b"\x9a\xff\xff\xff\xff\x01",
    "map of 2^64-1": b"\xbb" + b"\xff" * 8,
    "array of 2^64-1": b"\x9b" + b"\xff" * 8, "bytes of 2^64-1": b"\x5b" + b"\xff" * 8, "not UTF-8": b"\x61\xff",
    "surrogate": b"\x63\xed\xa0\x80", "overlong": b"\x62\xc0\x80", "chunk of bytes": b"\x7f\x41a\xff",
    "endless chunk": b"\x7f\x7f\x61a\xff\xff", "no break": b"\x7f\x61a",
    "chunk not UTF-8": b"\x7f\x61\xc3\x61\xa9\xff",
    "odd map": b"\xbf\x61a\xff", "map with number": b"\xa1\x01\x02", "map with bytes": b"\xa1\x41a\x02",
    "map with array": b"\xa1\x80\x02", "map with map": b"\xa1\xa0\x02", "map with null": b"\xa1\xf6\x02",
    "2^64": b"\xc2\x49\1" + bytes(8), "-2^64-1": b"\xc3\x49\1" + bytes(8), "zero": b"\0", "negative": b"\x20",
    "2^53": b"\x1b\0\x20" + bytes(6),
    "2^64-1": b"\x1b" + b"\xff" * 8, "-2^64": b"\x3b" + b"\xff" * 8, "nothing": b"",
}  # fmt: skip
_CBOR_TAGS = (
    0,
    1,
    2,
    3,
    4,
    5,
    21,
    24,
    25,
    28,
    29,
    30,
    32,
    35,
    36,
    37,
    43,
    64,
    100,
    256,
    258,
    260,
    261,
    1004,
    55799,
    65535,
)


def _cbor() -> Iterator[tuple[str, bytes]]:
    good = _as_cbor(PLAIN)
    for name, value in _CBOR_VALUES.items():
        yield name, _cbor_with(value)
    for tag in _CBOR_TAGS:
        head = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1]
        yield f"tag {tag} as a value", _cbor_with(head + b"\x19\x03\x84")
        yield f"tag {tag} on a text", _cbor_with(head + _cbor_text("password"), b"\x63alg")
        yield f"tag {tag} around", head + good
    yield "shared reference", _cbor_with(b"\xd8\x1c\xa1\x61a\xd8\x1d\x00", b"\x66device")
    yield "text behind", good + b"\x61a"
    yield "break behind", good + b"\xff"
    yield "NUL behind", good + b"\0"
    yield "two maps", good + good
    yield "in an array", b"\x81" + good
    yield "in a byte string", b"\x58" + bytes([len(good)]) + good
    yield "a pair more announced", _cbor_with(b"\x19\x03\x84", size=0xA4)
    yield "a pair less announced", _cbor_with(b"\x19\x03\x84", size=0xA2)
    yield "endless and unended", b"\xbf" + good[1:]
    yield "requestId twice", _cbor_with(_cbor_text("r-1"), _cbor_text("requestId"))
    yield "requestId twice, in chunks", _cbor_with(_cbor_text("r-1"), b"\x7f\x67request\x62Id\xff")
    yield "fact twice", _cbor_with(b"\xa2\x61a\1\x61a\1", b"\x66device")
    yield "name of bytes", _cbor_with(b"\1", b"\x48maxReply")
    yield "name of a number", _cbor_with(b"\1", b"\1")
    yield "facts too deep", _cbor_with(b"\xa1\x61a\x81\1", b"\x66device")
    yield from ((f"cut at {at}", good[:at]) for at in range(1, len(good), 6))


def every_payload() -> list[Hostile]:
    """The corpus; names tell what is wrong."""
    found = [Hostile(f"no object {payload[:20]!r}", payload) for payload in _NO_OBJECT]
    found += [Hostile(f"no object {payload[:20]!r}", payload, "ack") for payload in _NO_OBJECT[::4]]
    for what, group in (
        ("syntax", _syntax()),
        ("encoding", _encodings()),
        ("members", _strange_members()),
        ("bomb", _bombs()),
        ("CBOR", _cbor()),
    ):
        found += [Hostile(f"{what}: {name}", payload) for name, payload in group]
    found += [Hostile(f"too large: {name}", payload, reason="too-large") for name, payload in _too_large()]
    found += [Hostile(f"ack too large: {name}", payload, "ack", "too-large") for name, payload in _too_large()]
    found += _wrong_types()
    found += [Hostile(f"value: {name}", write(members)) for name, members in _bad_values()]
    found += [Hostile(f"ack: {name}", write(members), "ack") for name, members in _bad_acks()]
    once: dict[tuple[str, bytes], Hostile] = {}
    for one in found:
        once.setdefault((one.kind, one.payload), one)
    return list(once.values())


def read_good(payload: bytes) -> dict[str, Any]:
    """A good message as an object."""
    found = json.loads(payload)
    assert isinstance(found, dict)
    return found
