"""Client ids outside the grammar of section 2: what CONNECT, topics, bodies and HTTP must refuse alike."""

from __future__ import annotations

_GOOD = "dev-1"

_WHOLE = (
    "", " ", ".", "-", "_", ":", "/", "+", "#", "$", "%", "%c", "%u", "*", "?", "~", "\\", "|", "&", "'", '"', "`",
    "@",
    "$SYS", "$share/g/dev-1", "$CONTROL/dynamic-security/v1", "+/+", "#/#", "dev-1/#", "dev-1/+", "../dev-1", "..",
    "./x",
    "dev-1/request", "a/../dev-1", "/dev-1", "dev-1/", "//", "C:\\x", "file:///x", ".hidden", "-rf", "--help", "-",
    "_x",
    ":x", "dev 1", " dev-1", "dev-1 ", "dev-1\n", "\ndev-1", "dev-1\r\n", "dev-1\r", "dev-1\t", "dev-1\0", "\0",
    "\0dev-1",
    "dev\0-1", "dev-1\x1b[2J", "\x1b]0;owned\x07", "\x7f", "dev-1\x7f", "\x08\x08\x08", "\x85", "\x9b31m",
    "dev-1\u00a0",
    "dev-1\u200b", "\u200bdev-1", "dev\u200d-1", "\u202edev-1", "dev-1\u202c", "\u2066dev-1\u2069", "dev-1\u2028",
    "dev-1\u2029", "\ufeffdev-1", "dev-1\ufeff", "dev-1\ufffd", "dev-1\ufffe", "dev-1\uffff", "dev\u20101",
    "dev\u20111",
    "dev\u20131", "dev\u22121", "dev\uff0d1", "dеv-1", "dev-１", "ｄev-1", "dev-١", "dev-¹", "dév-1", "de\u0301v-1",
    "ĐEV-1",
    "ſdev", "dev-1\U0001f600", "\U0001f600", "\U000e0041", "дев-1", "设备", "デバイス", "מכשיר", "ıd", "ﬁ-1", "\u0130",
    "dev;1", "dev,1", "dev|1", "dev&1", "dev$1", "dev!1", "dev?1", "dev*1", "dev=1", "dev<1", "dev>1", "dev(1)",
    "dev[1]",
    "dev{1}", "dev^1", "dev~1", "dev`1`", "dev'1", 'dev"1', "dev\\1", "dev@1", "dev%1", "dev%00", "dev%2F1", "dev%0a",
    "dev#1", "dev+1", "dev/1", "dev-1#", "dev-1+", "dev-1%", "' OR '1'='1", "'; DROP TABLE request; --", "1); --",
    "<script>alert(1)</script>", "{{7*7}}", "${jndi:ldap://x}", "#{7*7}", "$(id)", "`id`", "() { :;};", "%s%s%n",
    "{0}",
    "%(x)s", "\\x00", "\\u0000", "&#0;", "null\0", "=1+1", "@SUM(1)", "+1", "=cmd|' /C calc'!A0", "dev-1,root",
    "a\tb",
    "dev-1\x0b", "dev-1\x0c", "dev-1\x1c", "dev-1\x1d", "dev-1\x1e", "dev-1\x1f", "\x01", "\x02x", "\x03", "\x04",
    "\x05",
    "\x06", "\x07bell", "\x0e", "\x0f", "\x10", "\x1a", "a" * 129, "a" * 130, "a" * 255, "a" * 256, "a" * 1000,
    "a" * 4096,
    "a" * 15_000, "é" * 64, "/" * 128, "#" * 128, "\n" * 10, "9" * 129, "a" * 128 + " ", "a" * 128 + "\0", "Ａ" * 20,
    "dev-1\u0000\u0000", "d\u0000e\u0000v", "prov/v1/factory/dev-1/request", "prov/v1/+/+/reply", "p.acme.dev-1.g1 ",
    "a:b/c", "00:1A:2B:3C:4D:5E ", "00:1A:2B:3C:4D:5E\n", "{id}", "[1]", "a\u2044b", "a\u2215b", "a\u29f8b",
    "a\u3002b",
    "\u3000dev-1", "dev-1\u3000", "\u1680", "\u2000x", "\u205f", "x\u180e", "x\u00ad", "x\u034f", "x\u2060",
    "x\ufe0f",
)  # fmt: skip

_NO_TEXT = (
    b"\xff", b"\xfe\xff", b"dev\xff1", b"\x80", b"dev-1\x80", b"\xc0\x80", b"\xc0\xaf", b"\xe0\x80\x80",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80", b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xc3", b"dev-1\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"d\0e\0v\0", b"\xff\xfed\0e\0v\0", b"\xe9", b"dev\xa01",
)  # fmt: skip

TEXTS = tuple(dict.fromkeys(_WHOLE))
"""Those that are text, so that JSON and topics can carry them."""

CLIENT_IDS = tuple(dict.fromkeys([text.encode() for text in TEXTS] + list(_NO_TEXT)))
"""All of them, as bytes for CONNECT."""
