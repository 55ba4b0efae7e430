"""Routes under `/v2/keys`: the keys that the ledger is sealed under. What they are never passes here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from broker.http.bodies import MAX_NUMBER, Body, Digits
from broker.http.calls import Asked
from broker.http.entities import Entity
from provisioner.epochs import KeyEpoch, KeyState

router = APIRouter(prefix="/v2/keys", tags=["keys"])


class EpochEntity(Entity):
    """One key: its epoch, and an id that tells it from others and says nothing about it."""

    epoch: int
    key_id: str
    made_on: int
    state: KeyState


class EpochList(Entity):
    """Every key there ever was, oldest first; the newest seals."""

    key: list[EpochEntity]


class Rotation(Body):
    """How to rotate."""

    keep_former: bool = Field(default=False, description="keep the former keys: they open older backups")


class RotationEntity(Entity):
    """A piece of a rotation: rows passed in this call, of how many, and whether it is over."""

    epoch: int
    passed: int
    rows: int
    done: bool


def _entity(epoch: KeyEpoch) -> EpochEntity:
    return EpochEntity(epoch=epoch.epoch, key_id=epoch.key_id, made_on=epoch.made_on, state=epoch.state)


@router.get("", summary="List the keys")
async def list_keys(call: Asked) -> EpochList:
    """`IN_USE`; `KEPT` for older backups; `RETIRING`, to be removed where it is kept; `RETIRED`, destroyed."""
    return EpochList(key=[_entity(one) for one in await call.epochs.list_epochs(call.actor)])


@router.post("/rotate", summary="Seal the ledger under a new key")
async def rotate_keys(call: Asked, body: Rotation | None = None) -> RotationEntity:
    """Does a piece and says how far it is; call it again until `done`. Former keys are destroyed at the end."""
    keep_former = body is not None and body.keep_former
    rotated = await call.epochs.rotate(call.actor, call.now, keep_former=keep_former)
    return RotationEntity(epoch=rotated.epoch, passed=rotated.passed, rows=rotated.rows, done=rotated.is_done)


@router.post("/{epoch}/retire", summary="Destroy a key that was kept")
async def retire_key(call: Asked, epoch: Annotated[int, Path(ge=0, le=MAX_NUMBER), Digits]) -> EpochEntity:
    """Backups that need it open with nothing from then on."""
    return _entity(await call.epochs.retire(call.actor, epoch, call.now))
