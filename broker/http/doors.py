"""What stands behind the doors of other products, and behind `why`, beside the operator API's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from provisioner.batches import Batches
from provisioner.bulk import Bulk
from provisioner.dps import Dps
from provisioner.serials import Serials
from provisioner.why import Why


@dataclass(frozen=True, slots=True)
class Doors:
    """`allow_plain_without_tls`: secrets may cross a network unencrypted; loopback is always allowed."""

    serials: Serials
    bulk: Bulk
    batches: Batches
    dps: Dps
    why: Why
    allow_plain_without_tls: bool = False


async def _doors(request: Request) -> Doors:
    found: Doors = request.app.state.doors
    return found


Opened = Annotated[Doors, Depends(_doors)]
