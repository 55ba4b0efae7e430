"""The device brokers: what each can do, how it is, and what bringing it back to the ledger would cost there."""

from __future__ import annotations

from fastapi import APIRouter

from broker.http.calls import Asked
from broker.http.entities import Entity
from provisioner.plans import Look, Plan
from provisioner.ports import Cost

router = APIRouter(prefix="/v2/deviceBrokers", tags=["device brokers"])


class DeviceBrokerEntity(Entity):
    """A device broker: what it can do, its version, and what has to be cured; `trouble` where it cannot be asked."""

    name: str
    kind: str
    version: str | None
    problems: list[str]
    trouble: str | None
    binds_client_id: bool
    templates: bool
    prehashed: bool
    kicks_live: bool
    persists: bool
    sees_logins: bool
    url: str | None
    secure_url: str | None


class DeviceBrokerList(Entity):
    """Every device broker."""

    device_broker: list[DeviceBrokerEntity]


class CostEntity(Entity):
    """At most so many sessions drop; the broker serves nobody for `stall` of the `duration`; both seconds."""

    sessions: int
    stall: float
    rewrites: int
    duration: float


class PlanEntity(Entity):
    """User names that would go in and out, and devices whose next claim would get them a new credential."""

    device_broker: str
    kind: str
    kicks_live: bool
    install: list[str]
    revoke: list[str]
    rotate: list[str]
    cost: CostEntity
    each_install: CostEntity
    each_revoke: CostEntity


class PlanList(Entity):
    """A plan for each device broker, and which of them could not be asked."""

    plan: list[PlanEntity]
    unreachable: list[str]


@router.get("", summary="List device brokers")
async def list_device_brokers(call: Asked) -> DeviceBrokerList:
    """Each is asked how it is. Changes nothing."""
    return DeviceBrokerList(device_broker=[_entity(one) for one in await call.oversight.look(call.actor)])


@router.get("/plan", summary="What would be written, and its cost")
async def plan(call: Asked) -> PlanList:
    """What `POST /v2/drift/apply` would do now. Changes nothing."""
    plans, unreachable = await call.oversight.plan(call.actor)
    return PlanList(plan=[_plan(one) for one in plans], unreachable=list(unreachable))


def _entity(found: Look) -> DeviceBrokerEntity:
    broker, plain, secure = found.broker, found.broker.address(secure=False), found.broker.address(secure=True)
    return DeviceBrokerEntity(
        name=broker.name,
        kind=broker.kind,
        version=None if found.probe is None else found.probe.version,
        problems=[] if found.probe is None else list(found.probe.problems),
        trouble=found.trouble or None,
        binds_client_id=broker.binds_client_id,
        templates=broker.templates,
        prehashed=broker.prehashed,
        kicks_live=broker.kicks_live,
        persists=broker.persists,
        sees_logins=broker.sees_logins,
        url=None if plain is None else plain.url,
        secure_url=None if secure is None else secure.url,
    )


def _plan(one: Plan) -> PlanEntity:
    return PlanEntity(
        device_broker=one.broker.name,
        kind=one.broker.kind,
        kicks_live=one.broker.kicks_live,
        install=[difference.username for difference in one.installs],
        revoke=[difference.username for difference in one.revokes],
        rotate=[difference.username for difference in one.rotations],
        cost=_cost(one.cost),
        each_install=_cost(one.each_install),
        each_revoke=_cost(one.each_revoke),
    )


def _cost(cost: Cost) -> CostEntity:
    return CostEntity(
        sessions=cost.sessions,
        stall=round(cost.stall, 3),
        rewrites=cost.rewrites,
        duration=round(cost.duration, 3),
    )
