"""What certificates need around them, in front of the operator API's gate: revocation, authorities, EST.

1. None of it asks for an operator's token. It is public, or authenticates by itself (EST); so it stands before the gate
   and not inside, where everything without a token would be an exception.
2. Bounded before parsed: 8 KiB of body, announced or not, within ten seconds, and so many calls at once.
3. A refusal is one sentence of plain text, as these protocols' clients print it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from broker.http.server import shown_certificate

MAX_BODY = 8 * 1024
BODY_SECONDS = 10.0
AT_ONCE = 64
"""Calls that are answered at the same time; more are told to come back."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `path` is what stands behind the door's own part of it, `certificate` DER, empty without one."""

    method: str
    path: str
    headers: Headers
    body: bytes = field(repr=False)
    source: str
    tls: bool
    certificate: bytes = field(repr=False, default=b"")


Door = Callable[[Call], Awaitable[Response]]


class Unreadable(Exception):
    """What was sent cannot be taken; `response` says so."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class PkiFront:
    """ASGI middleware: each path that begins like one of `doors` is answered there, all others by `app`."""

    def __init__(self, app: ASGIApp, doors: Mapping[str, Door], body_seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._doors = doors
        self._body_seconds = body_seconds
        self._free = AT_ONCE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let through."""
        found = next((one for one in self._doors if scope.get("path", "").startswith(one)), None)
        if scope["type"] != "http" or found is None:
            await self._app(scope, receive, send)
            return
        if not self._free:
            await refusal(503, "too many calls at once: come back", {"retry-after": "5"})(scope, receive, send)
            return
        self._free -= 1
        try:
            response = await self._answer(found, scope, receive)
        finally:
            self._free += 1
        await response(scope, receive, send)

    async def _answer(self, door: str, scope: Scope, receive: Receive) -> Response:
        try:
            headers = Headers(scope=scope)
            body = await self._body(headers, receive)
            source, tls = (scope.get("client") or ("",))[0], scope["scheme"] == "https"
            path, shown = scope["path"].removeprefix(door), shown_certificate(scope)
            call = Call(scope["method"], path, headers, body, source, tls, shown)
            return await self._doors[door](call)
        except Unreadable as sent:
            return sent.response
        except Exception:  # noqa: BLE001  # what fails here is our own fault: answered and logged
            _log.exception("http failed", method=scope["method"], door=door)
            return refusal(500, "the fault is ours; our log has it")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > MAX_BODY:
            raise Unreadable(_TOO_LARGE)
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_seconds):
                while (message := await receive())["type"] == "http.request":
                    body += message.get("body", b"")
                    if len(body) > MAX_BODY:
                        raise Unreadable(_TOO_LARGE)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Unreadable(refusal(408, "send the body without pausing", {"connection": "close"})) from None
        raise Unreadable(refusal(400, "the client is gone"))  # nobody hears it


def refusal(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """One sentence."""
    return PlainTextResponse(sentence[:1].upper() + sentence[1:] + ".\n", status, headers)


_TOO_LARGE = refusal(413, f"send at most {MAX_BODY} bytes")
