"""How EnOS's door answers: `{"code", "msg", "requestId", "data"}`, whatever happened on the way to it.

1. What the document names has its code and its text verbatim, with HTTP 200, as EnOS has it.
2. Anything else is told under the HTTP status of the operator API, with 99 and that status as its code.
"""

from __future__ import annotations

import uuid
from typing import Any

from fastapi.responses import JSONResponse

from provisioner.dps import NoGroup, NoOrganization, NotVerified

PREFIX = "/dps-service/"

_CODES: dict[type[Exception], tuple[int, str]] = {
    NoOrganization: (35400, "OrgId/sn is required"),
    NoGroup: (35404, "Group/Device group not found"),
    NotVerified: (35601, "Verify not pass/sn not found"),
}


def told(data: Any) -> JSONResponse:
    """It was done."""
    return _answer(0, "OK", data)


def refused(code: int, text: str) -> JSONResponse:
    """It was not, for one of EnOS's own reasons."""
    return _answer(code, text, None)


def refusal(error: Exception) -> JSONResponse | None:
    """Response that tells a failure of EnOS's own; None: it is none."""
    return next((refused(*said) for kind, said in _CODES.items() if isinstance(error, kind)), None)


def failure(status: int, detail: str) -> JSONResponse:
    """Response that tells any other one."""
    response = _answer(99000 + status, detail, None)
    response.status_code = status
    return response


def _answer(code: int, text: str, data: Any) -> JSONResponse:
    return JSONResponse({"code": code, "msg": text, "requestId": str(uuid.uuid4()), "data": data})
