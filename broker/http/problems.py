"""Every failure becomes one problem detail (RFC 9457), here and nowhere else.

1. `code` is stable and for programs; `title` is the status in words; `detail` is one sentence that says what to change.
2. No value that was sent comes back, only the names of fields: a value may be a secret.
3. What we did not raise on purpose is `internal`: logged once with its traceback, detail withheld.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from broker.http.entities import entity
from provisioner.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded, Refused, Unavailable, sentence

MEDIA_TYPE = "application/problem+json"
UNAUTHENTICATED = "unauthenticated"
"""Code of the `Forbidden` that means: we do not know who you are."""

_STATUSES: Mapping[type[Refused], int] = {
    Invalid: 400,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    QuotaExceeded: 409,
}
_HTTP_CODES = {
    404: "no-such-path",
    405: "method-not-allowed",
    408: "too-slow",
    413: "too-large",
    415: "unsupported-media-type",
}
_SHOWN = 20
"""Wrong fields listed in one answer, at most."""

_log = structlog.get_logger(__name__)


class FieldProblem(BaseModel):
    """One field that is wrong."""

    field: str
    detail: str


class Problem(BaseModel):
    """Problem details (RFC 9457): what was refused, and what to change."""

    code: str = Field(description="stable, for programs")
    title: str = Field(description="the status in words")
    status: int
    detail: str = Field(description="one sentence that says what to change")
    field: str | None = Field(default=None, description="the field that is wrong, as it is spelled in JSON")
    errors: list[FieldProblem] | None = Field(default=None, description="all wrong fields, where there are several")
    current: dict[str, Any] | None = Field(default=None, description="the entity as it is (conflicts)")


def answer(request: Request, error: Exception) -> JSONResponse:
    """Response that tells `error`; logs what is our own fault."""
    match error:
        case Refused():
            return _refused(error)
        case Unavailable():
            headers = {"retry-after": str(error.retry_after)}
            return _response(503, "unavailable", sentence(error.detail), headers=headers)
        case RequestValidationError():
            return _invalid(error.errors())
        case HTTPException():
            return _http(request, error)
        case _:
            # Text, not `exc_info`: renderers of that may show local variables, and there are secrets in them.
            told = "".join(traceback.format_exception(error))
            _log.error("http failed", method=request.method, path=quote(request.url.path), exception=told)
            return _response(500, "internal", "The fault is ours; our log has it. Nothing you change will help.")


def bare_answer(status: int, code: str, detail: str) -> bytes:
    """A whole HTTP/1.1 answer that closes the connection, for where no application runs yet."""
    response = _response(status, code, detail, headers={"connection": "close"})
    head = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode() + head + b"\r\n" + bytes(response.body)


def _refused(error: Refused) -> JSONResponse:
    if isinstance(error, Forbidden) and error.code == UNAUTHENTICATED:
        return _response(401, error.code, sentence(error.detail), headers={"www-authenticate": "Bearer"})
    status = next(status for kind, status in _STATUSES.items() if isinstance(error, kind))
    extra: dict[str, Any] = {}
    if error.field is not None:
        extra["field"] = error.field
    if error.current is not None:
        extra["current"] = entity(error.current).model_dump(mode="json", by_alias=True, exclude_none=True)
    return _response(status, error.code, sentence(error.detail), extra)


def _http(request: Request, error: HTTPException) -> JSONResponse:
    status, detail = error.status_code, error.detail
    headers = dict(error.headers or {})
    if status == 404:
        detail = "There is no such path; GET /openapi.json lists what there is."
    elif status == 405:
        headers = {"allow": _allowed(request)}
        detail = f"This path takes {headers['allow']}."
    elif status == 400:
        detail = "The body cannot be read; send one JSON object."
    code = _HTTP_CODES.get(status, HTTPStatus(status).phrase.lower().replace(" ", "-"))
    return _response(status, code, detail, headers=headers)


def _allowed(request: Request) -> str:
    """Methods of a path; Starlette itself names those of the first route on it only."""
    paths = request.app.openapi()["paths"]
    methods = [method for path in paths if compile_path(path)[0].match(request.url.path) for method in paths[path]]
    return ", ".join(sorted({method.upper() for method in methods}))


def _invalid(errors: Sequence[Mapping[str, Any]]) -> JSONResponse:
    problems = [_field_problem(error) for error in errors[:_SHOWN]]
    first = problems[0]
    extra: dict[str, Any] = {"field": first["field"]} if first["field"] else {}
    if len(problems) > 1:
        extra["errors"] = problems
    return _response(400, "invalid", first["detail"], extra)


def _field_problem(error: Mapping[str, Any]) -> dict[str, str]:
    """Name of the field and the sentence about it; `loc` starts with where it was: body, query, path."""
    where, *names = error["loc"]
    if where == "query":
        names = names[:1]  # which of several values is plain to see
    field = ".".join(_printable(name) for name in names)
    kind, message = str(error["type"]), str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    if not field:
        detail = "Send a JSON object as the body."
    elif kind == "missing":
        detail = f"`{field}` is required."
    elif kind == "extra_forbidden":
        detail = f"`{field}` is no {'parameter' if where == 'query' else 'field'} of this call; leave it out."
    else:
        detail = f"`{field}`: {message[:1].lower()}{message[1:]}."
    return {"field": field, "detail": detail}


def _printable(name: str | int) -> str:
    """A field's name as the sender spelled it, made safe for a log line and a terminal."""
    return ascii(str(name)[:64])[1:-1]


def _response(
    status: int,
    code: str,
    detail: str,
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body = {"code": code, "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **(extra or {})}
    return JSONResponse(body, status, headers=headers, media_type=MEDIA_TYPE)
