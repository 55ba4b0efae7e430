"""The journal and the drift of device brokers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query

from broker.http.bodies import MAX_NUMBER, Digits
from broker.http.calls import Asked
from broker.http.entities import Entity
from provisioner.model import Entry
from provisioner.reconcile import Drift, Kind

router = APIRouter(prefix="/v2", tags=["oversight"])

_After = Annotated[int, Query(ge=0, le=MAX_NUMBER, description="only what comes behind this `seq`"), Digits]
_Limit = Annotated[int, Query(ge=1, le=1000), Digits]


class EntryEntity(Entity):
    """A decision: what, when, by whom, about which request, and the digest that chains it to the one before."""

    seq: int
    at: int
    action: str
    actor: int | None
    source: str
    request_id: int | None
    client_id: str
    generation: int | None
    before: str | None
    phase: str | None
    cause: str
    digest: str


class Journal(Entity):
    """A page of the journal, oldest first; `limitExceeded`: there may be more behind it."""

    limit_exceeded: bool
    entry: list[EntryEntity]


class DifferenceEntity(Entity):
    """A user name of which a device broker and the ledger disagree: `unknown`, `missing` or `lost`."""

    device_broker: str
    username: str
    kind: Kind
    client_id: str | None
    request_id: int | None


class DriftEntity(Entity):
    """What was found, and which device brokers could not be asked."""

    difference: list[DifferenceEntity]
    unreachable: list[str]


@router.get("/provisionRequests/{request_id}/log", summary="The log of a request")
async def request_log(
    call: Asked,
    request_id: Annotated[int, Path(ge=0, le=MAX_NUMBER), Digits],
    after: _After = 0,
    limit: _Limit = 100,
) -> Journal:
    """Every decision about it, each attempt and each refusal, oldest first."""
    return _page(await call.oversight.list_log(call.actor, request_id, after, limit), limit)


@router.get("/journal", summary="The audit journal")
async def journal(call: Asked, after: _After = 0, limit: _Limit = 100) -> Journal:
    """All decisions, oldest first. `digest` is SHA-256 over the digest before and the line."""
    return _page(await call.oversight.list_journal(call.actor, after, limit), limit)


@router.get("/drift", summary="Compare device brokers with the ledger")
async def drift(call: Asked) -> DriftEntity:
    """Who is there that the ledger does not know, and the reverse. Changes nothing."""
    return _drift(await call.oversight.compare(call.actor))


@router.post("/drift/apply", summary="Bring device brokers back to the ledger")
async def apply_drift(call: Asked) -> DriftEntity:
    """What was found, and mended as far as it can be. Names that are not ours are never touched."""
    return _drift(await call.oversight.mend(call.actor, call.now))


def _page(entries: Sequence[Entry], limit: int) -> Journal:
    told = [EntryEntity(seq=entry.seq, digest=entry.digest.hex(), **entry.line._asdict()) for entry in entries]
    return Journal(limit_exceeded=len(told) == limit, entry=told)


def _drift(found: Drift) -> DriftEntity:
    return DriftEntity(
        difference=[
            DifferenceEntity(
                device_broker=one.device_broker,
                username=one.username,
                kind=one.kind,
                client_id=None if one.credential is None else one.credential.client_id,
                request_id=None if one.credential is None else one.credential.request_id,
            )
            for one in found.differences
        ],
        unreachable=list(found.unreachable),
    )
