"""Bytes from the provisioner to values, as a device reads them (wire contract, section 7).

1. Unknown keys are ignored, known ones have their type or the whole reply is `Unreadable`; nothing else is raised.
2. A reply says nothing about trust: whether its proof or seal is right is `device`'s question to `keys`.
3. Numbers are whole numbers; in JSON as in CBOR, `true` is none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

import cbor2

_LARGEST: Final = 2**53 - 1  # what every JSON reader can hold


class Encoding(StrEnum):
    """How a device writes; replies come in the same."""

    JSON = "json"
    CBOR = "cbor"


class Unreadable(Exception):
    """The bytes are not what the contract allows there."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply before it is believed. `body` is everything that arrived, for an unsealed offer."""

    request_id: str | None
    nonce: str | None
    code: int
    reason: str
    retry_after: int | None = None
    generation: int | None = None
    forget: bool = False
    proof: str | None = None
    alg: str | None = None
    sealed: str | None = None
    mac: str | None = None
    needed: int | None = None
    supported: tuple[str, ...] = ()
    detail: str | None = None
    step: str | None = None
    trace: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """What an offer carries: the login, where it works, and what still has to be shown (`confirm`).

    A certificate (PEM, leaf first) stands in the place of user name and password, which are empty then; `private_key`
    (PEM) is the device's own, which it adds. `not_after` is epoch milliseconds.

    `url` is `mqtt://host:port` or `mqtts://host:port`, `ca` PEM or None, `confirm` one of login, ack, either.
    """

    request_id: str
    generation: int
    client_id: str
    username: str
    password: str = field(repr=False)
    coupling: str
    url: str
    account: str
    confirm: str
    ca: str | None = None
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    certificate: str | None = None
    not_after: int | None = None
    private_key: str | None = field(default=None, repr=False)


def write_map(values: Mapping[str, Any], encoding: Encoding) -> bytes:
    """Write a claim or an ack."""
    if encoding is Encoding.CBOR:
        return cbor2.dumps(values)
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def read_map(octets: bytes, encoding: Encoding) -> Mapping[str, Any]:
    """Read a reply or an opened offer."""
    try:
        if encoding is Encoding.CBOR:
            found = cbor2.loads(octets, max_depth=16, strict_hashable_types=True)
        else:
            found = json.loads(octets)
    except (ValueError, RecursionError, cbor2.CBORError):
        raise Unreadable from None
    if not isinstance(found, dict):
        raise Unreadable
    return found


def parse_reply(payload: bytes, encoding: Encoding) -> Reply:
    """Read one reply."""
    body = read_map(payload, encoding)
    return Reply(
        request_id=_optional(body, "requestId", str),
        nonce=_optional(body, "nonce", str),
        code=_required(body, "code", int),
        reason=_required(body, "reason", str),
        retry_after=_retry_after(body),
        generation=_optional(body, "generation", int),
        forget=_optional(body, "forget", bool) or False,
        proof=_optional(body, "proof", str),
        alg=_optional(body, "alg", str),
        sealed=_optional(body, "sealed", str),
        mac=_optional(body, "mac", str),
        needed=_optional(body, "needed", int),
        supported=_texts(body, "supported"),
        detail=_optional(body, "detail", str),
        step=_optional(body, "step", str),
        trace=_optional(body, "trace", str),
        body=body,
    )


def parse_offer(body: Mapping[str, Any], client_id: str) -> Credential:
    """Read the body of an offer, opened or plain; Unreadable too when it is not for `client_id`."""
    credentials = _required(body, "credentials", dict)
    broker = _required(body, "broker", dict)
    topics = _optional(body, "topics", dict) or {}
    credential = Credential(
        request_id=_required(body, "requestId", str),
        generation=_required(body, "generation", int),
        client_id=_required(credentials, "clientId", str),
        username=_optional(credentials, "username", str) or "",
        password=_optional(credentials, "password", str) or "",
        coupling=_required(credentials, "coupling", str),
        url=_required(broker, "url", str),
        account=_required(broker, "account", str),
        confirm=_required(body, "confirm", str),
        ca=_optional(broker, "ca", str),
        publish=_texts(topics, "publish"),
        subscribe=_texts(topics, "subscribe"),
        certificate=_optional(credentials, "certificate", str),
        not_after=_optional(credentials, "notAfter", int),
    )
    if (
        (body.get("code"), body.get("reason")) != (200, "offer")
        or credential.client_id != client_id
        or credential.generation < 1
        or not _is_complete(credential, credentials.get("type"))
        or credential.coupling not in ("STRICT", "LOOSE")
        or credential.confirm not in ("login", "ack", "either")
    ):
        raise Unreadable
    parse_url(credential.url)
    return credential


def _is_complete(credential: Credential, kind: object) -> bool:
    is_password = bool(credential.username and credential.password)
    is_certificate = bool(credential.certificate and credential.not_after)
    return (kind, is_password, is_certificate) in (("password", True, False), ("x509", False, True))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker listens."""

    host: str
    port: int
    tls: bool = False


def parse_url(url: str) -> Address:
    """Read `mqtt://host:port` or `mqtts://host:port`; the ports default to 1883 and 8883."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Unreadable from None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise Unreadable
    tls = parts.scheme == "mqtts"
    return Address(parts.hostname, port or (8883 if tls else 1883), tls)


def _retry_after(body: Mapping[str, Any]) -> int | None:
    seconds: int | None = _optional(body, "retryAfter", int)
    if seconds is not None and not 1 <= seconds <= 86400:
        raise Unreadable
    return seconds


def _texts(body: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = _optional(body, key, list) or []
    return tuple(_checked(item, str) for item in found)


def _required(body: Mapping[str, Any], key: str, form: type) -> Any:
    return _checked(body.get(key), form)


def _optional(body: Mapping[str, Any], key: str, form: type) -> Any:
    return None if key not in body else _checked(body[key], form)


def _checked(value: Any, form: type) -> Any:
    if not isinstance(value, form) or (isinstance(value, bool) and form is not bool):
        raise Unreadable
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise Unreadable
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
            raise Unreadable from None
    return value
