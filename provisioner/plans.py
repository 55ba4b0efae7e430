"""What bringing a device broker back to the ledger would change there, and what that costs.

A plan is made of a comparison: it changes nothing, and what is applied later is compared anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.errors import Unavailable
from provisioner.ports import Cost, DeviceBroker, Probe
from provisioner.reconcile import Difference, Drift, Kind


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one device broker. `rotations`: devices whose next claim gets them a new credential, as nobody knows theirs.

    `cost` is that of all installs and revocations, `each_install` and `each_revoke` that of one.
    """

    broker: DeviceBroker
    installs: tuple[Difference, ...]
    revokes: tuple[Difference, ...]
    rotations: tuple[Difference, ...]
    cost: Cost
    each_install: Cost
    each_revoke: Cost


@dataclass(frozen=True, slots=True)
class Look:
    """One device broker as it was found; `probe` None: `trouble` says why."""

    broker: DeviceBroker
    probe: Probe | None
    trouble: str = ""


def plan(drift: Drift, brokers: Mapping[str, DeviceBroker]) -> tuple[Plan, ...]:
    """A plan for each device broker that could be asked."""
    return tuple(_plan(drift, broker) for name, broker in brokers.items() if name not in drift.unreachable)


def _plan(drift: Drift, broker: DeviceBroker) -> Plan:
    found = [one for one in drift.differences if one.device_broker == broker.name]
    installs, revokes, rotations = (
        tuple(one for one in found if one.kind is kind) for kind in (Kind.MISSING, Kind.UNKNOWN, Kind.LOST)
    )
    cost = broker.cost(len(installs), len(revokes))
    return Plan(broker, installs, revokes, rotations, cost, broker.cost(1, 0), broker.cost(0, 1))


async def look(broker: DeviceBroker) -> Look:
    """Probe it; changes nothing."""
    try:
        return Look(broker, await broker.probe())
    except Unavailable as error:
        return Look(broker, None, error.detail)
