"""Where brokers ask us: `POST /{broker}/{call}` with a shared secret or a client certificate.

1. Who asks shows the secret, as `Authorization: Bearer …` or, where a broker cannot send a header, as a part of the
   path (`/{broker}/{secret}/{call}`); or a certificate that `webhook.client_ca` vouches for.
2. POST alone: a GET would have a password in its line. A body has at most 64 KiB and is JSON or a form.
3. Whatever goes wrong is answered no in the broker's own words: most brokers take an error for leave.
4. No body is logged. A refused login is, with the names.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import structlog
from starlette.types import Receive, Scope, Send

from broker.devicebrokers.dialects import Answer, Reader, Unreadable, Verdict
from broker.devicebrokers.webhook import Ledger, Webhook
from provisioner.errors import Unavailable
from provisioner.ports import Clock

MAX_BODY = 64 * 1024
_MOST_FIELDS = 32
_NOT_FOUND = Answer(404, "text/plain", b"no such call")
_UNAUTHENTICATED = Answer(401, "text/plain", b"the shared secret or a client certificate is needed")
_POST_ONLY = Answer(405, "text/plain", b"use POST")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Asking:
    """A broker that asks; `secret` empty: it shows a certificate."""

    broker: Webhook
    secret: str


class WebhookApp:
    """The ASGI application; `certificates_count`: whoever shows one that the listener accepted is let in."""

    def __init__(self, asking: Sequence[Asking], ledger: Ledger, clock: Clock, *, certificates_count: bool) -> None:
        self._asking = {one.broker.name: one for one in asking}
        self._ledger = ledger
        self._clock = clock
        self._certificates_count = certificates_count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        answer = await self._answer(scope, receive)
        headers = [
            (b"content-type", answer.media_type.encode()),
            (b"content-length", str(len(answer.body)).encode()),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        name, *rest = str(scope["path"]).strip("/").split("/")
        asking = self._asking.get(name)
        if asking is None or not 1 <= len(rest) <= 2:
            return _NOT_FOUND
        if not self._is_let_in(scope, asking.secret, rest[0] if len(rest) == 2 else ""):
            return _UNAUTHENTICATED
        read = asking.broker.dialect.calls.get(rest[-1])
        if read is None:
            return _NOT_FOUND
        if scope["method"] != "POST":
            return _POST_ONLY
        return asking.broker.dialect.answers[await self._verdict(asking.broker, read, await _body(receive))]

    async def _verdict(self, broker: Webhook, read: Reader, body: bytes) -> Verdict:
        try:
            question = read(_parsed(body))
            verdict = await broker.decide(question, self._ledger, self._clock())
        except (ValueError, RecursionError):
            _log.warning("broker's question unreadable", device_broker=broker.name)
            return Verdict.NO
        except Unavailable as error:
            _log.warning("broker's question unanswered", device_broker=broker.name, detail=error.detail)
            return Verdict.NO
        if verdict is Verdict.NO and question.password is not None:
            _log.info(
                "device login refused",
                device_broker=broker.name,
                username=question.username[:255],
                client_id=question.client_id[:128],
            )
        return verdict

    def _is_let_in(self, scope: Scope, secret: str, in_path: str) -> bool:
        if self._certificates_count and scope.get("extensions", {}).get("tls", {}).get("client_cert_chain"):
            return True
        given = in_path
        for key, value in scope["headers"]:
            if key == b"authorization":
                given = value.decode("latin-1").removeprefix("Bearer ")
        return bool(secret) and hmac.compare_digest(given.encode(), secret.encode())


async def _body(receive: Receive) -> bytes:
    """The body, at most one byte more than allowed."""
    parts = bytearray()
    more = True
    while more and len(parts) <= MAX_BODY:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        parts += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(parts[: MAX_BODY + 1])


def _parsed(body: bytes) -> Mapping[str, Any]:
    """JSON or a form, each name once. Raises `ValueError`, `Unreadable`."""
    if len(body) > MAX_BODY:
        raise Unreadable("body")
    if body.lstrip()[:1] == b"{":
        found = json.loads(body, object_pairs_hook=_once)
        return found if isinstance(found, dict) else {}
    fields = parse_qsl(
        body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=_MOST_FIELDS
    )
    return _once(fields)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable("a name is there twice")
    return found
