"""Each door tells failures in its own product's manner; the path says which door it is.

1. EnOS has codes of its own (`enosanswers`). ProvisionEntities has its result, with no element: no row was looked at.
   Exosite has a sentence of text. All others are the operator API's, and get problem details (`problems`).
2. The HTTP status, and the headers that belong to it, are the same behind every door.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from broker.http import enosanswers, problems

EXOSITE = "/provision/"
PROVISION_ENTITIES = "/v2/provisionEntities"

_KEPT = ("www-authenticate", "retry-after", "allow", "connection")
"""Headers that tell a client what to do."""


def answer(request: Request, error: Exception) -> Response:
    """Response that tells `error`; logs what is our own fault."""
    path = request.url.path
    if path.startswith(enosanswers.PREFIX) and (refusal := enosanswers.refusal(error)) is not None:
        return refusal
    problem = problems.answer(request, error)
    for prefix, tell in _DOORS:
        if path.startswith(prefix):
            told = tell(problem.status_code, json.loads(bytes(problem.body))["detail"])
            for name in _KEPT:
                if name in problem.headers:
                    told.headers[name] = problem.headers[name]
            return told
    return problem


def _text(status: int, detail: str) -> Response:
    return Response(detail, status, media_type="text/plain; charset=utf-8")


def _result(status: int, detail: str) -> Response:
    return JSONResponse({"Success": False, "Message": detail, "Element": []}, status)


_DOORS: tuple[tuple[str, Callable[[int, str], Response]], ...] = (
    (enosanswers.PREFIX, enosanswers.failure),
    (EXOSITE, _text),
    (PROVISION_ENTITIES, _result),
)
