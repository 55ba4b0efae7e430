"""`/v2/why` and `/v2/provisionRequests/{id}/why`: what a claim would be answered now, test by test, and the cure."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field

from broker.http.bodies import MAX_NUMBER, Digits
from broker.http.calls import Asked
from broker.http.doors import Opened
from broker.http.entities import Entity
from provisioner.errors import Reason
from provisioner.why import Answer

router = APIRouter(prefix="/v2", tags=["oversight"])


class TestEntity(Entity):
    """One test of a claim, in order; the last one failed, unless the device would get its offer."""

    name: str
    passed: bool
    detail: str
    cure: str = Field(description="what to do about it; empty where it passed")


class RefusalEntity(Entity):
    """A message that was refused: when, from where, and why."""

    at: int
    action: str
    source: str
    cause: str


class WhyEntity(Entity):
    """What a right claim of this device is answered now, and why."""

    client_id: str
    request_id: int | None
    reason: Reason = Field(description="a word of the wire contract; `offer`: it would get its credential")
    code: int
    test: list[TestEntity]
    refusal: list[RefusalEntity] = Field(description="the last ones, newest first")


def _entity(answer: Answer) -> WhyEntity:
    return WhyEntity(
        client_id=answer.client_id,
        request_id=None if answer.request is None else answer.request.id,
        reason=answer.reason,
        code=answer.reason.code,
        test=[
            TestEntity(name=test.name, passed=test.passed, detail=test.detail, cure=test.cure) for test in answer.tests
        ],
        refusal=[
            RefusalEntity(at=line.at, action=line.action, source=line.source, cause=line.cause)
            for line in (entry.line for entry in answer.refusals)
        ],
    )


@router.get("/why", summary="Why a device does not get its credential")
async def why_client(
    call: Asked, doors: Opened, client_id: Annotated[str, Query(alias="clientId", max_length=255)]
) -> WhyEntity:
    """By its client id, whether there is a request or not. Changes nothing."""
    return _entity(await doors.why.of_client(call.actor, client_id, call.now))


@router.get("/provisionRequests/{request_id}/why", summary="Why a request's device does not get its credential")
async def why_request(
    call: Asked, doors: Opened, request_id: Annotated[int, Path(ge=0, le=MAX_NUMBER), Digits]
) -> WhyEntity:
    """The tests of a claim, made without one. Changes nothing."""
    return _entity(await doors.why.of_request(call.actor, request_id, call.now))
