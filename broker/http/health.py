"""`/healthz`, `/readyz` and `/metrics`: what load balancers and Prometheus ask."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from broker.http.calls import Asked

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process is up")
async def health() -> dict[Literal["status"], Literal["up"]]:
    """Says nothing about what is around it: restarting would not help there."""
    return {"status": "up"}


@router.get("/readyz", summary="It can do its work")
async def readiness(request: Request) -> JSONResponse:
    """One member a part, true or false, and `ready`; 503 unless all are true."""
    parts = await request.app.state.readiness()
    ready = all(parts.values())
    return JSONResponse({"ready": ready, **parts}, 200 if ready else 503)


@router.get("/metrics", response_class=Response, summary="Figures for Prometheus")
async def metrics(_call: Asked, request: Request) -> Response:
    """Prometheus text format; needs any valid token."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_PLAIN_0_0_4)
