"""Routes under `/v2/provisionRequests`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from broker.http.bodies import MAX_NUMBER, Digits, Reopening, RequestCreator, Touch
from broker.http.calls import Asked
from broker.http.changes import RequestChange
from broker.http.entities import KeyEntity, LeavingEntity, RequestEntity, RequestList, leaving_entity, request_entity
from provisioner.administration import KEEP, Administration
from provisioner.livesessions import LiveSession, after_revoke, after_rotate
from provisioner.model import JobStatus, Millis, ProvisionRequest
from provisioner.policy import Actor
from provisioner.ports import DeviceBroker, Listing

PATH = "/v2/provisionRequests"
router = APIRouter(prefix=PATH, tags=["provision requests"])

RequestId = Annotated[int, Path(ge=0, le=MAX_NUMBER), Digits]
Number = Annotated[int, Field(ge=0, le=MAX_NUMBER), Digits]
Tell = Callable[[ProvisionRequest, DeviceBroker | None], LiveSession]
Verb = Callable[[Administration, Actor, int, Millis, int | None], Awaitable[ProvisionRequest]]


class RequestQuery(BaseModel):
    """Filters of the list; they combine."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    client_ids: list[str] = Field(default=[], alias="clientIDs", description="repeated, or separated by commas")
    statuses: list[JobStatus] = Field(default=[], description="of the job; repeated, or separated by commas")
    start_date: Number | None = Field(default=None, alias="startDate", description="window ends after")
    end_date: Number | None = Field(default=None, alias="endDate", description="window starts before")
    account_id: Number | None = Field(default=None, alias="accountId")
    offset: Number = 0
    limit: Annotated[int, Field(ge=1, le=1000), Digits] = 50

    @field_validator("client_ids", "statuses", mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        return [part for value in values for part in value.split(",") if part]

    def listing(self) -> Listing:
        """The same as the ledger takes it."""
        return Listing(
            accounts=None if self.account_id is None else (self.account_id,),
            client_ids=tuple(self.client_ids) or None,
            statuses=tuple(self.statuses) or None,
            start=self.start_date,
            end=self.end_date,
            offset=self.offset,
            limit=self.limit,
        )


@router.post("", status_code=201, response_model_exclude_none=True, summary="Create a request")
async def create_request(call: Asked, body: RequestCreator, response: Response) -> RequestEntity:
    """The activation key is in this answer and in no later one but `GET …/activationKey`."""
    created = await call.administration.create_request(call.actor, body.inside(), call.now)
    response.headers["location"] = f"{PATH}/{created.request.id}"
    return request_entity(created.request, created.activation_key)


@router.get("", response_model_exclude_none=True, summary="List requests, newest first")
async def list_requests(call: Asked, query: Annotated[RequestQuery, Query()]) -> RequestList:
    """`limitExceeded` tells that there are more behind `offset` + `limit`."""
    found, more = await call.administration.list_requests(call.actor, query.listing())
    return RequestList(limit_exceeded=more, provision_request=[request_entity(request) for request in found])


@router.get("/{request_id}", response_model_exclude_none=True, summary="Show a request")
async def get_request(call: Asked, request_id: RequestId) -> RequestEntity:
    """One request with its job."""
    return request_entity(await call.administration.get_request(call.actor, request_id))


@router.put("/{request_id}", response_model_exclude_none=True, summary="Change a request")
async def update_request(call: Asked, request_id: RequestId, body: RequestChange) -> RequestEntity:
    """Carries the current `optlock`; absent fields stay as they are, null empties. A stale one is answered 409."""
    current = await call.administration.get_request(call.actor, request_id)
    if current.optlock == body.optlock:
        body.check_fixed(request_entity(current))
    changed = await call.administration.update_request(
        call.actor, request_id, body.optlock, body.changes(current.facts, current.labels), call.now
    )
    return request_entity(changed)


@router.delete("/{request_id}", status_code=204, summary="Delete a request")
async def delete_request(call: Asked, request_id: RequestId) -> None:
    """Answered 409 while something of it is live."""
    await call.administration.delete_request(call.actor, request_id, call.now)


def _add_verb(name: str, act: Verb, summary: str) -> None:
    async def run(call: Asked, request_id: RequestId, body: Touch | None = None) -> RequestEntity:
        return request_entity(await _act(act, call, request_id, body))

    _add(name, run, summary)


def _add_parting(name: str, act: Verb, tell: Tell, summary: str) -> None:
    """A verb that ends a credential: `tell` says what becomes of the session that is open with it."""

    async def run(call: Asked, request_id: RequestId, body: Touch | None = None) -> LeavingEntity:
        after = await _act(act, call, request_id, body)
        return leaving_entity(after, tell(after, call.administration.device_broker(after.device_broker)))

    _add(name, run, summary)


async def _act(act: Verb, call: Asked, request_id: int, body: Touch | None) -> ProvisionRequest:
    return await act(call.administration, call.actor, request_id, call.now, body.optlock if body else None)


def _add(name: str, run: Callable[..., Awaitable[RequestEntity]], summary: str) -> None:
    router.add_api_route(
        f"/{{request_id}}/{name}",
        run,
        methods=["POST"],
        name=f"{name}_request",
        summary=summary,
        description="An `optlock` in the body is compared, where there is one.",
        response_model_exclude_none=True,
    )


_add_verb("enable", Administration.enable, "Let the device claim")
_add_verb("disable", Administration.disable, "Refuse its claims until it is enabled again")
_add_verb("stop", Administration.stop, "End the hand-over under way")
_add_parting("revoke", Administration.revoke, after_revoke, "Take its credential away and close its session")
_add_parting("rotate", Administration.rotate, after_rotate, "Give it a new credential with its next claim")


@router.post("/{request_id}/reopen", response_model_exclude_none=True, summary="Let the device start again")
async def reopen_request(call: Asked, request_id: RequestId, body: Reopening | None = None) -> RequestEntity:
    """With all its attempts; a new activation key is in this answer only."""
    body = body or Reopening()
    reopened = await call.administration.reopen(
        call.actor,
        request_id,
        call.now,
        optlock=body.optlock,
        generate_key=body.generate_activation_key,
        activates_on=body.activates_on if "activates_on" in body.model_fields_set else KEEP,
        expires_on=body.expires_on if "expires_on" in body.model_fields_set else KEEP,
    )
    return request_entity(reopened.request, reopened.activation_key)


@router.get("/{request_id}/activationKey", summary="Reveal the activation key")
async def reveal_key(call: Asked, request_id: RequestId) -> KeyEntity:
    """Only to a role that may see it, and not after the device confirmed: it is wiped then."""
    key = await call.administration.reveal_key(call.actor, request_id, call.now)
    return KeyEntity(activation_key=key.reveal())
