"""The operator API put together: gate, routes, problems. `broker/app.py` runs it, the commands mount it in-process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from broker.http import (
    accounts,
    attachments,
    carbonite,
    device_brokers,
    enos,
    events,
    exosite,
    health,
    keys,
    labels,
    learning,
    policies,
    requests,
    why,
)
from broker.http import oversight as journal
from broker.http.doors import Doors
from broker.http.gate import Gate
from broker.http.manners import answer
from broker.http.problems import MEDIA_TYPE, Problem
from provisioner import __version__
from provisioner.administration import Administration
from provisioner.epochs import Epochs
from provisioner.errors import ProvisionerError
from provisioner.event_desk import EventDesk
from provisioner.oversight import Oversight
from provisioner.ports import Clock

_SILENT: Any = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
"""FastAPI's telemetry would record bodies that do not validate, and those may hold secrets."""


def create_app(
    administration: Administration,
    epochs: Epochs,
    oversight: Oversight,
    event_desk: EventDesk,
    feed: events.Feed,
    doors: Doors,
    clock: Clock,
    readiness: Callable[[], Awaitable[Mapping[str, bool]]],
    metrics_registry: CollectorRegistry,
) -> FastAPI:
    """The operator API over what operators may do.

    `feed` wakes the event streams, `doors` are other products'. `readiness` names each part and tells whether it works;
    it does not raise.
    `metrics_registry`: see `metrics.py`.
    """
    app = FastAPI(
        title="MQTT Provisioner",
        summary="Operator API: who may become a device, and what became of it.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_SILENT,
        generate_unique_id_function=_operation_id,
        responses={"default": {"model": Problem, "description": "a problem (RFC 9457)", "content": {MEDIA_TYPE: {}}}},
        exception_handlers=dict.fromkeys((ProvisionerError, RequestValidationError, HTTPException), _answer),
    )
    app.state.administration = administration
    app.state.epochs = epochs
    app.state.oversight = oversight
    app.state.events = event_desk
    app.state.feed = feed
    app.state.doors = doors
    app.state.clock = clock
    app.state.readiness = readiness
    app.state.metrics = metrics_registry
    app.add_middleware(Gate, authenticate=administration.authenticate)
    for router in (
        requests.router,
        accounts.accounts,
        accounts.users,
        accounts.tokens,
        attachments.router,
        labels.router,
        learning.router,
        policies.router,
        events.router,
        keys.router,
        journal.router,
        device_brokers.router,
        exosite.router,
        carbonite.router,
        enos.router,
        why.router,
        health.router,
    ):
        app.include_router(router)
    return app


async def _answer(request: Request, error: Exception) -> Response:
    """As `answer`; a plain function would be run in a thread."""
    return answer(request, error)


def _operation_id(route: APIRoute) -> str:
    """Names of functions make better names in generated clients than paths do."""
    return route.name
