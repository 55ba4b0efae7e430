"""What every message passes before a route sees it.

1. Nothing opens by omission: all but the paths in `OPEN`, and the addresses of attachments, which are permissions
   themselves, need an operator's token, unknown paths too. Behind Exosite's paths it may come in Exosite's header.
2. A token comes before a body: a stranger's bytes are not read.
3. A body is at most 64 KiB (`MAX_LIST` where it lists devices), refused by its announced length before it is read and
   by its real one while it is; it arrives within ten seconds; it is JSON that every parser understands alike (no
   duplicate member, no NaN, no lone surrogate, bounded depth). Exosite's paths take forms and CSV and read them alone.
   A file for `UPLOADS` is a body of its own kind: 16 MiB, a minute, four at a time.
4. Whatever fails behind the gate and was not answered there is answered here, without a traceback.
5. What an operator changed, or revealed, leaves a line in the log: who, what, and how it ended.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn
from urllib.parse import quote

import structlog
from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.http.manners import EXOSITE, PROVISION_ENTITIES, answer
from broker.http.problems import UNAUTHENTICATED
from provisioner.attachments import DOWNLOADS, LARGEST
from provisioner.errors import Forbidden, Invalid
from provisioner.policy import Actor

ACTIVATE = "/provision/activate"
"""Where a device with a serial number calls in (Exosite)."""

OPEN = frozenset(("/healthz", "/readyz", "/openapi.json", ACTIVATE))
"""Paths that answer without a token; the last is for devices, the others hold no secret."""

UPLOADS = "/v2/attachments"
"""Where operators keep files: a body there is the file itself."""

_LISTS = ("/provision/manage/", PROVISION_ENTITIES, "/v2/imports")
"""Below these a body lists devices."""

MAX_BODY = 64 * 1024
UPLOAD_SECONDS = 60.0
UPLOADS_AT_ONCE = 4
MAX_LIST = 1024 * 1024
BODY_SECONDS = 10.0
MAX_DEPTH = 32

_HEADERS = (
    (b"cache-control", b"no-store"),  # keys and passwords pass here
    (b"x-content-type-options", b"nosniff"),
)

_REVEALING = "/activationKey"

_log = structlog.get_logger(__name__)


class Gate:
    """ASGI middleware: token, body, and the last answer (module docstring)."""

    def __init__(
        self,
        app: ASGIApp,
        authenticate: Callable[[str], Awaitable[Actor]],
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._app = app
        self._authenticate = authenticate
        self._body_seconds = body_seconds
        self._uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one HTTP message through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _note(scope, message["status"])
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        try:
            headers = Headers(scope=scope)
            if scope["path"] not in OPEN and not scope["path"].startswith(f"{DOWNLOADS}/"):
                scope.setdefault("state", {})["actor"] = await self._authenticate(_token(headers, scope["path"]))
            if scope["path"] == UPLOADS:
                async with self._uploads:
                    body = await self._body(headers, receive, scope["path"])
                    await self._app(scope, _replay(body, receive), send_marked)
                return
            body = await self._body(headers, receive, scope["path"])
            await self._app(scope, _replay(body, receive), send_marked)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:
                raise
            await answer(Request(scope), error)(scope, receive, send_marked)

    async def _body(self, headers: Headers, receive: Receive, path: str) -> bytes:
        is_upload = path == UPLOADS
        most = LARGEST if is_upload else MAX_LIST if path.startswith(_LISTS) else MAX_BODY
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > most:
            _refuse_size(most)
        try:
            async with asyncio.timeout(UPLOAD_SECONDS if is_upload else self._body_seconds):
                body = await _read(receive, most)
        except TimeoutError:
            raise HTTPException(408, "Send the body without pausing.", {"connection": "close"}) from None
        if body and not is_upload and not path.startswith(EXOSITE):
            _check_media_type(headers)
            check_json(body)
        return body


def _note(scope: Scope, status: int) -> None:
    actor, path = scope.get("state", {}).get("actor"), scope["path"]
    if actor is not None and (scope["method"] != "GET" or path.endswith(_REVEALING)):
        _log.info("operator", token_id=actor.token_id, method=scope["method"], path=quote(path), status=status)


def _token(headers: Headers, path: str) -> str:
    """The bearer token; raises `Forbidden` when there is none, or more than one."""
    sent = headers.getlist("authorization")
    if path.startswith(EXOSITE):
        sent += [f"Bearer {token}" for token in headers.getlist("x-exosite-token")]
    scheme, _, token = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise Forbidden(UNAUTHENTICATED, "Send an operator token, once: `Authorization: Bearer TOKEN`.")
    return token.strip()


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > most:
            _refuse_size(most)
        if not message.get("more_body", False):
            return bytes(body)


def _refuse_size(most: int) -> NoReturn:
    raise HTTPException(413, f"Send at most {most} bytes.")


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` that first hands over the body, then says what really comes (a disconnect)."""
    handed = False

    async def again() -> Message:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _check_media_type(headers: Headers) -> None:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(415, "Send the body as JSON, with `Content-Type: application/json`.")


def check_json(body: bytes) -> None:
    """Raise `Invalid` unless `body` is JSON (RFC 8259, I-JSON in what it leaves open)."""
    try:
        text = body.decode()
        value = json.loads(text, object_pairs_hook=_members, parse_constant=_no_constant, parse_float=_finite)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # fails on lone surrogates, which only an escape can make
    except Invalid:
        raise
    except (ValueError, RecursionError):
        raise Invalid("malformed-json", "Send well-formed JSON in UTF-8.") from None
    _check_depth(value)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Invalid("malformed-json", "Send each member of an object once.")
    return members


def _finite(text: str) -> float:
    """A number that is one: `1e999` would be infinite."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _no_constant(_name: str) -> NoReturn:
    raise Invalid("malformed-json", "NaN and Infinity are no JSON; send a number.")


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    raise Invalid("malformed-json", f"Nest at most {MAX_DEPTH} levels deep.")
