"""What every route is given: who asks, when, and whom to ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from provisioner.administration import Administration
from provisioner.epochs import Epochs
from provisioner.event_desk import EventDesk
from provisioner.model import Millis
from provisioner.oversight import Oversight
from provisioner.policy import Actor


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the operator API; the clock is read once."""

    administration: Administration
    epochs: Epochs
    oversight: Oversight
    events: EventDesk
    actor: Actor
    now: Millis


async def _call(
    request: Request,
    _documented: Annotated[object, Security(HTTPBearer(auto_error=False, description="An operator token."))],
) -> Call:
    """The gate has authenticated already; the scheme is named here for the OpenAPI document only."""
    parts = request.app.state
    return Call(parts.administration, parts.epochs, parts.oversight, parts.events, request.state.actor, parts.clock())


Asked = Annotated[Call, Depends(_call)]
