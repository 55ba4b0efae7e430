"""Routes under `/v2/learning`: who uses loose credentials, and binding them to one client id each."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from broker.http.bodies import MAX_NUMBER, Creator, Digits, Text
from broker.http.calls import Asked
from broker.http.entities import Entity
from provisioner.learning import Finding, Verdict
from provisioner.ports import Lock

router = APIRouter(prefix="/v2/learning", tags=["loose to tight"])

LockId = Annotated[int, Path(ge=0, le=MAX_NUMBER), Digits]


class SeenEntity(Entity):
    """A client id that a credential was used with."""

    client_id: str
    first_on: int
    last_on: int


class FindingEntity(Entity):
    """A loose credential in force: `bind` names the client id proposed, `shared` and `contested` need requests each."""

    username: str
    device_broker: str
    request_id: int
    account_id: int
    verdict: Verdict
    client_id: str | None = Field(description="the binding proposed")
    seen: list[SeenEntity]


class FindingList(Entity):
    """Loose credentials that are bound to nothing, by user name."""

    finding: list[FindingEntity]


class LockForm(Creator):
    """Which credentials to bind; absent: all that may be bound."""

    usernames: list[Text] | None = Field(default=None, max_length=1000)


class BoundEntity(Entity):
    """A credential and the one client id that may use it."""

    username: str
    device_broker: str
    account_id: int
    client_id: str


class LockEntity(Entity):
    """A batch of bindings; with `undoneOn` it holds no more."""

    id: int
    locked_on: int
    locked_by: int
    undone_on: int | None
    bound: list[BoundEntity]


class LockList(Entity):
    """Batches of bindings, newest first."""

    lock: list[LockEntity]


@router.get("", response_model_exclude_none=True, summary="List loose credentials and who uses them")
async def learn(call: Asked) -> FindingList:
    """With the binding proposed for each that one client id alone was seen with."""
    found = await call.administration.learning.learn(call.actor, call.now)
    return FindingList(finding=[_finding(one) for one in found])


@router.post("/locks", status_code=201, response_model_exclude_none=True, summary="Bind credentials")
async def lock(call: Asked, body: LockForm | None = None) -> LockEntity:
    """From now on each may be used with its client id alone. All that are named, or none."""
    names = None if body is None else body.usernames
    return _lock(await call.administration.learning.lock(call.actor, names, call.now))


@router.get("/locks", response_model_exclude_none=True, summary="List batches of bindings")
async def list_locks(call: Asked) -> LockList:
    """Newest first."""
    return LockList(lock=[_lock(one) for one in await call.administration.learning.list_locks(call.actor)])


@router.post("/locks/{lock_id}/undo", response_model_exclude_none=True, summary="Undo a batch of bindings")
async def undo_lock(call: Asked, lock_id: LockId) -> LockEntity:
    """Its credentials are loose again."""
    return _lock(await call.administration.learning.undo(call.actor, lock_id, call.now))


def _finding(finding: Finding) -> FindingEntity:
    credential = finding.credential
    return FindingEntity(
        username=credential.username,
        device_broker=credential.device_broker,
        request_id=credential.request_id,
        account_id=credential.account_id,
        verdict=finding.verdict,
        client_id=finding.client_id,
        seen=[
            SeenEntity(client_id=one.client_id, first_on=one.first_on, last_on=one.last_on) for one in credential.seen
        ],
    )


def _lock(lock: Lock) -> LockEntity:
    return LockEntity(
        id=lock.id,
        locked_on=lock.locked_on,
        locked_by=lock.locked_by,
        undone_on=lock.undone_on,
        bound=[
            BoundEntity(
                username=one.username,
                device_broker=one.device_broker,
                account_id=one.account_id,
                client_id=one.client_id,
            )
            for one in lock.bound
        ],
    )
