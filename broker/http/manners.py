"""Each door answers failures in its own product's manner; the path says which door it is."""

from __future__ import annotations

from fastapi import Request, Response

from broker.http import enosanswers, problems


def answer(request: Request, error: Exception) -> Response:
    """Response that tells `error`; logs what is our own fault."""
    if request.url.path.startswith(enosanswers.PREFIX):
        return enosanswers.answer(request, error)
    return problems.answer(request, error)
